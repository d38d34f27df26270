"""Reads the whole lines of an output back, one at a time. Memory: one block and the longest line."""

from __future__ import annotations

from collections.abc import Iterator

from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

__all__ = ["read_lines"]

_BLOCK_BYTES = 256 * 1024


def read_lines(fd: int, end_bytes: int, disk: Filesystem = FILESYSTEM) -> Iterator[bytes]:
    """The lines of the first *end_bytes* bytes behind *fd*, without their line ends.

    *end_bytes* is where the good part ends (:class:`~llmbatch.outputs.scan.Scan`), so that what a running run appends
    meanwhile is left out. The offset of *fd* stays where it is.

    Raises:
        OSError: as the system says.
    """
    offset = 0
    parts: list[bytes] = []
    while offset < end_bytes and (block := disk.pread(fd, min(_BLOCK_BYTES, end_bytes - offset), offset)):
        offset += len(block)
        lines = block.split(b"\n")
        parts.append(lines[0])
        if len(lines) > 1:
            yield b"".join(parts)
            yield from lines[1:-1]
            parts = [lines[-1]]
    last = b"".join(parts)
    if last:
        yield last
