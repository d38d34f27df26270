"""The targets, measured from outside: the command, real HTTP, the provider in a process of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from llmbatch import BatchRunner
from llmbatch.core.events import CallEnded, CallSent, CircuitChanged, Event

T = TypeVar("T")
COMMAND = [sys.executable, "-m", "llmbatch"]


class Server(NamedTuple):
    url: str

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url.removesuffix('/v1')}/sim/stats", timeout=120) as answer:
            counts: dict[str, Any] = json.load(answer)
            return counts


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str
    cpu_seconds: float


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}


@pytest.fixture
def serve(environment: dict[str, str]) -> Iterator[Callable[..., Server]]:
    """``serve(*options)`` starts ``llmbatch sim serve`` and gives its address."""
    servers: list[subprocess.Popen[str]] = []

    def start(*options: str) -> Server:
        server = subprocess.Popen(
            [*COMMAND, "sim", "serve", "--port", "0", *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        servers.append(server)
        assert server.stdout is not None
        return Server(server.stdout.readline().strip())

    yield start
    for server in servers:
        server.terminate()
        server.wait(timeout=120)
        assert server.stdout is not None
        server.stdout.close()


def finished(arguments: list[str], environment: dict[str, str]) -> Done:
    """Run to the end and read what the system says that this one child has used."""
    with subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        stdout, stderr = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Done(process.returncode, stdout, stderr, usage.ru_utime + usage.ru_stime)


def write_prompts(path: Path, count: int) -> Path:
    path.write_text("".join(f'{{"id":"r{n}","prompt":"Say {n} in words."}}\n' for n in range(1, count + 1)))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def run(prompts: Path, server: Server, *options: str) -> list[str]:
    return ["run", str(prompts), "-m", "test-model", "--base-url", server.url, *options]


class Watcher:
    """Keeps what happened, for measuring afterwards."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    def most_in_flight(self, since: float, until: float) -> int:
        """The most calls at once at any time from *since* to *until*."""
        now = most = 0
        for event in self.events:
            if isinstance(event, CallSent | CallEnded) and event.at <= until:
                now += 1 if isinstance(event, CallSent) else -1
                if event.at >= since:
                    most = max(most, now)
        return most


@pytest.mark.slow
async def test_an_outage_of_twelve_seconds_costs_no_row_and_few_calls(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    """600 rows at 40 in flight: all succeed, the provider is left alone while down, and gets no stampede after.

    One probe a second for the first ten, then at a tenth of the outage. (Five were enough while waits doubled, up to a
    minute; the run now goes on within a tenth of the outage's length.)

    Slow: the outage lasts twelve real seconds.
    """
    server = serve("--scenario", "outage")  # fine for 3 s from the first request, down for 12 s; answers take 0.4 s
    prompts = write_prompts(tmp_path / "prompts.jsonl", 600)
    watcher = Watcher()
    runner = BatchRunner("test-model", base_url=server.url, environ={}, concurrency=40, observers=[watcher])

    summary = await runner.run(prompts)

    assert (summary.exit_code, summary.outages) == (0, 1)
    rows = Counter((line["row"], line["status"]) for line in lines_of(tmp_path / "prompts.results.jsonl"))
    assert rows == {(number, "success"): 1 for number in range(1, 601)}
    stats = server.stats()
    probes = sum(event.probe for event in watcher.of(CallSent))
    assert stats["calls_while_down"] <= 40 + 5 + probes
    assert probes <= 12
    assert stats["max_in_flight"] <= 40
    changes = watcher.of(CircuitChanged)
    interval = max(event.retry_after for event in changes if event.new == "open")
    recovered = watcher.of(CallSent)[0].at + 15.0
    good = [event.at for event in watcher.of(CallEnded) if event.verdict == "success" and event.at >= recovered]
    assert good[0] <= recovered + interval + 1.5
    [closed] = [event.at for event in changes if event.new == "closed"]
    assert watcher.most_in_flight(closed, closed + 0.3) <= 6
    assert watcher.most_in_flight(closed, closed + 10.0) > 10


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to read a process's peak")
@pytest.mark.parametrize("rows", [15_000, pytest.param(40_000, marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_input(
    tmp_path: Path, environment: dict[str, str], serve: Callable[..., Server], rows: int
) -> None:
    """The peak of a run of 15,000 and of 40,000 rows is that of 3,000. Slow: a request a row.

    The command tells its own peak at its end: the kernel's ``ru_maxrss`` starts at that of the process that forked.
    """
    told = (
        "import sys; from pathlib import Path; from llmbatch.cli import main; code = main(); "
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]); sys.exit(code)"
    )
    server = serve("--latency", "0")
    peaks = []

    for count in (3_000, rows):
        prompts = write_prompts(tmp_path / f"{count}.jsonl", count)
        done = subprocess.run(
            [sys.executable, "-c", told, *run(prompts, server, "-q")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        with (tmp_path / f"{count}.results.jsonl").open("rb") as lines:
            assert sum(1 for _ in lines) == count
        peaks.append(int(done.stdout) / 1024)

    assert peaks[1] <= 1.05 * peaks[0], peaks
    assert peaks[1] < 90


@pytest.mark.slow
def test_help_answers_at_once(environment: dict[str, str]) -> None:
    """Less than 0.3 s of processor time, the best of three. Slow: processes of their own."""
    tries = [finished(["--help"], environment) for _ in range(3)]

    assert {done.code for done in tries} == {0}
    assert min(done.cpu_seconds for done in tries) < 0.3


@pytest.mark.slow
def test_import_loads_no_client_and_no_terminal() -> None:
    """`import llmbatch` brings neither an HTTP client nor typer nor rich. Slow: a process of its own."""
    script = (
        "import sys, llmbatch; print(sorted({'aiohttp', 'httptools', 'typer', 'rich', 'anyio'} & set(sys.modules)))"
    )

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240)

    assert said.stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.long)])
def test_kills_at_random_moments_lose_and_repeat_next_to_nothing(
    tmp_path: Path, environment: dict[str, str], serve: Callable[..., Server], kills: int
) -> None:
    """SIGKILL, some times, then to the end: one line a row, and per kill at most what was in flight is paid again.

    Slow: up to eleven processes.
    """
    chance = random.Random(20)
    server = serve("--latency", "0.05")
    prompts = write_prompts(tmp_path / "prompts.jsonl", 1500)
    output = tmp_path / "out.jsonl"
    arguments = run(prompts, server, "-o", str(output), "-c", "20", "-q")

    for _ in range(kills):
        process = subprocess.Popen([*COMMAND, *arguments], env=environment, stderr=subprocess.PIPE)
        calls, started = server.stats()["calls"], time.monotonic()
        while server.stats()["calls"] == calls and time.monotonic() - started < 10:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, stderr
    done = finished(arguments, environment)

    assert (done.code, done.stderr) == (0, "")
    rows = Counter(line["row"] for line in lines_of(output))
    assert rows == dict.fromkeys(range(1, 1501), 1)
    assert server.stats()["calls"] <= 1500 + kills * 20
