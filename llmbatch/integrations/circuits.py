"""Keep one circuit per origin and model for the HTTP requests of clients and SDKs, and log its changes.

Independent of any HTTP client: :mod:`llmbatch.integrations.httpx` and its siblings ask it for the circuit of a request.
"""

from __future__ import annotations

import datetime
import logging
import math
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Unpack
from weakref import ref

from llmbatch.breaker.breaker import CircuitBreaker
from llmbatch.breaker.classify import ErrorJudge
from llmbatch.breaker.events import StateChanged
from llmbatch.breaker.explain import mask
from llmbatch.breaker.policy import BreakerPolicy
from llmbatch.breaker.registry import BreakerRegistry
from llmbatch.integrations.endpoints import Endpoint
from llmbatch.integrations.llm_errors import judge_llm_error
from llmbatch.integrations.refusals import find_refusal

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


__all__ = ["Endpoint", "ModelCircuits", "find_refusal"]

_logger = logging.getLogger("llmbatch")

_failing = re.compile(r".*failed|the provider refuses|the server asked").match
"""How the reasons begin that a failure completes."""


class ModelCircuits(BreakerRegistry[Endpoint]):
    """Circuits by origin and model, made on first use; logs their openings and closings. Thread-safe.

    Hand one to several clients that use the same account, and they share its circuits. Openings and closings are logged
    under ``llmbatch`` (warning, info), and failed probes (debug); records have ``route`` and ``retry_after``.

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
        self._opened_at: float | None = None

    def __call__(self, event: StateChanged) -> None:
        """Log *event*."""
        if event.old == event.new or getattr(event, "forced", "") == "disabled":
            self._write(logging.WARNING, event, mask(str(event)))  # set or released by hand
        elif event.new == "open" and event.old == "closed":
            self._opened_at = event.at
            wait = _next_probe(event.retry_after)
            # No failure opened it by hand, or because calls take too long.
            is_failing = not event.forced and _failing(event.reason) is not None
            why = f"{mask(event.reason)}{self._last_failure() if is_failing else ''}"
            self._write(logging.WARNING, event, f"circuit {event.name} opened: {why}; {wait}")
        elif event.new == "open":
            wait = _next_probe(event.retry_after)
            why = f"the probe failed{self._last_failure()}"
            self._write(logging.DEBUG, event, f"circuit {event.name} stays open: {why}; {wait}")
        elif event.new == "closed":
            after = "" if self._opened_at is None else f" after {event.at - self._opened_at:.1f} s"
            self._opened_at = None
            self._write(logging.INFO, event, f"circuit {event.name} closed{after}: requests pass again")

    @staticmethod
    def _write(level: int, event: StateChanged, text: str) -> None:
        _logger.log(level, "%s", text, extra={"route": event.name, "retry_after": event.retry_after})

    def _last_failure(self) -> str:
        breaker = self._breaker()
        failures = () if breaker is None else breaker.explain().last_failures
        return f", the last with {failures[-1]}" if failures else ""


def _next_probe(seconds: float | None) -> str:
    if seconds is None or seconds == math.inf:
        return "no probe until it is reset"
    due = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=seconds)
    return f"the next probe is due in {seconds:.1f} s, at {due:%H:%M:%S}"
