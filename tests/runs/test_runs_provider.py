"""Ports: a provider, a source and a sink of one's own, through the public names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmbatch import (
    BatchRunner,
    Event,
    MalformedRowError,
    MissingKeyError,
    Outcome,
    Provider,
    Request,
    Result,
    Route,
    Row,
    StoppedError,
    Usage,
    run_job,
)
from llmbatch.core.events import CallEnded, CallSent
from llmbatch.runner.options import RunOptions

FAST = Route("mine/fast", "account", "mine://fast")


class Mine(Provider):
    """Answers with the prompt; *script* holds other outcomes by row number, used up one by one."""

    def __init__(self, script: dict[int, list[Outcome]] | None = None) -> None:
        self.script = script or {}
        self.sent: list[bytes] = []
        self.closed = 0

    def routes(self, row: Row) -> Sequence[Route]:
        if row.fields["prompt"] == '"keyless"':
            raise MissingKeyError("no key for mine")
        return [FAST]

    def request(self, row: Row, route: Route) -> Request:
        if row.fields["prompt"] == '"bad"':
            raise MalformedRowError("input_not_mine", "mine cannot send this")
        return Request(route, route.base_url, {}, row.fields["prompt"].encode(), "mine", tokens=10)

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:
        await asyncio.sleep(0)
        if row is not None:  # else it is a check, of which a finished row's request may be one
            self.sent.append(request.body)
        outcomes = self.script.get(row.number if row is not None else 0)
        if outcomes:
            return outcomes.pop(0)
        return Outcome("success", status=200, text=request.body.decode(), usage=Usage(3, 2))

    async def aclose(self) -> None:
        self.closed += 1


class Listed:
    """A source over a list, which can be read once."""

    name = "a list"
    can_skip = can_reread = False
    skipped = 0
    fraction = torn_line = None

    def __init__(self, prompts: Sequence[str]) -> None:
        self._prompts = list(prompts)
        self.rows_read = 0
        self.closed = False

    @property
    def exhausted(self) -> bool:
        return self.rows_read >= len(self._prompts)

    def take(self) -> Row | None:
        if self.exhausted:
            return None
        self.rows_read += 1
        text = json.dumps(self._prompts[self.rows_read - 1])
        return Row(self.rows_read, "0" * 16, f'"row-{self.rows_read}"', {"prompt": text})

    def skip(self, row: Row) -> None:
        raise AssertionError

    def rewind(self) -> bool:
        return False

    def finished(self, number: int) -> None: ...

    def keep(self, row: Row) -> bool:
        return False

    def reread(self, row: Row) -> Row:
        raise AssertionError

    async def wait(self) -> None: ...

    async def aclose(self) -> None:
        self.closed = True


class Kept:
    """A sink that keeps results."""

    congested = False

    def __init__(self) -> None:
        self.results: list[Result] = []

    def put(self, result: Result) -> None:
        self.results.append(result)

    async def drained(self) -> None: ...


async def test_run_job_takes_a_source_a_sink_and_a_provider() -> None:
    """One result per row, and what was handed in stays open."""
    source, sink, provider = Listed(["a", "b", "bad", "keyless"]), Kept(), Mine()

    summary = await run_job(source, sink, provider, RunOptions(concurrency=2))

    statuses = {result.number: (result.status, result.error_code) for result in sink.results}
    assert statuses == {
        1: ("success", None),
        2: ("success", None),
        3: ("failed", "input_not_mine"),
        4: ("failed", "no_key"),
    }
    assert (summary.exit_code, summary.success, summary.failed) == (1, 2, 2)
    assert (source.closed, provider.closed) == (False, 0)


async def test_run_job_raises_where_the_provider_refuses_the_account() -> None:
    """Nothing is marked failed: the row comes back as deferred."""
    refused = Outcome("account_refused", scope="key", code="insufficient_quota", message="no credit", hint="pay")
    sink = Kept()

    with pytest.raises(StoppedError, match="no credit"):
        await run_job(Listed(["a"]), sink, Mine({1: [refused]}))

    assert [result.status for result in sink.results] == ["deferred"]


async def test_a_provider_of_ones_own_runs_from_file_to_file(tmp_path: Path) -> None:
    """With resuming, as any other; the provider is not closed."""
    rows, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows.write_text('{"prompt":"a"}\n{"prompt":"b"}\n')
    provider = Mine()
    runner = BatchRunner(provider)

    first = await runner.run(rows, target)
    rows.write_text('{"prompt":"a"}\n{"prompt":"b"}\n{"prompt":"c"}\n')
    second = await runner.run(rows, target)

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert sorted(provider.sent) == [b'"a"', b'"b"', b'"c"']
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert sorted((line["row"], line["model"], line["text"]) for line in lines) == [
        (1, "mine/fast", '"a"'),
        (2, "mine/fast", '"b"'),
        (3, "mine/fast", '"c"'),
    ]
    assert provider.closed == 0


async def test_what_lookup_knows_takes_no_call() -> None:
    """It says nothing about the route, and counts no attempt."""

    class Knowing(Mine):
        def lookup(self, row: Row, request: Request) -> Outcome | None:
            return Outcome("success", text="known") if row.number % 2 else None

    provider = Knowing()

    results = [result async for result in BatchRunner(provider).stream(["a", "b", "c", "d"])]

    assert sorted((result.number, result.text, result.attempts) for result in results) == [
        (1, "known", 0),
        (2, '"b"', 1),
        (3, "known", 0),
        (4, '"d"', 1),
    ]
    assert sorted(provider.sent) == [b'"b"', b'"d"']


async def test_a_follow_up_is_sent_for_the_same_row_and_adds_its_tokens() -> None:
    """An answer that has to be repaired: two calls, one result, with the sum of their tokens."""
    again = Request(FAST, FAST.base_url, {}, b'"again"', "mine", tokens=5)
    first = Outcome("success", text="half", usage=Usage(10, 20), follow_up=again)
    provider = Mine({1: [first]})

    results = [result async for result in BatchRunner(provider).stream(["a", "b"])]

    repaired = next(result for result in results if result.number == 1)
    assert (repaired.status, repaired.text, repaired.usage) == ("success", '"again"', Usage(13, 22))
    assert repaired.attempts == 2
    assert provider.sent.count(b'"again"') == 1
    assert len(results) == 2


@pytest.mark.slow  # waits in real time
async def test_a_follow_up_that_fails_is_sent_again() -> None:
    """Not the first request anew: that one had its answer, and was paid."""
    again = Request(FAST, FAST.base_url, {}, b'"again"', "mine", tokens=5)
    down = Outcome("failure", retry=True, code="http_500", status=500)
    provider = Mine({1: [Outcome("success", text="half", follow_up=again), down]})

    results = [result async for result in BatchRunner(provider, seed=1).stream(["a", *["b"] * 20])]

    assert {result.status for result in results} == {"success"}
    assert (provider.sent.count(b'"a"'), provider.sent.count(b'"again"')) == (1, 2)


async def test_events_tell_which_call_ended() -> None:
    """Each call has a number on its route, the same when it is sent and when it ends."""
    seen: dict[str, list[int]] = {"sent": [], "ended": []}

    class Watching:
        def observe(self, event: Event) -> None:
            if isinstance(event, CallSent):
                seen["sent"].append(event.call)
            elif isinstance(event, CallEnded):
                seen["ended"].append(event.call)

    runner = BatchRunner(Mine(), observers=[Watching()], concurrency=3)
    _ = [result async for result in runner.stream(["a", "b", "c", "d"])]

    assert sorted(seen["sent"]) == sorted(seen["ended"]) == [1, 2, 3, 4]
