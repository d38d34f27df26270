"""Answer the rows of batches with the engine that answers live calls, but for what only batches refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Protocol

from llmbatch.core.raw_json import JSON
from llmbatch.sim.admission import no_money
from llmbatch.sim.batches.batch import Batch
from llmbatch.sim.batches.ledger import Ledger
from llmbatch.sim.batches.rows import BatchRow
from llmbatch.sim.batches.rules import BatchFault
from llmbatch.sim.faulty_plans import error_plan, outage
from llmbatch.sim.protocol import ErrorResponse
from llmbatch.sim.response_plan import ResponsePlan

__all__ = ["RowRunner"]

_STANDARD = b'"service_tier":"standard"'
_BATCH = b'"service_tier":"batch"'


class AnswerRow(Protocol):
    """Plans the answer to a request outside of all limits of live calls."""

    def __call__(
        self, path: str, headers: Mapping[str, str], body: bytes, document: dict[str, JSON], elapsed: float
    ) -> ResponsePlan: ...


class RowRunner:
    """Runs rows of batches and counts the good answers in *ledger*, if there is one."""

    def __init__(self, answer_row: AnswerRow, ledger: Ledger | None, seed: int) -> None:
        self._answer_row = answer_row
        self._ledger = ledger
        self._seed = seed

    def __call__(self, row: BatchRow, batch: Batch, at: float) -> ResponsePlan:
        """The answer to *row* of *batch*, run at the instant *at*."""
        refusal = self._refusal(row, batch)
        if refusal is not None:
            suffix = f"{Random(f'{self._seed}:batch row:{batch.number}:{row.custom_id}').getrandbits(96):024x}"
            return error_plan(batch.dialect, refusal, suffix, 0.0, None, down=False)
        key = batch.request.key
        plan = self._answer_row(batch.request.endpoint, {"x-api-key": key}, row.body, row.document, at)
        if not plan.good:
            return plan
        if self._ledger is not None:
            self._ledger.pay_batch(plan.row)
        if batch.dialect == "anthropic":
            before, found, after = plan.body.rpartition(_STANDARD)
            plan = replace(plan, body=before + (_BATCH if found else b"") + after)
        return plan

    def _refusal(self, row: BatchRow, batch: Batch) -> ErrorResponse | None:
        """Why the row is refused without being run; None if it is not."""
        if row.document.get("stream"):
            return ErrorResponse(400, "stream is not supported in batches.", code="invalid_request", param="stream")
        rules, number = batch.rules, batch.number
        refused = rules.fault("refused", number, self._seed)
        if refused is not None:
            return _account_refusal(refused, batch)
        if rules.fault("unsupported", number, self._seed) is not None:
            return ErrorResponse(400, f"{batch.rows.model} does not support batches.")
        broken = rules.fault("error_only", number, self._seed)
        if broken is None:
            return None
        pick = Random(f"{self._seed}:error only:{number}:{row.custom_id}").random()
        return outage(batch.dialect, broken.statuses or (500,), pick)


def _account_refusal(fault: BatchFault, batch: Batch) -> ErrorResponse:
    if fault.reason == "key":
        return ErrorResponse(401, "Incorrect API key provided.", code="invalid_api_key")
    if batch.dialect == "anthropic":
        # Rows of a batch are refused as bad requests, where a live call gets 402.
        message = "Your credit balance is too low to access the Anthropic API."
        return ErrorResponse(400, message)
    return no_money("openai")
