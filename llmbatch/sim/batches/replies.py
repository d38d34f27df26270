"""Describe the planned response to a call of the control plane (:class:`BatchReply`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from llmbatch.core.raw_json import JSON, dumps
from llmbatch.sim.batches.spool import Part
from llmbatch.sim.protocol import Dialect, ErrorResponse, answer_headers, error_body

__all__ = ["BatchReply", "error_reply", "json_reply"]


@dataclass(frozen=True, slots=True)
class BatchReply:
    """Planned response: ``answer`` is sent whole, ``cut`` breaks off after ``sent_bytes``, ``close`` sends nothing."""

    kind: Literal["answer", "cut", "close"]
    status: int
    headers: Mapping[str, str]
    body: bytes | Part = field(default=b"", repr=False)
    sent_bytes: int | None = None

    @property
    def length(self) -> int:
        """What the response says its length is, in bytes."""
        return self.body.size if isinstance(self.body, Part) else len(self.body)

    def pieces(self) -> Iterator[bytes]:
        """The bytes that are sent."""
        left = self.length if self.sent_bytes is None else self.sent_bytes
        for piece in self.body.pieces() if isinstance(self.body, Part) else (self.body,):
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return


def json_reply(dialect: Dialect, value: JSON, suffix: str, status: int = 200) -> BatchReply:
    """A JSON answer; *suffix* ends its request id."""
    headers = answer_headers(dialect, suffix, 0.0) | {"content-type": "application/json"}
    return BatchReply("answer", status, headers, dumps(value).encode())


def error_reply(dialect: Dialect, error: ErrorResponse, suffix: str, wait: float | None = None) -> BatchReply:
    """An error in the provider's shape; *wait*: seconds that it asks to wait."""
    headers = answer_headers(dialect, suffix, 0.0)
    headers["content-type"], body = error_body(dialect, error, f"req_{suffix}")
    if wait is not None:
        headers["retry-after"] = str(max(1, round(wait)))
    return BatchReply("answer", error.status, headers, body)
