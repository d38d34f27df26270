"""The routes of a run: one per base URL and model, or per tenant of it; created on use, dropped when idle."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random

from llmbatch.core.calls import Outcome, Route
from llmbatch.core.rows import Row
from llmbatch.pace.limit import AdaptiveLimit
from llmbatch.route.evidence import is_own_error
from llmbatch.route.route import RouteHistory, RoutePolicy, RouteState
from llmbatch.runner.options import RunOptions
from llmbatch.runner.pending import RunRoute
from llmbatch.runner.tenant_keys import TenantKeys

__all__ = ["Routes", "is_disproved", "max_wait_without_progress"]

MAX_IDLE = 64
"""Number of routes from which idle ones are dropped before another is created."""


MAX_HISTORIES = 4096
"""Maximum routes for which it is remembered whether they have answered; for others the output is searched again."""


MAX_LIVE = 10_000
"""Maximum routes with unfinished rows, about 6 KB each; beyond it no row is read until some have ended."""


class Routes:
    """All routes of one run. Scheduling iterates over all of them, so idle ones are dropped.

    *answered_before* tells whether the route of a label answered well in an earlier run. *on_change* is called with
    each route that is new, and with each that was dropped.
    """

    def __init__(
        self,
        options: RunOptions,
        *,
        seed: int,
        answered_before: Callable[[str], bool],
        on_change: Callable[[RunRoute], None] = lambda route: None,
    ) -> None:
        self._seed = seed
        self._on_change = on_change
        self._answered_before = answered_before
        self.known: dict[str, RunRoute] = {}
        """Routes by label; read only."""
        self._histories: dict[str, RouteHistory] = {}
        self._keys = None if options.circuit_key is None else TenantKeys(options.circuit_key)
        self._policy = RoutePolicy(
            concurrency=options.concurrency,
            is_auto=options.adapts,
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
    def has_tenants(self) -> bool:
        """Whether routes are split by tenant (``--circuit-key``)."""
        return self._keys is not None

    @property
    def missing_field(self) -> str:
        """The field of ``--circuit-key`` if no row so far has it; else empty."""
        return "" if self._keys is None else self._keys.missing

    @property
    def is_full(self) -> bool:
        """Whether the maximum number of routes have unfinished rows."""
        if len(self.known) < MAX_LIVE:
            return False
        return sum(route.unfinished > 0 for route in self.known.values()) >= MAX_LIVE

    def route_of(self, row: Row, route: Route, now: float) -> RunRoute:
        """Return the route of *row*, created now if there is none."""
        label = route.label if self._keys is None else self._keys.label(route.label, row)
        known = self.known.get(label)
        return self._made({label: route}, now)[0] if known is None else known

    def routes_of(self, row: Row, routes: Sequence[Route], now: float) -> list[RunRoute]:
        """Return the routes of *row* in the order of *routes*, each created now if there is none."""
        if self._keys is None:
            wanted = {route.label: route for route in routes}
        else:
            wanted = {self._keys.label(route.label, row): route for route in routes}
        known = [self.known[label] for label in wanted if label in self.known]
        return known if len(known) == len(wanted) else self._made(wanted, now)

    def change_concurrency(self, concurrency: int) -> list[tuple[RunRoute, AdaptiveLimit]]:
        """Allow each route, and each to come, *concurrency* requests in flight; return those whose limit changed."""
        self._policy = replace(self._policy, concurrency=concurrency)
        before = [(route, route.state.limit.value) for route in self.known.values()]
        for route, _ in before:
            route.state.change_concurrency(concurrency)
        return [(route, route.state.limit) for route, value in before if route.state.limit.value != value]

    def _made(self, wanted: Mapping[str, Route], now: float) -> list[RunRoute]:
        """Return the *wanted* routes by label; to create one may drop others, but none of these."""
        if len(self.known) >= MAX_IDLE:
            self._drop_idle(now, wanted)
        for label, route in wanted.items():
            if label not in self.known:
                self.known[label] = new = RunRoute(route, self._state(label, route.label))
                self._on_change(new)
        return [self.known[label] for label in wanted]

    def _drop_idle(self, now: float, wanted: Container[str]) -> None:
        """Drop routes without rows of their own, and without those of others that could go to them."""
        before = self.known
        self.known = {
            label: route
            for label, route in before.items()
            if label in wanted
            or route.unfinished
            or not route.state.is_idle(now)
            or any(other.unfinished for other in route.backups)
        }
        kept = set(self.known.values())
        for label, route in before.items():
            if label not in self.known:
                self._on_change(route)
        for route in self.known.values():
            for others in (route.backups, route.serves):
                for dropped in [other for other in others if other not in kept]:
                    del others[dropped]

    def _state(self, label: str, name: str) -> RouteState:
        history = self._histories.get(name)
        if history is None:
            if len(self._histories) >= MAX_HISTORIES:
                self._forget_oldest()
            history = self._histories[name] = RouteHistory(name, answered_before=lambda: self._answered_before(name))
        return RouteState(
            label,
            self._policy,
            history=history,
            is_tenant=label != name,
            chance=lambda purpose: Random(f"{self._seed}:{label}:{purpose}").random(),
        )

    def _forget_oldest(self) -> None:
        """Drop the older half of the histories, except those of known routes. Amortized O(1) per route."""
        here = {kept.route.label for kept in self.known.values()}
        for name in list(self._histories)[: MAX_HISTORIES // 2]:
            if name not in here:
                del self._histories[name]

    def __iter__(self) -> Iterator[RunRoute]:
        return iter(self.known.values())

    def __len__(self) -> int:
        return len(self.known)


def max_wait_without_progress(options: RunOptions) -> float:
    """Seconds to continue while circuits are closed but no call succeeds: throttled, or this machine is at fault."""
    bound = options.max_outage if options.max_outage is not None else float("inf")
    return min(bound, options.recovery_timeout) if options.on_outage == "defer" else bound


def is_disproved(dead: Outcome, route: RunRoute, routes: Iterable[RunRoute]) -> bool:
    """Whether answers of this run on other *routes* show that the key, or the run's requests, are not refused.

    A gateway may refuse a key for one model alone, and a model may lack a parameter that the others have.
    """
    if is_own_error(dead) or not (dead.key_refused or dead.verdict == "rejected"):
        return False
    answered = [other.route for other in routes if other.state.history.answered]
    return any(not dead.key_refused or other.account == route.route.account for other in answered)
