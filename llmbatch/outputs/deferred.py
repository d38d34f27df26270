"""Default output and sidecar paths, and the file of deferred rows.

The deferred file is for users and their scripts; llmbatch never reads it.
"""

from __future__ import annotations

import contextlib
import math
import stat
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from llmbatch.core.errors import InputError, WriteError
from llmbatch.core.rows import Result
from llmbatch.storage.atomic_replace import remove_leftover, replace_file
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

__all__ = [
    "DATASET_STATE",
    "batch_journal_path",
    "control_path",
    "default_output",
    "deferred_lines",
    "deferred_path",
    "has_batch_journal",
    "history_path",
    "is_stream",
    "report_path",
    "spool_path",
    "stamp_retry_at",
    "status_path",
    "write_deferred",
]

DATASET_STATE = "state.json"
"""A file of each folder that is a data set, as Hugging Face's ``datasets`` has saved it: an input."""

_COMPRESSED = (".gz", ".zst", ".zstd")


def default_output(input_path: str | Path) -> Path:
    """The default output: ``prompts.results.jsonl`` next to ``prompts.jsonl`` or ``prompts.jsonl.gz``.

    For standard input (``-``) it is standard output (``-``).

    Raises:
        InputError: *input_path* is a directory.
    """
    path = Path(input_path)
    if str(path) == "-":
        return path
    if (path / DATASET_STATE).is_file():
        return path.with_name(f"{path.resolve().name}.results.jsonl")
    if path.is_dir():
        hint = "name a file of rows in it, or a folder saved by Hugging Face's datasets"
        if (path / "dataset_dict.json").is_file():
            hint = f"it holds several data sets: name one of them, such as {path / 'train'}"
        raise InputError(f"{input_path}: is a directory", hint=hint)
    if path.suffix in _COMPRESSED:
        path = path.with_suffix("")
    return path.with_name(f"{path.stem}.results.jsonl")


def is_stream(output_path: str | Path) -> bool:
    """Whether the output is standard output (``-``), a device or a pipe: these are not resumed, and have no sidecars.

    The sidecars of a device would lie in ``/dev``.
    """
    try:
        mode = Path(output_path).stat().st_mode
    except (OSError, ValueError):
        return str(output_path) == "-"
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def deferred_path(output_path: str | Path) -> Path:
    """Path of the deferred file: ``o.deferred.jsonl`` next to ``o.jsonl`` (or next to ``o``)."""
    path = Path(output_path)
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.deferred.jsonl")


def history_path(output_path: str | Path) -> Path:
    """Path of the sidecar with the history: ``o.events.jsonl`` next to ``o.jsonl`` (or next to ``o``)."""
    path = Path(output_path)
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.events.jsonl")


def control_path(output_path: str | Path) -> Path:
    """Path of the socket by which a run is controlled: ``o.control`` next to ``o.jsonl`` (or next to ``o``)."""
    path = Path(output_path)
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.control")


def batch_journal_path(output_path: str | Path) -> Path:
    """Path of the journal of batches: ``o.batch.jsonl`` next to ``o.jsonl`` (or next to ``o``)."""
    path = Path(output_path)
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.batch.jsonl")


def has_batch_journal(output_path: str | Path, disk: Filesystem = FILESYSTEM) -> bool:
    """Whether a run of *output_path* has sent batches, or was about to."""
    try:
        disk.stat(str(batch_journal_path(output_path)))
    except OSError:
        return False
    return True


def report_path(output_path: str | Path) -> Path:
    """Default path of the page of ``llmbatch report``: ``o.report.html`` next to ``o.jsonl`` (or next to ``o``)."""
    path = Path(output_path)
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.report.html")


def spool_path(output_path: str | Path) -> Path | None:
    """Path of the spool for waiting rows of standard input: ``.o.jsonl.llmbatch-spool`` next to ``o.jsonl``.

    None for standard output (``-``), devices and pipes. The file is unlinked while it is used, so that nothing is left
    however a run ends.
    """
    if is_stream(output_path):
        return None
    real = Path(output_path).resolve()
    return real.with_name(f".{real.name}.llmbatch-spool")


def status_path(output: Path) -> Path:
    """Path of the sidecar for ``llmbatch status``: ``.o.jsonl.status.json`` next to ``o.jsonl``."""
    return output.with_name(f".{output.name}.status.json")


_LATEST: float = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def stamp_retry_at(results: Sequence[Result], *, wall: float | None = None) -> Sequence[Result]:
    """Set ``retry_at`` of deferred *results* from ``retry_after``, counted from *wall* (now); never a second early."""
    now = time.time() if wall is None else wall
    for result in results:
        if result.retry_after is not None:
            instant = datetime.fromtimestamp(math.ceil(min(now + result.retry_after, _LATEST)), UTC)
            result.retry_at = f"{instant:%Y-%m-%dT%H:%M:%SZ}"
    return results


def deferred_lines(outputs: Iterable[Path]) -> list[bytes]:
    """The lines of the deferred files of *outputs*, as far as they can be read."""
    lines: list[bytes] = []
    for output in outputs:
        with contextlib.suppress(OSError):
            lines += deferred_path(output).read_bytes().splitlines(keepends=True)
    return lines


def write_deferred(output_path: str | Path, lines: Iterable[bytes], disk: Filesystem = FILESYSTEM) -> None:
    """Replace the deferred file of *output_path*, atomically; without lines, remove it.

    The caller must hold the output's lock.

    Raises:
        WriteError: it could not be written; the old file is unchanged.
    """
    path = str(deferred_path(output_path))
    text = b"".join(lines)
    try:
        if text:
            disk.close(replace_file(path, [text], disk))
        else:
            remove_leftover(path, disk)
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(path)
    except OSError as error:
        if not text and Path(path).is_dir():
            return  # a folder of that name is not ours; systems refuse to unlink it with different errors
        hint = "the output itself is whole, and waiting rows are sent again by the same command"
        raise WriteError(f"{path}: could not be written ({error.strerror})", hint=hint) from error
