"""Where rows wait: in the queue of their route, on the heap of retries, held for evidence, or parked.

Nobody sleeps in a place: a row that waits holds none, and costs one object until it goes again. Nothing here decides
which row goes next; :mod:`llmbatch.runner.dispatch` does.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from random import Random

from llmbatch.events import Event, RetryPlanned, RowParked, RowsRequeued
from llmbatch.pace.backoff import retry_delay
from llmbatch.records import Outcome
from llmbatch.runner.lane import Lane
from llmbatch.runner.options import RunOptions
from llmbatch.runner.work import Place, Work

__all__ = ["Waiting", "patience"]

LONG_WAIT = 10.0
"""A wait that the provider names is parked, not sat out in the queue, from this many seconds."""


class Waiting:
    """The waiting rows of one run. *end* ends a row as failed; *emit* tells the observers."""

    def __init__(
        self,
        options: RunOptions,
        *,
        emit: Callable[[Event], None],
        end: Callable[[Work, Outcome, float], None],
        seed: int,
    ) -> None:
        self.queued: dict[Lane, None] = {}
        """Routes with rows in their queue."""
        self._options = options
        self._emit = emit
        self._end = end
        self._seed = seed
        self._paused: dict[Lane, None] = {}
        self._heap: list[tuple[float, int, Work]] = []
        self._stamp = 0

    @property
    def next_retry(self) -> float:
        """When the next retry is due; infinity where none is planned."""
        return self._heap[0][0] if self._heap else math.inf

    def settle(self, now: float) -> None:
        """Move what is due: retries into their queues, parked rows whose named wait is over too."""
        while self._heap and self._heap[0][0] <= now:
            _, stamp, work = heapq.heappop(self._heap)
            if self._is_due(work, stamp):
                self.enqueue(work)
        for lane in list(self._paused) if self._paused else ():
            if not lane.circuit.is_closed:
                del self._paused[lane]
            elif now >= lane.not_before:
                del self._paused[lane]
                self.requeue(lane, now)

    def enqueue(self, work: Work) -> None:
        """The row may go as soon as its route takes it."""
        work.place = Place.QUEUED
        work.lane.queue.append(work)
        self.queued[work.lane] = None

    def next_of(self, lane: Lane) -> Work:
        """Take the first row out of the queue of *lane*."""
        work = lane.queue.popleft()
        if not lane.queue:
            del self.queued[lane]
        return work

    def give_back(self, work: Work, now: float) -> None:
        """The row was not really tried: it goes again before others, or is parked where its circuit is open."""
        if not work.lane.circuit.is_closed:
            self.park(work, now, avoided=False)
            return
        work.place = Place.QUEUED
        work.lane.queue.appendleft(work)
        self.queued[work.lane] = None

    def hold(self, work: Work) -> None:
        """Keep the row until a later success, or a canary, tells whether it or the route is at fault."""
        work.place = Place.HELD
        work.lane.held[work.row.number] = work

    def retry(self, work: Work, now: float) -> None:
        """Send the row again after its backoff, or the longer wait that was named; parked where its circuit is open."""
        if not work.lane.circuit.is_closed:
            self.park(work, now, avoided=False)
            return
        last = work.last
        chance = Random(f"{self._seed}:retry:{work.row.number}:{work.attempts}").random()
        delay = retry_delay(work.failures, chance)
        if last is not None:
            delay = max(delay, last.least_wait, last.pause or 0.0)
        work.lane.held.pop(work.row.number, None)
        work.place = Place.RETRYING
        self._stamp += 1
        work.stamp = self._stamp
        heapq.heappush(self._heap, (now + delay, work.stamp, work))
        self._emit(RetryPlanned(now, work.lane.label, work.row.number, delay, last.code if last else ""))

    def park(self, work: Work, now: float, *, avoided: bool) -> None:
        """Defer the row until its route recovers; with ``--on-outage fail``, end it."""
        lane = work.lane
        number = work.row.number
        lane.held.pop(number, None)
        work.place = Place.PARKED
        lane.parked[number] = work
        if self._options.on_outage == "fail" and not lane.circuit.is_closed and lane.dead is None:
            reason = f"the circuit for {lane.label} is open: {lane.reason}"
            self._end(work, work.last or Outcome("failure", code="circuit_open", message=reason), now)
            return
        work.deferrals += 1
        self._emit(RowParked(now, lane.label, number, lane.retry_after(now), lane.reason, avoided))

    def park_waiting(self, lane: Lane, now: float) -> None:
        """The circuit opened, or a long wait was named: everything of the route that waits is parked."""
        waiting = list(lane.queue)
        lane.queue.clear()
        self.queued.pop(lane, None)
        if not lane.circuit.is_closed:  # rows that are held for evidence are not sent again by the end of a pause
            waiting += lane.held.values()
        retrying = [entry for entry in self._heap if entry[2].lane is lane]
        if retrying:
            self._heap = [entry for entry in self._heap if entry[2].lane is not lane]
            heapq.heapify(self._heap)
            waiting += [work for _, stamp, work in retrying if self._is_due(work, stamp)]
        for work in waiting:
            self.park(work, now, avoided=work.place is not Place.HELD)

    def pause(self, lane: Lane, wait: float, now: float) -> None:
        """The provider named a wait: keep it; rows are parked when it is long."""
        lane.hold(now + wait)
        since = now if lane.throttled_since is None else lane.throttled_since
        if lane.circuit.is_closed and now + wait - since >= patience(self._options):
            lane.given_up = True
            self.park_waiting(lane, now)
            return
        if wait >= LONG_WAIT and lane.circuit.is_closed:
            self.park_waiting(lane, now)
            self._paused[lane] = None

    def requeue(self, lane: Lane, now: float) -> None:
        """Parked rows may go again, the least suspected first."""
        works = sorted(lane.parked.values(), key=lambda work: (work.is_suspect, work.attempts, work.row.number))
        lane.parked.clear()
        for work in works:
            self.enqueue(work)
        if works:
            self._emit(RowsRequeued(now, lane.label, len(works)))

    def discard(self, work: Work) -> None:
        """The row is done: take it out of wherever it waits."""
        if work.place is Place.QUEUED and work in work.lane.queue:
            work.lane.queue.remove(work)
            if not work.lane.queue:
                self.queued.pop(work.lane, None)

    def every(self, lanes: Iterable[Lane], now: float) -> list[tuple[Work, float]]:
        """All rows that wait, in order of their numbers, each with the seconds until it may go."""
        works: list[Work] = []
        for lane in lanes:
            works += (*lane.parked.values(), *lane.queue, *lane.held.values())
        due = {work.row.number: at for at, stamp, work in self._heap if self._is_due(work, stamp)}
        works += [work for _, stamp, work in self._heap if self._is_due(work, stamp)]
        works.sort(key=lambda work: work.row.number)
        return [(work, max(work.lane.retry_after(now), due.get(work.row.number, now) - now)) for work in works]

    @staticmethod
    def _is_due(work: Work, stamp: int) -> bool:
        return work.place is Place.RETRYING and work.stamp == stamp


def patience(options: RunOptions) -> float:
    """Seconds to go on while the circuit stays closed but nothing gets through: throttled, or this machine's fault."""
    bound = options.max_outage if options.max_outage is not None else math.inf
    return min(bound, options.recovery_timeout) if options.on_outage == "defer" else bound
