"""Parquet files of an export. pyarrow is imported when one is written.

A column's type is that of all its values: boolean, 64-bit integer, double or string. Where these are mixed, or numbers
do not fit, the column holds the JSON text of its values, as it does for objects and lists.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from llmbatch.core.errors import UsageError
from llmbatch.outputs.export_columns import Column, cells_of, plain_text
from llmbatch.outputs.export_fields import Line

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["ColumnType", "column_types", "parquet", "require_pyarrow"]

_GROUP_ROWS: Final = 2048
_GROUP_CHARACTERS: Final = 1024 * 1024
_OPTIONS: Final[dict[str, Any]] = {"compression": "zstd", "use_dictionary": False}
"""Dictionaries would take another 6 MB of memory, and with zstd files are no larger without."""

_EXACT_IN_DOUBLE: Final = 1 << 53
_INT64_DIGITS: Final = 20

ColumnType = Literal["bool", "int64", "double", "string", "json"]

_Rows = Iterable[tuple[Line, Mapping[str, str]]]


# What values of a column there are: bits of a plain integer, as an IntFlag takes ten times as long.
_BOOL: Final = 1
_INT: Final = 2
_LARGE_INT: Final = 4
"""An integer that a double does not hold exactly."""
_FLOAT: Final = 8
_STRING: Final = 16
_OTHER: Final = 32
"""Nested, or a number beyond 64 bits."""

_TYPES: Final[dict[int, ColumnType]] = {
    0: "string",
    _BOOL: "bool",
    _INT: "int64",
    _LARGE_INT: "int64",
    _INT | _LARGE_INT: "int64",
    _FLOAT: "double",
    _INT | _FLOAT: "double",
    _STRING: "string",
}


def require_pyarrow() -> tuple[ModuleType, ModuleType]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        UsageError: they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        hint = "pip install 'llmbatch[data]', or write .csv or .jsonl"
        raise UsageError(f"Parquet needs pyarrow, which is not installed ({error})", hint=hint) from None
    return pyarrow, pyarrow.parquet


def column_types(rows: _Rows, columns: Sequence[Column]) -> list[ColumnType]:
    """The type of each column, from all *rows*. Memory does not depend on their number."""
    kinds = [0] * len(columns)
    cells = cells_of(columns)
    for line, extra in rows:
        for at, text in enumerate(cells(line, extra)):
            if text is not None:
                kinds[at] |= _STRING if text[0] == '"' else _kind(text)
    return [_TYPES.get(kind, "json") for kind in kinds]


def parquet(rows: _Rows, columns: Sequence[Column], types: Sequence[ColumnType]) -> Iterator[bytes]:
    """The bytes of a Parquet file, in row groups of at most 2,048 rows or about 1 MiB.

    Raises:
        UsageError: pyarrow is not installed.
    """
    arrow, writer = require_pyarrow()
    kinds = {"bool": arrow.bool_(), "int64": arrow.int64(), "double": arrow.float64()}
    schema = arrow.schema(
        [
            (_encodable(column.name), kinds.get(kind, arrow.string()))
            for column, kind in zip(columns, types, strict=True)
        ]
    )
    return _written(rows, columns, types, schema, arrow, writer)


def _written(
    rows: _Rows, columns: Sequence[Column], types: Sequence[ColumnType], schema: Any, arrow: Any, writer: Any
) -> Iterator[bytes]:
    pieces = _Pieces()
    with _system_memory(arrow), writer.ParquetWriter(pieces, schema, **_OPTIONS) as file:
        values: list[list[object]] = [[] for _ in columns]
        cells = cells_of(columns)
        size = 0

        def flush() -> None:
            arrays = [arrow.array(column, kind.type) for column, kind in zip(values, schema, strict=True)]
            file.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            for column in values:
                column.clear()

        for line, extra in rows:
            for text, kind, found in zip(cells(line, extra), types, values, strict=True):
                if text is None or text == "null":
                    found.append(None)
                    continue
                size += len(text)
                if kind == "string":
                    found.append(plain_text(text) if "\\" in text else text[1:-1])
                else:
                    found.append(_value(text, kind))
            if len(values[0]) == _GROUP_ROWS or size >= _GROUP_CHARACTERS:
                flush()
                size = 0
                yield pieces.take()
        if values[0]:
            flush()
    yield pieces.take()


@contextmanager
def _system_memory(arrow: Any) -> Iterator[None]:
    """Have pyarrow take its memory from the system: its own allocator keeps what is freed, some 20 MB here."""
    before = arrow.default_memory_pool()
    arrow.set_memory_pool(arrow.system_memory_pool())
    try:
        yield
    finally:
        arrow.set_memory_pool(before)


def _kind(text: str) -> int:
    start = text[0]
    if start == "n":
        return 0
    if start in "tf":
        return _BOOL
    if start in "{[":
        return _OTHER
    return _number_kind(text)


def _number_kind(text: str) -> int:
    if "." in text or "e" in text or "E" in text:
        return _OTHER if abs(float(text)) == float("inf") else _FLOAT
    if len(text) > _INT64_DIGITS:
        return _OTHER
    number = int(text)
    if -_EXACT_IN_DOUBLE <= number <= _EXACT_IN_DOUBLE:
        return _INT
    return _LARGE_INT if -(1 << 63) <= number < 1 << 63 else _OTHER


def _value(text: str, kind: ColumnType) -> object:
    match kind:
        case "json":
            return text
        case "int64":
            return int(text)
        case "double":
            return float(text)
    return text == "true"


def _encodable(name: str) -> str:
    return name.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class _Pieces(io.RawIOBase):
    """Collects what is written to it, until it is taken."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: Any) -> int:
        """Keep *data*."""
        piece = bytes(data)
        self._pieces.append(piece)
        return len(piece)

    def take(self) -> bytes:
        """What was written since the last call."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
