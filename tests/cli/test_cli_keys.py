"""Keys in a real pseudo-terminal: what they do to a run, and that the terminal is always given back.

Slow: whole runs in a terminal of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e_recorder import Recorder

pytestmark = [pytest.mark.slow, pytest.mark.traced]  # whole runs, in real time

DEADLINE_S = 120.0


class Terminal:
    """A terminal, and the session of processes that it controls."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment | {"TERM": "xterm-256color"}
        self._main, self.side = pty.openpty()
        termios.tcsetwinsize(self.side, (30, 100))
        self.usual = self.modes()
        self.screen = b""
        self._started: list[subprocess.Popen[bytes]] = []

    def modes(self) -> list[object]:
        return termios.tcgetattr(self.side)

    @property
    def is_single(self) -> bool:
        """Whether it gives single keys."""
        return not int(str(self.modes()[3])) & termios.ICANON

    def start(self, *command: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(self.side, termios.TIOCSCTTY, 0)

        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self._folder,
            env=self._environment,
            stdin=self.side if stdin is None else stdin,
            stdout=self.side,
            stderr=self.side,
            preexec_fn=take_terminal,
        )
        self._started.append(process)
        return process

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def wait_for(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < until, self.screen.decode(errors="replace")[-3000:]
            if select.select([self._main], [], [], 0.02)[0]:
                with contextlib.suppress(OSError):
                    self.screen += os.read(self._main, 65536)

    def end_of(self, process: subprocess.Popen[bytes]) -> int:
        self.wait_for(lambda: process.poll() is not None)
        return int(process.returncode)

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        os.close(self._main)
        os.close(self.side)


@pytest.fixture
def provider() -> Iterator[Recorder]:
    server = Recorder(delay=0.02)
    yield server
    server.close()


@pytest.fixture
def terminal(tmp_path: Path, environment: dict[str, str]) -> Iterator[Terminal]:
    (tmp_path / "rows.jsonl").write_text("".join(f'"row {number}"\n' for number in range(5000)))
    made = Terminal(tmp_path, environment)
    yield made
    made.close()


def command(provider: Recorder, *more: str, rows: str = "rows.jsonl") -> tuple[str, ...]:
    where = ("-m", "m", "--base-url", provider.url, "-o", "out.jsonl")
    return ("-m", "llmbatch", "run", rows, *where, "-c", "4", *more)


def sidecar(folder: Path) -> dict[str, object]:
    path = folder / ".out.jsonl.status.json"
    return dict(json.loads(path.read_text())["run"]) if path.exists() else {}


def test_keys_pause_resume_change_and_stop_a_run(terminal: Terminal, provider: Recorder, tmp_path: Path) -> None:
    """The last line of the display names them; the terminal is as before afterwards."""
    process = terminal.start(*command(provider))
    terminal.wait_for(lambda: terminal.is_single and b"p pause" in terminal.screen and len(provider.arrivals) > 20)

    terminal.type("p")
    terminal.wait_for(lambda: b"r resume" in terminal.screen and sidecar(tmp_path).get("state") == "paused")
    arrived = len(provider.arrivals)
    terminal.type("?")
    terminal.wait_for(lambda: b"a tenth more, or fewer" in terminal.screen)
    assert len(provider.arrivals) == arrived

    terminal.type("+")
    terminal.wait_for(lambda: b"concurrency is 5 from now on (was 4)" in terminal.screen)
    terminal.type("-")
    terminal.wait_for(lambda: b"concurrency is 4 from now on (was 5)" in terminal.screen)
    terminal.type("r")
    terminal.wait_for(lambda: len(provider.arrivals) > arrived + 20)
    terminal.type("q")

    assert terminal.end_of(process) == 130
    assert terminal.modes() == terminal.usual
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["row"] for line in lines}) == len(provider.arrivals)
    assert list(tmp_path.glob("*.control")) == []


def test_keys_control_a_run_of_several_processes(terminal: Terminal, provider: Recorder, tmp_path: Path) -> None:
    """As one of one process: the display shows the whole."""
    process = terminal.start(*command(provider, "--workers", "2"))
    terminal.wait_for(lambda: terminal.is_single and b"p pause" in terminal.screen and len(provider.arrivals) > 20)

    terminal.type("p")
    terminal.wait_for(lambda: b"r resume" in terminal.screen and sidecar(tmp_path).get("state") == "paused")
    terminal.type("+")
    terminal.wait_for(lambda: b"concurrency is 5 from now on (was 4)" in terminal.screen)
    terminal.type("r")
    arrived = len(provider.arrivals)
    terminal.wait_for(lambda: len(provider.arrivals) > arrived + 20)
    terminal.type("q")

    assert terminal.end_of(process) == 130
    assert terminal.modes() == terminal.usual
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["row"] for line in lines}) == len(provider.arrivals)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_every_signal_that_ends_a_run_gives_the_terminal_back(
    terminal: Terminal, provider: Recorder, number: signal.Signals
) -> None:
    """Also the one that ends it without another word."""
    process = terminal.start(*command(provider))
    terminal.wait_for(lambda: terminal.is_single and len(provider.arrivals) > 5)

    process.send_signal(number)

    assert terminal.end_of(process) in (128 + number, -number)
    assert terminal.modes() == terminal.usual


def test_an_error_in_the_middle_gives_the_terminal_back(terminal: Terminal, provider: Recorder, tmp_path: Path) -> None:
    """The output is renamed under the run, which ends it with 74."""
    process = terminal.start(*command(provider))
    terminal.wait_for(lambda: terminal.is_single and len(provider.arrivals) > 5)

    (tmp_path / "out.jsonl").rename(tmp_path / "elsewhere.jsonl")

    assert terminal.end_of(process) == 74
    assert terminal.modes() == terminal.usual


def test_a_suspended_run_gives_the_terminal_to_the_shell(
    terminal: Terminal, provider: Recorder, tmp_path: Path
) -> None:
    """Ctrl-Z, with the cursor that the shell needs; and after ``fg`` keys work again."""
    (tmp_path / "shell.py").write_text(SHELL)
    shell = terminal.start("shell.py", *command(provider))
    terminal.wait_for(lambda: terminal.is_single and len(provider.arrivals) > 5)

    terminal.type("\x1a")
    terminal.wait_for(lambda: b"[stopped]" in terminal.screen)
    assert terminal.modes() == terminal.usual
    assert terminal.screen.rindex(b"\x1b[?25h") > terminal.screen.rindex(b"\x1b[?25l")
    arrived = len(provider.arrivals)

    terminal.type("fg\n")
    terminal.wait_for(lambda: terminal.is_single and len(provider.arrivals) > arrived + 5)
    terminal.type("q")
    terminal.wait_for(lambda: b"[ended 130]" in terminal.screen)
    assert terminal.modes() == terminal.usual
    terminal.type("exit\n")
    assert terminal.end_of(shell) == 0


def test_a_run_in_the_background_takes_no_keys(terminal: Terminal, provider: Recorder, tmp_path: Path) -> None:
    """It goes on, is not stopped for reading, and leaves what is typed to the shell; in the foreground it listens."""
    (tmp_path / "shell.py").write_text(SHELL)
    shell = terminal.start("shell.py", *command(provider))
    terminal.wait_for(lambda: terminal.is_single and len(provider.arrivals) > 5)
    terminal.type("\x1a")
    terminal.wait_for(lambda: b"[stopped]" in terminal.screen)
    arrived = len(provider.arrivals)

    terminal.type("bg\n")
    terminal.wait_for(lambda: len(provider.arrivals) > arrived + 5)
    for word in ("ppp", "qqq", "p"):
        terminal.type(f"{word}\n")
        terminal.wait_for(lambda word=word: f"[heard {word}]".encode() in terminal.screen)  # type: ignore[misc]
    assert terminal.modes() == terminal.usual
    arrived = len(provider.arrivals)
    terminal.wait_for(lambda: len(provider.arrivals) > arrived + 20)

    shown = terminal.screen.count(b"p pause")
    terminal.type("fg\n")
    terminal.wait_for(lambda: terminal.is_single and terminal.screen.count(b"p pause") > shown)  # it listens by then
    terminal.type("q")
    terminal.wait_for(lambda: b"[ended 130]" in terminal.screen)
    assert terminal.modes() == terminal.usual
    terminal.type("exit\n")
    assert terminal.end_of(shell) == 0


def test_pasted_text_is_no_command(terminal: Terminal, provider: Recorder) -> None:
    """Nor are the keys that send several characters, such as arrows."""
    process = terminal.start(*command(provider))
    terminal.wait_for(lambda: terminal.is_single and len(provider.arrivals) > 5)

    for text in ("cp prompts q", "\x1b[A", "\x1bOP", "é", "x"):
        terminal.type(text)
        arrived = len(provider.arrivals)
        terminal.wait_for(lambda arrived=arrived: len(provider.arrivals) > arrived + 8)  # type: ignore[misc]

    assert b"paused" not in terminal.screen
    terminal.type("q")
    assert terminal.end_of(process) == 130


@pytest.mark.parametrize("more", [("--progress", "plain"), ("--progress", "json"), ("-q",), ("--progress", "none")])
def test_without_the_live_display_the_terminal_is_left_alone(
    terminal: Terminal, provider: Recorder, more: tuple[str, ...]
) -> None:
    """Nobody would know of the keys."""
    process = terminal.start(*command(provider, *more))
    terminal.wait_for(lambda: len(provider.arrivals) > 20)

    assert terminal.modes() == terminal.usual
    process.send_signal(signal.SIGTERM)
    assert terminal.end_of(process) == 143


def test_rows_from_standard_input_are_no_keys(terminal: Terminal, provider: Recorder) -> None:
    """A terminal may be the input: what is typed is a row."""
    process = terminal.start(*command(provider, rows="-"))
    terminal.type('"p"\n')
    terminal.wait_for(lambda: len(provider.arrivals) == 1)

    assert terminal.modes() == terminal.usual
    terminal.type("\x04")
    assert terminal.end_of(process) == 0


SHELL = """
import os, signal, subprocess, sys, termios
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
signal.signal(signal.SIGTSTP, signal.SIG_IGN)
me, modes = os.getpgrp(), termios.tcgetattr(0)
def own():
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
job = subprocess.Popen([sys.executable, *sys.argv[1:]], preexec_fn=own).pid
def watch():
    _, status = os.waitpid(job, os.WUNTRACED)
    os.tcsetpgrp(0, me)
    if os.WIFSTOPPED(status):
        print("[stopped]", flush=True)
    else:
        print(f"[ended {os.waitstatus_to_exitcode(status)}]", flush=True)
watch()
for line in sys.stdin:
    word = line.strip()
    if word == "fg":
        os.tcsetpgrp(0, job)
        os.killpg(job, signal.SIGCONT)
        watch()
    elif word == "bg":
        os.killpg(job, signal.SIGCONT)
    elif word == "exit":
        break
    else:
        print(f"[heard {word}]", flush=True)
"""
"""As much of a shell as has jobs: it runs one in the foreground, which may be stopped and continued."""
