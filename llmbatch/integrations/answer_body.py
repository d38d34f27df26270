"""Find the error inside an answer with a good status: an error event of a stream, or a JSON body that is an error.

And whether a stream said that it is complete: by a finish reason, ``[DONE]``, or the last event of its protocol.
"""

from __future__ import annotations

import re
import zlib

from llmbatch.classify.event_stream import read_stream
from llmbatch.classify.responses import BadBody, names_error
from llmbatch.core.raw_json import JSON, RawJsonError, parse

__all__ = ["MAX_KEPT", "AnswerBody"]

MAX_KEPT = 64 * 1024
"""Bytes of a body, or of one event, that are kept to be read."""

_ANY_HEADER = 32 + zlib.MAX_WBITS
"""For zlib: gzip and deflate, by their headers."""

_may_be_error = re.compile(rb'\s*(?:$|\{\s*(?:$|"(?:error|type)"))').match
_end_in = re.compile(
    rb"(?:^|\n)data:\s?\[DONE"
    rb'|"(?:finish_reason|stop_reason|finishReason)":\s?"[^"]'
    rb"|(?:^|\n)event:\s?(?:message_stop|response\.(?:completed|incomplete|failed))"
    rb'|"type"\s?:\s?"(?:message_stop|response\.(?:completed|incomplete|failed))"'
).search
"""What ends a stream of chat or text completions, Anthropic's messages, Gemini, or OpenAI's responses. In a text that a
model writes, quotes and line breaks are escaped."""
_has_error = re.compile(rb'event:\s?error|"error"|"response\.failed"').search


class AnswerBody:
    """Reads along while an answer is received, in bounded memory. Not thread-safe.

    Events are searched for errors as they come. A JSON body is read at its end, and only if it begins like an error.
    Of compressed bodies gzip and deflate are looked into.
    """

    __slots__ = ("_inflate", "_kept", "_kind", "has_end")

    def __init__(self, content_type: str, content_encoding: str = "") -> None:
        kind = content_type.partition(";")[0].strip().lower()
        self._kind = "events" if kind == "text/event-stream" else "json" if kind.endswith("json") else ""
        encoding = content_encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            self._kind = ""
        self._kept = b""
        self._inflate = zlib.decompressobj(_ANY_HEADER) if encoding.endswith(("gzip", "deflate")) else None
        self.has_end = False
        """Whether the events have said that the answer is complete."""

    @property
    def is_stream(self) -> bool:
        """Whether the body is an event stream that is looked into."""
        return self._kind == "events"

    def feed(self, chunk: bytes) -> JSON:
        """The error in the events that *chunk* completes; None if there is none."""
        if self._inflate is None:
            return self._feed(chunk)
        error = None
        while self._kind and chunk and error is None:
            try:
                error = self._feed(self._inflate.decompress(chunk, MAX_KEPT))
            except zlib.error:
                self._kind = ""  # the client says what is wrong with it
            chunk = self._inflate.unconsumed_tail
        return error

    def _feed(self, chunk: bytes) -> JSON:
        if not self._kind:
            return None
        data = self._kept + chunk if self._kept else chunk
        if self._kind == "json":
            if len(data) <= MAX_KEPT and _may_be_error(data[:64]):
                self._kept = data
            else:
                self._kind, self._kept = "", b""
            return None
        if data.endswith(b"\n\n") and b"error" not in data and b".failed" not in data:
            self._kept = b""  # nearly always
            self.has_end = self.has_end or _says_end(data)
            return None
        end = max(data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n"))
        if end < 0:
            self._kept = data[:MAX_KEPT]  # an event longer than this is not read
            return None
        self._kept = data[end:]
        self.has_end = self.has_end or _says_end(data[:end])
        return _error_in_events(data[:end]) if _has_error(data, 0, end) else None

    def end(self) -> JSON:
        """The error in what is left when the body has ended; None if there is none."""
        data, self._kept = self._kept, b""
        if self._kind == "events":
            self.has_end = self.has_end or _says_end(data)  # some servers omit the last blank line
            return _error_in_events(data) if _has_error(data) else None
        try:
            document = parse(data.decode()) if data else None
        except (RawJsonError, UnicodeDecodeError):
            return None
        if isinstance(document, dict) and (names_error(document.get("error")) or document.get("type") == "error"):
            return document
        return None


def _says_end(data: bytes) -> bool:
    # Nearly no chunk has one of these, which are found at a fraction of the pattern's cost.
    return (
        b'eason":"' in data
        or b'eason": "' in data
        or b"[DONE" in data
        or b"message_stop" in data
        or b"response." in data
    ) and _end_in(data) is not None


def _error_in_events(data: bytes) -> JSON:
    text = data.decode(errors="replace")
    found = read_stream(text)
    if not isinstance(found, BadBody):
        return found
    # OpenAI's responses end so when the answer could not be made.
    for line in text.split("\n"):
        if line.startswith("data:") and '"response.failed"' in line:
            try:
                event = parse(line[5:].strip())
            except RawJsonError:
                continue
            response = event.get("response") if isinstance(event, dict) else None
            if isinstance(response, dict) and response.get("error"):
                return {"error": response["error"]}
    return None
