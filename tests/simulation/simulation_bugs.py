"""Bugs that others have had, to be planted in the product: a simulation that does not find them proves nothing.

Each function puts one in place; the test's monkeypatch takes it out again.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

import llmbatch.files.deferred
import llmbatch.files.output
from llmbatch.breaker.core import Circuit, Ticket
from llmbatch.errors import WriteError
from llmbatch.files.disk import Disk
from llmbatch.files.ledger import Ledger
from llmbatch.files.output import Output
from llmbatch.files.replace import replace_file
from llmbatch.files.scan import scan
from llmbatch.files.writer import LineWriter
from llmbatch.pace.limit import AdaptiveLimit
from llmbatch.runner.lane import Lane
from llmbatch.runner.verdicts import Verdicts
from llmbatch.runner.waiting import Waiting
from llmbatch.runner.work import Work

Plant = Callable[[pytest.MonkeyPatch], None]

BUGS: dict[str, Plant] = {}


def bug(words: str) -> Callable[[Plant], Plant]:
    def enter(plant: Plant) -> Plant:
        BUGS[words] = plant
        return plant

    return enter


# The circuit.


@bug("a failed probe keeps its permit")
def _leaked_probe(patch: pytest.MonkeyPatch) -> None:
    settle = Circuit.settle

    def leak(self: Circuit, ticket: Ticket, verdict: Any, now: float, *, retry_after: float | None = None) -> None:
        if ticket.probe and verdict == "failure":
            self._probes[ticket] = math.inf
            return
        settle(self, ticket, verdict, now, retry_after=retry_after)

    patch.setattr(Circuit, "settle", leak)


@bug("the success of a call from before the opening closes the circuit")
def _stale_success(patch: pytest.MonkeyPatch) -> None:
    settle = Circuit.settle

    def close(self: Circuit, ticket: Ticket, verdict: Any, now: float, *, retry_after: float | None = None) -> None:
        settle(self, ticket, verdict, now, retry_after=retry_after)
        if verdict == "success" and self._state != "closed":
            self.close(now)

    patch.setattr(Circuit, "settle", close)


@bug("an open circuit lets every call in as a probe")
def _probes_without_end(patch: pytest.MonkeyPatch) -> None:
    acquire = Circuit.acquire

    def let_in(self: Circuit, now: float, key: Any = None, *, lease: float | None = None) -> Ticket | None:
        if self._state == "closed":
            return acquire(self, now, key, lease=lease)
        self._enter("half_open", now) if self._state == "open" else None
        ticket = self._admit(now, key, probe=True)
        self._probes[ticket] = now + 1000.0
        return ticket

    patch.setattr(Circuit, "acquire", let_in)
    patch.setattr(Circuit, "probing", property(lambda self: False))
    patch.setattr(Circuit, "until", property(lambda self: 0.0))


@bug("the circuit never opens")
def _never_opens(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Circuit, "trip", lambda self, now, reason, *, by_refusal=False: None)
    patch.setattr(Circuit, "_open", lambda self, now, reason: None)


@bug("all places are filled at once when the circuit closes")
def _no_ramp(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AdaptiveLimit, "restart", lambda self: None)


@bug("a wait that the provider named is cut short")
def _hint_shortened(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lane, "hold", lambda self, until: None)


# Judging rows.


@bug("what failed in an outage counts against the rows")
def _outage_counts(patch: pytest.MonkeyPatch) -> None:
    def void(self: Lane) -> None:
        for work in self.unproved.values():
            work.charged += len(work.pending)
            work.pending.clear()

    patch.setattr(Lane, "void", void)


@bug("any success proves a failure, also one of a call sent before it")
def _judged_by_arrival(patch: pytest.MonkeyPatch) -> None:
    prove = Lane.prove

    def by_arrival(self: Lane, serial: int, max_attempts: int) -> Any:
        newest = self.newest_success
        found = prove(self, 10**12, max_attempts)
        self.newest_success = max(newest, serial)
        return found

    patch.setattr(Lane, "prove", by_arrival)


@bug("a refusal ends its row at once")
def _refusal_at_once(patch: pytest.MonkeyPatch) -> None:
    def refuse(self: Verdicts, job: Any, outcome: Any, now: float) -> None:
        job.lane.circuit.settle(job.permit, "neutral", now)
        if job.work is not None:
            self._dispatch.fail(job.work, outcome, now)

    patch.setattr(Verdicts, "_refusal", refuse)


@bug("held rows are sent again instead of waiting for evidence")
def _held_rows_go(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Waiting, "hold", Waiting.enqueue)


@bug("a bad row is tried for ever")
def _tried_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Work, "is_spent", lambda self, most: False)
    patch.setattr(Work, "would_be_spent", lambda self, most: False)


# The file.


@bug("a torn end is not repaired")
def _no_repair(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(llmbatch.files.output, "_repaired", lambda fd, name, disk: scan(fd, name, disk).ledger)


@bug("finished rows are not skipped")
def _no_skip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "is_done", lambda self, number: False)
    patch.setattr(Ledger, "are_done", lambda self, first, count: False)


@bug("the output is never synced")
def _no_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Output, "sync", lambda self: None)


@bug("a failed sync is tried again until it says yes")
def _sync_again(patch: pytest.MonkeyPatch) -> None:
    def sync(self: Output) -> None:
        for _ in range(3):
            try:
                self._disk.sync(self._fd)
            except OSError:
                continue
            return

    patch.setattr(Output, "sync", sync)


@bug("after a failed write its lines are written again, with those that were whole")
def _written_twice(patch: pytest.MonkeyPatch) -> None:
    write = Output.write

    def again(self: Output, data: bytes) -> None:
        try:
            write(self, data)
        except WriteError:
            self._failure = None
            self._disk.write(self._fd, data)

    patch.setattr(Output, "write", again)


@bug("a short write is taken for a whole one")
def _short_write(patch: pytest.MonkeyPatch) -> None:
    def once(self: Output, data: bytes) -> None:
        try:
            self._disk.write(self._fd, data)
        except OSError as error:
            raise self._failed(error) from error
        self.lines_written += data.count(b"\n")
        self._size = self._most_bytes = self._disk.fstat(self._fd).st_size  # else the watch of the file finds it

    patch.setattr(Output, "write", once)


@bug("a run that ends does not wait for the last sync")
def _no_last_sync(patch: pytest.MonkeyPatch) -> None:
    async def pass_by(self: LineWriter) -> None:
        return

    patch.setattr(LineWriter, "_sync_the_rest", pass_by)


@bug("the rewritten file is renamed before it is durable")
def _rename_without_sync(patch: pytest.MonkeyPatch) -> None:
    class Hasty:
        def __init__(self, disk: Disk) -> None:
            self._disk = disk

        def __getattr__(self, name: str) -> Any:
            return getattr(self._disk, name)

        def sync_all(self, fd: int) -> None:
            if stat.S_ISDIR(self._disk.fstat(fd).st_mode):
                self._disk.sync_all(fd)

    def replace(path: str, chunks: Iterable[bytes], disk: Any) -> int:
        return replace_file(path, chunks, cast(Disk, Hasty(disk)))

    patch.setattr(llmbatch.files.output, "replace_file", replace)


@bug("the file of deferred rows stays when nothing waits")
def _stale_deferred(patch: pytest.MonkeyPatch) -> None:
    write = llmbatch.files.deferred.write_deferred

    def only_if_any(output_path: str | Path, lines: Iterable[bytes], disk: Disk) -> None:
        waiting = list(lines)
        if waiting:
            write(output_path, waiting, disk)

    patch.setattr(llmbatch.files.deferred, "write_deferred", only_if_any)


@bug("the output is not locked")
def _no_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("simulation_disk.SimulatedDisk.lock", lambda self, fd: None)
