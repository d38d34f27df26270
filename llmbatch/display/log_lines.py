"""Which events deserve a line of their own, and its words: outages, notices, and with ``-v`` more.

Messages of providers and files are made safe to show here, so that no display can forget it.
"""

from __future__ import annotations

from typing import Literal

from llmbatch.core.batch_events import BatchCancelled, BatchCollected, BatchMoved, BatchSubmitted
from llmbatch.core.calls import record
from llmbatch.core.events import (
    CallEnded,
    CircuitChanged,
    Event,
    LimitLearned,
    Notice,
    OptionChanged,
    OutageEnded,
    OutageStarted,
    RetryPlanned,
    RowJudged,
    RowMoved,
    RowParked,
    RowsRequeued,
    RunPaused,
    RunResumed,
    RunStopping,
    Throttled,
)
from llmbatch.display.batches import batch_line
from llmbatch.display.phrases import duration, elided, plural, shown

__all__ = ["LogLine", "LogLines"]


_LEARNED_FROM = {
    "headers": "reports its rate limit:",
    "refusal": "states, where it refuses, its rate limit:",
    "delivered": "states no rate limit, but its refusals show one of about",
}

_MOST_THROTTLINGS = 64
"""Routes and codes whose first 429 is shown; a run may have thousands of routes."""


@record
class LogLine:
    """One line for people, safe to show."""

    level: Literal["info", "warning", "error"]
    text: str


class RateGate:
    """Lets a burst of lines through and then one every few seconds, so that a flapping circuit is no flood."""

    def __init__(self, burst: int, refill_s: float) -> None:
        self._burst = float(burst)
        self._refill_s = refill_s
        self._left = float(burst)
        self._at = 0.0
        self.dropped = 0

    def passes(self, at: float) -> bool:
        self._left = min(self._burst, self._left + max(0.0, at - self._at) / self._refill_s)
        self._at = max(at, self._at)
        if self._left < 1.0:
            self.dropped += 1
            return False
        self._left -= 1.0
        return True


class LogLines:
    """Turns events into lines; keeps only how many it has left out, and which 429s it has shown."""

    def __init__(self, *, verbose: int = 0) -> None:
        self._verbose = verbose
        self._gate = RateGate(burst=8, refill_s=10.0)
        self._throttlings: set[tuple[str, str]] = set()
        """Routes and codes whose message was shown."""
        self._last_notice: Notice | None = None
        self._covered: set[str] = set()
        """Routes in whose last outage rows went elsewhere."""

    def line(self, event: Event) -> LogLine | None:
        """The line for *event*, None for most."""
        news = self._change(event)
        if news is None:
            return self._detail(event) if self._verbose else None
        if news.level == "error":
            return news
        if not self._gate.passes(event.at):
            return None
        dropped, self._gate.dropped = self._gate.dropped, 0
        return LogLine(news.level, f"{news.text} ({dropped} such lines left out)") if dropped else news

    def _change(self, event: Event) -> LogLine | None:
        if isinstance(event, CallEnded) and event.verdict == "throttled":
            return self._throttling(event)
        if isinstance(event, OutageStarted):
            why, wait = _phrase(event.reason, 200), _wait(event.retry_after)
            where = f"go to {elided(event.goes_to, 80)}" if event.goes_to else "wait"
            self._covered.add(event.route) if event.goes_to else self._covered.discard(event.route)
            return LogLine("warning", f"outage of {elided(event.route, 80)}: {why}; its rows {where}, probe in {wait}")
        if isinstance(event, OutageEnded):
            length = duration(event.seconds)
            news = "rows go there again" if event.route in self._covered else "its rows are resent"
            return LogLine("info", f"{elided(event.route, 80)} is back after {length}: {news}")
        if isinstance(event, Notice):
            self._last_notice = event
            hint = f"; hint: {shown(event.hint, 400)}" if event.hint else ""
            mark = "" if event.level == "info" else f"{event.level}: "
            return LogLine(
                event.level, f"{mark}{_phrase(event.message, 400) if hint else shown(event.message, 400)}{hint}"
            )
        if isinstance(event, RunPaused):
            return LogLine("info", "paused: requests in flight end, and no new one begins")
        if isinstance(event, RunResumed):
            return LogLine("info", f"resumed after {duration(event.seconds)}")
        if isinstance(event, OptionChanged):
            name = event.name.replace("_", "-")
            return LogLine("info", f"{name} is {shown(event.new, 40)} from now on (was {shown(event.old, 40)})")
        if isinstance(event, BatchSubmitted | BatchMoved | BatchCollected | BatchCancelled):
            return LogLine("info", batch_line(event))
        if isinstance(event, RunStopping):
            # Why it stops may just have been told, with what to do about it.
            is_told = self._last_notice is not None and self._last_notice.message == event.reason
            return LogLine("info", "stopping" if is_told else f"stopping: {shown(event.reason, 400)}")
        return None

    def _throttling(self, event: CallEnded) -> LogLine | None:
        """What the provider says with its first refusal of a kind: which limit, often; later ones are only counted."""
        kind = (event.route, event.code)
        if not event.message or kind in self._throttlings or len(self._throttlings) >= _MOST_THROTTLINGS:
            return None
        self._throttlings.add(kind)
        why = f"{shown(event.message, 400)} ({shown(event.code, 80)})"
        return LogLine("info", f"{shown(event.route, 80)} asks for a slower pace: {why}")

    def _detail(self, event: Event) -> LogLine | None:
        match event:
            case CallEnded(verdict=verdict) if verdict not in (None, "success"):
                who = f"row {event.row}" if event.row else "canary"
                status = "" if event.status is None else f" ({event.status})"
                what = f"{shown(event.code or verdict, 80)}{status} after {duration(event.latency_s)}"
                message = f": {shown(event.message, 400)}" if event.message else ""
                return LogLine("info", f"{who}: {what}{message}")
            case CircuitChanged(old=old, new=new) if "closed" in (old, new):
                why = f": {shown(event.reason, 200)}" if event.reason else ""
                usual = f"; usually {event.usual}" if event.usual else ""
                return LogLine(
                    "info", f"circuit {elided(event.route, 80)} {'closed' if new == 'closed' else 'opened'}{why}{usual}"
                )
            case RowParked():
                when = f"retry after {_wait(event.retry_after)}"
                return LogLine("info", f"row {event.row}: parked, {when}: {shown(event.reason, 200)}")
            case RetryPlanned():
                return LogLine("info", f"row {event.row}: again in {_wait(event.delay)} after {shown(event.code, 80)}")
            case LimitLearned(kind=kind, limit=limit):
                what = f"{limit:,.0f} {kind.replace('_', ' ')}"
                window = "" if event.window_s is None else f" in {duration(event.window_s)}"
                says = _LEARNED_FROM[event.source]
                return LogLine("info", f"{elided(event.route, 80)} {says} {what}{window}")
            case RowJudged():
                return LogLine("info", f"row {event.row}: ends as failed ({shown(event.code, 80)}): {event.why}")
            case RowMoved():
                return LogLine("info", f"row {event.row}: goes to {elided(event.to, 80)}")
            case RowsRequeued():
                return LogLine("info", f"{plural(event.count, 'parked row')} of {elided(event.route, 80)} may go again")
            case Throttled():
                if not event.is_refusal:
                    wait = f"nothing is sent for {_wait(event.pause)}: {shown(event.code, 80)}"
                    return LogLine("info", f"{elided(event.route, 80)} keeps its rate limit, {wait}")
                whose = "provider's wait" if event.is_named else "own backoff"
                pause = f"nothing is sent for {_wait(event.pause)} ({whose})"
                return LogLine(
                    "info", f"{elided(event.route, 80)} asks for a slower pace, {pause}: {shown(event.code, 80)}"
                )
            case _:
                return None


def _phrase(text: str, limit: int) -> str:
    """*text* without its full stop, to go on behind it."""
    return shown(text if text.endswith("..") else text.removesuffix("."), limit)


def _wait(seconds: float) -> str:
    return duration(max(0.0, seconds))
