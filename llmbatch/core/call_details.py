"""What was sent and answered in one call, for observers that look closer than the events do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, cast

from llmbatch.core.calls import Outcome, Route, record
from llmbatch.core.events import Observer

__all__ = ["CallDetails", "CallObserver", "call_observers"]


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


def call_observers(observers: Iterable[Observer]) -> list[tuple[Observer, Callable[[CallDetails], None]]]:
    """The observers that are told more of each call, with the method that is called."""
    return [
        (observer, cast(CallObserver, observer).observe_call)
        for observer in observers
        if callable(getattr(observer, "observe_call", None))
    ]
