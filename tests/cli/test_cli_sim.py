"""The simulated provider from the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_parts import Run, TwoLines

from llmbatch.sim.scenario_file import built_in_scenarios

Serve = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def serve(tmp_path: Path, environment: dict[str, str]) -> Iterator[Serve]:
    """``serve(*arguments)`` starts ``llmbatch sim serve`` on a free port and gives the process and its URL."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmbatch", "sim", "serve", "--port", "0", *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ask(url: str, key: str = "any") -> dict[str, object]:
    """One chat request."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/chat/completions", body, headers)) as answer:
        told: dict[str, object] = json.load(answer)
    return told


@pytest.mark.slow  # starts a server
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_its_url_answers_and_ends_well(serve: Serve, number: signal.Signals) -> None:
    """The first line of standard output is the base URL; it answers; a signal ends it with 0 and no traceback."""
    process, url = serve("--latency", "0", "--seed", "3")

    answer = ask(url)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)

    assert answer["object"] == "chat.completion"
    assert process.returncode == 0
    assert "Traceback" not in errors


@pytest.mark.slow  # starts a server
def test_serve_tells_how_to_use_it(serve: Serve) -> None:
    """Standard error names the variables of the official clients, with the right URLs, and the scenarios."""
    process, url = serve("--scenario", "outage")

    process.terminate()
    _, errors = process.communicate(timeout=120)

    assert f"OPENAI_BASE_URL={url}" in errors
    assert f"ANTHROPIC_BASE_URL={url.removesuffix('/v1')} " in errors
    assert f"--base-url {url}" in errors
    assert built_in_scenarios()["outage"].description in errors
    assert "steady" in errors


@pytest.mark.slow  # starts a server
def test_serve_can_require_a_key(serve: Serve) -> None:
    """``--require-key`` refuses every other key with 401."""
    _, url = serve("--latency", "0", "--require-key", "right")

    assert ask(url, "right")["object"] == "chat.completion"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(url, "wrong")


@pytest.mark.slow  # starts a server
def test_a_port_in_use_is_refused(serve: Serve, llmbatch: Run, two_lines: TwoLines) -> None:
    """A second server on the same port exits with 2 and names the port."""
    _, url = serve()
    port = url.rpartition(":")[2].partition("/")[0]

    done = llmbatch("sim", "serve", "--port", port)

    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use" in two_lines(done.stderr)[0]


def test_scenarios_are_listed(llmbatch: Run) -> None:
    """``llmbatch sim scenarios`` prints each name and what happens in it."""
    done = llmbatch("sim", "scenarios")

    assert done.returncode == 0
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert lines == [[name, scenario.description] for name, scenario in built_in_scenarios().items()]
