"""A job that goes through batch APIs, in virtual time: lives of the command on a simulated disk and provider.

The provider, its clock and the disk go on from life to life; a life may be killed in any call to either.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from random import Random
from typing import Any

from simulation_disk import Killed, Machine, SimulatedFilesystem
from simulation_story import StoryLoop, bury

from llmbatch.core.events import Event
from llmbatch.core.exchange import HttpCall
from llmbatch.report.summary import Summary
from llmbatch.runs.batch_runner import BatchRunner
from llmbatch.sim.batches.rules import BatchRules
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.virtual import StreamedReply, VirtualTransport

__all__ = ["INPUT", "JOURNAL", "ORIGIN", "OUTPUT", "LifeTransport", "World", "prompt"]

INPUT = "/data/in.jsonl"
OUTPUT = "/data/out.jsonl"
JOURNAL = "/data/out.batch.jsonl"
EPOCH = 1_795_000_000.0
ORIGIN = "http://provider.invalid"


def prompt(number: int) -> str:
    """The prompt of row *number*."""
    return f"Tell of row {number}"


class LifeTransport(VirtualTransport):
    """The network of one life: calls in the order in which they are made, one of which may kill the process."""

    def __init__(self, world: World, kill_call: int | None, when: str, disk: SimulatedFilesystem) -> None:
        super().__init__(world.provider)
        self._world = world
        self._first = -world.clock
        self._kill_call, self._when, self._disk = kill_call, when, disk
        self.calls = 0

    def wall(self) -> float:
        return EPOCH + self._world.clock + asyncio.get_running_loop().time()

    @contextlib.asynccontextmanager
    async def exchange(self, call: HttpCall, *, timeout: float) -> AsyncIterator[StreamedReply]:
        self.calls += 1
        dies = self.calls == self._kill_call
        name = f"{call.method} {call.url.removeprefix(ORIGIN).partition('?')[0]}"
        self._world.log.append((self._world.clock + asyncio.get_running_loop().time(), name))
        if dies and self._when == "before":
            self._die()
        async with super().exchange(call, timeout=timeout) as reply:
            if dies:
                self._die()
            yield reply

    def _die(self) -> None:
        self._disk.kill()
        raise Killed


class World:
    """One job: *rows* rows, and a provider with *rules*."""

    def __init__(
        self,
        rows: int = 100,
        *,
        rules: BatchRules | None = None,
        seed: int = 0,
        endpoint: str = "chat",
        body: Callable[[int], bytes] | None = None,
        phases: tuple[Any, ...] = (),
        target: Mapping[str, Any] | None = None,
        network: type[LifeTransport] = LifeTransport,
        **provider: Any,
    ) -> None:
        self.rows = rows
        self.seed = seed
        self.target = {"model": "m", "base_url": f"{ORIGIN}/v1", "environ": {}} if target is None else target
        self.network = network
        self.endpoint = endpoint
        self.clock = 0.0
        self.machine = Machine(Random(f"disk:{seed}"))
        scenario = Scenario("world", phases, "world", batch=rules or BatchRules())
        self.provider = SimulatedProvider(scenario, seed=seed, epoch=EPOCH, keep_ledger=True, latency=1.0, **provider)
        self.log: list[tuple[float, str]] = []
        self.events: list[Event] = []
        self.summaries: list[Summary] = []
        self.disk_calls = self.network_calls = 0
        """Calls of the last life."""
        make = body or self._row
        self.machine.put(INPUT, b"".join(make(number) + b"\n" for number in range(1, rows + 1)))

    def _row(self, number: int) -> bytes:
        return json.dumps({"prompt": prompt(number), "id": f"r{number}"}).encode()

    def live(
        self,
        *,
        kill_call: int | None = None,
        when: str = "after",
        die_at_disk_call: int | None = None,
        stop_at: float | None = None,
        stop_now: bool = False,
        arguments: Mapping[str, Any] | None = None,
        output: str = OUTPUT,
        limit: float = 40 * 86_400.0,
        **options: Any,
    ) -> Summary | None:
        """One life of the command; None if it was killed."""
        loop = StoryLoop(limit=limit, sync_seconds=0.01, rng=Random(f"threads:{self.seed}:{len(self.summaries)}"))
        disk = SimulatedFilesystem(self.machine)
        disk.die_at_call = die_at_disk_call
        transport = self.network(self, kill_call, when, disk)
        settings: Any = {"via": "batch", "endpoint": self.endpoint, "seed": self.seed, **self.target, **options}
        runner = BatchRunner[Any, None](
            transport=transport,
            filesystem=disk,
            observers=[self.events.append],
            **settings,
        )
        if stop_at is not None:
            loop.call_later(stop_at, lambda: runner.stop(signal=2, now=stop_now))
        summary: Summary | None = None

        def on_turn(turn: int) -> None:
            if disk.dead:  # also in what a thread did
                raise Killed

        loop.on_turn = on_turn
        try:
            asyncio.set_event_loop(None)
            summary = loop.run_until_complete(runner.run(INPUT, output, **(arguments or {})))
            self.summaries.append(summary)
        except Killed:
            pass
        finally:
            self.disk_calls = disk.calls
            self.network_calls = transport.calls
            loop.on_turn = lambda turn: None
            bury(loop)
        self.clock += loop.time() + 1.0
        disk.kill()
        return summary

    def live_on(self, most: int = 12, **options: Any) -> Summary:
        """Type the command again until it has finished."""
        for _ in range(most):
            summary = self.live(**options)
            if summary is not None and summary.exit_code in (0, 1):
                return summary
            self.clock += 60.0
        raise AssertionError(f"not done after {most} lives: {self.summaries[-1:]}")

    # What came of it.

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of the output."""
        data = self.machine.get(OUTPUT) or b""
        return [json.loads(line) for line in data.splitlines()]

    def by_row(self) -> dict[int, dict[str, Any]]:
        """The lines by row; each row has one."""
        lines = self.lines
        counts = Counter(line["row"] for line in lines)
        assert max(counts.values(), default=0) <= 1, f"rows with two lines: {[n for n, c in counts.items() if c > 1]}"
        return {line["row"]: line for line in lines}

    def check_whole(self) -> None:
        """Each row has exactly one line, and all succeeded."""
        rows = self.by_row()
        assert sorted(rows) == list(range(1, self.rows + 1))
        assert {line["status"] for line in rows.values()} == {"success"}

    @property
    def paid(self) -> int:
        """Good answers that were paid for, live and in batches."""
        assert self.provider.ledger is not None
        return self.provider.ledger.payments

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def delete_journal(self) -> None:
        """Delete the sidecar."""
        self.machine.names.pop(JOURNAL, None)
        self.machine.durable_names.pop(JOURNAL, None)

    def calls(self, start: str) -> list[float]:
        """When calls that begin with *start* were made."""
        return [at for at, name in self.log if name.startswith(start)]
