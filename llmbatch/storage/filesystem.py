"""The calls into the file system that input and output make, in one place, so that a simulation can take them over.

Every method is the function of :mod:`os` (or ``fcntl``) that has its name, with its errors. Pipes, devices and
standard streams are not among them: they are read and written by their descriptors. Decides nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Final

from llmbatch.core.errors import PipeClosedError, WriteError

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
    """Whether *error*, of a sync, says that the file system cannot do it, rather than that it failed."""
    return error.errno in _UNSUPPORTED


def write_error(name: str, error: OSError) -> WriteError:
    """What *error*, met while writing *name*, is to the user: what, where, and what to try."""
    hint = _HINTS.get(error.errno or 0, "see what is wrong with the file, then run the same command again")
    kind = PipeClosedError if error.errno == errno.EPIPE else WriteError
    return kind(f"{name}: could not be written ({error.strerror})", hint=hint)


class Filesystem:
    """The operating system's file system. Subclasses stand for others, such as one that loses what was not synced."""

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """A new descriptor of *path*."""
        return os.open(path, flags, mode)

    def close(self, fd: int) -> None:
        """Let go of a descriptor, and of its lock."""
        os.close(fd)

    def read(self, fd: int, size: int) -> bytes:
        """At most *size* bytes from where *fd* stands."""
        return os.read(fd, size)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """At most *size* bytes from *offset* on; *fd* stays where it stands."""
        return os.pread(fd, size, offset)

    def seek(self, fd: int, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move where *fd* stands; gives the new offset."""
        return os.lseek(fd, offset, whence)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write some of *data*, at the end of a file that was opened to append; gives how many bytes."""
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to *size* bytes."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Return when the file, its length included, is on the disk."""
        getattr(os, "fdatasync", os.fsync)(fd)

    def sync_all(self, fd: int) -> None:
        """As :meth:`sync`, with the file's rights and times; for a directory, the names in it."""
        os.fsync(fd)

    def fstat(self, fd: int) -> os.stat_result:
        """What is known of an open file."""
        return os.fstat(fd)

    def stat(self, path: str) -> os.stat_result:
        """What is known of the file that *path* names."""
        return os.stat(path)  # noqa: PTH116 - a table of calls, not of paths

    def real_path(self, path: str) -> str:
        """*path* with its links followed."""
        return os.path.realpath(path)

    def lock(self, fd: int) -> None:
        """Lock the open file for us alone; ``BlockingIOError`` if somebody else has it."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def replace(self, old: str, new: str) -> None:
        """Give the file *old* the name *new*, whatever had it."""
        os.replace(old, new)  # noqa: PTH105

    def link(self, old: str, new: str) -> None:
        """Give the file *old* the second name *new*; ``FileExistsError`` if something has it."""
        os.link(old, new, follow_symlinks=False)

    def name_of(self, fd: int) -> str:
        """A path of an open file, where the system tells."""
        return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115

    def unlink(self, path: str) -> None:
        """Take the name *path* away."""
        os.unlink(path)  # noqa: PTH108

    def change_rights(self, fd: int, mode: int, owner: tuple[int, int] | None = None) -> None:
        """Set an open file's owner and group, where that is permitted, then its mode."""
        if owner is not None:
            with contextlib.suppress(PermissionError):
                os.fchown(fd, *owner)
        os.fchmod(fd, mode)


FILESYSTEM: Final = Filesystem()
"""The real one."""
