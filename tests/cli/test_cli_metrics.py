"""``run --metrics-port``: a scrape of a run that goes on, and everything that can be wrong with the port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_parts import Run, Silence, TwoLines
from e2e_recorder import Answer, Arrival, Recorder, answer, error
from scrapes import get, scrape, value

KEY = "sk-live-0123456789abcdefghij"


class Gate:
    """Answers ten rows, one of them with an error that repeats the key, and holds back the rest until it opens."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.held = threading.Event()
        self._count = 0

    def __call__(self, arrival: Arrival) -> Answer:
        self._count += 1
        if self._count == 5:
            return error(400, KEY, f"bad request with {KEY}")
        if self._count > 10:
            self.held.set()
            assert self.opened.wait(60)
        return answer(arrival)


@pytest.fixture
def gated() -> Iterator[tuple[Gate, Recorder]]:
    gate = Gate()
    recorder = Recorder(gate)
    yield gate, recorder
    gate.opened.set()
    recorder.close()


@pytest.mark.slow  # starts a process
def test_a_run_is_scraped_while_it_goes_on(
    gated: tuple[Gate, Recorder], tmp_path: Path, environment: dict[str, str]
) -> None:
    """Its address is told; the numbers are those of the moment; no key is in them; it ends with the run."""
    gate, recorder = gated
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt":"{row}"}}\n' for row in range(20)))
    words = [sys.executable, "-m", "llmbatch", "run", "p.jsonl", "-m", "openai/gpt-5-mini", "-c", "1"]
    process = subprocess.Popen(
        [*words, "--metrics-port", "0", "--progress", "none", "--base-url", recorder.url],
        cwd=tmp_path,
        env=environment | {"OPENAI_API_KEY": KEY},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert line.startswith("metrics at http://127.0.0.1:"), line + process.stderr.read()
        url = line.split()[-1]
        assert gate.held.wait(60)
        series = scrape(url)
        text = get(url)[1]
    finally:
        gate.opened.set()
        _, rest = process.communicate(timeout=120)

    route = "openai/gpt-5-mini"
    assert value(series, "llmbatch_in_flight", route=route) == 1
    assert value(series, "llmbatch_calls_total", route=route, outcome="success") == 9
    assert value(series, "llmbatch_calls_total", route=route, outcome="rejected") == 1
    assert value(series, "llmbatch_call_errors_total", code="http_400") == 1
    assert value(series, "llmbatch_input_rows") == 20
    assert value(series, "llmbatch_run_state", state="running") == 1
    assert value(series, "llmbatch_tokens_total", route=route, type="input") == 9
    assert KEY not in text
    assert process.returncode == 0, rest
    with pytest.raises(OSError, match="refused"):
        get(url)


@pytest.mark.slow  # starts processes
def test_a_port_in_use_costs_the_metrics_only(llmbatch: Run, prompts: Path) -> None:
    """A note says so and what to do, as JSON where the display is; the run goes on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for progress in ("plain", "json"):
            done = llmbatch(
                *("run", prompts.name, "-m", "sim/steady", "-o", f"{progress}.jsonl"),
                *("--metrics-port", port, "--progress", progress),
            )
            assert done.returncode == 0, done.stderr
            first = done.stderr.splitlines()[0]
            words = json.loads(first)["message"] if progress == "json" else first
            assert f"no metrics are served: the port of --metrics-port 127.0.0.1:{port} is in use" in words


@pytest.mark.slow  # whole runs, in real time
def test_without_the_extra_nothing_is_sent(
    llmbatch_process: Run, prompts: Path, tmp_path: Path, silence: Silence, two_lines: TwoLines
) -> None:
    """It says what to install."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "prometheus_client.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")]))

    done = llmbatch_process(
        *("run", prompts.name, "-m", "m", "--base-url", silence.url, "--metrics-port", "0"), PYTHONPATH=path
    )

    assert done.returncode == 2
    assert two_lines(done.stderr) == (
        "--metrics-port needs prometheus-client, which is not installed",
        "pip install 'llmbatch[metrics]'",
    )
    assert not silence.was_broken()


@pytest.mark.parametrize(
    "port",
    ["", "http", "-1", "65536", "9464x", "127.0.0.1", "localhost:", ":9464", "::1:9464", "a b:1", "u:p@h:1", "h:1:2"],
)
def test_what_is_no_address_is_refused(
    llmbatch_here: Run, prompts: Path, silence: Silence, two_lines: TwoLines, port: str
) -> None:
    done = llmbatch_here("run", prompts.name, "-m", "m", "--base-url", silence.url, "--metrics-port", port)

    assert done.returncode == 2
    message, _ = two_lines(done.stderr)
    assert "must be a port from 0 (any free one) to 65535, or HOST:PORT" in message
    assert not silence.was_broken()


def test_an_address_of_another_machine_is_refused(
    llmbatch_here: Run, prompts: Path, silence: Silence, two_lines: TwoLines
) -> None:
    """Nobody could ever scrape it."""
    done = llmbatch_here("run", prompts.name, "-m", "m", "--base-url", silence.url, "--metrics-port", "192.0.2.1:9464")

    assert done.returncode == 2
    message, hint = two_lines(done.stderr)
    assert message.startswith("--metrics-port 192.0.2.1:9464: cannot listen there: ")
    assert "0.0.0.0:9464" in hint
    assert not silence.was_broken()


@pytest.mark.slow  # starts processes
def test_a_local_file_opens_no_port(llmbatch: Run, prompts: Path, tmp_path: Path) -> None:
    """The folder's file is not the user's."""
    (tmp_path / "llmbatch.toml").write_text('metrics_port = "0.0.0.0:0"\n')

    done = llmbatch("run", prompts.name, "-m", "sim/steady")

    assert done.returncode == 0
    assert "sets metrics_port, which is ignored" in done.stderr
    assert "metrics at" not in done.stderr


@pytest.mark.slow  # starts processes
def test_a_config_file_and_a_variable_set_it(llmbatch: Run, prompts: Path, tmp_path: Path) -> None:
    """A number in TOML, text in a variable."""
    (tmp_path / "mine.toml").write_text("metrics_port = 0\n")

    by_file = llmbatch("run", prompts.name, "-m", "sim/steady", "--config", "mine.toml")
    by_name = llmbatch("run", prompts.name, "-m", "sim/steady", "--overwrite", LLMBATCH_METRICS_PORT="localhost:0")

    assert "metrics at http://127.0.0.1:" in by_file.stderr
    assert "metrics at http://" in by_name.stderr


@pytest.mark.slow  # starts processes
def test_a_run_without_metrics_loads_none_of_it(tmp_path: Path, environment: dict[str, str], prompts: Path) -> None:
    """Neither prometheus-client, nor an HTTP server, nor OpenTelemetry."""
    code = (
        "import sys\nfrom llmbatch.cli import main\nmain()\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('prometheus_client', 'opentelemetry', 'IPython')"
        " or m.startswith('llmbatch.telemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", prompts.name, "-m", "sim/steady", "-q"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert done.stdout == "[]\n"
