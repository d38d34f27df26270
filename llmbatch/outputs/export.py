"""Writes the results of an output in another format, in the order of the input.

:func:`plan_export` reads and checks; :func:`write_export` writes. Memory: 12 bytes per row for the places of the lines,
and some blocks; no row is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from llmbatch.core.errors import OutputError
from llmbatch.core.raw_json import RawJsonError
from llmbatch.outputs.export_columns import columns_of
from llmbatch.outputs.export_fields import DEFAULT_FIELDS, FieldNames, Line
from llmbatch.outputs.export_target import Compression, ExportFormat, write_target
from llmbatch.outputs.export_text import delimited, json_lines, openai_lines
from llmbatch.outputs.line_members import line_members
from llmbatch.outputs.lines import read_lines
from llmbatch.outputs.row_index import RowIndex, index_rows, lines_in_order
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

__all__ = ["ExportPlan", "JoinedInput", "StatusFilter", "plan_export", "write_export"]

StatusFilter = Literal["success", "failed", "all"]
_STATUSES: Final[dict[StatusFilter, tuple[str, ...]]] = {
    "success": ("success",),
    "failed": ("failed",),
    "all": ("success", "failed"),
}

_LINES_A_STEP: Final = 1000


class JoinedInput(Protocol):
    """The input of the run, whose fields are joined to the results."""

    @property
    def names(self) -> Sequence[str]:
        """The names of all fields."""
        ...

    def begin(self) -> Callable[[int, str], Mapping[str, str]]:
        """Start reading; gives a function from a row and its hash to the JSON texts of its fields.

        It is called for rows in increasing order, and raises :class:`~llmbatch.core.errors.InputError` if the row has
        another hash.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What is exported: the lines of *index* in the open output *fd*, called *name* in messages."""

    fd: int
    name: str
    index: RowIndex
    format: ExportFormat
    fields: Sequence[str]
    joined: JoinedInput | None
    disk: Filesystem


def plan_export(
    fd: int,
    end_bytes: int,
    name: str,
    *,
    format: ExportFormat,  # noqa: A002 - as the flag
    fields: Sequence[str] = DEFAULT_FIELDS,
    status: StatusFilter = "all",
    joined: JoinedInput | None = None,
    disk: Filesystem = FILESYSTEM,
) -> ExportPlan:
    """Find the lines of *status* in the output *fd*, of which *end_bytes* were scanned, and check *fields*.

    A field that an output line need not have must be in some line. *joined*: the input, to have its fields too.

    Raises:
        OSError: the output cannot be read.
        OutputError: it has changed, or one of its lines is damaged.
        UsageError: no line has one of the fields.
    """
    if format != "openai":
        _check_fields(fd, end_bytes, name, fields, () if joined is None else joined.names, disk)
    index = index_rows(fd, end_bytes, name, disk, statuses=_STATUSES[status])
    return ExportPlan(fd=fd, name=name, index=index, format=format, fields=fields, joined=joined, disk=disk)


def write_export(
    plan: ExportPlan,
    target: str,
    *,
    compression: Compression = "",
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda _rows, _total: None,
) -> int:
    """Write what is planned to *target* (``-``: standard output); return the number of rows.

    A file is replaced once all rows are written. *on_progress* is called now and then with the rows read and how many
    will be, counted twice where the types of columns are found first.

    Raises:
        InputError: the joined input has changed.
        OSError: the output cannot be read.
        OutputError: the output has changed, a line is damaged, or *target* cannot be written.
        UsageError: pyarrow is not installed.
        WriteError: the disk is full, or the like.
    """
    rows = _Rows(plan, on_progress)
    write_target(target, _blocks(plan, rows), compression, overwrite=overwrite, disk=plan.disk)
    return len(plan.index)


class _Rows:
    """The rows of an export, from the first one each time they are iterated over."""

    def __init__(self, plan: ExportPlan, on_progress: Callable[[int, int], None]) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._read = 0
        self.passes = 1

    def __iter__(self) -> Iterator[tuple[Line, Mapping[str, str]]]:
        plan = self._plan
        fields_of = None if plan.joined is None else plan.joined.begin()
        skips_response = plan.format != "openai" and not any(name.startswith("response") for name in plan.fields)
        total = self.passes * len(plan.index)
        for row, digest, text in lines_in_order(plan.fd, plan.index, plan.name, plan.disk):
            self._read += 1
            if self._read % _LINES_A_STEP == 0:
                self._on_progress(self._read, total)
            line = _line(text, plan.name, f"the line of row {row}", skips_response=skips_response)
            yield line, {} if fields_of is None else fields_of(row, digest)


def _blocks(plan: ExportPlan, rows: _Rows) -> Iterator[bytes]:
    joined = () if plan.joined is None else plan.joined.names
    match plan.format:
        case "jsonl":
            return json_lines(rows, plan.fields, joined)
        case "openai":
            return openai_lines(rows, joined)
        case "csv":
            return delimited(rows, columns_of(plan.fields, joined), ",")
        case "tsv":
            return delimited(rows, columns_of(plan.fields, joined), "\t")
    from llmbatch.outputs.export_parquet import column_types, parquet, require_pyarrow

    require_pyarrow()  # before all lines are read for the types
    rows.passes = 2
    columns = columns_of(plan.fields, joined)
    return parquet(rows, columns, column_types(rows, columns))


def _check_fields(
    fd: int, end_bytes: int, name: str, fields: Sequence[str], joined: Sequence[str], disk: Filesystem
) -> None:
    """Look for the fields in the lines, up to where all are found."""
    names = FieldNames(fields)
    if not names.missing:
        return
    for number, text in enumerate(read_lines(fd, end_bytes, disk), 1):
        names.look(_line(text, name, f"line {number}", skips_response=False))
        if not names.missing:
            return
    names.check(joined)


def _line(text: bytes, name: str, which: str, *, skips_response: bool) -> Line:
    try:
        return Line(line_members(text.decode(), skips_response=skips_response))
    except (RawJsonError, UnicodeDecodeError) as error:
        raise OutputError(
            f"{name}: {which} is damaged ({error})",
            hint="remove that line, and run the command of the run again to resend its row",
        ) from None
