"""The result of a row whose answer came from a batch."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from llmbatch.core.calls import Outcome
from llmbatch.core.rows import Result
from llmbatch.runs.batches.rows import BatchRow

__all__ = ["row_result"]

_TRUNCATED = "the answer was cut at its token limit (finish_reason length)"


def row_result(
    bound: BatchRow,
    outcome: Outcome,
    status: Literal["success", "failed"],
    *,
    attempts: int,
    cost: Decimal | None,
    via: Literal["batch"] | None,
    batch_id: str | None,
) -> Result:
    """The result of *bound*, whose answer was judged as *outcome*; *cost* in US dollars, None if it is not known.

    A success that fails without a code of its own was cut, where ``--require-finish`` asks for whole answers.
    """
    row, route, failed = bound.row, bound.request.route, status == "failed"
    code, message = outcome.code, outcome.message
    if failed and outcome.verdict == "success" and not code:
        code, message = "truncated", _TRUNCATED
    return Result(
        row.number,
        row.hash,
        status,
        row.id_json,
        attempts=attempts,
        status_code=outcome.status,
        request_id=outcome.request_id,
        body=outcome.body,
        error_code=code if failed else None,
        error_message=message if failed else None,
        text=outcome.text,
        usage=outcome.usage,
        cost_usd=None if cost is None else float(cost),
        model=route.model or route.label,
        metadata_json=row.fields.get("metadata"),
        settings=bound.request.settings,
        finish_reason=outcome.finish_reason,
        fit=None if failed else outcome.parsed,
        via=via,
        batch_id=batch_id,
    )
