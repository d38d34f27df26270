"""A large job over batch APIs in virtual time, through an expiry, a full queue, a lost create and a kill.

The same command is typed three times: the first life is killed while it submits, the second while it collects, the
third finishes. The runner, its files and its syncs are real; the provider is the simulated one, in the same process,
which lives on and counts what was paid for. Each row must have one line and be paid for once.

    python benchmarks/batch_job.py [--rows 1000000] [--chunk-rows 50000] [--json raw.json]

A million rows take some 1.2 GB of disk. Peak memory is measured by ``memory_batch.py``, without the provider.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmbatch import BatchRunner
from llmbatch.core.exchange import HttpCall
from llmbatch.report.summary import Summary
from llmbatch.sim.batches.rules import BatchFault, BatchRules
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.virtual import StreamedReply, VirtualClockLoop, VirtualTransport
from llmbatch.storage.filesystem import Filesystem

EPOCH = 1_795_000_000.0
LIMIT_SECONDS = 30 * 86_400.0
TOKENS_PER_ROW = 60


class Killed(BaseException):
    """The process is dead: nothing that it still does has any effect."""


class MortalDisk(Filesystem):
    """The real file system as one process uses it, until it is killed."""

    def __init__(self) -> None:
        self.is_dead = False
        self._open: set[int] = set()

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        self._check()
        fd = super().open(path, flags, mode)
        self._open.add(fd)
        return fd

    def close(self, fd: int) -> None:
        if fd in self._open:
            self._open.remove(fd)
            super().close(fd)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._check()
        return super().write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        self._check()
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        self._check()
        super().sync(fd)

    def replace(self, old: str, new: str) -> None:
        self._check()
        super().replace(old, new)

    def unlink(self, path: str) -> None:
        self._check()
        super().unlink(path)

    def close_all(self) -> None:
        """What the system does when a process is gone."""
        while self._open:
            os.close(self._open.pop())

    def _check(self) -> None:
        if self.is_dead:
            raise Killed


class LifeTransport(VirtualTransport):
    """The network of one life, which ends it in the call after *kill_after* calls whose name begins with *kill_in*."""

    def __init__(
        self, provider: SimulatedProvider, clock: float, disk: MortalDisk, kill_in: str, kill_after: int
    ) -> None:
        super().__init__(provider)
        self._first = -clock
        self._clock = clock
        self._disk = disk
        self._kill_in, self._kill_after = kill_in, kill_after
        self.calls = 0

    def wall(self) -> float:
        return EPOCH + self._clock + asyncio.get_running_loop().time()

    @contextlib.asynccontextmanager
    async def exchange(self, call: HttpCall, *, timeout: float) -> AsyncIterator[StreamedReply]:  # noqa: ASYNC109
        self.calls += 1
        path = call.url.split("provider.invalid", 1)[1].partition("?")[0]
        dies = bool(self._kill_in) and f"{call.method} {path}".startswith(self._kill_in)
        async with super().exchange(call, timeout=timeout) as reply:
            if dies:
                self._kill_after -= 1
                if self._kill_after < 0:
                    self._disk.is_dead = True
                    raise Killed
            yield reply


@dataclass
class Told:
    """What came of it."""

    rows: int
    chunk_rows: int
    batches: int
    lives: int
    calls: int
    lines: int
    paid: int
    expired: int
    """Batches that expired."""
    refused: int
    """Batches that failed for lack of room in the queue."""
    lost_creates: int
    hours: float
    """Virtual ones."""
    seconds: float
    """Of this machine."""


def write_rows(path: Path, rows: int) -> None:
    """The input."""
    with path.open("w") as file:
        for number in range(1, rows + 1):
            file.write(f'{{"id":"r{number}","prompt":"Tell of row {number}"}}\n')


class Job:
    """One input and output, and a provider that outlives the process."""

    def __init__(self, folder: Path, rows: int, chunk_rows: int) -> None:
        self.rows, self.chunk_rows = rows, chunk_rows
        self.source, self.output = folder / "in.jsonl", folder / "out.jsonl"
        write_rows(self.source, rows)
        faults = (BatchFault("expire", batches=(2,), share=0.37), BatchFault("create_lost", batches=(3,)))
        rules = BatchRules(
            faults=faults, rows_per_s=20.0, validate_s=60.0, queue_tokens=5 * chunk_rows * TOKENS_PER_ROW
        )
        scenario = Scenario("job", (), "a long job", batch=rules)
        self.provider = SimulatedProvider(scenario, epoch=EPOCH, keep_ledger=True)
        self.clock = 0.0
        self.lives = self.calls = 0

    def live(self, kill_in: str = "", kill_after: int = 0) -> Summary | None:
        """Type the command; None if it is killed."""
        self.lives += 1
        disk = MortalDisk()
        transport = LifeTransport(self.provider, self.clock, disk, kill_in, kill_after)
        settings: Any = {"via": "batch", "chunk_rows": self.chunk_rows, "transport": transport, "filesystem": disk}
        runner = BatchRunner[Any, None]("m", base_url="http://provider.invalid/v1", environ={}, **settings)
        loop = VirtualClockLoop(limit=self.clock + LIMIT_SECONDS)
        try:
            return loop.run_until_complete(runner.run(str(self.source), str(self.output)))
        except Killed:
            return None
        finally:
            self.calls += transport.calls
            disk.is_dead = True
            bury(loop)
            disk.close_all()
            self.clock += loop.time() + 60.0

    def check(self) -> tuple[int, int]:
        """Lines of the output, and payments.

        Raises:
            AssertionError: a row has no line, or two, or failed, or was paid for twice.
        """
        seen = array("B", bytes(self.rows + 1))
        lines = 0
        with self.output.open("rb") as file:
            for line in file:
                lines += 1
                number = int(line[7 : line.index(b",")])
                assert b'"status":"success"' in line[:80], line[:200]
                seen[number] += 1
        assert sum(seen) == lines == self.rows, f"{lines} lines"
        assert max(seen) == 1, "a row has two lines"
        ledger = self.provider.ledger
        assert ledger is not None
        assert ledger.twice == 0, f"{ledger.twice} rows were paid for twice"
        return lines, ledger.payments


def bury(loop: VirtualClockLoop) -> None:
    """End what is left of a life without effect: its disk is dead."""
    loop.set_exception_handler(lambda loop, context: None)
    tasks = [task for task in asyncio.all_tasks(loop) if not task.done()]
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.cancel()
    if tasks:
        with contextlib.suppress(Killed, Exception):
            loop.run_until_complete(asyncio.wait(tasks, timeout=10.0))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def tell(folder: Path, rows: int, chunk_rows: int) -> Told:
    """Three lives of the command, and what came of them."""
    began = time.perf_counter()
    job = Job(folder, rows, chunk_rows)
    assert job.live("POST /v1/batches", 2) is None, "it was to be killed as it creates its third batch"
    assert job.live("GET /v1/files/", 6) is None, "it was to be killed as it collects"
    summary = job.live()
    assert summary is not None
    assert summary.exit_code == 0, summary
    lines, paid = job.check()
    batches = job.provider.batches.batches
    return Told(
        rows=rows,
        chunk_rows=chunk_rows,
        batches=len(batches),
        lives=job.lives,
        calls=job.calls,
        lines=lines,
        paid=paid,
        expired=sum(batch.stage == "expired" for batch in batches),
        refused=sum("token_limit_exceeded" in [error.code for error in batch.errors] for batch in batches),
        lost_creates=sum(batch.rules.fault("create_lost", batch.number, 0) is not None for batch in batches),
        hours=job.clock / 3600,
        seconds=time.perf_counter() - began,
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--chunk-rows", type=int, default=50_000)
    parser.add_argument("--json", type=Path, help="where raw figures go")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="batch-job-") as name:
        told = tell(Path(name), given.rows, given.chunk_rows)
    if given.json:
        given.json.write_text(json.dumps(asdict(told)))
    print(f"{told.rows:,} rows in {told.batches} batches, {told.lives} lives, {told.calls:,} control calls")
    print(f"{told.expired} expired, {told.refused} refused by the queue, {told.lost_creates} create lost")
    print(f"{told.lines:,} lines, {told.paid:,} payments, {told.hours:.1f} virtual hours in {told.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
