"""Retry: several attempts inside one call, so that an exhausted one is one failure."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, HintedError, down, fine, fine_later, half_opened, opened, trip
from breaker_threads import PATIENCE, run_threads

from llmbatch.breaker import CircuitBreaker, CircuitOpenError, Judgement, Retry
from llmbatch.sim.virtual import run_virtual


@pytest.fixture
def clock() -> Clock:
    return Clock()


def now() -> float:
    return asyncio.get_running_loop().time()


class Provider:
    """Plays *script* in turn, then its last item for ever: raises exceptions and returns anything else."""

    def __init__(self, *script: object, tick: Callable[[], float] = time.monotonic) -> None:
        self._script = iter(script)
        self._next: object = None
        self._tick = tick
        self.times: list[float] = []

    @property
    def calls(self) -> int:
        return len(self.times)

    def ask(self) -> Any:
        self.times.append(self._tick())
        self._next = next(self._script, self._next)
        if isinstance(self._next, BaseException):
            raise self._next
        return self._next

    async def ask_later(self) -> Any:
        await asyncio.sleep(0)
        return self.ask()


def quick(breaker: CircuitBreaker, **options: Any) -> Retry:
    """One whose waits take no time worth mentioning."""
    return Retry(breaker, **{"first_wait": 1e-6, "longest_wait": 1e-3} | options)


async def came(retry: Retry, kind: str, provider: Provider) -> object:
    """What a call comes to: a value, or the type of an exception."""
    try:
        return retry.call(provider.ask) if kind == "sync" else await retry.async_call(provider.ask_later)
    except Exception as error:
        return type(error)


async def both(retry: Retry, *script: object) -> list[tuple[object, int]]:
    """What a sync and an async call come to, and how many attempts each made."""
    sync, later = Provider(*script), Provider(*script)
    return [(await came(retry, "sync", sync), sync.calls), (await came(retry, "async", later), later.calls)]


in_both_kinds = pytest.mark.parametrize("kind", ["sync", "async"])


# One call, several attempts.


async def test_it_tries_again_until_it_ends_well() -> None:
    """Failures before a success count as nothing at all."""
    breaker = CircuitBreaker(1)

    assert await both(quick(breaker, attempts=4), DownError(), DownError(), "answer") == [("answer", 3)] * 2

    assert (breaker.state, breaker.failures, breaker.explain().last_failures) == ("closed", 0, ())


async def test_an_exhausted_call_is_one_failure() -> None:
    """However many attempts it had; the last error is raised."""
    breaker = CircuitBreaker(3)

    came = await both(quick(breaker, attempts=4), ValueError(), ValueError(), ValueError(), DownError("the last"))

    assert came == [(DownError, 4)] * 2
    assert (breaker.state, breaker.failures, len(breaker.explain().last_failures)) == ("closed", 2, 2)
    assert breaker.explain().last_failures[0].error == "DownError: the last"


async def test_arguments_pass_through() -> None:
    """In every attempt, also those called as the retry's own options."""
    retry = quick(CircuitBreaker())

    def echo(*args: object, **kwargs: object) -> object:
        return args, kwargs

    async def echo_later(*args: object, **kwargs: object) -> object:
        return args, kwargs

    assert retry.call(echo, 1, attempts=2, fallback=3) == ((1,), {"attempts": 2, "fallback": 3})
    assert await retry.async_call(echo_later, 1, attempts=2, fallback=3) == ((1,), {"attempts": 2, "fallback": 3})


async def test_one_attempt_is_a_plain_call() -> None:
    """``attempts=1``."""
    breaker = CircuitBreaker(5)

    assert await both(quick(breaker, attempts=1), DownError()) == [(DownError, 1)] * 2
    assert breaker.failures == 2


@pytest.mark.parametrize(
    ("said", "attempts", "state", "failures"),
    [
        ("failure", 3, "closed", 1),
        (None, 3, "closed", 1),
        ("throttled", 3, "closed", 0),
        ("neutral", 1, "closed", 0),
        ("ignored", 1, "closed", 0),
        ("success", 1, "closed", 0),
        ("exhausted", 1, "open", 0),
    ],
)
@in_both_kinds
async def test_only_failures_and_throttling_are_tried_again(
    kind: str, said: object, attempts: int, state: str, failures: int
) -> None:
    """What was refused for good, or says nothing, is raised at once and counts as judged."""
    breaker = CircuitBreaker(9, judge_error=lambda _: said)  # type: ignore[arg-type, return-value]
    provider = Provider(DownError())

    assert await came(quick(breaker), kind, provider) is DownError

    assert (provider.calls, breaker.state, breaker.failures) == (attempts, state, failures)


async def test_results_are_judged_too() -> None:
    """A bad answer is tried again, and returned when the attempts are over; then it is one failure."""
    breaker = CircuitBreaker(3, judge_result=lambda value: "failure" if value == "bad" else None)

    assert await both(quick(breaker), "bad", "bad", "good") == [("good", 3)] * 2
    assert breaker.failures == 0
    assert await both(quick(breaker), "bad") == [("bad", 3)] * 2

    assert breaker.failures == 2


async def test_an_exhausted_result_is_returned_at_once() -> None:
    """And opens the circuit."""
    breaker = CircuitBreaker(3, judge_result=lambda value: Judgement("exhausted"))
    provider = Provider("no credit")

    assert quick(breaker).call(provider.ask) == "no credit"

    assert (provider.calls, breaker.state) == (1, "open")


# Where a retry stops.


async def test_an_open_circuit_is_not_called() -> None:
    """The refusal is raised, with nothing tried."""
    breaker = opened(time.monotonic)

    assert await both(quick(breaker), "answer") == [(CircuitOpenError, 0)] * 2


@in_both_kinds
async def test_a_probe_has_one_attempt(clock: Clock, kind: str) -> None:
    """Half-open, one failure is the answer."""
    breaker = half_opened(clock)
    provider = Provider(DownError(), "answer")

    assert await came(quick(breaker), kind, provider) is DownError

    assert (provider.calls, breaker.state) == (1, "open")


async def test_a_good_probe_closes(clock: Clock) -> None:
    """And returns its answer."""
    breaker = half_opened(clock)

    assert quick(breaker).call(fine) == "fine"

    assert breaker.state == "closed"


def test_a_sleeping_retry_wakes_when_the_circuit_opens() -> None:
    """It fails at once with its own last error, which decides nothing any more."""

    async def main() -> tuple[float, int, str, int]:
        breaker = CircuitBreaker(1, 60.0, clock=now)
        provider = Provider(DownError("its own"), tick=now)
        task = asyncio.create_task(Retry(breaker, first_wait=10.0).async_call(provider.ask_later))
        await asyncio.sleep(3.0)
        trip(breaker)
        with pytest.raises(DownError, match="its own"):
            await task
        return now(), provider.calls, breaker.state, breaker.failures

    assert run_virtual(main) == (3.0, 1, "open", 1)


def test_a_sleeping_retry_in_a_thread_wakes_when_the_circuit_opens(clock: Clock) -> None:
    """The same with a thread that would have slept for minutes."""
    breaker = CircuitBreaker(1, clock=clock)
    provider = Provider(DownError("its own"))
    raised: list[str] = []

    def work() -> None:
        with pytest.raises(DownError) as caught:
            Retry(breaker, first_wait=300.0, longest_wait=300.0).call(provider.ask)
        raised.append(str(caught.value))

    def other() -> None:
        while not breaker._circuit.waiters:
            time.sleep(0.001)
        trip(breaker)

    run_threads(work, other)

    assert (raised, provider.calls, breaker.failures) == (["its own"], 1, 1)


@in_both_kinds
async def test_a_circuit_that_opened_during_an_attempt_gets_no_other(clock: Clock, kind: str) -> None:
    """Without sleeping first; the error is the attempt's own."""
    breaker = CircuitBreaker(1, clock=clock)

    class Meanwhile(Provider):
        def ask(self) -> Any:
            trip(breaker)
            return super().ask()

    provider = Meanwhile(LookupError("its own"), "never")

    assert await came(Retry(breaker, first_wait=300.0, longest_wait=300.0), kind, provider) is LookupError

    assert provider.calls == 1


async def test_an_attempt_that_ends_well_after_the_opening_is_returned(clock: Clock) -> None:
    """The answer is good; it closes nothing."""
    breaker = CircuitBreaker(1, clock=clock)

    def ask() -> str:
        trip(breaker)
        return "answer"

    assert quick(breaker).call(ask) == "answer"

    assert breaker.state == "open"


# Waits.


def waits(provider: Provider) -> list[float]:
    return [after - before for before, after in itertools.pairwise(provider.times)]


def test_the_waits_are_as_documented() -> None:
    """``b/2`` to ``b``, with ``b`` doubling from ``first_wait`` up to ``longest_wait``; drawn anew each time."""

    async def main() -> list[list[float]]:
        breaker = CircuitBreaker(10**6, clock=now)
        retry = Retry(breaker, attempts=10, first_wait=0.5, longest_wait=20.0)
        providers = [Provider(DownError(), tick=now) for _ in range(50)]
        await asyncio.gather(*(retry.async_call(each.ask_later) for each in providers), return_exceptions=True)
        return [waits(provider) for provider in providers]

    drawn = run_virtual(main)

    for number, ceiling in enumerate([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0, 20.0]):
        column = [row[number] for row in drawn]
        assert ceiling / 2 <= min(column) + 1e-9
        assert max(column) <= ceiling + 1e-9
        assert max(column) - min(column) > ceiling / 4
    assert all(len(row) == 9 for row in drawn)


def test_a_thread_waits_likewise() -> None:
    """By the real clock, at least as long as the shortest wait."""
    provider = Provider(DownError(), DownError(), "answer")

    assert Retry(CircuitBreaker(), first_wait=0.02, longest_wait=0.02).call(provider.ask) == "answer"

    assert all(0.009 <= wait < PATIENCE for wait in waits(provider))


def test_a_wait_that_the_server_names_is_kept_to() -> None:
    """Where it is longer than ours, up to ``longest_wait``; a shorter one changes nothing."""

    async def main() -> tuple[list[float], list[float]]:
        breaker = CircuitBreaker(10**6, clock=now)
        retry = Retry(breaker, attempts=4, first_wait=1.0, longest_wait=20.0)
        long = Provider(HintedError(15.0), HintedError(20.0), HintedError(7.5), "answer", tick=now)
        short = Provider(HintedError(0.1), HintedError(0.0), HintedError(-4.0), "answer", tick=now)
        for provider in (long, short):
            assert await retry.async_call(provider.ask_later) == "answer"
        return waits(long), waits(short)

    long, short = run_virtual(main)

    assert long == pytest.approx([15.0, 20.0, 7.5])
    assert [low <= wait <= 2 * low for wait, low in zip(short, (0.5, 1.0, 2.0), strict=True)] == [True] * 3


@in_both_kinds
async def test_a_wait_that_is_too_long_is_not_waited_for(kind: str) -> None:
    """The call fails at once, and counts as one failure with that wait."""
    breaker = CircuitBreaker(2, 1.0)
    provider = Provider(HintedError(20.001), "never")

    assert await came(Retry(breaker, first_wait=1.0, longest_wait=20.0), kind, provider) is HintedError

    assert (provider.calls, breaker.failures) == (1, 1)
    assert breaker.explain().last_failures[0].retry_after == 20.001


def test_a_judges_wait_is_kept_to() -> None:
    """As an exception's; of a result, too."""

    async def main() -> list[float]:
        breaker = CircuitBreaker(
            clock=now,
            judge_error=lambda _: Judgement("throttled", retry_after=5.0),
            judge_result=lambda value: Judgement("failure", retry_after=6.0) if value == "bad" else None,
        )
        provider = Provider(DownError(), "bad", "answer", tick=now)
        assert await Retry(breaker).async_call(provider.ask_later) == "answer"
        return waits(provider)

    assert run_virtual(main) == pytest.approx([5.0, 6.0])


def test_a_thousand_attempts_do_not_overflow() -> None:
    """The backoff stays finite."""

    async def main() -> tuple[int, float]:
        provider = Provider(DownError(), tick=now)
        with pytest.raises(DownError):
            await Retry(CircuitBreaker(clock=now), attempts=1200).async_call(provider.ask_later)
        return provider.calls, max(waits(provider))

    calls, longest = run_virtual(main)

    assert calls == 1200
    assert 10.0 < longest <= 20.0 + 1e-6


# Cancellations and interruptions.


@pytest.mark.parametrize("when", ["attempt", "wait"])
def test_a_cancelled_retry_counts_as_nothing(when: str) -> None:
    """During an attempt and during a wait; nobody is left waiting."""

    async def main() -> tuple[str, int, bool]:
        breaker = CircuitBreaker(1, clock=now)

        async def ask() -> None:
            if when == "attempt":
                await asyncio.sleep(1000.0)
            raise DownError

        task = asyncio.create_task(Retry(breaker, first_wait=10.0).async_call(ask))
        await asyncio.sleep(3.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return breaker.state, breaker.failures, bool(breaker._circuit.waiters)

    assert run_virtual(main) == ("closed", 0, False)


async def test_a_cancelled_probe_gives_its_place_back(clock: Clock) -> None:
    """The circuit stays half-open, and the next call is the probe."""
    breaker = half_opened(clock)
    task = asyncio.create_task(quick(breaker).async_call(asyncio.Event().wait))
    await asyncio.sleep(0)

    task.cancel()
    await asyncio.wait([task])

    assert breaker.state == "half_open"
    assert quick(breaker).call(fine) == "fine"


def test_an_interrupted_retry_counts_as_nothing(clock: Clock) -> None:
    """Ctrl-C in an attempt is not tried again."""
    breaker = half_opened(clock)
    provider = Provider(KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        quick(breaker).call(provider.ask)

    assert (provider.calls, breaker.state) == (1, "half_open")
    assert breaker.acquire().is_probe


# Mistakes.


async def test_the_wrong_kind_of_function_is_told(clock: Clock) -> None:
    """A TypeError that names the way out; it counts as nothing."""
    breaker = half_opened(clock)

    for _ in range(3):
        with pytest.raises(TypeError, match=r"use async_call\(\)"):
            quick(breaker).call(fine_later)  # type: ignore[unused-coroutine]
        with pytest.raises(TypeError, match=r"use call\(\)"):
            await quick(breaker).async_call(fine)  # type: ignore[arg-type]

    assert breaker.state == "half_open"
    assert await quick(breaker).async_call(fine_later) == "fine"


async def test_a_type_error_of_the_function_is_an_error_like_others() -> None:
    """It is not taken for the mistake above."""
    breaker = CircuitBreaker(9)

    assert await both(quick(breaker), TypeError("of its own")) == [(TypeError, 3)] * 2
    assert breaker.failures == 2


@pytest.mark.parametrize("judge", ["judge_error", "count_error", "judge_result"])
@in_both_kinds
async def test_a_judge_that_raises_counts_as_nothing(judge: str, kind: str) -> None:
    """As without retries: its error reaches the caller, and the circuit stays as it was."""

    def broken(value: object) -> Any:
        if isinstance(value, LookupError):
            return "failure" if judge == "judge_error" else True
        raise LookupError("cannot judge")

    breaker = CircuitBreaker(5, **{judge: broken})  # type: ignore[arg-type]
    provider = Provider("answer" if judge == "judge_result" else DownError())

    assert await came(quick(breaker), kind, provider) is LookupError

    assert (provider.calls, breaker.state, breaker.failures) == (1, "closed", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "attempts is 0, must be a whole number of at least 1"),
        ({"attempts": 2.0}, "attempts is 2.0, must be a whole number of at least 1"),
        ({"attempts": True}, "attempts is True, must be a whole number of at least 1"),
        ({"first_wait": 0}, "first_wait is 0, must be a finite number of seconds above 0"),
        ({"first_wait": -1.0}, "first_wait is -1.0, must be a finite number of seconds above 0"),
        ({"first_wait": math.nan}, "first_wait is nan, must be a finite number of seconds above 0"),
        ({"first_wait": "1"}, "first_wait is '1', must be a finite number of seconds above 0"),
        ({"longest_wait": 0.4}, "longest_wait is 0.4, must be a finite number of seconds, at least first_wait (0.5)"),
        ({"longest_wait": math.inf}, "longest_wait is inf, must be a finite number of seconds"),
        ({"longest_wait": None}, "longest_wait is None, must be a finite number of seconds"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, Any], message: str) -> None:
    """With the value and the range, when it is made."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        Retry(CircuitBreaker(), **options)

    assert str(caught.value).startswith(message)


# Shared.


def test_many_share_one_retry() -> None:
    """Threads and tasks at once: each has its attempts, and each exhausted call counts once."""
    breaker = CircuitBreaker(10**6)
    retry = quick(breaker, attempts=2)
    attempts: list[int] = []

    def ask() -> None:
        attempts.append(1)
        raise DownError

    async def ask_later() -> None:
        ask()

    def thread() -> None:
        for _ in range(20):
            with pytest.raises(DownError):
                retry.call(ask)

    async def tasks() -> None:
        results = await asyncio.gather(*(retry.async_call(ask_later) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(result, DownError) for result in results)

    run_threads(thread, thread, lambda: asyncio.run(tasks()), lambda: asyncio.run(tasks()))

    assert (breaker.failures, len(attempts)) == (80, 160)


def test_a_retry_inside_a_plain_call_counts_once_for_each_circuit() -> None:
    """Layers: retries inside, another circuit around."""
    inner, outer = CircuitBreaker(5), CircuitBreaker(5)

    with pytest.raises(DownError):
        outer.call(quick(inner).call, down)

    assert (inner.failures, outer.failures) == (1, 1)


def test_the_threads_of_a_pool_wake_together(clock: Clock) -> None:
    """Eight sleepers, one opening."""
    breaker = CircuitBreaker(1, clock=clock)
    retry = Retry(breaker, first_wait=300.0, longest_wait=300.0)
    asleep = threading.Semaphore(0)

    def ask() -> None:
        asleep.release()
        raise DownError

    def work() -> None:
        with pytest.raises(DownError):
            retry.call(ask)

    def other() -> None:
        for _ in range(8):
            assert asleep.acquire(timeout=PATIENCE)
        trip(breaker)

    run_threads(other, *[work] * 8)

    assert not breaker._circuit.waiters
