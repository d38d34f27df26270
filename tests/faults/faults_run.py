"""A real `llmbatch run` in a process of its own, against a real server on loopback, and what must hold afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e_recorder import Arrival, Recorder, answer, error

STRACE = shutil.which("strace")
Here = Callable[..., "subprocess.CompletedProcess[str]"]
PATIENCE = 240.0
"""Seconds after which a run counts as hanging."""


def row_of(arrival: Arrival) -> int:
    """Prompts are `row N`, with words of the test's own behind; 0 for the smallest request."""
    content = json.loads(arrival.body)["messages"][-1]["content"]
    return int(content.split()[1]) if content.startswith("row ") else 0


def respond(arrival: Arrival) -> tuple[int, bytes]:
    """Every row is answered well but those that say `bad`."""
    if b" bad" in arrival.body:
        return error(400, "context_length_exceeded", "maximum context length is 10 tokens")
    return answer(arrival)


@dataclass(frozen=True)
class Ended:
    code: int
    """As the shell shows it: 128 + N after signal N."""
    stdout: str
    stderr: str


@dataclass
class Job:
    """One input, its output, and the same command as often as it takes."""

    folder: Path
    rows: int
    concurrency: int = 2
    bad: frozenset[int] = frozenset()
    delay: float = 0.01
    options: tuple[str, ...] = ()
    server: Recorder = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.input = self.folder / "in.jsonl"
        self.output = self.folder / "out.jsonl"
        self.deferred = self.folder / "out.deferred.jsonl"
        self.input.write_text(
            "".join(
                f'{{"prompt":"row {number}{" bad" if number in self.bad else ""}"}}\n'
                for number in range(1, self.rows + 1)
            )
        )
        self.server = Recorder(respond, delay=self.delay)

    def close(self) -> None:
        self.server.close()

    def command(self, *more: str) -> list[str]:
        return [
            *(sys.executable, "-m", "llmbatch", "run", str(self.input), "-o", str(self.output)),
            *("-m", "m", "--base-url", self.server.url, "-c", str(self.concurrency), "--progress", "plain"),
            *(*self.options, *more),
        ]

    def start(
        self, *more: str, before: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*before, *self.command(*more)],
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *more: str, before: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Ended:
        return finish(self.start(*more, before=before, environ=environ))

    def lines(self) -> dict[int, dict[str, Any]]:
        """The result lines, checked: whole and valid but for a torn end, and one a row."""
        if not self.output.exists():
            return {}
        *whole, _ = self.output.read_bytes().split(b"\n")
        found: dict[int, dict[str, Any]] = {}
        for number, line in enumerate(whole, 1):
            result = json.loads(line)
            assert result["row"] not in found, f"line {number}: row {result['row']} has two lines"
            assert result["status"] == ("failed" if result["row"] in self.bad else "success"), result
            found[result["row"]] = result
        return found

    def sent(self) -> Counter[int]:
        return Counter(map(row_of, self.server.arrivals))

    def check_complete(self) -> None:
        """Exactly one line a row, all of it valid, and nothing left over."""
        data = self.output.read_bytes()
        assert data.endswith(b"\n")
        assert sorted(self.lines()) == list(range(1, self.rows + 1))
        assert not self.deferred.exists()
        assert not list(self.folder.glob(".*llmbatch-new"))

    def run_here(self, here: Here, *more: str) -> Ended:
        """The command within this process, by the fixture ``command_here``."""
        done = here(self.folder, os.environ, *self.command(*more)[3:])
        return Ended(done.returncode, done.stdout, done.stderr)

    def finish_in_peace(self, *more: str, here: Here | None = None) -> Ended:
        """The same command with nothing in its way: it completes, and sends no row that has its line.

        Within this process where *here* is the fixture that does so, which takes a third of the time.
        """
        done = set(self.lines())
        before = len(self.server.arrivals)
        ended = self.run(*more) if here is None else self.run_here(here, *more)
        assert ended.code == (1 if self.bad else 0), ended
        again = {row_of(arrival) for arrival in self.server.arrivals[before:]}
        assert not again & done, f"rows {sorted(again & done)} had their lines and were sent again"
        self.check_complete()
        return ended


def finish(process: subprocess.Popen[str]) -> Ended:
    """Wait for the end; kill what hangs."""
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        stdout, stderr = process.communicate()
    finally:
        watchdog.cancel()
    assert watchdog.finished.is_set()
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    assert "Traceback" not in stderr, stderr
    return Ended(code, stdout, stderr)


def inject(log: Path, calls: str, fault: str, number: int, *paths: Path) -> list[str]:
    """The words before a command in which call *number* of *calls* on *paths* meets *fault*, as strace spells it."""
    assert STRACE is not None
    watched = [word for path in paths for word in ("-P", str(path))]
    return [
        *(STRACE, "-f", "-q", "-o", str(log), *watched),
        *("-e", f"trace={calls}", "-e", f"inject={calls}:{fault}:when={number}"),
    ]


def was_injected(log: Path) -> bool:
    """Whether the run met its fault at all."""
    text = log.read_text()
    return "(INJECTED)" in text or "killed by SIGKILL" in text


KILLED = 128 + signal.SIGKILL
