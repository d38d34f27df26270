"""What an exception means that is wrapped: by its causes, its context, and the members of groups."""

from __future__ import annotations

import asyncio
import concurrent.futures
import subprocess
import sys
from typing import Any

import pytest
from breaker_clock import Clock

from llmbatch.breaker import CircuitBreaker, CircuitOpenError


class AgentError(Exception):
    """What an agent raises, whatever happened below it."""


class RowGoneError(Exception):
    """Says nothing about the provider."""


class SlowRowError(RowGoneError, TimeoutError):
    """Ignored and counted at once."""


def wrapped(cause: BaseException) -> Exception:
    try:
        raise AgentError("agent failed") from cause
    except AgentError as error:
        return error


def during(context: Exception, error: Exception) -> Exception:
    """*error*, raised while *context* was being handled."""
    try:
        try:
            raise context
        except Exception:
            raise error  # noqa: B904
    except Exception as caught:
        return caught


def hidden(context: Exception) -> Exception:
    try:
        try:
            raise context
        except Exception:
            raise AgentError("agent failed") from None
    except AgentError as error:
        return error


def circle() -> Exception:
    first, second = AgentError("a"), AgentError("b")
    first.__cause__, second.__cause__ = second, first
    return first


def deep(cause: Exception, links: int) -> Exception:
    for _ in range(links):
        cause = wrapped(cause)
    return cause


def group(*members: Exception) -> Exception:
    return ExceptionGroup("tasks", members)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def failures_of(error: Exception, **options: Any) -> int:
    breaker = CircuitBreaker(100, **options)

    def call() -> None:
        raise error

    with pytest.raises(type(error)):
        breaker.call(call)
    return breaker.failures


@pytest.mark.parametrize(
    "error",
    [
        wrapped(TimeoutError()),
        deep(TimeoutError(), 20),
        during(TimeoutError(), AgentError("x")),
        group(TimeoutError()),
        group(ValueError("x"), TimeoutError()),
        group(ValueError("x"), group(KeyError("x"), wrapped(TimeoutError()))),
        wrapped(group(ValueError("x"), TimeoutError())),
    ],
    ids=["from", "20 deep", "context", "group", "mixed group", "nested group", "from a group"],
)
@pytest.mark.parametrize("rule", [TimeoutError, (KeyboardInterrupt, TimeoutError)], ids=["type", "tuple"])
def test_an_outage_behind_a_wrapper_or_in_a_task_group_is_seen(error: Exception, rule: Any) -> None:
    """``count_error=TimeoutError`` did not see it: neutral, and the circuit never opened."""
    assert failures_of(error, count_error=rule) == 1


@pytest.mark.parametrize(
    "error",
    [hidden(TimeoutError()), wrapped(ValueError("x")), group(ValueError("x")), circle(), deep(TimeoutError(), 100)],
    ids=["from None", "another cause", "another member", "circle", "100 deep"],
)
def test_what_no_cause_shows_stays_neutral(error: Exception) -> None:
    """``raise … from None`` means it; circles end, and the search is bounded."""
    assert failures_of(error, count_error=TimeoutError) == 0


async def test_a_task_group_inside_the_call_opens_the_circuit() -> None:
    """The real thing, by ``async_call``."""
    breaker = CircuitBreaker(2, count_error=TimeoutError)

    async def late() -> None:
        raise TimeoutError

    async def ask() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(late())
            tasks.create_task(asyncio.sleep(60))

    for _ in range(2):
        with pytest.raises(ExceptionGroup):
            await breaker.async_call(ask)

    assert breaker.is_open()


def test_a_predicate_sees_the_exception_itself_only() -> None:
    """It can look into causes as it likes; one that says "all but these" would count every cause."""
    seen: list[Exception] = []
    error = wrapped(TimeoutError())

    assert failures_of(error, count_error=lambda raised: seen.append(raised)) == 0
    assert failures_of(error, ignore=lambda raised: not isinstance(raised, AgentError)) == 1
    assert failures_of(error, ignore=lambda raised: isinstance(raised, AgentError)) == 0
    assert seen == [error]


@pytest.mark.parametrize(
    "error",
    [
        RowGoneError("x"),
        SlowRowError("x"),
        wrapped(RowGoneError("x")),
        deep(RowGoneError("x"), 20),
        wrapped(during(TimeoutError(), RowGoneError("x"))),
        group(RowGoneError("a"), RowGoneError("b")),
        group(group(RowGoneError("a")), wrapped(RowGoneError("b"))),
    ],
    ids=["itself", "of both kinds", "cause", "20 deep", "cause amid an outage", "group", "nested"],
)
@pytest.mark.parametrize("options", [{}, {"count_error": TimeoutError}, {"judge_error": lambda _: "exhausted"}])
def test_ignored_errors_count_as_nothing(error: Exception, options: dict[str, Any]) -> None:
    """Whatever else is given; also where everything counts."""
    assert failures_of(error, ignore=RowGoneError, **options) == 0


@pytest.mark.parametrize(
    ("error", "failures"),
    [
        (group(RowGoneError("x"), TimeoutError()), 1),
        (group(RowGoneError("x"), ValueError("x")), 0),
        (group(ValueError("x"), group(RowGoneError("x"), TimeoutError())), 1),
        (during(RowGoneError("x"), TimeoutError()), 1),
        (during(RowGoneError("x"), AgentError("x")), 0),
    ],
    ids=["one counts", "none counts", "nested", "after one", "neither"],
)
def test_a_member_that_counts_outweighs_ignored_ones(error: Exception, failures: int) -> None:
    """An ignored exception that was being handled when an outage came does not hide it."""
    assert failures_of(error, ignore=RowGoneError, count_error=TimeoutError) == failures


def test_where_everything_counts_a_group_is_ignored_only_as_a_whole() -> None:
    """One other member makes it a failure; an ignored one that was being handled changes nothing."""
    assert failures_of(group(RowGoneError("x"), ValueError("x")), ignore=RowGoneError) == 1
    assert failures_of(during(RowGoneError("x"), ValueError("x")), ignore=RowGoneError) == 1


@pytest.mark.parametrize("options", [{}, {"count_error": TimeoutError}])
async def test_a_timeout_is_no_cancellation_though_it_is_raised_from_one(options: dict[str, Any]) -> None:
    """``asyncio.timeout`` raises it from the cancellation that it sent: to ignore those must not hide it."""
    breaker = CircuitBreaker(1, ignore=asyncio.CancelledError, **options)  # type: ignore[arg-type]

    async def late() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await breaker.async_call(late)

    assert breaker.is_open()


def test_an_ignored_probe_only_gives_its_slot_back(clock: Clock) -> None:
    """It neither closes nor reopens, and the next call may probe."""
    breaker = CircuitBreaker(1, 60.0, clock=clock, ignore=RowGoneError)

    def call(error: Exception) -> None:
        with pytest.raises(type(error)):
            breaker.call(lambda: (_ for _ in ()).throw(error))

    call(ValueError("down"))
    clock.advance(60.0)
    for _ in range(5):
        call(RowGoneError("x"))

    assert (breaker.state, breaker.failures) == ("half_open", 1)
    assert breaker.call(lambda: "fine") == "fine"
    assert breaker.state == "closed"


@pytest.mark.parametrize("rule", [5, "TimeoutError", (TimeoutError, "x"), int, (int,)])
@pytest.mark.parametrize("name", ["ignore", "count_error"])
def test_a_rule_that_is_no_rule_is_refused_at_once(name: str, rule: Any) -> None:
    """It raised at the first failure, in place of it."""
    with pytest.raises(TypeError, match=f"{name} is .*, must be exception types or a function"):
        CircuitBreaker(**{name: rule})


@pytest.mark.parametrize("options", [{}, {"count_error": Exception}, {"judge_error": lambda _: "failure"}])
def test_a_canceled_future_is_no_failure(options: dict[str, Any]) -> None:
    """``future.result()`` raises ``concurrent.futures.CancelledError``, which is an Exception, unlike asyncio's."""
    breaker = CircuitBreaker(1, **options)
    future: concurrent.futures.Future[str] = concurrent.futures.Future()
    future.cancel()

    for error in (future.result, lambda: (_ for _ in ()).throw(wrapped(concurrent.futures.CancelledError()))):
        with pytest.raises(Exception):  # noqa: B017, PT011
            breaker.call(error)

    assert (breaker.state, breaker.failures) == ("closed", 0)


def test_a_class_of_that_name_that_is_another_is_a_failure() -> None:
    """Only the standard library's is known."""

    class CancelledError(Exception):
        pass

    assert failures_of(CancelledError("order")) == 1


@pytest.mark.parametrize("refusal", [wrapped(CircuitOpenError(5.0)), group(CircuitOpenError(5.0))])
def test_another_circuits_refusal_counts_as_nothing_when_an_sdk_wraps_it(refusal: Exception) -> None:
    """A client with a circuit in its transport raises a connection error from it."""
    assert failures_of(refusal) == 0
    assert failures_of(group(CircuitOpenError(5.0), ValueError("x"))) == 1


def test_the_breaker_knows_canceled_futures_without_loading_their_module() -> None:
    """It would take longer to import than the breaker."""
    code = (
        "import sys; from llmbatch.breaker import CircuitBreaker as B\n"
        "b = B(1)\n"
        "try: b.call(lambda: 1 / 0)\n"
        "except ZeroDivisionError: pass\n"
        "assert b.is_open() and 'concurrent.futures' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
