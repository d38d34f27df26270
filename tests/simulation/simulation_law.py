"""What the calls of one life must obey, worked out anew from the provider's own log: claims 3 to 6 and 8.

The numbers of the law (docs/evidence.md) are stated here once more, so that the product is not its own witness.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulation_provider import REFUSING, TOTAL, Sent

if TYPE_CHECKING:
    from simulation_story import Plan

CHANCE = 1e-5
"""A good row ends as failed by chance less often."""

LEAST_RATE = 0.01
MOST_RATE = 0.9

TOLERANCE = 0.6
"""The share of the rate really met that an estimate from few answers may be down at."""

FEW_ANSWERS = 30
"""Failed attempts that may end a row where none of the others' failed, but few of them are known."""

CHECK_SECONDS = 1.0

MOST_CLOSINGS = 10
"""How often one outage may be thought over: what passes beside the rows that fail is believed less each time."""


class GuaranteeError(AssertionError):
    """A guarantee does not hold."""


def attempts_needed(rate: float, least: int) -> int:
    """Failed attempts that end a row where attempts of good rows fail with *rate*."""
    rate = min(max(rate, LEAST_RATE), MOST_RATE)
    return max(least, math.ceil(math.log(CHANCE) / math.log(rate)))


def evidence_needed(failed: Sequence[bool], least: int) -> int:
    """The same where *failed* tells of each attempt of the others: what few met may be far from their rate."""
    rate = sum(failed) / len(failed) if failed else 0.0
    margin = 2.0 * math.sqrt(rate * (1.0 - rate) / len(failed)) if failed else 0.0
    return attempts_needed(min(TOLERANCE * rate, rate - margin), least)


def rows_to_open(rate: float, beside: int, chance: float) -> int:
    """Fresh rows that fail until chance explains it less than *chance*, *beside* of them being in flight."""
    rate = min(max(rate, LEAST_RATE), MOST_RATE)
    for rows in range(1, 1000):
        ways = math.lgamma(rows + beside + 1) - math.lgamma(rows + 1) - math.lgamma(beside + 1)
        if ways + rows * math.log(rate) < math.log(chance):
            return rows
    return 1000


def most_probes(seconds: float, longest: float) -> float:
    """Probes in an outage: a tenth of its length apart, from a second to *longest*, up to a tenth sooner."""
    at, count = 0.0, 1.0
    while at < min(seconds, 10 * longest):
        wait = max(min(1.0, longest), min(longest, at / 10))
        at += wait * 0.9 if wait > 1.0 else wait
        count += 1
    return count + max(0.0, seconds - at) / (0.9 * longest)


def is_resent(line: dict[str, Any], *, requiring: bool) -> bool:
    """Whether a run that resends failed rows (and, *requiring*, those whose answers were cut) drops *line*."""
    return line["status"] == "failed" or (requiring and line.get("finish_reason") == "length")


@dataclass
class LifeLog:
    """One life, as it was seen from outside. Times are the world's."""

    plan: Plan
    calls: list[Sent]
    before: dict[int, dict[str, Any]]
    now: dict[int, dict[str, Any]]
    ended: dict[int, float]
    """When the rows that ended in this life did."""
    confirmed: dict[str, list[tuple[float, float]]]
    """When each route's circuit was open, and known to be so with good reason."""
    closings: dict[str, list[float]]
    openings: int
    retrying: bool
    requiring: bool = False

    def __post_init__(self) -> None:
        self.by_route: dict[str, list[Sent]] = defaultdict(list)
        for call in self.calls:
            self.by_route[call.route].append(call)
        self.known_good = {row for row, line in self.before.items() if line["status"] == "success"}

    def is_good(self, row: int) -> bool:
        return row > 0 and row not in self.plan.bad

    def check(self) -> int:
        """Check all; how many good rows failed, by chance as far as can be told."""
        self._check_finished_rows()
        self._check_checks()
        self._check_attempts()
        for route, calls in self.by_route.items():
            self._check_hints(route, calls)
            self._check_outages(route, calls)
        return self._check_failed()

    def _check_finished_rows(self) -> None:
        """Claim 3: no call for a row that has its line, but to learn whether the route works."""
        for call in self.calls:
            line = self.before.get(call.row)
            ended = self.ended.get(call.row, math.inf)
            if call.check:
                if call.row and call.row not in self.known_good and ended > call.at:
                    raise GuaranteeError(f"claim 3: row {call.row} was sent as a check before it succeeded")
            elif line is not None and not (self.retrying and is_resent(line, requiring=self.requiring)):
                raise GuaranteeError(f"claim 3: row {call.row} was sent again although it has its line")
            elif call.at > ended + 1e-9 and call.row in self.now:
                raise GuaranteeError(f"claim 3: row {call.row} was sent after its line was written")

    def _check_checks(self) -> None:
        """Claim 3: at most one such call a second on a route, one at a time."""
        for route, calls in self.by_route.items():
            last = -math.inf
            for call in calls:
                if call.check and not call.probe and call.at < last + CHECK_SECONDS - 1e-6:
                    raise GuaranteeError(f"claim 3: {route} was checked again {call.at - last:.3f} s after a check")
                if call.check and not call.probe:
                    last = call.ended

    def _good_attempts(self, route: str, *, apart_from: int = 0) -> list[Sent]:
        """Attempts of rows that nothing is wrong with, whatever they met."""
        return [
            call
            for call in self.by_route[route]
            if self.is_good(call.row) and call.row != apart_from and not call.check and call.fate != "local"
        ]

    def _usual_attempts(self, route: str) -> list[Sent]:
        """What a run takes the usual rate of errors from: nobody knows a bad row before it has failed once."""
        first = {call.row: call.number for call in reversed(self.by_route[route]) if not call.check}
        return [
            call
            for call in self.by_route[route]
            if call.row
            and not call.check
            and call.fate != "local"
            and (self.is_good(call.row) or first[call.row] == call.number)
        ]

    def _check_attempts(self) -> None:
        """Claim 4: a row that fails by itself is sent as often as the law asks for, and not much more."""
        most: dict[str, float] = {}
        for route in self.by_route:
            rate = _highest_rate(self._good_attempts(route))
            checks = [call for call in self.by_route[route] if call.check and not call.probe and call.fate != "local"]
            if any(call.fate == "good" for call in checks):  # where few rows are left, they tell of the rate
                rate = max(rate, _highest_rate(checks))
            # An estimate from few answers may be far too high.
            needed = attempts_needed(
                min(MOST_RATE, 2 * rate + 0.1), max(FEW_ANSWERS, self.plan.options["max_attempts"])
            )
            most[route] = needed + 4 + 4 * self.openings
        charged: Counter[tuple[str, int]] = Counter()
        for call in self.calls:
            if call.row and not call.check and not call.probe and call.fate in ("bad", "random"):
                charged[call.route, call.row] += 1
        for (route, row), count in charged.items():
            bound = most[route]
            throttled = [call for call in self.by_route[route] if call.fate == "throttled"]
            if self.plan.bad.get(row) == "429":  # excused now and then, and wherever others are throttled too
                bound += 20 + 1.1 * len(throttled)
            elif any(call.row == row for call in throttled):  # judged by how often requests are throttled, too
                bound += 20 + sum(call.check for call in throttled)
            if count > bound:
                raise GuaranteeError(
                    f"claim 4: row {row} failed {count} times by itself in one life, the bound is {bound:.0f}"
                )

    def _check_hints(self, route: str, calls: list[Sent]) -> None:
        """Claim 8: a wait that a row's own answer named is kept; the route's if chance does not explain how many did.

        What a call named is disproved by a good answer to one that was sent later, also to the smallest request.
        """
        own: dict[int, float] = {}
        heard: dict[int, float] = {}
        rows: dict[int, int] = {}
        failed: dict[int, int] = {}
        alone: set[int] = set()
        # A tenant's parked rows go again when the first of them may.
        slack = 1.0 + self.plan.latency if "circuit_key" in self.plan.options else 1e-6
        answers = sorted((call for call in calls if call.ended < math.inf), key=lambda call: call.ended)
        at = 0
        usual = self._usual_attempts(route)
        newest = 0
        for call in calls:
            while at < len(answers) and answers[at].ended < call.at - 1e-9:
                answer = answers[at]
                at += 1
                if answer.fate != "good" and not answer.hint_until:
                    failed[answer.number] = answer.row
                if answer.hint_until:
                    # A row that was throttled or failed while a later call passed speaks against no route any more.
                    if answer.row not in alone and answer.number > newest:
                        heard[answer.number] = answer.hint_until
                        rows[answer.number] = answer.row
                    own[answer.row] = max(own.get(answer.row, 0.0), answer.hint_until)
                elif answer.fate == "good":
                    newest = max(newest, answer.number)
                    alone.update(rows[number] for number in heard if number < newest)
                    alone.update(row for number, row in failed.items() if number < newest)
                    heard = {number: until for number, until in heard.items() if number > newest}
            if call.row and not call.check and call.at < own.get(call.row, 0.0) - slack:
                early = own[call.row] - call.at
                raise GuaranteeError(f"claim 8: row {call.row} was sent {early:.3f} s before the time named to it")
            # What ends in the moment of this call may have allowed it.
            named = heard
            for answer in answers[at:]:
                if answer.ended > call.at + 1e-9:
                    break
                if answer.fate == "good":
                    named = {number: until for number, until in named.items() if number > answer.number}
            if not named:
                continue
            beside = max(0, sum(newest < other.number < call.number for other in calls) - len(named))
            throttled = all(other.fate == "throttled" for other in calls if other.number in named)
            rate = 0.02 if throttled else _highest_rate([other for other in usual if other.number <= newest][-200:])
            needed = max(2, rows_to_open(max(0.02, rate), beside, 1e-3))
            # Health checks and rows are judged apart: one of each says less than two.
            needed += len({other.check for other in calls if other.number in named}) - 1
            waits = sorted(named.values(), reverse=True)
            # Answers to calls that were in flight together name times that are as far apart as they are.
            if len(waits) >= needed and call.at < waits[needed - 1] - 5 * self.plan.latency - 1.0:
                early = waits[needed - 1] - call.at
                raise GuaranteeError(
                    f"claim 8: call {call.number} was sent {early:.3f} s before the time that {len(waits)} calls named"
                )

    def _check_outages(self, route: str, calls: list[Sent]) -> None:
        """Claim 5: few calls meet an outage: what was in flight, what it takes to be sure, and probes."""
        options = self.plan.options
        by_phase: dict[str, list[Sent]] = defaultdict(list)
        for call in calls:
            if call.phase.kind in TOTAL and call.fate != "local":
                by_phase[str(call.phase)].append(call)
        for name, met in by_phase.items():
            first, last = met[0], met[-1]
            before = [call for call in self._good_attempts(route) if call.number < first.number]
            rate = _highest_rate(before[-200:])
            sure = max(
                options["failure_threshold"],
                rows_to_open(rate, 0, 1e-6),
                rows_to_open(rate, options["concurrency"], 1e-2),
            )
            # Rows that failed before say nothing: each is sent once or twice more.
            known = len({call.row for call in calls if call.number < first.number and call.fate != "good"})
            closings = sum(first.at < at <= last.at for at in self.closings.get(route, ()))
            # Refused rows are answers, and so is the smallest request where it passes beside them; and where no row was
            # ever answered well, refusals end the run before long.
            doubtful = self.plan.smallest == "passes"
            is_known = any(call.fate == "good" and call.row and not call.check for call in calls)
            if not doubtful and is_known and closings > MOST_CLOSINGS + (last.at - first.at) / 600:
                raise GuaranteeError(f"claim 5: the circuit closed {closings} times within the outage {name}")
            opening = options["concurrency"] + 2 * sure + 2 * known + 4
            if doubtful:  # it proves the failures of fewer rows than the threshold, again and again
                opening += FEW_ANSWERS * options["failure_threshold"]
            probes = most_probes(last.at - first.at, options["recovery_timeout"])
            # A smallest request that passes is followed by a finished row's at once; at most one probe of three is one.
            passed = min(sum(call.fate == "good" and call.row == 0 for call in met), probes / 3)
            bound = (1 + closings) * opening + probes + passed
            if len(met) > bound:
                raise GuaranteeError(
                    f"claim 5: {len(met)} calls met the outage {name} in one life, the bound is {bound:.0f}"
                )

    def _check_failed(self) -> int:
        """Claim 6: a good row fails by chance only, and then by more attempts than chance explains."""
        last = self._last_of_tenants()
        by_chance = 0
        for row, line in self.now.items():
            if row in self.before and self.before[row] == line:
                continue
            bad = self.plan.bad.get(row)
            if self._is_cut(row, line):
                continue
            if line["status"] == "success":
                if bad:
                    raise GuaranteeError(f"claim 6: the bad row {row} succeeded")
                if line["text"] != f"answer to {row}":
                    raise GuaranteeError(f"claim 6: row {row} has the answer {line['text']!r}")
            elif not bad and row not in last and not self._ended_in_outage(row):
                by_chance += self._check_evidence(row, line)
        return by_chance

    def _is_cut(self, row: int, line: dict[str, Any]) -> bool:
        """Claim 6: a cut answer says so in its line, and is a success unless its run asks for whole ones."""
        body = (line["response"] or {}).get("body") or {}
        is_cut = bool(body.get("choices")) and body["choices"][0]["finish_reason"] == "length"
        if is_cut != (line.get("finish_reason") == "length"):
            raise GuaranteeError(f"claim 6: the answer to row {row} is {'cut' if is_cut else 'whole'}: {line}")
        truncated = line["status"] == "failed" and line["error"]["code"] == "truncated"
        if truncated != (is_cut and self.requiring) or (is_cut and line["text"] != f"answer to {row}"):
            raise GuaranteeError(f"claim 6: the answer to row {row} was cut: {is_cut}, but its line is {line}")
        return is_cut

    def _ended_in_outage(self, row: int) -> bool:
        """With ``--on-outage fail``: whether the row ended in an outage that was confirmed."""
        if self.plan.options.get("on_outage") != "fail":
            return False
        at = self.ended.get(row, -1.0)
        return any(since <= at <= until for times in self.confirmed.values() for since, until in times)

    def _check_evidence(self, row: int, line: dict[str, Any]) -> int:
        """Whether chance is to blame, 1 or 0."""
        ended = self.ended.get(row, math.inf)
        own = [call for call in self.calls if call.row == row and not call.check]
        route = own[-1].route if own else ""
        good = [call.number for call in self.by_route[route] if call.fate == "good" and call.ended <= ended + 1e-9]
        newest = max(good, default=0)
        failed = [call for call in own if call.fate not in ("good", "local") and not call.probe]
        # Fewer rows than the threshold are judged by the word of the smallest request, good whatever they meet.
        vouched = self.plan.smallest == "passes"
        proven = [call for call in failed if call.number < newest and (vouched or not self._is_outage(call))]
        others = self._good_attempts(route, apart_from=row)
        since = own[0].at if own else 0.0
        met = [call.fate != "good" for call in others if since <= call.ended <= ended and call.fate != "total"]
        least = self.plan.options["max_attempts"]
        needed = least if vouched else evidence_needed(met, least)
        if len(proven) < needed:
            raise GuaranteeError(
                f"claim 6: row {row} failed ({line['error']}), but {len(proven)} attempts speak against it, "
                f"it takes {needed} where {sum(met)} of {len(met)} attempts of others failed"
            )
        return not vouched

    def _is_outage(self, call: Sent) -> bool:
        """Whether the call met an outage that so many rows met that it had to be noticed."""
        if call.fate not in ("total", "spent") or (call.phase.kind in REFUSING and call.answered == "timeout"):
            return False
        met = {other.row for other in self.by_route[call.route] if other.phase == call.phase and not other.check}
        return bool(len(met) >= self.plan.options["failure_threshold"])

    def _last_of_tenants(self) -> set[int]:
        """No smallest request speaks for a tenant: the rows that end last are judged by their attempts alone."""
        last: set[int] = set()
        if "circuit_key" not in self.plan.options:
            return last
        by_route: dict[str, dict[int, float]] = defaultdict(dict)
        for call in self.calls:
            if call.row and not call.check:
                by_route[call.route][call.row] = self.ended.get(call.row, math.inf)
        for rows in by_route.values():
            last.update(sorted(rows, key=lambda row: (rows[row], row))[-2 * self.plan.options["failure_threshold"] :])
        return last


def _rate(calls: Iterable[Sent]) -> float:
    """The share of *calls* that failed."""
    fates = [call.fate != "good" for call in calls]
    return sum(fates) / len(fates) if fates else 0.0


def _highest_rate(calls: list[Sent]) -> float:
    """The highest share of failures that somebody could have measured over twenty of *calls* or more, in order."""
    if len(calls) <= 20:
        return max(_rate(calls), sum(call.fate != "good" for call in calls) / 20)
    return max(_rate(calls[at : at + 20]) for at in range(0, len(calls) - 19, 5))
