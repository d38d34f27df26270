"""Replaces a file whole: a new one is written beside it, made durable, and renamed over it.

Whoever looks sees the old file or the new one, never a part. Does not know what is in them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["replace_file", "sync_directory"]


def replace_file(path: str, chunks: Iterable[bytes]) -> int:
    """Put *chunks* in place of *path*; gives a locked descriptor of the new file that appends.

    A file that was there hands on its mode and, where permitted, its owner; a new one gets 0600. On an error the old
    file stays as it was.

    Raises:
        OSError: as the system says.
    """
    # A fixed name: what a killed process left is removed by the next one instead of piling up.
    target = Path(path)
    beside = target.with_name(f".{target.name}.llmbatch-new")
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # Locked before it gets the name, so that nobody can take the file between the rename and the lock.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _copy_rights(target, fd)
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
        beside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        os.close(fd)
        raise
    sync_directory(path)
    return fd


def sync_directory(path: str) -> None:
    """Make the name of the file *path* durable, where the file system can."""
    with contextlib.suppress(OSError):
        fd = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _copy_rights(target: Path, fd: int) -> None:
    try:
        about = target.stat()
    except FileNotFoundError:
        os.fchmod(fd, 0o600)
        return
    with contextlib.suppress(PermissionError):
        os.fchown(fd, about.st_uid, about.st_gid)
    os.fchmod(fd, about.st_mode & 0o7777)
