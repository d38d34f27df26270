"""Provider that checks answers against a schema, and asks again for those that do not fit.

What asks for the schema is in the requests of the inner provider (:mod:`llmbatch.providers.structured.ask`). An answer
that does not fit is the row's fault alone: for the route its call was a success.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llmbatch.core.calls import Outcome, Parsed, Request, Route
from llmbatch.core.ports import Provider
from llmbatch.core.rows import Row
from llmbatch.providers.structured.ask import SchemaAsker
from llmbatch.providers.structured.refused_forms import RefusedForms, names_the_form
from llmbatch.providers.structured.repair import answer_text, repair_request
from llmbatch.providers.structured.schema import AnswerSchema, Misfit

__all__ = ["MISMATCH", "CheckedProvider"]

MISMATCH = "schema_mismatch"
"""Code of a row whose last answer does not fit."""


class CheckedProvider:
    """Implements :class:`llmbatch.core.ports.Provider` around another one, which it closes.

    Args:
        inner: sends the requests.
        schema: what answers must be.
        lenient: whether JSON inside fences or prose counts.
        repair: how often a row is asked again, at most.
        warn: is told once of each model that refuses to be asked in the usual way.
    """

    def __init__(
        self,
        inner: Provider,
        schema: AnswerSchema,
        *,
        lenient: bool,
        repair: int,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._inner = inner
        self._schema = schema
        self._lenient = lenient
        self._repair = repair
        self._asker = SchemaAsker(schema)
        self._refused = RefusedForms(self._asker, warn)

    def __getattr__(self, name: str) -> Any:
        """The optional methods of the inner provider, such as ``check_model``."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def routes(self, row: Row) -> Sequence[Route]:
        """See the inner provider."""
        return self._inner.routes(row)

    def request(self, row: Row, route: Route) -> Request:
        """See the inner provider."""
        return self._inner.request(row, route)

    def lookup(self, row: Row, request: Request) -> Outcome | None:
        """See the inner provider."""
        return self._inner.lookup(row, request)

    def flight_key(self, request: Request) -> bytes | None:
        """See the inner provider."""
        return self._inner.flight_key(request)

    def ping(self, like: Request) -> Request | None:
        """See the inner provider."""
        return self._inner.ping(like)

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:  # noqa: ASYNC109
        """Send once, check the answer, and ask again if it does not fit. Raises only cancellation.

        Where the model refuses the way in which the schema is asked for, and not the request itself, the request is
        sent in another way at once.
        """
        if row is None:
            return await self._inner.call(request, row, timeout=timeout)
        sent, steps = self._refused.as_taken(request)
        outcome = await self._inner.call(sent, row, timeout=timeout)
        if names_the_form(outcome):
            outcome, sent = await self._ask_otherwise(outcome, sent, steps, row, timeout=timeout)
        if outcome.verdict != "success":
            return outcome
        found = self._check(outcome, request)
        return _fitting(outcome, found) if isinstance(found, Parsed) else self._misfit(outcome, request, found, sent)

    async def _ask_otherwise(
        self,
        refusal: Outcome,
        sent: Request,
        steps: int,
        row: Row,
        *,
        timeout: float,  # noqa: ASYNC109
    ) -> tuple[Outcome, Request]:
        """Send *sent*, which got *refusal*, in other ways until one is not refused; else the first refusal."""
        last = sent
        while (following := self._refused.next(last)) is not None:
            last, steps = following, steps + 1
            outcome = await self._inner.call(last, row, timeout=timeout)
            if not names_the_form(outcome):
                if outcome.verdict == "success":
                    self._refused.learn(sent.route, steps, refusal)
                return outcome, last
        return refusal, sent

    def admit(self, known: Outcome, request: Request) -> Outcome | None:
        """*known*, an answer that needs no call, as it would have been received; None if it does not fit."""
        found = self._check(known, request)
        return _fitting(known, found) if isinstance(found, Parsed) else None

    def _check(self, outcome: Outcome, request: Request) -> Parsed | Misfit:
        return self._schema.check(answer_text(outcome, request.endpoint), lenient=self._lenient)

    def _misfit(self, outcome: Outcome, request: Request, misfit: Misfit, sent: Request) -> Outcome:
        if outcome.finish_reason == "length":
            message = (
                f"the answer was cut at its token limit (finish_reason length), and does not fit: {misfit.message}"
            )
            return replace(outcome, row_is_bad=True, code="truncated", message=message)
        follow_up = None
        if request.follow_ups < self._repair:
            told = "" if self._asker.is_asked_in(sent.body) else self._asker.text
            follow_up = repair_request(request, outcome, misfit, schema=told)
        return replace(
            outcome, row_is_bad=follow_up is None, code=MISMATCH, message=misfit.message, follow_up=follow_up
        )

    async def aclose(self) -> None:
        """Close the inner provider; idempotent."""
        await self._inner.aclose()


def _fitting(outcome: Outcome, parsed: Parsed) -> Outcome:
    # It was made for this call, and a copy would cost as much as the check.
    object.__setattr__(outcome, "parsed", parsed)
    return outcome
