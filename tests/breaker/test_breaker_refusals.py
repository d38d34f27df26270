"""A refused key or model may be one caller's own: it counts against a shared circuit once others see it too."""

from __future__ import annotations

import pytest
from breaker_clock import Clock

from llmbatch.breaker import CircuitBreaker, Judgement


@pytest.fixture
def clock() -> Clock:
    return Clock()


KEY = Judgement("failure", status=401, scope="key")
MODEL = Judgement("neutral", status=404, scope="model")


def test_a_model_that_one_caller_lacks_does_not_open_the_circuit_that_all_share(clock: Clock) -> None:
    """Fifty 404s of one caller, named or not: its own until others see it too."""
    breaker = CircuitBreaker(3, clock=clock)

    for _ in range(50):
        breaker.acquire(caller="one").settle(MODEL)
        breaker.acquire().settle(MODEL)

    assert breaker.state == "closed"
    assert breaker.failures == 1


def test_a_key_that_one_caller_lacks_does_not_open_the_circuit_that_all_share(clock: Clock) -> None:
    """Likewise, for a caller with a name."""
    breaker = CircuitBreaker(3, clock=clock)

    for _ in range(50):
        breaker.acquire(caller="one").settle(KEY)

    assert breaker.failures == 1


@pytest.mark.parametrize("refusal", [KEY, MODEL])
def test_a_refusal_that_different_callers_meet_opens(clock: Clock, refusal: Judgement) -> None:
    """Then it is the provider's, and a probe that is refused has failed."""
    breaker = CircuitBreaker(3, 60.0, clock=clock)

    for caller in "abc":
        breaker.acquire(caller=caller).settle(refusal)
    assert breaker.is_open()

    for _ in range(3):
        clock.advance(60.0)
        breaker.acquire(caller="d").settle(refusal)
        assert breaker.is_open()
    clock.advance(60.0)
    breaker.acquire(caller="d").settle()
    assert breaker.state == "closed"


@pytest.mark.parametrize("refusal", [KEY, MODEL])
def test_a_probe_whose_key_or_model_is_refused_does_not_prolong_an_outage(clock: Clock, refusal: Judgement) -> None:
    """Failures had opened the circuit; one caller with a wrong key that tries often kept it open for all."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    breaker.acquire().settle("failure")
    clock.advance(60.0)

    for _ in range(2):
        breaker.acquire(caller="one").settle(refusal)
        assert breaker.state == "half_open"
    breaker.acquire(caller="two").settle()

    assert breaker.state == "closed"


def test_a_success_between_refusals_of_different_callers_keeps_the_circuit_closed(clock: Clock) -> None:
    """The provider answers others."""
    breaker = CircuitBreaker(3, clock=clock)

    for caller in range(30):
        breaker.acquire(caller=caller).settle(MODEL)
        if caller % 2:
            breaker.acquire(caller="good").settle()

    assert breaker.state == "closed"


@pytest.mark.parametrize("refusal", [KEY, MODEL])
def test_a_circuit_that_refusals_opened_shows_them(clock: Clock, refusal: Judgement) -> None:
    """With caller and status, though a single one is nobody's failure."""
    breaker = CircuitBreaker(2, clock=clock)

    for caller in "ab":
        breaker.acquire(caller=caller).settle(refusal)

    assert [(failure.caller, failure.status) for failure in breaker.explain().last_failures] == [
        ("a", refusal.status),
        ("b", refusal.status),
    ]


@pytest.mark.parametrize("refusal", [KEY, MODEL])
def test_a_refusal_is_an_answer_to_the_stall_rule(clock: Clock, refusal: Judgement) -> None:
    """Slow calls of others do not open the circuit while the provider refuses this caller promptly."""
    breaker = CircuitBreaker(None, clock=clock, stall_timeout=10.0, stall_calls=1)
    slow = breaker.acquire(caller="slow")
    refused = breaker.acquire(caller="one")

    clock.advance(11.0)
    refused.settle(refusal)
    breaker.acquire(caller="two").release()

    assert breaker.state == "closed"
    slow.settle()
