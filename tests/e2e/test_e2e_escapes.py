"""Names, errors and answers that would steer a terminal: shown in a real one, they are only text."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_recorder import Recorder, answer, error

pytestmark = pytest.mark.slow  # a process each

EVIL = {
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil.invalid/\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "colours": "\x1b[41mEVILRED\x1b[0m\x1b[2J\x1b[1;1H",
    "c1": "\x9b41mEVILC1\x9d0;owned\x9c",
    "bidi": "\u202eEVILBIDI\u2066\u2069",
    "markup": "[red]EVILMARK[/red][link=http://evil.invalid]x[/link][/]",
    "lines": "EVIL\nLINE\r\nEVIL\r\x0b\x0c\u2028\u2029\x85",
    "nul": "\x00EVIL\x7f\x08\x08",
    "long": "EVILLONG" * 20_000,
}

STEERING = re.compile(r"\x1b\]|\x1b\[41m|\x1b\[2J|[\x00\x07\x08\x7f\x80-\x9f]|[\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What of the above must not reach a terminal in a form that it would obey."""


@pytest.fixture
def server() -> Iterator[Recorder]:
    everything = "".join(text for name, text in EVIL.items() if name != "long")
    refusal = error(400, f"code{everything}", f"message{everything}")
    recorder = Recorder(lambda arrival: refusal if b"bad" in arrival.body else answer(arrival))
    recorder.headers = {"x-request-id": "\\x1b[41m[red]req"}
    yield recorder
    recorder.close()


def in_terminal(folder: Path, *words: str) -> tuple[int, str]:
    """The exit code, and every character that the terminal was sent."""
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "llmbatch", *words],
        cwd=folder,
        stdin=side,
        stdout=side,
        stderr=side,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"},
    )
    os.close(side)
    seen = b""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if select.select([main], [], [], 0.1)[0]:
            try:
                part = os.read(main, 65536)
            except OSError:
                break  # the last descriptor of the other side was closed
            if not part:
                break
            seen += part
    process.kill()
    os.close(main)
    return process.wait(), seen.decode(errors="replace")


def assert_harmless(text: str) -> None:
    found = STEERING.search(text)
    assert found is None, repr(text[max(0, found.start() - 200) : found.end() + 100])


def write_rows(folder: Path) -> Path:
    rows = [{"id": text, "prompt": "bad " + text, "metadata": {"m": text}} for text in EVIL.values()]
    rows += [{"id": f"fine {number}", "prompt": "fine"} for number in range(10)]
    path = folder / "in [red]\x1b[41mEVIL.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("progress", ["rich", "plain", "json"])
def test_nothing_of_a_provider_or_a_row_steers_the_terminal(tmp_path: Path, server: Recorder, progress: str) -> None:
    """A run, on names, errors and a file name that try."""
    rows = write_rows(tmp_path)
    target = ("-m", "m[bold]\x1b[41m", "--base-url", server.url)

    code, shown = in_terminal(tmp_path, "run", rows.name, "-o", "out.jsonl", *target, "--progress", progress, "-vv")

    assert code == 1, shown
    assert shown
    assert_harmless(shown)
    if progress == "json":
        for line in shown.replace("\r\n", "\n").splitlines():
            json.loads(line)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n")[:-1]]
    assert {line["id"] for line in lines} >= set(EVIL.values())


def test_no_other_command_steers_the_terminal(tmp_path: Path, server: Recorder) -> None:
    """Status and check of such rows, and a file name that is refused."""
    rows = write_rows(tmp_path)
    target = ("-m", "m[bold]\x1b[41m", "--base-url", server.url)
    in_terminal(tmp_path, "run", rows.name, "-o", "out.jsonl", *target, "-q")

    _, status = in_terminal(tmp_path, "status", "out.jsonl")
    _, checked = in_terminal(tmp_path, "check", rows.name, *target)
    _, refused = in_terminal(tmp_path, "run", "no such \x1b]0;owned\x07[red]file")

    for text in (status, checked, refused):
        assert text
        assert_harmless(text)
    assert "[red]" in refused  # as text


def test_a_summary_in_json_is_one_value(tmp_path: Path, server: Recorder) -> None:
    """For scripts: one line, whatever the names were."""
    rows = write_rows(tmp_path)

    words = ["run", rows.name, "-o", "out.jsonl", "-m", "m", "--base-url", server.url, "--json", "--progress", "none"]
    ended = subprocess.run(
        [sys.executable, "-m", "llmbatch", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert ended.returncode == 1
    assert ended.stdout.count("\n") == 1
    assert json.loads(ended.stdout)["failed"] == len(EVIL)
    assert_harmless(ended.stdout + ended.stderr)
