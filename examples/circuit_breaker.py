"""CircuitBreaker alone, from plain code and from async code. It needs nothing but the standard library.

The rule of layers: retries go inside, the breaker outside. A call whose retries are exhausted is *one* failure;
the other way round, one bad moment would count several times, and retries would hammer an open circuit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from llmbatch import CircuitBreaker, CircuitOpenError


class Service:
    """Stands for something remote."""

    def __init__(self) -> None:
        self.is_down = True
        self.requests = 0

    def fetch(self) -> str:
        """One request."""
        self.requests += 1
        if self.is_down:
            raise ConnectionError("no answer")
        return "an answer"


def with_retries(service: Service, attempts: int = 3) -> str:
    """The inner layer: a few quick attempts, then give up."""
    for attempt in range(attempts):
        try:
            return service.fetch()
        except ConnectionError:
            if attempt == attempts - 1:
                raise
            time.sleep(0.01)
    raise AssertionError


def plain() -> None:
    """Any thread may use it."""
    service = Service()
    breaker = CircuitBreaker(failure_threshold=2, recovery_timeout=0.3)

    for _ in range(5):
        try:
            breaker.call(with_retries, service)
        except CircuitOpenError as error:
            print(f"refused at once, try again in {error.retry_after:.1f} s")
        except ConnectionError:
            print(f"failed after 3 attempts: failure {breaker.failures}, {breaker.state}")
    print(f"{service.requests} requests reached the service")

    service.is_down = False
    time.sleep(0.35)
    print(f"{breaker.state}: one probe may go")
    print(f"{breaker.call(with_retries, service)}, {breaker.state}")


async def with_events() -> None:
    """Any event loop may use it too; the call is awaited outside the lock. Bad input is no sign of an outage."""
    breaker = CircuitBreaker(failure_threshold=2, count_error=lambda error: not isinstance(error, ValueError))

    async def ask(question: str) -> str:
        await asyncio.sleep(0.01)
        if not question:
            raise ValueError("the question is empty")
        return f"{question}? yes"

    for _ in range(5):
        with contextlib.suppress(ValueError):
            await breaker.async_call(ask, "")
    print(f"after 5 empty questions: {breaker.state}")
    print(await breaker.async_call(ask, "still working"))


plain()
asyncio.run(with_events())
