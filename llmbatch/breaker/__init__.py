"""The circuit breaker: a library of its own, standard library only.

:class:`CircuitBreaker` guards calls from any thread and any event loop. The pure state machine beneath it,
:class:`~llmbatch.breaker.core.Circuit`, takes time as an argument and can be driven by any shell.
"""

from llmbatch.breaker.breaker import CircuitBreaker
from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.breaker.policy import BreakerPolicy

__all__ = ["BreakerPolicy", "CircuitBreaker", "CircuitOpenError"]
