"""``llmbatch pause``, ``resume``, ``set`` and ``drain`` on a whole run, and what ``kill -USR1`` makes it say.

Slow: whole runs, with processes that talk to them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_parts import Run, TwoLines
from e2e_recorder import Recorder

from llmbatch.display.history_file import read_history
from llmbatch.outputs.lock import open_locked

pytestmark = [pytest.mark.slow, pytest.mark.traced]  # whole runs, in real time

DEADLINE_S = 120.0

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def provider() -> Iterator[Recorder]:
    server = Recorder(delay=0.02)
    yield server
    server.close()


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str], provider: Recorder) -> Iterator[Start]:
    """``start(*flags)`` starts a run of 5,000 rows to ``out.jsonl``."""
    (tmp_path / "rows.jsonl").write_text("".join(f'"row {number}"\n' for number in range(5000)))
    started: list[subprocess.Popen[str]] = []

    def launch(*flags: str, output: str = "out.jsonl") -> subprocess.Popen[str]:
        before = len(provider.arrivals)
        where = ("rows.jsonl", "-m", "m", "--base-url", provider.url, "-o", output, "-c", "4")
        process = subprocess.Popen(
            [sys.executable, "-m", "llmbatch", "run", *where, *flags],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        wait_for(lambda: len(provider.arrivals) > before + 10 or process.poll() is not None)
        if output.endswith("/"):
            wait_for(lambda: len(list((tmp_path / output).glob("*.control"))) >= len(started))
        return process

    yield launch
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def rows_of(path: Path) -> list[int]:
    return [json.loads(line)["row"] for line in path.read_text().splitlines()]


def events(errors: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in errors.splitlines()]


def test_a_run_is_paused_changed_resumed_and_drained(
    llmbatch: Run, start: Start, provider: Recorder, tmp_path: Path
) -> None:
    """Nothing is sent while it is paused; the status says so; progress and history tell of all of it."""
    process = start("--progress", "json")
    control = tmp_path / "out.control"
    assert control.is_socket()
    assert control.stat().st_mode & 0o777 == 0o600

    paused = llmbatch("pause", "out.jsonl")
    assert (paused.returncode, paused.stdout) == (0, "")
    assert paused.stderr.startswith("paused")
    sidecar = tmp_path / ".out.jsonl.status.json"
    wait_for(lambda: sidecar.exists() and json.loads(sidecar.read_text())["run"]["in_flight"] == 0)
    arrived = len(provider.arrivals)
    assert "it is paused already" in llmbatch("pause", "out.jsonl").stderr
    status = json.loads(llmbatch("status", "out.jsonl", "--json").stdout)
    assert status["run"]["state"] == "paused"
    assert status["next"] == "paused; to go on: llmbatch resume out.jsonl"
    assert "no request begins until it is resumed" in llmbatch("status", "out.jsonl").stdout
    changed = llmbatch("set", "concurrency=8", "rpm=none", "out.jsonl")
    assert changed.stderr == "concurrency is 8 from now on; rpm is unlimited from now on\n"
    assert len(provider.arrivals) == arrived

    assert llmbatch("resume", "out.jsonl").stderr == "resumed\n"
    wait_for(lambda: len(provider.arrivals) > arrived + 50)
    assert "stopping" in llmbatch("drain", "out.jsonl").stderr
    _, errors = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 130
    rows = rows_of(tmp_path / "out.jsonl")
    assert len(rows) == len(set(rows)) == len(provider.arrivals)
    told = [event["event"] for event in events(errors)]
    assert [word for word in told if word in ("paused", "option_changed", "resumed")] == [
        "paused",
        "option_changed",
        "resumed",
    ]
    (span,) = read_history(tmp_path / "out.jsonl").pauses
    assert span.ended is not None
    assert span.ended > span.began
    assert not control.exists()


def test_a_run_that_was_killed_while_paused_resumes_unpaused(
    llmbatch: Run, start: Start, provider: Recorder, tmp_path: Path
) -> None:
    """Its socket is replaced; the pause is closed in the history, and nothing waits for anybody."""
    first = start()
    llmbatch("pause", "out.jsonl")
    first.kill()
    first.communicate()
    assert (tmp_path / "out.control").is_socket()
    gone = llmbatch("pause", "out.jsonl")
    assert gone.returncode == 2
    assert "no run is going on here" in gone.stderr

    arrived = len(provider.arrivals)
    second = start()
    wait_for(lambda: len(provider.arrivals) > arrived + 20)
    assert llmbatch("drain", "out.jsonl").returncode == 0
    second.communicate(timeout=DEADLINE_S)

    rows = rows_of(tmp_path / "out.jsonl")
    assert len(rows) == len(set(rows))
    assert not (tmp_path / "out.control").exists()


REFUSED = [
    (("set", "speed=9", "out.jsonl"), "'speed' is no option", "concurrency, rpm, tpm, max-cost"),
    (("set", "concurrency=0", "out.jsonl"), "concurrency is '0', must be", "llmbatch run --help"),
    (("set", "concurrency=auto", "out.jsonl"), "auto can only be chosen when a run begins", "-c auto"),
    (("set", "max-cost=5", "out.jsonl"), "this run has no --max-cost", "with --max-cost"),
    (("set", "out.jsonl"), "nothing is to be changed", "concurrency=80 out.jsonl"),
    (("set", "fast", "rpm=5", "out.jsonl"), "'fast' is not NAME=VALUE", "concurrency=80"),
    (("pause", "missing.jsonl"), "there is no such file", "prompts.results.jsonl"),
]


def test_commands_that_cannot_be_carried_out_change_nothing(
    llmbatch: Run, two_lines: TwoLines, start: Start, provider: Recorder
) -> None:
    """Exit code 2, what is wrong, and what to type; the run goes on as before."""
    process = start("--progress", "json")

    for words, error, hint in REFUSED:
        done = llmbatch(*words)
        assert done.returncode == 2
        told, advice = two_lines(done.stderr)
        assert error in told
        assert hint in advice

    arrived = len(provider.arrivals)
    wait_for(lambda: len(provider.arrivals) > arrived + 5)
    process.terminate()
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143
    assert "option_changed" not in errors


def test_where_no_run_is_going_on_the_hint_is_its_command(
    llmbatch: Run, two_lines: TwoLines, start: Start, tmp_path: Path
) -> None:
    """Also for ``resume``, which people type for a run that has stopped."""
    process = start()
    process.terminate()
    process.communicate(timeout=DEADLINE_S)

    error, hint = two_lines(llmbatch("resume", "out.jsonl").stderr)

    assert error == "out.jsonl: no run is paused here"
    assert "run the same command again: llmbatch run rows.jsonl -m m" in hint


def test_a_folder_of_parts_passes_commands_on_to_the_runs_of_its_parts(
    llmbatch: Run, two_lines: TwoLines, start: Start, provider: Recorder, tmp_path: Path
) -> None:
    """Each answers by itself; where none is going on, or none listens, that is what is said."""
    first, second = (start("--shard", f"{number}/3", output="results/") for number in (1, 2))

    said = llmbatch("set", "concurrency=5", "results")
    refused = llmbatch("set", "max-cost=5", "results")
    drained = llmbatch("drain", "results")
    for process in (first, second):
        process.communicate(timeout=DEADLINE_S)
    over = llmbatch("pause", "results")
    (tmp_path / "results" / "part-00001-of-00003.control").unlink(missing_ok=True)
    part = tmp_path / "results" / "part-00001-of-00003.jsonl"
    fd = open_locked(str(part), str(part))
    elsewhere = llmbatch("pause", "results")
    os.close(fd)

    assert said.stderr.splitlines() == [
        f"part-0000{number}-of-00003.jsonl: concurrency is 5 from now on" for number in (1, 2)
    ]
    assert two_lines(refused.stderr)[0].startswith("part-00001-of-00003.jsonl: this run has no --max-cost")
    assert drained.stderr.count("stopping") == 2
    assert (first.returncode, second.returncode) == (130, 130)
    assert over.returncode == elsewhere.returncode == 2
    assert two_lines(over.stderr)[0] == "results: no run of a part is going on here"
    assert two_lines(elsewhere.stderr)[0] == "results: the runs of part-00001-of-00003.jsonl take no commands here"


def test_a_folder_without_room_for_a_socket_is_a_note(start: Start, provider: Recorder, tmp_path: Path) -> None:
    """A file of the user's has its name: it is kept, and the run goes on."""
    (tmp_path / "out.control").write_text("mine")

    process = start("-n", "30", "--progress", "plain")
    _, errors = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 0
    assert "this run takes no commands" in errors
    assert (tmp_path / "out.control").read_text() == "mine"


def test_garbage_and_silence_on_the_socket_do_not_disturb_the_run(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred clients that say nothing, and some that say too much."""
    process = start("-n", "400", "--progress", "plain")
    monkeypatch.chdir(tmp_path)  # the whole path is longer than a socket's address
    clients = []
    for number in range(100):
        client = socket.socket(socket.AF_UNIX)
        client.connect("out.control")
        client.setblocking(False)
        if number % 3 == 0:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                client.send(os.urandom(100_000))
        clients.append(client)

    _, errors = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert len(rows_of(tmp_path / "out.jsonl")) == 400
    for client in clients:
        client.close()


@pytest.mark.parametrize("kind", ["plain", "none", "json"])
def test_a_signal_makes_a_run_tell_its_status(start: Start, provider: Recorder, kind: str) -> None:
    """As ``llmbatch status`` tells it: a block for people, one line for programs; and the run goes on."""
    process = start("--progress", kind)

    process.send_signal(signal.SIGUSR1)
    arrived = len(provider.arrivals)
    wait_for(lambda: len(provider.arrivals) > arrived + 100)
    process.terminate()
    _, errors = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 143
    if kind == "json":
        (status,) = [event for event in events(errors) if event["event"] == "status"]
        assert status["state"] == "running"
        assert status["pid"] == process.pid
        assert isinstance(status["rows"], int)
    else:
        assert "\nrunning     " in f"\n{errors}"
        assert f"process     {process.pid}" in errors
        assert "still running; no action needed" in errors


def test_a_run_to_standard_output_tells_its_numbers(start: Start, provider: Recorder) -> None:
    """It has no files that the status could be read from."""
    process = start("--progress", "none", output="-")

    process.send_signal(signal.SIGUSR1)
    arrived = len(provider.arrivals)
    wait_for(lambda: len(provider.arrivals) > arrived + 50)
    process.terminate()
    _, errors = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 143
    assert "5,000 rows" in errors
    assert "in flight" in errors


def test_the_first_commands_of_the_page_work_as_shown(llmbatch: Run, start: Start, provider: Recorder) -> None:
    """docs/control.md begins with a run, whose input there is, and with a pause of it, and shows what that says."""
    root = Path(__file__).parents[2]
    run, typed, said = (root / "docs" / "control.md").read_text().partition("$ llmbatch ")[2].splitlines()[:3]
    words = shlex.split(run, comments=True)
    assert (root / words[1]).is_file()
    start(output=words[words.index("-o") + 1])

    done = llmbatch(*typed.split()[2:])

    assert done.returncode == 0
    assert re.sub(r"\d+", "N", done.stderr.strip()) in (re.sub(r"\d+", "N", said), "paused")
