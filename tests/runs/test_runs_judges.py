"""`judge_error` and `judge_result`: what a user's own judgement makes of exceptions and results."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from llmbatch import BatchRunner, Judgement, Result, StoppedError, UsageError, judge_llm_error, judge_llm_result
from llmbatch.core.rows import Status
from llmbatch.sim.virtual import run_virtual


class BackendError(Exception):
    """Of the user's own: the runner cannot know that it means the service is down."""


def virtually(call: Callable[[int], Any], count: int, **options: Any) -> tuple[list[Result], float]:
    """The results in order, and the seconds it took in virtual time."""

    async def main() -> tuple[list[Result], float]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        results: list[Result] = await BatchRunner(call, seed=1, concurrency=4, **options).map(range(count))
        return results, loop.time() - started

    return run_virtual(main, limit=100_000.0)


def down_between(begin: float, end: float, error: Exception | None, answer: object = None) -> Callable[[int], Any]:
    """A function that raises *error*, or returns *answer*, during an outage."""
    started: list[float] = []

    async def call(row: int) -> object:
        now = asyncio.get_running_loop().time()
        started.append(now)
        await asyncio.sleep(0.2)
        if begin <= now - started[0] < end:
            if error is not None:
                raise error
            return answer
        return row

    return call


def statuses(results: list[Result]) -> Counter[Status]:
    return Counter(result.status for result in results)


@pytest.mark.slow  # many calls in virtual time
def test_an_exception_of_ones_own_can_mean_an_outage() -> None:
    """Usually it is its row's, which fails; judged a failure it opens the circuit, and no row is lost."""
    usual, _ = virtually(down_between(2, 60, BackendError("down")), 200)
    judged, seconds = virtually(
        down_between(2, 60, BackendError("down")),
        200,
        judge_error=lambda error: "failure" if isinstance(error, BackendError) else None,
    )

    assert statuses(usual)["failed"] > 0
    assert statuses(judged) == {"success": 200}
    assert 60 <= seconds < 80


def test_a_result_can_mean_an_outage() -> None:
    """An error inside a 200: the answer is not taken for one, and the row is sent again."""
    call = down_between(2, 60, None, {"error": "overloaded"})

    def judge(result: object) -> Judgement | None:
        return Judgement("failure", message="overloaded") if isinstance(result, dict) else None

    results, _ = virtually(call, 200, judge_result=judge)

    assert [result.value for result in results] == list(range(200))


def test_a_result_can_be_refused_for_its_row() -> None:
    """Neutral says nothing about the provider: the row fails after its attempts, with its last answer."""

    async def call(row: int) -> dict[str, int]:
        await asyncio.sleep(0.2)
        return {"row": row}

    results, seconds = virtually(
        call, 60, judge_result=lambda result: Judgement("neutral", message="too short") if result["row"] == 30 else None
    )

    assert statuses(results) == {"success": 59, "failed": 1}
    bad = results[30]
    assert (bad.attempts, bad.error, bad.value) == (3, {"code": "judged_neutral", "message": "too short"}, None)
    assert bad.json() == {"row": 30}
    assert seconds < 15


def test_a_judge_can_name_a_wait() -> None:
    """Throttled: nothing is sent before it is over, and no attempt counts."""
    calls: list[float] = []

    async def call(row: int) -> int:
        calls.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.2)
        if 5 <= len(calls) < 9:
            raise BackendError("slow down")
        return row

    results, _ = virtually(call, 40, judge_error=lambda error: Judgement("throttled", retry_after=30.0), max_attempts=1)

    assert statuses(results) == {"success": 40}
    assert max(later - earlier for earlier, later in itertools.pairwise(calls)) >= 29.0


@pytest.mark.parametrize("wait", [None, 5.0, 3600.0])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_judge_that_always_says_throttled_kept_the_run_for_ever(wait: float | None, ordered: bool) -> None:
    """A function that was never answered is given up as if it was unreachable; waits that are named are waited."""
    waits: list[float] = []

    async def call(row: int) -> int:
        waits.append(asyncio.get_running_loop().time())
        raise BackendError("slow down")

    async def main() -> tuple[Counter[str], int, str, float]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        runner = BatchRunner(call, seed=1, judge_error=lambda error: Judgement("throttled", retry_after=wait))
        async with runner.stream(range(500), ordered=ordered) as stream:
            statuses = Counter([str(result.status) async for result in stream])
        return statuses, stream.summary.exit_code, stream.summary.stopped_reason or "", loop.time() - started

    statuses, exit_code, reason, seconds = run_virtual(main, limit=100_000.0)

    assert (set(statuses), exit_code) == ({"deferred"}, 75)
    assert reason == "call has never answered: it was throttled each time (slow down)"
    assert seconds == pytest.approx(600.0 if wait != 3600.0 else 36_000.0, rel=0.1)
    assert wait is None or min(later - earlier for earlier, later in itertools.pairwise(sorted(set(waits)))) >= wait


@pytest.mark.slow  # many calls in virtual time
def test_throttling_after_answers_is_waited_for() -> None:
    """However long: as a provider's 429. ``max_outage`` bounds it."""
    call = down_between(2, 5_000, BackendError("slow down"))

    kept, seconds = virtually(call, 200, judge_error=lambda error: "throttled")
    endless = down_between(2, 1e9, BackendError("slow down"))
    bounded, at = virtually(endless, 200, judge_error=lambda error: "throttled", max_outage=300)

    assert statuses(kept) == {"success": 200}
    assert seconds >= 5_000
    assert set(statuses(bounded)) == {"success", "deferred"}
    assert at < 400


def test_a_judge_can_stop_the_run() -> None:
    """Exhausted: no money; the rows that wait are not failed."""
    call = down_between(2, 1e9, BackendError("credit is used up"))

    with pytest.raises(StoppedError, match="credit is used up") as caught:
        virtually(call, 200, judge_error=lambda error: "exhausted")

    assert {result.status for result in caught.value.results} == {"success", "deferred"}


async def test_a_judge_that_raises_loses_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    """The usual classification holds, and the exception is logged once."""

    async def call(row: int) -> int:
        return row

    def judge(result: object) -> Judgement:
        raise KeyError("choices")

    with caplog.at_level(logging.WARNING, logger="llmbatch"):
        results = await BatchRunner(call, judge_result=judge).map(range(10))

    assert [result.value for result in results] == list(range(10))
    [record] = [record for record in caplog.records if record.name == "llmbatch.judges"]
    assert "judge_result raised" in record.getMessage()


def test_the_judge_of_a_breaker_changes_nothing() -> None:
    """Exceptions are classified by the same rules without it, in more detail."""

    class RefusedError(Exception):
        status_code = 400
        body = {"error": {"code": "context_length_exceeded", "message": "too long"}}  # noqa: RUF012

    async def call(row: int) -> int:
        await asyncio.sleep(0.2)
        if row == 20:
            raise RefusedError("too long")
        return row

    with_judge, _ = virtually(call, 40, judge_error=judge_llm_error)
    without, _ = virtually(call, 40)

    assert with_judge == without
    assert (with_judge[20].error_code, with_judge[20].attempts) == ("context_length_exceeded", 1)


def test_the_error_inside_a_200_is_found() -> None:
    """An overloaded provider parks rows; an error about the request fails its row at once, the body in its line."""
    too_long = {"error": {"message": "This model's maximum context length is 4096", "code": "context_length_exceeded"}}
    overloaded = {"error": {"message": "The model is overloaded", "type": "server_error", "code": 503}}
    call = down_between(2, 60, None, overloaded)

    async def ask(row: int) -> object:
        return too_long if row == 20 else await call(row)

    results, _ = virtually(ask, 200, judge_result=judge_llm_result)

    assert statuses(results) == {"success": 199, "failed": 1}
    bad = results[20]
    assert (bad.error_code, bad.attempts) == ("context_length_exceeded", 1)
    assert bad.json() == too_long


def test_a_judge_can_take_an_answer_that_would_fail() -> None:
    """An SDK's object without choices is an error to llmbatch; the user knows better."""
    empty = ChatCompletion(id="c", object="chat.completion", created=1, model="m", choices=[])

    async def call(row: int) -> ChatCompletion:
        await asyncio.sleep(0.2)
        return empty

    results, _ = virtually(call, 20, judge_result=lambda result: "success")

    assert statuses(results) == {"success": 20}
    assert results[0].value is empty


@pytest.mark.parametrize("name", ["judge_error", "judge_result"])
def test_a_judge_is_for_functions(name: str) -> None:
    """A provider's answers are classified by llmbatch's own rules; and a judge is a function."""

    async def call(row: int) -> int:
        return row

    judge: Any = {name: lambda subject: None}
    with pytest.raises(UsageError, match=f"{name} judges the calls of a function"):
        BatchRunner("openai/gpt-5-mini", **judge)
    wrong: Any = {name: "failure"}
    with pytest.raises(UsageError, match=f"{name} is 'failure', not a function"):
        BatchRunner(call, **wrong)
