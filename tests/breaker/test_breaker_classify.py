"""What a call came to: ``count_error``, ``judge_error``, ``judge_result``, and the waits that exceptions name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, HintedError, RefusedError, down, down_later, fine, half_opened, opened, raising

from llmbatch.breaker import BreakerPolicy, CircuitBreaker, CircuitOpenError, Judgement


class WorseError(DownError):
    """The provider is more than down."""


class SpentError(Exception):
    """The account is empty."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail_with(breaker: CircuitBreaker, *errors: Exception) -> None:
    for error in errors:
        with pytest.raises(type(error)):
            breaker.call(raising(error))


def by_type(error: Exception) -> str | Judgement | None:
    """A judge that knows every verdict."""
    verdicts: dict[type[Exception], str | Judgement] = {
        RefusedError: "neutral",
        SpentError: Judgement("exhausted", message="no credit"),
        LookupError: "success",
        TimeoutError: "throttled",
        ArithmeticError: "ignored",
    }
    return verdicts.get(type(error))


# count_error.


@pytest.mark.parametrize(
    "rule",
    [DownError, (DownError, SpentError), lambda error: isinstance(error, DownError)],
    ids=["type", "tuple", "function"],
)
def test_count_error_may_be_a_type_types_or_a_function(clock: Clock, rule: object) -> None:
    """What it names counts, subclasses too; all else is neutral."""
    breaker = CircuitBreaker(3, clock=clock, count_error=rule)  # type: ignore[arg-type]

    fail_with(breaker, DownError(), RefusedError(), WorseError(), RefusedError())
    assert (breaker.state, breaker.failures) == ("closed", 2)
    fail_with(breaker, DownError())

    assert breaker.is_open()


def test_a_type_as_count_error_is_not_called(clock: Clock) -> None:
    """A type is callable too, but what it makes would always count."""
    breaker = CircuitBreaker(1, clock=clock, count_error=WorseError)

    fail_with(breaker, DownError(), RefusedError())

    assert (breaker.state, breaker.failures) == ("closed", 0)


def test_what_count_error_returns_is_taken_for_true_or_false(clock: Clock) -> None:
    """Whatever it is."""
    breaker = CircuitBreaker(1, clock=clock, count_error=lambda error: error.args)

    fail_with(breaker, DownError())
    assert breaker.failures == 0
    fail_with(breaker, DownError("with a text"))

    assert breaker.is_open()


def test_by_default_every_exception_is_a_failure(clock: Clock) -> None:
    """Any kind, and nothing that is no Exception."""
    breaker = CircuitBreaker(100, clock=clock)

    fail_with(breaker, DownError(), ValueError(), TypeError(), TimeoutError(), StopIteration(), AssertionError())
    for interruption in (KeyboardInterrupt(), SystemExit(), GeneratorExit(), asyncio.CancelledError()):
        with pytest.raises(type(interruption)):
            breaker.call(raising(interruption))

    assert breaker.failures == 6


# judge_error.


@pytest.mark.parametrize(
    ("error", "state", "failures"),
    [
        (DownError(), "closed", 2),
        (RefusedError(), "closed", 1),
        (SpentError(), "open", 1),
        (LookupError(), "closed", 0),
        (TimeoutError(), "closed", 1),
        (ArithmeticError(), "closed", 1),
    ],
    ids=["None", "neutral", "exhausted", "success", "throttled", "ignored"],
)
@pytest.mark.parametrize("way", ["call", "async_call", "block", "permit"])
async def test_judge_error_says_what_an_error_means(
    clock: Clock, way: str, error: Exception, state: str, failures: int
) -> None:
    """A verdict, a judgement, or None for a failure; after one failure, with three to open, by every way in."""
    breaker = CircuitBreaker(3, clock=clock, judge_error=by_type)  # type: ignore[arg-type]
    fail_with(breaker, DownError())

    async def later() -> None:
        raise error

    async def go() -> None:
        if way == "call":
            breaker.call(raising(error))
        elif way == "async_call":
            await breaker.async_call(later)
        elif way == "block":
            with breaker.acquire():
                raise error
        else:
            with breaker.acquire():
                raise error

    with pytest.raises(type(error)):
        await go()

    assert (breaker.state, breaker.failures) == (state, failures)


def test_judge_error_sees_no_interruptions(clock: Clock) -> None:
    """Nor another circuit's refusals: both count as nothing, whatever it would say."""
    seen: list[Exception] = []
    breaker = CircuitBreaker(1, clock=clock, judge_error=lambda error: seen.append(error))

    for error in (KeyboardInterrupt(), asyncio.CancelledError(), CircuitOpenError(5.0)):
        with pytest.raises(type(error)):
            breaker.call(raising(error))

    assert (seen, breaker.failures) == ([], 0)


@pytest.mark.parametrize("nonsense", ["Failure", "", True, False, 0, 3.5, ("failure", 2.0), object(), Judgement("no")])  # type: ignore[arg-type]
@pytest.mark.parametrize("state", ["closed", "half_open"])
def test_a_judge_that_talks_nonsense_is_told_so(clock: Clock, state: str, nonsense: object) -> None:
    """A ValueError that shows it, with the error as context; nothing is counted and no probe is left behind."""
    judges = {"judge_error": lambda error: nonsense if error.args == ("now",) else None}
    breaker = half_opened(clock, **judges) if state == "half_open" else CircuitBreaker(1, clock=clock, **judges)  # type: ignore[arg-type]
    failures = breaker.failures

    for _ in range(3):
        with pytest.raises(ValueError, match="must be one of success, failure") as caught:
            breaker.call(raising(DownError("now")))

    assert isinstance(caught.value.__context__, DownError)
    assert (breaker.state, breaker.failures) == (state, failures)
    assert breaker.call(fine) == "fine"


def test_judge_error_and_count_error_exclude_each_other() -> None:
    """One of them decides."""
    with pytest.raises(TypeError, match="judge_error takes the place of count_error"):
        CircuitBreaker(count_error=DownError, judge_error=lambda _: None)


def test_a_policy_and_options_exclude_each_other() -> None:
    """The message names the options."""
    with pytest.raises(TypeError, match=r"give either policy or failure_rate, probes, not both"):
        CircuitBreaker(policy=BreakerPolicy(), failure_rate=0.5, probes=2)


# judge_result.


@pytest.mark.parametrize(
    ("said", "state", "failures"),
    [
        (None, "closed", 0),
        ("success", "closed", 0),
        ("failure", "closed", 2),
        ("neutral", "closed", 1),
        ("throttled", "closed", 1),
        ("ignored", "closed", 1),
        ("exhausted", "open", 1),
        (Judgement("failure", retry_after=9.0), "closed", 2),
    ],
)
async def test_judge_result_says_what_a_value_means(clock: Clock, said: object, state: str, failures: int) -> None:
    """The value is returned all the same; after one failure, with three to open."""
    breakers = [CircuitBreaker(3, clock=clock, judge_result=lambda _: said) for _ in range(2)]  # type: ignore[arg-type, return-value]
    for breaker in breakers:
        fail_with(breaker, DownError())

    async def later() -> str:
        return "answer"

    assert breakers[0].call(lambda: "answer") == "answer"
    assert await breakers[1].async_call(later) == "answer"

    assert [(breaker.state, breaker.failures) for breaker in breakers] == [(state, failures)] * 2


def test_judge_result_sees_the_value_outside_the_lock(clock: Clock) -> None:
    """It may look at the breaker."""
    seen: list[object] = []
    breaker = CircuitBreaker(clock=clock, judge_result=lambda value: seen.append((value, breaker.state)))

    breaker.call(lambda: 42)

    assert seen == [(42, "closed")]


def test_a_probes_answer_is_judged_too(clock: Clock) -> None:
    """A 200 that holds an error keeps the circuit open."""
    breaker = half_opened(clock, judge_result=lambda value: "failure" if "error" in value else None)

    assert breaker.call(lambda: {"error": "overloaded"}) == {"error": "overloaded"}
    assert breaker.is_open()
    clock.advance(60.0)
    assert breaker.call(lambda: {"text": "hello"}) == {"text": "hello"}

    assert breaker.state == "closed"


def test_judge_result_is_not_asked_by_blocks_and_permits(clock: Clock) -> None:
    """They have no value: a good end is a success unless they settle otherwise."""
    breaker = half_opened(clock, judge_result=lambda _: "failure")

    with breaker.acquire():
        pass

    assert breaker.state == "closed"


@pytest.mark.parametrize("broken", [LookupError, KeyboardInterrupt])
@pytest.mark.parametrize("state", ["closed", "half_open"])
def test_a_judge_of_results_that_raises_leaves_nothing_behind(
    clock: Clock, state: str, broken: type[BaseException]
) -> None:
    """Its error reaches the caller; the call counts as nothing, and the next one may probe."""

    def judge(value: object) -> None:
        if value == "odd":
            raise broken("cannot judge")

    breaker = half_opened(clock, judge_result=judge) if state == "half_open" else CircuitBreaker(1, judge_result=judge)
    failures = breaker.failures

    for _ in range(3):
        with pytest.raises(broken):
            breaker.call(lambda: "odd")

    assert (breaker.state, breaker.failures) == (state, failures)
    assert breaker.call(fine) == "fine"
    assert breaker.state == "closed"


@pytest.mark.parametrize("way", ["call", "async_call", "block", "permit"])
@pytest.mark.parametrize("broken", [LookupError, KeyboardInterrupt])
async def test_a_judge_of_errors_that_raises_leaves_nothing_behind(
    clock: Clock, way: str, broken: type[BaseException]
) -> None:
    """Its error reaches the caller with the first one as context, by every way in; the next one may probe."""

    def judge(error: Exception) -> None:
        if error.args == ("odd",):
            raise broken("cannot judge")

    breaker = half_opened(clock, judge_error=judge)
    odd = DownError("odd")

    async def later() -> None:
        raise odd

    def go() -> None:
        if way == "call":
            breaker.call(raising(odd))
        elif way == "async_call":
            breaker.async_call(later).send(None)
        elif way == "block":
            with breaker.acquire():
                raise odd
        else:
            with breaker.acquire():
                raise odd

    for _ in range(3):
        with pytest.raises(broken) as caught:
            go()

    assert caught.value.__context__ is odd
    assert breaker.state == "half_open"
    assert breaker.call(fine) == "fine"


# Waits.


def test_an_exceptions_wait_extends_the_open_time(clock: Clock) -> None:
    """By every way in; never shortens it, and a judge that names one itself goes first."""
    long, short = CircuitBreaker(1, 60.0, clock=clock), CircuitBreaker(1, 60.0, clock=clock)
    judged = CircuitBreaker(1, 60.0, clock=clock, judge_error=lambda _: Judgement("failure", retry_after=90.0))

    fail_with(long, HintedError(300.0))
    fail_with(short, HintedError(3.0))
    fail_with(judged, HintedError(300.0))

    assert (long.retry_after, short.retry_after, judged.retry_after) == (300.0, 60.0, 90.0)


def test_a_wait_that_was_named_while_closed_outlasts_the_open_time(clock: Clock) -> None:
    """It stops nothing while closed, whatever the verdict; but no probe goes before it is over."""
    breaker = CircuitBreaker(2, 60.0, clock=clock, judge_error=lambda _: "throttled")

    fail_with(breaker, HintedError(100.0))
    assert breaker.call(fine) == "fine"
    breaker.acquire().settle("failure")
    breaker.acquire().settle("failure")

    assert breaker.retry_after == 100.0


@pytest.mark.parametrize("wait", [None, "300", True, float("nan"), float("inf"), -1.0, 0.0, [300.0]])
def test_a_wait_that_is_no_number_of_seconds_is_ignored(clock: Clock, wait: object) -> None:
    """Foreign exceptions carry what they like under that name."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)

    fail_with(breaker, HintedError(wait))  # type: ignore[arg-type]

    assert breaker.retry_after == 60.0


def test_a_retry_after_that_raises_is_ignored(clock: Clock) -> None:
    """A property may do anything."""

    class TrickyError(Exception):
        @property
        def retry_after(self) -> float:
            raise LookupError

    breaker = CircuitBreaker(1, 60.0, clock=clock)

    fail_with(breaker, TrickyError())

    assert breaker.retry_after == 60.0


def test_a_wait_is_believed_up_to_longest_hint(clock: Clock) -> None:
    """A header with a typing error stops nobody for a year."""
    breaker = CircuitBreaker(1, 60.0, clock=clock, longest_hint=3600.0)

    fail_with(breaker, HintedError(1e9))

    assert breaker.retry_after == 3600.0


# Breakers within breakers.


async def test_another_circuits_refusal_counts_as_nothing(clock: Clock) -> None:
    """By every way in, closed and half-open; its wait is not taken over either."""
    inner = opened(clock, recovery_timeout=500.0)
    outer = half_opened(clock)
    refusals: list[Callable[[], object]] = [
        lambda: outer.call(inner.call, fine),
        lambda: outer.async_call(inner.async_call, down_later).send(None),
        lambda: outer.acquire().__enter__().__exit__(*raised(inner)),
    ]

    for refusal in refusals[:2]:
        with pytest.raises(CircuitOpenError):
            refusal()
    refusals[2]()
    assert (outer.state, outer.failures) == ("half_open", 1)
    assert outer.call(fine) == "fine"
    for refusal in refusals[:2]:
        with pytest.raises(CircuitOpenError):
            refusal()

    assert (outer.state, outer.failures) == ("closed", 0)


def raised(breaker: CircuitBreaker) -> tuple[type[BaseException], BaseException, None]:
    """What ``__exit__`` gets when *breaker* refuses inside the block."""
    with pytest.raises(CircuitOpenError) as caught:
        breaker.call(down)
    return type(caught.value), caught.value, None


def test_a_failure_that_the_inner_circuit_counts_counts_for_the_outer(clock: Clock) -> None:
    """It is raised on as it was."""
    outer, inner = CircuitBreaker(2, clock=clock), CircuitBreaker(2, clock=clock)

    for _ in range(2):
        with pytest.raises(DownError):
            outer.call(inner.call, down)

    assert (outer.state, inner.state) == ("open", "open")
