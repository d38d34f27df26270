"""The processes of ``--workers`` share one circuit and one rate, through their parent and without any store."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from e2e_hostile import GOOD, Behavior, Call, HostileServer, error

pytestmark = pytest.mark.slow  # starts of several Pythons, and an outage of some seconds

DOWN = error(503)


async def run(folder: Path, url: str, rows: int, *options: str) -> tuple[int, str]:
    (folder / "in.jsonl").write_text("".join(json.dumps({"prompt": f"row {n}"}) + "\n" for n in range(1, rows + 1)))
    command = [sys.executable, "-m", "llmbatch", "run", "in.jsonl", "-o", "out.jsonl", "-m", "m", "--base-url", url]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("LLMBATCH_")}
    environ |= {"PYTHONPATH": str(Path(__file__).parents[2]), "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(
        *(*command, "--progress", "plain", *options),
        cwd=folder,
        env=environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(200):
        _, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, err.decode()


def numbers(folder: Path) -> list[int]:
    return sorted(json.loads(line)["row"] for line in (folder / "out.jsonl").read_text().splitlines())


async def test_workers_meet_an_outage_as_one(tmp_path: Path) -> None:
    """Three processes: from a moment after the first opening on, one probe at a time for all of them."""
    began = 0.0

    def behave(call: Call) -> Behavior:
        nonlocal began
        if call.number == 200:
            began = time.monotonic()
        return DOWN if began and time.monotonic() < began + 8 else GOOD

    async with HostileServer(behave, latency=0.05) as server:
        code, err = await run(tmp_path, server.url, 600, "--workers", "3", "-c", "12")
        first = next(call.at for call in server.calls if not call.is_good)
        probes = [call for call in server.calls if not call.is_good and call.at > first + 1.5]

    assert code == 0, err
    assert numbers(tmp_path) == list(range(1, 601))
    assert probes
    assert all(one.ended <= other.at + 0.02 for one, other in pairwise(probes))
    assert sum(not call.is_good for call in server.calls) <= 12 + 5 + len(probes) + 8
    assert "shared store" not in err


async def test_workers_share_one_rate(tmp_path: Path) -> None:
    """1,200 a minute for all: in no two seconds more than 42 and some, whoever sends."""
    async with HostileServer(lambda call: GOOD, latency=0.05) as server:
        code, err = await run(tmp_path, server.url, 160, "--workers", "2", "-c", "8", "--rpm", "1200")
        times = [call.at for call in server.calls]

    assert code == 0, err
    assert numbers(tmp_path) == list(range(1, 161))
    assert max(sum(begin <= at < begin + 2.0 for at in times) for begin in times) <= 48
    assert times[-1] - times[0] >= 7.0


async def test_a_cap_with_workers_and_a_store_is_refused(tmp_path: Path) -> None:
    async with HostileServer(lambda call: GOOD) as server:
        code, err = await run(
            tmp_path, server.url, 5, "--workers", "2", "--shared", "redis://127.0.0.1:1", "--max-cost", "1"
        )

    assert code == 2
    assert "--shared and --max-cost together are not possible" in err
    assert not server.calls
