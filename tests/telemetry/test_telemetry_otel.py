"""OpenTelemetry in the library: spans of runs and calls, their links and traces, and the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from e2e_recorder import Answer, Arrival, Recorder, answer, error
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from scrapes import started

from llmbatch import BatchRunner, UsageError
from llmbatch.core.call_details import CallDetails
from llmbatch.core.calls import Outcome, Route, Usage, UsageDetails
from llmbatch.core.events import CallEnded, CallSent, RunEnded
from llmbatch.providers.catalog import PROVIDERS
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario_file import find_scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual
from llmbatch.telemetry import genai
from llmbatch.telemetry.otel import OpenTelemetryObserver

KEY = "sk-live-0123456789abcdefghij"


class Traced:
    """A tracer provider and what it was given."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    @property
    def runs(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name.startswith("invoke_workflow")]

    @property
    def calls(self) -> list[ReadableSpan]:
        return [span for span in self.spans if not span.name.startswith("invoke_workflow")]


def of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def trace(span: ReadableSpan) -> int:
    return int(span.context.trace_id)


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.close()


def runner(recorder: Recorder, traced: Traced | None, model: str = "openai/gpt-5-mini", **options: Any) -> BatchRunner:
    provider = None if traced is None else traced.provider
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": recorder.url, "ANTHROPIC_API_KEY": KEY}
    environ["ANTHROPIC_BASE_URL"] = recorder.origin
    return BatchRunner(model, tracer_provider=provider, environ=environ, seed=1, **options)


async def test_a_run_is_a_span_and_each_call_a_child_of_it(recorder: Recorder, traced: Traced) -> None:
    """Named by operation and model, of the kind client, with provider, server, tokens and ids."""
    await runner(recorder, traced).map(["one", "two"])

    (run,) = traced.runs
    assert run.name == "invoke_workflow llmbatch"
    assert of(run)["gen_ai.operation.name"] == "invoke_workflow"
    assert of(run)["llmbatch.rows.success"] == 2
    assert of(run)["gen_ai.usage.output_tokens"] == 2
    assert len(traced.calls) == 2
    for span in traced.calls:
        assert span.name == "chat gpt-5-mini"
        assert span.kind is SpanKind.CLIENT
        assert span.parent is not None
        assert span.parent.span_id == run.context.span_id
        assert trace(span) == trace(run)
        assert span.start_time is not None
        assert span.end_time is not None
        assert run.start_time is not None
        assert span.start_time <= span.end_time
        assert not span.links
        found = of(span)
        assert found["gen_ai.provider.name"] == "openai"
        assert found["gen_ai.request.model"] == "gpt-5-mini"
        assert found["server.address"] == "127.0.0.1"
        assert found["server.port"] == int(recorder.url.split(":")[2].split("/")[0])
        assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (1, 1)
        assert found["gen_ai.response.id"] == "c"
        assert found["gen_ai.response.finish_reasons"] == ("stop",)
        assert found["http.response.status_code"] == 200
        assert found["llmbatch.request_id"].startswith("req-")
        assert "error.type" not in found


@pytest.mark.traced
@pytest.mark.slow  # seconds of real waits
async def test_the_attempts_of_a_row_are_linked(recorder: Recorder, traced: Traced) -> None:
    """Each to the one before; an attempt that failed has an error and its type, not its message."""
    count = iter(range(99))

    def twice_bad(arrival: Arrival) -> Answer:
        if b"secret prompt" in arrival.body and next(count) < 2:  # not of health checks
            return error(500, "server_error", f"{KEY} my secret prompt")
        return answer(arrival)

    recorder.respond = twice_bad
    (result,) = await runner(recorder, traced, failure_threshold=9, max_attempts=5).map(["my secret prompt"])

    assert result.ok
    first, second, third = (span for span in traced.calls if "llmbatch.row" in of(span))  # without health checks
    assert [of(span)["llmbatch.attempt"] for span in (first, second, third)] == [1, 2, 3]
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert [link.context.span_id for link in third.links] == [second.context.span_id]
    assert of(first)["error.type"] == "server_error"
    assert first.status.status_code is StatusCode.ERROR
    assert third.status.status_code is StatusCode.UNSET
    text = "".join(span.to_json() for span in traced.spans)
    assert KEY not in text
    assert "secret prompt" not in text


async def test_prompts_and_answers_are_in_no_span(recorder: Recorder, traced: Traced) -> None:
    """Nor ids of rows, which may be data too."""
    body = b'{"id":"c","choices":[{"message":{"content":"ANSWER"},"finish_reason":"stop"}],"usage":{}}'
    recorder.respond = lambda _: (200, body)
    await runner(recorder, traced, system="SYSTEM").map(
        [{"id": "ROWID", "prompt": "PROMPT", "metadata": {"a": "META"}}]
    )

    text = "".join(span.to_json() for span in traced.spans)
    assert len(traced.calls) == 1
    assert not [word for word in ("ANSWER", "SYSTEM", "PROMPT", "ROWID", "META", KEY) if word in text]


async def test_each_wire_format_has_its_operation(recorder: Recorder, traced: Traced) -> None:
    """Embeddings, text completions and Anthropic's messages."""
    await runner(recorder, traced, "openai/text-embedding-3-small", endpoint="embeddings").map([{"input": "a"}])
    await runner(recorder, traced, "anthropic/claude-x").map([{"prompt": "a", "max_tokens": 9}])
    await runner(recorder, traced, "openai/davinci", endpoint="completions").map(["a"])

    assert [span.name for span in traced.calls] == [
        "embeddings text-embedding-3-small",
        "chat claude-x",
        "text_completion davinci",
    ]
    claude = of(traced.calls[1])
    assert claude["gen_ai.provider.name"] == "anthropic"
    assert claude["gen_ai.request.max_tokens"] == 9
    assert claude["gen_ai.response.finish_reasons"] == ("end_turn",)


async def test_a_function_is_called_inside_this_process(traced: Traced) -> None:
    """What it does is not known: neither a client nor a chat."""

    async def ask(row: int) -> int:
        if row == 1:
            raise ValueError("bad")
        return row

    await BatchRunner(ask, tracer_provider=traced.provider, max_attempts=1, failure_threshold=9).map(range(3))

    assert {span.name for span in traced.calls} == {f"call {of(traced.calls[0])['gen_ai.request.model']}"}
    assert {span.kind for span in traced.calls} == {SpanKind.INTERNAL}
    assert {of(span)["gen_ai.provider.name"] for span in traced.calls} == {"function"}
    assert "_OTHER" in {of(span).get("error.type") for span in traced.calls}


@pytest.mark.slow  # up to some seconds of CPU
async def test_beyond_a_thousand_calls_each_row_has_a_trace_of_its_own(traced: Traced) -> None:
    """Linked to the run; its attempts stay in one trace. Stores of traces bound the size of one."""
    seen: set[int] = set()

    async def ask(row: int) -> int:
        if row % 50 == 49 and row not in seen:
            seen.add(row)
            raise ConnectionError("try again")
        return row

    await BatchRunner(ask, tracer_provider=traced.provider, concurrency=10, failure_threshold=99).map(range(1300))

    (run,) = traced.runs
    inside = [span for span in traced.calls if trace(span) == trace(run)]
    others = [span for span in traced.calls if trace(span) != trace(run)]
    by_row: dict[int, list[ReadableSpan]] = {}
    for span in others:
        by_row.setdefault(of(span)["llmbatch.row"], []).append(span)
    assert 1000 <= len(inside) <= 1020
    assert (
        len({trace(span) for span in others})
        == len(by_row)
        == 1326 - len(inside) - sum(len(spans) - 1 for spans in by_row.values())
    )
    again = [spans for spans in by_row.values() if len(spans) > 1]
    assert again
    for first, *more in by_row.values():
        assert first.parent is None
        assert [link.context.span_id for link in first.links] == [run.context.span_id]
        for span in more:
            assert span.parent is not None
            assert span.parent.span_id == first.context.span_id
            assert [link.context.span_id for link in span.links] == [first.context.span_id]


async def test_runs_at_once_do_not_mix(recorder: Recorder, traced: Traced) -> None:
    """Each has its own span, with its own calls below."""
    one = runner(recorder, traced)
    await asyncio.gather(one.map(["a"] * 5), one.map(["b"] * 7))

    children = [
        sum(span.parent is not None and span.parent.span_id == run.context.span_id for span in traced.calls)
        for run in traced.runs
    ]
    assert sorted(children) == [5, 7]


async def test_a_run_is_a_child_of_the_span_around_it(recorder: Recorder, traced: Traced) -> None:
    """As any call that a program traces."""
    with traced.provider.get_tracer("app").start_as_current_span("job") as job:
        await runner(recorder, traced).map(["a"])

    (run,) = traced.runs
    assert run.parent is not None
    assert run.parent.span_id == job.get_span_context().span_id


async def test_what_is_not_sampled_costs_no_span(recorder: Recorder) -> None:
    """The sampler is the user's."""
    traced = Traced()
    traced.provider.sampler = ALWAYS_OFF
    results = await runner(recorder, traced).map(["a", "b"])

    assert [result.ok for result in results] == [True, True]
    assert not traced.spans


@pytest.mark.slow  # up to some seconds of CPU
def test_an_outage_is_told_by_events_of_the_run() -> None:
    """When the circuit opened and closed, and that it was an outage; not each of its probes."""
    traced = Traced()
    transport = VirtualTransport(SimulatedProvider(find_scenario("flash"), seed=1))
    one = BatchRunner("sim/flash", transport=transport, tracer_provider=traced.provider, seed=1)
    run_virtual(one.map(["a"] * 900))

    (run,) = traced.runs
    names = [event.name for event in run.events]
    assert names[:2] == ["circuit open", "outage started"]
    assert "outage ended" in names
    assert names[-1] in ("circuit closed", "outage ended")
    assert len(names) < 20
    assert {dict(event.attributes or {})["llmbatch.route"] for event in run.events} == {"sim/flash"}
    probes = [span for span in traced.calls if of(span)["llmbatch.probe"]]
    assert probes


async def test_a_run_that_stops_has_an_error(recorder: Recorder, traced: Traced) -> None:
    """The exit code says why; a refused key is not in it."""
    recorder.respond = lambda _: error(401, "invalid_api_key", f"Incorrect API key provided: {KEY}")
    with pytest.raises(Exception, match="refused"):
        await runner(recorder, traced).map(["a"] * 3)

    (run,) = traced.runs
    assert of(run)["llmbatch.exit_code"] == 3
    assert of(run)["error.type"] == "exit_3"
    assert run.status.status_code is StatusCode.ERROR
    assert KEY not in "".join(span.to_json() for span in traced.spans)


async def test_calls_that_are_cut_off_end_as_canceled(recorder: Recorder, traced: Traced) -> None:
    """A stream that is closed early ends its calls; they are no errors."""
    first = asyncio.Event()

    async def ask(row: int) -> int:
        if row:
            first.set()
            await asyncio.Event().wait()
        return row

    async with BatchRunner(ask, tracer_provider=traced.provider, concurrency=2).stream([0, 1]) as stream:
        async for _ in stream:
            await first.wait()
            break

    (canceled,) = [span for span in traced.calls if of(span).get("error.type") == "canceled"]
    assert canceled.status.status_code is StatusCode.UNSET
    assert len(traced.runs) == 1


class Metered:
    """A meter provider and what it measured."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.mark.traced
@pytest.mark.slow  # seconds of real waits
async def test_durations_and_tokens_are_measured_in_the_buckets_of_the_convention(recorder: Recorder) -> None:
    """By operation, provider, model, server and error type."""
    metered = Metered()
    count = iter(range(99))
    recorder.respond = lambda arrival: error(503, "x") if next(count) == 0 else answer(arrival)
    one = runner(recorder, None, meter_provider=metered.provider, failure_threshold=9)
    await one.map(["a", "b", "c"])

    good, bad = sorted(
        metered.points("gen_ai.client.operation.duration"), key=lambda point: "error.type" in point.attributes
    )
    assert (good.count, bad.count) == (3, 1)
    assert good.explicit_bounds == tuple(0.01 * 2**times for times in range(14))
    assert bad.attributes["error.type"] == "503"
    assert good.attributes["gen_ai.request.model"] == "gpt-5-mini"
    assert good.attributes["server.address"] == "127.0.0.1"


async def test_tokens_are_measured_by_type_and_rows_by_status(recorder: Recorder) -> None:
    """Also in several runs with one provider, whose counters go on."""
    metered = Metered()
    one = runner(recorder, None, meter_provider=metered.provider)
    await one.map(["a", "b", "c"])
    await one.map(["a"])

    points = metered.points("gen_ai.client.token.usage")
    assert {point.attributes["gen_ai.token.type"]: point.sum for point in points} == {"input": 4, "output": 4}
    assert points[0].explicit_bounds == tuple(4**times for times in range(14))


async def test_the_numbers_of_the_run_are_metrics_too(recorder: Recorder) -> None:
    """Counters add up over runs, gauges have the last value."""
    metered = Metered()
    one = runner(recorder, None, meter_provider=metered.provider)
    await one.map(["a", "b", "c"])
    await one.map(["a"])

    rows = {point.attributes["llmbatch.status"]: point.value for point in metered.points("llmbatch.rows")}
    assert rows == {"success": 4}


def test_many_models_hosts_and_errors_make_few_series() -> None:
    """As for Prometheus: the first stand for themselves."""
    metered = Metered()
    observer = OpenTelemetryObserver(meter_provider=metered.provider)
    observer.observe(started())
    for at in range(3000):
        route = Route(f"host{at}/model-{at}", "a", f"https://host{at}.test/v1")
        outcome = Outcome("rejected" if at % 2 else "success", code=f"code_{at}", status=200 + at % 400)
        observer.observe(CallSent(2.0 + at / 1e3, route.label, at + 1, 1, False, 1))
        observer.observe_call(CallDetails(route.label, 1, at + 1, 1, False, route, "chat", None, outcome))
        observer.observe(
            CallEnded(2.0 + at / 1e3, route.label, at + 1, False, outcome.verdict, outcome.code, "", 400, 1.0, 5, 5, 1)
        )

    points = metered.points("gen_ai.client.operation.duration")
    assert sum(point.count for point in points) == 3000
    assert len({point.attributes.get("gen_ai.request.model") for point in points}) == 17
    assert len({point.attributes.get("error.type") for point in points}) == 18
    assert len(points) < 60
    observer.observe(RunEnded(9.0, 0, "", 0))
    assert len(metered.points("llmbatch.calls")) < 60


def test_every_known_provider_has_a_name() -> None:
    """A new one in the catalog needs its name of the convention."""
    for name in PROVIDERS:
        attributes = genai.call_attributes(Route(f"{name}/some/model", "a", "https://h.test/v1"), "chat")
        assert attributes["gen_ai.request.model"] == "some/model"
        assert attributes["server.port"] == 443
    names = {name: genai.call_attributes(Route(f"{name}/m", "a"), "chat")["gen_ai.provider.name"] for name in PROVIDERS}
    assert names["gemini"] == "gcp.gemini"
    assert names["azure"] == "azure.ai.openai"
    assert names["mistral"] == "mistral_ai"
    assert names["xai"] == "x_ai"


def test_a_server_that_is_not_known_counts_as_its_wire_format() -> None:
    """The model's own slash stays."""
    chat = genai.call_attributes(Route("meta-llama/Llama-3", "a", "http://gpu:8000/v1"), "chat")
    messages = genai.call_attributes(Route("x", "a", "http://gpu:8000"), "messages")

    assert (chat["gen_ai.provider.name"], chat["gen_ai.request.model"]) == ("openai", "meta-llama/Llama-3")
    assert (chat["server.address"], chat["server.port"]) == ("gpu", 8000)
    assert messages["gen_ai.provider.name"] == "anthropic"


@pytest.mark.parametrize(
    "body", ["[]", "null", "{", '{"id":5,"model":null,"choices":[3,{}],"stop_reason":[]}', "1" * 5000]
)
def test_an_answer_of_any_shape_has_attributes(body: str) -> None:
    """Only those that it tells."""
    usage = Usage(9, 8, UsageDetails(cached_tokens=4, cache_write_tokens=3, reasoning_tokens=2))
    outcome = Outcome("success", status=200, body=body, usage=usage, tier="flex")
    details = CallDetails("a", 1, 1, 1, False, Route("a", "a"), "chat", 7, outcome)

    assert genai.answer_attributes(details, provider="openai") == {
        "gen_ai.request.max_tokens": 7,
        "http.response.status_code": 200,
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.cache_write.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "openai.response.service_tier": "flex",
    }


@pytest.mark.parametrize("name", ["tracer_provider", "meter_provider"])
def test_what_is_no_provider_is_refused(name: str) -> None:
    """When the runner is made."""
    keywords: dict[str, Any] = {name: object()}
    with pytest.raises(UsageError, match=f"{name} is <object"):
        BatchRunner("sim/steady", **keywords)
