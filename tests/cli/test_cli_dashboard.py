"""``run --dashboard``: the page of a run that goes on, over real sockets; whatever befalls it, the run goes on."""

from __future__ import annotations

import html
import http.client
import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from cli_parts import Run

SECRET_PROMPT = "the prompt that nobody sees"


class LiveRun:
    """A run that reads its rows from a pipe, which stays open for as long as a test wants."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        words = [sys.executable, "-m", "llmbatch", "run", "-", "-m", "sim/steady", "--progress", "plain", *arguments]
        self.process = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def pipe(self, name: str) -> IO[bytes]:
        """One of its standard streams."""
        found: IO[bytes] | None = getattr(self.process, name)
        assert found is not None
        return found

    def send(self, *rows: dict[str, Any]) -> None:
        """Hand rows in."""
        self.pipe("stdin").write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        self.pipe("stdin").flush()

    def port(self) -> int:
        """Where its dashboard is."""
        for line in self.pipe("stderr"):
            found = re.search(rb"dashboard: http://127\.0\.0\.1:(\d+)/$", line.rstrip())
            if found is not None:
                return int(found[1])
        raise AssertionError("it has told no dashboard")

    def end(self) -> tuple[int, str]:
        """No more rows: the exit code, and the rest of standard error."""
        _, err = self.process.communicate(timeout=120)
        return self.process.returncode, err.decode()


class Events:
    """The messages of a dashboard."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.request("GET", "/events")
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200

    def next(self) -> dict[str, Any]:
        """The next one."""
        while line := self._answer.readline():
            if line.startswith(b"data: "):
                return dict(json.loads(line[6:]))
        raise AssertionError("the stream has ended")

    def until(self, words: str, part: str = "head") -> dict[str, Any]:
        """The first whose *part* has *words*."""
        while words not in (message := self.next())["parts"].get(part, ""):
            pass
        return message


def get(port: int, path: str = "/", method: str = "GET") -> tuple[int, str]:
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.fixture
def live_run(tmp_path: Path, environment: dict[str, str]) -> Iterator[Any]:
    """Starts runs, and ends those that a test has left."""
    started: list[LiveRun] = []

    def start(*arguments: str) -> LiveRun:
        started.append(LiveRun(tmp_path, environment, *arguments))
        return started[-1]

    yield start
    for run in started:
        if run.process.poll() is None:
            run.process.kill()
            run.process.communicate()


@pytest.mark.traced
@pytest.mark.slow  # starts a run, and watches it for some seconds
def test_the_page_follows_the_run_and_tells_its_end(live_run: Any) -> None:
    """Counters, charts and tables while rows come in; at the end the verdict, what to type, and no server any more."""
    run = live_run("-o", "o.jsonl", "--dashboard", "0")
    port = run.port()
    run.send(*({"id": f"r{n}", "prompt": SECRET_PROMPT} for n in range(5)))
    events = Events(port)

    events.until("<dt>answered</dt><dd>5</dd>")
    events.until("r4", "latest")
    run.send({"id": "r5", "prompt": "one more"})
    live = events.until("<dt>answered</dt><dd>6</dd>")
    status, page = get(port)

    assert status == 200
    assert "6 answered" in page
    assert "the run goes on" in page
    assert SECRET_PROMPT not in page
    assert live["chart"]["buckets"]
    assert not live["final"]
    code, err = run.end()
    last = live
    while not last["final"]:
        last = events.next()
    assert (code, "6 success" in err) == (0, True)
    assert "6 rows: 6 answered" in last["parts"]["head"]
    assert "results are in o.jsonl" in last["parts"]["head"]
    assert "The run has ended" in last["status"]
    with pytest.raises(ConnectionRefusedError):
        get(port)


@pytest.mark.traced
@pytest.mark.slow  # two runs
@pytest.mark.parametrize("shown", [False, True])
def test_answers_are_shown_only_if_that_is_asked_for(live_run: Any, tmp_path: Path, shown: bool) -> None:
    """Neither on the page, nor in what is sent to it."""
    arguments = ["--dashboard-show-text"] if shown else []
    run = live_run("-o", "o.jsonl", "--dashboard", "0", *arguments)
    port = run.port()
    run.send({"id": "r0", "prompt": SECRET_PROMPT})

    message = Events(port).until("r0", "latest")
    answer = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])["text"]

    for text in (message["parts"]["latest"], get(port)[1]):
        assert (html.escape(answer[:40]) in text) == (">answer</th>" in text) == shown
    assert run.end()[0] == 0


@pytest.mark.traced
@pytest.mark.slow  # a whole run
def test_a_port_in_use_leaves_the_run_as_it_is(llmbatch: Run, prompts: Path) -> None:
    """A note names the port and what to type; every row is sent."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = llmbatch("run", prompts.name, "-m", "sim/steady", "--progress", "plain", "--dashboard", str(port))

    assert done.returncode == 0
    assert f"no dashboard: port {port} is in use" in done.stderr
    assert "0 for any that is free" in done.stderr
    assert "3 success" in done.stderr


@pytest.mark.parametrize("value", ["-1", "65536", "http", "1.5", "0.0.0.0:80"])
def test_what_is_no_port_is_refused_before_anything_is_sent(llmbatch_here: Run, prompts: Path, value: str) -> None:
    """Exit code 2."""
    done = llmbatch_here("run", prompts.name, "-m", "sim/steady", f"--dashboard={value}")

    assert done.returncode == 2
    assert "--dashboard" in done.stderr
    assert not prompts.with_name("prompts.results.jsonl").exists()


@pytest.mark.traced
@pytest.mark.slow  # a whole run
def test_requests_of_all_kinds_disturb_no_run(live_run: Any) -> None:
    """Refused ones, garbage, and connections that are left open."""
    run = live_run("-o", "o.jsonl", "--dashboard", "0")
    port = run.port()
    left_open = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for connection in left_open:
        connection.sendall(b"\xff\x00 no request" * 100)

    assert get(port, "/", "POST")[0] == 405
    assert get(port, "/../../etc/passwd")[0] == 404
    run.send({"id": "a", "prompt": "one"})
    code, err = run.end()

    assert code == 0
    assert "1 success" in err
    assert "Traceback" not in err
    for connection in left_open:
        connection.close()


@pytest.mark.traced
@pytest.mark.slow  # a whole run
def test_standard_output_has_a_dashboard_too(live_run: Any) -> None:
    """With counters and charts; of single rows nothing is known."""
    run = live_run("-o", "-", "--dashboard", "0")
    port = run.port()
    run.send({"id": "a", "prompt": "one"})

    message = Events(port).until("<dt>answered</dt><dd>1</dd>")

    assert message["chart"]["buckets"]
    assert run.end()[0] == 0


@pytest.mark.traced
@pytest.mark.slow  # two processes
def test_the_commands_of_the_page_run(llmbatch: Run, tmp_path: Path, environment: dict[str, str]) -> None:
    """``docs/dashboard.md`` begins with a run, whose output ``llmbatch view`` shows."""
    root = Path(__file__).parents[2]
    blocks = (root / "docs" / "dashboard.md").read_text(encoding="utf-8").split("```sh\n")[1:]
    words = shlex.split(blocks[0].split("\n")[0])
    views = [shlex.split(line, comments=True) for line in blocks[1].split("```")[0].splitlines() if line]
    (tmp_path / "examples").mkdir()
    rows = (root / words[2]).read_bytes().splitlines(keepends=True)
    (tmp_path / words[2]).write_bytes(b"".join(rows[:20]))  # those before the outage

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    done = llmbatch(*(port if word == "8123" else word for word in words[1:]))

    assert (words[0], done.returncode) == ("llmbatch", 0), done.stderr
    assert f"dashboard: http://127.0.0.1:{port}/" in done.stderr
    (tmp_path / "data").mkdir()
    for view in views:
        command = [word.replace("/data/runs", str(tmp_path / "data")) for word in view]
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", "0"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        found = re.fullmatch(rb"http://127\.0\.0\.1:(\d+)/\n", process.stdout.readline())
        assert found is not None
        assert "1 output: 1 finished" in get(int(found[1]))[1]
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()
