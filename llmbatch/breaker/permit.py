"""Provide :class:`Permit`: the right to make one call, settled or released exactly once."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from llmbatch.breaker.classify import COUNTED, IGNORED, SUCCESS, Judgement, Verdict, as_judgement
from llmbatch.breaker.locked import LockedCircuit
from llmbatch.breaker.permit_state import PermitState, spent_error
from llmbatch.breaker.waiting import SecondsLeft, wait, wait_async

if TYPE_CHECKING:
    from llmbatch.breaker.breaker import CircuitBreaker

__all__ = ["Permit", "settle_by_error"]


class Permit:
    """Right to make one call, from :meth:`CircuitBreaker.acquire`. Thread-safe; usually a context manager::

        with breaker.acquire(caller=row.id) as permit:
            reply = client.post(...)
            if reply.status == 429:
                permit.settle("throttled", retry_after=reply.wait)

    Leaving the block settles the permit if that has not happened yet: an exception is classified as by the breaker, no
    exception is a success, and a cancellation or interruption releases the permit; after the first :meth:`progress` it
    is a success. A permit that is neither settled nor released is not counted; a probe then holds its slot until its
    lease ends.

    A call whose answer comes in parts: :meth:`progress` with each part, then :meth:`end` or :meth:`leave`.
    ``breaker.stream()`` does that, and :class:`AsyncChunks` and :class:`Chunks` do it for a stream at hand.
    """

    __slots__ = ("_breaker", "_circuit", "_since", "_state")

    def __init__(self, breaker: CircuitBreaker, circuit: LockedCircuit, state: PermitState) -> None:
        self._breaker = breaker
        self._circuit = circuit
        self._state = state
        self._since = state.at

    @property
    def is_probe(self) -> bool:
        """Whether this call probes an open circuit."""
        return self._state.probe

    @property
    def is_settled(self) -> bool:
        """Whether this permit was settled or released."""
        return self._state.spent

    @property
    def is_current(self) -> bool:
        """Whether the circuit has not changed its state since, nor replaced this call as a probe."""
        return self._circuit.is_current(self._state)

    def settle(
        self,
        verdict: Verdict | Judgement = "success",
        *,
        error: BaseException | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Count the outcome of the call. *error*: shown by ``explain()``. *retry_after*: seconds that the server named.

        Raises:
            RuntimeError: the permit was settled or released before.
            ValueError: not a verdict, or the wait is not a number; nothing was settled.
        """
        judgement = as_judgement(verdict, retry_after)
        self._circuit.settle(self._state, judgement, error)

    def release(self) -> None:
        """Return the permit without counting a call, because it was not made or its outcome says nothing.

        Raises:
            RuntimeError: the permit was settled or released before.
        """
        self._circuit.settle(self._state, IGNORED, None)

    # Answers in parts.

    @property
    def clock(self) -> Callable[[], float]:
        """The breaker's clock, in seconds."""
        return self._circuit.clock

    @property
    def has_progressed(self) -> bool:
        """Whether a part of the answer came."""
        return self._state.longest_wait is not None

    def progress(self, waited: float | None = None) -> None:
        """Note that a part of the answer came, after *waited* seconds without the caller's own time.

        Default for *waited*: the seconds since the last part that was noted so, or since the admission.

        The first part is an answer: for the stall rule the call has returned, and from then on leaving early is a
        success. Every part renews the lease of a probe. The longest wait, not the duration of the call, says whether it
        is slow. No effect once the permit is settled. Takes the lock for the first part and for probes only.
        """
        if waited is None:
            now = self._circuit.clock()
            waited, self._since = now - self._since, now
        self._circuit.progress(self._state, waited)

    def end(
        self,
        error: BaseException | None = None,
        *,
        judgement: Judgement | Verdict | None = None,
        waited: float = 0.0,
    ) -> None:
        """Settle the permit by how the call ended by itself. No effect if it was settled or released before.

        Args:
            error: what the call raised, classified as by the breaker; a cancellation or interruption counts as
                :meth:`leave` says. None: the answer is complete, a success.
            judgement: classification to use instead.
            waited: seconds of the last wait, until this end.

        Raises:
            ValueError: *judgement* is not a verdict; nothing was settled.
        """
        if self.has_progressed:
            self._state.note_wait(waited)
        if judgement is not None:
            self._circuit.settle(self._state, as_judgement(judgement), error, once=True)
        elif not self._state.spent:
            settle_by_error(self._circuit, self._breaker.judge, self._state, error)

    def leave(self, error: BaseException | None = None) -> None:
        """Settle the permit because the caller reads no further. No effect if it was settled or released before.

        A success if a part of the answer came, else not counted. *error*: the exception that made the caller leave; an
        :class:`Exception` is the caller's own and says nothing about the provider, so that nothing is counted.
        """
        is_success = self.has_progressed and not isinstance(error, Exception)
        self._circuit.settle(self._state, SUCCESS if is_success else IGNORED, None, once=True)

    # Waiting.

    def sleep(self, seconds: float) -> bool:
        """Block this thread for *seconds*, or until the circuit changes; return :attr:`is_current`."""
        wait(self._circuit.waiters, self._left(seconds))
        return self.is_current

    async def sleep_async(self, seconds: float) -> bool:
        """Suspend this task for *seconds*, or until the circuit changes; return :attr:`is_current`."""
        await wait_async(self._circuit.waiters, self._left(seconds))
        return self.is_current

    def _left(self, seconds: float) -> SecondsLeft:
        circuit = self._circuit
        until = circuit.clock() + seconds
        return lambda waiter: circuit.seconds_left(self._state, until, waiter)

    def __enter__(self) -> Permit:
        if self._state.spent:
            raise spent_error(self._state)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)

    async def __aenter__(self) -> Permit:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        kind = "probe" if self._state.probe else "call"
        settled = ", settled" if self._state.spent else ""
        return f"<Permit {kind} {self._state.serial} of {self._breaker!r}{settled}>"


def settle_by_error(
    circuit: LockedCircuit, judge: Callable[[Exception], Judgement], permit: PermitState, error: BaseException | None
) -> bool:
    """Settle *permit* by the exception that its call raised, None for a success; return whether a fallback may step in.

    A cancellation or an interruption is not counted, or is a success if a part of the answer came. If *judge* raises,
    the caller gets that exception and the call is not counted. No effect if *permit* was settled or released before.
    """
    is_answered = permit.longest_wait is not None and not isinstance(error, Exception)
    judgement = SUCCESS if error is None or is_answered else IGNORED
    try:
        if isinstance(error, Exception):
            judgement = judge(error)
    finally:
        circuit.settle(permit, judgement, error, once=True)
    return judgement.verdict in COUNTED
