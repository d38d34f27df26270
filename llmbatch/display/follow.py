"""Folds the lines of an output while a run appends to it, each line once, and no longer at a time than is allowed."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import Final

from llmbatch.core.errors import OutputError
from llmbatch.core.raw_json import JSON, RawJsonError, parse
from llmbatch.outputs.joined import open_file
from llmbatch.outputs.line_members import line_members
from llmbatch.outputs.scan import match_line
from llmbatch.report.html.data import LatestRow
from llmbatch.report.output_lines import OutputLines
from llmbatch.report.row_spread import RowSpread
from llmbatch.storage.filesystem import FILESYSTEM

__all__ = ["OutputFollower"]

_BLOCK_BYTES: Final = 256 * 1024
_MOST_BYTES: Final = 128 * 1024 * 1024
_MOST_LATEST: Final = 20
_LINES_BETWEEN_LOOKS: Final = 50


class OutputFollower:
    """Follows the output *path*. One thread. A file that was replaced, as ``--retry-failed`` does, is read anew.

    ``success`` and ``failed`` count the lines so far; ``is_behind`` says that there are more.

    Cost: some five microseconds a line; a descriptor only while it reads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None
        self.is_behind = True
        self._begin()

    def __repr__(self) -> str:
        return f"<OutputFollower {self.path} at {self._offset}>"

    def _begin(self) -> None:
        self.spread = RowSpread()
        self.lines = OutputLines(self.spread)
        self.success = self.failed = 0
        self._offset = 0
        self._latest: deque[bytes] = deque(maxlen=_MOST_LATEST)

    @property
    def rows(self) -> int:
        """Lines so far."""
        return self.success + self.failed

    def advance(self, most_s: float) -> None:
        """Read what was appended, for about *most_s* seconds of this thread's CPU.

        Raises:
            OutputError: there is no such file, or it is not an output of llmbatch.
        """
        until = time.thread_time() + most_s
        with open_file(self.path) as descriptor:
            try:
                state = os.fstat(descriptor)
                identity = (state.st_dev, state.st_ino)
                if identity != self._identity or state.st_size < self._offset:
                    self._identity = identity
                    self._begin()
                self.is_behind = not self._read(descriptor, until)
            except OSError as error:
                raise OutputError(f"{self.path}: cannot be read ({(error.strerror or str(error)).lower()})") from error

    def _read(self, descriptor: int, until: float) -> bool:
        """Fold whole lines; False if time was up before all were read."""
        size = _BLOCK_BYTES
        while True:
            block = FILESYSTEM.pread(descriptor, size, self._offset)
            end = block.rfind(b"\n") + 1
            if not end:
                if len(block) < size or size >= _MOST_BYTES:
                    return True
                size *= 8  # a line longer than the block
                continue
            for number, line in enumerate(block[: end - 1].split(b"\n")):
                if number % _LINES_BETWEEN_LOOKS == 0 and time.thread_time() >= until:
                    return False
                self._offset += len(line) + 1
                self._fold(line)
            size = _BLOCK_BYTES

    def _fold(self, line: bytes) -> None:
        found = match_line(line)
        if found is None:
            if not self.rows and line.strip():
                raise OutputError(f"{self.path}: is not an output of llmbatch")
            return
        if found[3] == b"success":
            self.success += 1
        else:
            self.failed += 1
        self.lines.add(line)
        self._latest.append(line)

    def latest(self, *, with_text: bool = False) -> list[LatestRow]:
        """The rows that ended last, the newest first; their answers only *with_text*."""
        return [row for line in reversed(self._latest) if (row := _row(line, with_text=with_text)) is not None]


def _row(line: bytes, *, with_text: bool) -> LatestRow | None:
    try:
        members = line_members(line.decode("utf-8", "replace"), skips_response=True)
        values: dict[str, JSON] = {
            name: parse(members[name])
            for name in ("row", "status", "id", "model", "latency_s", "error", "text", "route")
            if name in members and (name != "text" or with_text)
        }
    except RawJsonError:
        return None
    number, error, latency, text = (values.get(name) for name in ("row", "error", "latency_s", "text"))
    return LatestRow(
        number=number if isinstance(number, int) else 0,
        id=values.get("id"),
        failed=values.get("status") == "failed",
        code=str(error.get("code") or "") if isinstance(error, dict) else "",
        latency_s=float(latency) if isinstance(latency, (int, float)) and 0 <= latency < 1e9 else None,
        model=str(values.get("route") or values.get("model") or ""),
        answer=text[:2000] if isinstance(text, str) else None,
    )
