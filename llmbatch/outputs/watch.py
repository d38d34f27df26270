"""Detects that an output was deleted, renamed, replaced, truncated or appended to by another process during a run.

Also saves the lines if the file has lost its name. A file that others put at a path is never overwritten. Changes that
keep the file's size are not detected.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from llmbatch.core.calls import record
from llmbatch.core.errors import WriteError
from llmbatch.storage.filesystem import O_CLOEXEC, Filesystem, write_all

__all__ = ["Change", "FileChangedError", "find_change", "recovered_path", "save_lines"]

_BLOCK_BYTES: Final = 1024 * 1024
_MOST_NAMES: Final = 1000
_WHILE: Final = "while the run was writing it"


@record
class Change:
    """A change of the file. ``bytes`` is the difference between its size and what was written."""

    kind: Literal["deleted", "renamed", "replaced", "truncated", "appended"]
    bytes: int = 0


class FileChangedError(WriteError):
    """The output was replaced, or another process writes to it."""

    def __init__(self, name: str, change: Change) -> None:
        words = {
            "deleted": "was deleted",
            "renamed": "was renamed",
            "replaced": "was replaced by another file",
            "truncated": f"was truncated by {change.bytes:,} bytes",
            "appended": f"was written to by another program ({change.bytes:,} bytes)",
        }
        super().__init__(f"{name}: {words[change.kind]} {_WHILE}", hint="run the same command again")
        self.change = change


def find_change(fd: int, path: str, sizes: Callable[[], tuple[int, int]], disk: Filesystem) -> Change | None:
    """Compare the file *fd* with the one at *path*; None if nothing has changed, or if that cannot be known.

    *sizes* gives the smallest and the largest size that the file may have; called before and after reading its size.
    """
    least, _ = sizes()
    about = disk.fstat(fd)
    _, most = sizes()
    try:
        is_same = os.path.samestat(about, disk.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return Change("renamed" if about.st_nlink else "deleted")
    except OSError:
        is_same = True  # a directory that is no longer searchable hides the file, but does not change it
    if not is_same:
        return Change("replaced")
    if about.st_size < least:
        return Change("truncated", least - about.st_size)
    if about.st_size > most:
        return Change("appended", about.st_size - most)
    return None


def recovered_path(path: str, number: int = 1) -> str:
    """``o.recovered.jsonl`` next to ``o.jsonl``; with *number* above 1, ``o.recovered-2.jsonl``."""
    target = Path(path)
    suffix = f"-{number}" if number > 1 else ""
    return str(target.with_name(f"{target.name.removesuffix('.jsonl')}.recovered{suffix}.jsonl"))


def save_lines(
    fd: int, path: str, name: str, change: Change, lines: int, disk: Filesystem, *, damaged: int | None = None
) -> WriteError:
    """After *change*, save the lines of *fd* under a name, preferably the old one; give the error that ends the run.

    *lines* is how many the file should have. A new file gets the mode and owner of the old one. *damaged* is the number
    of a line of a truncated file that the next run would refuse.
    """
    what = FileChangedError(name, change).message
    if change.kind == "truncated":
        return WriteError(what, hint=_after_truncation(damaged))
    if change.kind == "appended":
        hint = "stop the other program and remove what is not a line of this run, then run the same command again"
        return WriteError(what, hint=hint)
    where = _name_of(fd, disk)
    if where is not None:
        return _still_has_name(where, path, name, what, disk, is_free=change.kind == "renamed")
    if not disk.fstat(fd).st_size:
        return WriteError(f"{what}; it had no lines yet", hint="run the same command again to start it afresh")
    try:
        saved = _copy(fd, path, disk)
    except OSError as error:
        why = f"{what}, and its {lines:,} lines could not be saved ({error.strerror})"
        return WriteError(why, hint="run the same command again to start it afresh")
    if saved == path:
        hint = "run the same command again to go on, or with --overwrite to start afresh"
        return WriteError(f"{what}; its {lines:,} lines were saved under the same name", hint=hint)
    hint = f"to go on from the saved lines, run again with -o {saved}"
    return WriteError(f"{what}; its {lines:,} lines were saved to {saved}", hint=hint)


def _after_truncation(damaged: int | None) -> str:
    if damaged is None:
        return "restore the file from a copy, or run the same command again: rows without their line are sent again"
    return (
        f"restore the file from a copy, or remove its line {damaged:,}, which is damaged, and run the same command "
        "again: rows without their line are sent again"
    )


def _still_has_name(where: str, path: str, name: str, what: str, disk: Filesystem, *, is_free: bool) -> WriteError:
    if is_free:
        # Otherwise the next run would find nothing at the old name, and pay for every row again.
        try:
            disk.link(where, path)
        except OSError:
            return WriteError(f"{what}; it is {where} now", hint=f"to go on, run again with -o {where}")
        hint = f"run the same command again to go on; or remove {name} first, to start over next to {where}"
        return WriteError(f"{what}; it is {where} now, and {name} is a link to it again", hint=hint)
    return WriteError(f"{what}; the lines of the run are in {where}", hint=f"to go on, run again with -o {where}")


def _name_of(fd: int, disk: Filesystem) -> str | None:
    """The current path of the open file, if the system knows one."""
    try:
        if not disk.fstat(fd).st_nlink:
            return None
        where = disk.name_of(fd)
        return where if os.path.samestat(disk.fstat(fd), disk.stat(where)) else None
    except (OSError, ValueError):
        return None


def _copy(fd: int, path: str, disk: Filesystem) -> str:
    """Copy the file *fd* to *path*, or if that exists to :func:`recovered_path`; give the path."""
    for target in (path, *(recovered_path(path, number) for number in range(1, _MOST_NAMES))):
        try:
            copy = disk.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        try:
            offset = 0
            while block := disk.pread(fd, _BLOCK_BYTES, offset):
                offset += len(block)
                write_all(copy, block, disk)
            about = disk.fstat(fd)
            disk.change_rights(copy, about.st_mode & 0o7777, (about.st_uid, about.st_gid))
            disk.sync_all(copy)
        except BaseException:
            disk.close(copy)
            with contextlib.suppress(OSError):
                disk.unlink(target)
            raise
        disk.close(copy)
        return target
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
