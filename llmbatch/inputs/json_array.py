"""Splits a JSON array into its elements, each one line of JSON.

Holds at most a block and one element, and of an element that is too long only its hash. An element that is no JSON is
passed on as it is: the next one follows after the comma at its level. Pure.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

from llmbatch.core.errors import InputError
from llmbatch.core.raw_json import one_line
from llmbatch.inputs.decode import split_lines
from llmbatch.inputs.rows import MAX_LINE_BYTES
from llmbatch.inputs.splitter import BadRecord, LongLine

__all__ = ["json_records"]

Records = list[bytes | LongLine]

_scan = json.JSONDecoder(parse_int=str, parse_float=str).scan_once  # type: ignore[attr-defined]
_space = re.compile(r"[ \t\r\n]*").match
_between = re.compile(r'["\[\]{},]').search
_inside = re.compile(r'["\[\]{}]').search
_in_string = re.compile(r'["\\]').search
_SPACE: Final = b" \t\r\n"


def json_records(pieces: Iterator[bytes | None], name: str) -> Iterator[Sequence[bytes | LongLine] | None]:
    """The elements of the array in *pieces*, in batches; its lines, if it does not start with ``[``.

    Raises:
        InputError: the array is not closed, or something follows it.
    """
    start = b""
    for piece in pieces:
        if piece is None:
            yield None
            continue
        start += piece
        if start.lstrip(_SPACE):
            break
    if not start.lstrip(_SPACE).startswith(b"["):
        yield from split_lines(_chained(start, pieces))
        return
    array = _Array(name)
    for piece in _chained(start.lstrip(_SPACE)[1:], pieces):
        if piece is None:
            yield None
            continue
        yield array.feed(piece)
        array.check_end()
    yield array.finish()
    array.check_closed()


def _chained(first: bytes, others: Iterator[bytes | None]) -> Iterator[bytes | None]:
    yield first
    yield from others


class _Array:
    """Splits the text after the opening bracket. One attempt of the C scanner per element, else a scan for its end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._held: list[str] = []  # the start of an element of which more was wanted
        self._held_chars = 0
        self._text = ""
        self._at = 0  # where the element, or the rest of it, starts
        self._seen = -1  # how far it was scanned for its end; -1: not yet
        self._depth = 0
        self._is_in_string = False
        self._long = hashlib.sha256()
        self._long_bytes = 0
        self._count = 0
        self._is_closed = False
        self._garbage = ""

    def feed(self, piece: bytes) -> Records:
        """The elements that *piece* completes."""
        return self._read(self._decoder.decode(piece))

    def finish(self) -> Records:
        """The last elements."""
        return self._read(self._decoder.decode(b"", final=True))

    def check_end(self) -> None:
        """Check that nothing but space follows the array.

        Raises:
            InputError: something does.
        """
        if self._garbage:
            raise InputError(
                f"{self._name}: after the JSON array, which ends with record {self._count}, follows more text",
                hint="one array is read; for one JSON value per line use --input-format jsonl",
            )

    def check_closed(self) -> None:
        """Check that the array was closed.

        Raises:
            InputError: it was not.
        """
        self.check_end()
        if not self._is_closed:
            raise InputError(
                f"{self._name}: the JSON array is cut off after record {self._count}",
                hint="fetch the file again; finished rows are kept",
            )

    def _read(self, more: str) -> Records:
        records: Records = []
        if self._is_closed:
            self._garbage = self._garbage or more.strip(" \t\r\n")[:1]
            return records
        self._text = self._text[self._at :] + more
        self._at = 0
        while not self._is_closed:
            if self._seen < 0:
                self._at = self._space(self._at)
                if self._at == len(self._text):
                    break
                end = self._quick_end()
            else:
                end = self._find_end()
            if end < 0:
                break
            self._put(end, records)
        if self._seen >= 0:
            self._hold(self._seen)
        return records

    def _hold(self, end: int) -> None:
        """Put the text of an element up to *end* aside, as it was scanned; of one that is too long only its hash."""
        self._held.append(self._text[self._at : end])
        self._held_chars += end - self._at
        self._at, self._seen = end, 0
        if self._held_chars > MAX_LINE_BYTES or self._long_bytes:
            part = "".join(self._held).encode("utf-8", "surrogateescape")
            self._long.update(part)
            self._long_bytes += len(part)
            self._held, self._held_chars = [], 0

    def _space(self, at: int) -> int:
        return _space(self._text, at).end()  # type: ignore[union-attr]

    def _quick_end(self) -> int:
        """The offset of the mark after the element, found by the C scanner; or as :meth:`_find_end`."""
        try:
            _, end = _scan(self._text, self._at)
        except (ValueError, StopIteration, RecursionError):
            pass
        else:
            end = self._space(end)
            if self._text[end : end + 1] in (",", "]") and end < len(self._text):
                return end
        self._seen, self._depth, self._is_in_string = self._at, 0, False
        return self._find_end()

    def _find_end(self) -> int:
        """The offset of the comma or bracket after the element; -1 if it is not there yet."""
        text, at = self._text, self._seen
        while True:
            if self._is_in_string:
                found = _in_string(text, at)
                if found is None:
                    at = len(text)
                    break
                if found[0] == "\\":
                    if found.end() == len(text):
                        at = found.start()
                        break
                    at = found.end() + 1
                    continue
                self._is_in_string = False
                at = found.end()
                continue
            found = (_inside if self._depth else _between)(text, at)
            if found is None:
                at = len(text)
                break
            at = found.end()
            mark = found[0]
            if mark == '"':
                self._is_in_string = True
            elif mark in "[{":
                self._depth += 1
            elif self._depth:
                self._depth -= 1
            elif mark != "}":
                return found.start()
        self._seen = at
        return -1

    def _put(self, end: int, records: Records) -> None:
        self._is_closed = self._text[end] == "]"
        if self._held or self._long_bytes:
            self._hold(end)
        source = "".join(self._held) or self._text[self._at : end]
        self._held, self._held_chars = [], 0
        if self._long_bytes:
            records.append(LongLine(self._long.hexdigest()[:16], self._long_bytes))
            self._long, self._long_bytes = hashlib.sha256(), 0
            self._count += 1
        elif source.strip(" \t\r\n") or not self._is_closed:
            records.append(_record(source.rstrip(" \t\r\n")))
            self._count += 1
        self._at, self._seen = end + 1, -1
        if self._is_closed:
            self._garbage = self._text[end + 1 :].strip(" \t\r\n")[:1]
            self._text, self._at = "", 0


def _record(source: str) -> bytes | LongLine:
    try:
        record = one_line(source).encode()
    except UnicodeEncodeError:
        raw = source.encode("utf-8", "surrogateescape")
        return BadRecord.of(raw, "input_bad_utf8", "the record is not UTF-8")
    if not record:
        return BadRecord.of(b"", "input_bad_json", "Expecting value between two commas")
    if len(record) > MAX_LINE_BYTES:
        return LongLine(hashlib.sha256(record).hexdigest()[:16], len(record))
    return record
