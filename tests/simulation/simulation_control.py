"""Stories of runs that are paused, resumed and changed at random moments, and what must hold for all of them.

One seed, one story: the real ``BatchRunner`` on a loop with virtual time, over the simulated disk and provider, while
commands come at drawn moments.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from random import Random

from simulation_disk import Machine, SimulatedFilesystem
from simulation_law import GuaranteeError
from simulation_provider import Phase, Provider, Weather
from simulation_story import INPUT, OUTPUT, StoryLoop

from llmbatch.core.events import CallEnded, CallSent, Event, OptionChanged, RunPaused, RunResumed
from llmbatch.report.summary import Summary
from llmbatch.runs.batch_runner import BatchRunner

LONGEST_S = 12 * 3600.0


class ControlWatch:
    """Sees every event; keeps the first claim that was broken."""

    def __init__(self, concurrency: int) -> None:
        self.limit = concurrency
        self.in_flight = 0
        self.paused = False
        self.pauses = self.changes = self.sent = 0
        self.most_since_change = 0
        self.broken: str | None = None

    def observe(self, event: Event) -> None:
        match event:
            case CallSent():
                self.in_flight += 1
                self.sent += 1
                self.most_since_change = max(self.most_since_change, self.in_flight)
                if self.paused:
                    self._break(f"a call for row {event.row} began in a pause (probe: {event.probe})")
                if self.in_flight > self.limit:
                    self._break(f"{self.in_flight} calls in flight, and {self.limit} are allowed")
            case CallEnded():
                self.in_flight -= 1
            case RunPaused():
                self.paused = True
                self.pauses += 1
            case RunResumed():
                self.paused = False
            case OptionChanged(name="concurrency", new=new):
                self.limit = int(new.removeprefix("auto:"))
                self.changes += 1
                self.most_since_change = 0
            case _:
                pass

    def _break(self, words: str) -> None:
        self.broken = self.broken or f"claim 13: {words}"


def draw_commands(rng: Random, seconds: float) -> list[tuple[float, str, int]]:
    """Moments in seconds, each with a command, and the concurrency that it sets; a run takes about *seconds*."""
    found: list[tuple[float, str, int]] = []
    at = 0.0
    for _ in range(rng.randint(1, 12)):
        at += rng.choice([0.0, rng.uniform(0, 0.1), rng.uniform(0, 0.3), rng.uniform(0, 2)]) * seconds
        kind = rng.choice(["pause", "pause", "resume", "resume", "set", "set", "set"])
        found.append((at, kind, rng.choice([1, 2, 3, 8, 20, 50])))
    if rng.random() < 0.5:
        found.append((at, "pause", 1))
    return [*found, (at + rng.choice([1.0, rng.uniform(0, 4000)]), "resume", 1)]


def draw_weather(rng: Random) -> Weather:
    phases: list[Phase] = []
    at = rng.uniform(0.5, 20)
    for _ in range(rng.choice([0, 1, 1, 2])):
        length = rng.choice([rng.uniform(1, 30), rng.uniform(30, 1500)])
        phases.append(Phase("down", at, at + length, (503,)))
        at += length + rng.uniform(1, 60)
    return Weather(phases)


def tell(seed: int) -> ControlWatch:
    """Live the story of *seed*.

    Raises:
        GuaranteeError: a claim was broken.
    """
    rng = Random(f"control:{seed}")
    concurrency = rng.choice([1, 2, 5, 20, 40])
    is_auto = rng.random() < 0.2
    rows = rng.choice([1, rng.randint(2, 40), rng.randint(40, 300)])
    latency = rng.choice([0.05, 0.5, 2.0])
    watch = ControlWatch(concurrency)
    machine = Machine(Random(seed))
    machine.put(INPUT, b"".join(b'{"prompt":"row %d"}\n' % number for number in range(1, rows + 1)))
    provider = Provider(seed, draw_weather(rng), latency=latency)
    rpm = 600.0 if rng.random() < 0.2 else None
    runner = BatchRunner(
        "m",
        base_url="http://p.invalid/v1",
        environ={},
        transport=provider,
        filesystem=SimulatedFilesystem(machine),
        observers=[watch],
        concurrency=f"auto:{concurrency}" if is_auto else concurrency,
        seed=seed,
        rpm=rpm,
    )
    loop = StoryLoop(limit=LONGEST_S, sync_seconds=0.05, rng=Random(seed))

    def give(kind: str, number: int) -> None:
        if kind == "set":
            runner.set(concurrency=number)
        else:
            getattr(runner, kind)()

    async def main() -> int:
        for at, kind, number in draw_commands(rng, latency * max(1.0, rows / concurrency)):
            asyncio.get_running_loop().call_later(at, give, kind, number)
        summary: Summary = await runner.run(INPUT, OUTPUT)
        return summary.exit_code

    try:
        code = loop.run_until_complete(main())
    except Exception as error:
        raise GuaranteeError(watch.broken or f"claim 13: the run does not end ({error!r})") from error
    finally:
        with contextlib.suppress(Exception):
            loop.close()
    if watch.broken is not None:
        raise GuaranteeError(watch.broken)
    numbers = sorted(json.loads(line)["row"] for line in (machine.get(OUTPUT) or b"").splitlines())
    if code != 0 or numbers != list(range(1, rows + 1)):
        raise GuaranteeError(f"claim 13: exit {code} with {len(numbers)} lines for {rows} rows")
    return watch
