"""Reads Parquet and Arrow files, and data sets of Arrow files, as records: each row is one line of JSON.

Loads pyarrow (the extra ``data``) where it is used. Holds a part of one row group. Positions in a table are row
numbers, not bytes: another pass begins with the row group of its first row.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from json.encoder import encode_basestring
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from llmbatch.core.errors import InputError, UsageError
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.rows import MAX_LINE_BYTES, members_of, parse_record
from llmbatch.inputs.shape import Shaper
from llmbatch.inputs.splitter import BadRecord, LongLine
from llmbatch.storage.filesystem import O_CLOEXEC, Filesystem

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TableFormat", "TableKind"]

Records = list[bytes | LongLine]

TableKind = Literal["parquet", "arrow", "dataset"]

_BATCH_ROWS: Final = 512
_BATCH_BYTES: Final = 4 * 1024 * 1024
_BUFFER_BYTES: Final = 256 * 1024
_COUNTED_BYTES: Final = 256 * 1024 * 1024
_STATE_BYTES: Final = 16 * 1024 * 1024


class TableFormat:
    """Parquet, Arrow's own format, or a data set that Hugging Face's ``datasets`` has saved: a folder of Arrow files.

    The file of a data set is its ``state.json``, which names the others.

    Raises :class:`~llmbatch.core.errors.UsageError` if pyarrow is not installed.
    """

    unit: Literal["line", "record"] = "record"

    def __init__(self, kind: TableKind, shaper: Shaper) -> None:
        _check_installed(kind)
        self._kind = kind
        self._shaper = shaper

    def records(
        self, blocks: Iterator[bytes] | Iterator[bytes | None], name: str, *, from_start: bool = True
    ) -> Iterator[Sequence[bytes | LongLine] | None]:
        """Refuse a stream: the directory of a table is at the file's end.

        Raises:
            InputError: always.
        """
        seen = f"{name}: {_NAMES[self._kind]} cannot be read from a pipe"
        raise InputError(seen, hint="save it to a file, and name that")

    def of_file(self, fd: int, name: str, disk: Filesystem, *, first: int = 1) -> Iterator[Records]:
        """The records of the file from number *first* on.

        Raises:
            InputError: it is damaged, or a column has no JSON.
        """
        with _errors(name, self._kind):
            table = _open(self._kind, fd, name, disk)
            write = _row_writer(table.schema, name)
            self._shaper.check_columns(table.schema.names, name)
            batches = table.batches(first)
        while True:
            with _errors(name, self._kind):
                batch = next(batches, None)
            if batch is None:
                return
            for start in range(0, len(batch), _BATCH_ROWS):
                yield write(batch.slice(start, _BATCH_ROWS))

    def count(self, fd: int, name: str, disk: Filesystem) -> int | None:
        """How many records the file has; None if that takes reading it.

        Raises:
            InputError: it is damaged.
        """
        with _errors(name, self._kind):
            return _open(self._kind, fd, name, disk).count()

    def parse(self, number: int, record: bytes) -> Row | Malformed | None:
        """The row of *record*."""
        return parse_record(number, record, self._shaper)

    def members(self, record: bytes) -> dict[str, str]:
        """All columns of *record*."""
        return members_of(record)


_NAMES: Final = {"parquet": "Parquet", "arrow": "an Arrow file", "dataset": "a saved data set"}


def _check_installed(kind: str) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UsageError(
            f"{_NAMES[kind]} is read with pyarrow, which is not installed", hint="pip install 'llmbatch[data]'"
        ) from None


@contextlib.contextmanager
def _errors(name: str, kind: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        why = (str(error).splitlines() or [""])[0][:200]
        raise InputError(
            f"{name}: cannot be read as {_NAMES[kind]}: {why}", hint="fetch the file again, or name its format"
        ) from error


class _Parquet:
    def __init__(self, source: pa.PythonFile) -> None:
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        self.schema = self._file.schema_arrow

    def count(self) -> int | None:
        return int(self._file.metadata.num_rows)

    def batches(self, first: int) -> Iterator[pa.RecordBatch]:
        """The rows from number *first* on."""
        before = first - 1
        about = self._file.metadata
        for group in range(about.num_row_groups):
            group_about = about.row_group(group)
            if before >= group_about.num_rows:
                before -= group_about.num_rows
                continue
            mean = max(1, group_about.total_byte_size // max(1, group_about.num_rows))
            size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // mean))
            for batch in self._file.iter_batches(batch_size=size, row_groups=[group], use_threads=False):
                if before >= len(batch):
                    before -= len(batch)
                    continue
                yield batch.slice(before) if before else batch
                before = 0


class _Arrow:
    """Files in Arrow's file format or its stream format, one after another; each is opened again by *files*."""

    def __init__(self, files: Sequence[Callable[[], contextlib.AbstractContextManager[_DiskFile]]]) -> None:
        self._files = files
        with files[0]() as file:
            self.schema = _reader(file).schema

    def count(self) -> int | None:
        size = 0
        for file in self._files:
            with file() as opened:
                size += opened.size_bytes
        return None if size > _COUNTED_BYTES else sum(map(len, self._batches()))

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for file in self._files:
            with file() as opened:
                reader = _reader(opened)
                if not reader.schema.equals(self.schema):
                    raise ValueError("its files have different columns")
                is_file = hasattr(reader, "get_batch")
                yield from map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader

    def batches(self, first: int) -> Iterator[pa.RecordBatch]:
        """The rows from number *first* on."""
        before = first - 1
        for batch in self._batches():
            if before >= len(batch):
                before -= len(batch)
                continue
            yield batch.slice(before) if before else batch
            before = 0


def _reader(file: _DiskFile) -> Any:
    import pyarrow as pa
    import pyarrow.ipc

    is_stream = file.read(6) != b"ARROW1"
    file.seek(0)
    source = pa.PythonFile(file, mode="r")
    return pyarrow.ipc.open_stream(source) if is_stream else pyarrow.ipc.open_file(source)


def _open(kind: TableKind, fd: int, name: str, disk: Filesystem) -> _Parquet | _Arrow:
    import pyarrow as pa

    if kind == "parquet":
        return _Parquet(pa.PythonFile(_DiskFile(fd, disk), mode="r"))
    if kind == "arrow":
        return _Arrow([lambda: contextlib.nullcontext(_DiskFile(fd, disk))])
    file = _DiskFile(fd, disk)
    named = [Path(item["filename"]).name for item in json.loads(file.read(_STATE_BYTES))["_data_files"]]
    if not named:
        raise ValueError("it has no files")
    return _Arrow([functools.partial(_opened, str(Path(name).with_name(other)), disk) for other in named])


@contextlib.contextmanager
def _opened(path: str, disk: Filesystem) -> Iterator[_DiskFile]:
    fd = disk.open(path, os.O_RDONLY | O_CLOEXEC)
    try:
        yield _DiskFile(fd, disk)
    finally:
        disk.close(fd)


def _row_writer(schema: pa.Schema, name: str) -> Callable[[pa.RecordBatch], Records]:
    from llmbatch.inputs.table_columns import NoJsonError, writer_for

    writers = []
    for at, field in enumerate(schema):
        if field.name in schema.names[:at]:
            raise InputError(f"{name}: two columns are named {field.name!r}", hint="rename one of them")
        try:
            writers.append(writer_for(field.type))
        except NoJsonError as error:
            raise InputError(
                f"{name}: column {field.name!r} is of the type {error}, which has no JSON form",
                hint="leave the column out, or cast it to text, when you write the file",
            ) from None
    form = "{" + ",".join(encode_basestring(column).replace("%", "%%") + ":%s" for column in schema.names) + "}"

    def write(batch: pa.RecordBatch) -> Records:
        columns = [writer(column) for writer, column in zip(writers, batch.columns, strict=True)]
        rows = zip(*columns, strict=True) if columns else iter([()] * len(batch))
        return [_record(form % values) for values in rows]

    return write


def _record(text: str) -> bytes | LongLine:
    try:
        record = text.encode()
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogateescape")
        return BadRecord.of(raw, "input_bad_utf8", "a text of the record is not UTF-8")
    if len(record) > MAX_LINE_BYTES:
        return LongLine(hashlib.sha256(record).hexdigest()[:16], len(record))
    return record


class _DiskFile(io.RawIOBase):
    """A descriptor as the file object that pyarrow reads; closes nothing."""

    def __init__(self, fd: int, disk: Filesystem) -> None:
        super().__init__()
        self._fd = fd
        self._disk = disk
        self._at = 0

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self._disk.fstat(self._fd).st_size

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; the descriptor's own stays."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        self._at = offset + (self.size_bytes if base is None else base)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Up to *size* bytes; fewer at the end only."""
        left = self.size_bytes - self._at
        left = left if size is None or size < 0 else min(size, left)
        parts = []
        while left > 0 and (part := self._disk.pread(self._fd, left, self._at)):
            parts.append(part)
            self._at += len(part)
            left -= len(part)
        return b"".join(parts)
