"""Circuit breaker library. Needs the standard library only and can be imported alone.

:class:`CircuitBreaker` guards calls from any thread and any event loop. It wraps a pure state machine,
:class:`~llmbatch.breaker.core.Circuit`, which takes time as an argument. Rarely used names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from llmbatch.breaker.breaker import CircuitBreaker
from llmbatch.breaker.classify import Judgement
from llmbatch.breaker.errors import CircuitOpenError, UnguardedStreamWarning
from llmbatch.breaker.listeners import BreakerListener
from llmbatch.breaker.permit import Permit
from llmbatch.breaker.policy import BreakerPolicy

if TYPE_CHECKING:
    from llmbatch.breaker.chunks import AsyncChunks, Chunks
    from llmbatch.breaker.events import BreakerEvent, CallEnded, CallRefused, StateChanged
    from llmbatch.breaker.explain import Explanation, Failure, WindowCounts
    from llmbatch.breaker.metrics import BreakerMetrics, CircuitNumbers
    from llmbatch.breaker.registry import BreakerRegistry
    from llmbatch.breaker.retry import Retry

__all__ = [
    "AsyncChunks",
    "BreakerEvent",
    "BreakerListener",
    "BreakerMetrics",
    "BreakerPolicy",
    "BreakerRegistry",
    "CallEnded",
    "CallRefused",
    "Chunks",
    "CircuitBreaker",
    "CircuitNumbers",
    "CircuitOpenError",
    "Explanation",
    "Failure",
    "Judgement",
    "Permit",
    "Retry",
    "StateChanged",
    "UnguardedStreamWarning",
    "WindowCounts",
]

_LAZY = {
    "AsyncChunks": "chunks",
    "BreakerEvent": "events",
    "BreakerMetrics": "metrics",
    "BreakerRegistry": "registry",
    "CallEnded": "events",
    "CallRefused": "events",
    "Chunks": "chunks",
    "CircuitNumbers": "metrics",
    "Explanation": "explain",
    "Failure": "explain",
    "Retry": "retry",
    "StateChanged": "events",
    "WindowCounts": "explain",
}


if not TYPE_CHECKING:  # or a type checker takes every name for one of these

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
        globals()[name] = value
        return value
