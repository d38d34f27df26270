"""Where rows come in: what is read, what waits in memory, and what cannot be sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from runner_parts import Parts, numbers, open_circuit, prompts

from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.core.errors import MissingKeyError, UsageError
from llmbatch.core.events import Notice, Progress
from llmbatch.core.rows import Row
from llmbatch.runner.backlog import SMALL_BYTES
from llmbatch.runner.context import RunContext
from llmbatch.runner.pending import PendingRow, RowState
from llmbatch.runner.reading import TURN, Reading


def reading_of(run: RunContext) -> tuple[Reading, list[int]]:
    parked: list[int] = []

    def park(pending: PendingRow, now: float) -> None:
        parked.append(pending.row.number)
        run.backlog.park(pending, now, avoided=True)

    def fail_row(pending: PendingRow, outcome: Outcome, now: float) -> None:
        run.backlog.drop(pending)
        run.finisher.finish(pending, outcome, "failed", now)

    reading = Reading(run)
    reading.settle_with(park=park, fail_row=fail_row)
    return reading, parked


def test_rows_come_one_at_a_time_until_the_end() -> None:
    """The end is told once, with all that was read."""
    parts = Parts(prompts(2))
    run = parts.context()
    reading, _ = reading_of(run)

    found = [reading.next_row(parts.now) for _ in range(3)]

    assert [None if one is None else one.row.number for one in found] == [1, 2, None]
    assert reading.is_over
    assert [(event.rows, event.exhausted) for event in parts.of(Progress)] == [(2, True)]
    assert repr(reading) == "<Reading ended, 0 rows left for later>"


def test_nothing_is_read_once_reading_has_stopped() -> None:
    """The rows that are left are another run's."""
    parts = Parts(prompts(2))
    reading, _ = reading_of(parts.context())

    reading.stop()

    assert reading.next_row(parts.now) is None
    assert reading.is_over
    assert parts.source.rows_read == 0


def test_rows_of_a_route_that_takes_none_wait_aside() -> None:
    """Those of others go."""
    rows = [{"prompt": "a", "model": "down"}, {"prompt": "b", "model": "up"}]
    parts = Parts(rows)
    run = parts.context()
    reading, parked = reading_of(run)
    down, _ = (run.routes.route_of(Row(9, "", "", {}), Route(model, "account"), parts.now) for model in ("down", "up"))
    open_circuit(run, down)

    found = reading.next_row(parts.now)

    assert found is not None
    assert found.row.number == 2
    assert parked == [1]


def test_a_row_set_aside_is_queued_or_parked() -> None:
    """As its circuit is."""
    parts = Parts(prompts(2))
    run = parts.context()
    reading, parked = reading_of(run)
    first, second = reading.next_row(parts.now), reading.next_row(parts.now)
    assert first is not None
    assert second is not None

    reading.set_aside(first, parts.now)
    assert numbers(first.route.queue) == [1]
    open_circuit(run, second.route)
    reading.set_aside(second, parts.now)

    assert parked == [2]


def test_a_probe_may_come_from_further_ahead() -> None:
    """The rows between wait."""
    parts = Parts(prompts(10))
    run = parts.context()
    reading, _ = reading_of(run)
    first = reading.next_row(parts.now)
    assert first is not None
    assert reading.could_read_for(first.route)

    probe = reading.next_of(first.route, parts.now, 3)

    assert probe is not None
    assert probe.row.number == 5
    assert numbers(first.route.queue) == [2, 3, 4]


def test_an_iterable_that_raises_ends_the_reading() -> None:
    """Its exception is kept; rows before it went."""

    def rows() -> Iterator[object]:
        yield {"prompt": "first"}
        raise RuntimeError("no more")

    parts = Parts(rows())
    reading, _ = reading_of(parts.context())
    assert reading.next_row(parts.now) is not None

    assert reading.next_row(parts.now) is None

    assert isinstance(reading.error, RuntimeError)
    assert reading.is_over


@pytest.mark.parametrize(
    ("error", "code"),
    [(MissingKeyError("no key for m"), "no_key"), (UsageError("no model"), None)],
)
def test_a_row_without_a_key_fails_alone_and_one_without_a_model_ends_the_run(
    error: UsageError, code: str | None
) -> None:
    """After rows that could be sent."""
    parts = Parts([{"prompt": "fine"}, {"prompt": "bad", "model": "keyless"}, {"prompt": "fine"}])
    run = parts.context()
    routes = parts.provider.routes

    class Keyless(type(parts.provider)):  # type: ignore[misc]
        def routes(self, row: Row) -> object:
            if "keyless" in row.fields.get("model", ""):
                raise error
            return routes(row)

    run.provider = Keyless()
    reading, _ = reading_of(run)
    found = [reading.next_row(parts.now) for _ in range(3)]

    if code is None:
        assert reading.error is error
        assert found[1:] == [None, None]
    else:
        assert [one.row.number for one in found if one is not None] == [1, 3]
        assert [(result.number, result.error_code) for result in parts.sink.results] == [(2, "no_key")]


def test_an_answer_that_is_known_already_needs_no_call() -> None:
    """The row is finished as it is read, also with an open circuit."""
    parts = Parts(prompts(3))
    run = parts.context()

    class Cached(type(parts.provider)):  # type: ignore[misc]
        def lookup(self, row: Row, request: Request) -> Outcome | None:
            return Outcome("success", text="cached") if row.number != 2 else None

    run.provider = Cached()
    reading, _ = reading_of(run)

    found = reading.next_row(parts.now)

    assert found is not None
    assert found.row.number == 2
    assert [(result.number, result.text, result.attempts) for result in parts.sink.results] == [(1, "cached", 0)]
    assert found.route.unfinished == 1


def test_the_body_of_a_large_row_that_waits_is_dropped_and_made_again() -> None:
    """A small one keeps its body."""
    parts = Parts([{"prompt": "x" * (SMALL_BYTES + 1)}, {"prompt": "small"}])
    run = parts.context()
    reading, _ = reading_of(run)
    large, small = reading.next_row(parts.now), reading.next_row(parts.now)
    assert large is not None
    assert small is not None
    before = large.request

    reading.bodies.drop_body(large)
    reading.bodies.drop_body(small)

    assert small.request is not None
    assert large.request is None
    assert reading.bodies.request_of(large) == before
    large.state = RowState.DONE
    reading.bodies.drop(large)


def test_one_turn_reads_no_more_than_a_bounded_number_of_rows() -> None:
    """The event loop has other things to do."""
    parts = Parts(prompts(2 * TURN))
    run = parts.context()

    class Cached(type(parts.provider)):  # type: ignore[misc]
        def lookup(self, row: Row, request: Request) -> Outcome | None:
            return Outcome("success", text="cached")

    run.provider = Cached()
    reading, _ = reading_of(run)

    assert reading.next_row(parts.now) is None

    assert reading.needs_input
    assert parts.source.rows_read == TURN


def test_a_circuit_key_that_no_row_has_is_told() -> None:
    """Once, at the end of the input."""
    parts = Parts(prompts(2), circuit_key="tenannt")
    reading, _ = reading_of(parts.context())

    while reading.next_row(parts.now) is not None:
        pass

    assert [event.message for event in parts.of(Notice)] == [
        "no row has the --circuit-key tenannt: all share one circuit per route"
    ]


async def test_a_source_that_fails_while_it_is_waited_for_ends_the_reading() -> None:
    """As one that fails when it is asked."""

    async def rows() -> AsyncIterator[object]:
        none: list[object] = []
        for row in none:
            yield row
        raise RuntimeError("connection lost")

    parts = Parts(rows())
    reading, _ = reading_of(parts.context())
    assert reading.next_row(parts.now) is None
    assert reading.needs_input

    await reading.wait()

    assert isinstance(reading.error, RuntimeError)
    await parts.source.aclose()
