r"""A separate program that hashes every line of standard input (a plain file) and writes to standard output (a file).

Run by :mod:`llmbatch.inputs.parallel_hash`, on another core, with the arguments ``I N``: of every N lines it hashes the
one with number I. For each of those it writes sixteen bytes: the first eight of
its SHA-256 (without one ``\r`` at its end and the file's byte order mark), and the offset of the next line, in native
byte order. Needs only the standard library. Exits with 1 if the file is not plain text: then the caller compares the
lines itself.
"""

from __future__ import annotations

import os
import signal
import sys
from array import array
from hashlib import sha256
from itertools import accumulate

__all__ = ["main"]

_BLOCK_BYTES = 256 * 1024
_LONGEST = 1024 * 1024
_BOM = b"\xef\xbb\xbf"


def main() -> int:
    """Hash until the end of the input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller ends this process
    index, count = map(int, sys.argv[1:3])
    skip = index - 1  # lines before the next one to hash
    rest = b""
    start = 0
    while block := os.read(0, _BLOCK_BYTES):
        text = rest + block
        if not start and text.startswith(_BOM):
            text = text[len(_BOM) :]
            start = len(_BOM)
        lines = text.split(b"\n")
        rest = lines.pop()
        if len(rest) > _LONGEST:
            return 1
        start = _put(lines, start, skip, count)
        skip = (skip - len(lines)) % count
    if rest:
        _put([rest], start, skip, count)
    return 0


def _put(lines: list[bytes], start: int, skip: int, count: int) -> int:
    """Write the records of every *count*-th of *lines*, *skip* lines first; *start* is the offset of the first line."""
    if not lines:
        return start
    ends = list(accumulate((len(line) + 1 for line in lines), initial=start))
    hashed = [sha256(line.removesuffix(b"\r")).digest() for line in lines[skip::count]]
    records = array("Q", bytes(16 * len(hashed)))
    records[::2] = array("Q", b"".join(hashed))[::4]
    records[1::2] = array("Q", ends[1 + skip :: count])
    left = memoryview(records.tobytes())
    while left:
        left = left[os.write(1, left) :]
    return ends[-1]


if __name__ == "__main__":
    raise SystemExit(main())
