"""``run --dashboard``: the page of a run that goes on, and what is said where it cannot be served."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from llmbatch import __version__
from llmbatch.cli.settings import Settings
from llmbatch.core.errors import LlmbatchError
from llmbatch.display.history_file import HistoryFile
from llmbatch.report.stats import RunStats

if TYPE_CHECKING:
    from llmbatch.dashboard.live import Dashboard
    from llmbatch.dashboard.prompts import Prompts

__all__ = ["DashboardOfRun", "NoticeLevel"]

NoticeLevel = Literal["info", "warning", "error"]


class DashboardOfRun:
    """Serves the page about a run, whose *output* is a file, or None for standard output, until the block ends.

    ``notice`` says where it is, or why there is none: text, level and hint. The run goes on either way.
    """

    def __init__(
        self, settings: Settings, output: Path | None, command: str, stats: RunStats, history: HistoryFile
    ) -> None:
        from llmbatch.dashboard.listen import listen
        from llmbatch.dashboard.live import Dashboard
        from llmbatch.dashboard.painter import RunPainter
        from llmbatch.dashboard.sources import RunSource

        self._server: Dashboard | None = None
        self.notice: tuple[str, NoticeLevel, str]
        try:
            listener = listen(settings.dashboard or 0)
        except LlmbatchError as error:
            hint = f"{error.hint}; llmbatch view shows this run too" if output is not None else error.hint
            self.notice = (f"no dashboard: {error.message}", "warning", hint)
            return
        prompts = _prompts(settings, output) if settings.dashboard_show_text else None
        source = RunSource(output, stats=stats, history=history, command=command, version=__version__, prompts=prompts)
        self._server = Dashboard(listener, RunPainter(source, events="/events"))
        self.notice = (f"dashboard: {self._server.url}", "info", "")

    def __enter__(self) -> Self:
        if self._server is not None:
            self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._server is not None:
            self._server.__exit__(kind, error, trace)


def _prompts(settings: Settings, output: Path | None) -> Prompts:
    from llmbatch.dashboard.prompts import Prompts
    from llmbatch.inputs.input import open_input

    return Prompts(open_input(settings.input, output=str(output or "-"), input_format=settings.input_format))
