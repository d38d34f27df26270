"""Journal of the batches of a run: one JSON object per line, only ever appended to.

It speeds up what the provider's listing tells too, so it may be deleted at any time. A torn last line is ignored, and
the next line begins on a line of its own. A record that must not be lost is synced before the call that it announces.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from llmbatch.core.raw_json import dumps
from llmbatch.storage.atomic_replace import sync_directory
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, Filesystem, is_unsupported, write_all, write_error

__all__ = ["BatchJournal"]

_BLOCK = 1 << 20
_MOST_BYTES = 256 << 20


class BatchJournal:
    """The journal *path*, created with its first record. One owner; not thread-safe."""

    def __init__(self, path: str, disk: Filesystem = FILESYSTEM) -> None:
        self.path = path
        self._disk = disk
        self._fd: int | None = None

    def __repr__(self) -> str:
        return f"<BatchJournal {self.path}>"

    def read(self) -> list[dict[str, Any]]:
        """All whole records; none if there is no journal, or if it cannot be read."""
        records: list[dict[str, Any]] = []
        for line in self._content().split(b"\n"):
            try:
                record = json.loads(line) if line.strip() else None
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("kind"), str):
                records.append(record)
        return records

    def append(self, record: Mapping[str, object], *, sync: bool = False) -> None:
        """Append *record*; with *sync* it is on the disk afterwards.

        Raises:
            WriteError: disk full, no permission, I/O error.
        """
        try:
            if self._fd is None:
                self._fd = self._open()
            write_all(self._fd, dumps(record).encode() + b"\n", self._disk)
            if sync:
                self._sync(self._fd)
        except OSError as error:
            raise write_error(self.path, error) from error

    def remove(self) -> None:
        """Remove the journal, if there is one."""
        self.close()
        try:
            self._disk.unlink(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise write_error(self.path, error) from error

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._disk.close(fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | O_CLOEXEC
        fd = self._disk.open(self.path, flags, 0o600)
        try:
            size = self._disk.fstat(fd).st_size
            if size and self._disk.pread(fd, 1, size - 1) != b"\n":
                write_all(fd, b"\n", self._disk)
            if not size:
                sync_directory(self.path, self._disk)
        except BaseException:
            self._disk.close(fd)
            raise
        return fd

    def _sync(self, fd: int) -> None:
        try:
            self._disk.sync(fd)
        except OSError as error:
            if not is_unsupported(error):
                raise

    def _content(self) -> bytes:
        try:
            fd = self._disk.open(self.path, os.O_RDONLY | O_CLOEXEC)
        except OSError:
            return b""
        parts: list[bytes] = []
        size = 0
        try:
            while size < _MOST_BYTES and (block := self._disk.read(fd, _BLOCK)):
                parts.append(block)
                size += len(block)
        except OSError:
            return b""
        finally:
            self._disk.close(fd)
        return b"".join(parts)
