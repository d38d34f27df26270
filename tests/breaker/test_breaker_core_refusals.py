"""Refusals of a caller's key or model in the pure state machine, replaced probes, and what a circuit remembers."""

from __future__ import annotations

import pytest
from breaker_circuits import circuit, enter, fail

from llmbatch.breaker.core import Circuit, SettleVerdict


def refuse(subject: Circuit, now: float, key: str | None, verdict: SettleVerdict = "neutral") -> None:
    """The server refuses the key or model of a caller."""
    subject.settle(enter(subject, now, key), verdict, now, by_refusal=True)


def test_a_refusal_counts_once_per_named_caller() -> None:
    """One caller's mistake is its own; two callers' open the circuit."""
    subject = circuit()

    for _ in range(3):
        refuse(subject, 0.0, "a")
    assert (subject.failures, subject.state(0.0)) == (1, "closed")
    refuse(subject, 0.0, "b")

    assert (subject.failures, subject.state(0.0)) == (2, "open")


@pytest.mark.parametrize(("key", "by_refusal"), [(None, True), ("a", False)])
def test_a_neutral_answer_is_no_failure(key: str | None, by_refusal: bool) -> None:
    """Of a caller without a name, or one that is no refusal."""
    subject = circuit()

    for _ in range(3):
        subject.settle(enter(subject, 0.0, key), "neutral", 0.0, by_refusal=by_refusal)

    assert (subject.failures, subject.state(0.0)) == (0, "closed")


def test_a_success_that_names_a_refusal_is_a_success() -> None:
    """Only neutral answers become failures."""
    subject = circuit()
    fail(subject, 0.0)

    refuse(subject, 0.0, "a", "success")

    assert subject.failures == 0


def test_a_refused_probe_reopens_what_refusals_opened() -> None:
    """Elsewhere a neutral one is an answer."""
    subject = circuit(neutral_probes=1)
    refuse(subject, 0.0, "a")
    refuse(subject, 0.0, "b")

    subject.settle(enter(subject, 60.0, "c"), "neutral", 60.0, by_refusal=True)

    assert subject.state(60.0) == "open"


def test_a_refused_probe_does_not_reopen_what_failures_opened() -> None:
    """The server answers, whatever it says of the key: enough such answers close the circuit."""
    subject = circuit(neutral_probes=2)
    fail(subject, 0.0, 2)

    refuse(subject, 60.0, "a", "failure")
    assert subject.state(60.0) == "half_open"
    refuse(subject, 60.0, "b", "failure")

    assert subject.state(60.0) == "closed"


def test_a_replaced_probe_counts_by_its_longest_wait() -> None:
    """With the slow-call rule: a stream whose parts came quickly closes the circuit, a slow answer does not."""
    subject = circuit(slow_call_rate=0.5, slow_call_duration=5.0)
    fail(subject, 0.0, 2)
    slow = enter(subject, 60.0)
    stream = enter(subject, 70.0)
    enter(subject, 90.0)  # each has lost its lease

    subject.settle(slow, "success", 91.0)
    assert subject.state(91.0) == "half_open"
    subject.progress(stream, 1.0, 92.0)
    subject.settle(stream, "success", 93.0)

    assert subject.state(93.0) == "closed"


def test_a_new_circuit_remembers_no_cause() -> None:
    """Neither an operator nor a refusal has opened it."""
    assert circuit().memory(0.0).cause == "rule"


def test_a_circuit_that_was_forced_open_before_it_was_disabled_is_not_kept_open() -> None:
    """Its memory holds no time that is over."""
    subject = circuit()
    subject.force_open(0.0, "deploy")
    subject.disable(1.0)

    memory = subject.memory(2.0)

    assert (memory.forced, memory.forced_for) == ("disabled", 0.0)
