"""The routes of a run: one per base URL and model, or per tenant of it; made when needed, dropped when idle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from llmbatch.core.calls import Route
from llmbatch.core.rows import Row
from llmbatch.route.route import RouteHistory, RoutePolicy, RouteState
from llmbatch.runner.backlog import RunRoute
from llmbatch.runner.options import RunOptions
from llmbatch.runner.tenant_keys import TenantKeys

__all__ = ["Routes", "max_wait_without_progress"]

MOST_IDLE = 64
"""From so many routes on, idle ones are dropped before another is made."""


MOST_HISTORIES = 4096
"""Routes of which it is remembered whether they have answered; of others the output is asked again."""


MOST_LIVE = 10_000
"""Routes with unfinished rows, about 6 KB each; beyond them no row is read until some have ended."""


class Routes:
    """All routes of one run. Every turn looks at every route, so that idle ones must not add up."""

    def __init__(self, options: RunOptions, *, seed: int, answered_before: Callable[[str], bool]) -> None:
        self._seed = seed
        self._answered_before = answered_before
        self.known: dict[str, RunRoute] = {}
        """By label; to be read only."""
        self._histories: dict[str, RouteHistory] = {}
        self._keys = None if options.circuit_key is None else TenantKeys(options.circuit_key)
        self._policy = RoutePolicy(
            concurrency=options.concurrency,
            max_attempts=options.max_attempts,
            failure_threshold=options.failure_threshold,
            recovery_timeout=options.recovery_timeout,
            success_threshold=options.success_threshold,
            timeout=options.timeout,
            max_outage=options.max_outage,
            max_throttled=max_wait_without_progress(options),
        )

    def __repr__(self) -> str:
        return f"<Routes {list(self.known)}>"

    @property
    def may_differ(self) -> bool:
        """Whether the rows of one provider's route may have different circuits."""
        return self._keys is not None

    @property
    def missing_key(self) -> str:
        """The ``--circuit-key``, if no row so far has that member; else empty."""
        return "" if self._keys is None else self._keys.missing

    @property
    def are_many(self) -> bool:
        """Whether so many routes have unfinished rows that no further one should be made."""
        if len(self.known) < MOST_LIVE:
            return False
        return sum(route.live > 0 for route in self.known.values()) >= MOST_LIVE

    def route_of(self, row: Row, route: Route, now: float) -> RunRoute:
        """The route of *row*, made now if there is none."""
        label = route.label if self._keys is None else self._keys.label(route.label, row)
        known = self.known.get(label)
        if known is not None:
            return known
        if len(self.known) >= MOST_IDLE:
            self.known = {other: kept for other, kept in self.known.items() if kept.live or not kept.state.is_idle(now)}
        made = self.known[label] = RunRoute(route, self._state(label, route.label))
        return made

    def _state(self, label: str, name: str) -> RouteState:
        history = self._histories.get(name)
        if history is None:
            if len(self._histories) >= MOST_HISTORIES:
                self._forget_oldest()
            history = self._histories[name] = RouteHistory(answered_before=lambda: self._answered_before(name))
        return RouteState(
            label,
            self._policy,
            history=history,
            chance=lambda purpose: Random(f"{self._seed}:{label}:{purpose}").random(),
        )

    def _forget_oldest(self) -> None:
        """Forget half of the histories, but those of routes that are here. O(1) for each route, over all."""
        here = {kept.route.label for kept in self.known.values()}
        for name in list(self._histories)[: MOST_HISTORIES // 2]:
            if name not in here:
                del self._histories[name]

    def __iter__(self) -> Iterator[RunRoute]:
        return iter(self.known.values())

    def __len__(self) -> int:
        return len(self.known)


def max_wait_without_progress(options: RunOptions) -> float:
    """Seconds to go on while the circuit stays closed but nothing gets through: throttled, or this machine's fault."""
    bound = options.max_outage if options.max_outage is not None else float("inf")
    return min(bound, options.recovery_timeout) if options.on_outage == "defer" else bound
