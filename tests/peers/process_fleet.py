"""Real processes of the command, with one store and one provider on loopback: what each call met, and when."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e_hostile import GOOD, Behavior, Call, HostileServer, error

DOWN = error(503)
LONG = error(400, "context_length_exceeded")
POISON = error(500)
BAD = {"long": LONG, "poison": POISON}
"""What is answered to prompts that end so, while the provider is up."""


@dataclass
class Provider:
    """Fine but for the spans that are set, in seconds since *began*; *sick*: whose rows always fail then.

    Answers take *latency* seconds, and *slow* has that of single workers.
    """

    began: float = 0.0
    down: tuple[float, float] = (0.0, 0.0)
    sick: tuple[str, float, float] = ("", 0.0, 0.0)
    latency: float = 0.1
    slow: dict[str, float] = field(default_factory=dict)
    calls: list[tuple[float, float, str, bool]] = field(default_factory=list)
    """Begin, end, worker and whether it was answered well, of each call."""

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def behave(self, call: Call) -> Behavior:
        now, worker = self.now, worker_of(call)
        is_down = self.down[0] <= now < self.down[1]
        is_sick = self.sick[0] == worker and self.sick[1] <= now < self.sick[2]
        return DOWN if is_down or is_sick else BAD.get(call.text.split()[-1], GOOD)

    def latency_of(self, call: Call) -> float:
        return self.slow.get(worker_of(call), self.latency)


NONE_BAD: Mapping[int, str] = {}
NONE_SLOW: Mapping[str, float] = {}


def worker_of(call: Call) -> str:
    """Which process sent the call: its prompts begin with its name; health checks tell nothing."""
    return call.text.split()[0]


@dataclass
class Process:
    """One process of the command."""

    name: str
    folder: Path
    process: asyncio.subprocess.Process
    err: str = ""

    @property
    def output(self) -> Path:
        return self.folder / f"{self.name}.results.jsonl"

    def numbers(self) -> list[int]:
        if not self.output.exists():
            return []
        return [json.loads(line)["row"] for line in self.output.read_text().splitlines()]

    async def wait(self) -> int:
        _, err = await self.process.communicate()
        self.err = err.decode()
        assert self.process.returncode is not None
        return self.process.returncode

    def notes(self, words: str) -> list[str]:
        return [line for line in self.err.splitlines() if words in line]


async def start_process(
    name: str,
    folder: Path,
    url: str,
    shared: str | None,
    *,
    rows: int,
    slots: int = 4,
    options: tuple[str, ...] = (),
    bad: Mapping[int, str] = NONE_BAD,
) -> Process:
    """Start the process *name*; *bad*: what prompts of rows end with, by their number."""
    source = folder / f"{name}.jsonl"
    if not source.exists():
        prompts = (f"{name} row {number} {bad.get(number, '')}".strip() for number in range(1, rows + 1))
        lines = [json.dumps({"prompt": prompt}) for prompt in prompts]
        source.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "llmbatch", "run", str(source), "-m", "test-model", "--base-url", url]
    command += ["-c", str(slots), "--progress", "plain", *options]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("LLMBATCH_")}
    environ |= {"PYTHONPATH": str(Path(__file__).parents[2]), "NO_COLOR": "1"}
    if shared is not None:
        environ |= {"STORE_URL": shared}
        command += ["--shared", "env:STORE_URL"]
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, cwd=folder, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    return Process(name, folder, process)


@dataclass
class Fleet:
    """Processes that all send by now, their provider, and all calls."""

    provider: Provider
    server: HostileServer
    processes: list[Process]

    @property
    def offset(self) -> float:
        """What is added to a call's time to get the provider's."""
        return self.server._start - self.provider.began

    def calls(self, begin: float, end: float, *, good: bool | None = None) -> list[Call]:
        """Calls sent from *begin* to *end*, seconds of the provider."""
        return [
            call
            for call in self.server.calls
            if begin <= call.at + self.offset < end and (good is None or call.is_good == good)
        ]

    def most_at_once(self, begin: float, end: float) -> int:
        """Most calls that were out at once, of those sent from *begin* to *end*."""
        steps = []
        for call in self.calls(begin, end):
            steps += [(call.at, 1), (call.ended or call.at, -1)]
        most = now = 0
        for _, step in sorted(steps):
            now += step
            most = max(most, now)
        return most

    async def sleep_until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self.provider.now))


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    shared: str | None,
    *,
    count: int,
    rows: int,
    latency: float = 0.1,
    slots: int = 4,
    options: tuple[str, ...] = (),
    bad: Mapping[int, str] = NONE_BAD,
    slow: Mapping[str, float] = NONE_SLOW,
) -> AsyncIterator[Fleet]:
    """Start *count* processes, and begin to count the time once each has sent a row."""
    provider = Provider(began=time.monotonic(), latency=latency, slow=dict(slow))
    async with HostileServer(provider.behave, latency=provider.latency_of) as server:
        processes = [
            await start_process(
                f"w{number}", folder, server.url, shared, rows=rows, slots=slots, options=options, bad=bad
            )
            for number in range(count)
        ]
        try:
            while len({worker_of(call) for call in server.calls}) < count:
                assert all(one.process.returncode is None for one in processes), await failed(processes)
                await asyncio.sleep(0.05)
            provider.began = time.monotonic()
            yield Fleet(provider, server, processes)
        finally:
            await kill_all(processes)


async def kill_all(processes: list[Process]) -> None:
    """Kill those that still run."""
    for one in processes:
        if one.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                one.process.kill()
            await one.process.wait()


async def failed(processes: list[Process]) -> str:
    ended = [one for one in processes if one.process.returncode is not None]
    return "\n".join([f"{one.name}: {await one.wait()} {one.err}" for one in ended])


async def end_all(fleet: Fleet, within: float = 240.0) -> list[int]:
    """Wait for all processes; return their exit codes."""
    async with asyncio.timeout(within):
        return list(await asyncio.gather(*(one.wait() for one in fleet.processes)))


def check_rows(fleet: Fleet, rows: int) -> None:
    """Every row of every process has exactly one line."""
    for one in fleet.processes:
        assert sorted(one.numbers()) == list(range(1, rows + 1)), f"{one.name}: a row is lost or twice"


Harm = Callable[[Any], Any]
