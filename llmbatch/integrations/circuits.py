"""Keep one circuit per origin and model for the HTTP requests of clients and SDKs, and log its changes.

Independent of any HTTP client: :mod:`llmbatch.integrations.httpx` and its siblings ask it for the circuit of a request.
"""

from __future__ import annotations

import datetime
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Unpack
from weakref import ref

from llmbatch.breaker.breaker import CircuitBreaker
from llmbatch.breaker.classify import ErrorJudge
from llmbatch.breaker.events import StateChanged
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.breaker.registry import BreakerRegistry
from llmbatch.integrations.endpoints import Endpoint
from llmbatch.integrations.llm_errors import judge_llm_error

if TYPE_CHECKING:
    from llmbatch.breaker.policy import PolicyOptions

    class CircuitOptions(PolicyOptions, total=False):
        """The options of :class:`ModelCircuits`."""

        failure_threshold: int | None
        recovery_timeout: float
        success_threshold: int
        judge_error: ErrorJudge
        capacity: int
        log: bool
        clock: Callable[[], float]


__all__ = ["Endpoint", "ModelCircuits"]

_logger = logging.getLogger("llmbatch")


class ModelCircuits(BreakerRegistry[Endpoint]):
    """Circuits by origin and model, made on first use; logs their openings and closings. Thread-safe.

    Hand one to several clients that use the same account, and they share its circuits. Openings and closings are logged
    under ``llmbatch`` as warnings, failed probes as information.

    Args:
        failure_threshold, recovery_timeout, success_threshold, options: as of :class:`CircuitBreaker`. Each HTTP
            request counts, so an SDK's retry counts too.
        judge_error: classifies the client's exception, of its own class for an error status. Default:
            :func:`llmbatch.judge_llm_error`.
        capacity: maximum circuits kept, at least 1. Default: 1,000.
        log: whether changes are logged. Default: True.
        clock: monotonic clock, in seconds. Default: :func:`time.monotonic`.

    Raises:
        ValueError: an option is out of range.
        TypeError: unknown option.
    """

    def __init__(
        self,
        failure_threshold: int | None = 5,
        recovery_timeout: float = 60.0,
        success_threshold: int = 1,
        *,
        judge_error: ErrorJudge = judge_llm_error,
        capacity: int = 1000,
        log: bool = True,
        clock: Callable[[], float] = time.monotonic,
        **options: Unpack[PolicyOptions],
    ) -> None:
        policy = BreakerPolicy(
            failure_threshold=failure_threshold,
            recovery_timeout=recovery_timeout,
            success_threshold=success_threshold,
            **options,
        )

        def make(endpoint: Endpoint) -> CircuitBreaker:
            breaker = CircuitBreaker(name=str(endpoint), policy=policy, judge_error=judge_error, clock=clock)
            if log:
                breaker.add_listener(_ChangeLog(breaker))
            return breaker

        super().__init__(make, capacity=capacity)


class _ChangeLog:
    """Listener that logs the changes of one circuit. Holds no reference to it, or it would never be freed at once."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = ref(breaker)
        self._opened_at = 0.0

    def __call__(self, event: StateChanged) -> None:
        """Log *event*."""
        if event.new == "open":
            opened = event.old == "closed"
            if opened:
                self._opened_at = event.at
            _logger.log(
                logging.WARNING if opened else logging.INFO,
                "circuit %s %s: %s%s; %s",
                event.name,
                "opened" if opened else "stays open, the probe failed",
                event.reason,
                self._last_failure(),
                _next_probe(event.retry_after),
            )
        elif event.new == "closed":
            _logger.warning(
                "circuit %s closed after %.1f s: requests pass again", event.name, self._seconds_open(event)
            )

    def _seconds_open(self, event: StateChanged) -> float:
        return event.at - self._opened_at

    def _last_failure(self) -> str:
        breaker = self._breaker()
        failures = () if breaker is None else breaker.explain().last_failures
        return f", the last with {failures[-1]}" if failures else ""


def _next_probe(seconds: float | None) -> str:
    if seconds is None or seconds == math.inf:
        return "no probe until it is reset"
    due = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=seconds)
    return f"the next probe is due in {seconds:.1f} s, at {due:%H:%M:%S}"
