"""Write the lines of a batch's results: OpenAI's output and error file, Anthropic's one file of results."""

from __future__ import annotations

from random import Random
from typing import Literal

from llmbatch.core.raw_json import dumps
from llmbatch.sim.batches.spool import Spool
from llmbatch.sim.protocol import Dialect, ErrorResponse, error_body
from llmbatch.sim.response_plan import ResponsePlan

__all__ = ["ResultWriter"]

_NOT_RUN = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}


class ResultWriter:
    """The result files of one batch, written as its rows end. ``output`` has the answers, ``errors`` the rest (OpenAI).

    Anthropic's lines are all in ``output``.
    """

    __slots__ = (
        *("_chance", "_dialect", "_duplicates", "_foreign", "bad", "errors", "good", "missing", "not_run_rows"),
        "output",
    )

    def __init__(self, dialect: Dialect, seed: str, *, duplicates: float = 0.0, foreign: int = 0) -> None:
        """Prepare the files. *duplicates*: share of the lines that come twice; *foreign*: lines of other rows."""
        self._dialect: Dialect = dialect
        self._chance = Random(f"{seed}:batch lines")
        self._duplicates = duplicates
        self._foreign = foreign
        self.output = Spool()
        self.errors = Spool()
        self.good = 0
        self.bad = 0
        self.missing = 0
        self.not_run_rows = 0

    def answer(self, custom_id: str, plan: ResponsePlan) -> None:
        """Write the line of a row that was run."""
        self.good += plan.good
        self.bad += not plan.good
        if self._dialect == "anthropic":
            self._anthropic(custom_id, plan)
        else:
            self._openai(custom_id, plan)

    def not_run(self, custom_id: str, why: Literal["expired", "cancelled"]) -> None:
        """Write the line of a row that did not run."""
        self.not_run_rows += 1
        if self._dialect == "anthropic":
            kind = "canceled" if why == "cancelled" else why
            self._write(self.output, custom_id, f'"result":{{"type":"{kind}"}}')
            return
        code, message = _NOT_RUN[why]
        rest = f'"response":null,"error":{{"code":"{code}","message":"{message}"}}'
        self._write(self.errors, custom_id, rest)

    def finish(self) -> None:
        """Write the lines of rows that nobody sent; half of them look like llmbatch's, of another job."""
        for number in range(1, self._foreign + 1):
            custom_id = f"lb-{self._chance.getrandbits(40):010x}-{number}-{self._chance.getrandbits(32):08x}"
            custom_id = custom_id if number % 2 else f"foreign-{number}"
            response = '"response":{"status_code":200,"request_id":"","body":{"choices":[]}},"error":null'
            result = '"result":{"type":"expired"}'
            self._write(self.output, custom_id, result if self._dialect == "anthropic" else response)

    def _openai(self, custom_id: str, plan: ResponsePlan) -> None:
        status, body = _response(plan, "openai")
        request_id = dumps(plan.headers.get("x-request-id", ""))
        response = f'{{"status_code":{status},"request_id":{request_id},"body":{body}}}'
        self._write(self.output if plan.good else self.errors, custom_id, f'"response":{response},"error":null')

    def _anthropic(self, custom_id: str, plan: ResponsePlan) -> None:
        _, body = _response(plan, "anthropic")
        result = f'"type":"succeeded","message":{body}' if plan.good else f'"type":"errored","error":{body}'
        self._write(self.output, custom_id, f'"result":{{{result}}}')

    def _write(self, spool: Spool, custom_id: str, rest: str) -> None:
        first = f'"id":"batch_req_{self._chance.getrandbits(96):024x}",' if self._dialect == "openai" else ""
        data = f'{{{first}"custom_id":{dumps(custom_id)},{rest}}}\n'.encode()
        spool.append(data)
        if self._duplicates and self._chance.random() < self._duplicates:
            spool.append(data)


def _response(plan: ResponsePlan, dialect: Dialect) -> tuple[int, str]:
    """Status and JSON body of the line. Where a live call would have got no JSON, or none at all, the row failed."""
    is_json = plan.headers.get("content-type", "").startswith("application/json")
    if plan.kind == "answer" and is_json and (plan.good or plan.status >= 400):
        return plan.status, plan.body.decode()
    error = ErrorResponse(500, "The server had an error while processing your request.", code="server_error")
    return 500, error_body(dialect, error, "req_none")[1].decode()
