"""Bugs that others have had, to be planted in the product: a simulation that does not find them proves nothing.

Each function puts one in place; the test's monkeypatch takes it out again.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

import llmbatch.outputs.deferred
import llmbatch.outputs.file
import llmbatch.outputs.open
import llmbatch.runs.file_run
from llmbatch.breaker.core import Circuit
from llmbatch.breaker.permit_state import PermitState
from llmbatch.core.calls import Outcome
from llmbatch.core.errors import WriteError
from llmbatch.inputs.source import FileSource
from llmbatch.outputs.file import Output
from llmbatch.outputs.scan import scan
from llmbatch.outputs.writer import LineWriter
from llmbatch.pace.limit import AdaptiveLimit
from llmbatch.route.calls import Call
from llmbatch.route.decisions import Decision, Fail, RetryAt
from llmbatch.route.evidence import Evidence, RowRecord
from llmbatch.route.judging import Judging
from llmbatch.route.refusing import Refusing
from llmbatch.route.throttle import Throttle
from llmbatch.runner.backlog import Backlog
from llmbatch.runner.finish import Finisher
from llmbatch.runner.machine_fault import Machine
from llmbatch.runner.pending import PendingRow, RunRoute
from llmbatch.runner.reading import Reading
from llmbatch.storage.atomic_replace import replace_file
from llmbatch.storage.filesystem import Filesystem
from llmbatch.storage.finished_rows import FinishedRows

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

    def leak(self: Circuit, permit: PermitState, verdict: Any, now: float, *, retry_after: float | None = None) -> None:
        if permit.probe and verdict == "failure":
            self._probes.add(permit, now, 1e7)
            return
        settle(self, permit, verdict, now, retry_after=retry_after)

    patch.setattr(Circuit, "settle", leak)


@bug("the success of a call from before the opening closes the circuit")
def _stale_success(patch: pytest.MonkeyPatch) -> None:
    settle = Circuit.settle

    def close(
        self: Circuit, permit: PermitState, verdict: Any, now: float, *, retry_after: float | None = None
    ) -> None:
        settle(self, permit, verdict, now, retry_after=retry_after)
        if verdict == "success" and self.phase != "closed":
            self.close(now)

    patch.setattr(Circuit, "settle", close)


@bug("an open circuit lets every call in as a probe")
def _probes_without_end(patch: pytest.MonkeyPatch) -> None:
    acquire = Circuit.acquire

    def let_in(self: Circuit, now: float, key: Any = None, *, lease: float | None = None) -> PermitState | None:
        if self.phase == "closed":
            return acquire(self, now, key, lease=lease)
        self._enter("half_open", now) if self.phase == "open" else None
        self.serial += 1
        permit = PermitState(self.serial, self.generation, key, now, probe=True)
        self._probes.add(permit, now, 1000.0)
        return permit

    patch.setattr(Circuit, "acquire", let_in)
    patch.setattr(Circuit, "probing", property(lambda self: False))
    patch.setattr(Circuit, "until", property(lambda self: 0.0))


@bug("the circuit never opens")
def _never_opens(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Judging, "_open", lambda self, cause, now, *, confirmed=False: [])


@bug("all places are filled at once when the circuit closes")
def _no_ramp(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AdaptiveLimit, "restart", lambda self, start=2.0, newest=0, *, forget=True: None)


@bug("rows that failed before, while others passed, open the circuit too")
def _suspects_count(patch: pytest.MonkeyPatch) -> None:
    note = Judging._note_failure

    def count(self: Judging, call: Call, outcome: Outcome) -> RowRecord:
        self.window.add(call.row, call.serial, 0.01)
        return note(self, call, outcome)

    patch.setattr(Judging, "_note_failure", count)


# Waits that the provider names.


@bug("a wait that the provider named for the route is not kept")
def _hint_shortened(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Throttle, "pause", lambda self, until: False)


@bug("a wait that the provider named for a row is cut short")
def _own_hint_shortened(patch: pytest.MonkeyPatch) -> None:
    retry = Judging._retry

    def early(self: Judging, row: int, record: RowRecord, now: float) -> RetryAt:
        record.retry_at = min(now + 2.0, record.retry_at)
        return retry(self, row, record, now)

    patch.setattr(Judging, "_retry", early)


@bug("no ramp after a wait that the provider named")
def _no_ramp_after_wait(patch: pytest.MonkeyPatch) -> None:
    pause = Throttle.pause

    def steady(self: Throttle, until: float) -> bool:
        news = pause(self, until)
        self.ramp_due = False
        return news

    patch.setattr(Throttle, "pause", steady)


@bug("the wait that one call was asked for stops the route")
def _one_hint_pauses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Throttle, "is_route_wide", lambda self, since, newest, *, disprovable: True)
    confirmed = Throttle.confirmed_wait
    patch.setattr(Throttle, "confirmed_wait", lambda self, *, disprovable, newest=0: confirmed(self, disprovable=False))


@bug("a row that is throttled alone never ends")
def _throttled_for_ever(patch: pytest.MonkeyPatch) -> None:
    is_spent = Evidence.is_spent

    def spent_by_others(self: Evidence, record: RowRecord) -> bool:
        return record.last.status != 429 and is_spent(self, record)

    patch.setattr(Evidence, "is_spent", spent_by_others)


# Judging rows.


@bug("an outage counts as all the attempts of each row that failed in it")
def _outage_counts(patch: pytest.MonkeyPatch) -> None:
    def void(self: Evidence) -> None:
        for record in self.unproven.values():
            record.proven += self.needed(record) - 1
            record.pending.clear()
        self.unproven.clear()

    patch.setattr(Evidence, "void", void)


@bug("any success proves a failure, also one of a call sent before it")
def _judged_by_arrival(patch: pytest.MonkeyPatch) -> None:
    prove = Evidence.prove

    def by_arrival(self: Evidence, serial: int) -> Any:
        newest = max(self.newest_success, serial)
        found = prove(self, 10**12)
        self.newest_success = newest
        return found

    patch.setattr(Evidence, "prove", by_arrival)


@bug("a refusal ends its row at once")
def _refusal_at_once(patch: pytest.MonkeyPatch) -> None:
    refused = Refusing._refused

    def refuse(self: Refusing, call: Call, outcome: Outcome, now: float) -> list[Decision]:
        if call.probe or call.kind != "row":
            return refused(self, call, outcome, now)
        self.circuit.settle(call.permit, "neutral", now)
        self.evidence.forget(call.row)
        return [Fail(call.row, outcome)]

    patch.setattr(Refusing, "_refused", refuse)


@bug("the first proven failure ends a row")
def _first_failure_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Evidence, "is_spent", lambda self, record: record.proven >= 1)


@bug("rows that fail are charged by the word of the smallest request alone")
def _smallest_vouches(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Judging, "_ping_passed", lambda self, call, now: self._prove(call.serial, now))


@bug("held rows are sent again instead of waiting for evidence")
def _held_rows_go(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backlog, "hold", Backlog.enqueue)


@bug("a bad row is tried for ever")
def _tried_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Evidence, "is_spent", lambda self, record: False)


@bug("a row ends after --max-attempts whatever the rate")
def _no_law(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Evidence, "is_spent", lambda self, record: record.proven >= self._least)


# Where rows wait.


@bug("a row stays in its queue when it goes")
def _in_two_places(patch: pytest.MonkeyPatch) -> None:
    def peek(self: Backlog, route: RunRoute) -> PendingRow:
        route.queue.rotate(-1)
        return route.queue[-1]

    patch.setattr(Backlog, "next_of", peek)


@bug("a later pass over the input reads rows again that are in memory")
def _read_again(patch: pytest.MonkeyPatch) -> None:
    rewind = Reading._rewind

    def forget(self: Reading) -> bool:
        found = rewind(self)
        self._is_later_pass = False
        return found

    patch.setattr(Reading, "_rewind", forget)


@bug("a later pass over the input does not know which rows are finished")
def _sent_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FileSource, "finished", lambda self, number: None)


@bug("rows that were left for a later pass are forgotten")
def _left_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FileSource, "skip", lambda self, row: None)


@bug("one parked row probes again and again, and no other has its turn")
def _one_probes(patch: pytest.MonkeyPatch) -> None:
    def first(self: Backlog, route: RunRoute, turn: int, now: float) -> PendingRow | None:
        untried, failed = self._parked(route)
        return next(iter((*untried, *failed)), None)

    patch.setattr(Backlog, "best_probe", first)


# The file.


@bug("a torn end is not repaired")
def _no_repair(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(llmbatch.outputs.open, "_repaired", lambda fd, name, disk, shard: scan(fd, name, disk).finished)


@bug("finished rows are not skipped")
def _no_skip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FinishedRows, "is_done", lambda self, number: False)
    patch.setattr(FinishedRows, "are_done", lambda self, first, count: False)


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
        def __init__(self, disk: Filesystem) -> None:
            self._disk = disk

        def __getattr__(self, name: str) -> Any:
            return getattr(self._disk, name)

        def sync_all(self, fd: int) -> None:
            if stat.S_ISDIR(self._disk.fstat(fd).st_mode):
                self._disk.sync_all(fd)

    def replace(path: str, chunks: Iterable[bytes], disk: Any, *, old_fd: int | None) -> int:
        return replace_file(path, chunks, cast(Filesystem, Hasty(disk)), old_fd=old_fd)

    patch.setattr(llmbatch.outputs.file, "replace_file", replace)
    patch.setattr(llmbatch.outputs.open, "replace_file", replace)


@bug("the file of deferred rows stays when nothing waits")
def _stale_deferred(patch: pytest.MonkeyPatch) -> None:
    write = llmbatch.outputs.deferred.write_deferred

    def only_if_any(output_path: str | Path, lines: Iterable[bytes], disk: Filesystem) -> None:
        waiting = list(lines)
        if waiting:
            write(output_path, waiting, disk)

    patch.setattr(llmbatch.runs.file_run, "write_deferred", only_if_any)


@bug("the output is not locked")
def _no_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("simulation_disk.SimulatedFilesystem.lock", lambda self, fd: None)


# Cut answers.


@bug("the rows of cut answers are resent, and their lines stay")
def _kept_cut_lines(patch: pytest.MonkeyPatch) -> None:
    def forget(self: Output) -> None:
        self.finished.remove(self._cut_rows, status="success")

    patch.setattr(Output, "drop_cut_answers", forget)


@bug("with the cut answers all others go")
def _all_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(llmbatch.runs.file_run, "is_cut_answer", lambda line, *, reads_body: True)


@bug("an answer that was required to be whole is a success though it is cut")
def _cut_success(patch: pytest.MonkeyPatch) -> None:
    begin = Finisher.__init__

    def lenient(self: Finisher, *arguments: Any, **keywords: Any) -> None:
        begin(self, *arguments, **keywords | {"require_finish": False})

    patch.setattr(Finisher, "__init__", lenient)


@bug("the line of a cut answer does not say so")
def _unsaid_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("llmbatch.classify.classify.abnormal_end", lambda finish: None)


# This machine.


@bug("one row that lacks memory stops all others")
def _all_pause(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Machine, "_is_at_fault", lambda self, state, row, serial: True)


@bug("an answer does not tell that this machine works again")
def _always_at_fault(patch: pytest.MonkeyPatch) -> None:
    works = Machine.works

    def go_on(self: Machine, row: int, sent_at: float) -> None:
        since = self.since
        works(self, row, sent_at)
        self.since = since

    patch.setattr(Machine, "works", go_on)


FIRST = (8, 15, 275, 2, 40, 5, 55, 206, 70, 72, 89, 29, 12, 168, 333)
"""The stories that have shown bugs are told first, short ones before long ones: one more bug is mostly found in one."""
