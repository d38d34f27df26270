"""Take in the body of a control plane call, piece by piece: multipart uploads of files, and creations of any size."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmbatch.sim.batches.spool import Spool

__all__ = ["Body", "FormBody"]

_MAX_HEAD_BYTES = 64 * 1024
_boundary = re.compile(r'boundary="?([^";,]+)"?', re.IGNORECASE).search
_name = re.compile(rb'[; ]name="([^"]*)"', re.IGNORECASE).search
_filename = re.compile(rb'[; ]filename="([^"]*)"', re.IGNORECASE).search


class Body:
    """A body that is kept as it is."""

    __slots__ = ("spool",)

    def __init__(self) -> None:
        self.spool = Spool()

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        self.spool.append(piece)

    def text(self) -> bytes:
        """All of it; for short ones."""
        return self.spool.read(0, self.spool.size)


class FormBody(Body):
    """A ``multipart/form-data`` body: its file goes to ``spool``, its other fields to ``fields``.

    ``filename`` is None if no file came. ``is_whole`` says whether the closing boundary was seen.
    """

    __slots__ = ("_boundary", "_field", "_held", "_is_in_part", "fields", "filename", "is_whole")

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__()
        found = _boundary(headers.get("content-type", ""))
        self._boundary = b"\r\n--" + (found[1].encode() if found else b"")
        self._held = b"\r\n"  # the first boundary has no line before it
        self._is_in_part = False
        self._field: str | None = None
        """The field whose value comes; None: the file."""
        self.fields: dict[str, bytes] = {}
        self.filename: str | None = None
        self.is_whole = False

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        self._held += piece
        while not self.is_whole and self._step():
            pass

    def _step(self) -> bool:
        """Read one part's head or a stretch of its value; False if more bytes are needed."""
        if not self._is_in_part:
            return self._read_head()
        at = self._held.find(self._boundary)
        if at >= 0:
            self._value(self._held[:at])
            self._held = self._held[at:]
            self._is_in_part = False
            return True
        # The boundary may have begun at the end of what is there.
        keep = len(self._boundary) - 1
        if len(self._held) > keep:
            self._value(self._held[:-keep])
            self._held = self._held[-keep:]
        return False

    def _read_head(self) -> bool:
        start = self._held.find(self._boundary)
        if start < 0:
            return False
        after = start + len(self._boundary)
        if self._held[after : after + 2] == b"--":
            self.is_whole = True
            return False
        end = self._held.find(b"\r\n\r\n", after)
        if end < 0 or end - after > _MAX_HEAD_BYTES:
            return False
        head = self._held[after:end]
        self._held = self._held[end + 4 :]
        name, filename = _name(head), _filename(head)
        self._is_in_part = True
        if filename is not None:
            self._field = None
            self.filename = filename[1].decode(errors="replace")
        else:
            self._field = name[1].decode(errors="replace") if name is not None else ""
            self.fields[self._field] = b""
        return True

    def _value(self, data: bytes) -> None:
        if self._field is None:
            self.spool.append(data)
        else:
            self.fields[self._field] = (self.fields[self._field] + data)[:_MAX_HEAD_BYTES]
