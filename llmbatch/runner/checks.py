"""Requests that carry none of the rows that wait: the smallest one a route takes, and one that has succeeded before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmbatch.core.calls import Request
from llmbatch.core.ports import first_request
from llmbatch.core.rows import Row
from llmbatch.runner.backlog import RunRoute
from llmbatch.runner.context import RunContext

__all__ = ["Checks"]

MOST_GOOD_BYTES = 1024 * 1024
"""The largest request that is kept to be sent once more."""


class Checks:
    """Finds such requests. *good_rows*: rows of earlier runs that succeeded, looked up once, when first needed."""

    def __init__(self, run: RunContext, good_rows: Callable[[], Sequence[Row]]) -> None:
        self._run = run
        self._good_rows: Callable[[], Sequence[Row]] | None = good_rows

    def ping(self, route: RunRoute) -> Request | None:
        """The smallest request of the route. It names no tenant, so it says nothing about one."""
        if route.template is None or not route.template.url or route.state.label != route.route.label:
            return None
        return self._run.provider.ping(route.template)

    def good(self, route: RunRoute) -> Request | None:
        """The request of a finished row; for a function, which may do more than answer, the row that its user gave."""
        if route.template is not None and not route.template.url:
            return self._run.provider.ping(route.template)
        if route.good is None and self._good_rows is not None and route.template is not None and route.template.url:
            find, self._good_rows = self._good_rows, None
            for row in find():
                self._prepare(row)
        return route.good

    def _prepare(self, row: Row) -> None:
        try:
            request = first_request(self._run.provider, row)
        except Exception:  # noqa: BLE001 - a row of an earlier run that is no request now: then there is none
            return
        self.keep(self._run.routes.route_of(row, request.route, self._run.now()), request)

    @staticmethod
    def keep(route: RunRoute, request: Request) -> None:
        """The request has succeeded: keep the smallest such one."""
        if request.url and len(request.body) <= MOST_GOOD_BYTES:
            good = route.good
            if good is None or len(request.body) < len(good.body):
                route.good = request
                route.state.allow_checks()
