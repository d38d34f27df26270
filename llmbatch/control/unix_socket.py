"""A Unix socket beside a file that nobody but its owner can ever open, whatever the umask and however long its path.

The socket is made in a folder that only the owner may enter, gets its mode there, and is then renamed to its place: at
no instant can anybody else connect, and the socket of a run that was killed is replaced as a whole. Paths that are too
long for a socket's address (some 100 bytes) are reached through a link of a short name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["HAS_SOCKETS", "connect", "is_owner", "listen", "remove"]

HAS_SOCKETS = sys.platform != "win32" and hasattr(socket, "AF_UNIX")

_MOST_PATH_BYTES = 100
"""macOS takes 103 bytes, Linux 107."""

_BACKLOG = 64


def listen(path: Path) -> tuple[socket.socket, os.stat_result]:
    """Listen at *path*, and return the socket and what it is on the disk. An older socket there is replaced.

    Raises:
        FileExistsError: there is something else at *path*, which is left alone.
        OSError: the file system has no sockets, or the folder cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(17, "something else has this name", str(path))
    folder = Path(tempfile.mkdtemp(prefix=".llmbatch-", dir=path.parent))  # mode 0700
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made = folder / "s"
        with _short(folder) as short:
            listener.bind(str(short / "s"))
        made.chmod(0o600)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        about = made.lstat()
        made.rename(path)
    except BaseException:
        listener.close()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return listener, about


def remove(path: Path, about: os.stat_result) -> None:
    """Remove the socket at *path*, if it is still the one that is *about*. Never fails."""
    with contextlib.suppress(OSError):
        if os.path.samestat(path.lstat(), about):
            path.unlink()


def connect(path: Path, timeout: float) -> socket.socket:
    """Connect to the socket at *path*; *timeout*: of this and every later call, in seconds.

    Raises:
        OSError: there is none, nobody listens, or it is somebody else's.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        with _short(path) as short:
            connection.connect(str(short))
    except BaseException:
        connection.close()
        raise
    return connection


def is_owner(connection: socket.socket) -> bool:
    """Whether who has connected is this process's user, or root; True where the system does not tell who it is."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return user in (os.geteuid(), 0)


@contextmanager
def _short(path: Path) -> Iterator[Path]:
    """A path to *path* that fits in a socket's address, for as long as the block lasts."""
    if len(os.fsencode(path)) + len("/s") <= _MOST_PATH_BYTES:
        yield path
        return
    folder = Path(tempfile.mkdtemp(prefix="llmbatch-"))
    try:
        if len(os.fsencode(folder)) > _MOST_PATH_BYTES - len("/l/s"):
            raise OSError(36, "the path of the folder for temporary files is too long for a socket", str(folder))
        link = folder / "l"
        link.symlink_to(path.absolute())
        yield link
    finally:
        shutil.rmtree(folder, ignore_errors=True)
