"""File system calls of inputs and outputs, in one class that a simulation can replace.

Every method is the function of :mod:`os` (or ``fcntl``) that has its name, with its errors. What differs between Linux,
macOS and Windows is hidden here; docs/guarantees.md says what Windows and macOS cannot promise. Pipes, devices and
standard streams are read and written by their descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
from typing import ClassVar, Final

from llmbatch.core.errors import PipeClosedError, WriteError

if sys.platform == "win32":
    from llmbatch.storage import windows
else:
    import fcntl
    import resource

__all__ = [
    "FILESYSTEM",
    "O_CLOEXEC",
    "O_DIRECTORY",
    "O_NOCTTY",
    "O_NONBLOCK",
    "Filesystem",
    "is_readable",
    "is_unsupported",
    "is_writable",
    "write_all",
    "write_error",
]

O_CLOEXEC: Final[int] = getattr(os, "O_CLOEXEC", 0)
"""As in :mod:`os`; this and the following are 0 where the system has no such flag."""

O_DIRECTORY: Final[int] = getattr(os, "O_DIRECTORY", 0)
O_NOCTTY: Final[int] = getattr(os, "O_NOCTTY", 0)
O_NONBLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)

_O_BINARY: Final[int] = getattr(os, "O_BINARY", 0)
"""Windows otherwise translates line ends, and stops reading at a Ctrl-Z."""

_NO_RIGHT: Final = "see who may write the file and its folder (ls -ld), then run the same command again"
_HINTS: Final = {
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.ENOSPC: "free some space on the disk, then run the same command again",
    errno.EDQUOT: "free some of your disk quota, then run the same command again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), then run the same command again",
    errno.EIO: "check the disk, then run the same command again",
    errno.EPIPE: "whatever read the output has ended; write to a file (-o) to be able to resume",
}

_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})

_REPLACE_TRIES: Final = 25
_REPLACE_PAUSE_SECONDS: Final = 0.02


def is_unsupported(error: OSError) -> bool:
    """Whether *error*, of a sync, means that the file system cannot sync, rather than that it failed."""
    return error.errno in _UNSUPPORTED


def write_error(name: str, error: OSError) -> WriteError:
    """Convert *error*, raised while writing *name*, into an error for the user: what, where, and what to try."""
    hint = _HINTS.get(error.errno or 0, "see what is wrong with the file, then run the same command again")
    kind = PipeClosedError if error.errno == errno.EPIPE else WriteError
    return kind(f"{name}: could not be written ({error.strerror})", hint=hint)


def is_readable(fd: int) -> bool:
    """Whether the open *fd* may be read from; True on Windows, which does not tell.

    Raises:
        OSError: *fd* is closed.
    """
    if sys.platform == "win32":
        os.fstat(fd)
        return True
    else:  # noqa: RET505 - one branch a system, for the type checker
        return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY


def is_writable(fd: int) -> bool:
    """Whether the open *fd* may be written to; True on Windows, which does not tell.

    Raises:
        OSError: *fd* is closed.
    """
    if sys.platform == "win32":
        os.fstat(fd)
        return True
    else:  # noqa: RET505
        return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


class Filesystem:
    """The operating system's file system. Subclasses simulate others, such as one that loses unsynced bytes."""

    can_rename_open_files: ClassVar[bool] = sys.platform != "win32"
    """Whether a file may be renamed, replaced or removed while a process has it open."""

    _position_lock: ClassVar = threading.Lock()

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """A new descriptor of *path*."""
        return os.open(path, flags | _O_BINARY, mode)

    def open_unnamed(self, path: str, flags: int) -> int:
        """A new descriptor of a new file *path* that is gone once it is closed, however the process ends.

        *flags* hold ``O_CREAT`` and ``O_EXCL``. Only on Windows does the file have its name until then.
        """
        if sys.platform == "win32":
            return self.open(path, flags | os.O_TEMPORARY)
        fd = self.open(path, flags)
        try:
            self.unlink(path)
        except BaseException:
            self.close(fd)
            raise
        return fd

    def close(self, fd: int) -> None:
        """Close a descriptor, which releases its lock."""
        os.close(fd)

    def read(self, fd: int, size: int) -> bytes:
        """Read at most *size* bytes from the position of *fd*."""
        return os.read(fd, size)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read at most *size* bytes from *offset* on; the position of *fd* does not change."""
        if sys.platform == "win32":
            with self._position_lock:
                before = os.lseek(fd, 0, os.SEEK_CUR)
                try:
                    os.lseek(fd, offset, os.SEEK_SET)
                    return os.read(fd, size)
                finally:
                    os.lseek(fd, before, os.SEEK_SET)
        return os.pread(fd, size, offset)

    def seek(self, fd: int, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position of *fd*; return the new offset."""
        return os.lseek(fd, offset, whence)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write some of *data*, at the end of a file that was opened to append; return the number of bytes."""
        return os.write(fd, data)

    def check_limit(self, size: int) -> None:
        """Raise ``OSError`` (``EFBIG``) if this process may write no file of *size* bytes (``ulimit -f``)."""
        if sys.platform != "win32":
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            if most != resource.RLIM_INFINITY and size > most:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    def truncate(self, fd: int, size: int) -> None:
        """Truncate the file to *size* bytes."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Return when the file, its length included, is on the disk."""
        if sys.platform == "linux":
            os.fdatasync(fd)
        else:
            self.sync_all(fd)

    def sync_all(self, fd: int) -> None:
        """As :meth:`sync`, also for the file's mode and times; of a directory, the names in it."""
        if sys.platform == "darwin":
            try:
                # On macOS, fsync leaves written data in the drive's cache.
                fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
                return
            except OSError as error:
                if error.errno != errno.ENOTTY and not is_unsupported(error):  # network file systems know no such call
                    raise
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
        """Lock the open file exclusively, without waiting; ``BlockingIOError`` if another descriptor holds the lock."""
        if sys.platform == "win32":
            windows.lock(fd, exclusive=True)
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_locked(self, fd: int) -> bool:
        """Whether another descriptor holds a lock on the open file; False where locks are not supported."""
        try:
            if sys.platform == "win32":
                windows.lock(fd, exclusive=False)
                windows.unlock(fd)
            else:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                fcntl.flock(fd, fcntl.LOCK_UN)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def replace(self, old: str, new: str) -> None:
        """Rename *old* to *new*, replacing a file of that name.

        Windows refuses while either is open, as virus scanners have files open for a moment: it is retried for half a
        second there.
        """
        if sys.platform == "win32":
            for _ in range(_REPLACE_TRIES):
                with contextlib.suppress(PermissionError):
                    os.replace(old, new)  # noqa: PTH105
                    return
                time.sleep(_REPLACE_PAUSE_SECONDS)
        os.replace(old, new)  # noqa: PTH105

    def link(self, old: str, new: str) -> None:
        """Create a hard link *new* to the file *old*; ``FileExistsError`` if *new* exists."""
        if sys.platform == "win32":
            os.link(old, new)
        else:
            os.link(old, new, follow_symlinks=False)

    def name_of(self, fd: int) -> str:
        """The current path of an open file, if the system knows it."""
        if sys.platform == "darwin":
            return os.fsdecode(fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).partition(b"\0")[0])
        return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115

    def unlink(self, path: str) -> None:
        """Delete the name *path*."""
        os.unlink(path)  # noqa: PTH108

    def change_rights(self, fd: int, mode: int, owner: tuple[int, int] | None = None) -> None:
        """Set an open file's owner and group, where permitted, then its mode. Does nothing on Windows.

        A new file there inherits the permissions of its directory.
        """
        if sys.platform == "win32":
            return
        if owner is not None:
            with contextlib.suppress(PermissionError):
                os.fchown(fd, *owner)
        os.fchmod(fd, mode)


FILESYSTEM: Final = Filesystem()
"""The operating system's file system."""


def write_all(fd: int, data: bytes, disk: Filesystem) -> None:
    """Write all of *data*, in as many calls as that takes.

    Raises:
        OSError: as the system says; some of *data* may have been written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[disk.write(fd, rest) :]
