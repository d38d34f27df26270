"""Whole runs with a schema in virtual time: repairs, outages, fallbacks, the cache, and what a row's line says."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmbatch.core.calls import Reply, Request
from llmbatch.core.events import CallEnded, CallSent, CircuitChanged, Event, RowFinished, RowParked
from llmbatch.core.ports import Provider
from llmbatch.core.rows import Result, encode_line
from llmbatch.inputs.iterable import IterableSource
from llmbatch.providers.cache import CachingProvider
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.pools import make_providers
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.providers.structured.checked import CheckedProvider
from llmbatch.providers.structured.load import load_schema
from llmbatch.report.stats import RunStats
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.runner.run_outcome import RunOutcome
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.row_fault import RowBehavior, RowFault
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}, "score": {"type": "integer"}},
    "required": ["label", "score"],
    "additionalProperties": False,
}


class Story:
    """What became of a run."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.events: list[Event] = []
        self.bodies: list[dict[str, Any]] = []
        self.stats = RunStats()
        self.ending: RunOutcome

    congested = False

    def put(self, result: Result) -> None:
        self.results.append(result)

    async def drained(self) -> None:
        pass

    def observe(self, event: Event) -> None:
        self.events.append(event)
        self.stats.observe(event)

    def good_answers(self) -> Counter[int]:
        """Calls of each row that were answered."""
        ended = (event for event in self.events if isinstance(event, CallEnded) and event.row)
        return Counter(event.row for event in ended if event.verdict == "success")

    def calls(self) -> int:
        return sum(isinstance(event, CallSent) and event.row > 0 for event in self.events)

    def codes(self) -> Counter[str | None]:
        return Counter(result.error_code for result in self.results)

    def moved(self) -> bool:
        """Whether a circuit has opened."""
        return any(isinstance(event, CircuitChanged) for event in self.events)


class Recording(VirtualTransport):
    """Keeps the bodies of requests. Those that are *broken* get a 500."""

    def __init__(
        self, simulated: SimulatedProvider, story: Story, broken: Callable[[dict[str, Any]], bool] | None
    ) -> None:
        super().__init__(simulated)
        self._story = story
        self._broken = broken

    async def post(self, request: Request, *, timeout: float) -> Any:
        body = json.loads(request.body)
        self._story.bodies.append(body)
        if self._broken is not None and self._broken(body):
            await asyncio.sleep(0.4)
            return Reply(500, {}, b'{"error":{"message":"broken"}}')
        return await super().post(request, timeout=timeout)


Send = Callable[..., Story]


@pytest.fixture
def send(tmp_path: Path) -> Send:
    """Send rows to a simulated provider whose rows have one behavior, with a schema."""

    def run(
        rows: Sequence[object],
        *phases: Phase,
        behavior: RowBehavior | None = None,
        schema: object = SCHEMA,
        repair: int = 1,
        lenient: bool = False,
        fallback: Sequence[str] = (),
        models: tuple[str, ...] = (),
        cached: bool = False,
        model: str = "openai/m",
        broken: Callable[[dict[str, Any]], bool] | None = None,
        **options: Any,
    ) -> Story:
        story = Story()
        faults = () if behavior is None else (RowFault(behavior, share=1.0, statuses=(503,)),)
        scenario = Scenario("test", phases, "for a test", rows=faults, models=models)
        transport = Recording(SimulatedProvider(scenario, seed=1, latency=0.4), story, broken)

        async def main() -> Story:
            loaded = None if schema is None else load_schema(schema)
            keys = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
            settings = ProviderSettings(model=model, environ=keys, schema=loaded)
            provider: Provider = make_providers(
                settings, lambda of: HttpProvider(of, transport), fallback=fallback, pools={}
            )
            admit = None
            if loaded is not None:
                checked = CheckedProvider(provider, loaded, lenient=lenient, repair=repair)
                provider, admit = checked, checked.admit
            if cached:
                provider = CachingProvider(provider, str(tmp_path / "answers.db"), require_finish=False, admit=admit)
            source = IterableSource(rows)
            engine = Engine(provider, source, story, RunOptions(**({"seed": 1} | options)), observers=[story])
            story.ending = await engine.run()
            await provider.aclose()
            await source.aclose()
            return story

        run_virtual(main, limit=100_000.0)
        assert max(Counter(result.number for result in story.results).values(), default=1) == 1
        return story

    return run


def prompts(count: int) -> list[object]:
    return [{"prompt": f"row {number}"} for number in range(1, count + 1)]


def test_answers_that_fit_are_parsed_and_cost_one_call(send: Send) -> None:
    """The line has the answer's JSON behind its other members."""
    story = send(prompts(50))

    assert story.codes() == {None: 50}
    assert story.calls() == 50
    for result in story.results:
        assert result.parsed == json.loads(result.text or "")
        line = json.loads(encode_line(result))
        assert line["parsed"] == result.parsed
        assert list(line)[-2:] == ["parsed", "metadata"]


def test_an_answer_that_does_not_fit_is_asked_for_again(send: Send) -> None:
    """Attempts and tokens add up; the provider is well."""
    story = send(prompts(100), behavior="misfit_once")

    assert story.codes() == {None: 100}
    assert all(result.attempts == 2 and result.parsed for result in story.results)
    assert story.calls() == 200
    first, second = story.bodies[0], next(body for body in story.bodies if len(body["messages"]) > 1)
    assert second["response_format"] == first["response_format"]
    assert [turn["role"] for turn in second["messages"]] == ["user", "assistant", "user"]
    assert '- "label" is a required property' in second["messages"][2]["content"]
    used = [result.usage for result in story.results if result.usage is not None]
    assert sum(usage.input_tokens for usage in used) == story.stats.snapshot().input_tokens
    assert not story.moved()
    snapshot = story.stats.snapshot()
    assert (snapshot.repaired, snapshot.repairs, snapshot.retries) == (100, 100, 0)


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("repair", [0, 1, 3])
def test_what_never_fits_fails_after_its_repairs(send: Send, repair: int) -> None:
    """With the fault, and the last answer; however many do, that is no outage."""
    story = send(prompts(300), behavior="misfit", repair=repair)

    assert story.codes() == {"schema_mismatch": 300}
    assert story.calls() == 300 * (repair + 1)
    for result in story.results:
        assert result.attempts == repair + 1
        assert result.error_message == '"label" is a required property'
        assert result.text
        assert result.body
        assert result.parsed is None
        assert "parsed" not in json.loads(encode_line(result))
    assert not story.moved()
    assert story.ending.exit_code == 0
    assert story.stats.snapshot().repaired == 0


def test_answers_in_fences_count_only_if_lenient(send: Send) -> None:
    """Else they are asked for again."""
    assert send(prompts(20), behavior="fenced").codes() == {"schema_mismatch": 20}
    lenient = send(prompts(20), behavior="fenced", lenient=True)

    assert lenient.codes() == {None: 20}
    assert lenient.calls() == 20
    assert all((result.text or "").startswith("Here is") for result in lenient.results)


@pytest.mark.parametrize(
    ("behavior", "code"), [("length", "truncated"), ("refusal", "refusal"), ("content_filter", "content_filter")]
)
@pytest.mark.parametrize("model", ["openai/m", "anthropic/m"])
def test_what_asking_again_cannot_help_fails_at_once(send: Send, model: str, behavior: RowBehavior, code: str) -> None:
    """Cut at the token limit, refused or filtered: one call, and no outage, even if all rows are."""
    story = send(prompts(200), behavior=behavior, model=model)

    if model == "anthropic/m":  # which has one word for both
        code = code.replace("content_filter", "refusal")
    assert story.codes() == {code: 200}
    assert story.calls() == 200
    assert not story.moved()
    assert story.ending.exit_code == 0


@pytest.mark.slow  # many calls in virtual time
def test_a_repair_that_meets_an_outage_is_parked_and_goes_on(send: Send) -> None:
    """No row fails, and no answer is asked for twice."""
    outage = (Phase(3.0), Phase(120.0, "down"))
    story = send(prompts(400), *outage, behavior="misfit_once", concurrency=20)

    assert story.codes() == {None: 400}
    assert set(story.good_answers().values()) == {2}
    answered: set[int] = set()
    parked: set[int] = set()
    for event in story.events:
        if isinstance(event, CallEnded) and event.verdict == "success":
            answered.add(event.row)
        elif isinstance(event, RowParked) and event.row in answered:
            parked.add(event.row)
    assert parked  # between their answer and its repair


def test_a_repair_that_fails_at_random_is_retried_as_it_was(send: Send) -> None:
    """The same bytes; a third of all calls fail."""
    story = send(prompts(60), Phase(math.inf, "errors", share=0.3), behavior="misfit_once")

    assert story.codes() == {None: 60}
    assert set(story.good_answers().values()) == {2}
    conversations = Counter(json.dumps(body) for body in story.bodies)
    assert len(conversations) == 120
    assert max(conversations.values()) > 1


@pytest.mark.slow  # many calls in virtual time
def test_a_fallback_is_asked_in_its_own_way(send: Send) -> None:
    """A row whose repair moves to it begins there from the start, and may be repaired there."""
    story = send(
        prompts(300),
        *(Phase(3.0), Phase(math.inf, "down")),
        behavior="misfit_once",
        fallback=["anthropic/other"],
        models=("m",),
        concurrency=20,
    )
    assert story.codes() == {None: 300}
    assert {result.model for result in story.results} == {"openai/m", "anthropic/other"}
    there = [body for body in story.bodies if body["model"] == "other"]
    assert {"output_config" in body and "response_format" not in body for body in there} == {True}
    assert max(story.good_answers().values()) <= 4


def test_moves_between_routes_do_not_make_repairs_endless(send: Send) -> None:
    """Both routes fail in turns, and no answer ever fits."""
    phases = [phase for _ in range(40) for phase in (Phase(2.0), Phase(4.0, "down"))]
    story = send(
        prompts(40), *phases, behavior="misfit", fallback=["anthropic/other"], concurrency=4, recovery_timeout=2.0
    )

    assert story.codes() == {"schema_mismatch": 40}
    assert max(story.good_answers().values()) <= 8


@pytest.mark.parametrize("there", ["fits when repaired", "never fits", "repairs fail"])
def test_a_row_that_failed_alone_is_repaired_at_the_fallback_and_does_not_come_back(send: Send, there: str) -> None:
    """Nothing but its own attempts speaks against it on the first route, which never answers its tenant."""

    def is_broken(body: dict[str, Any]) -> bool:
        if "acme" not in json.dumps(body):
            return False
        return body["model"] == "m" or (there == "repairs fail" and is_repair(body))

    def is_repair(body: dict[str, Any]) -> bool:
        return any(message["role"] == "assistant" for message in body["messages"])

    rows: list[object] = [{"prompt": f"row {n}", "metadata": {"tenant": f"t{n % 3}"}} for n in range(60)]
    rows.append({"prompt": "acme", "metadata": {"tenant": "acme"}})
    story = send(
        rows,
        behavior="misfit" if there == "never fits" else "misfit_once",
        fallback=["anthropic/other"],
        circuit_key="metadata.tenant",
        broken=is_broken,
    )

    acme = next(result for result in story.results if result.number == 61)
    sent = [body for body in story.bodies if "acme" in json.dumps(body)]
    routes = [body["model"] for body in sent]
    assert routes == sorted(routes), "it went back to the first route"
    assert not is_repair(sent[routes.index("other")])
    expected = {"fits when repaired": None, "never fits": "schema_mismatch", "repairs fail": "http_500"}[there]
    assert (acme.error_code, acme.model) == (expected, "anthropic/other")
    assert acme.attempts <= len(sent)  # probes count none
    assert sum(map(is_repair, sent)) == 1 or there == "repairs fail"
    assert acme.usage is not None
    assert acme.usage.output_tokens > 0


def test_a_row_that_failed_alone_waits_for_its_repair_through_an_outage_of_the_fallback(send: Send) -> None:
    """It is not sent to the first route again and again meanwhile, where it has failed."""
    answered_at: list[float] = []

    def is_broken(body: dict[str, Any]) -> bool:
        now = asyncio.get_running_loop().time()
        if body["model"] == "m":
            return "acme" in json.dumps(body)
        if not answered_at:
            answered_at.append(now)
            return False
        return now < answered_at[0] + 3600

    rows: list[object] = [{"prompt": f"row {n}", "metadata": {"tenant": f"t{n % 3}"}} for n in range(60)]
    rows.append({"prompt": "acme", "metadata": {"tenant": "acme"}})
    story = send(
        rows,
        behavior="misfit_once",
        fallback=["anthropic/other"],
        circuit_key="metadata.tenant",
        broken=is_broken,
    )

    acme = next(result for result in story.results if result.number == 61)
    assert answered_at
    assert (acme.error_code, acme.model) == (None, "anthropic/other")
    assert sum("acme" in json.dumps(body) for body in story.bodies if body["model"] == "m") <= 40


def test_repaired_answers_are_cached_under_the_first_request(send: Send) -> None:
    """A second run costs no call, and its lines have their parsed answers."""
    first = send(prompts(30), behavior="misfit_once", cached=True)
    second = send(prompts(30), Phase(math.inf, "down"), cached=True)

    assert (first.calls(), second.calls()) == (60, 0)
    assert second.codes() == {None: 30}
    assert {result.number: result.parsed for result in second.results} == {
        result.number: result.parsed for result in first.results
    }
    assert all(result.cached and result.parsed for result in second.results)
    assert second.stats.snapshot().repaired == 0


def test_a_cached_answer_that_does_not_fit_is_no_hit(send: Send) -> None:
    """It was kept by a run without a schema, for the same request."""
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    rows: list[object] = [
        {
            "custom_id": f"r{number}",
            "url": "/v1/chat/completions",
            "body": {
                "model": "m",
                "messages": [{"role": "user", "content": f"row {number}"}],
                "response_format": form,
            },
        }
        for number in range(10)
    ]
    without = send(rows, behavior="misfit", schema=None, cached=True)
    failing = send(rows, behavior="misfit", cached=True)
    fitting = send(rows, cached=True)
    again = send(rows, cached=True)

    assert (without.codes(), failing.codes()) == ({None: 10}, {"schema_mismatch": 10})
    assert [story.calls() for story in (without, failing, fitting, again)] == [10, 20, 10, 0]
    assert fitting.codes() == again.codes() == {None: 10}


def test_rows_with_equal_requests_all_get_the_parsed_answer(send: Send) -> None:
    """One call and its repair serve them."""
    story = send([{"prompt": "the same"}] * 40, behavior="misfit_once", cached=True)

    assert story.calls() == 2
    assert {json.dumps(result.parsed) for result in story.results} == {json.dumps(story.results[0].parsed)}
    assert Counter(result.cached for result in story.results) == {False: 1, True: 39}
    assert sum(event.is_repaired for event in story.events if isinstance(event, RowFinished)) == 1


def test_equal_rows_that_never_fit_are_each_asked(send: Send) -> None:
    """As with every other failure of the first one."""
    story = send([{"prompt": "the same"}] * 5, behavior="misfit", cached=True)

    assert story.codes() == {"schema_mismatch": 5}
    assert story.calls() == 10


def test_a_health_check_needs_no_schema(send: Send) -> None:
    """Its answer is no row's."""

    async def main() -> None:
        transport = VirtualTransport(SimulatedProvider(seed=1))
        loaded = load_schema(SCHEMA)
        inner = HttpProvider(
            ProviderSettings(model="openai/m", environ={"OPENAI_API_KEY": "k"}, schema=loaded), transport
        )
        checked = CheckedProvider(inner, loaded, lenient=False, repair=1)
        row = IterableSource([{"prompt": "hi"}]).take()
        assert row is not None
        request = checked.request(row, checked.routes(row)[0])  # type: ignore[arg-type]
        ping = checked.ping(request)
        assert ping is not None
        outcome = await checked.call(ping, None, timeout=60.0)
        assert (outcome.verdict, outcome.code, outcome.parsed) == ("success", "", None)
        await checked.aclose()

    run_virtual(main, limit=1000.0)
