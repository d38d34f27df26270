"""Tells a new run that another one still writes an output that was renamed or deleted. It reads the sidecar alone."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

from llmbatch.core.errors import OutputError
from llmbatch.display.status_file import integer, mapping, read_sidecar
from llmbatch.outputs.lock import holds_lock
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, O_NONBLOCK

__all__ = ["refuse_moved_run"]

_ALIVE_S = 60.0
"""A sidecar that was not renewed for so long, six of its heartbeats, is no sign of life."""


def refuse_moved_run(output: str | Path, *, wall: float | None = None) -> None:
    """Refuse to begin afresh at *output* while another run still writes the file that was there before.

    Its lock went with the file when that was renamed; its sidecar stayed.

    Raises:
        OutputError: there is such a run.
    """
    path = Path(output)
    sidecar = read_sidecar(path)
    pid = integer(sidecar.get("pid"))
    run = mapping(sidecar.get("run"))
    if pid is None or pid == os.getpid() or not run or integer(run.get("exit_code")) is not None:
        return
    try:
        age = (time.time() if wall is None else wall) - datetime.fromisoformat(str(sidecar.get("updated"))).timestamp()
    except (ValueError, OverflowError):
        return
    if age > _ALIVE_S or not holds_lock(pid) or _is_taken(path):
        return
    raise OutputError(
        f"{output}: another run (pid {pid}) writes the file that had this name; it was renamed or deleted",
        hint="wait for that run to stop, which gives the file its name back, or write to another file (-o)",
    )


def _is_taken(path: Path) -> bool:
    """Whether a run holds the file that is at *path* now: then opening it says so."""
    try:
        descriptor = FILESYSTEM.open(str(path), os.O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    except (OSError, ValueError):
        return False
    try:
        return FILESYSTEM.is_locked(descriptor)
    finally:
        os.close(descriptor)
