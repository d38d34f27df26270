"""``--otel`` against a real receiver of OTLP: what arrives, and what an endpoint that fails or hangs costs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_recorder import Answer, Arrival, Recorder, answer, error
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from otlp_receiver import Post, Receiver, attributes

from llmbatch.core.errors import UsageError
from llmbatch.telemetry.otel_export import OtlpExport, check_variables

KEY = "sk-live-0123456789abcdefghij"
TOKEN = "collector-token-0123456789"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, recorder: Recorder) -> Run:
    """Runs twelve rows with ``--otel`` and these variables."""
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt":"PROMPT {row}"}}\n' for row in range(12)))

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        import os

        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        return subprocess.run(
            [sys.executable, "-m", "llmbatch", "run", "p.jsonl", "-m", "openai/gpt-5-mini", *arguments],
            cwd=tmp_path,
            env=kept | {"HOME": str(tmp_path), "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": recorder.url} | variables,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


@pytest.mark.slow  # starts processes
def test_spans_and_metrics_arrive(run: Run, recorder: Recorder, receiver: Receiver) -> None:
    """Complete, by the standard variables, before the command ends; no prompt, answer or key is among them."""
    count = iter(range(99))

    def respond(arrival: Arrival) -> Answer:
        return error(500, "server_error", f"{KEY} PROMPT") if next(count) == 3 else answer(arrival)

    recorder.respond = respond
    headers = f"authorization=Bearer%20{TOKEN}"

    done = run("--otel", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_EXPORTER_OTLP_HEADERS=headers)

    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    spans = receiver.spans
    (whole,) = [span for span in spans if span.name == "invoke_workflow llmbatch"]
    calls = [span for span in spans if span.name == "chat gpt-5-mini"]
    assert len(calls) == len(spans) - 1 == 13
    assert {span.parent_span_id for span in calls} == {whole.span_id}
    assert {span.trace_id for span in spans} == {whole.trace_id}
    assert all(span.kind == SpanMessage.SPAN_KIND_CLIENT for span in calls)
    assert [attributes(span.attributes)["error.type"] for span in calls if span.status.code == 2] == ["server_error"]
    assert sum(len(span.links) for span in calls) == 1
    assert attributes(whole.attributes)["llmbatch.rows.success"] == 12
    assert receiver.resources[0]["service.name"] == "llmbatch"
    assert {post.headers["authorization"] for post in receiver.posts} == {f"Bearer {TOKEN}"}
    duration = receiver.metrics["gen_ai.client.operation.duration"]
    assert duration.unit == "s"
    assert sum(point.count for point in duration.histogram.data_points) == 13
    tokens = receiver.metrics["gen_ai.client.token.usage"]
    assert sum(point.sum for point in tokens.histogram.data_points) == 24
    rows = receiver.metrics["llmbatch.rows"].sum
    assert rows.is_monotonic
    assert sum(point.as_int or point.as_double for point in rows.data_points) == 12
    sent = b"".join(post.body for post in receiver.posts)
    assert not [word for word in (KEY, "PROMPT", '"ok"') if word.encode() in sent]
    assert TOKEN not in done.stderr


@pytest.mark.slow  # starts processes
def test_without_the_switch_nothing_is_sent(run: Run, receiver: Receiver) -> None:
    """The variables alone change nothing."""
    assert run(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url).returncode == 0
    assert not receiver.posts


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize("exporter", ["TRACES", "METRICS"])
def test_one_of_the_two_can_be_left_out(run: Run, receiver: Receiver, exporter: str) -> None:
    """By the standard variable."""
    done = run("--otel", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, **{f"OTEL_{exporter}_EXPORTER": "none"})

    assert done.returncode == 0
    assert {post.path for post in receiver.posts} == {"/v1/metrics" if exporter == "TRACES" else "/v1/traces"}


@pytest.mark.slow  # starts processes
def test_the_service_can_be_named(run: Run, receiver: Receiver) -> None:
    """By the standard variables, which win over our own name."""
    run("--otel", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_SERVICE_NAME="night", OTEL_RESOURCE_ATTRIBUTES="a=b")

    assert receiver.resources[0]["service.name"] == "night"
    assert receiver.resources[0]["a"] == "b"


@pytest.mark.slow  # the exporter tries again for a second, and the end waits for it
@pytest.mark.parametrize("progress", ["plain", "json", "none"])
def test_an_endpoint_that_is_down_costs_one_warning(run: Run, progress: str) -> None:
    """The run is not affected, and the secrets of the variables stay where they are."""
    done = run(
        *("--otel", "--progress", progress),
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://user:{TOKEN}@127.0.0.1:9",
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{TOKEN}",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )

    assert done.returncode == 0
    assert done.stderr.count("could not be sent to http://127.0.0.1:9, and some are missing") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stderr


@pytest.mark.slow  # starts processes
def test_headers_that_are_none_are_told_without_their_value(run: Run, receiver: Receiver) -> None:
    """The SDK would log them."""
    done = run("--otel", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_EXPORTER_OTLP_HEADERS=f"Bearer {TOKEN}")

    assert done.returncode == 0
    assert "does not understand the value of a variable OTEL_" in done.stderr
    assert TOKEN not in done.stderr


@pytest.mark.slow  # waits in real time
@pytest.mark.traced
def test_without_the_extra_nothing_is_sent(run: Run, recorder: Recorder, tmp_path: Path) -> None:
    """It says what to install."""
    import os

    (tmp_path / "hidden" / "opentelemetry").mkdir(parents=True)
    (tmp_path / "hidden" / "opentelemetry" / "__init__.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")]))

    done = run("--otel", PYTHONPATH=path)

    assert done.returncode == 2
    assert done.stderr == (
        "error: --otel needs OpenTelemetry, which is not installed\nhint: pip install 'llmbatch[otel]'\n"
    )
    assert not recorder.arrivals


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "only http/protobuf is spoken"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "only http/protobuf is spoken"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "is not an http(s) URL"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", "is not an http(s) URL"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://h:99999", "is not an http(s) URL"),
        ("OTEL_TRACES_EXPORTER", "console", "must be otlp or none"),
    ],
)
def test_variables_that_cannot_be_meant_are_refused(name: str, value: str, words: str) -> None:
    """Before anything is sent; the message names the variable, and not what may be a secret in it."""
    with pytest.raises(UsageError) as caught:
        check_variables({name: value})

    assert caught.value.message.startswith(name)
    assert words in caught.value.message


@pytest.mark.slow  # starts a process
def test_a_refused_variable_sends_no_row(run: Run, recorder: Recorder) -> None:
    done = run("--otel", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")

    assert done.returncode == 2
    assert not recorder.arrivals


class Hanging:
    """A receiver that answers nothing before it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.arrived = threading.Event()
        self.receiver = Receiver(self._wait)

    def _wait(self, post: Post) -> int:
        self.arrived.set()
        self.released.wait(60)
        return 200


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    one = Hanging()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", one.receiver.url)
    yield one
    one.released.set()
    one.receiver.close()


def opened(warned: list[str]) -> OtlpExport:
    import os

    return OtlpExport(os.environ, warn=lambda message, _: warned.append(message), version="1")


@pytest.mark.slow  # waits in real time
@pytest.mark.traced
def test_the_end_does_not_wait_for_an_endpoint_that_hangs(hanging: Hanging) -> None:
    """It leaves while the request is still open, and says that something is missing."""
    warned: list[str] = []
    export = opened(warned)
    assert export.tracer_provider is not None
    export.tracer_provider.get_tracer("t").start_span("one").end()

    export.close(patience_s=1.0)

    assert hanging.arrived.is_set()
    assert not hanging.released.is_set()
    assert warned == [f"the last spans and metrics were not sent to {hanging.receiver.url} in time"]


@pytest.mark.slow  # up to some seconds of CPU
def test_spans_that_nobody_takes_do_not_pile_up(hanging: Hanging) -> None:
    """The queue is bounded, the oldest are dropped, and that is told once."""
    warned: list[str] = []
    export = opened(warned)
    assert export.tracer_provider is not None
    tracer = export.tracer_provider.get_tracer("t")

    for _ in range(20_000):
        tracer.start_span("one").end()

    processor: Any = export.tracer_provider._active_span_processor._span_processors[0]
    assert len(processor._batch_processor._queue) <= 8192
    assert warned == [f"spans come faster than {hanging.receiver.url} takes them, and some are dropped"]
    export.close(patience_s=0.0)


@pytest.mark.slow  # waits in real time
@pytest.mark.traced
def test_what_the_sdk_logs_is_as_before_afterwards(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logger is the program's."""
    import logging
    import os

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    logger = logging.getLogger("opentelemetry")
    before = (list(logger.handlers), logger.propagate)

    with OtlpExport(os.environ, warn=lambda *_: None, version="1"):
        assert not logger.propagate

    assert (list(logger.handlers), logger.propagate) == before
