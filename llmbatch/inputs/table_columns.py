"""Columns of Arrow tables as JSON texts: which types have one, and how each value is written.

Integers and decimals keep every digit. Dates and times are text in ISO 8601. A float that is no number is null where it
is NaN, as pandas means it, else text. Lists, structs and maps are nested. Bytes, durations and intervals have no JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NoJsonError", "writer_for"]

Writer = Callable[["pa.Array[Any]"], list[str]]

_NULL: Final = "null"
_no_fraction = re.compile(r"\.0+(?=\D|$)").sub


class NoJsonError(Exception):
    """A type whose values cannot be JSON; the text names it."""


def writer_for(kind: pa.DataType) -> Writer:
    """How an array of this type is written: a JSON text for each value.

    Raises:
        NoJsonError: its values have no JSON.
    """
    import pyarrow as pa
    import pyarrow.types as of

    if isinstance(kind, pa.BaseExtensionType):
        inner = writer_for(kind.storage_type)
        return lambda array: inner(array.storage)
    if of.is_dictionary(kind):
        inner = writer_for(kind.value_type)
        return lambda array: inner(array.dictionary_decode())
    if of.is_null(kind):
        return lambda array: [_NULL] * len(array)
    if of.is_boolean(kind):
        return lambda array: [_BOOLEANS[value] for value in array.to_pylist()]
    if of.is_integer(kind):
        return lambda array: [_NULL if value is None else str(value) for value in array.to_pylist()]
    if of.is_floating(kind):
        return lambda array: [_float(value) for value in array.to_pylist()]
    if of.is_decimal(kind):
        return lambda array: [_NULL if value is None else format(value, "f") for value in array.to_pylist()]
    if of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind):
        return _strings
    if of.is_date(kind) or of.is_timestamp(kind) or of.is_time(kind):
        return _times
    if of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
        return _lists(writer_for(kind.value_type))
    if of.is_struct(kind):
        names = [kind.field(at).name for at in range(kind.num_fields)]
        return _structs(names, [writer_for(kind.field(at).type) for at in range(kind.num_fields)])
    if of.is_map(kind) and (of.is_string(kind.key_type) or of.is_large_string(kind.key_type)):
        return _maps(writer_for(kind.item_type))
    raise NoJsonError(str(kind))


_BOOLEANS: Final = {True: "true", False: "false", None: _NULL}


def _float(value: float | None) -> str:
    if value is None or math.isnan(value):
        return _NULL
    if math.isinf(value):
        return '"Infinity"' if value > 0 else '"-Infinity"'
    return repr(float(value))


def _strings(array: pa.Array[Any]) -> list[str]:
    try:
        values = array.to_pylist()
    except UnicodeDecodeError:
        import pyarrow as pa

        # Bytes that are no UTF-8 become lone surrogates: they cannot be encoded, so that their record alone fails.
        raw = array.cast(pa.large_binary()).to_pylist()
        values = [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
    return [_NULL if value is None else encode_basestring(value) for value in values]


def _times(array: pa.Array[Any]) -> list[str]:
    import pyarrow as pa

    texts = array.cast(pa.string()).to_pylist()
    return [_NULL if text is None else f'"{_no_fraction("", text).replace(" ", "T", 1)}"' for text in texts]


def _lists(inner: Writer) -> Writer:
    def write(array: pa.Array[Any]) -> list[str]:
        import pyarrow.compute as pc

        items = iter(inner(array.flatten()))
        sizes = pc.list_value_length(array).to_pylist()
        return [_NULL if size is None else f"[{_joined(items, size)}]" for size in sizes]

    return write


def _joined(items: Iterator[str], count: int) -> str:
    return ",".join([next(items) for _ in range(count)])


def _structs(names: Sequence[str], writers: Sequence[Writer]) -> Writer:
    form = "{" + ",".join(encode_basestring(name).replace("%", "%%") + ":%s" for name in names) + "}"

    def write(array: pa.Array[Any]) -> list[str]:
        columns = [writer(column) for writer, column in zip(writers, array.flatten(), strict=True)]
        are_there = array.is_valid().to_pylist()
        rows = zip(*columns, strict=True) if columns else iter([()] * len(array))
        return [form % values if is_there else _NULL for values, is_there in zip(rows, are_there, strict=True)]

    return write


def _maps(inner: Writer) -> Writer:
    def write(array: pa.Array[Any]) -> list[str]:
        texts = []
        for at in range(len(array)):
            if not array[at].is_valid:
                texts.append(_NULL)
                continue
            entries = array[at].values
            keys, values = _strings(entries.field(0)), inner(entries.field(1))
            members = dict(zip(keys, values, strict=True))
            texts.append("{" + ",".join(f"{key}:{value}" for key, value in members.items()) + "}")
        return texts

    return write
