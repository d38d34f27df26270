"""A multipart form with one streamed file, as uploads of batches need it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping

from llmbatch.core.exchange import Upload

__all__ = ["MultipartForm"]


class MultipartForm:
    """A multipart form with *fields* and one streamed file."""

    def __init__(self, fields: Mapping[str, str], name: str, lines: Upload) -> None:
        boundary = f"llmbatch-{secrets.token_hex(16)}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{text}\r\n'
            for field, text in fields.items()
        ]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self._head = "".join(parts).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._lines = lines
        self.size_bytes = len(self._head) + lines.size_bytes + len(self._tail)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The form."""
        yield self._head
        async for block in self._lines.blocks():
            yield block
        yield self._tail
