"""A file system in memory: a page cache that a power cut loses, descriptors that die with their process, and faults.

What it assumes of a real one (docs/guarantees.md): a file's bytes reach the disk in order, a torn end may read as NUL
bytes, a rename is whole, and what a sync confirmed stays. A failed sync marks what it should have written as clean, as
Linux does: a later sync says yes and writes nothing of it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from llmbatch.storage.filesystem import Filesystem

PAGE = 4096


class Killed(BaseException):
    """The process is dead: nothing that it still does has any effect."""


@dataclass(eq=False)
class Inode:
    number: int
    mode: int
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    least: int = 0
    """How short the file has been since the last sync."""
    lost: bool = False
    """A sync failed: what it should have written never reaches the disk."""
    links: int = 0
    holder: object = None
    changed: int = 0


@dataclass
class _Open:
    inode: Inode
    offset: int = 0
    path: str = ""


Fault = Callable[[str, str], OSError | None]
"""Asked before every call: its name and the path; what it gives is raised."""


class Machine:
    """What outlives a process: the disk and its page cache."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.capacity: int | None = None
        """Bytes that fit; None: no bound."""
        self._numbers = 100

    def new_inode(self, mode: int) -> Inode:
        self._numbers += 1
        return Inode(self._numbers, mode)

    def put(self, path: str, data: bytes) -> None:
        """Write a file as people do, and make it durable."""
        inode = self.names.get(path)
        if inode is None:
            inode = self.new_inode(0o644)
            inode.links = 1
        inode.data[:] = data
        inode.durable = bytes(data)
        inode.least = len(data)
        inode.changed += 1
        self.names[path] = self.durable_names[path] = inode

    def get(self, path: str) -> bytes | None:
        """What is in a file; None if it is not there."""
        inode = self.names.get(path)
        return None if inode is None else bytes(inode.data)

    def durable(self, path: str) -> bytes:
        """What of a file would survive a power cut for certain."""
        inode = self.durable_names.get(path)
        return b"" if inode is None else inode.durable

    def used(self) -> int:
        return sum(len(inode.data) for inode in self.names.values())

    def cut_power(self) -> None:
        """Every file goes back to what has reached the disk: all that was synced, and some of what was not."""
        for path in sorted(self.names.keys() | self.durable_names.keys()):
            if self.names.get(path) is not self.durable_names.get(path) and self.rng.random() < 0.5:
                # The directory was not synced: the old name may stand.
                old = self.durable_names.get(path)
                if old is None:
                    del self.names[path]
                else:
                    self.names[path] = old
        for inode in self.names.values():
            inode.data[:] = self._survives(inode)
            inode.durable = bytes(inode.data)
            inode.least = len(inode.data)
            inode.lost = False
            inode.holder = None
        self.durable_names = dict(self.names)

    def _survives(self, inode: Inode) -> bytes:
        data = bytes(inode.data)
        if data == inode.durable or inode.lost or self.rng.random() < 0.2:
            return inode.durable
        length = self.rng.randint(inode.least, len(data))
        if self.rng.random() < 0.5:
            length = max(inode.least, length // PAGE * PAGE)
        kept = data[:length]
        if self.rng.random() < 0.3:
            holes = max(inode.least, self.rng.randint(inode.least, length) // PAGE * PAGE)
            kept = kept[:holes] + b"\0" * (length - holes)
        # A file of NUL bytes alone is refused; journals write a new file's data before its size (docs/guarantees.md).
        return kept if kept.strip(b"\0") else b""


class SimulatedFilesystem(Filesystem):
    """One process's view of a machine's files."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.dead = False
        self.calls = 0
        self.die_at_call: int | None = None
        """The number of the call in the middle of which the process is killed."""
        self.fault: Fault | None = None
        self.on_write: Callable[[str, bytes], None] = lambda path, data: None
        self.on_sync: Callable[[str, int], None] = lambda path, length: None
        self._fds: dict[int, _Open] = {}
        self._next_fd = 1000

    def kill(self) -> None:
        """The process ends here; its locks are free."""
        self.dead = True
        for inode in {id(one.inode): one.inode for one in self._fds.values()}.values():
            if inode.holder is self:
                inode.holder = None
        self._fds.clear()

    def has_open(self, path: str) -> bool:
        return any(one.path == path for one in self._fds.values())

    def _enter(self, call: str, path: str) -> bool:
        """Whether this is the call that the process dies in."""
        if self.dead:
            raise Killed
        self.calls += 1
        if self.calls == self.die_at_call:
            if call != "write":
                self.kill()
                raise Killed
            return True
        if self.fault is not None:
            error = self.fault(call, path)
            if error is not None:
                raise error
        return False

    def _of(self, fd: int) -> _Open:
        if self.dead:
            raise Killed
        try:
            return self._fds[fd]
        except KeyError:
            raise OSError(errno.EBADF, "Bad file descriptor") from None

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        self._enter("open", path)
        if flags & os.O_DIRECTORY:
            inode = self.machine.new_inode(0o755)
        else:
            found = self.machine.names.get(path)
            if found is None:
                if not flags & os.O_CREAT:
                    raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
                found = self.machine.new_inode(mode)
                found.links = 1
                self.machine.names[path] = found
            elif flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, "File exists", path)
            inode = found
        self._next_fd += 1
        self._fds[self._next_fd] = _Open(inode, path=path)
        return self._next_fd

    def close(self, fd: int) -> None:
        one = self._of(fd)
        del self._fds[fd]
        if one.inode.holder is self and all(other.inode is not one.inode for other in self._fds.values()):
            one.inode.holder = None

    def read(self, fd: int, size: int) -> bytes:
        one = self._of(fd)
        self._enter("read", one.path)
        data = bytes(one.inode.data[one.offset : one.offset + size])
        one.offset += len(data)
        return data

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        one = self._of(fd)
        self._enter("read", one.path)
        return bytes(one.inode.data[offset : offset + size])

    def seek(self, fd: int, offset: int, whence: int = os.SEEK_SET) -> int:
        one = self._of(fd)
        one.offset = {os.SEEK_SET: 0, os.SEEK_CUR: one.offset, os.SEEK_END: len(one.inode.data)}[whence] + offset
        return one.offset

    def write(self, fd: int, data: bytes | memoryview) -> int:
        one = self._of(fd)
        dies = self._enter("write", one.path)
        size = len(data)
        if dies:
            size = self.machine.rng.randint(0, size)
            end = len(one.inode.data) + size
            if self.machine.rng.random() < 0.5 and end // PAGE * PAGE > len(one.inode.data):
                size = end // PAGE * PAGE - len(one.inode.data)
        elif self.machine.capacity is not None:
            size = min(size, max(0, self.machine.capacity - self.machine.used()))
            if not size and len(data):
                raise OSError(errno.ENOSPC, "No space left on device")
        piece = bytes(data[:size])
        one.inode.data += piece
        one.inode.changed += 1
        if dies:
            self.kill()
            raise Killed
        self.on_write(one.path, piece)
        return size

    def truncate(self, fd: int, size: int) -> None:
        one = self._of(fd)
        self._enter("truncate", one.path)
        del one.inode.data[size:]
        one.inode.least = min(one.inode.least, size)
        if size <= len(one.inode.durable):
            one.inode.lost = False  # the pages that were lost are no part of the file any more
        one.inode.changed += 1

    def sync(self, fd: int) -> None:
        one = self._of(fd)
        try:
            self._enter("sync", one.path)
        except OSError:
            one.inode.lost |= bytes(one.inode.data) != one.inode.durable
            raise
        self._make_durable(one)

    def sync_all(self, fd: int) -> None:
        one = self._of(fd)
        self._enter("sync", one.path)
        if stat.S_ISDIR(self.fstat(fd).st_mode):
            self.machine.durable_names = dict(self.machine.names)
        else:
            self._make_durable(one)

    def _make_durable(self, one: _Open) -> None:
        if not one.inode.lost:
            one.inode.durable = bytes(one.inode.data)
            one.inode.least = len(one.inode.data)
        self.on_sync(one.path, len(one.inode.data))

    def fstat(self, fd: int) -> os.stat_result:
        return self._about(self._of(fd).inode)

    def stat(self, path: str) -> os.stat_result:
        self._enter("stat", path)
        inode = self.machine.names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return self._about(inode)

    def _about(self, inode: Inode) -> os.stat_result:
        kind = stat.S_IFDIR if inode.mode == 0o755 else stat.S_IFREG
        fields = (kind | inode.mode, inode.number, 1, inode.links, 0, 0, len(inode.data), 0, inode.changed, 0)
        return os.stat_result(fields)

    def real_path(self, path: str) -> str:
        return path

    def lock(self, fd: int) -> None:
        inode = self._of(fd).inode
        self._enter("lock", self._of(fd).path)
        if inode.holder not in (None, self):
            raise BlockingIOError(errno.EWOULDBLOCK, "Resource temporarily unavailable")
        inode.holder = self

    def replace(self, old: str, new: str) -> None:
        self._enter("rename", new)
        inode = self.machine.names.pop(old)
        gone = self.machine.names.get(new)
        if gone is not None:
            gone.links -= 1
        self.machine.names[new] = inode

    def unlink(self, path: str) -> None:
        self._enter("unlink", path)
        inode = self.machine.names.pop(path, None)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        inode.links -= 1

    def change_rights(self, fd: int, mode: int, owner: tuple[int, int] | None = None) -> None:
        self._of(fd).inode.mode = mode
