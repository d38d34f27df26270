"""What was sent and answered in one call, for observers that look closer than the events do."""

from __future__ import annotations

from typing import Protocol

from llmbatch.core.calls import Outcome, Route, record

__all__ = ["CallDetails", "CallObserver"]


@record
class CallDetails:
    """One call that has ended. It holds the answer, but neither the request's body nor its headers, nor a key.

    ``label`` and ``call`` are those of the :class:`~llmbatch.core.events.CallEnded` that follows at once. ``row`` is 0
    for a health check. ``endpoint`` is the wire format, ``max_output_tokens`` the limit of the answer's tokens (None:
    unknown), ``outcome`` None for a call that was canceled.
    """

    label: str
    call: int
    row: int
    attempt: int
    probe: bool
    route: Route
    endpoint: str
    max_output_tokens: int | None
    outcome: Outcome | None


class CallObserver(Protocol):
    """The second method that an observer may have. Nothing is built for it in a run without such an observer."""

    def observe_call(self, details: CallDetails) -> None:
        """Handle one call that has ended, before its event ``CallEnded``."""
        ...
