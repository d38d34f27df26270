"""The sidecar of an output that ``llmbatch merge`` has made: what its parts' sidecars tell together.

Without it ``llmbatch status`` could not tell whether rows are missing, and the outages of the shards would be lost.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

from llmbatch.core.events import RunEnded, RunStarted
from llmbatch.display.status_file import read_sidecar, replace_sidecar, text, working_directory
from llmbatch.outputs.deferred import status_path
from llmbatch.report.iso_time import to_iso
from llmbatch.report.journal import Journal
from llmbatch.report.stats import RunStats

__all__ = ["write_merged_status"]


def write_merged_status(
    target: Path,
    parts: Sequence[Path],
    *,
    input_path: str | None,
    success: int,
    failed: int,
    missing: int,
    waiting: int,
) -> None:
    """Write the sidecar of *target*, which holds the lines of *parts*: so many *success* and *failed*.

    *missing* rows have none yet, *waiting* of them are deferred. Where *input_path* is not known, nor are the rows that
    there should be: then there is no sidecar, and an earlier one is removed. Failing to write it never matters.
    """
    path = status_path(target)
    with contextlib.suppress(OSError):
        if input_path is None:
            path.unlink(missing_ok=True)
            return
        sidecars = [sidecar for part in parts if (sidecar := read_sidecar(part))]
        exit_code = 75 if missing else 1 if failed else 0
        stats = RunStats()
        stats.observe(RunStarted(0.0, input_path, str(target), 1, success, failed, success + failed + missing))
        stats.observe(RunEnded(0.0, exit_code, "parts have no line of some rows yet" if missing else "", waiting))
        started = [stamp for sidecar in sidecars if (stamp := text(sidecar.get("started")))]
        now = to_iso(time.time())
        content = {
            "started": min(started, default=now),
            "updated": max((stamp for one in sidecars if (stamp := text(one.get("updated")))), default=now),
            "command": "",
            "directory": working_directory(),
            "input_format": next((one.get("input_format") for one in sidecars), None),
            "run": stats.snapshot(0.0).to_json(),
            "history": Journal.joined([Journal(one.get("history")) for one in sidecars]).to_json(RunStats()),
        }
        replace_sidecar(path, json.dumps(content, separators=(",", ":"), allow_nan=False).encode())
