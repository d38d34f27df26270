"""Batches that were refused as a whole: rows that the provider names by their lines fail, the others go again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256

from llmbatch.classify.classify import classify_reply
from llmbatch.core.calls import Reply
from llmbatch.core.errors import MalformedRowError, MissingKeyError
from llmbatch.core.events import RowFinished
from llmbatch.core.raw_json import dumps
from llmbatch.core.rows import Result, Row
from llmbatch.providers.batches.port import BatchError
from llmbatch.runs.batches.board import Chunk
from llmbatch.runs.batches.context import BatchRun
from llmbatch.runs.batches.names import custom_id
from llmbatch.runs.batches.rows import BatchRow, bind

__all__ = ["blames_rows", "fail_named_rows"]

_OF_ALL = frozenset({"url_mismatch", "model_mismatch", "empty_file", "empty_batch", "too_many_tasks"})
"""Codes that can be no single row's fault: all rows of a batch have one model and one URL."""

_MANY = 20
"""Lines from the first one on that are all named: the list is cut, and all rows would be in it."""


def blames_rows(errors: Sequence[BatchError], rows: int | None) -> bool:
    """Whether *errors* name some lines of the batch of *rows* rows, and not all of them. Pure."""
    lines = sorted({error.line for error in errors if error.line})
    if not lines or len(lines) < len({(error.code, error.line) for error in errors if not error.line}):
        return False
    are_the_first = lines == list(range(1, len(lines) + 1))
    return not (are_the_first and (len(lines) >= _MANY or (rows is not None and len(lines) >= rows)))


async def fail_named_rows(run: BatchRun, chunk: Chunk, errors: Sequence[BatchError]) -> bool:
    """Write the lines of the rows that *errors* name; False if they name none, or rows that cannot be told.

    Raises:
        InputError: the input cannot be read.
    """
    label = chunk.label
    if not blames_rows(errors, label.rows) or label.digest is None or any(map(_is_of_all, errors)):
        return False
    named = {error.line: error for error in errors if error.line}
    found: list[tuple[BatchRow, BatchError]] = []
    digest, line = sha256(), 0
    for item in run.rows.scan(label.first, label.last):
        if item is None:
            await asyncio.sleep(0)
            continue
        if not isinstance(item, Row) or run.is_done(item.number):
            continue
        try:
            row = bind(run.parts.provider, item)
        except (MalformedRowError, MissingKeyError):
            continue
        if row.route != label.route:
            continue
        line += 1
        digest.update(custom_id(run.board.job, item.number, item.hash).encode() + b"\n")
        if line in named:
            found.append((row, named[line]))
    if digest.hexdigest()[:8] != label.digest:
        return False
    for row, error in found:
        _fail(run, row, error, chunk.batch_id)
    return bool(found)


def _is_of_all(error: BatchError) -> bool:
    """Whether *error*, though it names a line, is about what all rows share: the model, the account."""
    body = dumps({"error": {"code": error.code, "message": error.message}}).encode()
    outcome = classify_reply(Reply(400, {}, body), endpoint="raw", mask=str)
    return error.code in _OF_ALL or outcome.verdict != "rejected"


def _fail(run: BatchRun, row: BatchRow, error: BatchError, batch_id: str) -> None:
    route = row.request.route
    mask = run.parts.provider.mask
    code = mask(error.code[:80]) or "batch_refused"
    message = mask(error.message[:500]) or "the provider refused the line"
    run.put(
        Result(
            row.row.number,
            row.row.hash,
            "failed",
            row.row.id_json,
            error_code=code,
            error_message=message,
            model=route.model or route.label,
            metadata_json=row.row.fields.get("metadata"),
            settings=row.request.settings,
            via="batch",
            batch_id=batch_id,
        )
    )
    run.emit(RowFinished(run.now(), route.label, row.row.number, "failed", code, 0))
