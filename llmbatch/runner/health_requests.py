"""Find the requests of health checks: the smallest request of a route (ping), and one that has succeeded before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmbatch.core.calls import Request
from llmbatch.core.ports import first_request
from llmbatch.core.rows import Row
from llmbatch.runner.backlog import SMALL_BYTES
from llmbatch.runner.context import RunContext
from llmbatch.runner.pending import RunRoute

__all__ = ["HealthRequests"]

MAX_GOOD_BYTES = 1024 * 1024
"""Largest request, in bytes, that is kept for health checks."""


MOST_TRIES = 5
"""How often rows of earlier runs are looked for where they cannot be read."""


class HealthRequests:
    """Requests for health checks.

    *good_rows* returns rows that succeeded in earlier runs, None if they cannot be read now; called if needed, and
    again for a later health check after a None.
    """

    def __init__(self, run: RunContext, good_rows: Callable[[], Sequence[Row] | None]) -> None:
        self._run = run
        self._good_rows: Callable[[], Sequence[Row] | None] = good_rows
        self._tries = MOST_TRIES

    def ping(self, route: RunRoute) -> Request | None:
        """Smallest request of the route; None if there is none, or if it would show nothing, as of most tenants."""
        if route.template is None or not route.template.url or not route.state.may_ping:
            return None
        # Of a tenant it tells whether the route answers, as another tenant's request does for certain.
        return (route.state.history.good if route.state.is_tenant else None) or self._run.provider.ping(route.template)

    def template(self, request: Request) -> Request:
        """What to keep of the first *request* of a route for its pings: of a large one, the ping itself."""
        if len(request.body) <= MAX_GOOD_BYTES:
            return request
        return self._run.provider.ping(request) or request

    def good(self, route: RunRoute) -> Request | None:
        """Request of a row that has succeeded; for a function, the row that the user gave for health checks."""
        if route.template is not None and not route.template.url:
            return self._run.provider.ping(route.template)
        if route.good_request is None and self._tries and route.template is not None and route.template.url:
            rows = self._good_rows()
            self._tries = 0 if rows is not None else self._tries - 1
            for row in rows or ():
                self._prepare(row)
        return route.good_request

    def _prepare(self, row: Row) -> None:
        try:
            request = first_request(self._run.provider, row)
        except Exception:  # noqa: BLE001 - the row of an earlier run may not be a request any more
            return
        self.keep(self._run.routes.route_of(row, request.route, self._run.now()), request)

    @staticmethod
    def keep(route: RunRoute, request: Request) -> None:
        """Keep a request that succeeded, if it is the smallest one of its route."""
        if request.url and len(request.body) <= MAX_GOOD_BYTES and len(request.body) < route.good_bytes:
            route.good_request, route.good_bytes = request, len(request.body)
            route.state.allow_checks()
        history = route.state.history
        if route.state.is_tenant and history.good is None and request.url and len(request.body) <= SMALL_BYTES:
            history.good = request
