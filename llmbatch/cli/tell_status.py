"""What ``kill -USR1`` makes a run say: its status, as ``llmbatch status`` does, in one block on standard error.

A thread of its own reads the output, which may be large: the run goes on meanwhile.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from llmbatch.core.errors import LlmbatchError
from llmbatch.core.raw_json import JSON
from llmbatch.display import Display
from llmbatch.display.plain import progress_text
from llmbatch.display.status_file import StatusFile
from llmbatch.report.iso_time import to_iso
from llmbatch.report.stats import RunStats

__all__ = ["StatusTeller"]


class StatusTeller:
    """Tells the status of a run on *display*; *as_json*: as one line of JSON. *file*: its sidecar, if it has one."""

    def __init__(
        self, output: str, stats: RunStats, display: Display, *, file: StatusFile | None, as_json: bool
    ) -> None:
        self._output = output
        self._stats = stats
        self._display = display
        self._file = file
        self._as_json = as_json
        self._thread: threading.Thread | None = None

    def tell(self) -> None:
        """Tell it as soon as it is known; nothing more if it is being told already."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._tell, name="llmbatch status", daemon=True)
            self._thread.start()

    def _tell(self) -> None:
        try:
            text = self._text()
        except (LlmbatchError, OSError) as error:
            text = self._json({"error": str(error)}) if self._as_json else f"no status: {error}"
        self._display.show(text)

    def _text(self) -> str:
        from llmbatch.display.status import read_status, render

        if self._file is None or self._stats.started is None:
            snapshot = self._stats.snapshot()
            return self._json(snapshot.to_json()) if self._as_json else progress_text(snapshot)
        self._file.refresh()
        report = read_status(Path(self._output))
        return self._json(report.to_json()) if self._as_json else render(report)

    def _json(self, fields: dict[str, JSON]) -> str:
        value = {"event": "status", "time": to_iso(time.time()), **fields}
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
