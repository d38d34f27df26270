"""Every way through a breaker is the same circuit: the fast path without the lock, and those with a permit.

One random story of calls, nested calls and an operator's doings is played on breakers that differ in nothing but the
path that their calls take, in every form in which a call can be written; all must look the same after every step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, HintedError, RefusedError
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.breaker import BreakerPolicy, CircuitBreaker, CircuitOpenError, Explanation, Judgement, Retry

Body = Callable[[], Coroutine[Any, Any, str]]
Step = tuple[str, Any]


class SpentError(Exception):
    """The account is empty."""


ENDS: dict[str, Callable[[], BaseException | None]] = {
    "good": lambda: None,
    "failed": lambda: DownError("down"),
    "hinted": lambda: HintedError(90.0),
    "refused": lambda: RefusedError("bad request"),
    "throttled": lambda: TimeoutError("slow down"),
    "spent": lambda: SpentError("no credit"),
    "fine after all": lambda: LookupError("not found"),
    "another circuit": lambda: CircuitOpenError(5.0, "another"),
    "cancelled": asyncio.CancelledError,
}


def judge(error: Exception) -> Any:
    return {
        RefusedError: "neutral",
        TimeoutError: Judgement("throttled", retry_after=7.0),
        SpentError: Judgement("exhausted", status=402),
        LookupError: "success",
    }.get(type(error))


# The paths.

NEVER = 10**6
PATHS: dict[str, dict[str, Any]] = {
    "no lock": {},
    "calls are told": {},
    "calls are noted": {"failure_rate": 1.0, "rate_window": NEVER, "minimum_calls": NEVER},
    "results are judged": {"judge_result": lambda _: None},
    "calls are timed": {"stall_timeout": 1e9},
}


def on_path(path: str, policy: BreakerPolicy, clock: Clock) -> CircuitBreaker:
    options = dict(PATHS[path])
    if policy.has_window:  # it has rates of its own, which must hold on every path
        options = {name: value for name, value in options.items() if name in ("judge_result", "stall_timeout")}
    judged = {"judge_result": options.pop("judge_result", None)}
    breaker = CircuitBreaker(policy=policy.replace(**options), clock=clock, judge_error=judge, **judged)
    if path == "calls are told":
        breaker.add_listener(lambda _: None, calls=True)
    return breaker


# The forms.


def finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What *coroutine*, which never suspends, comes to."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it suspended")


async def in_block(breaker: CircuitBreaker, body: Body) -> str:
    with breaker.acquire():
        return await body()


async def in_async_block(breaker: CircuitBreaker, body: Body) -> str:
    async with breaker.acquire():
        return await body()


async def by_hand(breaker: CircuitBreaker, body: Body) -> str:
    permit = breaker.acquire()
    try:
        answer = await body()
    except Exception as error:
        permit.settle(breaker.judge(error), error=error)
        raise
    except BaseException:
        permit.release()
        raise
    permit.settle(breaker.judge_result(answer))
    return answer


async def called(breaker: CircuitBreaker, body: Body) -> str:
    answer: str = breaker.call(lambda: finished(body()))
    return answer


async def decorated(breaker: CircuitBreaker, body: Body) -> str:
    return await breaker(body)()


async def with_fallback(breaker: CircuitBreaker, body: Body) -> str:
    def step_in(error: Exception) -> str:
        raise error

    return await breaker.async_call(body, fallback=step_in)


async def retried(breaker: CircuitBreaker, body: Body) -> str:
    return await Retry(breaker, attempts=1).async_call(body)


FORMS: dict[str, Callable[[CircuitBreaker, Body], Awaitable[str]]] = {
    "call": called,
    "async_call": lambda breaker, body: breaker.async_call(body),
    "block": in_block,
    "async block": in_async_block,
    "permit": by_hand,
    "decorator": decorated,
    "fallback": with_fallback,
    "retry": retried,
}


# The stories.


class Look(NamedTuple):
    """How a breaker looks from outside."""

    retry_after: float | None
    explanation: Explanation
    shown: str


async def play(
    breaker: CircuitBreaker, clock: Clock, form: Callable[..., Awaitable[str]], steps: list[Step], seen: list[object]
) -> None:
    """Take *steps*, and write down in *seen* how each ends and how the breaker looks after it."""
    for what, value in steps:
        if what == "call":
            inner, end = value
            seen.append(await one_call(breaker, clock, form, inner, end, seen))
        elif what == "advance":
            clock.advance(value)
        elif what == "hold":
            breaker.hold(value)
        elif what == "force_open":
            breaker.force_open(value)
        else:
            getattr(breaker, what)()
        seen.append(Look(breaker.retry_after, breaker.explain(), repr(breaker)))


async def one_call(
    breaker: CircuitBreaker,
    clock: Clock,
    form: Callable[..., Awaitable[str]],
    inner: list[Step],
    end: str,
    seen: list[object],
) -> object:
    async def body() -> str:
        await play(breaker, clock, form, inner, seen)
        clock.advance(0.25)
        error = ENDS[end]()
        if error is not None:
            raise error
        return "answer"

    try:
        return await form(breaker, body)
    except CircuitOpenError as error:
        return error.retry_after, error.name, error.reason
    except (Exception, asyncio.CancelledError) as error:
        return type(error)


ends = st.sampled_from(["good", "failed", *ENDS])
operations: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("advance"), st.sampled_from([0.5, 19.75, 20.0, 60.0, 61.0])),
    st.tuples(st.just("advance"), st.sampled_from([20.0, 60.0])),
    st.tuples(st.just("hold"), st.sampled_from([0.0, 30.0, 100.0])),
    st.tuples(st.sampled_from(["reset", "disable"]), st.none()),
    st.tuples(st.just("force_open"), st.sampled_from(["a reason", "another"])),
)
calls: st.SearchStrategy[Step] = st.recursive(
    st.tuples(st.just("call"), st.tuples(st.just([]), ends)),
    lambda inner: st.tuples(
        st.just("call"), st.tuples(st.lists(st.one_of(inner, inner, operations), min_size=1, max_size=4), ends)
    ),
    max_leaves=8,
)
plain_calls: st.SearchStrategy[list[Step]] = st.lists(st.sampled_from(["good", "failed"]), min_size=2, max_size=6).map(
    lambda ends: [("call", ([], end)) for end in ends]
)
stories = st.lists(
    st.one_of(plain_calls, plain_calls, calls.map(lambda step: [step]), operations.map(lambda step: [step])),
    min_size=1,
    max_size=8,
).map(lambda parts: [step for part in parts for step in part])
policies = st.sampled_from(
    [
        BreakerPolicy(failure_threshold=1, recovery_timeout=60.0),
        BreakerPolicy(failure_threshold=2, recovery_timeout=60.0, first_recovery_timeout=20.0, success_threshold=2),
        BreakerPolicy(failure_threshold=2, recovery_timeout=20.0, probes=2, failed_probes=2, neutral_probes=1),
        BreakerPolicy(failure_threshold=None, failure_rate=0.5, minimum_calls=3, rate_window=5, recovery_timeout=20.0),
        BreakerPolicy(failure_threshold=3, failure_rate=0.4, minimum_calls=2, rate_window=10, recovery_timeout=20.0),
        BreakerPolicy(failure_threshold=3, failure_rate=0.4, minimum_calls=3, rate_seconds=30.0, recovery_timeout=20.0),
    ]
)


def told(policy: BreakerPolicy, path: str, form: str, story: list[Step]) -> list[object]:
    clock = Clock()
    seen: list[object] = []
    finished(play(on_path(path, policy, clock), clock, FORMS[form], story, seen))
    if policy.has_window:
        return seen
    # The window that a path keeps for its own sake is not the policy's.
    return [
        look._replace(explanation=replace(look.explanation, window=None)) if isinstance(look, Look) else look
        for look in seen
    ]


@pytest.mark.slow
@given(policy=policies, story=stories)
@settings(max_examples=150)
def test_all_paths_and_forms_tell_the_same_story(policy: BreakerPolicy, story: list[Step]) -> None:
    """Results, states, waits and explanations after each step. Slow, for each story is played forty times."""
    plain = told(policy, "no lock", "call", story)

    for path in PATHS:
        for form in FORMS:
            assert told(policy, path, form, story) == plain, f"{form} where {path}"


def test_the_stories_reach_every_state() -> None:
    """A story by hand, so that nobody has to trust the random ones: stale answers, probes, an operator."""
    story: list[Step] = [
        ("call", ([("call", ([], "failed")), ("call", ([], "failed"))], "good")),
        ("advance", 20.0),
        ("call", ([("call", ([], "good"))], "good")),
        ("call", ([], "hinted")),
        ("advance", 90.0),
        ("call", ([], "good")),
        ("call", ([], "good")),
        ("force_open", "a reason"),
        ("call", ([], "good")),
        ("reset", None),
    ]
    policy = BreakerPolicy(failure_threshold=2, recovery_timeout=60.0, first_recovery_timeout=20.0, success_threshold=2)

    plain = told(policy, "no lock", "call", story)

    states = [look.explanation.state for look in plain if isinstance(look, Look)]
    assert states == [
        "closed",
        "open",
        "open",
        "half_open",
        "half_open",
        "half_open",
        "open",
        "half_open",
        "half_open",
        "closed",
        "open",
        "open",
        "closed",
    ]
    assert all(told(policy, path, form, story) == plain for path in PATHS for form in FORMS)


@pytest.mark.parametrize(
    ("rate", "ends", "states"),
    [
        (0.5, "good good failed failed", "closed closed closed open"),
        (0.5, "good good good failed failed good failed", "closed closed closed closed closed closed open"),
        (
            0.9,
            "good good good good reset failed failed failed",
            "closed closed closed closed closed closed closed open",
        ),
        (
            0.9,
            "failed failed disable good good reset failed failed",
            "closed closed closed closed closed closed closed closed",
        ),
        (0.6, "good refused refused failed failed", "closed closed closed closed open"),
    ],
)
def test_rates_are_the_same_on_every_path(rate: float, ends: str, states: str) -> None:
    """Good calls, counted without the lock, are in the window when a failure looks at it, and in no later one."""
    policy = BreakerPolicy(failure_threshold=None, failure_rate=rate, minimum_calls=3, rate_window=5)
    story: list[Step] = [("call", ([], end)) if end in ENDS else (end, None) for end in ends.split()]

    for path in PATHS:
        for form in FORMS:
            seen = [look.explanation.state for look in told(policy, path, form, story) if isinstance(look, Look)]
            assert seen == states.split(), f"{form} where {path}"
