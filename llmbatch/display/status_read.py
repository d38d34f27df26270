"""What a finished, running or stopped run has done and what it waits for, read from its files.

The output is counted line by line and is the only truth; the sidecar (:mod:`llmbatch.display.status_file`) adds what
lines cannot tell, and is believed only where it agrees with them. No file is changed, and no run is held up: the lock
is touched for an instant and given back.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from llmbatch.core.errors import OutputError
from llmbatch.core.raw_json import JSON, RawJsonError, parse
from llmbatch.display.format import shown
from llmbatch.display.status_file import agrees, read_sidecar
from llmbatch.display.status_report import Deferred, StatusReport
from llmbatch.outputs.deferred import deferred_path
from llmbatch.outputs.lines import read_lines
from llmbatch.outputs.lock import holds_lock
from llmbatch.outputs.scan import scan
from llmbatch.report.counters import CodeCounter
from llmbatch.report.journal import Journal, from_iso, to_iso
from llmbatch.report.output_lines import OutputLines
from llmbatch.report.row_spread import RowSpread
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, O_NONBLOCK

__all__ = ["is_running", "open_for_reading", "read_status", "refuse_moved_run", "status_of"]

_ALIVE_S = 60.0
"""A sidecar that was not renewed for so long, six of its heartbeats, is no sign of life."""


def read_status(output: str | Path, *, spread: RowSpread | None = None) -> StatusReport:
    """Read what the files of *output* tell. Cost: two passes over the output, some seconds for a gigabyte.

    *spread* gets the numbers of each row.

    Raises:
        OutputError: there is no such file, it cannot be read, or it is not an output of llmbatch.
    """
    path = Path(output)
    lines = OutputLines(spread)
    with open_for_reading(path) as descriptor:
        try:
            is_locked = FILESYSTEM.is_locked(descriptor)
            size = os.fstat(descriptor).st_size
            found = scan(descriptor, shown(path))
            for line in read_lines(descriptor, found.end_bytes):
                lines.add(line)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise OutputError(f"{path}: cannot be read ({why})", hint="check the file and its disk") from error
    torn_bytes = 0 if found.lacks_newline else max(0, size - found.end_bytes)
    return status_of(
        path, lines, found.finished.success, found.finished.failed, is_running=is_locked, torn_bytes=torn_bytes
    )


def is_running(output: Path) -> bool:
    """Whether a run has the lock of *output*, which is touched for an instant.

    Raises:
        OutputError: there is no such file, or it cannot be read.
    """
    with open_for_reading(output) as descriptor:
        return FILESYSTEM.is_locked(descriptor)


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
    run = _mapping(sidecar.get("run"))
    exit_code = _integer(run.get("exit_code"))
    # A run that goes on has not ended, and one that has ended knew of all its lines: else it is about another run.
    fits = is_told or (bool(run) and exit_code is None if is_running else agrees(sidecar, success, failed))
    if not fits:
        sidecar, run, exit_code = {}, {}, None
    was_killed = fits and exit_code is None and not is_running
    if is_running:
        deferred = _parked_now(run, from_iso(sidecar.get("updated")))
        torn_bytes = 0
    else:
        deferred = _read_deferred(path, is_known=fits and not was_killed)
    return StatusReport(
        output=str(path),
        state=_state(is_running, exit_code, is_known=fits, leaves_rows=bool(deferred.rows or torn_bytes)),
        rows=success + failed,
        success=success,
        failed=failed,
        was_killed=was_killed,
        torn_bytes=torn_bytes,
        deferred=deferred,
        total_rows=_integer(run.get("total_rows")),
        input=_text(run.get("input")),
        pid=_integer(sidecar.get("pid")) if is_running else None,
        started=_text(sidecar.get("started")),
        updated=_text(sidecar.get("updated")),
        exit_code=None if is_running else exit_code,
        waits_for=_text(sidecar.get("waits_for")) if is_running else None,
        command=_text(sidecar.get("command")) or "",
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


def refuse_moved_run(output: str | Path, *, wall: float | None = None) -> None:
    """Refuse to begin afresh at *output* while another run still writes the file that was there before.

    Its lock went with the file when that was renamed; its sidecar stayed.

    Raises:
        OutputError: there is such a run.
    """
    path = Path(output)
    sidecar = read_sidecar(path)
    pid = _integer(sidecar.get("pid"))
    run = _mapping(sidecar.get("run"))
    if pid is None or pid == os.getpid() or not run or _integer(run.get("exit_code")) is not None:
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
        descriptor = _open(path)
    except OutputError:
        return False
    try:
        return FILESYSTEM.is_locked(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def open_for_reading(path: Path) -> Iterator[int]:
    """Open an output for as long as the block lasts; gives the descriptor.

    A run that stopped without any line has left no output, only its sidecar: this is read as an empty file.

    Raises:
        OutputError: as :func:`read_status`.
    """
    descriptor = _open_empty() if _has_no_line_yet(path) else _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _has_no_line_yet(path: Path) -> bool:
    if os.path.lexists(path):
        return False
    sidecar = read_sidecar(path)
    return agrees(sidecar, 0, 0) and _mapping(sidecar.get("run")).get("exit_code") is not None


def _open_empty() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _open(path: Path) -> int:
    hint = "name the output of a run, such as prompts.results.jsonl"
    try:
        # Not blocking, as a pipe without a writer would.
        descriptor = FILESYSTEM.open(str(path), os.O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    except FileNotFoundError:
        raise OutputError(f"{path}: there is no such file", hint=hint) from None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OutputError(f"{path}: cannot be read ({why})", hint=hint) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OutputError(f"{path}: is not a regular file", hint=hint)
    return descriptor


def _read_deferred(output: Path, *, is_known: bool) -> Deferred:
    """What the deferred file tells; *is_known* says that where there is none, no row waits."""
    rows = 0
    reasons = CodeCounter()
    shortest, longest, first = None, None, None
    for item in _deferred_items(deferred_path(output)):
        rows += 1
        reasons.add(_text(item.get("reason")) or "")
        wait = item.get("retry_after")
        if isinstance(wait, (int, float)):
            shortest = wait if shortest is None else min(shortest, wait)
            longest = wait if longest is None else max(longest, wait)
        instant = _text(item.get("retry_at"))
        if instant is not None:  # all in one form, which sorts as text
            first = instant if first is None else min(first, instant)
    return Deferred(rows if rows or is_known else None, first, shortest, longest, reasons.top())


def _parked_now(run: dict[str, JSON], updated: float | None) -> Deferred:
    """The rows that a running run has parked, and the instant of its next probe or of the end of a pause."""
    reasons: dict[str, int] = {}
    waits: list[float] = []
    routes = run.get("routes")
    for route in map(_mapping, routes if isinstance(routes, list) else ()):
        parked = _integer(route.get("parked")) or 0
        if not parked:
            continue
        reason = (_text(route.get("reason")) or "paused")[:80]
        reasons[reason] = reasons.get(reason, 0) + parked
        wait = route.get("next_probe_s") if route.get("state") != "closed" else route.get("paused_s")
        if isinstance(wait, (int, float)):
            waits.append(wait)
    at = None if updated is None or not waits else to_iso(updated + min(waits))
    return Deferred(_integer(run.get("parked")) or 0, at, reasons=reasons)


def _deferred_items(path: Path) -> Iterator[dict[str, JSON]]:
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    yield _mapping(parse(line.decode()))
                except (RawJsonError, UnicodeDecodeError):
                    continue
    except OSError:
        return


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


def _mapping(value: JSON) -> dict[str, JSON]:
    return value if isinstance(value, dict) else {}


def _integer(value: JSON) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: JSON) -> str | None:
    return value if isinstance(value, str) else None
