"""Faults of this machine: nobody is blamed, and they leave no mark once they are over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from runner_story import Prompts, Simulate

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.core.events import Notice, RowFinished
from llmbatch.core.ports import Transport
from llmbatch.sim.scenario import Phase


class Starved:
    """A transport on a machine without file handles until *until* (virtual seconds), in front of a real one."""

    def __init__(self, transport: Transport, until: float) -> None:
        self._transport = transport
        self._until = until

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if asyncio.get_running_loop().time() < self._until:
            raise TransportError("local", "too many open files", sent=False)
        return await self._transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self._transport.aclose()


@pytest.mark.slow  # two thousand calls in virtual time
def test_run_is_as_quick_as_ever_after_file_handles_ran_out(simulate: Simulate, prompts: Prompts) -> None:
    """All calls in flight find no handle once: no row is charged, no circuit opens, and the limit grows back."""
    story = simulate(prompts(2000), latency=0.2, wrap=lambda transport: Starved(transport, 0.01))

    assert story.statuses == {"success": 2000}
    assert {result.attempts for result in story.results} == {1}
    assert story.openings() == 0
    assert story.most_in_flight == 40
    assert any(isinstance(event, Notice) and "this machine" in event.message for event in story.events)


@pytest.mark.parametrize("count", [5, 500])
def test_machine_without_handles_is_waited_out_only_so_long(simulate: Simulate, prompts: Prompts, count: int) -> None:
    """With --max-outage the run ends with 75, says why, and keeps every row for the next one."""
    story = simulate(prompts(count), max_outage=30.0, wrap=lambda transport: Starved(transport, 1e9))

    assert story.ending.exit_code == 75
    assert "this machine" in story.ending.reason
    assert story.results == []
    assert 30 <= story.seconds <= 31


class NoRoom:
    """A transport on a machine that has too little memory for the requests that *is_large* says."""

    def __init__(self, transport: Transport, is_large: Callable[[Request], bool]) -> None:
        self._transport = transport
        self._is_large = is_large

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if self._is_large(request):
            raise TransportError("local", "cannot allocate memory", sent=False)
        return await self._transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self._transport.aclose()


@pytest.mark.slow  # ten thousand calls in virtual time
@pytest.mark.parametrize(("max_outage", "until"), [(None, 640.0), (30.0, 62.0)])
def test_rows_that_this_machine_cannot_send_stop_no_other(
    simulate: Simulate, prompts: Prompts, max_outage: float | None, until: float
) -> None:
    """One in a hundred needs more memory than there is: the others go on, and the run ends with those deferred.

    It waited a second for each of their attempts, two rows at a time between them, and never ended.
    """
    story = simulate(
        prompts(5000),
        latency=0.2,
        max_outage=max_outage,
        wrap=lambda transport: NoRoom(transport, lambda request: request.body.endswith(b'50"}]}')),
    )

    assert story.statuses == {"success": 4950}
    assert {result.attempts for result in story.results} == {1}
    assert len(story.deferred) == 50
    assert story.ending.exit_code == 75
    assert "cannot send what is left, though it sends other rows: cannot allocate memory" in story.ending.reason
    assert story.openings() == 0
    assert story.seconds <= until
    last = max(event.at for event in story.events if isinstance(event, RowFinished))
    assert last <= 1.02 * simulate(prompts(5000), latency=0.2).seconds
    told = [event for event in story.events if isinstance(event, Notice) and "this machine" in event.message]
    assert ["waits by itself" in event.message for event in told if event.at < last] == [True]


def test_wait_that_outlasts_the_run_is_named_as_the_reason(simulate: Simulate, prompts: Prompts) -> None:
    """A provider that asks to wait longer than --max-outage is told apart from an outage."""
    story = simulate(prompts(50), Phase(1e9, "throttle", retry_after=3600.0), max_outage=60.0)

    assert story.ending.exit_code == 75
    assert "asks to wait longer" in story.ending.reason


def test_an_input_that_breaks_while_a_canary_is_sent_is_told(simulate: Simulate, prompts: Prompts) -> None:
    """The run ends with 2, not as if that had been all rows (hunt, seed 445665785)."""

    def rows() -> Iterator[object]:
        yield from prompts(4, poison=[4], status=400)
        raise OSError("the disk is gone")

    story = simulate(rows(), rpm=60.0)

    assert story.ending.exit_code == 2
    assert "the disk is gone" in story.ending.reason
    assert len(story.results) + len(story.deferred) == 4
