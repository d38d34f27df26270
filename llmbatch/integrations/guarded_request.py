"""Account for one HTTP request, from its permit to the last byte of its answer, whatever the client does with it."""

from __future__ import annotations

from collections.abc import Callable

from llmbatch.breaker.permit import Permit
from llmbatch.core.raw_json import JSON
from llmbatch.integrations.answer_body import AnswerBody

__all__ = ["ErrorMaker", "GuardedRequest"]

ErrorMaker = Callable[[str, JSON], Exception]
"""Makes a client's exception from a message and the body of an error that came with a good status."""


class GuardedRequest:
    """One request in flight: holds its permit and settles it exactly once. For one thread or task at a time.

    An answer counts when its body has ended. Its first bytes show that the provider answers. A read error, or an error
    inside the body, is judged. Leaving early after some bytes is a success; without any, nothing is counted. A request
    that was forgotten counts as left when it is freed. The client's own time between two reads is not the provider's.

    Args:
        permit: the request's, acquired just now.
        make_error: makes the exception that is judged for an error inside an answer.
    """

    __slots__ = ("_asked_at", "_body", "_clock", "_make_error", "_permit", "_waited")

    def __init__(self, permit: Permit, make_error: ErrorMaker) -> None:
        self._permit = permit
        self._make_error = make_error
        self._body: AnswerBody | None = None
        self._clock = permit.clock
        self._asked_at = self._clock()
        self._waited = 0.0
        """Seconds waited for what has not brought a byte of the body yet: the head of the answer."""

    def answered(self, content_type: str, content_encoding: str = "") -> None:
        """The head of a good answer has come, and its body follows."""
        self._body = AnswerBody(content_type, content_encoding)
        self._waited = self._clock() - self._asked_at
        self.asks()

    def asks(self) -> None:
        """The client asks for the next bytes, and waits from now on."""
        self._asked_at = self._clock()

    def received(self, chunk: bytes) -> None:
        """Some bytes of the body have come."""
        if not chunk or self._permit.is_settled:
            return
        if self._body is not None and (error := self._body.feed(chunk)) is not None:
            self.failed(self._make_error("the answer has an error inside", error))
        else:
            self._permit.progress(self._wait())
            self._waited = 0.0

    def ended(self) -> None:
        """The body is complete."""
        if self._permit.is_settled:
            return
        if self._body is not None and (error := self._body.end()) is not None:
            self.failed(self._make_error("the answer has an error inside", error))
        else:
            self._permit.end(waited=self._wait())

    def failed(self, error: BaseException) -> None:
        """The request or its body ended with *error*, which is judged; a cancellation counts as leaving."""
        self._permit.end(error, waited=self._wait())

    def left(self) -> None:
        """The client wants no more of the body."""
        self._permit.leave()

    def _wait(self) -> float:
        return self._waited + self._clock() - self._asked_at

    def __del__(self) -> None:
        if not self._permit.is_settled:
            self._permit.leave()
