"""The files of the simulated OpenAI API: uploads, outputs and error files of batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from llmbatch.core.raw_json import JSON
from llmbatch.sim.batches.spool import Spool

__all__ = ["FileStore", "StoredFile"]


@dataclass(slots=True)
class StoredFile:
    """One file. Times are seconds of the provider's clock."""

    id: str
    filename: str
    purpose: str
    spool: Spool
    created: float
    expires: float = math.inf
    ready: float = 0.0
    """From when on it is processed."""
    downloads: int = 0

    def json(self, epoch: float, now: float) -> dict[str, JSON]:
        """The file object; *epoch* is the Unix time of the clock's zero."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.spool.size,
            "created_at": int(epoch + self.created),
            "expires_at": int(epoch + self.expires) if self.expires < math.inf else None,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed" if now >= self.ready else "uploaded",
            "status_details": None,
        }


class FileStore:
    """All files by id, oldest first. Expired ones are gone."""

    __slots__ = ("_chance", "_files")

    def __init__(self, seed: int) -> None:
        self._chance = Random(f"{seed}:file ids")
        self._files: dict[str, StoredFile] = {}

    def add(self, filename: str, purpose: str, spool: Spool, created: float) -> StoredFile:
        """Store a file under a new id."""
        file = StoredFile(f"file-{self._chance.getrandbits(96):024x}", filename, purpose, spool, created)
        self._files[file.id] = file
        return file

    def get(self, file_id: str, now: float) -> StoredFile | None:
        """The file of that id, if it is there."""
        file = self._files.get(file_id)
        return file if file is not None and now < file.expires else None

    def remove(self, file_id: str) -> None:
        """Delete a file."""
        self._files.pop(file_id, None)

    def present(self, now: float) -> Iterator[StoredFile]:
        """All files that are there, oldest first."""
        return (file for file in self._files.values() if now < file.expires)
