"""The end of an input is where a bad row and a bad route look alike: found by the simulation, kept by name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from runner_story import Prompts, Simulate

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.core.events import CallSent
from llmbatch.core.ports import Transport
from llmbatch.sim.scenario import Phase


class Refusing:
    """Refuses the connection between two times to requests that have *word*."""

    def __init__(self, transport: Transport, word: str, times: tuple[tuple[float, float], ...]) -> None:
        self.transport = transport
        self.word = word.encode()
        self.times = times

    async def post(self, request: Request, *, timeout: float) -> Reply:
        now = asyncio.get_running_loop().time()
        if self.word in request.body and any(since <= now < until for since, until in self.times):
            raise TransportError("connect", "connection refused", sent=False)
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


class AlwaysFailing:
    """Answers requests that have *word* with 503 and a wait."""

    def __init__(self, transport: Transport, word: str, retry_after: float) -> None:
        self.transport = transport
        self.word = word.encode()
        self.headers = {"retry-after": f"{retry_after:g}"}

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if self.word in request.body:
            await asyncio.sleep(0.2)
            return Reply(503, self.headers, b'{"error":{"message":"try later"}}')
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


class Sick:
    """Every call of a time is refused with 400 or hangs, by turns."""

    def __init__(self, transport: Transport, since: float, until: float) -> None:
        self.transport = transport
        self.since = since
        self.until = until
        self.calls = 0

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if not self.since <= asyncio.get_running_loop().time() < self.until:
            return await self.transport.post(request, timeout=timeout)
        self.calls += 1
        if self.calls % 3 == 2:
            await asyncio.sleep(timeout)
            raise TransportError("timeout", f"no whole answer within {timeout:g} s", sent=True)
        await asyncio.sleep(0.3)
        return Reply(400, {}, b'{"error":{"message":"Something is wrong","type":"invalid_request_error"}}')

    async def aclose(self) -> None:
        await self.transport.aclose()


@pytest.mark.parametrize("bounds", [{"on_outage": "defer"}, {"max_outage": 30.0}])
@pytest.mark.parametrize("poison", [2, 3, 4])
def test_a_bad_tail_ends_a_run_that_will_not_wait(
    simulate: Simulate, prompts: Prompts, bounds: dict[str, Any], poison: int
) -> None:
    """The last rows fail, and nobody waits: a canary shows that they are to blame, or every run would defer them."""
    rows = prompts(50, poison=range(51 - poison, 51))

    story = simulate(rows, **bounds)

    assert story.ending.exit_code == 0
    assert story.failed.keys() == set(range(51 - poison, 51))
    assert not story.deferred


@pytest.mark.parametrize("bounds", [{"on_outage": "defer"}, {"max_outage": 30.0}])
def test_an_outage_of_the_last_rows_still_defers_them(
    simulate: Simulate, prompts: Prompts, bounds: dict[str, Any]
) -> None:
    """The canary fails too: no row is to blame."""
    story = simulate(prompts(43), Phase(1.1, "fine"), Phase(float("inf"), "down"), concurrency=5, **bounds)

    assert story.ending.exit_code == 75
    assert not story.failed
    assert story.deferred


def test_a_named_wait_sends_no_held_row_again(simulate: Simulate, prompts: Prompts) -> None:
    """A bad last row is answered with a wait; what it is held for is a canary's evidence, not the end of that wait."""
    story = simulate(prompts(30), wrap=lambda transport: AlwaysFailing(transport, "row 30", retry_after=40.0))

    sent = [event for event in story.of(CallSent) if event.row == 30]
    assert story.failed.keys() == {30}
    assert len(sent) <= 10


def test_a_single_last_row_makes_few_calls_in_an_outage(simulate: Simulate, prompts: Prompts) -> None:
    """One row cannot open the circuit; after its attempts a canary asks in its place, and that one does."""
    story = simulate(prompts(30), Phase(6.0, "errors", share=0.3), Phase(3600, "down"), concurrency=1)

    assert story.statuses == {"success": 30}
    assert len([event for event in story.of(CallSent) if not event.probe and event.at > 6]) <= 8 + 30


@pytest.mark.parametrize("down", [6.0, 11.0, 12.0, 20.0])
@pytest.mark.parametrize("rows", [1, 2])
def test_an_outage_that_a_canary_confirmed_costs_no_row(
    simulate: Simulate, prompts: Prompts, rows: int, down: float
) -> None:
    """Fewer rows than the threshold: a failed canary opens the circuit, and a run that will not wait has its answer."""
    story = simulate(prompts(rows), Phase(down, "down"), answered_before=True, on_outage="defer")

    assert not story.failed
    assert story.statuses.get("success", 0) + len(story.deferred) == rows


@pytest.mark.parametrize("since", [2.0, 4.0])
@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_a_tenants_outage_costs_no_row_that_failed_before(simulate: Simulate, since: float, concurrency: int) -> None:
    """No canary speaks for a tenant; an outage of hours has more probes than ten times the attempts."""
    names = [name for _ in range(20) for name in ("acme", "beta")]
    rows = [{"prompt": f"{name} {at}", "metadata": {"tenant": name}} for at, name in enumerate(names)]

    story = simulate(
        rows,
        wrap=lambda transport: Refusing(transport, "acme", ((0.5, 1.4), (since, 5 * 3600.0))),
        circuit_key="metadata.tenant",
        concurrency=concurrency,
        latency=0.4,
    )

    assert story.statuses == {"success": 40}


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.parametrize("concurrency", [1, 5, 40])
def test_a_second_surge_soon_after_the_first_meets_few_calls(
    simulate: Simulate, prompts: Prompts, concurrency: int
) -> None:
    """Right after a surge refused rows are doubted before the route; a canary tells the next surge from bad rows."""
    waves = (Phase(6, "fine"), Phase(300, "bad_request"), Phase(40, "fine"), Phase(900, "unauthorized"))

    story = simulate(prompts(60 * concurrency), *waves, concurrency=concurrency, latency=2.0)

    assert story.statuses == {"success": 60 * concurrency}
    assert story.openings() >= 2
    assert story.down_calls <= 2 * (concurrency + 5) + 100  # probes: a tenth of the outage apart


def test_a_streak_of_refusals_and_hangs_is_a_surge(simulate: Simulate, prompts: Prompts) -> None:
    """Calls hang and are refused by turns for an hour: refused probes are no sign that the provider is back."""
    story = simulate(
        prompts(80), wrap=lambda transport: Sick(transport, 2.0, 3600.0), concurrency=5, timeout=5.0, latency=1.0
    )

    sent = [event for event in story.of(CallSent) if 2.0 <= event.at < 3600.0]
    assert not story.failed
    assert len(sent) <= 5 + 5 + 85


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.parametrize("surge", [12.0, 12.5, 13.0, 14.0, 14.5, 15.0])
def test_refused_probes_close_no_surge_that_costs_a_row(simulate: Simulate, prompts: Prompts, surge: float) -> None:
    """An outage goes over into a surge of refusals: refused probes close the circuit, but judge no row."""
    for first in (3, 4, 5, 6):
        phases = (Phase(first, "fine"), Phase(20, "down"), Phase(surge, "bad_request"))

        stories = [simulate(prompts(60), *phases, concurrency=1, latency=latency) for latency in (0.5, 1.0)]

        assert [story.failed for story in stories] == [{}, {}]


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_a_tenants_rows_that_saw_an_outage_begin_outlast_it(simulate: Simulate, seed: int) -> None:
    """Most calls fail, then all: every row of the tenant has failed before, and no canary speaks for it.

    They were taken for bad ones, and judged by their attempts (hunt, seed 327211323). Only the last ones are.
    """
    rows = [{"prompt": f"row {n}", "metadata": {"tenant": "t"}} for n in range(24)]

    story = simulate(
        rows,
        Phase(3.0, "errors", share=0.82, statuses=(500,)),
        Phase(4800.0, "refuse"),
        circuit_key="metadata.tenant",
        latency=0.05,
        seed=seed,
        success_threshold=2,
        recovery_timeout=30.0,
    )

    assert len(story.failed) <= 10
    assert len(story.results) == 24
