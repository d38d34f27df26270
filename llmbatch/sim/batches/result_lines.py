"""Write the lines of a batch's results: OpenAI's output and error file, Anthropic's one file of results."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Literal

from llmbatch.core.raw_json import RawJson, dumps
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

    __slots__ = ("_chance", "_dialect", "bad", "errors", "good", "missing", "not_run_rows", "output")

    def __init__(self, dialect: Dialect, seed: str) -> None:
        self._dialect: Dialect = dialect
        self._chance = Random(f"{seed}:batch lines")
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
            self._write(self.output, {"custom_id": custom_id, "result": {"type": kind}})
            return
        code, message = _NOT_RUN[why]
        error = {"code": code, "message": message}
        line = {"id": self._id(), "custom_id": custom_id, "response": None, "error": error}
        self._write(self.errors, line)

    def _openai(self, custom_id: str, plan: ResponsePlan) -> None:
        status, body = _response(plan, "openai")
        response = {"status_code": status, "request_id": plan.headers.get("x-request-id", ""), "body": RawJson(body)}
        line = {"id": self._id(), "custom_id": custom_id, "response": response, "error": None}
        self._write(self.output if plan.good else self.errors, line)

    def _anthropic(self, custom_id: str, plan: ResponsePlan) -> None:
        _, body = _response(plan, "anthropic")
        member = "message" if plan.good else "error"
        result = {"type": "succeeded" if plan.good else "errored", member: RawJson(body)}
        self._write(self.output, {"custom_id": custom_id, "result": result})

    def _write(self, spool: Spool, line: Mapping[str, object]) -> None:
        spool.append(_dumps(line).encode() + b"\n")

    def _id(self) -> str:
        return f"batch_req_{self._chance.getrandbits(96):024x}"


def _response(plan: ResponsePlan, dialect: Dialect) -> tuple[int, str]:
    """Status and JSON body of the line. Where a live call would have got no JSON, or none at all, the row failed."""
    is_json = plan.headers.get("content-type", "").startswith("application/json")
    if plan.kind == "answer" and is_json and (plan.good or plan.status >= 400):
        return plan.status, plan.body.decode()
    error = ErrorResponse(500, "The server had an error while processing your request.", code="server_error")
    return 500, error_body(dialect, error, "req_none")[1].decode()


def _dumps(line: Mapping[str, object]) -> str:
    """As :func:`dumps`, with raw members at any depth."""
    members = (
        f"{dumps(name)}:{_dumps(value) if isinstance(value, dict) else dumps(value)}" for name, value in line.items()
    )
    return "{" + ",".join(members) + "}"
