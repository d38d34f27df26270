"""What must hold in every story, checked from outside: by the provider's log, the disk's bytes and the events.

Each check has the number of its claim in docs/guarantees.md.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulation_disk import Machine, SimulatedFilesystem
from simulation_law import GuaranteeError, LifeLog, is_resent
from simulation_provider import LOCAL, SPENT, TOTAL, Provider, Sent

from llmbatch.core.events import (
    CallEnded,
    CallSent,
    CircuitChanged,
    Event,
    Notice,
    OutageEnded,
    OutageStarted,
    RowFinished,
    RunStarted,
    Throttled,
)
from llmbatch.inputs.rows import line_digest

if TYPE_CHECKING:
    from simulation_story import Plan, StoryLoop

OUTPUT = "/data/out.jsonl"
DEFERRED = "/data/out.deferred.jsonl"

AFTERWARDS = 4 * 3600.0
"""Virtual seconds in which a run must end once nothing goes wrong any more."""

SYNC_EVERY = 1.0

A_MOMENT = 10.0


@dataclass
class Ramp:
    """Traffic after a wait: *start* calls in flight, and one more for every good answer."""

    start: int
    why: str
    sent: int = 0
    ended: int = 0
    good: int = 0


class Watch:
    """Looks on. ``broken`` is the first violation that was seen where it could not be raised."""

    def __init__(self, plan: Plan, machine: Machine, provider: Provider) -> None:
        self.broken: GuaranteeError | None = None
        self.retrying = False
        self.requiring = False
        """Whether the run asks that no answer is cut."""
        self.running = False
        self.sync_failed = False
        self.doubtful = False
        """Whether a sync failed while an earlier run's output was opened."""
        self.by_chance = 0
        """Good rows that failed in spite of the law."""
        self.good_rows = 0
        self._plan = plan
        self._machine = machine
        self._provider = provider
        self._hashes: dict[int, str] = {}
        self.new_input()

    def new_input(self) -> None:
        rows = enumerate(self._plan.rows, 1)
        self._hashes = {number: line_digest(row) for number, row in rows if row.strip()}

    # One life.

    def begin(self, disk: SimulatedFilesystem, loop: StoryLoop, life: int, world: float) -> None:
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
        self._provider.announced.clear()
        self._provider.checks.clear()
        self._state: dict[str, str] = {}
        self._ramps: dict[str, Ramp] = {}
        self._ramp_of: dict[tuple[str, int], Ramp] = {}
        self._due: dict[str, float] = {}
        """From when on a route's traffic has to ramp up, once it has been stopped until then."""
        self._machine_until = 0.0
        self._probes: dict[str, list[str]] = {}
        self._opened_by: dict[str, str] = {}
        self._sent = 0
        self._place: dict[tuple[str, int], int] = {}
        """The number of a row's call in flight."""
        self._newest_success: Counter[str] = Counter()
        self._newest_failure: Counter[str] = Counter()
        self._failing: dict[str, dict[int, int]] = defaultdict(dict)
        """Rows that failed first since the newest good answer to a later call, each with the number of that call."""
        self._is_silent: set[str] = set()
        """Routes of which a health check has failed since the last row succeeded."""
        self._unproven: dict[str, dict[int, int]] = defaultdict(dict)
        """Rows whose last call failed, each with its number; until the circuit closes."""
        self._suspects: set[int] = set()
        """Rows that failed while a later call succeeded."""
        self._openings = 0
        self._opened_at: dict[str, float] = {}
        self._confirmed: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._closings: dict[str, list[float]] = defaultdict(list)
        self._row_ended: dict[int, float] = {}
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
            case RowFinished():
                if event.row in self._row_ended:
                    self._break(f"claim 1: row {event.row} ended twice")
                self._row_ended[event.row] = self._world + event.at
            case Throttled():
                self._due[event.route] = max(self._due.get(event.route, 0.0), event.at + event.pause)
                self._check_pause(event)
            case OutageStarted():
                self._confirmed[event.route].append((self._world + event.at, math.inf))
                self._check_outage(event)
            case OutageEnded():
                self._confirmed[event.route][-1] = (self._confirmed[event.route][-1][0], self._world + event.at)
            case Notice() if event.message.startswith("this machine") and "trying again" in event.message:
                self._check_machine(event)
                self._machine_until = max(self._machine_until, event.at + 1e-6)
                for route in self._ramps.keys() | self._state.keys() | {place[0] for place in self._place}:
                    self._due[route] = max(self._due.get(route, 0.0), event.at)

    def _on_call(self, event: CallSent) -> None:
        route = event.route
        self._sent += 1
        if event.row:
            if (route, event.row) in self._place:
                self._break(f"claim 3: row {event.row} is in flight twice")
            self._provider.announced[event.row] = route, event.probe
        else:
            self._provider.checks.append((route, event.probe))
        self._place[route, event.row] = self._sent
        state = self._state.get(route, "closed")
        if state != "closed" and not event.probe:
            self._break(f"claim 5: an ordinary call for row {event.row} was sent while the circuit was {state}")
        if event.probe or not event.row:
            return
        failed = self._unproven[route].pop(event.row, 0)
        if failed > self._newest_success[route] and "circuit_key" not in self._plan.options:
            self._break(f"claim 6: row {event.row} failed, and goes again before a later call has succeeded")
        ramp = self._ramp(route, event.at, sending=True)
        if ramp is not None:
            ramp.sent += 1
            self._ramp_of[route, event.row] = ramp
            flying = ramp.sent - ramp.ended
            if flying > ramp.start + ramp.good and ramp.sent <= self._plan.options["concurrency"]:
                self._break(f"claim 9: {flying} calls in flight after {ramp.good} good answers since {ramp.why}")

    def _ramp(self, route: str, at: float, *, sending: bool = False) -> Ramp | None:
        if at >= self._due.get(route, math.inf) - 1e-6:
            del self._due[route]
            # What is still in flight is carried already; two more are no stampede, nor is one for each that ends.
            carried = sum(place[0] == route for place in self._place) - sending
            unused = self._ramps.get(route)
            earned = unused.good if unused is not None and not unused.sent else 0
            self._ramps[route] = Ramp(2 + carried + earned, "a wait")
        return self._ramps.get(route)

    def _on_answer(self, event: CallEnded) -> None:
        ramp = self._ramp(event.route, event.at)  # with this call among those that a wait's end finds in flight
        place = self._place.pop((event.route, event.row), 0)
        if not event.row and event.verdict is not None:
            self._provider.check_ended(event.route)
        failing = self._failing[event.route]
        if event.verdict == "success":
            self._newest_success[event.route] = max(self._newest_success[event.route], place)
            # What ends an outage proves nothing against rows, nor does the smallest request where many fail.
            proves = event.row and not event.probe
            proven = [row for row, number in failing.items() if number < place] if proves else []
            self._suspects.update(proven)
            for row in proven:
                del failing[row]
            if proves:
                self._is_silent.discard(event.route)
        elif event.verdict in ("failure", "rejected", "account_refused") and event.row and not event.probe:
            self._unproven[event.route][event.row] = place
            if event.row not in self._suspects and event.row not in failing:
                failing[event.row] = place
                if event.verdict == "failure":  # what has failed before opens no circuit
                    self._newest_failure[event.route] = max(self._newest_failure[event.route], place)
        elif event.verdict == "failure" and not event.row:
            self._is_silent.add(event.route)
        if event.probe and event.verdict is not None:
            self._probes.setdefault(event.route, []).append(event.verdict)
        born = self._ramp_of.pop((event.route, event.row), None)
        if ramp is None:
            return
        ramp.ended += born is ramp
        ramp.good += event.verdict == "success"

    def _on_change(self, event: CircuitChanged) -> None:
        route = event.route
        self._state[route] = event.new
        if event.new == "closed":
            answers = self._probes.pop(route, [])
            confirmed = self._confirmed[route] and self._confirmed[route][-1][1] == math.inf
            if confirmed and answers and answers[-1] == "failure" and "circuit_key" not in self._plan.options:
                # Only an opening that no probe has confirmed may turn out to be a mistake. A tenant's last rows, all of
                # which failed, are judged by their own attempts.
                self._break(f"claim 5: the circuit closed after a failed probe ({answers})")
            streak = "in a row failed" in self._opened_by.get(route, "")
            if streak and not answers and self._newest_success[route] < self._newest_failure[route]:
                self._break("claim 5: the circuit closed by a call that was sent before others failed")
            self._unproven[route].clear()
            if confirmed or "failure" in answers or route in self._is_silent:
                # What failed as a health check did speaks against no row.
                self._failing[route].clear()
            self._closings[route].append(self._world + event.at)
            start = 2 if confirmed else max(2, self._plan.options["concurrency"] // 2)
            self._ramps[route] = Ramp(start, "the circuit closed")
        elif event.old == "closed":
            self._opened_by[route] = event.reason
            self._opened_at[route] = self._world + event.at
            self._openings += 1
            fresh = len(self._failing[route])
            least = self._plan.options["failure_threshold"]
            if "in a row failed" in event.reason and fresh < least and not self._is_failing(route, least):
                self._break(f"claim 5: {fresh} rows that were not known to fail opened the circuit ({event.reason})")
            self._ramps.pop(route, None)
        if not (0.0 <= event.retry_after < math.inf):
            self._break(f"claim 5: retry_after is {event.retry_after}")

    def _is_failing(self, route: str, calls: int) -> bool:
        """Whether the last *calls* that ended on the route met a provider that answers fewer than half of them."""
        ended = [one for one in self._provider.sent[self._first_call :] if one.route == route and one.ended < math.inf]
        last = sorted(ended, key=lambda one: one.ended)[-calls:]
        return all(one.phase.kind in TOTAL or (one.phase.kind == "sick" and one.phase.share > 0.5) for one in last)

    def _check_pause(self, event: Throttled) -> None:
        """Claim 8: the wait that one call was asked for does not stop a route that answers others."""
        calls = [call for call in self._provider.sent[self._first_call :] if call.route == event.route]
        newest = max((call.number for call in calls if call.fate == "good" and call.ended < math.inf), default=0)
        heard = [call for call in calls if call.fate == "throttled" and newest < call.number and call.ended < math.inf]
        now = self._world + event.at
        if len(heard) != 1 or heard[0].hint_until <= now or heard[0].probe or heard[0].check:
            return
        refused = {call.row for call in calls if newest < call.number and self._plan.bad.get(call.row) == "429"}
        if len(refused) >= 2:
            return  # with it as many as a route hardly refuses by chance, whatever the rows are
        until = now + event.pause
        if not event.is_named and event.pause <= 1.0:
            return  # the second that a route waits in any case
        if until >= heard[0].hint_until - 1e-3 and any(
            call.ended == math.inf and call.number > heard[0].number for call in calls
        ):
            self._break(f"claim 8: the route waits {event.pause:.1f} s as one call was asked to")

    def _check_machine(self, event: Notice) -> None:
        """Claim 4: a row that lacks memory, while others are answered, stops nothing but itself."""
        failed = [call for call in self._ended_locally() if call.ended <= self._world + event.at + 1e-6]
        last = failed[-1]
        before = [call for call in failed[:-1] if call.row == last.row]
        if last.phase.kind in LOCAL or last.check or last.probe or self._state.get(last.route) == "open":
            return
        if len({call.row for call in failed}) > 1 or not before:
            return
        since = [call for call in self._provider.sent[self._first_call :] if call.number > before[-1].number]
        if any(call.at > before[-1].ended and call.fate == "good" and call.ended < last.ended for call in since):
            self._break(f"claim 14: everything waits as row {last.row} lacks memory, though others are answered")

    def _ended_locally(self) -> list[Sent]:
        """Calls of this life that failed by a fault of this machine, in the order in which they ended."""
        calls = self._provider.sent[self._first_call :]
        failed = [call for call in calls if call.fate == "local" and call.ended < math.inf]
        return sorted(failed, key=lambda call: call.ended)

    def _check_outage(self, event: OutageStarted) -> None:
        """Claim 5: rows that are bad by themselves are never told as an outage."""
        since = self._opened_at.get(event.route, math.inf) - 600.0
        calls = [call for call in self._provider.sent[self._first_call :] if call.ended >= since]
        sick = any(call.phase.kind in TOTAL | SPENT or call.fate in ("random", "throttled", "local") for call in calls)
        # Where failed rows are all that is sent, only the smallest request could tell; and where no row of the route
        # has succeeded in this life, it says too little about so many (docs/evidence.md).
        known = any(call.fate == "good" and call.row and not call.check and call.route == event.route for call in calls)
        if not sick and known and self._provider.smallest != "fails" and not self.retrying:
            self._break(f"claim 5: an outage was told that never was ({event.reason})")

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
        if self._provider.unannounced:
            raise GuaranteeError(f"claim 3: row {self._provider.unannounced[0].row} was sent, and no event says so")
        life = LifeLog(
            self._plan, calls, self._before, now, self._row_ended, self._confirmed, self._closings, self._openings,
            self.retrying, self.requiring,
        )  # fmt: skip
        self.by_chance += life.check()
        self.good_rows += sum(life.is_good(row) for row in now.keys() - self._before.keys())
        self._check_ends(code, why, now, calm=calm)
        if self.running and not crashed and code != 2:
            self._check_deferred(code, now)

    def _check_kept(self, now: dict[int, dict[str, Any]], *, power: bool, crashed: bool) -> None:
        """Claim 2: what has its line keeps it; a power cut takes at most what was not synced."""
        for row, line in self._before.items():
            dropped = self.retrying and is_resent(line, requiring=self.requiring)
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
        if code in (0, 1) and now.keys() - self.lines(self._machine.durable(OUTPUT), torn=True).keys():
            raise GuaranteeError(f"claim 2: exit {code}, but a power cut would take lines")

    def _paused(self) -> float:
        return max((fate.seconds for fate in self._plan.all_fates), default=0.0)

    def _check_ends(self, code: int, why: str, now: dict[int, dict[str, Any]], *, calm: bool) -> None:
        """Claims 1 and 7: a run that says it is done is done, and it ends in time once nothing goes wrong."""
        missing = self._hashes.keys() - now.keys()
        lost = sum(line["status"] == "failed" for line in now.values())
        if code in (0, 1):
            if missing:
                raise GuaranteeError(f"claim 1: exit {code}, but rows {sorted(missing)[:5]} have no line")
            if (code == 1) != (lost > 0):
                raise GuaranteeError(f"claim 1: exit {code} with {lost} failed rows")
            for row in self._plan.bad:
                if now[row]["status"] != "failed":
                    raise GuaranteeError(f"claim 6: the bad row {row} did not fail")
        elif not missing and calm and code in (3, 75):
            raise GuaranteeError(f"claim 7: exit {code} ({why}) although every row has its line")
        failed = self._ended_locally()
        if code == 75 and "this machine cannot send anything" in why:
            calls = self._provider.sent[self._first_call :]
            if any(call.fate == "good" and call.at > failed[-1].ended and call.ended < math.inf for call in calls):
                raise GuaranteeError(f"claim 14: {why}, though it has sent since")
        if code == 75 and "cannot send what is left" in why:
            own = {call.row for call in failed}
            if missing - own and not any(phase.kind in LOCAL for phase in self._provider.weather.phases):
                raise GuaranteeError(f"claim 14: {why}, though rows {sorted(missing - own)[:5]} were never tried")
        clear = max(self._provider.weather.clear_from, self._world)
        late = self._world + self._loop.time() - clear - self._longest_hint() - self._paused()
        # Of ten attempts of a heavy row nine may never leave, minutes apart.
        if late > AFTERWARDS * (4 if self._plan.heavy else 1):
            raise GuaranteeError(f"claim 7: the run went on for {late:.0f} s of good weather")
        if self._plan.too_slow:
            self._check_given_up(code, now, calm=calm)
        elif code == 3 and calm and self._world >= clear and not self._paused() and not self._is_slow_by_chance(why):
            # A process that was stopped may find that its first calls have timed out, as many as the threshold.
            raise GuaranteeError(f"claim 7: stopped ({why}) in good weather")

    def _is_slow_by_chance(self, why: str) -> bool:
        """Whether a route's few calls for rows all took longer than its time limit, as a tenth does at 3 s."""
        calls, route = self._provider.sent[self._first_call :], why.partition(":")[0]
        ended = [call for call in calls if call.ended < math.inf and not call.check and call.route == route]
        are_slow = bool(ended) and all(call.answered == "timeout" for call in ended)
        return "answers take longer than --timeout" in why and are_slow and len(ended) <= 4

    def _check_given_up(self, code: int, now: dict[int, dict[str, Any]], *, calm: bool) -> None:
        """Claim 7: a tenant that is never answered in time is given up once all other rows are done."""
        failed = sorted(now.keys() & self._plan.bad.keys())
        if failed:
            raise GuaranteeError(f"claim 6: rows {failed[:5]} failed, and are too slow")
        if code == 75 and self._paused() > self._plan.options.get("max_outage", math.inf):
            return  # it slept through the time that it would have waited
        if calm and (code != 3 or self._hashes.keys() - now.keys() - self._plan.bad.keys()):
            raise GuaranteeError(f"claim 7: exit {code} with {len(now)} lines, and a tenant that is too slow")

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
