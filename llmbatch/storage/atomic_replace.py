"""Atomic replacement of files: write a new file next to the old one, sync it, and rename it over the old one.

Readers see the old file or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, O_DIRECTORY, Filesystem, is_unsupported, write_all

__all__ = ["is_being_replaced", "remove_leftover", "replace_file", "sync_directory", "write_beside"]

_APPEND: Final = os.O_RDWR | os.O_APPEND | O_CLOEXEC


def replace_file(
    path: str, chunks: Iterable[bytes], disk: Filesystem = FILESYSTEM, *, old_fd: int | None = None
) -> int:
    """Replace the content of *path* by *chunks*; return a locked descriptor of the new file, open for appending.

    It keeps the mode and, where permitted, the owner of the old file; without one, its mode is 0600. On an error the
    old file is unchanged. *old_fd*, a descriptor of *path* that holds its lock, is closed in any case. Where open files
    cannot be renamed (Windows) another process can lock the new file before this one does: that is a
    ``BlockingIOError``, and the file has been replaced.

    Raises:
        OSError: as the system says.
    """
    try:
        fd = _new_file(path, chunks, disk)
        if not disk.can_rename_open_files:
            disk.close(fd)
            if old_fd is not None:
                disk.close(old_fd)
                old_fd = None
        try:
            disk.replace(_beside(path), path)
        except BaseException:
            _discard(path, fd if disk.can_rename_open_files else None, disk)
            raise
        if not disk.can_rename_open_files:
            fd = _reopened(path, disk)
        sync_directory(path, disk)
    finally:
        if old_fd is not None:
            disk.close(old_fd)
    return fd


def _new_file(path: str, chunks: Iterable[bytes], disk: Filesystem) -> int:
    remove_leftover(path, disk)
    fd: int | None = None
    try:
        fd = disk.open(_beside(path), _APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        # Locked before the rename, so that no other process can lock it in between.
        disk.lock(fd)
        _copy_rights(path, fd, disk)
        for chunk in chunks:
            write_all(fd, chunk, disk)
        try:
            disk.sync_all(fd)
        except OSError as error:
            if not is_unsupported(error):  # a file system that cannot sync is used only with --fsync off
                raise
    except BaseException as error:
        if fd is not None or not isinstance(error, OSError):  # a signal may come as soon as the file is there
            _discard(path, fd, disk)
        raise
    return fd


def _discard(path: str, fd: int | None, disk: Filesystem) -> None:
    if fd is not None:
        disk.close(fd)
    with contextlib.suppress(OSError):
        disk.unlink(_beside(path))


def _reopened(path: str, disk: Filesystem) -> int:
    fd = disk.open(path, _APPEND, 0o600)
    try:
        disk.lock(fd)
    except BaseException:
        disk.close(fd)
        raise
    return fd


def write_beside(path: str, data: bytes, disk: Filesystem = FILESYSTEM, *, sync: bool) -> None:
    """Write *data* to a new file in the directory of *path*, sync it if *sync*, and remove it.

    Does nothing if no file may be created there.

    Raises:
        OSError: as the system says.
    """
    beside = _beside(path)
    try:
        fd = disk.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_CLOEXEC, 0o600)
    except PermissionError:
        return
    try:
        write_all(fd, data, disk)
        if sync:
            disk.sync(fd)
    finally:
        disk.close(fd)
        disk.unlink(beside)


def remove_leftover(path: str, disk: Filesystem = FILESYSTEM) -> None:
    """Remove the temporary file of a process that was killed while replacing *path*, if possible."""
    with contextlib.suppress(OSError):
        disk.unlink(_beside(path))


def is_being_replaced(path: str, disk: Filesystem = FILESYSTEM) -> bool:
    """Whether another process is in :func:`replace_file` for *path* now, rather than was killed there."""
    try:
        fd = disk.open(_beside(path), os.O_RDONLY | O_CLOEXEC)
    except OSError:
        return False
    try:
        return disk.is_locked(fd)
    finally:
        disk.close(fd)


def _beside(path: str) -> str:
    # A fixed name: the next process finds a leftover instead of adding another one.
    target = Path(path)
    return str(target.with_name(f".{target.name}.llmbatch-new"))


def sync_directory(path: str, disk: Filesystem = FILESYSTEM) -> None:
    """Sync the directory of *path*, so that its name is durable, if the file system can."""
    with contextlib.suppress(OSError):
        fd = disk.open(str(Path(path).parent), os.O_RDONLY | O_DIRECTORY | O_CLOEXEC)
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
