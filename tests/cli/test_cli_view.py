"""``llmbatch view``, as a process: its URL, its end, and what it refuses."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cli_parts import Run, TwoLines


@pytest.mark.traced
@pytest.mark.slow  # two processes, and some seconds of watching
def test_a_run_of_another_process_is_shown_live_until_it_has_finished(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """The list says that it runs; its page follows it, and says then how it ended."""
    words = [sys.executable, "-m", "llmbatch"]
    run = subprocess.Popen(
        [*words, "run", "-", "-o", "o.jsonl", "-m", "sim/steady", "-q"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
    )
    view = subprocess.Popen(
        [*words, "view", ".", "--port", "0"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert run.stdin is not None
        assert view.stdout is not None
        run.stdin.write(b'{"id":"first","prompt":"one"}\n')
        run.stdin.flush()
        port = int(view.stdout.readline().rstrip("/\n").rpartition(":")[2])

        assert wait_for(port, "/events", "list", ">running<")
        assert wait_for(port, "/run/o.jsonl/events", "head", "<dt>answered</dt><dd>1</dd>")
        run.stdin.write(b'{"id":"second","prompt":"two"}\n')
        run.stdin.flush()
        assert wait_for(port, "/run/o.jsonl/events", "latest", "second")
        run.stdin.close()
        assert run.wait(60) == 0
        assert wait_for(port, "/run/o.jsonl/events", "head", "2 rows: 2 answered")
        assert wait_for(port, "/events", "list", ">finished<")

        view.send_signal(signal.SIGINT)
        _, err = view.communicate(timeout=60)
        assert view.returncode == 0
        assert err == "Ctrl-C ends it; runs go on\n"
    finally:
        for process in (run, view):
            if process.poll() is None:
                process.kill()
                process.wait()


def wait_for(port: int, path: str, part: str, words: str) -> bool:
    """Watch *path* until a message's *part* has *words*."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while True:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status == 200:
            break
        answer.read()
    while line := answer.readline():
        if line.startswith(b"data: ") and words in json.loads(line[6:])["parts"].get(part, ""):
            connection.close()
            return True
    return False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gone",), "there is no such"),
        (("gone/o.jsonl",), "there is no such"),
        (("foreign.txt",), "is not an output of llmbatch"),
        ((".", "--port", "65536"), "--port is '65536', must be a whole number from 0 to 65,535"),
        ((".", "--port", "-1"), "must be a whole number from 0 to 65,535"),
    ],
)
def test_what_cannot_be_viewed_is_refused(
    llmbatch_here: Run, tmp_path: Path, two_lines: TwoLines, arguments: tuple[str, ...], words: str
) -> None:
    """Exit code 2, and nothing is served."""
    (tmp_path / "foreign.txt").write_text("hello\n")

    done = llmbatch_here("view", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert words in two_lines(done.stderr)[0]


def test_a_port_in_use_is_refused(llmbatch_here: Run, two_lines: TwoLines) -> None:
    """With what to type."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = llmbatch_here("view", ".", "--port", str(port))

    error, hint = two_lines(done.stderr)
    assert done.returncode == 2
    assert re.search(rf"port {port} is in use", error)
    assert "0 for any that is free" in hint
