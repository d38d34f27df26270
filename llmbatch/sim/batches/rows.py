"""Read the rows of a batch and check them as the providers do: OpenAI after the creation, Anthropic at once."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from llmbatch.core.errors import InputError
from llmbatch.core.raw_json import JSON, RawJsonError, parse, split_object
from llmbatch.inputs.json_array import json_records
from llmbatch.sim.batches.spool import Spool
from llmbatch.sim.protocol import ErrorResponse

__all__ = ["BatchRow", "LineError", "RowTable", "anthropic_rows", "openai_rows", "read_row"]

_MAX_ERRORS = 100
_MAX_BYTES = 200_000_000
_BYTES_PER_TOKEN = 4

_head = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"requests"[ \t\r\n]*:[ \t\r\n]*(?=\[)').match
_is_custom_id = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with a line of the input file; ``line`` counts from 1, None: the file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def json(self) -> JSON:
        """As OpenAI lists it."""
        return {"code": self.code, "line": self.line, "message": self.message, "param": self.param}


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One row as it is run: its id, the request's bytes, and the parsed request."""

    custom_id: str
    body: bytes = field(repr=False)
    document: dict[str, JSON] = field(repr=False)


@dataclass(slots=True)
class RowTable:
    """The rows of one batch: where each is in the spool, and what is known of all. 16 bytes a row."""

    spool: Spool
    starts: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    tokens: int = 0
    model: str = ""
    errors: list[LineError] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.starts)

    def line(self, index: int) -> bytes:
        """The line of a row; *index* counts from 0."""
        return self.spool.read(self.starts[index], self.sizes[index])

    def _add(self, start: int, size: int) -> None:
        self.starts.append(start)
        self.sizes.append(size)
        self.tokens += size // _BYTES_PER_TOKEN


def read_row(line: bytes, member: str) -> BatchRow:
    """The row in a *line* that was checked; its request is in *member*: ``body`` or ``params``."""
    members = split_object(line.decode()) or {}
    document = parse(members[member])
    return BatchRow(str(parse(members["custom_id"])), members[member].encode(), cast("dict[str, JSON]", document))


def openai_rows(spool: Spool, endpoint: str, *, max_rows: int | None, max_mb: float | None) -> RowTable:
    """Read the input file of a batch for *endpoint*; what is wrong with it is in ``errors``."""
    table = RowTable(spool)
    limit, rows = _MAX_BYTES if max_mb is None else max_mb * 1e6, max_rows or 50_000
    seen: set[str] = set()
    for number, (start, line) in enumerate(spool.lines(), 1):
        if not line.strip():
            continue
        table._add(start, len(line))
        if len(table.errors) < _MAX_ERRORS:
            table.errors += _line_errors(table, line, number, endpoint, seen)
    if not table.starts:
        table.errors = [LineError("empty_file", "The batch input file is empty.")]
    elif len(table) > rows:
        table.errors = [LineError("too_many_tasks", f"The batch input file has {len(table)} requests, of {rows}.")]
    elif spool.size > limit:
        table.errors = [LineError("invalid_request", f"The batch input file is larger than {limit / 1e6:g} MB.")]
    return table


def _line_errors(table: RowTable, line: bytes, number: int, endpoint: str, seen: set[str]) -> Iterator[LineError]:
    try:
        value = parse(line.decode())
    except (RawJsonError, UnicodeDecodeError):
        yield LineError("invalid_json_line", "This line is not parseable as valid JSON.", number)
        return
    if not isinstance(value, dict):
        yield LineError("invalid_json_line", "This line is not a JSON object.", number)
        return
    custom_id, body = value.get("custom_id"), value.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        yield LineError("missing_required_parameter", "Missing required parameter: 'custom_id'.", number, "custom_id")
    elif custom_id in seen:
        yield LineError("duplicate_custom_id", f"The custom_id '{custom_id}' is duplicated.", number, "custom_id")
    else:
        seen.add(custom_id)
    if value.get("method") != "POST":
        yield LineError("invalid_method", "The method must be 'POST'.", number, "method")
    if value.get("url") != endpoint:
        message = f"The URL provided for this request does not match the batch endpoint '{endpoint}'."
        yield LineError("url_mismatch", message, number, "url")
    if not isinstance(body, dict):
        yield LineError("missing_required_parameter", "Missing required parameter: 'body'.", number, "body")
        return
    model = body.get("model")
    if not isinstance(model, str) or not model:
        yield LineError("missing_required_parameter", "Missing required parameter: 'model'.", number, "body.model")
    elif not table.model:
        table.model = model
    elif table.model != model:
        message = f"The model '{model}' is not '{table.model}', that of the first line: one model a batch."
        yield LineError("model_mismatch", message, number, "body.model")


def anthropic_rows(spool: Spool, *, max_rows: int | None) -> RowTable | ErrorResponse:
    """Read the body of a creation, and write its rows as lines into a spool; or say why it is refused."""
    table = RowTable(Spool())
    rows = max_rows or 100_000
    seen: set[str] = set()
    pieces = _array(spool)
    if pieces is None:
        return ErrorResponse(400, "requests: Field required")
    try:
        for records in json_records(iter(pieces), "the request"):
            for record in records or ():
                at = len(table)
                error = _request_error(table, record, at, seen) if isinstance(record, bytes) else "is too long"
                if error is not None:
                    return ErrorResponse(400, f"requests.{at}{error}")
                if at >= rows:
                    return ErrorResponse(400, f"requests: List should have at most {rows} items")
                table._add(table.spool.size, len(record) if isinstance(record, bytes) else 0)
                table.spool.append(record + b"\n" if isinstance(record, bytes) else b"\n")
    except InputError:
        return ErrorResponse(400, "The request body is not valid JSON.")
    if not table.starts:
        return ErrorResponse(400, "requests: List should have at least 1 item")
    return table


def _array(spool: Spool) -> Iterator[bytes] | None:
    """The pieces of the array of requests; None if there is none."""
    head = _head(spool.read(0, 4096))
    tail_at = max(0, spool.size - 4096)
    tail = spool.read(tail_at, 4096).rstrip(b" \t\r\n")
    if head is None or not tail.endswith(b"}"):
        return None
    end = tail_at + len(tail) - 1
    return spool.pieces(head.end(), end)


def _request_error(table: RowTable, record: bytes, at: int, seen: set[str]) -> str | None:
    try:
        value = parse(record.decode())
    except (RawJsonError, UnicodeDecodeError):
        return ": is not valid JSON"
    if not isinstance(value, dict):
        return ": Input should be an object"
    custom_id, params = value.get("custom_id"), value.get("params")
    if not isinstance(custom_id, str):
        return ".custom_id: Field required"
    if not _is_custom_id(custom_id):
        return ".custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
    if custom_id in seen:
        return f".custom_id: the custom_id {custom_id!r} is not unique"
    seen.add(custom_id)
    if not isinstance(params, dict):
        return ".params: Field required"
    if not table.model and isinstance(params.get("model"), str):
        table.model = str(params["model"])
    return None
