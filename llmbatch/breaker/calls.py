"""Call functions through a circuit: sync and async, with fallbacks. The base class of :class:`CircuitBreaker`.

While the circuit is closed a call takes the fast path, without a permit and without the lock. Calls run, and their
outcomes are classified, outside the lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, overload

from llmbatch.breaker.awaitables import (
    NOT_PLAIN,
    UNSET,
    WHOLE,
    await_if_needed,
    call_sync,
    is_stream,
    is_unawaitable,
    sync_in_async_error,
    wrong_function_error,
    wrong_result_error,
)
from llmbatch.breaker.classify import COUNTED, IGNORED, Classifier, Judgement
from llmbatch.breaker.core import MIN_RETRY_AFTER
from llmbatch.breaker.errors import CircuitOpenError, UnguardedStreamWarning
from llmbatch.breaker.locked import LockedCircuit
from llmbatch.breaker.permit import settle_by_error
from llmbatch.breaker.permit_state import PermitState
from llmbatch.breaker.uncopyable import Uncopyable

__all__ = ["GuardedCalls"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F")


class GuardedCalls(Uncopyable):
    """The calls of a circuit breaker, and how it classifies their outcomes. Safe between threads and event loops."""

    __slots__ = ("_circuit", "_classifier", "_has_warned")

    def __init__(self, circuit: LockedCircuit, classifier: Classifier) -> None:
        self._circuit = circuit
        self._classifier = classifier
        self._has_warned = False

    @overload
    def call(
        self, fn: Callable[..., T], /, *args: object, fallback: Callable[[Exception], F], **kwargs: object
    ) -> T | F: ...
    @overload
    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def call(  # type: ignore[misc]  # fallback is no parameter of fn
        self, fn: Callable[..., T], /, *args: Any, fallback: Callable[[Exception], F] | None = None, **kwargs: Any
    ) -> T | F:
        """Call *fn* if the circuit admits the call, and count its outcome.

        *fallback*, if given, is called with the exception when the call was refused or raised an exception classified
        as ``failure``, ``throttled`` or ``exhausted``; its return value is returned. Other exceptions are raised, and
        results are returned however they are classified. (Bind an argument of *fn* that is itself called ``fallback``
        with ``functools.partial``.)

        Raises:
            CircuitOpenError: the call was refused; *fn* was not called.
            TypeError: *fn* is a coroutine function or returned an awaitable, use ``async_call``; or it is a generator
                function, use ``stream``. Nothing was counted.

        A stream that *fn* returns counts as a success before its first chunk; an :class:`UnguardedStreamWarning` says
        so, once per breaker.
        """
        circuit = self._circuit
        fast_generation = circuit.fast_generation
        if fast_generation is None:
            # Raised here rather than in a helper: each frame that an exception passes adds a fifth to its cost.
            rejection, code = circuit.rejection, getattr(fn, "__code__", None)
            if rejection is not None and fallback is None and code is not None and not code.co_flags & NOT_PLAIN:
                wait = rejection[0] - circuit.clock()
                if wait > MIN_RETRY_AFTER:
                    raise CircuitOpenError(wait, rejection[1], rejection[2])
            return self._call_with_permit(fn, fallback, args, kwargs)
        try:
            # Passing on an empty dictionary would add a tenth to the cost of a call.
            result = fn(*args, **kwargs) if kwargs else fn(*args)
        except Exception as error:
            judgement = self.judge(error)
            circuit.fail(fast_generation, judgement, error)
            if fallback is None or judgement.verdict not in COUNTED:
                raise
            return call_sync(fallback, error)
        if type(result) not in WHOLE:
            if (wrong := wrong_result_error(fn, result)) is not None:
                raise wrong
            self._warn_of_stream("call()", fn, result)
        if circuit.must_record:
            circuit.succeed(fast_generation)
        return result

    def _call_with_permit(
        self,
        fn: Callable[..., T],
        fallback: Callable[[Exception], F] | None,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> T | F:
        if (wrong := wrong_function_error(fn)) is not None:
            raise wrong
        if (gate := self._circuit.gate) is not None:
            gate.prepare()
        try:
            permit = self._circuit.admit()
        except CircuitOpenError as refused:
            if fallback is None:
                raise
            return call_sync(fallback, refused)
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            if (
                settle_by_error(self._circuit, self.judge, permit, error)
                and fallback is not None
                and isinstance(error, Exception)
            ):
                return call_sync(fallback, error)
            raise
        if (wrong := wrong_result_error(fn, result)) is not None:
            self._circuit.settle(permit, IGNORED, None)
            raise wrong
        self._settle_by_result(permit, result)
        self._warn_of_stream("call()", fn, result, stacklevel=4)
        return result

    @overload
    async def async_call(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: object,
        fallback: Callable[[Exception], Awaitable[F]],
        **kwargs: object,
    ) -> T | F: ...
    @overload
    async def async_call(
        self, fn: Callable[..., Awaitable[T]], /, *args: object, fallback: Callable[[Exception], F], **kwargs: object
    ) -> T | F: ...
    @overload
    async def async_call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def async_call(  # type: ignore[misc]  # as above
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        fallback: Callable[[Exception], Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Await *fn* if the circuit admits the call, and count its outcome. A cancelled call is not counted.

        *fallback*: as in ``call``; may also be a coroutine function.

        Raises:
            CircuitOpenError: the call was refused; *fn* was not called.
            TypeError: *fn* did not return an awaitable, use ``call``; or it is a generator function, use ``stream``.
                Nothing was counted.

        A stream that *fn* returns is warned of as in ``call``.
        """
        circuit = self._circuit
        fast_generation = circuit.fast_generation
        if fast_generation is None:
            if fallback is None and (rejection := circuit.rejection) is not None:
                wait = rejection[0] - circuit.clock()
                if wait > MIN_RETRY_AFTER:
                    raise CircuitOpenError(wait, rejection[1], rejection[2])
            return await self._async_call_with_permit(fn, fallback, args, kwargs)
        awaitable: object = UNSET
        try:
            awaitable = fn(*args, **kwargs) if kwargs else fn(*args)
            result = await awaitable
        except Exception as error:
            if is_unawaitable(awaitable):
                raise sync_in_async_error(fn, awaitable) from None
            judgement = self.judge(error)
            circuit.fail(fast_generation, judgement, error)
            if fallback is None or judgement.verdict not in COUNTED:
                raise
            return await await_if_needed(fallback(error))
        # A stream is mostly asked for by a keyword, or else by the first call already: no other call pays for a look.
        if kwargs:
            self._warn_of_stream("async_call()", fn, result)
        if circuit.must_record:
            if type(result) not in WHOLE:
                self._warn_of_stream("async_call()", fn, result)
            circuit.succeed(fast_generation)
        return result

    async def _async_call_with_permit(
        self,
        fn: Callable[..., Awaitable[object]],
        fallback: Callable[[Exception], object] | None,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        if (gate := self._circuit.gate) is not None:
            await gate.prepare_async()
        try:
            permit = self._circuit.admit()
        except CircuitOpenError as refused:
            if fallback is None:
                raise
            return await await_if_needed(fallback(refused))
        awaitable: object = UNSET
        try:
            awaitable = fn(*args, **kwargs)
            result = await awaitable
        except BaseException as error:
            if is_unawaitable(awaitable):
                self._circuit.settle(permit, IGNORED, None)
                raise sync_in_async_error(fn, awaitable) from None
            if (
                settle_by_error(self._circuit, self.judge, permit, error)
                and fallback is not None
                and isinstance(error, Exception)
            ):
                return await await_if_needed(fallback(error))
            raise
        self._settle_by_result(permit, result)
        self._warn_of_stream("async_call()", fn, result, stacklevel=4)
        return result

    def _warn_of_stream(self, method: str, fn: Callable[..., object], result: object, *, stacklevel: int = 3) -> None:
        """Warn once if *result* is a stream: the call has succeeded before its first chunk."""
        if self._has_warned or type(result) in WHOLE or not is_stream(result):
            return
        self._has_warned = True
        import warnings

        with_ = "async with" if hasattr(result, "__aiter__") else "with"
        warnings.warn(
            f"{method} got a stream from {fn!r}, which counted as a success before its first chunk: "
            f"use `{with_} breaker.stream(…) as chunks`",
            UnguardedStreamWarning,
            stacklevel=stacklevel,
        )

    # Classification.

    def judge(self, error: Exception) -> Judgement:
        """Classify *error* as this breaker does. Runs *count_error* or *judge_error*, which may raise anything."""
        return self._classifier.of_error(error)

    def judge_result(self, result: object) -> Judgement:
        """Classify a returned *result* as this breaker does. Runs *judge_result*, which may raise anything."""
        return self._classifier.of_result(result)

    def _settle_by_result(self, permit: PermitState, result: object) -> None:
        judgement = IGNORED
        try:
            judgement = self.judge_result(result)
        finally:
            self._circuit.settle(permit, judgement, None)
