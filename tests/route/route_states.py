"""A route without a run around it: calls go and come back when a test says so, on a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmbatch.core.calls import Outcome
from llmbatch.route.base import RoutePolicy
from llmbatch.route.calls import Call, CallKind
from llmbatch.route.decisions import Decision
from llmbatch.route.history import RouteHistory
from llmbatch.route.outage import Candidates
from llmbatch.route.route import RouteState

GOOD = Outcome("success", status=200)
FAILED = Outcome("failure", retry=True, code="http_500", message="broken", status=500)
OVERLOADED = Outcome("failure", retry=True, code="http_503", message="busy", min_backoff=5.0)
TIMEOUT = Outcome("failure", retry=True, code="timeout", message="no answer")
UNREACHABLE = Outcome("failure", retry=True, code="connection_failed", message="refused", unreachable=True)
WEB_PAGE = Outcome("failure", retry=True, code="web_page", message="HTML answer: Sign in", status=200)
EMPTY_BODY = Outcome("failure", retry=True, code="empty_body", message="a success status without a body", status=204)
UNKNOWN_HOST = Outcome("failure", retry=True, code="unknown_host", message="no such host", unreachable=True)
REFUSED = Outcome("rejected", "model", code="http_400", message="bad parameter")
BAD_ROW = Outcome("rejected", "row", row_is_bad=True, code="too_long", message="too long")
CONFLICT = Outcome("rejected", "row", retry=True, code="http_409", message="conflict", status=409)
RAISED = Outcome("rejected", "row", retry=True, code="exception", message="KeyError")
TRY_AGAIN = Outcome("rejected", retry=True, code="http_425", message="too early")
KEY_REFUSED = Outcome("account_refused", "key", key_refused=True, code="http_401", message="invalid key")
NO_MODEL = Outcome("account_refused", "model", code="http_404", message="no such model")
NO_MONEY = Outcome("account_refused", "key", code="insufficient_quota", message="no money", hint="top up")
MAYBE_NO_MONEY = replace(NO_MONEY, certain=False)
THROTTLED = Outcome("throttled", retry=True, code="http_429", message="slow down", status=429)
NO_HANDLES = Outcome("local", "machine", retry=True, code="no_handles", message="too many open files")
NO_NETWORK = Outcome("local", "machine", retry=True, code="no_network", message="network unreachable")

EVERYTHING = Candidates(fresh=True, parked=True, ping=True, good=True)
ROWS_ONLY = Candidates(fresh=True, parked=True, ping=False, good=False)


def waiting(outcome: Outcome, seconds: float) -> Outcome:
    """The same answer, with a wait that the provider named."""
    return replace(outcome, retry_after=seconds)


class Story:
    """One route, and the time. It has answered well before unless *ever* is False."""

    def __init__(
        self,
        *,
        ever: bool = True,
        can_check: bool = False,
        is_tenant: bool = False,
        chance: float = 0.5,
        **options: Any,
    ) -> None:
        settings: dict[str, Any] = {
            "concurrency": 10,
            "max_attempts": 3,
            "failure_threshold": 5,
            "recovery_timeout": 60.0,
            "success_threshold": 1,
            "timeout": 60.0,
        }
        self.now = 1000.0
        self.history = RouteHistory(answered_before=lambda: ever)
        self.route = RouteState(
            "m",
            RoutePolicy(**settings | options),
            history=self.history,
            is_tenant=is_tenant,
            chance=lambda purpose: chance,
        )
        self.route.checks.available = can_check

    def send(self, row: int = 0, kind: CallKind = "row") -> Call:
        """A call that is let out."""
        call = self.route.admit(row, self.now, kind=kind, timeout=60.0)
        assert call is not None
        return call

    def come(self, call: Call, outcome: Outcome) -> list[Decision]:
        """It comes back."""
        return list(self.route.settle(call, outcome, self.now))

    def call(self, row: int, outcome: Outcome, kind: CallKind = "row") -> list[Decision]:
        """One that comes back at once."""
        return self.come(self.send(row, kind), outcome)

    def each(self, rows: Sequence[int], outcome: Outcome) -> list[Decision]:
        """All sent before the first comes back; what is decided in the end."""
        calls = [self.send(row) for row in rows]
        return [self.come(call, outcome) for call in calls][-1]

    def quiet(self, rows: int = 100) -> None:
        """So many other rows succeed at once, of those that are sent from now on."""
        for _ in range(rows):
            self.route.evidence.rate.answered(10**9)

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    def open(self, outcome: Outcome = FAILED) -> None:
        """Rows 1 to 6 fail until the circuit opens."""
        for row in range(1, 7):
            if self.route.is_closed:
                self.call(row, outcome)
        assert not self.route.is_closed

    def go_to_probe(self) -> None:
        """Until a probe may go."""
        due = self.route.next_change(self.now)
        assert due is not None
        self.now = max(self.now, due)

    def probe(self, row: int, outcome: Outcome, kind: CallKind = "row") -> list[Decision]:
        """As soon as one may go, it goes and comes back."""
        self.go_to_probe()
        call = self.send(row, kind)
        assert call.probe
        return self.come(call, outcome)

    def confirm(self) -> None:
        """The smallest request fails until there is an outage."""
        for _ in range(9):
            if not self.route.is_confirmed:
                self.probe(0, FAILED, "ping")
        assert self.route.is_confirmed


def kinds(decisions: Sequence[Decision]) -> list[str]:
    """What was decided, by name."""
    return [type(decision).__name__ for decision in decisions]


def bound_to_two() -> Story:
    """A route that is known to take two requests at once: a third was refused, and both others passed."""
    story = Story()
    first = [story.send(row) for row in (1, 2, 3)]
    story.come(first[2], THROTTLED)
    for call in first[:2]:
        story.come(call, GOOD)
    assert story.route.limit.value == 2
    story.wait(1.0)
    return story
