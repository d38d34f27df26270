"""Logs what happens to the circuits of a run, under the logger ``llmbatch``.

No handler is installed but a ``NullHandler``, as for any library: who configures logging sees it, and the command line,
which has displays, prints nothing twice.
"""

from __future__ import annotations

import logging

from llmbatch.classify.safe_text import shorten
from llmbatch.core.events import ROW_EVENTS, CircuitChanged, Event, Notice, OutageEnded

__all__ = ["LoggingObserver"]

_log = logging.getLogger("llmbatch")
_log.addHandler(logging.NullHandler())

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class LoggingObserver:
    """Logs the openings of circuits as warnings, their closings as info, and notices at their own level.

    Each failed probe is logged at level debug. Records have the attributes ``route`` and ``retry_after`` (seconds).
    """

    skips = ROW_EVENTS

    def observe(self, event: Event) -> None:
        """Log *event*, if it is of these kinds."""
        kind = type(event)  # not ObserverFailed, which is a notice too, but logged with its traceback already
        if kind is CircuitChanged or kind is Notice or kind is OutageEnded:
            self._log(event)

    def _log(self, event: Event) -> None:
        match event:
            case CircuitChanged(old="closed", new="open"):
                wait = _wait(event.retry_after)
                why = shorten(event.reason) or "too many calls failed"
                self._write(logging.WARNING, event, f"circuit {_name(event.route)} opened: {why}; first probe {wait}")
            case CircuitChanged(new="closed"):
                self._write(logging.INFO, event, f"circuit {_name(event.route)} closed: calls are sent again")
            case CircuitChanged(old="half_open", new="open"):
                why, wait = shorten(event.reason), _wait(event.retry_after)
                text = f"circuit {_name(event.route)} stays open: {why}; next probe {wait}"
                self._write(logging.DEBUG, event, text)
            case OutageEnded():
                text = f"outage of {_name(event.route)} is over after {event.seconds:,.1f} s"
                _log.info("%s", text, extra={"route": event.route})
            case Notice():
                hint = f"; hint: {shorten(event.hint)}" if event.hint else ""
                _log.log(_LEVELS[event.level], "%s%s", shorten(event.message), hint)

    @staticmethod
    def _write(level: int, event: CircuitChanged, text: str) -> None:
        _log.log(level, "%s", text, extra={"route": event.route, "retry_after": event.retry_after})


def _name(route: str) -> str:
    return shorten(route, 80)


def _wait(seconds: float) -> str:
    return f"in {seconds:.1f} s" if seconds > 0 else "at once"
