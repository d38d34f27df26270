"""Opens and locks the output file, so that only one run writes it, and finds the process that holds the lock.

The lock is on the file itself (``flock``; ``LockFileEx`` on Windows): the system releases it however the process ends,
and no lock file is left. Does not read or write the file.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Final

from llmbatch.core.errors import InUseError, OutputError
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, O_NOCTTY, Filesystem, is_unsupported

__all__ = ["Unlocked", "holder_of", "holds_lock", "open_locked"]

_TRIES: Final = 3
_TRY_AGAIN_S: Final = 0.01
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | O_CLOEXEC | O_NOCTTY


class Unlocked(Filesystem):
    """A file system whose :meth:`lock` does nothing; all other calls go to *disk*. A second run goes unnoticed."""

    def __init__(self, disk: Filesystem) -> None:
        for name in _CALLS:
            setattr(self, name, getattr(disk, name))

    def lock(self, fd: int) -> None:
        """Do nothing."""


_CALLS = [name for name, call in vars(Filesystem).items() if callable(call) and name[0] != "_" and name != "lock"]


def open_locked(path: str, name: str, disk: Filesystem = FILESYSTEM) -> int:
    """Open *path*, created with mode 0600 if missing, and lock it; return the descriptor. *name* is for messages.

    Raises:
        OutputError: another run has the file, or it cannot be opened or locked.
    """
    while True:
        fd = _open(path, name, disk)
        try:
            _lock(fd, name, disk)
            # Between open and lock the holder may have replaced the file: then our lock is on the old one.
            if _is_still_at(fd, path, disk):
                return fd
        except BaseException:
            disk.close(fd)
            raise
        disk.close(fd)


def _open(path: str, name: str, disk: Filesystem) -> int:
    parent = str(Path(path).parent)
    try:
        return disk.open(path, _FLAGS, 0o600)
    except FileNotFoundError:
        if Path(parent).is_dir():
            raise OutputError(f"{name}: no file can be made in {parent}", hint="write to another file (-o)") from None
        raise OutputError(f"{name}: there is no directory {parent}", hint=f"create it: mkdir -p {parent}") from None
    except IsADirectoryError:
        raise OutputError(
            f"{name}: is a directory", hint=f"name a file in it, such as -o {name}/results.jsonl"
        ) from None
    except PermissionError as error:
        if Path(path).is_dir():  # which Windows does not open
            raise OutputError(f"{name}: is a directory", hint="name a file in it") from None
        if error.errno == errno.EPERM:
            raise _cannot_append(name, error) from error
        hint = f"ls -ld {parent} {path} shows who may; or write to another file (-o)"
        raise OutputError(f"{name}: no permission to write it", hint=hint) from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and is_unsupported(error):
            raise _cannot_append(name, error) from error
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OutputError(f"{name}: cannot be opened ({why})", hint="write to another file (-o)") from error


def _cannot_append(name: str, error: OSError) -> OutputError:
    hint = (
        "lines are appended to the output, which mounts of object stores often cannot do: "
        "write to a local disk (-o), and copy the file when the run is done"
    )
    return OutputError(f"{name}: its file system cannot append to files ({error.strerror})", hint=hint)


def _lock(fd: int, name: str, disk: Filesystem) -> None:
    try:
        _try_to_lock(fd, disk)
    except BlockingIOError:
        pid = holder_of(disk.fstat(fd))
        who = f" (pid {pid})" if pid else ""
        hint = "wait for it to end, stop it, or write to another file (-o)"
        raise InUseError(f"{name}: is in use by another run{who}", hint=hint) from None
    except OSError as error:
        hint = (
            "write to a local disk (-o); or, if certainly no other run writes to this file, run without its lock "
            "(--lock off): two runs at once would send rows twice and spoil the file"
        )
        raise OutputError(f"{name}: cannot be locked ({error.strerror})", hint=hint) from error


def _try_to_lock(fd: int, disk: Filesystem) -> None:
    """Lock *fd*. Others who look whether it is locked have a lock on it for an instant, so it is tried for 20 ms."""
    for _ in range(_TRIES - 1):
        try:
            disk.lock(fd)
        except BlockingIOError:
            time.sleep(_TRY_AGAIN_S)
        else:
            return
    disk.lock(fd)


def _is_still_at(fd: int, path: str, disk: Filesystem) -> bool:
    try:
        return os.path.samestat(disk.fstat(fd), disk.stat(path))
    except FileNotFoundError:
        return False


def holds_lock(pid: int) -> bool:
    """Whether the process *pid* holds a lock on any file, or is alive where the system lists no locks.

    False on Windows, where a file that a run has open cannot be renamed.
    """
    if sys.platform == "win32":
        return False  # and os.kill(pid, 0) would send a Ctrl-C
    try:
        return any(lock_pid == pid for lock_pid, _ in _locks())
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def holder_of(about: os.stat_result) -> int | None:
    """The process that holds the lock, if the system has a list of locks."""
    if sys.platform == "win32":
        return None
    wanted = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    try:
        return next((pid for pid, locked in _locks() if locked == wanted and pid), None)
    except OSError:
        return None


def _locks() -> list[tuple[int, str]]:
    """Process and file of every ``flock`` on this machine.

    Raises:
        OSError: the system does not provide it.
    """
    lines = Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines()
    rows = [words for words in map(str.split, lines) if len(words) > 5 and words[1] == "FLOCK"]
    return [(int(words[4]), words[5]) for words in rows if words[4].isdigit()]
