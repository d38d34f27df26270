"""The live display in a real terminal, tmux, whose window changes its size. Slow: runs and waits are real."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,  # starts tmux and an interpreter in it
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed: apt-get install tmux"),
]

SCRIPT = """
import sys, time
from llmbatch.core.events import *
from llmbatch.display import make_display
label = "openrouter/a-vendor-with-a-name/a-family-of-models-v2-instruct-fp8"
print("\\n".join(f"a line of the shell {number}" for number in range(40)))
def warn(number):
    display.observe(Notice(time.monotonic(), "warning", f"notice {number}", ""))
with make_display("rich") as display:
    start = time.monotonic()
    display.observe(RunStarted(start, "prompts.jsonl", "prompts.results.jsonl", 40, 0, 0, 1000, max_outage=3600.0))
    for row in range(1, 60):
        at = start + row / 100
        display.observe(CallSent(at, label, row, 1, False))
        display.observe(CallEnded(at, label, row, False, "success", "", "", 200, 0.8, 1000, 4000))
        display.observe(RowFinished(at, label, row, "success", "", 1))
    display.observe(CircuitChanged(start + 1, label, "closed", "open", "5 rows in a row failed: overloaded", 30.0))
    for number, line in enumerate(iter(sys.stdin.readline, "end\\n")):
        warn(number)
print("after")
sys.stdin.readline()
"""
DEADLINE_S = 60.0


class Terminal:
    """A window of tmux that runs the script."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ("tmux", "-S", str(folder / "tmux"))
        (folder / "script.py").write_text(SCRIPT)
        # COLUMNS as some shells export it: it is the size at their start.
        command = f"stty -echo; COLUMNS=80 TERM=xterm-256color {sys.executable} {folder / 'script.py'}"
        self._run("-f", "/dev/null", "new-session", "-d", "-s", "x", "-x", "80", "-y", "24", command)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._run("capture-pane", "-p", "-t", "x").splitlines() if line.strip()]

    def history(self) -> list[str]:
        """All lines since the start, those that have scrolled away too."""
        text = self._run("capture-pane", "-p", "-t", "x", "-S", "-")
        return [line.rstrip() for line in text.splitlines() if line.strip()]

    def resize(self, columns: int, rows: int = 24) -> None:
        self._run("resize-window", "-t", "x", "-x", str(columns), "-y", str(rows))

    def type_enter(self) -> None:
        """The script logs a line."""
        self._run("send-keys", "-t", "x", "Enter")

    def end(self) -> None:
        """The script leaves the display."""
        self._run("send-keys", "-t", "x", "-l", "end")
        self._run("send-keys", "-t", "x", "Enter")

    def wait_for(self, condition: Callable[[list[str]], bool]) -> list[str]:
        until = time.monotonic() + DEADLINE_S
        while not condition(lines := self.lines()):
            assert time.monotonic() < until, lines
            time.sleep(0.05)
        return lines

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False, timeout=60)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    window = Terminal(tmp_path)
    yield window
    window.close()


def is_whole(columns: int) -> Callable[[list[str]], bool]:
    """Whether a picture drawn for so many columns is there, by the width of its bar."""

    def check(lines: list[str]) -> bool:
        rows = [line for line in lines if line.startswith("rows ")]
        return bool(rows) and len(rows[-1]) == columns - 1

    return check


def test_a_window_made_narrower_tore_the_picture(terminal: Terminal) -> None:
    """At every size one picture is on the screen, and nothing of it is left at the end."""
    for columns in (80, 40, 100, 50):
        terminal.resize(columns)
        lines = terminal.wait_for(is_whole(columns))

        for label in ("llmbatch", "rows", "speed", "calls", "circuit", "gives up", "failed", "tokens"):
            assert sum(line.startswith(label) for line in lines) == 1, (columns, lines)
        assert all(line.startswith("a line of the shell") for line in lines[:-8]), (columns, lines)
        assert next(line for line in lines if "○ open" in line).count("fp8") == 1
    terminal.end()

    lines = terminal.wait_for(lambda lines: "after" in lines)
    assert all(line.startswith("a line of the shell") for line in lines[:-1]), lines


@pytest.mark.parametrize(
    "sizes",
    [
        [(80, 6), (80, 24)],
        [(80, 6), (80, 8), (80, 5), (80, 24)],
        [(40, 6), (100, 24)],
        [(80, 5), (40, 5), (40, 24), (100, 30)],
        [(30, 8), (120, 30), (30, 6), (80, 24)],
    ],
)
def test_a_window_made_lower_and_higher_left_old_pictures_above(
    terminal: Terminal, sizes: list[tuple[int, int]]
) -> None:
    """What a lower window pushed into the history is erased when it comes back; lines logged meanwhile stay, once."""
    terminal.wait_for(is_whole(80))
    for number, (columns, rows) in enumerate(sizes):
        terminal.resize(columns, rows)
        terminal.type_enter()
        last = f"warning: notice {number}"
        while not any(last in line for line in terminal.history()):
            time.sleep(0.05)

    history = terminal.history()
    for label in ("llmbatch", "rows", "speed", "calls", "circuit", "gives up", "failed", "tokens"):
        assert sum(line.startswith(label) for line in history) == 1, history
    shell = [line for line in history if line.startswith("a line of the shell")]
    assert shell == [f"a line of the shell {number}" for number in range(40)]
    assert [line[-8:] for line in history if "warning: notice" in line] == [
        f"notice {number}" for number in range(len(sizes))
    ]
    terminal.end()
    terminal.wait_for(lambda lines: lines[-1] == "after" and "warning: notice" in lines[-2])
