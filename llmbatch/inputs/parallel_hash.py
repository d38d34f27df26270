"""Hash input lines in a subprocess while the output is scanned, which halves the time to resume a million rows.

Only an optimization: if it does not work or finds a difference, the caller compares line by line instead
(:func:`llmbatch.inputs.verify.verify_finished`) and reports what differs.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import Final

from llmbatch.core.errors import InputError
from llmbatch.core.shards import WHOLE, Shard
from llmbatch.inputs.compression import HEAD_BYTES, is_compressed
from llmbatch.inputs.open import open_input
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FinishedRows, Verified

__all__ = ["ParallelHash", "start_parallel_hash"]

_WORTH_BYTES: Final = 32 * 1024 * 1024
"""Size of input and output from which starting a process pays off."""

_RECORD_BYTES: Final = 16
_ROWS: Final = 4096


class ParallelHash:
    """The hashing subprocess and its output file. Always close it."""

    def __init__(self, fd: int, shard: Shard = WHOLE) -> None:
        self._fd = fd
        self._shard = shard
        self._state = identity(os.fstat(fd))
        self._hashes = _unnamed_file()
        program = str(Path(__file__).with_name("hash_process.py"))
        self._process = subprocess.Popen(  # noqa: S603 - our own program, with two numbers
            [sys.executable, "-I", "-S", program, str(shard.index), str(shard.count)],
            stdin=fd,
            stdout=self._hashes,
            stderr=subprocess.DEVNULL,
            env={},
        )

    def matches(self, finished: FinishedRows) -> bool:
        """Whether the hash of every finished row of *finished* matches; marks it as verified then. Waits for them."""
        shard = self._shard
        places = shard.place(finished.last)
        wanted = places * _RECORD_BYTES
        while os.fstat(self._hashes).st_size < wanted:
            if self._process.poll() is not None and os.fstat(self._hashes).st_size < wanted:
                return False
            time.sleep(0.002)
        lines = size = 0
        goes_on = True
        for place in range(1, places + 1, _ROWS):
            count = min(_ROWS, places + 1 - place)
            records = array("Q", FILESYSTEM.pread(self._hashes, count * _RECORD_BYTES, (place - 1) * _RECORD_BYTES))
            first = shard.number(place)
            all_done = finished.are_done(first, count)
            fingerprints = array("I", records[::2].tobytes())[::2]
            if not _agree(finished, first, fingerprints, all_done=all_done):
                return False
            goes_on = goes_on and all_done
            if goes_on:
                lines, size = shard.number(place + count - 1), records[-1]
        if identity(os.fstat(self._fd)) != self._state:
            return False
        finished.verified = Verified(self._state, lines, size)
        return True

    def close(self) -> None:
        """End the process; idempotent."""
        if self._fd >= 0:
            self._process.kill()
            self._process.wait()
            os.close(self._hashes)
            os.close(self._fd)
            self._fd = -1


def start_parallel_hash(
    path: str | Path, output: str | Path, disk: Filesystem = FILESYSTEM, *, shard: Shard = WHOLE
) -> ParallelHash | None:
    """Start hashing the lines of *shard* in *path*, if *output* is there and both are large.

    None where it would not pay.
    """
    # On Windows two processes share the position in an open file, and there is no read that leaves it alone.
    if disk is not FILESYSTEM or sys.platform == "win32" or _cores() < 2 or not sys.executable:
        return None
    try:
        abouts = (Path(path).stat(), Path(output).stat())
        if any(not stat.S_ISREG(about.st_mode) or about.st_size < _WORTH_BYTES for about in abouts):
            return None
        fd = open_input(path, disk)
    except (OSError, ValueError, InputError):
        return None  # opening it next reports what is wrong
    try:
        if not is_compressed(disk.pread(fd, HEAD_BYTES, 0)):
            return ParallelHash(fd, shard)
    except OSError:
        pass
    os.close(fd)
    return None


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    else:  # noqa: RET505 - what the type checker takes as one branch a system
        return os.cpu_count() or 1


def _unnamed_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("llmbatch-hashes")
    else:  # noqa: RET505
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def identity(about: os.stat_result) -> tuple[int, ...]:
    """Identity of a file and of its state."""
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _agree(finished: FinishedRows, first: int, found: array[int], *, all_done: bool) -> bool:
    kept = finished.fingerprints_of(first, len(found))
    return found == kept or (not all_done and all(map(_is_same, found, kept)))


def _is_same(found: int, kept: int) -> bool:
    return kept in (0, found)
