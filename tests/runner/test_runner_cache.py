"""Answers from a cache, and rows with equal requests, in whole runs under virtual time."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from runner_story import Collector, Prompts, Story

from llmbatch.core.events import CallEnded, CallSent, RowFinished
from llmbatch.core.ports import Provider, Source
from llmbatch.inputs.iterable import IterableSource
from llmbatch.inputs.source import open_source
from llmbatch.providers.cache import CachingProvider
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.pools import make_providers
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual

Send = Callable[..., Story]


@pytest.fixture
def send(tmp_path: Path) -> Send:
    """Send rows with a cache in the test's folder."""

    def run(
        rows: Iterable[object],
        *phases: Phase,
        file: Path | None = None,
        fallback: Sequence[str] = (),
        model: str = "m",
        base_url: str | None = "http://127.0.0.1:1/v1",
        **options: Any,
    ) -> Story:
        collector = Collector()
        simulated = SimulatedProvider(Scenario("test", phases, "for a test"), seed=1, latency=0.4)
        transport = VirtualTransport(simulated, keep_log=True)

        async def main() -> Story:
            environ = {"OPENAI_API_KEY": "sk-o", "MISTRAL_API_KEY": "m"}
            settings = ProviderSettings(model=model, base_url=base_url, environ=environ)
            inner = make_providers(settings, lambda of: HttpProvider(of, transport), fallback=fallback, pools={})
            provider: Provider = CachingProvider(
                inner, str(tmp_path / "answers.db"), require_finish=options.get("require_finish", False)
            )
            source: Source = IterableSource(rows) if file is None else open_source(file)
            engine = Engine(provider, source, collector, RunOptions(**({"seed": 1} | options)), observers=[collector])
            loop = asyncio.get_running_loop()
            started = loop.time()
            ending = await engine.run()
            deferred = engine.deferred()
            await provider.aclose()
            await source.aclose()
            return Story(
                *(ending, collector.results, deferred, collector.events, transport.log),
                *(loop.time() - started, 0, 0, collector.finished_at),
            )

        story = run_virtual(main, limit=100_000.0)
        ends = Counter(result.number for result in story.results)
        assert max(ends.values(), default=1) == 1, "a row ended twice"
        return story

    return run


def calls(story: Story) -> int:
    return len([event for event in story.of(CallSent) if event.row])


def same(count: int, text: str = "the same", **fields: object) -> list[object]:
    return [{"prompt": text, **fields} for _ in range(count)]


def test_a_second_run_costs_no_call_even_in_an_outage(send: Send, prompts: Prompts) -> None:
    """Each line says that it is cached; nothing is known of the route by it."""
    first = send(prompts(50))
    second = send(prompts(50), Phase(math.inf, "down"))

    assert first.statuses == second.statuses == {"success": 50}
    assert (calls(first), calls(second), second.log) == (50, 0, [])
    assert not any(result.cached for result in first.results)
    answers = {result.number: (result.text, result.usage, result.request_id) for result in first.results}
    assert {result.number: (result.text, result.usage, result.request_id) for result in second.results} == answers
    assert all((result.cached, result.attempts, result.cost_usd) == (True, 0, 0.0) for result in second.results)
    assert all(event.is_cached for event in second.of(RowFinished))


def test_equal_rows_of_one_run_cost_one_call(send: Send) -> None:
    """Those that waited for the answer are cached too."""
    story = send(same(500) + same(500, "another"))

    assert story.statuses == {"success": 1000}
    assert calls(story) == 2
    assert Counter(result.cached for result in story.results) == {False: 2, True: 998}
    assert story.seconds < 3


def test_rows_that_differ_in_anything_are_sent_each(send: Send) -> None:
    """Model, parameters, prompt."""
    story = send(same(2) + same(2, temperature=0.5) + same(2, model="other") + same(2, "else"))

    assert calls(story) == 4


def test_cached_rows_go_out_while_the_circuit_is_open(send: Send, prompts: Prompts) -> None:
    """Rows that are known do not wait for the provider; the others are parked."""
    send(prompts(200)[100:])
    story = send(prompts(200), Phase(600, "down"))

    known = [at for number, at in story.finished_at.items() if number > 100]
    assert story.statuses == {"success": 200}
    assert max(known) < 60 < min(at for number, at in story.finished_at.items() if number <= 100)


def test_a_leader_that_fails_leaves_the_next_row_its_own_attempts(send: Send, prompts: Prompts) -> None:
    """Failures are never shared or stored: each row that always fails is tried by itself."""
    story = send([*prompts(100), *same(3, "bad [sim:400]")])
    again = send(same(1, "bad [sim:400]"))

    assert story.statuses == {"success": 100, "failed": 3}
    assert all(result.attempts >= 1 for result in story.results if result.status == "failed")
    assert calls(again) >= 1


def test_equal_bad_rows_were_judged_one_after_another(send: Send, prompts: Prompts) -> None:
    """Once two of them have failed, the others wait for none: these took 277 s."""
    story = send([*prompts(300), *same(60, "bad [sim:400]")])

    assert story.statuses == {"success": 300, "failed": 60}
    assert story.seconds < 40


def test_followers_of_a_parked_row_wait_with_it(send: Send) -> None:
    """And are deferred with it when the run stops."""
    story = send(same(30), Phase(math.inf, "down"), on_outage="defer")

    assert (story.ending.exit_code, story.statuses) == (75, {})
    assert [result.number for result in story.deferred] == list(range(1, 31))
    assert all(result.retry_after and result.retry_after > 0 for result in story.deferred)


@pytest.mark.slow  # many calls in virtual time
def test_any_number_of_followers_fail_in_an_outage_that_nobody_waits_for(send: Send) -> None:
    """``--on-outage fail``: each has its line."""
    story = send(same(3000), Phase(math.inf, "down"), on_outage="fail")

    assert (story.ending.exit_code, story.statuses) == (0, {"failed": 3000})


def test_followers_have_the_answer_once_the_outage_is_over(send: Send) -> None:
    """One call that succeeds is enough."""
    story = send(same(300), Phase(30, "down"))

    assert story.statuses == {"success": 300}
    assert sum(status == 200 for _, status in story.log) <= 3


@pytest.mark.slow  # tens of thousands of rows
@pytest.mark.parametrize("rows", [8_000, pytest.param(30_000, marks=pytest.mark.long)])
def test_any_number_of_equal_rows_takes_bounded_memory(send: Send, tmp_path: Path, rows: int) -> None:
    """Rows beyond the followers that are kept are read again, once the answer is there."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "the same"}\n' * rows + '{"prompt": "another"}\n' * rows)
    story = send((), file=path, concurrency=4)

    assert story.statuses == {"success": 2 * rows}
    assert calls(story) == 2


def test_a_fallbacks_answer_serves_the_rows_that_follow(send: Send) -> None:
    """Their lines name the route that answered."""
    phases = (Phase(math.inf, "down"),)
    rows = same(50)
    story = send(
        rows, *phases, model="openai/m", base_url=None, fallback=("mistral/second",), on_outage="defer", max_attempts=1
    )

    assert story.ending.exit_code == 75  # both are simulated by the one that is down
    assert len(story.deferred) == 50


def test_answers_that_were_cut_are_no_good_ones_with_require_finish(send: Send) -> None:
    """Neither stored nor taken from an earlier run that stored them."""
    rows = same(2, max_tokens=1)
    plain = send(rows)
    story = send(rows, require_finish=True)

    assert (calls(plain), plain.statuses) == (1, {"success": 2})
    assert story.statuses == {"failed": 2}
    assert calls(story) == 2


def test_without_a_cache_equal_rows_are_sent_each(prompts: Prompts, simulate: Callable[..., Story]) -> None:
    """Whoever wants ten samples of a prompt gets ten."""
    story = simulate(same(10))

    assert calls(story) == 10


@pytest.mark.slow  # many calls in virtual time
def test_equal_rows_cost_one_call_also_while_the_first_of_them_moves_to_a_fallback(
    send: Send, prompts: Prompts
) -> None:
    """A row that is read after the opening is sent nowhere while the one before it is on its way."""
    rows = [{"prompt": f"equal {number // 40}" if number % 4 == 0 else f"row {number}"} for number in range(800)]
    story = send(
        *(rows, Phase(1.0), Phase(8.0, "down"), Phase(math.inf, "fine")),
        model="openai/m",
        base_url=None,
        fallback=("mistral/m",),
        concurrency=10,
    )

    flying: set[object] = set()
    for event in story.events:
        if isinstance(event, CallSent | CallEnded) and event.row and not event.probe:
            prompt = rows[event.row - 1]["prompt"]
            assert isinstance(event, CallEnded) or prompt not in flying, event
            flying = flying - {prompt} if isinstance(event, CallEnded) else flying | {prompt}
    assert story.statuses == {"success": len(rows)}


def test_a_row_that_waited_for_another_tenants_answer_is_sent_on_a_route_of_the_run(send: Send) -> None:
    """Though its own was idle meanwhile, and there are more tenants than idle routes are kept."""
    bad = [{"prompt": "bad [sim:500]", "metadata": {"tenant": tenant}} for tenant in ("first", "second")]
    rows = [*bad, *[{"prompt": f"row {number}", "metadata": {"tenant": f"t{number}"}} for number in range(300)]]
    story = send(rows, circuit_key="metadata.tenant", concurrency=4)

    assert story.statuses == {"success": 300, "failed": 2}
    assert {result.number for result in story.failed.values()} == {1, 2}
