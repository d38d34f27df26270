"""Shows a run in a Jupyter notebook: HTML below the cell that is replaced once a second."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from llmbatch.core.events import Event, RunEnded, RunStarted
from llmbatch.report.notebook_html import progress_html
from llmbatch.report.stats import RunStats

__all__ = ["NotebookDisplay", "is_in_notebook"]

_log = logging.getLogger("llmbatch.display")
_EVERY_S = 1.0


def is_in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. Imports nothing: there IPython is loaded already."""
    ipython = sys.modules.get("IPython")
    get_shell = getattr(ipython, "get_ipython", None)
    return get_shell is not None and getattr(get_shell(), "kernel", None) is not None


class NotebookDisplay:
    """Observer of one run, on its event loop; *stats* are its statistics, fed before. If it fails, the run goes on."""

    def __init__(self, stats: RunStats) -> None:
        self._stats = stats
        self._shown: Any = None
        self._timer: asyncio.TimerHandle | None = None

    def observe(self, event: Event) -> None:
        """Begin with the run, and end with it."""
        if type(event) is RunStarted:
            self._draw()
        elif type(event) is RunEnded:
            self._stop()
            self._draw(is_last=True)

    def _draw(self, *, is_last: bool = False) -> None:
        """Show the run now, in place of what was shown before."""
        try:
            loop = asyncio.get_running_loop()
            from IPython.display import HTML, display

            page = HTML(progress_html(self._stats.snapshot(loop.time())))
            if self._shown is None:
                self._shown = display(page, display_id=True)
            else:
                self._shown.update(page)
        except Exception:  # noqa: BLE001 - a display may never fail a run
            _log.debug("the notebook's display of the run failed", exc_info=True)
            return
        if not is_last:
            self._timer = loop.call_later(_EVERY_S, self._draw)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
