"""Plans the batch files of an input: which rows go into which file, before anything is written.

One file holds rows of one model and endpoint, within the limits of the provider's batch API. Memory: a few values per
file; no row is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from llmbatch.core.calls import Request
from llmbatch.core.errors import MalformedRowError, UsageError
from llmbatch.core.rows import Malformed, Row
from llmbatch.providers.batches.anthropic import anthropic_line
from llmbatch.providers.batches.openai_shape import openai_line
from llmbatch.runs.batches.names import custom_id
from llmbatch.runs.batches.rows import BatchProvider, BatchRow, InputRows, bind

__all__ = ["SHAPES", "BatchFile", "BatchShape", "FilePlan", "LeftOut", "Limits", "encoded", "plan_files"]

BatchShape = Literal["openai", "anthropic"]
SHAPES: Final[dict[BatchShape, tuple[str, ...]]] = {
    "openai": ("chat", "responses", "embeddings", "completions"),
    "anthropic": ("messages",),
}
"""The endpoints whose rows go into files of each shape."""

_TITLES: Final[dict[BatchShape, str]] = {"openai": "OpenAI", "anthropic": "Anthropic"}
_ENCODE: Final[dict[BatchShape, Callable[[str, Request], Sequence[bytes]]]] = {
    "openai": openai_line,
    "anthropic": anthropic_line,
}
_MOST_LINES = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one file holds: rows, bytes, bytes of one row, and texts of embeddings; None: any."""

    rows: int | None = None
    size_bytes: int | None = None
    row_bytes: int | None = None
    inputs: int | None = None

    @classmethod
    def of(cls, row: BatchRow, shape: BatchShape, *, rows: int | None, size_bytes: int | None) -> Limits:
        """Those of the batch API that *row* would go to, if it is known; *rows* and *size_bytes* replace them."""
        family = row.family if row.family is not None and row.family.shape == shape else None
        if family is None:
            return cls(rows, size_bytes, size_bytes)
        size = family.max_bytes if size_bytes is None else size_bytes
        return cls(rows or family.max_rows, size, min(size, family.max_row_bytes), family.max_embedding_inputs)


@dataclass(slots=True)
class BatchFile:
    """One file: rows *first* to *last* of the input that go to *route*, called *label* (a model) for people."""

    route: str
    label: str
    endpoint: str
    first: int
    last: int
    rows: int = 0
    size_bytes: int = 0
    inputs: int = 0


@dataclass(slots=True)
class LeftOut:
    """Rows that cannot be in a batch file: how many, the first of them, and what is wrong with the first."""

    count: int
    lines: list[int]
    message: str


@dataclass(slots=True)
class FilePlan:
    """The files of one input, in the order of their first rows. ``job`` is part of each ``custom_id``."""

    job: str
    shape: BatchShape
    files: list[BatchFile] = field(default_factory=list)
    limits: dict[str, Limits] = field(default_factory=dict)
    """By route."""
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    """By code."""

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    def leave_out(self, code: str, number: int, message: str) -> None:
        """Note a row that goes into no file."""
        known = self.left_out.setdefault(code, LeftOut(0, [], message))
        known.count += 1
        if len(known.lines) < _MOST_LINES:
            known.lines.append(number)


def plan_files(
    provider: BatchProvider,
    rows: InputRows,
    name: str,
    shape: BatchShape,
    job: str,
    *,
    chunk_rows: int | None,
    chunk_bytes: int | None,
) -> FilePlan:
    """Read all *rows* of the input *name*, and say which go into which file of *shape*.

    Raises:
        InputError: the input cannot be read.
        UsageError: a row is of another wire format, names no model, or one that cannot be reached.
    """
    plan = FilePlan(job, shape)
    open_files: dict[str, BatchFile] = {}
    for item in rows.scan():
        row = None if item is None else _bound(provider, item, plan)
        if row is None:
            continue
        _check(row, name, shape)
        number, route = row.row.number, row.route
        limits = plan.limits.get(route)
        if limits is None:
            limits = plan.limits[route] = Limits.of(row, shape, rows=chunk_rows, size_bytes=chunk_bytes)
        size = sum(map(len, encoded(row, plan)))
        if limits.row_bytes is not None and size > limits.row_bytes:
            plan.leave_out("too_large", number, f"has {size:,} bytes, and one file takes {limits.row_bytes:,}")
            continue
        inputs = row.request.body.count(b'",') + 1 if row.request.endpoint == "embeddings" else 0
        file = open_files.get(route)
        if file is None or not _takes(file, limits, size, inputs):
            label = row.request.route.model or row.request.route.label
            file = open_files[route] = BatchFile(route, label, row.request.endpoint, number, number)
            plan.files.append(file)
        file.last = number
        file.rows += 1
        file.size_bytes += size
        file.inputs += inputs
    return plan


def encoded(row: BatchRow, plan: FilePlan) -> Sequence[bytes]:
    """The line of *row*, in pieces."""
    return _ENCODE[plan.shape](custom_id(plan.job, row.row.number, row.row.hash), row.request)


def _takes(file: BatchFile, limits: Limits, size: int, inputs: int) -> bool:
    return (
        (limits.rows is None or file.rows < limits.rows)
        and (limits.size_bytes is None or file.size_bytes + size <= limits.size_bytes)
        and (limits.inputs is None or file.inputs + inputs <= limits.inputs)
    )


def _bound(provider: BatchProvider, item: Row | Malformed, plan: FilePlan) -> BatchRow | None:
    """The request of a row; None if it can be none, which is noted."""
    if isinstance(item, Malformed):
        plan.leave_out(item.code, item.number, item.message)
        return None
    try:
        return bind(provider, item)
    except MalformedRowError as error:
        plan.leave_out(error.code, item.number, error.message)
        return None


def _check(row: BatchRow, name: str, shape: BatchShape) -> None:
    number, endpoint = row.row.number, row.request.endpoint
    if endpoint not in SHAPES[shape]:
        other: BatchShape = "anthropic" if endpoint in SHAPES["anthropic"] else "openai"
        text = (
            f"{name}:{number}: the row is for the endpoint {endpoint}, which {_TITLES[shape]} batch files do not have"
        )
        hint = f"convert it with --to {other}" if endpoint in SHAPES[other] else "send it with llmbatch run"
        raise UsageError(text, hint=hint)
