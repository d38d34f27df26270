"""The routes of a row by service tier: one for each tier that the run asks for, flex first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from llmbatch.core.calls import Route
from llmbatch.core.errors import MalformedRowError
from llmbatch.providers.formats.row_kind import ParsedRow
from llmbatch.providers.resolve import Target
from llmbatch.providers.tiers import has_flex

__all__ = ["TIERS", "TierRoutes"]

TIERS = 2
"""The most tiers, and so ranks, that one address has."""

_MOST_ROUTES = 1024
_PARAMETER = "service_tier"
_FLEX = '"flex"'
"""The value of the request's parameter, as JSON text."""


class TierRoutes:
    """Chooses routes by tier. *tiers*: ``flex``, or ``flex`` and ``standard``. Each warning is told once.

    With both tiers, flex is a route of its own with its own circuit and pace, and the standard tier the next. A row
    that is sent as it was written, or that names its tier itself, has one route.
    """

    def __init__(self, tiers: Sequence[str], *, warn: Callable[[str], None]) -> None:
        self._has_standard = len(tiers) > 1
        self._warn = warn
        self._told: set[str] = set()
        self._routes: dict[Route, tuple[Route, Route]] = {}

    def routes(self, kind: ParsedRow, target: Target) -> Sequence[Route]:
        """The routes of a row whose only one would be that of *target*.

        Raises:
            MalformedRowError: the run asks for flex alone, and the row's provider or endpoint has none.
        """
        own, is_as_written = kind.members.get(_PARAMETER), kind.body is not None
        can_flex = has_flex(target.provider, target.endpoint)
        if is_as_written:
            self._tell(
                "rows with a body are sent as they are: --tier does not apply (write service_tier into the body)"
            )
        if not self._has_standard:
            if not (is_as_written or own is not None or can_flex):
                raise MalformedRowError(
                    "input_no_flex_tier", f"{_lacking(target)}; --tier flex,standard sends it all the same"
                )
            return (target.route,)
        flex, standard = self._pair(target.route)
        if is_as_written:
            return (standard,)
        if own is not None:
            return (flex,) if own == _FLEX else (standard,)
        if can_flex:
            return (flex, standard)
        self._tell(f"{_lacking(target)}: such rows go to the standard tier")
        return (standard,)

    def ask(self, kind: ParsedRow, target: Target, route: Route, members: dict[str, str]) -> None:
        """Ask for flex in *members* of the request of a row on *route*, unless the row names its tier itself."""
        if kind.body is not None or _PARAMETER in kind.members:
            return
        if route.tier == "flex" if self._has_standard else has_flex(target.provider, target.endpoint):
            members[_PARAMETER] = _FLEX

    def _pair(self, route: Route) -> tuple[Route, Route]:
        pair = self._routes.get(route)
        if pair is None:
            if len(self._routes) >= _MOST_ROUTES:
                self._routes.clear()
            flex = replace(route, label=f"{route.label} (flex)", model=route.label, tier="flex")
            pair = self._routes[route] = (flex, replace(route, rank=1, tier="standard"))
        return pair

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._warn(text)


def _lacking(target: Target) -> str:
    return f"{target.provider.title or 'this server'} has no flex tier for {target.endpoint}"
