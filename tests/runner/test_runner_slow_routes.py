"""Routes whose answers all come later than ``--timeout``: named, given up, and no hindrance to the others."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from runner_story import Simulate

from llmbatch import BatchRunner
from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.core.events import CallSent, Notice, OutageStarted
from llmbatch.core.ports import Transport
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual

NAMED = "answers take longer than --timeout (30 s)"
TENANTS = {"circuit_key": "metadata.tenant"}
POLICIES = [{}, {"on_outage": "defer"}, {"on_outage": "fail"}, {"max_outage": 60.0}]


class SlowRows:
    """Rows that contain *word* are not answered in time, and until *until* no request is; *refused*: no connection."""

    def __init__(self, transport: Transport, word: str, *, until: float = 0.0, refused: bool = False) -> None:
        self.transport = transport
        self.word = word.encode()
        self.until = until
        self.refused = refused

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if self.word in request.body or asyncio.get_running_loop().time() < self.until:
            if self.refused:
                raise TransportError("connect", "connection refused", sent=False)
            await asyncio.sleep(timeout)
            raise TransportError("timeout", f"no whole answer within {timeout:g} s", sent=True)
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


class SlowAnswers:
    """Each answer takes *seconds*, the smallest request's too."""

    def __init__(self, transport: Transport, seconds: float) -> None:
        self.transport = transport
        self.seconds = seconds

    async def post(self, request: Request, *, timeout: float) -> Reply:
        await asyncio.sleep(min(timeout, self.seconds))
        if timeout < self.seconds:
            raise TransportError("timeout", f"no whole answer within {timeout:g} s", sent=True)
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


class RefusedPings:
    """What is no row's request is answered with *status*, always."""

    def __init__(self, transport: Transport, status: int) -> None:
        self.transport = transport
        self.status = status

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if b"row" not in request.body:
            return Reply(self.status, {"content-type": "application/json"}, b'{"error":{"message":"no"}}')
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


def rows_of(count: dict[str, int], *, models: bool = False) -> list[Any]:
    """In turn, *count* rows of each tenant, or of each model."""
    rows: list[Any] = []
    for number in range(max(count.values())):
        for name, most in count.items():
            if number < most:
                row = {"prompt": f"{name} row {number}", "metadata": {"tenant": name}}
                rows.append(row | ({"model": name} if models else {}))
    return rows


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("slots", [3, 40])
@pytest.mark.parametrize("models", [False, True], ids=["tenants", "models"])
def test_one_slow_route_among_others_is_named_and_stops_nobody(
    simulate: Simulate, models: bool, slots: int, policy: dict[str, Any]
) -> None:
    """The rows of the other are all done, none of the slow ones is failed, and the run ends with 3.

    It stopped the healthy model in mid-file, or sent each row of the slow tenant eighteen times and failed it, or
    ended with 75 at each attempt.
    """
    rows = rows_of({"slow": 20, "fine": 300}, models=models)
    options: dict[str, Any] = {"timeout": 30.0, "concurrency": slots} | ({} if models else TENANTS) | policy

    story = simulate(rows, wrap=lambda transport: SlowRows(transport, "slow row"), **options)

    label = "slow" if models else "test-model [tenant slow]"
    assert (story.ending.exit_code, story.ending.reason) == (3, f"{label}: {NAMED}")
    assert story.statuses == {"success": 300}
    assert {result.reason for result in story.deferred} == {f"{label}: {NAMED}"}
    assert [notice.message for notice in story.of(Notice)] == [f"{label}: {NAMED}"]
    assert not story.of(OutageStarted)
    assert sum(result.attempts for result in story.deferred) <= 50


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_route_all_of_whose_rows_are_slow_is_named_with_few_slots(simulate: Simulate, policy: dict[str, Any]) -> None:
    """With ``--max-outage`` it ended with 75 at each attempt, asking whether the address was right."""
    story = simulate(
        rows_of({"a": 6}), wrap=lambda transport: SlowRows(transport, "row"), timeout=30.0, concurrency=2, **policy
    )

    assert (story.ending.exit_code, story.ending.reason) == (3, f"test-model: {NAMED}")
    assert not story.results


def test_tenants_none_of_whom_is_answered_in_time_are_told_of_once(simulate: Simulate) -> None:
    """Two rows each are few, but of all tenants together they are many. They all failed, after eight calls each."""
    rows = rows_of({f"tenant-{number}": 2 for number in range(20)})

    story = simulate(rows, wrap=lambda transport: SlowRows(transport, "row"), timeout=30.0, **TENANTS)

    assert (story.ending.exit_code, story.ending.reason) == (3, f"test-model: {NAMED}")
    assert [notice.message for notice in story.of(Notice)] == [f"test-model: {NAMED}"]
    assert not story.results


def test_the_only_row_of_a_tenant_fails_if_it_always_takes_too_long(simulate: Simulate) -> None:
    """The smallest request shows that the route answers. Each run ended with 75, before enough attempts were made."""
    story = simulate(rows_of({"a": 1}), wrap=lambda transport: SlowRows(transport, "row"), timeout=120.0, **TENANTS)

    assert {row: result.error_code for row, result in story.failed.items()} == {1: "timeout"}


@pytest.mark.parametrize("count", [1, 8])
def test_rows_of_a_tenant_do_not_fail_because_no_connection_is_made(simulate: Simulate, count: int) -> None:
    """A route that has never answered and cannot be reached is given up. A tenant's few rows failed in seconds."""
    story = simulate(rows_of({"a": count}), wrap=lambda transport: SlowRows(transport, "", refused=True), **TENANTS)

    assert story.ending.exit_code == 75
    assert "has never answered" in story.ending.reason
    assert not story.results


class MuteModel(SlowRows):
    """Nothing for the model ``mute`` is ever answered, not even the smallest request."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, '"mute"')


@pytest.mark.parametrize("policy", [{"on_outage": "defer"}, {"max_outage": 25.0}], ids=str)
def test_a_mute_server_was_named_without_the_time_limit_and_kept_the_run_for_a_minute(
    simulate: Simulate, policy: dict[str, Any]
) -> None:
    """With a short ``--timeout``: named within half a minute, and what waits does not keep the others' run."""
    rows = rows_of({"mute": 20, "fine": 180}, models=True)

    story = simulate(rows, wrap=MuteModel, timeout=1.0, **policy)

    (told,) = story.of(Notice)
    assert told.message == "mute has never answered, not even the smallest request within 20 s"
    assert "raise --timeout (1 s); still trying, for " in told.hint
    assert told.at < 30.0
    assert (story.ending.exit_code, story.statuses, len(story.deferred)) == (75, {"success": 180}, 20)
    assert "mute has never answered" in story.ending.reason
    assert story.seconds < 50.0


def test_a_model_that_is_loaded_first_is_waited_for(simulate: Simulate) -> None:
    """Nothing is answered for a while; then all is."""
    rows = rows_of({"a": 40})

    story = simulate(rows, wrap=lambda transport: SlowRows(transport, "no row", until=90.0), timeout=1.0)

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 40})


@pytest.mark.parametrize("tenants", ["a", "ab"])
def test_tenants_rows_that_always_fail_end_the_run_if_nothing_was_ever_answered(
    simulate: Simulate, tenants: str
) -> None:
    """As those of a route without tenants. The run never ended."""
    rows = [{"prompt": f"row {at} [sim:500]", "metadata": {"tenant": tenants[at % len(tenants)]}} for at in range(8)]

    story = simulate(rows, **TENANTS)

    assert story.ending.exit_code == 75
    assert len(story.deferred) == 8


@pytest.mark.parametrize("tenants", [False, True])
def test_a_provider_that_hangs_at_first_is_not_taken_for_a_slow_one(simulate: Simulate, tenants: bool) -> None:
    """Not even the smallest request is answered: that is an outage, and it ends."""
    story = simulate(
        rows_of({"a": 40, "b": 40}),
        wrap=lambda transport: SlowRows(transport, "nothing", until=300.0),
        timeout=30.0,
        **(TENANTS if tenants else {}),
    )

    assert story.statuses == {"success": 80}
    assert story.seconds < 360


def test_a_route_that_hangs_and_then_answers_too_late_is_named(simulate: Simulate) -> None:
    """The first answer to the smallest request ended an outage; the second says why rows still fail."""
    story = simulate(
        rows_of({"a": 80}),
        wrap=lambda transport: SlowRows(transport, "row", until=300.0),
        timeout=30.0,
    )

    assert (story.ending.exit_code, story.ending.reason) == (3, f"test-model: {NAMED}")
    assert len(story.of(CallSent)) < 100
    assert not story.results


@pytest.mark.parametrize("models", [False, True], ids=["tenants", "models"])
def test_a_slow_route_that_comes_first_in_a_file_does_not_hide_the_others(tmp_path: Path, models: bool) -> None:
    """Rows of other models may follow in a file: it is read on."""
    rows = [*rows_of({"slow": 60}, models=models), *rows_of({"fine": 60}, models=models)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    simulated = SimulatedProvider(Scenario("test", (Phase(1e9),), "for a test"), seed=1, latency=0.2)

    async def main() -> tuple[int, int, int]:
        runner = BatchRunner(
            "test-model",
            base_url="http://127.0.0.1:1/v1",
            environ={},
            transport=SlowRows(VirtualTransport(simulated), "slow row"),
            timeout=30.0,
            concurrency=8,
            circuit_key=None if models else "metadata.tenant",
        )
        summary = await runner.run(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
        return summary.exit_code, summary.success, summary.deferred

    assert run_virtual(main, limit=10_000.0) == (3, 60, 60)


@pytest.mark.parametrize("count", [1, 2, 4, 50])
def test_answers_slower_than_the_time_limit_are_named_however_few_rows_there_are(
    simulate: Simulate, count: int
) -> None:
    """The first try of many is a row or two: they were waited for as in an outage, without a word of --timeout."""
    story = simulate(rows_of({"a": count}), wrap=lambda transport: SlowAnswers(transport, 3.0), timeout=1.0)

    assert story.ending.exit_code == 3
    assert "--timeout (1 s)" in story.ending.reason
    assert not story.results
    assert story.seconds < 30


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.parametrize("status", [403, 422, 500])
def test_a_smallest_request_that_always_fails_is_not_believed_beside_a_finished_rows(
    simulate: Simulate, status: int
) -> None:
    """The last, bad rows were taken for an outage again and again, which a finished row's request ended each time."""
    bad = {*range(1, 11), *range(500, 540), *range(991, 1001), *range(7, 1000, 19)}
    rows = [{"prompt": f"row {number}{' [sim:500]' * (number in bad)}"} for number in range(1, 1001)]

    story = simulate(rows, wrap=lambda transport: RefusedPings(transport, status), concurrency=40, latency=0.02)

    assert not story.deferred
    assert story.failed.keys() == bad
    assert not story.of(OutageStarted)
    assert not [event for event in story.of(Notice) if "key" in event.message]
    assert story.seconds < 60
