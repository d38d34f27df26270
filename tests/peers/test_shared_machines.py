"""One input, three machines' worth of processes, and everything that fails: every row has one line in the end.

Slow: half a minute of real time, most of it an outage of the provider and the start of the processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from e2e_hostile import HostileServer
from process_fleet import Fleet, Process, Provider, end_all, failed, kill_all
from store_server import StoreServer

pytestmark = pytest.mark.slow  # half a minute of real time

MACHINES, EACH, SLOTS, PARTS, ROWS, THRESHOLD = 3, 2, 4, 12, 1500, 5
BEGIN, END = 3.0, 23.0
"""The outage, in seconds since all processes send."""
WORKER_DIES, STORE_DIES, STORE_IS_BACK = BEGIN + 3, BEGIN + 7, BEGIN + 8
SETTLED = 2.0
"""Seconds after the beginning of the outage in which calls that were out may still end."""
FOUND = 6.0
"""Seconds in which all processes have found a store that is back, and agree about one probe again."""


async def start(machine: Path, folder: Path, url: str, store: str) -> Process:
    """A process on a *machine*, a folder of its own, that takes parts of the job in *folder* which nobody holds."""
    machine.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "llmbatch", "run", str(folder / "in.jsonl"), "-m", "m", "--base-url", url]
    command += ["--shard", f"any/{PARTS}", "-o", f"{folder}/results/", "-c", str(SLOTS), "--shared", "env:STORE_URL"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("LLMBATCH_")}
    environ |= {"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(machine), "STORE_URL": store}
    process = await asyncio.create_subprocess_exec(
        *(*command, "--progress", "plain"),
        env=environ,
        cwd=machine,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    return Process(machine.name, machine, process)


@contextlib.asynccontextmanager
async def three_machines(folder: Path, store: StoreServer) -> AsyncIterator[Fleet]:
    """All processes, and the time since each of them holds a part and all send."""
    (folder / "in.jsonl").write_text("".join(f'{{"prompt":"row {n}"}}\n' for n in range(1, ROWS + 1)))
    provider = Provider(began=time.monotonic())
    async with HostileServer(provider.behave, latency=0.1) as server:
        starts = (
            start(folder / f"machine-{number}", folder, server.url, store.url)
            for number in range(MACHINES)
            for _ in range(EACH)
        )
        processes = list(await asyncio.gather(*starts))
        try:
            while len({(call.row - 1) % PARTS for call in server.calls}) < len(processes):
                assert all(one.process.returncode is None for one in processes), await failed(processes)
                await asyncio.sleep(0.02)
            provider.began = time.monotonic()
            provider.down = (BEGIN, END)
            yield Fleet(provider, server, processes)
        finally:
            await kill_all(processes)


async def test_every_row_has_one_line_whatever_fails(tmp_path: Path) -> None:
    """The provider is down for 20 s; meanwhile a process is killed, and the store is killed and comes back empty."""
    with StoreServer(tmp_path) as store:
        async with three_machines(tmp_path, store) as fleet:
            await fleet.sleep_until(WORKER_DIES)
            fleet.processes[3].process.send_signal(signal.SIGKILL)
            await fleet.sleep_until(STORE_DIES)
            store.kill()
            await fleet.sleep_until(STORE_IS_BACK)
            store.start()
            codes = await end_all(fleet)

    errors = "\n".join(one.err for one in fleet.processes)
    parts = (tmp_path / "results").glob("part-*-of-?????.jsonl")
    rows = Counter(json.loads(line)["row"] for part in parts for line in part.read_text().splitlines())
    good = Counter(call.row for call in fleet.calls(-1e9, 1e9, good=True) if call.row)
    alone = range(MACHINES * EACH)
    assert codes == [0, 0, 0, -signal.SIGKILL, 0, 0], errors
    assert rows == Counter(range(1, ROWS + 1))
    assert good.total() <= ROWS + len(alone)  # nothing that was answered is asked again, but as a health check
    for begin, end in ((BEGIN + SETTLED, STORE_DIES), (STORE_IS_BACK + FOUND, END)):
        assert fleet.calls(begin, end), "nothing was probed"
        assert fleet.most_at_once(begin, end) == 1
    assert fleet.most_at_once(STORE_DIES, STORE_IS_BACK + FOUND) <= len(alone)  # each on its own
    assert len(fleet.calls(BEGIN, BEGIN + SETTLED)) <= len(alone) * (SLOTS + THRESHOLD)
    assert errors.count("the shared store") <= 2 * len(alone)
