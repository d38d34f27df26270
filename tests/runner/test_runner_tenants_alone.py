"""The last rows of a tenant none of whose rows was answered in this run: bad, or met by an outage of its route."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from runner_story import Simulate

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.core.ports import Transport

KEY = {"circuit_key": "metadata.tenant"}


class DownAfter:
    """After *good* good answers nothing is answered well until *until*: *how* is a status, or no connection."""

    def __init__(self, transport: Transport, good: int, until: float, how: int | None) -> None:
        self.transport = transport
        self.good = good
        self.until = until
        self.how = how

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if self.good <= 0 and asyncio.get_running_loop().time() < self.until:
            if self.how is None:
                raise TransportError("connect", "connection refused", sent=False)
            return Reply(self.how, {}, b'{"error":{"message":"down"}}')
        reply = await self.transport.post(request, timeout=timeout)
        self.good -= reply.status == 200
        return reply

    async def aclose(self) -> None:
        await self.transport.aclose()


def rows_of(tenant: str, count: int, *, mark: str = "") -> list[Any]:
    return [{"prompt": f"{tenant} {number}{mark}", "metadata": {"tenant": tenant}} for number in range(count)]


class RefusingTenant:
    """Refuses the key to one tenant only."""

    def __init__(self, transport: Transport, tenant: str) -> None:
        self.transport = transport
        self.tenant = tenant.encode()

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if self.tenant in request.body:
            await asyncio.sleep(0.02)
            return Reply(403, {}, b'{"error":{"message":"tenant unknown"}}')
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


def test_a_key_that_is_refused_to_one_tenant_ends_its_rows(simulate: Simulate) -> None:
    """Within minutes of the others' last answer; its circuit opened again and again, for 40 minutes."""
    mixed = [row for pair in zip(rows_of("beta", 20), rows_of("acme", 20), strict=True) for row in pair]

    story = simulate(
        mixed + rows_of("beta", 20), wrap=lambda transport: RefusingTenant(transport, "acme"), concurrency=6, **KEY
    )

    assert story.statuses == {"success": 40, "failed": 20}
    assert story.seconds < 600


@pytest.mark.parametrize("how", [None, 400, 503])
@pytest.mark.parametrize("count", [6, 20])
def test_an_outage_that_a_tenant_meets_with_its_first_rows_costs_none_of_them(
    simulate: Simulate, count: int, how: int | None
) -> None:
    """Half an hour long. The rows failed after three minutes of it: nothing was asked that could tell."""
    rows = rows_of("beta", 10) + rows_of("acme", count)

    story = simulate(
        rows, wrap=lambda transport: DownAfter(transport, 10, 1800.0, how), concurrency=1, recovery_timeout=30.0, **KEY
    )

    assert story.statuses == {"success": 10 + count}
    assert story.seconds < 1950


@pytest.mark.parametrize("count", [6, 20])
def test_bad_last_rows_of_a_tenant_fail_while_the_route_answers(simulate: Simulate, count: int) -> None:
    """They are judged by their own attempts, within minutes."""
    rows = rows_of("beta", 10) + rows_of("acme", count, mark=" [sim:500]")

    story = simulate(rows, concurrency=1, **KEY)

    assert story.statuses == {"success": 10, "failed": count}
    assert story.seconds < 600


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
@pytest.mark.parametrize("how", [None, 400, 503])
@pytest.mark.parametrize("good", [0, 20])
def test_an_outage_that_many_tenants_with_few_rows_meet_costs_none_of_them(
    simulate: Simulate, good: int, how: int | None
) -> None:
    """No tenant has as many rows as open a circuit; all of them together have."""
    if how == 400 and not good:
        pytest.skip("refused from the first row on, a run stops")
    rows = [row for tenant in range(20) for row in rows_of(f"tenant {tenant}", 3)]

    story = simulate(
        rows, wrap=lambda transport: DownAfter(transport, good, 590.0, how), concurrency=4, recovery_timeout=30.0, **KEY
    )

    assert story.statuses == {"success": 60}
    assert story.seconds < 900


class HangsBut:
    """Every row takes for ever, and the smallest request is answered."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if b"tenant" in request.body:
            await asyncio.sleep(timeout)
            raise TransportError("timeout", f"no whole answer within {timeout:g} s", sent=True)
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


def test_tenants_with_few_rows_that_all_take_too_long_lose_none(simulate: Simulate) -> None:
    """The time limit is too short for all of them, which the run says, and ends; nothing is marked as failed."""
    rows = [row for tenant in range(6) for row in rows_of(f"tenant {tenant}", 3)]

    story = simulate(rows, wrap=HangsBut, concurrency=4, timeout=5.0, **KEY)

    assert story.statuses == {}
    assert story.ending.exit_code == 3
    assert "longer than --timeout" in story.ending.reason
