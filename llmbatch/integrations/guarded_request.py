"""Account for one HTTP request, from its permit to the last byte of its answer, whatever the client does with it."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakSet

from llmbatch.breaker.breaker import CircuitBreaker
from llmbatch.breaker.permit import Permit
from llmbatch.core.raw_json import JSON
from llmbatch.integrations.answer_body import AnswerBody

__all__ = ["ErrorMaker", "GuardedRequest"]

ErrorMaker = Callable[[str, JSON], Exception]
"""Makes a client's exception from a message and the body of an error that came with a good status."""


_marking: WeakSet[CircuitBreaker] = WeakSet()
"""Circuits of which a stream has said at its end that it is complete."""
_MARKING_ORIGINS = ("https://api.openai.com ", "https://api.anthropic.com ")
"""How the names of circuits begin whose streams all do. Some compatible servers send no mark at all."""
_CUT: JSON = {"error": {"code": "truncated_stream", "message": "the event stream ended before it was complete"}}


class GuardedRequest:
    """One request in flight: holds its permit and settles it exactly once. For one thread or task at a time.

    An answer counts when its body has ended. Its first bytes show that the provider answers. A read error, or an error
    inside the body, is judged. So is an event stream that ends without saying that it is complete, where earlier ones
    did: its connection was closed in an orderly way, which the client takes for its end. Leaving early after some bytes
    is a success; without any, nothing is counted. A request that was forgotten counts as left when it is freed. The
    client's own time between two reads is not the provider's.

    Args:
        permit: the request's, acquired just now from *breaker*.
        make_error: makes the exception that is judged for an error inside an answer.
    """

    __slots__ = ("_asked_at", "_body", "_breaker", "_clock", "_make_error", "_permit", "_waited")

    def __init__(self, breaker: CircuitBreaker, permit: Permit, make_error: ErrorMaker) -> None:
        self._breaker = breaker
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
        body = self._body
        if body is not None and (error := body.end()) is not None:
            self.failed(self._make_error("the answer has an error inside", error))
        elif body is not None and body.is_stream and not body.has_end and self._marks_ends():
            self.failed(self._make_error("the event stream ended early", _CUT))
        else:
            self._note_end()
            self._permit.end(waited=self._wait())

    def _note_end(self) -> None:
        if self._body is not None and self._body.has_end:
            _marking.add(self._breaker)

    def _marks_ends(self) -> bool:
        """Whether the provider says at the end of each stream that it is complete."""
        return self._breaker in _marking or self._breaker.name.startswith(_MARKING_ORIGINS)

    def failed(self, error: BaseException) -> None:
        """The request or its body ended with *error*, which is judged; a cancellation counts as leaving."""
        self._permit.end(error, waited=self._wait())

    def left(self) -> None:
        """The client wants no more of the body."""
        self._note_end()  # openai's reads no further than [DONE]
        self._permit.leave()

    def _wait(self) -> float:
        return self._waited + self._clock() - self._asked_at

    def __del__(self) -> None:
        if not self._permit.is_settled:
            self._permit.leave()
