"""The names of the files beside an input or output, and the file of deferred rows.

The deferred file is for people and their scripts; nothing is read back from it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from llmbatch.core.errors import InputError, WriteError
from llmbatch.core.rows import Result
from llmbatch.storage.atomic_replace import remove_leftover, replace_file
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

__all__ = ["default_output", "deferred_path", "spool_path", "stamp_retry_at", "write_deferred"]

_COMPRESSED = (".gz", ".zst", ".zstd")


def default_output(input_path: str | Path) -> Path:
    """Where results go when nobody says: ``prompts.results.jsonl`` beside ``prompts.jsonl`` or ``prompts.jsonl.gz``.

    What comes from standard input (``-``) goes to standard output (``-``).

    Raises:
        InputError: *input_path* is a directory.
    """
    path = Path(input_path)
    if str(path) == "-":
        return path
    if path.is_dir():
        raise InputError(f"{input_path}: is a directory", hint="name a file of JSON lines in it")
    if path.suffix in _COMPRESSED:
        path = path.with_suffix("")
    return path.with_name(f"{path.stem}.results.jsonl")


def deferred_path(output_path: str | Path) -> Path:
    """The file of the rows that wait: ``o.deferred.jsonl`` beside ``o.jsonl`` (or beside ``o``)."""
    path = Path(output_path)
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.deferred.jsonl")


def spool_path(output_path: str | Path) -> Path | None:
    """Where rows of standard input that wait are kept: ``.o.jsonl.llmbatch-spool`` beside ``o.jsonl``.

    None for standard output (``-``), devices and pipes. It is a name for a moment only: the file has none while it is
    used, so that nothing of it stays however a run ends.
    """
    path = Path(output_path)
    if str(path) == "-" or (path.exists() and not path.is_file()):
        return None
    real = path.resolve()
    return real.with_name(f".{real.name}.llmbatch-spool")


_LATEST: float = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def stamp_retry_at(results: Sequence[Result], *, wall: float | None = None) -> Sequence[Result]:
    """Set ``retry_at`` of deferred *results* from ``retry_after``, counted from *wall* (now); never a second early."""
    now = time.time() if wall is None else wall
    for result in results:
        if result.retry_after is not None:
            instant = datetime.fromtimestamp(min(math.ceil(now + result.retry_after), _LATEST), UTC)
            result.retry_at = f"{instant:%Y-%m-%dT%H:%M:%SZ}"
    return results


def write_deferred(output_path: str | Path, lines: Iterable[bytes], disk: Filesystem = FILESYSTEM) -> None:
    """Write the deferred file of *output_path* anew, at once or not at all; no lines, no file.

    Only for whoever holds the output's lock.

    Raises:
        WriteError: it could not be written; the old one is still there.
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
        hint = "the output itself is whole, and waiting rows are sent again by the same command"
        raise WriteError(f"{path}: could not be written ({error.strerror})", hint=hint) from error
