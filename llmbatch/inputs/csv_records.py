"""Splits CSV into records, and gives each as one line of JSON: its cells by the names of the columns.

Holds at most a block and one record, and of a record that is too long only its hash. A record that cannot be read (not
as many cells as the header, bytes that are no UTF-8, a NUL, an open quote) is a
:class:`~llmbatch.inputs.splitter.BadRecord`, and the next one follows it. Pure.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from json.encoder import encode_basestring
from typing import Final, NoReturn, Self

from llmbatch.core.errors import InputError
from llmbatch.inputs.decode import Unterminated
from llmbatch.inputs.rows import MAX_LINE_BYTES
from llmbatch.inputs.splitter import BadRecord, LongLine

__all__ = ["csv_records"]

Records = list[bytes | LongLine]

_DELIMITERS: Final = ",;\t|"
_QUOTED: Final = re.compile(r'"[^"]*"')
_QUOTE: Final = ord('"')
_in_quotes = re.compile(rb'[^"]*+(?:""[^"]*+)*+').match


def csv_records(
    pieces: Iterator[bytes | None], name: str, *, delimiter: str | None, check: Callable[[Sequence[str]], None]
) -> Iterator[Sequence[bytes | LongLine] | None]:
    """The records that each piece of the text completes, in batches that may be empty; None where a piece is None.

    *delimiter*: what separates cells; None: of comma, semicolon, tab and bar what the header has most of. *check* gets
    the names of the columns, before any record. *name* is the input's, for messages.

    Raises:
        InputError: the header cannot be read or names a column twice, or *check* raised it.
    """
    # The limit is one for the whole process: it is raised, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES + 2))
    records = _Records(name, delimiter, check)
    for piece in pieces:
        yield None if piece is None else records.feed(piece)
    yield Unterminated(records.finish())


class _More(Exception):  # noqa: N818 - not an error
    """The text so far is read; whether the last record is whole was not asked."""


class _Ask:
    """An iterator that ends lines which more may follow."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> NoReturn:
        raise _More


class _Records:
    def __init__(self, name: str, delimiter: str | None, check: Callable[[Sequence[str]], None]) -> None:
        self._name = name
        self._delimiter = delimiter
        self._check = check
        self._columns: Sequence[str] = ()
        self._form = ""  # of a record as JSON
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._end: _RecordEnd | None = None  # of the record with which the held text begins
        self._long: _LongRecord | None = None

    def feed(self, piece: bytes) -> Records:
        """The records that *piece* completes."""
        records: Records = []
        if self._long is not None:
            rest = self._long.feed(piece)
            if rest is None:
                return records
            records.append(self._long.release())
            self._long = None
            piece = rest
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._end is not None and self._end.find(piece) >= 0:
            self._end = None
        if self._end is None and b"\n" in piece:
            text = b"".join(self._held)
            end = text.rfind(b"\n") + 1
            left = self._read(text[:end], records) + text[end:]
            self._hold(left)
            if left:
                self._end = _RecordEnd(self._delimiter or ",")
                self._end.find(left)
        if self._held_bytes > MAX_LINE_BYTES + 2:
            self._long = _LongRecord(self._delimiter or ",")
            text = b"".join(self._held)
            self._hold(b"")
            records += self.feed(text)
        return records

    def finish(self) -> Records:
        """The last records, where the text does not end in a line break."""
        records: Records = []
        if self._long is not None:
            records.append(self._long.release())
        left = self._read(b"".join(self._held), records)
        if left:
            records.append(BadRecord.of(left, "input_bad_csv", "a quote is not closed"))
        if left and not self._form:
            raise InputError(f"{self._name}: a quote in the header is not closed", hint="correct it", line=1)
        return records

    def _hold(self, text: bytes) -> None:
        self._held = [text] if text else []
        self._held_bytes = len(text)
        self._end = None

    def _read(self, text: bytes, records: Records) -> bytes:
        """Append the records of *text*, which are whole lines, to *records*; return what is no whole record yet."""
        source = text.decode("utf-8", "surrogateescape")
        lines = io.StringIO(source, newline="\n")  # tells where the last line that was asked for ends
        has_nul = b"\0" in text
        done = 0
        while done < len(source):
            if self._delimiter is None:
                self._delimiter = _delimiter_of(source[: source.find("\n") + 1] or source)
            try:
                for cells in csv.reader(chain(lines, _Ask()), delimiter=self._delimiter):
                    done = lines.tell()
                    if not self._form:
                        self._take_header(cells)
                    elif cells:
                        record = self._record(cells, has_nul=has_nul)
                        if record is not None:
                            records.append(record)
            except _More:
                break
            except csv.Error as error:
                if not self._form:
                    raise self._bad_header(str(error)) from None
                start, done = done, lines.tell()
                raw = source[start:done].encode("utf-8", "surrogateescape")
                records.append(BadRecord.of(raw, "input_bad_csv", f"the record is no CSV: {error}"))
        return source[done:].encode("utf-8", "surrogateescape")

    def _take_header(self, cells: Sequence[str]) -> None:
        if not any(cell.strip() for cell in cells):
            return
        names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, 1)]
        if any("\udc80" <= character <= "\udcff" for name in names for character in name):
            source = "" if self._name == "standard input" else f" {self._name}"
            hint = f"convert it, if it is Western European for example: iconv -f WINDOWS-1252 -t UTF-8{source}"
            raise InputError(f"{self._name}: the text is not UTF-8", hint=hint, line=1)
        if any("\0" in name for name in names):
            raise self._bad_header("it contains a NUL")
        for number, name in enumerate(names):
            if name in names[:number]:
                twice = f"columns {names.index(name) + 1} and {number + 1} are both named {name!r}"
                raise InputError(f"{self._name}: {twice}", hint="rename one of them in the header", line=1)
        self._columns = names
        self._check(names)
        self._form = "{" + ",".join(encode_basestring(name).replace("%", "%%") + ":%s" for name in names) + "}"

    def _bad_header(self, why: str) -> InputError:
        return InputError(
            f"{self._name}: the header cannot be read: {why}",
            hint="its first line must name the columns, and lines must end in a line feed",
            line=1,
        )

    def _record(self, cells: list[str], *, has_nul: bool) -> bytes | LongLine | None:
        if len(cells) != len(self._columns):
            if len(cells) == 1 and not cells[0].strip():
                return None
            count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
            counts = f"the record has {count}, and the header {len(self._columns)}"
            return BadRecord.of(_source(cells), "input_bad_csv", counts)
        if has_nul and any("\0" in cell for cell in cells):
            return BadRecord.of(_source(cells), "input_bad_csv", f"{self._column_of(cells, chr(0))} contains a NUL")
        text = self._form % (*map(encode_basestring, cells),)
        try:
            record = text.encode()
        except UnicodeEncodeError as error:
            column = self._column_of(cells, text[error.start])
            return BadRecord.of(_source(cells), "input_bad_utf8", f"{column} is not UTF-8")
        if len(record) > MAX_LINE_BYTES:
            return LongLine(hashlib.sha256(record).hexdigest()[:16], len(record))
        return record

    def _column_of(self, cells: Sequence[str], character: str) -> str:
        found = next(name for name, cell in zip(self._columns, cells, strict=True) if character in cell)
        return f"column {found!r}"


def _source(cells: Sequence[str]) -> bytes:
    return "\0".join(cells).encode("utf-8", "surrogateescape")


def _delimiter_of(header: str) -> str:
    """What separates the cells of *header*: what it has most of, outside quotes."""
    plain = _QUOTED.sub("", header)
    return max(_DELIMITERS, key=plain.count)


class _RecordEnd:
    """Finds the end of a record as :mod:`csv` does, in pieces of its text, without holding any."""

    def __init__(self, delimiter: str) -> None:
        self._plain = re.compile(b"[\n" + re.escape(delimiter.encode()) + b"]")
        self._state = "start"  # of a cell; "plain" or "quoted": inside one; "quote": a quote inside a quoted one

    def find(self, piece: bytes) -> int:
        """Where in *piece* the next record begins; -1 if this one goes on."""
        at = 0
        while at < len(piece):
            if self._state == "quoted":
                at = _in_quotes(piece, at).end()  # type: ignore[union-attr]
                if at < len(piece):
                    at, self._state = at + 1, "quote"
                continue
            if piece[at] == _QUOTE and self._state != "plain":
                at, self._state = at + 1, "quoted"
                continue
            match = self._plain.search(piece, at)
            self._state = "plain"
            if match is None:
                break
            at, self._state = match.end(), "start"
            if match[0] == b"\n":
                return at
        return -1


class _LongRecord:
    """A record that is too long to hold: of its text only the hash is kept."""

    def __init__(self, delimiter: str) -> None:
        self._hash = hashlib.sha256()
        self._size = 0
        self._end = _RecordEnd(delimiter)

    def feed(self, piece: bytes) -> bytes | None:
        """What of *piece* follows the record; None if the record goes on."""
        at = self._end.find(piece)
        self._add(piece if at < 0 else piece[:at])
        return None if at < 0 else piece[at:]

    def release(self) -> LongLine:
        """The record."""
        return LongLine(self._hash.hexdigest()[:16], self._size)

    def _add(self, part: bytes) -> None:
        self._hash.update(part)
        self._size += len(part)
