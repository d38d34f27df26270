"""Atomic replacement of files: write a new file next to the old one, sync it, and rename it over the old one.

Readers see the old file or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from llmbatch.storage.filesystem import FILESYSTEM, Filesystem, is_unsupported

__all__ = ["remove_leftover", "replace_file", "sync_directory", "write_beside"]


def replace_file(path: str, chunks: Iterable[bytes], disk: Filesystem = FILESYSTEM) -> int:
    """Replace *path* by *chunks*; give a locked descriptor of the new file, open for appending.

    An existing file passes on its mode and, if permitted, its owner; a new one gets 0600. On an error the old file is
    unchanged.

    Raises:
        OSError: as the system says.
    """
    beside = _beside(path)
    remove_leftover(path, disk)
    fd = disk.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # Locked before the rename, so that no other process can lock it in between.
        disk.lock(fd)
        _copy_rights(path, fd, disk)
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[disk.write(fd, rest) :]
        try:
            disk.sync_all(fd)
        except OSError as error:
            if not is_unsupported(error):  # a file system that cannot sync is used only with --fsync off
                raise
        disk.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            disk.unlink(beside)
        disk.close(fd)
        raise
    sync_directory(path, disk)
    return fd


def write_beside(path: str, data: bytes, disk: Filesystem = FILESYSTEM, *, sync: bool) -> None:
    """Write *data* to a new file in the directory of *path*, sync it if *sync*, and remove it.

    Does nothing if no file may be created there.

    Raises:
        OSError: as the system says.
    """
    beside = _beside(path)
    try:
        fd = disk.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except PermissionError:
        return
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[disk.write(fd, rest) :]
        if sync:
            disk.sync(fd)
    finally:
        disk.close(fd)
        disk.unlink(beside)


def remove_leftover(path: str, disk: Filesystem = FILESYSTEM) -> None:
    """Remove the temporary file of a process that was killed while replacing *path*, if possible."""
    with contextlib.suppress(OSError):
        disk.unlink(_beside(path))


def _beside(path: str) -> str:
    # A fixed name: the next process finds a leftover instead of adding another one.
    target = Path(path)
    return str(target.with_name(f".{target.name}.llmbatch-new"))


def sync_directory(path: str, disk: Filesystem = FILESYSTEM) -> None:
    """Sync the directory of *path*, so that its name is durable, if the file system can."""
    with contextlib.suppress(OSError):
        fd = disk.open(str(Path(path).parent), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            disk.sync_all(fd)
        finally:
            disk.close(fd)


def _copy_rights(path: str, fd: int, disk: Filesystem) -> None:
    try:
        about = disk.stat(path)
    except FileNotFoundError:
        disk.change_rights(fd, 0o600)
    else:
        disk.change_rights(fd, about.st_mode & 0o7777, (about.st_uid, about.st_gid))
