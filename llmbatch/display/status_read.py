"""What a finished, running or stopped run has done and what it waits for, read from its files.

The output is counted line by line and is the only truth; the sidecar (:mod:`llmbatch.display.status_file`) adds what
lines cannot tell, and is believed only where it agrees with them. No file is changed, and no run is held up: the lock
is touched for an instant and given back.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from llmbatch.core.errors import OutputError
from llmbatch.core.raw_json import JSON
from llmbatch.display.folder_status import parked_now, read_deferred, read_folder
from llmbatch.display.phrases import shown
from llmbatch.display.status_file import agrees, integer, mapping, read_sidecar, text
from llmbatch.display.status_report import StatusReport
from llmbatch.outputs.joined import OpenResults, files_of, open_file
from llmbatch.outputs.lines import read_lines
from llmbatch.outputs.parts import has_parts, has_shards, parts_beside
from llmbatch.report.iso_time import from_iso
from llmbatch.report.journal import Journal
from llmbatch.report.output_lines import OutputLines
from llmbatch.report.row_spread import RowSpread
from llmbatch.storage.filesystem import FILESYSTEM

__all__ = ["is_running", "open_for_reading", "read_status", "status_of"]


def read_status(output: str | Path, *, spread: RowSpread | None = None) -> StatusReport:
    """Read what the files of *output* tell. Cost: two passes over the output, some seconds for a gigabyte.

    *spread* gets the numbers of each row.

    Raises:
        OutputError: there is no such file, it cannot be read, or it is not an output of llmbatch.
    """
    path = Path(output)
    lines = OutputLines(spread)
    with open_for_reading(path) as results:
        is_locked, torn_bytes = results.is_running, results.torn_bytes
        success, failed = results.finished.success, results.finished.failed
        try:
            for line in read_lines(results.fd, results.end_bytes, results.disk):
                lines.add(line)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise OutputError(f"{path}: cannot be read ({why})", hint="check the file and its disk") from error
    read = read_folder if has_shards(path) else status_of
    return read(path, lines, success=success, failed=failed, is_running=is_locked, torn_bytes=torn_bytes)


def is_running(output: Path) -> bool:
    """Whether a run has the lock of *output*, or of a part of it; locks are touched for an instant.

    Raises:
        OutputError: there is no such file, or it cannot be read.
    """
    if _has_no_line_yet(output):
        return False
    for path in files_of(output):
        with open_file(path) as descriptor:
            if FILESYSTEM.is_locked(descriptor):
                return True
    return False


def status_of(
    path: Path,
    lines: OutputLines,
    success: int,
    failed: int,
    *,
    is_running: bool,
    torn_bytes: int = 0,
    sidecar: dict[str, JSON] | None = None,
) -> StatusReport:
    """What the output *path* tells, whose lines have been read: so many of rows that succeeded, and that failed.

    *sidecar* is what the status file says; None: it is read, and believed where it agrees with the lines.
    """
    is_told = sidecar is not None
    sidecar = read_sidecar(path) if sidecar is None else sidecar
    run = mapping(sidecar.get("run"))
    exit_code = integer(run.get("exit_code"))
    # A run that goes on has not ended, and one that has ended knew of all its lines: else it is about another run.
    fits = is_told or (bool(run) and exit_code is None if is_running else agrees(sidecar, success, failed))
    if not fits:
        sidecar, run, exit_code = {}, {}, None
    was_killed = fits and exit_code is None and not is_running
    if is_running:
        deferred = parked_now(run, from_iso(sidecar.get("updated")))
        torn_bytes = 0
    else:
        deferred = read_deferred((path,), is_known=fits and not was_killed)
    return StatusReport(
        output=str(path),
        state=_state(is_running, exit_code, is_known=fits, leaves_rows=bool(deferred.rows or torn_bytes)),
        rows=success + failed,
        success=success,
        failed=failed,
        was_killed=was_killed,
        torn_bytes=torn_bytes,
        deferred=deferred,
        total_rows=integer(run.get("total_rows")),
        input=text(run.get("input")),
        pid=integer(sidecar.get("pid")) if is_running else None,
        started=text(sidecar.get("started")),
        updated=text(sidecar.get("updated")),
        exit_code=None if is_running else exit_code,
        waits_for=text(sidecar.get("waits_for")) if is_running else None,
        command=text(sidecar.get("command")) or "",
        run=run or None,
        journal=Journal(sidecar.get("history")),
        seen=None if is_running else from_iso(sidecar.get("updated")),
        failures=list(lines.failures),
        cut_answers=lines.cut_answers,
        answers_without_text=lines.answers_without_text,
        cached=lines.cached,
        tiers=lines.tiers.top(),
        routes=lines.routes,
    )


def open_for_reading(output: Path) -> OpenResults:
    """Open all files of *output*, a file or a folder of parts; a context manager.

    A run that stopped without any line has left no output, only its sidecar: this is read as an empty file.

    Raises:
        OutputError: as :func:`read_status`.
    """
    name = shown(output)
    try:
        return OpenResults(() if _has_no_line_yet(output) else files_of(output), name)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise OutputError(f"{output}: cannot be read ({why})", hint="check the file and its disk") from error


def _has_no_line_yet(path: Path) -> bool:
    if os.path.lexists(path) or has_parts(parts_beside(path)):
        return False
    sidecar = read_sidecar(path)
    return agrees(sidecar, 0, 0) and mapping(sidecar.get("run")).get("exit_code") is not None


def _state(
    is_running: bool, exit_code: int | None, *, is_known: bool, leaves_rows: bool
) -> Literal["running", "finished", "stopped", "unknown"]:
    if is_running:
        return "running"
    if leaves_rows:
        return "stopped"
    if not is_known:
        return "unknown"
    return "finished" if exit_code in (0, 1) else "stopped"
