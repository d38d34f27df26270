"""``--notify`` on whole runs: what the command gets, what it does not get, and the examples for mail, Slack and ntfy.

Slow: whole runs, each with a command.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Run, TwoLines
from e2e_recorder import Recorder, error

pytestmark = [
    pytest.mark.traced,
    pytest.mark.slow,  # whole runs, each with a command
    pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a POSIX shell"),
]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "notify"


@pytest.fixture
def provider() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.close()


def test_the_end_of_a_run_is_told(llmbatch: Run, prompts: Path, provider: Recorder, tmp_path: Path) -> None:
    """JSON on standard input, four variables, and no key of the run, under whatever name."""
    command = "cat > told.json; env > env.txt; echo words of the command"
    keys = {"OPENAI_API_KEY": "sk-not-for-commands-1", "MY_KEY": "sk-not-for-commands-2"}
    others = {"COPY": "user:sk-not-for-commands-2@host", "SLACK_WEBHOOK_URL": "http://hook"}

    where = ("-m", "m", "--base-url", provider.url, "--api-key-env", "MY_KEY")
    done = llmbatch("run", "prompts.jsonl", *where, "--notify", command, **keys, **others)

    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["event"] == "finished"
    assert told["text"] == "3 rows: 3 answered"
    assert told["counts"] == {"rows": 3, "done": 3, "success": 3, "failed": 0, "deferred": 0}
    assert (told["exit_code"], told["needs_action"], told["output"]) == (0, False, "prompts.results.jsonl")
    assert told["command"].startswith("llmbatch run prompts.jsonl")
    assert "prompts.results.jsonl" in told["next"]
    lines = (tmp_path / "env.txt").read_text()
    assert "sk-not-for-commands" not in lines
    assert "SLACK_WEBHOOK_URL=http://hook" in lines
    assert "NOTIFY_EVENT=finished" in lines
    assert "NOTIFY_TEXT=3 rows: 3 answered" in lines
    assert "NOTIFY_OUTPUT=prompts.results.jsonl" in lines
    assert "NOTIFY_EXIT_CODE=0" in lines
    assert "words of the command" not in done.stderr + done.stdout


def test_the_end_of_a_run_of_several_processes_is_told_as_that_of_one(
    llmbatch: Run, prompts: Path, provider: Recorder, tmp_path: Path
) -> None:
    """All members but the command: also why it ended."""
    where = (
        "run",
        "prompts.jsonl",
        "-m",
        "m",
        "--base-url",
        provider.url,
        "--overwrite",
        "--notify",
        "cat > told.json",
    )
    told = []
    for workers in ("1", "2"):
        done = llmbatch(*where, "--workers", workers)
        assert done.returncode == 0, done.stderr
        told.append(json.loads((tmp_path / "told.json").read_text()))

    one, several = ({**value, "time": "", "command": ""} for value in told)
    assert one == several
    assert several["reason"] == "finished"


def test_a_stop_that_needs_somebody_is_told(llmbatch: Run, prompts: Path, provider: Recorder, tmp_path: Path) -> None:
    """The key is refused: exit 3, what the provider says, and what to do."""
    provider.respond = lambda arrival: error(401, "invalid_api_key", "Incorrect API key provided")

    done = llmbatch("run", "prompts.jsonl", "-m", "m", "--base-url", provider.url, "--notify", "cat > told.json")

    assert done.returncode == 3
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["event"], told["exit_code"], told["needs_action"]) == ("stopped", 3, True)
    assert told["text"].startswith("stopped: ")
    assert told["reason"]


def test_a_command_that_fails_changes_nothing_of_the_run(llmbatch: Run, prompts: Path, provider: Recorder) -> None:
    """It is a note, also where standard error is for programs."""
    where = ("-m", "m", "--base-url", provider.url, "--overwrite", "--notify", "echo nobody listens; exit 4")

    plain = llmbatch("run", "prompts.jsonl", *where, "--progress", "plain")
    as_json = llmbatch("run", "prompts.jsonl", *where, "--progress", "json")

    assert plain.returncode == as_json.returncode == 0
    assert "--notify failed with exit code 4: nobody listens" in plain.stderr
    notes = [json.loads(line) for line in as_json.stderr.splitlines()]
    assert any("--notify failed" in str(note.get("message")) for note in notes)


def test_a_folder_cannot_choose_the_command(llmbatch: Run, prompts: Path, provider: Recorder, tmp_path: Path) -> None:
    """A ``./llmbatch.toml`` may come with somebody else's files: its notify is ignored, and that is told."""
    (tmp_path / "llmbatch.toml").write_text('notify = "touch pwned"\n')

    done = llmbatch("run", "prompts.jsonl", "-m", "m", "--base-url", provider.url)

    assert done.returncode == 0
    assert "notify" in done.stderr
    assert not (tmp_path / "pwned").exists()


def test_an_empty_command_is_refused(llmbatch: Run, two_lines: TwoLines, prompts: Path) -> None:
    """Before anything is sent."""
    done = llmbatch("run", "prompts.jsonl", "-m", "sim/steady", "--notify", "")

    assert done.returncode == 2
    assert "--notify is empty" in two_lines(done.stderr)[0]


# The examples.


class Post:
    """A server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *arguments: Any) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def post() -> Iterator[Post]:
    server = Post()
    yield server
    server.close()


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
def test_the_example_for_slack_posts_text(llmbatch: Run, prompts: Path, provider: Recorder, post: Post) -> None:
    """As Slack's webhooks want it, with its three characters escaped."""
    command = f"sh {EXAMPLES}/slack.sh"

    where = ("-m", "m", "--base-url", provider.url, "-o", "a<b&c.jsonl")
    done = llmbatch("run", "prompts.jsonl", *where, "--notify", command, SLACK_WEBHOOK_URL=post.url)

    assert done.returncode == 0
    assert "note: --notify" not in done.stderr
    (body,) = post.bodies
    text = json.loads(body)["text"]
    assert text.startswith("3 rows: 3 answered\n")
    assert "a&lt;b&amp;c.jsonl" in text
    assert post.headers[0]["content-type"] == "application/json"


@needs_curl
def test_the_example_for_ntfy_posts_the_text(llmbatch: Run, prompts: Path, provider: Recorder, post: Post) -> None:
    """With a title, and more urgently where somebody has to act."""
    provider.respond = lambda arrival: error(401, "invalid_api_key", "no")

    where = ("-m", "m", "--base-url", provider.url)
    done = llmbatch("run", "prompts.jsonl", *where, "--notify", f"NTFY_URL={post.url} sh {EXAMPLES}/ntfy.sh")

    assert done.returncode == 3
    assert "note: --notify" not in done.stderr
    assert post.bodies[0].startswith(b"stopped: ")
    assert post.headers[0]["title"] == "llmbatch: stopped"
    assert post.headers[0]["priority"] == "high"


def test_the_example_for_mail_sends_the_json(
    llmbatch: Run, prompts: Path, provider: Recorder, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Through the program ``mail``, here a stand-in that keeps what it gets."""
    folder = tmp_path / "bin"
    folder.mkdir()
    mail = folder / "mail"
    mail.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\ncat > {tmp_path}/body\n')
    mail.chmod(0o700)

    where = ("-m", "m", "--base-url", provider.url)
    command = f"MAIL_TO=me@example.org sh {EXAMPLES}/mail.sh"
    path = f"{folder}:{environment['PATH']}"
    done = llmbatch("run", "prompts.jsonl", *where, "--notify", command, PATH=path)

    assert done.returncode == 0
    assert "note: --notify" not in done.stderr
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "-s",
        "llmbatch: finished: 3 rows: 3 answered",
        "me@example.org",
    ]
    assert json.loads((tmp_path / "body").read_text())["event"] == "finished"
