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
    """What :meth:`CircuitBreaker.acquire` gives. May be settled from any thread, and used as a context manager::

        with breaker.acquire(caller=row.id) as permit:
            reply = client.post(...)
            if reply.status == 429:
                permit.settle("throttled", retry_after=reply.wait)

    Leaving the block settles what is not settled yet: by the judges of the breaker if an exception passes, as a
    success if none does; a cancellation or an interruption gives the permit back. A permit that is dropped is never
    settled: a dropped probe keeps its place until its lease is over, any other is merely not counted.
    """

    __slots__ = ("_breaker", "_circuit", "_state")

    def __init__(self, breaker: CircuitBreaker, circuit: LockedCircuit, state: PermitState) -> None:
        self._breaker = breaker
        self._circuit = circuit
        self._state = state

    @property
    def is_probe(self) -> bool:
        """Whether this call finds out if the circuit may close."""
        return self._state.probe

    @property
    def is_settled(self) -> bool:
        """Whether it was settled or released."""
        return self._state.spent

    @property
    def is_current(self) -> bool:
        """Whether the circuit is still as it was when it gave this permit, and has not replaced it as a probe."""
        return self._circuit.is_current(self._state)

    def settle(
        self,
        verdict: Verdict | Judgement = "success",
        *,
        error: BaseException | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Say what the call came to; *error* is shown by ``explain()``, *retry_after* are seconds the server named.

        Raises:
            RuntimeError: it was settled or released before.
            ValueError: there is no such verdict, or the wait is no number; nothing was settled.
        """
        judgement = as_judgement(verdict, retry_after)
        self._circuit.settle(self._state, judgement, error)

    def release(self) -> None:
        """Give it back: the call was never made, or says nothing.

        Raises:
            RuntimeError: it was settled or released before.
        """
        self._circuit.settle(self._state, IGNORED, None)

    def sleep(self, seconds: float) -> bool:
        """Block this thread for *seconds*, less if the circuit changes; whether the permit is still current."""
        wait(self._circuit.waiters, self._left(seconds))
        return self.is_current

    async def sleep_async(self, seconds: float) -> bool:
        """The same on an asyncio loop."""
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
        if not self._state.spent:
            settle_by_error(self._circuit, self._breaker.judge, self._state, error)

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

    A cancellation or an interruption is not counted. If *judge* raises, the caller gets that exception and the call is
    not counted either.

    Raises:
        RuntimeError: *permit* was settled or released before.
    """
    judgement = SUCCESS if error is None else IGNORED
    try:
        if isinstance(error, Exception):
            judgement = judge(error)
    finally:
        circuit.settle(permit, judgement, error)
    return judgement.verdict in COUNTED
