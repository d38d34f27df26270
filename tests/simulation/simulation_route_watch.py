"""What must hold of runs with several routes and a cache, checked by the events, the servers' log and the output."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from simulation_law import GuaranteeError, evidence_needed
from simulation_servers import DEAD, Place, Sent, Servers

from llmbatch.core.events import (
    CallEnded,
    CallSent,
    CircuitChanged,
    Event,
    OutageEnded,
    Progress,
    RetryPlanned,
    RowFinished,
    RowMoved,
    RowParked,
    RowsRequeued,
    RunStopping,
    Throttled,
)
from llmbatch.inputs.rows import line_digest

if TYPE_CHECKING:
    from simulation_route_plan import RoutePlan

RETRIES_AT_ONCE = 10.0
RETRIES_PER_SECOND = 1.0
RETRY_SHARE = 0.1


_tenant_of = re.compile(r" \[tenant [^\]]*\]$")
_answer = re.compile(r"answer to item (\d+) of (.+) in call (\d+)")


class RouteWatch:
    """Looks on. ``broken`` is the first violation that was seen where it could not be raised."""

    def __init__(self, plan: RoutePlan, servers: Servers) -> None:
        self.broken: GuaranteeError | None = None
        self.by_chance = 0
        self.unlucky = 0
        """Good rows that failed although what others met meanwhile asks for more attempts."""
        self.good_rows = sum(not row.bad for row in plan.rows)
        self._plan = plan
        self._servers = servers
        self._by_label = {place.label: place for place in plan.places}
        self._hashes = [line_digest(line) for line in plan.lines()]
        self._lines: dict[int, dict[str, Any]] = {}

    def begin(self, life: int, world: float, lines: dict[int, dict[str, Any]]) -> None:
        self._life, self._world, self._now = life, world, 0.0
        self._first_call = len(self._servers.sent)
        self._lines = lines
        self._servers.announced.clear()
        self._state: dict[str, str] = {}
        self._paused: dict[str, float] = {}
        self._probing: Counter[str] = Counter()
        self._parked: dict[int, tuple[str, float]] = {}
        self._flying: dict[int, str] = {}
        self._flying_items: dict[int, int] = {}
        self._known: set[int] = set()
        """Rows that have been sent, or have waited."""
        self._sent_rows: set[int] = set()
        self._retrying: set[int] = set()
        self._retries: dict[str, tuple[float, float]] = {}
        self._beyond: dict[str, float] = {}
        self._closed_at: dict[str, float] = {}
        self._good: dict[str, list[float]] = defaultdict(list)
        self._finished: dict[int, RowFinished] = {}
        self._left: dict[int, set[str]] = defaultdict(set)
        """Routes that a row left though they took rows: it had failed there, so that it waits for another."""
        self._news = False
        self._all_read = self._is_stopping = False
        self._firsts: Counter[str] = Counter()

    def _break(self, text: str) -> None:
        if self.broken is None:
            self.broken = GuaranteeError(f"{text} (life {self._life}, {self._now:.3f} s)")

    @staticmethod
    def _base(label: str) -> str:
        return _tenant_of.sub("", label)

    def _label(self, place: Place, row: int) -> str:
        spec = self._plan.rows[row - 1]
        if not self._plan.has_tenants or spec.kind != "plain":
            return place.label
        return f"{place.label} [tenant t{spec.tenant}]"

    def _ways(self, row: int) -> list[str]:
        return [self._label(place, row) for place in self._plan.ways(self._plan.rows[row - 1])]

    def observe(self, event: Event) -> None:
        if event.at > self._now:
            if self._news and not self._is_stopping:
                self._check_waiting()
            self._now = event.at
        match event:
            case CallSent():
                self._on_call(event)
            case CallEnded():
                self._on_answer(event)
            case CircuitChanged():
                self._state[event.route] = event.new
                self._news = True
                if event.new == "closed":
                    self._closed_at[event.route] = event.at
                    self._good[event.route].clear()
            case OutageEnded():
                self._news = True
            case Progress():
                self._all_read = self._all_read or event.exhausted
            case RunStopping():
                self._is_stopping = True  # nothing is moved or sent any more
            case RetryPlanned():
                self._known.add(event.row)
                self._retrying.add(event.row)
                self._parked.pop(event.row, None)
            case RowParked():
                self._known.add(event.row)
                self._retrying.discard(event.row)
                self._parked[event.row] = event.route, event.at
                self._news = True
            case RowMoved():
                self._known.add(event.row)
                self._retrying.discard(event.row)
                self._parked.pop(event.row, None)
                if self._state.get(event.route, "closed") == "closed":
                    self._left[event.row].add(event.route)
                if event.to not in self._ways(event.row):
                    self._break(f"routes: row {event.row} was moved to {event.to}, which cannot carry it")
            case RowsRequeued():
                self._parked = {row: where for row, where in self._parked.items() if where[0] != event.route}
            case Throttled():
                # Rows are parked for short waits too: where capacity lacks, and where nothing has passed between them.
                self._paused[event.route] = max(self._paused.get(event.route, 0.0), event.at + event.pause)
                self._good[event.route].clear()  # its pace has to be regained
                if self._plan.arguments.get("on_outage") == "defer":
                    self._paused[event.route] = math.inf  # it may be left for a wait beyond --recovery-timeout
            case RowFinished():
                self._on_end(event)

    # Calls.

    def _on_call(self, event: CallSent) -> None:
        route, row, at = event.route, event.row, event.at
        self._servers.announced.append((self._base(route), row))
        if self._state.get(route, "closed") != "closed":
            if not event.probe:
                self._break(f"probes: a call for row {row} was sent to {route}, whose circuit is not closed")
            if self._probing[route]:
                self._break(f"probes: two at a time at {route}")
        self._probing[route] += event.probe
        if not row:
            return
        self._parked.pop(row, None)
        if row in self._flying:
            self._break(f"routes: row {row} is in flight twice")
        if route not in self._ways(row):
            self._break(f"routes: row {row} was sent to {route}, which cannot carry it")
        if row in self._finished or row in self._lines:
            self._break(f"lines: row {row} was sent again after its end")
        item = self._plan.rows[row - 1].item
        if self._plan.cache_fates and item in self._flying_items and self._failures_of(item) < 2:
            self._break(f"cache: rows {self._flying_items[item]} and {row} are equal, and both in flight")
        self._flying[row] = route
        self._flying_items[item] = row
        is_new = row not in self._known
        self._count_retries(event, is_new=is_new)
        if is_new and not event.probe:
            self._firsts[route] += 1
            self._check_returned(route, row, at)
        self._known.add(row)
        self._sent_rows.add(row)

    def _count_retries(self, event: CallSent, *, is_new: bool) -> None:
        """Retries are a tenth of the traffic and a floor, for as long as new rows can be sent instead."""
        route, at = event.route, event.at
        left, since = self._retries.get(route, (RETRIES_AT_ONCE, at))
        left = min(RETRIES_AT_ONCE, left + (at - since) * RETRIES_PER_SECOND)
        if event.row in self._retrying and not event.probe:
            if left < 1.0 - 1e-6:
                self._beyond[route] = at
            left = max(0.0, left - 1.0)
        else:
            left = min(RETRIES_AT_ONCE, left + RETRY_SHARE)
            # Rows that were read before the input ended wait in the same queue, for a turn of their own.
            if is_new and not event.probe and self._beyond.get(route) == at and not self._all_read:
                self._break(f"retries: one beyond the budget of {route} was sent though row {event.row} could go")
        self._retries[route] = left, at
        self._retrying.discard(event.row)

    def _check_returned(self, route: str, row: int, at: float) -> None:
        """New rows go to the first route again once it has recovered and regained its pace."""
        ways = self._plan.ways(self._plan.rows[row - 1])
        first = [place for place in ways if place.rank == ways[0].rank]
        if self._plan.has_tenants or len(first) > 1 or self._base(route) == first[0].label:
            return
        label = self._label(first[0], row)
        if self._state.get(label, "closed") != "closed" or self._is_lost(first[0]) or self._is_paused(label):
            return
        opened = self._closed_at.get(label, 0.0)
        fine = self._servers.fine_since(first[0], self._world + at)
        many = self._plan.arguments["concurrency"]
        most = many if isinstance(many, int) else 1000
        # What was refused for its load grows by one a round trip.
        enough = 5 + (most * (most + 1) // 2 if "flex" in label else most)
        if fine >= 5.0 and at - opened >= 5.0 and len(self._good[label]) >= enough:
            self._break(f"routes: new row {row} goes to {route}, though {label} has recovered")

    def _on_answer(self, event: CallEnded) -> None:
        route, row = event.route, event.row
        if event.probe:
            self._probing[route] -= 1
        if event.verdict is None and (self._base(route), row) in self._servers.announced:
            self._servers.announced.remove((self._base(route), row))  # it was canceled before it was sent
        if event.verdict == "success":
            self._good[route].append(event.at)
        elif event.code == "resource_unavailable":
            self._good[route].clear()  # its pace has to be regained
        if row:
            self._flying.pop(row, None)
            item = self._plan.rows[row - 1].item
            if self._flying_items.get(item) == row:
                del self._flying_items[item]

    # Rows that wait, and rows that end.

    def _is_lost(self, place: Place) -> bool:
        """Whether the run may have left the place for good: its account was refused to some call of this life."""
        return any(
            call.place.key == place.key and call.phase.kind in DEAD | {"disguised", "hang"}
            for call in self._servers.sent[self._first_call :]
        )

    def none_is_left(self) -> bool:
        """Whether each place was refused in this life, and one of them for good after it had answered."""
        revoked = any(
            phase.kind in DEAD and phase.end == math.inf for at in self._plan.weather.values() for phase in at
        )
        return revoked and all(map(self._is_lost, self._plan.places))

    def _is_paused(self, label: str) -> bool:
        return self._now <= self._paused.get(label, -1.0) + 1e-6

    def _check_waiting(self) -> None:
        """No row is parked while some route that can carry it takes rows."""
        self._news = False
        for row, (where, _) in self._parked.items():
            for place in self._plan.ways(self._plan.rows[row - 1]):
                label = self._label(place, row)
                if self._state.get(label, "closed") != "closed" or self._is_paused(label) or self._is_lost(place):
                    continue
                if label in self._left[row] or (label == where and label not in self._state):
                    continue  # it was given up, or names a wait
                self._break(f"routes: row {row} is parked at {where} while {label} takes rows")

    def _calls_of(self, row: int) -> list[Sent]:
        return [call for call in self._servers.sent[self._first_call :] if call.row == row]

    def _failures_of(self, item: object) -> int:
        """Rows of *item* that have failed; once two have, equal rows no longer wait for one another."""
        failed = (row for row, ended in self._finished.items() if ended.status == "failed")
        return sum(self._plan.rows[row - 1].item == item for row in failed)

    def _on_end(self, event: RowFinished) -> None:
        row = event.row
        if row in self._finished or row in self._lines:
            self._break(f"lines: row {row} ended twice")
        self._finished[row] = event
        self._parked.pop(row, None)
        if event.status == "success" and event.is_cached:
            if not self._plan.cache_fates:
                self._break(f"cache: row {row} is cached, and there is no cache")
            if row in self._sent_rows:
                self._break(f"cache: row {row} was sent, and is cached")
        elif event.status == "success":
            answer = next(
                (call for call in self._servers.sent[self._first_call :] if self._is_answer(call, event)), None
            )
            if answer is not None and not answer.row:  # it was taken for a health check with the row's request
                for call in self._calls_of(row):
                    call.row = row if call.ended < math.inf else 0
                answer.row = row
            elif answer is None:
                self._break(f"lines: {event.route} is told to have answered row {row}, and has not")
        elif event.status == "failed" and not self._plan.rows[row - 1].bad:
            self._check_failure(event)

    def _is_answer(self, call: Sent, event: RowFinished) -> bool:
        """Whether the row has ended with this call."""
        is_of_row = call.row in (event.row, 0) and call.item == self._plan.rows[event.row - 1].item
        is_now = abs(call.ended - self._world - event.at) < 1e-6
        return is_of_row and is_now and call.is_good and call.place.label == self._base(event.route)

    def _check_failure(self, event: RowFinished) -> None:
        """A good row ends as failed only while none of its places has been well for long, and if it is told so.

        That is with --on-outage fail; or it is one of the few rows of a tenant, which are judged by their own attempts.
        """
        now, row = self._world + event.at, event.row
        fails = self._plan.arguments.get("on_outage") == "fail"
        if fails or self._plan.has_tenants:
            needed = 1.2 * self._plan.arguments["recovery_timeout"] + 2 * self._plan.arguments["timeout"] + 60.0
            ways = self._plan.ways(self._plan.rows[row - 1])
            well = [
                place for place in ways if self._servers.fine_since(place, now) > needed and not self._is_lost(place)
            ]
            if not [place for place in well if not self._is_paused(self._label(place, row))]:
                return
        if self._is_by_chance(event, now):
            self.by_chance += 1
            return
        if self._is_unlucky(event):
            self.unlucky += 1
            return
        self._break(f"rows: good row {row} ended as failed ({event.code}) at {event.route}")

    def _is_by_chance(self, event: RowFinished, now: float) -> bool:
        """Whether it met random errors as often as what the other rows of its route met meanwhile asks for."""
        label, arguments = self._base(event.route), self._plan.arguments
        here = [call for call in self._servers.sent[self._first_call :] if call.place.label == label]
        own = [call for call in here if call.row == event.row and call.phase.kind == "errors"]
        if not own or self._plan.has_tenants:
            return False
        met = [call for call in here if call.row != event.row and own[0].at <= call.ended <= now]
        rates = [not call.is_good for call in met if not call.row or not self._plan.rows[call.row - 1].bad]
        return len(own) >= evidence_needed(rates, arguments.get("max_attempts", 3))

    def _is_unlucky(self, event: RowFinished) -> bool:
        """Whether each of its attempts met what other rows meet at random: that may be, once in 100,000 rows."""
        label, arguments = self._base(event.route), self._plan.arguments
        own = [
            call
            for call in self._servers.sent[self._first_call :]
            if call.place.label == label and call.row == event.row and not call.is_good
        ]
        is_random = all(call.phase.kind in ("fine", "errors", "throttle") for call in own)
        return is_random and len(own) >= arguments.get("max_attempts", 3) and not self._plan.has_tenants

    # Between lives.

    def lines(self, data: bytes) -> dict[int, dict[str, Any]]:
        """One whole line per row; only a crash may leave a torn end."""
        found: dict[int, dict[str, Any]] = {}
        for line in data.split(b"\n")[:-1]:
            if b"\0" in line:
                break
            parsed = json.loads(line)
            if parsed["row"] in found:
                raise GuaranteeError(f"lines: row {parsed['row']} has two")
            found[parsed["row"]] = parsed
        return found

    def end(self, code: int, why: str, lines: dict[int, dict[str, Any]], *, calm: bool) -> None:
        if self.broken is not None:
            raise self.broken
        if self._servers.stray and calm:
            raise GuaranteeError(f"routes: {self._servers.stray}")
        for row, line in lines.items():
            if row not in self._lines:
                self._check_line(row, line)
        missing = [row for row in range(1, len(self._plan.rows) + 1) if row not in lines]
        failed = sum(line["status"] == "failed" for line in lines.values())
        if code in (0, 1) and (missing or (code == 1) != (failed > 0)):
            raise GuaranteeError(f"lines: exit {code} with {failed} failed rows, and rows {missing[:5]} missing")
        if code in (0, 1):
            kept = [row for row, spec in enumerate(self._plan.rows, 1) if spec.bad and lines[row]["status"] != "failed"]
            if kept:
                raise GuaranteeError(f"rows: bad rows {kept[:5]} did not fail")
            self._check_weights()

    def _check_line(self, row: int, line: dict[str, Any]) -> None:
        """``model``, ``route``, ``tier`` and ``cached`` are those of what answered."""
        spec = self._plan.rows[row - 1]
        if line["hash"] != self._hashes[row - 1]:
            raise GuaranteeError(f"lines: that of row {row} has the hash of another")
        if line["status"] != "success":
            if line.get("cached"):
                raise GuaranteeError(f"cache: the failed row {row} is cached")
            return
        found = _answer.fullmatch(line["text"])
        call = None if found is None else self._servers.sent[int(found[3]) - 1]
        if found is None or call is None or int(found[1]) != spec.item or found[2] != call.place.label:
            raise GuaranteeError(f"lines: row {row} has the answer {line['text']!r}")
        place = call.place
        if line["model"] != place.model:
            raise GuaranteeError(f"lines: row {row} was answered by {place.model}, and its line says {line['model']}")
        if line.get("cached"):
            return
        if call.row != row:
            raise GuaranteeError(f"lines: row {row} has the answer of row {call.row}, and its line does not say so")
        first = self._plan.ways(spec)[0]
        ranked = [other for other in self._plan.ways(spec) if other.rank == first.rank]
        is_plain = len(ranked) == 1 and place is first and "tier" not in self._plan.arguments
        route = line.get("route")
        if (route is None) != is_plain or (route is not None and route != place.label):
            raise GuaranteeError(f"lines: row {row} was answered by {place.label}, and its line says {route}")
        tier = line.get("tier")
        tells = place.model.startswith(("openai/", "groq/")) and "tier" in self._plan.arguments
        if (tier or "standard") != (place.tier or "standard") or (tells and tier is None):
            raise GuaranteeError(f"lines: row {row} was answered by {place.label}, and its line has the tier {tier}")

    def _check_weights(self) -> None:
        """The members of a pool that is well get rows by their weights."""
        plan = self._plan
        pool = [place for place in plan.places if place.rank == plan.places[0].rank]
        routes = plan.arguments["pools"].get("p", {}).get("routes", [])
        is_calm = not any(plan.weather[place.label] for place in pool)
        total = sum(self._firsts[place.label] for place in pool)
        is_calm = is_calm and isinstance(plan.arguments["concurrency"], int)
        if len(pool) < 2 or not is_calm or any("rpm" in route for route in routes) or self._life > 1:
            return
        weights = sum(place.weight for place in pool)
        for place in pool:
            share = total * place.weight / weights
            if abs(self._firsts[place.label] - share) > 2.0 + 0.05 * total:
                raise GuaranteeError(
                    f"pools: {place.label} had {self._firsts[place.label]} of {total} rows, its share is {share:.1f}"
                )

    def last_wait(self) -> float:
        """The longest wait that any phase names, in seconds."""
        hints = [phase.hint or 0.0 for phases in self._plan.weather.values() for phase in phases]
        return max((hint for hint in hints if hint < math.inf), default=0.0)
