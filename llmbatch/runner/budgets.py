"""Rate limits of a run and of its routes: what the user set, and what providers report.

A request takes from all of them or from none. Waiting for one is no failure: the row keeps its place in the queue of
its route, and other routes go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.core.events import Event, LimitLearned, Notice
from llmbatch.core.ports import Budget
from llmbatch.core.token_estimate import input_tokens
from llmbatch.pace.budget_wait import NO_WAIT, BudgetWait
from llmbatch.pace.daily import DailyBudget
from llmbatch.pace.delivered import DeliveredRate
from llmbatch.pace.estimate import TokenEstimate
from llmbatch.pace.learned import LearnedLimits, SentTotals
from llmbatch.pace.stated import StatedLimits
from llmbatch.pace.tokens import RateBudget
from llmbatch.runner.attempt import Attempt
from llmbatch.runner.earlier import NOTHING_EARLIER
from llmbatch.runner.options import RunOptions

if TYPE_CHECKING:
    from llmbatch.peers.booked_rate import BookedRate
    from llmbatch.peers.group import Group

__all__ = ["Budgets", "RouteBudgets"]

_MOST_ROUTES = 4096

_Named = tuple[str, Budget]
"""A budget and the limit that it keeps, as the user set it: ``--rpd 1000``; without dashes that of a pool's route."""


class RouteBudgets:
    """The budgets of one route, shared by its tenants."""

    __slots__ = ("daily", "delivered", "estimate", "is_limited", "learned", "others", "stated", "tokens")

    def __init__(self, route: Route, now: float) -> None:
        self.tokens: list[_Named] = []
        """Budgets of tokens."""
        self.others: list[_Named] = []
        """Budgets of requests per minute."""
        self.daily: list[_Named] = []
        """Budgets of requests per day."""
        if route.tpm is not None:
            self.tokens.append((f"tpm {route.tpm:g}", RateBudget(route.tpm, now)))
        if route.rpm is not None:
            self.others.append((f"rpm {route.rpm:g}", RateBudget(route.rpm, now, burst_s=1.0)))
        if route.rpd is not None:
            self.daily.append((f"rpd {route.rpd:g}", DailyBudget(route.rpd)))
        self.learned = LearnedLimits()
        self.stated = StatedLimits()
        self.delivered = DeliveredRate()
        self.estimate = TokenEstimate()
        self.is_limited = bool(self.tokens or self.others or self.daily)
        """Whether anything of it may make a request wait."""


class Budgets:
    """The budgets of one run. Time is an argument; nothing here waits. *emit* is told what was learned.

    *requests_today*: as in :class:`~llmbatch.runner.earlier.EarlierRuns`.
    """

    def __init__(
        self,
        options: RunOptions,
        now: float,
        *,
        emit: Callable[[Event], None],
        requests_today: tuple[int, float] = NOTHING_EARLIER.requests_today,
    ) -> None:
        self._emit = emit
        self._tokens: list[tuple[str, RateBudget | BookedRate]] = []
        self._daily: list[_Named] = []
        if options.tpm:
            self._tokens.append((f"--tpm {options.tpm:g}", RateBudget(options.tpm, now)))
        if options.rpd:
            sent, seconds_ago = requests_today
            self._daily.append((f"--rpd {options.rpd:g}", DailyBudget(options.rpd, sent, now - seconds_ago)))
        self._group: Group | None = None
        self._requests: list[tuple[str, BookedRate]] = []
        """Requests per minute, where processes share them; else the engine's pace keeps to them."""
        self._is_limited = bool(self._tokens or self._daily)
        self._options = options
        self._heeds_headers = not options.ignore_rate_headers
        self._routes: dict[str, RouteBudgets] = {}

    def __repr__(self) -> str:
        return f"<Budgets of {len(self._routes)} routes>"

    def share(self, group: Group, now: float) -> None:
        """Keep to ``--rpm`` and ``--tpm`` together with the other processes of *group*."""
        self._group = group
        self._tokens = []
        self.change_tpm(self._options.tpm, now)
        self.change_rpm(self._options.rpm, now)

    def change_tpm(self, tpm: float | None, now: float) -> None:
        """Keep another ``--tpm`` from now on; None: none. Tokens that were used count."""
        before = self._tokens
        self._tokens = []
        if tpm is not None:
            budget = before[0][1] if before else self._booked("tpm", tpm, now) or RateBudget(tpm, now)
            budget.change(tpm, now)
            self._tokens.append((f"--tpm {tpm:g}", budget))
        self._is_limited = bool(self._tokens or self._daily or self._requests)

    def change_rpm(self, rpm: float | None, now: float) -> None:
        """Keep another ``--rpm`` from now on, where it is shared; None: none."""
        self._requests = []
        if rpm is not None and (rate := self._booked("rpm", rpm, now)) is not None:
            self._requests.append((f"--rpm {rpm:g}", rate))
        self._is_limited = bool(self._tokens or self._daily or self._requests)

    def _booked(self, name: str, per_minute: float, now: float) -> BookedRate | None:
        """A rate that processes share; None where nothing is shared."""
        group = self._group
        if group is None:
            return None
        from llmbatch.peers.booked_rate import BookedRate

        rate = BookedRate(name, per_minute, group.send, members=lambda: group.members)
        group.book_with(name, rate, now)
        return rate

    def of(self, route: Route, now: float) -> RouteBudgets:
        """The budgets of *route*, made now if there are none."""
        known = self._routes.get(route.label)
        if known is None:
            if len(self._routes) >= _MOST_ROUTES:
                del self._routes[next(iter(self._routes))]
            known = self._routes[route.label] = RouteBudgets(route, now)
        return known

    def wait(self, route: Route, request: Request, now: float) -> BudgetWait:
        """How long *request* has to wait, and for which limit; 0 seconds if it may be sent now."""
        of_route = self._routes.get(route.label) or self.of(route, now)
        if not (of_route.is_limited or self._is_limited):
            return NO_WAIT
        longest = NO_WAIT
        if self._tokens or of_route.tokens:
            tokens = of_route.estimate.corrected(request.tokens)
            for name, budget in (*self._tokens, *of_route.tokens):
                wait = budget.wait(tokens, now)
                if wait > longest.seconds:
                    longest = BudgetWait(wait, name)
        for name, budget in (*self._requests, *of_route.others):
            wait = budget.wait(1, now)
            if wait > longest.seconds:
                longest = BudgetWait(wait, name)
        for name, daily in (*self._daily, *of_route.daily):
            wait = daily.wait(1, now)
            if wait > longest.seconds:
                longest = BudgetWait(wait, name, is_quota=True)
        if of_route.learned:
            learned = of_route.learned.wait(_amounts(request), now)
            if learned.seconds > longest.seconds:
                longest = learned
        if of_route.stated:
            stated = of_route.stated.wait(_amounts(request), now)
            if stated.seconds > longest.seconds:
                longest = stated
        if of_route.delivered.is_active:
            delivered = of_route.delivered.wait(now)
            if delivered.seconds > longest.seconds:
                longest = delivered
        return longest

    def reserve(self, attempt: Attempt, now: float) -> None:
        """Take what *attempt*, which is sent now, is expected to use."""
        request, route = attempt.request, attempt.route.route
        of_route = self._routes.get(route.label) or self.of(route, now)
        if self._heeds_headers:  # also before the first answer that reports a limit, which others are sent beside
            attempt.sent = of_route.learned.send(_amounts(request), now)
        if not (of_route.is_limited or self._is_limited):
            return
        if self._tokens or of_route.tokens:
            attempt.reserved = of_route.estimate.corrected(request.tokens)
            for _, budget in (*self._tokens, *of_route.tokens):
                budget.reserve(attempt.reserved, now)
        if of_route.stated:
            of_route.stated.send(_amounts(request), now)
        if of_route.delivered.is_active and attempt.sent is not None:
            attempt.number = attempt.sent[0]
            of_route.delivered.send(attempt.number, now)
        for _, budget in (*self._daily, *self._requests, *of_route.daily, *of_route.others):
            budget.reserve(1, now)

    def settle(self, attempt: Attempt, outcome: Outcome | None, now: float) -> None:
        """Replace what was reserved by what was used, and learn; *outcome* is None for a call that was canceled."""
        if attempt.reserved:
            self._settle_tokens(attempt, outcome, now)
        if outcome is None or attempt.sent is None:
            return
        if attempt.number and outcome.verdict == "success":
            self._learn_delivered(attempt, outcome, now)
        if outcome.verdict == "throttled":
            self._learn_refusal(attempt, outcome, attempt.sent, now)
        elif outcome.limits:
            self._learn(attempt, outcome, attempt.sent, now)

    def _settle_tokens(self, attempt: Attempt, outcome: Outcome | None, now: float) -> None:
        of_route = self.of(attempt.route.route, now)
        used = 0
        if outcome is not None and outcome.verdict == "success":
            used = attempt.reserved
            if outcome.usage is not None:
                used = outcome.usage.input_tokens + outcome.usage.output_tokens
                of_route.estimate.learn(attempt.request.tokens, used)
        for _, budget in (*self._tokens, *of_route.tokens):
            budget.settle(attempt.reserved, used, now)

    def _learn(self, attempt: Attempt, outcome: Outcome, sent: SentTotals, now: float) -> None:
        """Learn from what a good answer reports; *sent*: what was sent up to its call."""
        label, of_route = attempt.route.state.label, self.of(attempt.route.route, now)
        of_route.is_limited = True
        if of_route.delivered.is_active:
            of_route.delivered.stop(now)
        changed, faults = of_route.learned.hear(outcome.limits, sent, attempt.call.sent_at)
        for reported, window in changed:
            self._emit(LimitLearned(now, label, reported.kind, reported.limit, window, "headers"))
        for fault in faults:
            text = f"{label} reports {fault}: this limit is ignored"
            self._emit(Notice(now, "info", text, "--ignore-rate-headers ignores all that it reports"))

    def _learn_refusal(self, attempt: Attempt, outcome: Outcome, sent: SentTotals, now: float) -> None:
        """Learn from a refusal, of which nothing was taken, and which may state a limit that nothing else reports."""
        of_route, amounts, sent_at = self.of(attempt.route.route, now), _amounts(attempt.request), attempt.call.sent_at
        learned, stated = of_route.learned, of_route.stated
        learned.refused(amounts, sent, sent_at, now)
        limits = [limit for limit in outcome.limits if not learned.knows(limit.kind, limit.window_s)]
        if not limits and not stated:
            if not learned and not outcome.lacks_capacity:
                self._learn_delivered(attempt, outcome, now)
            return
        of_route.is_limited = True
        if of_route.delivered.is_active:
            of_route.delivered.stop(now)
        for limit in stated.refused(amounts, sent[0], learned.sent_after(sent), sent_at, now, limits):
            label = attempt.route.state.label
            self._emit(LimitLearned(now, label, limit.kind, limit.limit, limit.window_s, "refusal"))

    def _learn_delivered(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """Learn from an answer which rate is not refused, where nothing states the limit."""
        of_route, pending, call = self.of(attempt.route.route, now), attempt.pending, attempt.call
        if pending is None:
            return
        delivered = of_route.delivered
        is_repeat = pending.last is not None and pending.last.verdict == "throttled"
        if outcome.verdict == "throttled":
            pause = outcome.retry_after or 0.0
            delivered.refused(attempt.number, call.load, call.sent_at, now, is_repeat=is_repeat, pause=pause)
            of_route.is_limited |= delivered.is_active
        elif (limit := delivered.succeeded(attempt.number, call.load, now, is_repeat=is_repeat)) is not None:
            self._emit(LimitLearned(now, attempt.route.state.label, "requests", limit, 60.0, "delivered"))


def _amounts(request: Request) -> SentTotals:
    """What *request* counts as: one request, its tokens, those of its input, and those of its output."""
    tokens, given = request.tokens, input_tokens(request.body)
    return 1.0, tokens, given, max(0, tokens - given)
