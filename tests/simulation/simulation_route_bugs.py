"""Bugs planted in what chooses routes, counts retries, and shares answers; see :mod:`simulation_bugs`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llmbatch.core.calls import Outcome
from llmbatch.pace import retries
from llmbatch.pace.retries import RetryBudget
from llmbatch.providers.cache import CachingProvider
from llmbatch.runner import routing
from llmbatch.runner.backlog import Backlog
from llmbatch.runner.finish import Finisher
from llmbatch.runner.followers import Followers
from llmbatch.runner.pending import PendingRow, RunRoute
from llmbatch.runner.routes import Routes
from llmbatch.runner.routing import Routing

Plant = Callable[[pytest.MonkeyPatch], None]

ROUTE_BUGS: dict[str, Plant] = {}


def bug(words: str) -> Callable[[Plant], Plant]:
    def enter(plant: Plant) -> Plant:
        ROUTE_BUGS[words] = plant
        return plant

    return enter


@bug("rows of a route that is down are parked, though their fallback takes them")
def _parked_all_the_same(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backlog, "divert", lambda self, pending, now: False)


@bug("parked rows do not go to a fallback that recovers first")
def _wait_for_their_own(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backlog, "divert_parked", lambda self, routes, now: None)


@bug("traffic stays at the fallback when the first route has recovered")
def _never_back(patch: pytest.MonkeyPatch) -> None:
    takes = Routing.takes
    patch.setattr(Routing, "takes", lambda self, route: takes(self, route) and not route.ramps_to)


@bug("the weights of a pool are not heeded")
def _first_member_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routing, "_by_weight", lambda routes: routes[0])


@bug("the line of a row that was moved names its first route")
def _wrong_model(patch: pytest.MonkeyPatch) -> None:
    finish = Finisher.finish

    def of_the_first(self: Finisher, pending: PendingRow, *arguments: Any) -> None:
        if pending.routes:
            pending.route = pending.routes[0][0]
        finish(self, pending, *arguments)

    patch.setattr(Finisher, "finish", of_the_first)


@bug("a row that was moved is sent with the request of its old route")
def _old_request(patch: pytest.MonkeyPatch) -> None:
    move = Backlog.move

    def keep(self: Backlog, pending: PendingRow, to: RunRoute, now: float, *, first: bool = False) -> None:
        request = pending.request
        move(self, pending, to, now, first=first)
        pending.request = request

    patch.setattr(Backlog, "move", keep)


@bug("the routes of many tenants drop each other")
def _dropped(patch: pytest.MonkeyPatch) -> None:
    drop = Routes._drop_idle
    patch.setattr(Routes, "_drop_idle", lambda self, now, wanted: drop(self, now, ()))
    patch.setattr(
        Routes,
        "routes_of",
        lambda self, row, routes, now: [self.route_of(row, route, now) for route in routes],
    )


@bug("equal rows are all sent")
def _no_followers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Followers, "join", lambda self, key, pending, most: False)


@bug("followers of a row that failed are forgotten")
def _forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Followers, "release", lambda self, leader: ([], False))


@bug("the line of a follower does not say that it is cached")
def _unsaid_cached(patch: pytest.MonkeyPatch) -> None:
    finish = Finisher.finish

    def unsaid(self: Finisher, pending: PendingRow, outcome: Outcome, *arguments: Any) -> None:
        finish(self, pending, replace(outcome, is_cached=False), *arguments)

    patch.setattr(Finisher, "finish", unsaid)


@bug("the cache keeps answers by model alone")
def _same_key(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CachingProvider, "flight_key", lambda self, request: request.route.label.encode())


@bug("retries are sent without a budget")
def _no_budget(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RetryBudget, "allows", lambda self, now: True)


@bug("each first attempt allows a retry")
def _whole_share(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(retries, "SHARE", 1.0)
