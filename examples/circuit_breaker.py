"""CircuitBreaker alone, from plain code and from async code. It needs nothing but the standard library.

The rule of layers, from the outside in: fallback, breaker, retries, timeout, one request. A call whose retries are
exhausted is *one* failure; with the breaker inside the retries, one bad moment counts several times, and the retries
hammer a circuit that is open. `Retry` keeps to the rule by itself; switch an SDK's own retries off (`max_retries=0`).
"""

from __future__ import annotations

import asyncio
import time

from llmbatch import BreakerRegistry, CircuitBreaker, CircuitOpenError, Retry


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

    async def ask(self, question: str) -> str:
        """One request, for event loops."""
        await asyncio.sleep(0.01)
        if not question:
            raise ValueError("the question is empty")
        return f"{question}? {self.fetch()}"


def plain() -> None:
    """Any thread may use it. Retries inside: three requests are one failure."""
    service = Service()
    breaker = CircuitBreaker(failure_threshold=2, recovery_timeout=0.3, name="service")
    retry = Retry(breaker, attempts=3, first_wait=0.01, longest_wait=0.05)

    for _ in range(4):
        try:
            retry.call(service.fetch)
        except CircuitOpenError as error:
            print(f"refused at once, try again in {error.retry_after:.1f} s")
        except ConnectionError:
            print(f"failed after {service.requests} requests: failure {breaker.failures}, {breaker.state}")
    print(breaker.explain())

    print(breaker.call(service.fetch, fallback=lambda error: f"an old answer, for {type(error).__name__}"))

    service.is_down = False
    time.sleep(0.35)
    print(f"{breaker.state}: one probe may go")
    with breaker.acquire():
        print(service.fetch())
    print(breaker)


async def with_events() -> None:
    """Any event loop may use it too. Bad input is no sign of an outage, and whoever waits need not poll."""
    service = Service()
    breaker = CircuitBreaker(failure_threshold=2, recovery_timeout=0.2, count_error=ConnectionError, name="service")
    breaker.add_listener(lambda event: print(f"listener: {event.old} -> {event.new}"))

    @breaker
    async def ask(question: str) -> str:
        return await service.ask(question)

    for question in ("", "", "", "are you there", "are you there"):
        try:
            await ask(question)
        except (ValueError, ConnectionError) as error:
            print(f"{type(error).__name__}: {breaker.state}")

    service.is_down = False
    await breaker.wait_ready()
    print(await ask("are you there"))


def per_model() -> None:
    """One circuit for each model, with options of its own."""
    breakers = BreakerRegistry[str](lambda model: CircuitBreaker(1 if model == "fragile" else 5, 60.0, name=model))
    service = Service()
    for model in ("fragile", "steady"):
        breakers[model].call(service.fetch, fallback=lambda error: "")
    print({model: breaker.state for model, breaker in breakers.items()})


plain()
asyncio.run(with_events())
per_model()
