"""What shows a run whose rows several processes send: display, status, history, dashboard, metrics, commands."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from llmbatch.cli.dashboard import DashboardOfRun, NoticeLevel
from llmbatch.cli.earlier_requests import requests_today, told_earlier
from llmbatch.cli.monitoring import serve_metrics
from llmbatch.cli.notify import make_notifier
from llmbatch.cli.settings import Settings
from llmbatch.cli.signals import tell_on_signal
from llmbatch.cli.tell_status import StatusTeller
from llmbatch.cli.terminal import print_note
from llmbatch.core.events import Event, Notice, Observer
from llmbatch.display import Display, make_display
from llmbatch.display.history_file import HistoryFile
from llmbatch.display.status_file import StatusFile
from llmbatch.report.fold import FoldedStats
from llmbatch.runner.earlier import NOTHING_EARLIER
from llmbatch.runs.logging_observer import LoggingObserver

__all__ = ["JointDisplay", "showing"]


@dataclass(slots=True)
class JointDisplay:
    """What shows the run. Belongs to the running event loop."""

    display: Display
    stats: FoldedStats
    is_silent: bool
    """Whether nothing is displayed, so that what is said goes to standard error."""
    is_quiet: bool
    observers: list[Observer] = field(default_factory=list)
    dashboard: DashboardOfRun | None = None
    earlier: tuple[int, float] = NOTHING_EARLIER.requests_today
    """Requests of earlier runs that count for ``--rpd``, and *told_earlier* says so."""
    told_earlier: str = ""

    def emit(self, event: Event) -> None:
        """Tell all observers of *event*."""
        for observer in self.observers:
            with contextlib.suppress(Exception):
                observer.observe(event)

    def say(self, text: str, level: NoticeLevel = "warning", hint: str = "") -> None:
        """Say something to whoever watches."""
        if not self.is_silent:
            self.display.observe(Notice(asyncio.get_running_loop().time(), level, text, hint))
        elif not self.is_quiet:
            print_note(f"{text}; {hint}" if hint else text)

    def started(self) -> None:
        """Say what there is to say once the run has started."""
        if self.dashboard is not None:
            self.say(*self.dashboard.notice)
        started = self.stats.started
        if started is not None and started.total_rows == started.done_success + started.done_failed:
            return  # nothing is sent
        if self.told_earlier:
            self.say(self.told_earlier, "info")


@contextlib.asynccontextmanager
async def showing(settings: Settings, output: str, command: str, stats: FoldedStats) -> AsyncIterator[JointDisplay]:
    """Show the run on *output* that *stats* fold, until the block ends."""
    path, kind = Path(output), settings.progress
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(serve_metrics(settings, stats))
        display = make_display(kind, quiet=settings.quiet, verbose=settings.verbose, stats=stats)
        show = JointDisplay(display, stats, kind == "none", settings.quiet, earlier=requests_today(settings, output))
        if show.earlier[0]:
            show.told_earlier = told_earlier(output, show.earlier, settings.rpd or 0)
        show.observers += [stats, stack.enter_context(display)]
        status_file = StatusFile(path, command=command, stats=stats, afresh=settings.overwrite)
        history = HistoryFile(path, command=command, stats=stats, afresh=settings.overwrite)
        show.observers += [stack.enter_context(status_file), stack.enter_context(history), LoggingObserver()]
        is_json = kind == "json" and not settings.quiet
        teller = StatusTeller(output, stats, display, file=status_file, as_json=is_json)
        stack.enter_context(tell_on_signal(teller.tell))
        if settings.dashboard is not None:
            show.dashboard = stack.enter_context(DashboardOfRun(settings, path, command, stats, history))
        notifier = make_notifier(settings, stats, command=command)
        if notifier is not None:
            notifier.say = show.say
            show.observers.append(await stack.enter_async_context(notifier))
        yield show
