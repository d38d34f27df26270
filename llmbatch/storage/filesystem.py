"""File system calls of inputs and outputs, in one class that a simulation can replace.

Every method is the function of :mod:`os` (or ``fcntl``) that has its name, with its errors. Pipes, devices and
standard streams do not go through it: they are read and written by their descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Final

from llmbatch.core.errors import WriteError

__all__ = ["FILESYSTEM", "Filesystem", "is_unsupported", "write_error"]

_HINTS: Final = {
    errno.ENOSPC: "free some space on the disk, then run the same command again",
    errno.EDQUOT: "free some of your disk quota, then run the same command again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), then run the same command again",
    errno.EIO: "check the disk, then run the same command again",
    errno.EPIPE: "whatever read the output has ended; write to a file (-o) to be able to resume",
}

_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


def is_unsupported(error: OSError) -> bool:
    """Whether *error*, of a sync, means that the file system cannot sync, rather than that it failed."""
    return error.errno in _UNSUPPORTED


def write_error(name: str, error: OSError) -> WriteError:
    """Convert *error*, raised while writing *name*, into an error for the user: what, where, and what to try."""
    hint = _HINTS.get(error.errno or 0, "see what is wrong with the file, then run the same command again")
    return WriteError(f"{name}: could not be written ({error.strerror})", hint=hint)


class Filesystem:
    """The operating system's file system. Subclasses simulate others, such as one that loses unsynced bytes."""

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """Open *path*; give a new descriptor."""
        return os.open(path, flags, mode)

    def close(self, fd: int) -> None:
        """Close a descriptor, which releases its lock."""
        os.close(fd)

    def read(self, fd: int, size: int) -> bytes:
        """Read at most *size* bytes from the position of *fd*."""
        return os.read(fd, size)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read at most *size* bytes from *offset* on; the position of *fd* does not change."""
        return os.pread(fd, size, offset)

    def seek(self, fd: int, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position of *fd*; give the new offset."""
        return os.lseek(fd, offset, whence)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write some of *data*, at the end of a file that was opened to append; give the number of bytes."""
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        """Truncate the file to *size* bytes."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Sync the file's data and length to disk."""
        getattr(os, "fdatasync", os.fsync)(fd)

    def sync_all(self, fd: int) -> None:
        """Sync also the file's mode and times; for a directory, the names in it."""
        os.fsync(fd)

    def fstat(self, fd: int) -> os.stat_result:
        """Metadata of an open file."""
        return os.fstat(fd)

    def stat(self, path: str) -> os.stat_result:
        """Metadata of the file *path*."""
        return os.stat(path)  # noqa: PTH116 - a table of calls, not of paths

    def real_path(self, path: str) -> str:
        """*path* with its links followed."""
        return os.path.realpath(path)

    def lock(self, fd: int) -> None:
        """Lock the open file exclusively; ``BlockingIOError`` if another process has the lock."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def replace(self, old: str, new: str) -> None:
        """Rename *old* to *new*, replacing a file of that name."""
        os.replace(old, new)  # noqa: PTH105

    def link(self, old: str, new: str) -> None:
        """Create the hard link *new* to *old*; ``FileExistsError`` if the name exists."""
        os.link(old, new, follow_symlinks=False)

    def name_of(self, fd: int) -> str:
        """A path of an open file, if the system knows one."""
        return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115

    def unlink(self, path: str) -> None:
        """Delete the name *path*."""
        os.unlink(path)  # noqa: PTH108

    def change_rights(self, fd: int, mode: int, owner: tuple[int, int] | None = None) -> None:
        """Set an open file's owner and group, if permitted, then its mode."""
        if owner is not None:
            with contextlib.suppress(PermissionError):
                os.fchown(fd, *owner)
        os.fchmod(fd, mode)


FILESYSTEM: Final = Filesystem()
"""The operating system's file system."""
