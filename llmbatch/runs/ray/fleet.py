"""The driver's side of a run on Ray: hands shards to actors, hears what becomes of them, and goes on where one is lost.

An actor takes a shard when it has none, so that faster nodes take more. What makes this safe is neither the driver nor
Ray: it is the lock of each part, and the row numbers in its lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

import anyio

from llmbatch.core.errors import UsageError
from llmbatch.core.events import Notice
from llmbatch.runs.ray.worker import Heard, ShardJob, Sight
from llmbatch.workers.messages import Ending, Failed, shifted
from llmbatch.workers.news import News, stops_all
from llmbatch.workers.split import CostBudget, Restarts

__all__ = ["RayFleet"]

_STOPPED: Final = 130
_AGAIN_S: Final = 0.3
"""Seconds until an actor that did not answer is asked again; Ray starts it anew meanwhile."""

_FINISH_S: Final = 45.0
"""Seconds after a stop in which an actor has to end its run: requests in flight have 30 of them."""

_FINISH_NOW_S: Final = 15.0
_SAME_CLOCK_S: Final = 1.0
"""Clocks that differ by less are one: that of this machine, read at another time."""


@dataclass(slots=True)
class _Place:
    """One actor, and the shard that it runs."""

    index: int
    actor: Any
    node: str = ""
    restarts: Restarts = field(default_factory=Restarts)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    number: int | None = None


class RayFleet:
    """Runs *jobs* in *workers* actors, which *make* makes. *news* takes what they tell; *ray* is the package.

    *budget* has what they may spend, and *spent* says what shard *number* has. Canceling :meth:`run` ends the actors.
    """

    def __init__(
        self,
        ray: Any,
        make: Callable[[], Any],
        workers: int,
        jobs: Sequence[ShardJob],
        news: News,
        *,
        budget: CostBudget | None = None,
        spent: Callable[[int], Decimal] = lambda number: Decimal(0),
    ) -> None:
        self._ray = ray
        self._make = make
        self._jobs = list(jobs)
        self._news = news
        self._budget = budget
        self._spent = spent
        self._waiting = deque(range(len(jobs)))
        self._short: deque[int] = deque()
        """Shards that have spent their part of the cost, until another gives something back."""
        self._run_numbers = itertools.count(1)
        self._endings: dict[int, Ending] = {}
        self._places = [_Place(index, make()) for index in range(workers)]
        self._stopped: tuple[int | None, bool] | None = None
        self._is_over = False
        self.signal: int | None = None
        """The signal that stopped the run; None while none did."""

    def __repr__(self) -> str:
        return f"<RayFleet of {len(self._places)} actors, {len(self._endings)} of {len(self._jobs)} shards done>"

    def close(self) -> None:
        """End all actors."""
        for place in self._places:
            self._kill(place.actor)

    async def check(self, input_path: str, size_bytes: int | None, token_path: str, token: str, version: str) -> None:
        """Let every actor look at the input and the folder of the parts, and name the first that cannot work.

        Raises:
            UsageError: an actor cannot, or has another version of llmbatch, or does not start.
        """
        for place in self._places:
            try:
                sight: Sight = await place.actor.look.remote(input_path, size_bytes, token_path, token)
            except Exception as error:
                raise _not_started(error) from error
            place.node = sight.node
            if sight.version != version:
                raise UsageError(
                    f"--ray: node {sight.node} has llmbatch {sight.version}, and here is {version}",
                    hint=f"install the same on all nodes: pip install 'llmbatch[ray]=={version}'",
                )
            if sight.problem:
                raise UsageError(
                    f"--ray: node {sight.node} {sight.problem}",
                    hint="input and output must be on a file system that all nodes see under one path; or run shards "
                    "on each node's own disk (--shard I/N), and merge them",
                )

    @property
    def _running(self) -> int:
        return sum(place.number is not None for place in self._places)

    async def run(self) -> list[Ending]:
        """Run all shards; how each that was begun has ended."""
        try:
            async with anyio.create_task_group() as group:
                for place in self._places:
                    group.start_soon(self._work, place)
        finally:
            self.close()
        return [self._endings[number] for number in sorted(self._endings)]

    def stop(self, *, signal: int | None = None, now: bool = False) -> None:
        """Let requests in flight finish in all actors; with *now*, stop at once."""
        self.signal = signal if signal is not None else 2
        self._stop_all(signal, now=now)

    def _stop_all(self, signal: int | None, *, now: bool) -> None:
        self._stopped = (signal, now)
        for place in self._places:
            with contextlib.suppress(Exception):  # it is dead, and has nothing to stop
                place.actor.stop.remote(signal, now)
        loop = asyncio.get_running_loop()
        loop.call_later(_FINISH_NOW_S if now else _FINISH_S, self._give_up)

    def _give_up(self) -> None:
        for place in self._places:
            place.scope.cancel()

    def _kill(self, actor: Any) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(actor, no_restart=True)

    async def _work(self, place: _Place) -> None:
        """Run one shard after another on one actor, until none is left."""
        with place.scope:
            while (number := self._next()) is not None:
                place.number = number
                ending = await self._keep(place, number)
                self._endings[number] = ending
                self._settle(number, ending)
                place.number = None
        if place.number is not None:
            self._endings[place.number] = Ending(place.number, _STOPPED)
            self._news.gone(place.number, has_ended=True)

    def _next(self) -> int | None:
        if self._stopped is not None or self._is_over:
            return None
        if self._waiting:
            return self._waiting.popleft()
        if self._short and self._budget is not None and self._budget.free > 0:
            return self._short.popleft()
        return None

    def _settle(self, number: int, ending: Ending) -> None:
        """A shard has ended: take back what it has not spent, and decide whether others may begin."""
        code, summary = ending.exit_code, ending.summary
        if self._budget is not None:
            self._budget.settle(number, self._spent(number))
            if code == 4 and summary is not None and summary.this_run_success + summary.this_run_failed:
                self._short.append(number)
        if stops_all(ending) and self._stopped is None:
            self._stop_all(None, now=False)
        elif code == 75 and summary is not None and not summary.this_run_success:
            self._is_over = True  # the provider is down for all

    async def _keep(self, place: _Place, number: int) -> Ending:
        """Run shard *number* on an actor, again as often as that is killed, until the run has ended by itself."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                ending = await self._once(place, number)
            except Exception as error:  # noqa: BLE001 - such as an argument that cannot be sent
                ending = Ending(
                    number, 70, failure=Failed(f"a worker cannot be used: {_first_line(error)}", "report it", 70)
                )
            self._news.gone(number, has_ended=ending is not None)
            if ending is not None:
                return ending
            if self._stopped is not None:
                return Ending(number, _STOPPED)
            name = f"worker {place.index + 1} of {len(self._places)} (last on {place.node})"
            if not place.restarts.allow(loop.time()):
                failure = Failed(
                    f"{name} was killed again and again",
                    "its node may be out of memory: start fewer workers; the same command resumes",
                    70,
                )
                return Ending(number, 70, failure=failure)
            text = f"{name} was killed, and is started again: its rows in flight are resent"
            self._news.emit(Notice(loop.time(), "warning", text))

    async def _once(self, place: _Place, number: int) -> Ending | None:
        """Run shard *number* on an actor; None if that was killed meanwhile."""
        run_id = f"{number}-{next(self._run_numbers)}"
        job = self._jobs[number]
        job = replace(job, requests_today=self._news.sent_today(number, job.requests_today))
        if self._budget is not None:
            takers = min(len(self._places), 1 + len(self._waiting) + len(self._short) + self._running)
            most = self._budget.grant(number, self._spent(number), takers)
            job = replace(job, keywords={**job.keywords, "max_cost": most})
        if not await self._ask(place, "start", run_id, job):
            return None
        taken = 0
        while True:
            heard: Heard | None = await self._ask(place, "hear", run_id, taken)
            if heard is None:
                return None
            taken += len(heard.messages)
            ending = self._take(number, heard)
            if ending is not None:
                return ending

    async def _ask(self, place: _Place, method: str, *arguments: object) -> Any:
        """What a method of the actor returns; None if there is another actor now.

        An actor that Ray starts again answers too: it knows no run.
        """
        errors = self._ray.exceptions
        while True:
            try:
                return await getattr(place.actor, method).remote(*arguments)
            except errors.ActorDiedError:
                self._kill(place.actor)
                place.actor = self._make()
                return None
            except errors.RayActorError:
                await asyncio.sleep(_AGAIN_S)

    def _take(self, number: int, heard: Heard) -> Ending | None:
        ahead = asyncio.get_running_loop().time() - heard.clock
        if abs(ahead) < _SAME_CLOCK_S:
            ahead = 0.0
        ending: Ending | None = None
        for message in heard.messages:
            ending = self._news.take(number, shifted(message, ahead) if ahead else message) or ending
        return ending


def _not_started(error: Exception) -> UsageError:
    return UsageError(
        f"--ray: a worker cannot start: {_first_line(error)}",
        hint="install llmbatch in the environment of every node, in the same version as here",
    )


def _first_line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines() if line.strip())
    return f"{type(error).__name__}: {next(lines, '')[:300]}"
