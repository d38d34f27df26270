"""What must hold in every story, checked from outside: by the provider's log, the disk's bytes and the events.

Each check has the number of its claim in docs/guarantees.md.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from simulation_disk import Machine, SimulatedDisk
from simulation_provider import REFUSING, TOTAL, Provider, Sent

from llmbatch.events import CallEnded, CallSent, CircuitChanged, Event, Progress, RowFinished, RunStarted
from llmbatch.files.lines import line_digest

if TYPE_CHECKING:
    from simulation_story import Plan, StoryLoop

OUTPUT = "/data/out.jsonl"
DEFERRED = "/data/out.deferred.jsonl"

AFTERWARDS = 4 * 3600.0
"""Virtual seconds in which a run must end once nothing goes wrong any more."""

SYNC_EVERY = 1.0

A_MOMENT = 10.0


class GuaranteeError(AssertionError):
    """A guarantee does not hold."""


class Watch:
    """Looks on. ``broken`` is the first violation that was seen where it could not be raised."""

    def __init__(self, plan: Plan, machine: Machine, provider: Provider) -> None:
        self.broken: GuaranteeError | None = None
        self.retrying = False
        self.running = False
        self.sync_failed = False
        self.doubtful = False
        """Whether a sync failed while an earlier run's output was opened."""
        self.calls_seen = 0
        self._plan = plan
        self._machine = machine
        self._provider = provider
        self._hashes: dict[int, str] = {}
        self.new_input()

    def new_input(self) -> None:
        rows = enumerate(self._plan.rows, 1)
        self._hashes = {number: line_digest(row) for number, row in rows if row.strip()}

    # One life.

    def begin(self, disk: SimulatedDisk, loop: StoryLoop, life: int, world: float) -> None:
        self._disk = disk
        self._loop = loop
        self._life = life
        self._world = world
        self._first_call = len(self._provider.sent)
        self._before = self.lines(self._machine.get(OUTPUT) or b"", torn=True)
        self._durable = self._before.keys() & self.lines(self._machine.durable(OUTPUT), torn=True).keys()
        self._written: dict[int, float] = {}
        self.running = self.sync_failed = False
        self._synced_until = -math.inf
        self._sync_tried = -math.inf
        self.died_at = 0.0
        self._calls: dict[str, int] = defaultdict(int)
        self._state: dict[str, str] = {}
        self._closed_at_call: dict[str, list[int]] = {}
        self._unended: dict[tuple[str, int], int] = {}
        self._probes: dict[str, list[str]] = {}
        self._opened_by: dict[str, str] = {}
        self._sent = 0
        self._place: dict[tuple[str, int], int] = {}
        """The number of a row's call in flight."""
        self._newest_success: Counter[str] = Counter()
        self._newest_failure: Counter[str] = Counter()
        self._openings = 0
        self._read = 0
        self._ended = 0
        disk.on_write = self._on_write
        disk.on_sync = self._on_sync

    def _break(self, text: str) -> None:
        if self.broken is None:
            self.broken = GuaranteeError(f"{text} (life {self._life}, {self._loop.time():.3f} s)")

    def _on_write(self, path: str, piece: bytes) -> None:
        if path != OUTPUT:
            return
        for line in piece.split(b"\n")[:-1]:
            if line.startswith(b'{"row":'):
                self._written.setdefault(int(line[7:].split(b",", 1)[0]), self._loop.time())

    def _on_sync(self, path: str, length: int) -> None:
        if path == OUTPUT:
            self._sync_tried = self._loop.time()
            if not self._machine.names[path].lost:
                self._synced_until = self._loop.time()

    def observe(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.running = True
            case CallSent():
                self._on_call(event)
            case CallEnded():
                self._on_answer(event)
            case CircuitChanged():
                self._on_change(event)
            case Progress():
                self._read = event.rows
            case RowFinished():
                self._ended += 1

    def _on_call(self, event: CallSent) -> None:
        route = event.route
        self._sent += 1
        self._place[route, event.row] = self._sent
        state = self._state.get(route, "closed")
        if state != "closed" and not event.probe:
            self._break(f"claim 5: an ordinary call for row {event.row} was sent while the circuit was {state}")
        self._provider.probing[event.row] = event.probe
        ramp = self._closed_at_call.get(route)
        if ramp is not None and not event.probe:
            sent, ended, good = ramp
            ramp[0] += 1
            if sent + 1 - ended > 2 + good and sent < self._plan.options["concurrency"]:
                self._break(
                    f"claim 9: {sent + 1 - ended} calls in flight after {good} good answers since the circuit closed"
                )
            self._unended[route, event.row] = self._generation(route)

    def _generation(self, route: str) -> int:
        return self._calls[route]

    def _on_answer(self, event: CallEnded) -> None:
        place = self._place.pop((event.route, event.row), 0)
        if event.verdict == "success":
            self._newest_success[event.route] = max(self._newest_success[event.route], place)
        elif event.verdict == "failure" and not event.probe:
            self._newest_failure[event.route] = max(self._newest_failure[event.route], place)
        if event.probe and event.verdict is not None:
            self._probes.setdefault(event.route, []).append(event.verdict)
        ramp = self._closed_at_call.get(event.route)
        born = self._unended.pop((event.route, event.row), None)
        if ramp is None:
            return
        if born == self._generation(event.route) and not event.probe:
            ramp[1] += 1
        if event.verdict == "success":
            ramp[2] += 1

    def _on_change(self, event: CircuitChanged) -> None:
        self._state[event.route] = event.new
        if event.new == "closed":
            answers = self._probes.pop(event.route, [])
            if answers and answers[-1] == "failure":
                # Only an opening that no probe has confirmed may turn out to be a mistake.
                self._break(f"claim 5: the circuit closed after a failed probe ({answers})")
            streak = "in a row failed" in self._opened_by.get(event.route, "")
            if streak and not answers and self._newest_success[event.route] < self._newest_failure[event.route]:
                self._break("claim 5: the circuit closed by a call that was sent before others failed")
            self._calls[event.route] += 1
            self._closed_at_call[event.route] = [0, 0, 0]
        elif event.old == "closed":
            self._opened_by[event.route] = event.reason
            self._openings += 1
            self._closed_at_call.pop(event.route, None)
        if not (0.0 <= event.retry_after < math.inf):
            self._break(f"claim 5: retry_after is {event.retry_after}")

    # Between lives.

    def lines(self, data: bytes, *, torn: bool) -> dict[int, dict[str, Any]]:
        """Claim 1: whole, valid, one a row; a torn end is allowed only where a crash may have left it."""
        found: dict[int, dict[str, Any]] = {}
        *whole, rest = data.split(b"\n")
        if rest and not torn:
            raise GuaranteeError(f"claim 1: the output ends in {rest[-60:]!r}")
        for number, line in enumerate(whole, 1):
            if b"\0" in line and torn and number == len(whole) and not rest:
                break
            try:
                parsed = json.loads(line)
                row, status, digest = parsed["row"], parsed["status"], parsed["hash"]
            except (ValueError, KeyError, TypeError):
                raise GuaranteeError(f"claim 1: line {number} of the output is {line[:120]!r}") from None
            if row in found:
                raise GuaranteeError(f"claim 1: row {row} has two lines")
            if self._hashes.get(row) != digest or status not in ("success", "failed"):
                raise GuaranteeError(f"claim 1: line {number} of the output is no result of row {row}")
            found[row] = parsed
        return found

    def end(self, code: int, why: str, *, power: bool, calm: bool) -> None:
        if self.broken is not None:
            raise self.broken
        crashed = code == 137
        data = self._machine.get(OUTPUT)
        now = self.lines(data or b"", torn=crashed or code in (2, 74) or not self.running)
        calls = self._provider.sent[self._first_call :]
        self._check_kept(now, power=power, crashed=crashed)
        self._check_durable(code, now)
        self._check_calls(calls, now)
        self._check_hints(calls)
        self._check_outages(calls)
        self._check_failed(calls, now)
        self._check_ends(code, why, now, calm=calm)
        if self.running and not crashed and code != 2:
            self._check_deferred(code, now)

    def _check_kept(self, now: dict[int, dict[str, Any]], *, power: bool, crashed: bool) -> None:
        """Claim 2: what has its line keeps it; a power cut takes at most what was not synced."""
        for row, line in self._before.items():
            dropped = self.retrying and line["status"] == "failed"
            if row not in now and not dropped and (row in self._durable or not power):
                raise GuaranteeError(f"claim 2: the finished row {row} has lost its line")
            if row in now and now[row] != line and not dropped:
                raise GuaranteeError(f"claim 2: the line of row {row} was changed")
        # A run cuts off what a failed sync may have lost.
        unsafe = power or (self.sync_failed and self.running)
        bound = self._synced_until - 1e-9 if unsafe else math.inf
        for row, at in self._written.items():
            if row not in now and at < bound:
                raise GuaranteeError(f"claim 2: row {row} was written at {at:.3f} s and synced, and is gone")
        if crashed and self._disk.fault is None:
            oldest = min((at for at in self._written.values() if at >= self._sync_tried), default=math.inf)
            waited = self.died_at - oldest
            if waited > SYNC_EVERY + 4.5 * self._plan.sync_seconds + self._paused() + 0.1:
                raise GuaranteeError(f"claim 2: lines were not synced for {waited:.1f} s")

    def _check_durable(self, code: int, now: dict[int, dict[str, Any]]) -> None:
        """Claim 2: a run that says it is done has synced every line.

        Unless the disk failed a sync of what an earlier run had left: which lines are lost then is not known.
        """
        if self.doubtful:
            return
        if code in (0, 1) and now.keys() - self.lines(self._machine.durable(OUTPUT), torn=False).keys():
            raise GuaranteeError(f"claim 2: exit {code}, but a power cut would take lines")

    def _paused(self) -> float:
        return max((fate.seconds for fate in self._plan.all_fates), default=0.0)

    def _check_calls(self, calls: list[Sent], now: dict[int, dict[str, Any]]) -> None:
        """Claims 3 and 4: no call for a row that has its line, and a bounded number for every row."""
        # A failed probe is no attempt, and what an outage voids is not counted either.
        most = 10 * self._plan.options["max_attempts"] + 4 + 4 * self._openings
        charged: Counter[int] = Counter()
        for call in calls:
            line = self._before.get(call.row)
            if line is not None and not (self.retrying and line["status"] == "failed"):
                raise GuaranteeError(f"claim 3: row {call.row} was sent again although it has its line")
            if call.at - self._world > self._written.get(call.row, math.inf) + 1e-9 and call.row in now:
                raise GuaranteeError(f"claim 3: row {call.row} was sent after its line was written")
            if call.row and call.fate in ("bad", "random") and not call.probe:
                charged[call.row] += 1
        for row, count in charged.items():
            if count > most:
                raise GuaranteeError(
                    f"claim 4: row {row} failed {count} times by itself in one life, the bound is {most}"
                )

    def _check_hints(self, calls: list[Sent]) -> None:
        """Claim 8: nothing is sent before the time that the provider named."""
        if "circuit_key" in self._plan.options:
            return
        until = 0.0
        answers = sorted((call for call in calls if call.hint_until), key=lambda call: call.ended)
        at = 0
        for call in calls:
            while at < len(answers) and answers[at].ended < call.at - 1e-9:
                until = max(until, answers[at].hint_until)
                at += 1
            if call.at < until - 1e-6:
                raise GuaranteeError(
                    f"claim 8: call {call.number} was sent {until - call.at:.3f} s before the time named"
                )

    def _check_outages(self, calls: list[Sent]) -> None:
        """Claim 5: few calls meet an outage: what was in flight, the threshold, and probes."""
        options = self._plan.options
        by_phase: dict[str, list[Sent]] = defaultdict(list)
        for call in calls:
            if call.phase.kind in TOTAL:
                by_phase[str(call.phase)].append(call)
        lanes = 2 if "circuit_key" in options else 1
        for name, met in by_phase.items():
            longest, first = options["recovery_timeout"], min(2.0, options["recovery_timeout"])
            seconds = met[-1].at - met[0].at
            probes = math.log2(longest / first) + seconds / (longest * 0.75) + 2
            # Refusals that were doubted once open the circuit a second time.
            bound = lanes * (options["concurrency"] + 2 * options["failure_threshold"] + probes + 4)
            if len(met) > bound:
                raise GuaranteeError(
                    f"claim 5: {len(met)} calls met the outage {name} in one life, the bound is {bound:.0f}"
                )

    def _brief_surges(self, calls: list[Sent]) -> set[str]:
        """Surges of refusals of which this life saw a moment, the rest being slept through: judged as the rows' own."""
        seen: dict[str, list[float]] = defaultdict(list)
        for call in calls:
            if call.phase.kind in REFUSING:
                seen[str(call.phase)].append(call.at)
        return {phase for phase, times in seen.items() if max(times) - min(times) < A_MOMENT}

    def _lane(self, row: int) -> int:
        return row % 2 if "circuit_key" in self._plan.options else 0

    def _last_of_tenants(self) -> set[int]:
        """No canary speaks for a tenant: the rows that end last are judged by their attempts (docs/guarantees.md)."""
        last: set[int] = set()
        for tenant in (0, 1) if "circuit_key" in self._plan.options else ():
            rows = [row for row in self._hashes if row % 2 == tenant and row not in self._before]
            rows.sort(key=lambda row: (self._written.get(row, math.inf), row))
            last.update(rows[-2 * self._plan.options["failure_threshold"] :])
        return last

    def _check_failed(self, calls: list[Sent], now: dict[int, dict[str, Any]]) -> None:
        """Claim 6: no row fails by an outage or a surge; bad rows never succeed."""
        options = self._plan.options
        met: dict[tuple[str, int], set[int]] = defaultdict(set)
        for call in calls:
            if call.fate in ("total", "spent") and not (call.phase.kind in REFUSING and call.answered == "timeout"):
                met[str(call.phase), self._lane(call.row)].add(call.row)
        last = self._last_of_tenants()
        brief = self._brief_surges(calls)
        for row, line in now.items():
            if row in self._before and self._before[row] == line:
                continue
            bad = self._plan.bad.get(row)
            if line["status"] == "success":
                if bad:
                    raise GuaranteeError(f"claim 6: the bad row {row} succeeded")
                if line["text"] != f"answer to {row}":
                    raise GuaranteeError(f"claim 6: row {row} has the answer {line['text']!r}")
                continue
            if bad or row in last:
                continue
            own = 0
            for call in calls:
                if call.row != row or call.fate in ("good", "local", "throttled"):
                    continue
                is_outage = call.fate == "total" and str(call.phase) not in brief
                if is_outage and len(met[str(call.phase), self._lane(row)]) >= options["failure_threshold"]:
                    continue
                refused = call.answered in ("400", "422", "404", "307")
                own += options["max_attempts"] if refused else 1
            if own < options["max_attempts"]:
                raise GuaranteeError(
                    f"claim 6: row {row} failed ({line['error']}), but {own} attempts speak against it"
                )

    def _check_ends(self, code: int, why: str, now: dict[int, dict[str, Any]], *, calm: bool) -> None:
        """Claims 1 and 7: a run that says it is done is done, and it ends in time once nothing goes wrong."""
        missing = self._hashes.keys() - now.keys()
        failed = sum(line["status"] == "failed" for line in now.values())
        if code in (0, 1):
            if missing:
                raise GuaranteeError(f"claim 1: exit {code}, but rows {sorted(missing)[:5]} have no line")
            if (code == 1) != (failed > 0):
                raise GuaranteeError(f"claim 1: exit {code} with {failed} failed rows")
            for row in self._plan.bad:
                if now[row]["status"] != "failed":
                    raise GuaranteeError(f"claim 6: the bad row {row} did not fail")
        elif not missing and calm and code in (3, 75):
            raise GuaranteeError(f"claim 7: exit {code} ({why}) although every row has its line")
        clear = max(self._provider.weather.clear_from, self._world)
        late = self._world + self._loop.time() - clear - self._longest_hint() - self._paused()
        if late > AFTERWARDS:
            raise GuaranteeError(f"claim 7: the run went on for {late:.0f} s of good weather")
        if code == 3 and calm and self._world >= clear:
            raise GuaranteeError(f"claim 7: stopped ({why}) in good weather")

    def _longest_hint(self) -> float:
        return max((phase.hint or 0.0 for phase in self._provider.weather.phases), default=0.0)

    def _check_deferred(self, code: int, now: dict[int, dict[str, Any]]) -> None:
        """Claim 10: the deferred file has rows that wait and no others, and is gone when nothing waits."""
        data = self._machine.get(DEFERRED)
        if data is None:
            return
        if code in (0, 1):
            raise GuaranteeError(f"claim 10: exit {code}, but a deferred file is there")
        if code == 74:
            return  # it may be an older one, if the disk was full for this one too
        for line in data.split(b"\n")[:-1]:
            waiting = json.loads(line)
            row = int(waiting["id"].removeprefix("row-").removeprefix("r"))
            if waiting["status"] != "deferred" or not 0 < waiting["retry_after"] < math.inf:
                raise GuaranteeError(f"claim 10: {waiting}")
            if row in now:
                raise GuaranteeError(f"claim 10: row {row} has its line and is deferred too")
