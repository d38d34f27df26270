"""One call that has its permit, as the shell sees it."""

from __future__ import annotations

from dataclasses import dataclass

from llmbatch.core.calls import Request
from llmbatch.route.route import Call
from llmbatch.runner.backlog import PendingRow, RunRoute

__all__ = ["Job"]


@dataclass(slots=True)
class Job:
    """A call, its route and its row. ``pending`` is None where no row waits for the answer.

    ``reserved``: tokens set aside for it.
    """

    call: Call
    route: RunRoute
    pending: PendingRow | None
    request: Request
    reserved: int = 0
