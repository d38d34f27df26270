"""One circuit a tenant: trouble stays where it is, and many tenants cost no more than few."""

from __future__ import annotations

import asyncio
import json
from itertools import chain
from typing import Any

import pytest
from runner_story import Simulate

from llmbatch import BatchRunner, UsageError
from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.core.events import CircuitChanged
from llmbatch.core.ports import Transport
from llmbatch.core.rows import Row
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.runner.tenant_keys import MAX_KEYS, TenantKeys


class DownFor:
    """Requests whose prompt names *word* are refused the connection until *until*."""

    def __init__(self, transport: Transport, word: str, until: float) -> None:
        self.transport = transport
        self.word = word.encode()
        self.until = until

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if self.word in request.body and asyncio.get_running_loop().time() < self.until:
            raise TransportError("connect", "connection refused", sent=False)
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


def rows_of(tenant: str, count: int) -> list[object]:
    return [{"prompt": f"{tenant} {number}", "metadata": {"tenant": tenant}} for number in range(count)]


def one_by_one(*groups: list[object]) -> list[object]:
    return list(chain.from_iterable(zip(*groups, strict=True)))


@pytest.mark.slow  # thousands of calls in virtual time
def test_one_tenants_outage_leaves_the_others_alone(simulate: Simulate) -> None:
    """With a circuit each, the healthy tenant is done in seconds while the other one's rows wait for an hour."""
    rows = one_by_one(rows_of("acme", 300), rows_of("beta", 300))

    story = simulate(rows, wrap=lambda transport: DownFor(transport, "acme", 3600.0), circuit_key="metadata.tenant")

    assert story.statuses == {"success": 600}
    assert max(at for row, at in story.finished_at.items() if row % 2 == 0) < 30
    assert min(at for row, at in story.finished_at.items() if row % 2 == 1) >= 3600
    circuits = {event.route for event in story.of(CircuitChanged)}
    assert circuits == {"test-model [tenant acme]"}


@pytest.mark.slow  # thousands of calls in virtual time
def test_a_tenant_whose_rows_come_last_is_reached_during_anothers_outage(simulate: Simulate) -> None:
    """Reading does not stop because every tenant that is known yet is down."""
    rows = rows_of("acme", 500) + rows_of("beta", 100)

    story = simulate(rows, wrap=lambda transport: DownFor(transport, "acme", 3600.0), circuit_key="metadata.tenant")

    assert story.statuses == {"success": 600}
    assert max(at for row, at in story.finished_at.items() if row > 500) < 60


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.parametrize(("word", "openings"), [("", 8), ("tenant", 16)], ids=["every request", "the tenants' rows"])
def test_an_outage_of_the_provider_loses_no_row_of_any_tenant(simulate: Simulate, word: str, openings: int) -> None:
    """Every circuit opens by itself; where the smallest request alone passes, it is taken for the end of it once."""
    rows = one_by_one(*(rows_of(f"tenant-{number}", 50) for number in range(8)))

    story = simulate(rows, wrap=lambda transport: DownFor(transport, word, 500.0), circuit_key="metadata.tenant")

    assert story.statuses == {"success": 400}
    assert story.openings() == openings
    assert min(story.finished_at.values()) >= 500


def test_rows_without_the_member_share_the_routes_own_circuit(simulate: Simulate) -> None:
    """They are not refused, and need no metadata at all."""
    rows: list[object] = [{"prompt": "one"}, {"prompt": "two", "metadata": {}}, {"prompt": "three", "metadata": None}]

    story = simulate(rows, circuit_key="metadata.tenant")

    assert story.statuses == {"success": 3}


def test_the_key_is_no_part_of_the_result(simulate: Simulate) -> None:
    """The line names the model as ever, and carries the row's metadata."""
    story = simulate(rows_of("acme", 3), circuit_key="metadata.tenant")

    assert {result.model for result in story.results} == {"test-model"}
    assert {result.metadata_json for result in story.results} == {'{"tenant":"acme"}'}


@pytest.mark.slow  # thousands of tenants in virtual time
@pytest.mark.no_cover
def test_idle_tenants_are_forgotten(simulate: Simulate) -> None:
    """Thousands of tenants, one after the other, leave no more than a handful of circuits behind."""
    engines: list[Engine] = []
    rows = [{"prompt": f"row {number}", "metadata": {"tenant": number // 2}} for number in range(6000)]

    story = simulate(rows, circuit_key="metadata.tenant", latency=0.05, during=engines.append)

    assert story.statuses == {"success": 6000}
    assert len(engines[0]._scheduler._run.routes) <= 200


def test_a_tenant_that_is_refused_at_first_does_not_stop_a_run_that_works(simulate: Simulate) -> None:
    """The route has answered others: their refusals are these rows' own."""
    bad: list[object] = [{"prompt": f"bad {number} [sim:400]", "metadata": {"tenant": "acme"}} for number in range(10)]
    rows = rows_of("beta", 200) + bad + rows_of("beta", 50)

    story = simulate(rows, circuit_key="metadata.tenant")

    assert story.statuses == {"success": 250, "failed": 10}


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"metadata": '{"tenant": "acme"}'}, "r [tenant acme]"),
        ({"metadata": '{"tenant": 7}'}, "r [tenant 7]"),
        ({"metadata": '{"tenant": true}'}, "r [tenant true]"),
        ({"metadata": '{"tenant": ["a", "b"]}'}, 'r [tenant ["a","b"]]'),
        ({"metadata": '{"tenant": null}'}, "r"),
        ({"metadata": "[1]"}, "r"),
        ({"metadata": '"tenant"'}, "r"),
        ({"prompt": '"x"'}, "r"),
    ],
)
def test_a_circuit_is_named_by_route_and_value(row: dict[str, str], label: str) -> None:
    """Any JSON value may be a key; null and what is missing is none."""
    keys = TenantKeys("metadata.tenant")

    assert keys.label("r", Row(1, "0" * 16, '"r1"', row)) == label


def test_a_python_row_is_looked_into_too() -> None:
    """Mappings and objects, as they are handed in."""
    keys = TenantKeys("tenant.name")

    class Tenant:
        name = "acme"

    assert keys.label("r", Row(1, "", "1", {}, {"tenant": {"name": "beta"}})) == "r [name beta]"
    assert keys.label("r", Row(1, "", "1", {}, {"tenant": Tenant()})) == "r [name acme]"
    assert keys.label("r", Row(1, "", "1", {}, "a bare string")) == "r"


def test_long_values_stay_apart() -> None:
    """A name is cut for people, but two values never share a circuit for it."""
    keys = TenantKeys("t")
    first, second = ({"t": json.dumps("x" * 100 + end)} for end in "ab")

    labels = {keys.label("r", Row(1, "", "1", row)) for row in (first, second)}

    assert len(labels) == 2
    assert all(len(label) < 90 for label in labels)


def test_the_number_of_circuits_is_bounded() -> None:
    """From the thousandth value on they share one, those that have their own keep it."""
    keys = TenantKeys("t")

    labels = {keys.label("r", Row(1, "", "1", {"t": str(number)})) for number in range(5 * MAX_KEYS)}

    assert len(labels) == MAX_KEYS + 1
    assert keys.label("r", Row(1, "", "1", {"t": "3"})) == "r [t 3]"
    assert keys.label("r", Row(1, "", "1", {"t": "4999"})) == "r [other t]"


@pytest.mark.parametrize("path", ["", ".", "metadata.", ".tenant", "a..b", 7])
def test_a_path_that_names_no_member_is_refused(path: object) -> None:
    """At once, with an example."""
    with pytest.raises(UsageError, match=r"circuit_key is .*dotted name"):
        RunOptions(circuit_key=path)  # type: ignore[arg-type]


async def test_a_function_of_ones_own_has_a_circuit_for_each_tenant() -> None:
    """As a library: rows of Python, a function that fails for one tenant until it recovers."""
    calls = {"acme": 0, "beta": 0}

    async def ask(row: Any) -> str:
        tenant: str = row["tenant"]
        calls[tenant] += 1
        if tenant == "acme" and calls["beta"] < 200:
            raise ConnectionError("acme's server is down")
        return tenant

    rows = one_by_one([{"tenant": "acme"}] * 200, [{"tenant": "beta"}] * 200)
    runner = BatchRunner(ask, concurrency=8, circuit_key="tenant", recovery_timeout=0.05)

    results = [result async for result in runner.stream(rows)]

    assert len(results) == 400
    assert all(result.status == "success" for result in results)
    assert calls["acme"] < 200 + 60
