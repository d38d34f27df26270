"""What a route has answered so far, and other facts that its tenants share."""

from __future__ import annotations

import math
from collections.abc import Callable

from llmbatch.core.calls import Outcome, Request
from llmbatch.route.account import AccountRefusals

__all__ = ["RouteHistory"]


class RouteHistory:
    """Facts about a route that its tenants share."""

    __slots__ = (
        "_answered_before",
        "_before",
        "answered",
        "failing",
        "good",
        "good_sent_at",
        "heard_at",
        "in_flight",
        "name",
        "reached",
        "refusals",
        "slow",
        "throttled",
        "told",
    )

    def __init__(self, name: str = "", *, answered_before: Callable[[], bool] = lambda: False) -> None:
        self.name = name
        """Label of the route, without a tenant."""
        self.answered = False
        """Whether a call has succeeded in this run."""
        self.good_sent_at = -math.inf
        """When the last of the calls that have succeeded was sent, in seconds."""
        self.heard_at = -math.inf
        """When a tenant's call was last answered, be it with a refusal, before any has succeeded, in seconds."""
        self.good: Request | None = None
        """A small request of some tenant that succeeded; where it fails, no tenant of the route is answered."""
        self.in_flight = 0
        """Calls in flight of all tenants."""
        self.reached = False
        """Whether the smallest request (a ping) was answered in this run, though perhaps refused."""
        self.slow: set[int] = set()
        """Rows that took longer than the time limit, while no call has ever succeeded; as many as need be known."""
        self.failing: dict[int, Outcome] = {}
        """Rows of all tenants that failed since a row, or a check of a closed circuit, passed, as many as count; and
        the last outcome of each."""
        self._answered_before = answered_before
        self._before: bool | None = None
        """Whether a call succeeded in an earlier run; None until it was asked."""
        self.refusals = AccountRefusals()
        self.told: set[str] = set()
        """Warnings that were given, as each is for all tenants."""
        self.throttled: dict[int, str] = {}
        """Label of the tenant, by row, for rows throttled since a call of that tenant last succeeded."""

    def note_failure(self, row: int, outcome: Outcome, most: int) -> None:
        """Note that *row* failed with *outcome*; *most* rows are enough to know."""
        if outcome.code == "timeout" and len(self.slow) < most and not self.ever:
            self.slow.add(row)
        if row in self.failing or len(self.failing) < most:
            self.failing[row] = outcome

    def fail_together(self, threshold: int) -> bool:
        """Whether at least *threshold* rows, of all tenants together, failed since anything has passed."""
        return len(self.failing) >= threshold

    @property
    def is_prompt(self) -> bool:
        """Whether none of the rows that failed so took too long."""
        return all(outcome.code != "timeout" for outcome in self.failing.values())

    def all_meet(self, refusal: Outcome, threshold: int) -> bool:
        """Whether *threshold* rows or more, of all tenants, met the same *refusal* since anything has passed."""
        met = {(outcome.verdict, outcome.code) for outcome in self.failing.values()}
        return self.fail_together(threshold) and met == {(refusal.verdict, refusal.code)}

    @property
    def has_good(self) -> bool:
        """Whether pings of tenants are a request that has succeeded, not the smallest one, which may always fail."""
        return self.good is not None

    @property
    def ever(self) -> bool:
        """Whether a call has ever succeeded."""
        if self._before is None and not self.answered:
            self._before = self._answered_before()  # once: it reads files, which may fail at one time and not another
        return self.answered or bool(self._before)
