"""One run an output: opening the file and locking it, and saying who has it.

The lock is ``flock`` on the file itself: the kernel lets go of it however the process ends, and no lock file stays
behind. Does not read or write the file.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from llmbatch.errors import OutputError

__all__ = ["open_locked"]

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY


def open_locked(path: str, name: str) -> int:
    """A descriptor of *path*, created with mode 0600 where it is not there, and locked. *name* is for messages.

    Raises:
        OutputError: another run has the file, or it cannot be opened or locked.
    """
    while True:
        fd = _open(path, name)
        try:
            _lock(fd, name)
            # Between open and lock the holder may have replaced the file: then our lock is on the old one.
            if _is_still_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _open(path: str, name: str) -> int:
    parent = str(Path(path).parent)
    try:
        return os.open(path, _FLAGS, 0o600)
    except FileNotFoundError:
        raise OutputError(f"{name}: there is no directory {parent}", hint=f"create it: mkdir -p {parent}") from None
    except IsADirectoryError:
        raise OutputError(f"{name}: is a directory", hint="name a file in it") from None
    except PermissionError:
        hint = f"ls -ld {parent} {path} shows who may; or write to another file (-o)"
        raise OutputError(f"{name}: no permission to write it", hint=hint) from None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OutputError(f"{name}: cannot be opened ({why})", hint="write to another file (-o)") from error


def _lock(fd: int, name: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _holder(fd)
        who = f" (pid {pid})" if pid else ""
        hint = "wait for it to end, stop it, or write to another file (-o)"
        raise OutputError(f"{name}: is in use by another run{who}", hint=hint) from None
    except OSError as error:
        hint = "write to a file system that has locks, such as a local disk"
        raise OutputError(f"{name}: cannot be locked ({error.strerror})", hint=hint) from error


def _is_still_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), Path(path).stat())
    except FileNotFoundError:
        return False


def _holder(fd: int) -> int | None:
    """The process that holds the lock, where the system tells."""
    about = os.fstat(fd)
    place = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    for words in map(str.split, locks.splitlines()):
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == place and words[4].isdigit():
            return int(words[4]) or None
    return None
