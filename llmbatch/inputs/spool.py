"""Temporary file next to the output for rows that are needed again and cannot be read again by their offset.

Created with the first row, with mode 0600, and unlinked at once: however the process ends, no file is left. It holds
parsed rows, not the input's bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import struct
import tempfile
from pathlib import Path
from typing import Final

from llmbatch.core.errors import InputError
from llmbatch.core.raw_json import dumps
from llmbatch.core.rows import Row
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, Filesystem, write_all, write_error

__all__ = ["Spool"]

_HEAD: Final = struct.Struct("<QQ")  # the row's number, and how many bytes follow
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | O_CLOEXEC


class Spool:
    """Stores rows by offset. *path*: the file's name while it has one; None: in the directory for temporary files.

    *name*: the input's, for messages.
    One owner; not thread-safe. ``size_bytes`` is the offset of the next row.
    """

    def __init__(self, path: str | Path | None, disk: Filesystem = FILESYSTEM, name: str = "standard input") -> None:
        self.size_bytes = 0
        self._path = None if path is None else str(path)
        self._disk = disk
        self._name = name
        self._fd: int | None = None
        self._closed = False

    def put(self, row: Row) -> int:
        """Append the row; give its offset.

        Raises:
            WriteError: disk full, quota, file size limit, no permission, I/O error.
        """
        text = dumps([row.hash, row.id_json, row.fields, row.size]).encode()
        data = _HEAD.pack(row.number, len(text)) + text
        name = self._path or self._temporary()
        try:
            if self._fd is None:
                self._fd = self._open(name)
            write_all(self._fd, data, self._disk)
        except OSError as error:
            failure = write_error(f"{name} (waiting rows of {self._name})", error)
            if self._fd is not None:
                with contextlib.suppress(OSError):
                    self._disk.truncate(self._fd, self.size_bytes)
            raise failure from error
        at = self.size_bytes
        self.size_bytes += _HEAD.size + len(text)
        return at

    def head(self, offset: int) -> tuple[int, int]:
        """The number of the row at *offset*, and the offset of the row after it.

        Raises:
            InputError: it cannot be read.
        """
        number, size = _HEAD.unpack(self._read(offset, _HEAD.size))
        return number, offset + _HEAD.size + size

    def get(self, offset: int) -> Row:
        """The row at *offset*.

        Raises:
            InputError: it cannot be read.
        """
        number, end = self.head(offset)
        start = offset + _HEAD.size
        try:
            digest, id_json, fields, size = json.loads(self._read(start, end - start))
        except ValueError as error:
            raise self._damaged() from error
        return Row(number, digest, id_json, fields, None, offset, size)

    def close(self) -> None:
        """Close the file; idempotent."""
        self._closed = True
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._disk.close(fd)

    def _open(self, name: str) -> int:
        if self._closed:
            raise ValueError("the spool is closed")
        if self._path is not None:
            # A process that was killed between the next two calls leaves its file: the name is ours alone.
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(name)
        return self._disk.open_unnamed(name, _FLAGS)

    def _temporary(self) -> str:
        return str(Path(tempfile.gettempdir()) / f".llmbatch-{secrets.token_hex(8)}.spool")

    def _read(self, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        try:
            while size > 0 and self._fd is not None:
                part = self._disk.pread(self._fd, size, offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                size -= len(part)
        except OSError as error:
            raise self._damaged() from error
        if size:
            raise self._damaged()
        return b"".join(parts)

    def _damaged(self) -> InputError:
        name = self._path or "the temporary file"
        hint = "run the same command again with the same input: finished rows are kept"
        return InputError(f"{name}: waiting rows of {self._name} cannot be read back", hint=hint)
