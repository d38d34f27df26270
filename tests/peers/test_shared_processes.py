"""Real processes in a real outage, with a real store that is killed, emptied, paused, slowed down or poisoned.

Eight processes of the command with four slots each, or fewer where that shows the same. Slow: each takes half a minute
of real time, most of it an outage of the provider and the start of the processes. Timing bounds are wide: what is bound
tightly is how many calls were sent, and how many at once.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from process_fleet import Fleet, check_rows, end_all, running, worker_of
from store_server import SlowWay, StoreServer

pytestmark = pytest.mark.slow  # each takes half a minute of real time

BEGIN, SECONDS = 4.0, 12.0
END = BEGIN + SECONDS
SLOTS, THRESHOLD = 4, 5
SETTLED = 2.0
"""Seconds after the beginning of the outage in which calls that were out may still end."""


@asynccontextmanager
async def outage(folder: Path, store: StoreServer, *, count: int, rows: int = 240) -> AsyncIterator[Fleet]:
    """*count* processes that send, and an outage from BEGIN to END."""
    async with running(folder, store.url, count=count, rows=rows) as fleet:
        fleet.provider.down = (BEGIN, END)
        yield fleet


def losses(fleet: Fleet) -> list[int]:
    """How many lines each process wrote about the store."""
    return [len(one.notes("shared store")) for one in fleet.processes]


def probes_told(fleet: Fleet) -> int:
    """How many probes all processes together say that they sent."""
    return sum(int(count) for one in fleet.processes for count in re.findall(r"(\d+) probes?$", one.err, re.MULTILINE))


@pytest.mark.parametrize("count", [4, pytest.param(8, marks=pytest.mark.long)])
async def test_many_processes_send_one_probe_at_a_time(tmp_path: Path, count: int) -> None:
    with StoreServer(tmp_path) as store:
        async with outage(tmp_path, store, count=count) as fleet:
            codes = await end_all(fleet)

    probes = fleet.calls(BEGIN + SETTLED, END)
    first_good = min(call.at + fleet.offset for call in fleet.calls(END, 1e9, good=True))
    assert codes == [0] * count
    check_rows(fleet, 240)
    assert probes
    assert fleet.most_at_once(BEGIN + SETTLED, END) == 1
    assert len(fleet.calls(BEGIN, END)) <= count * SLOTS + THRESHOLD + probes_told(fleet) + 2 * count
    assert first_good - END < 8
    assert losses(fleet) == [0] * count


async def test_a_store_that_is_killed_before_the_outage_costs_no_row(tmp_path: Path) -> None:
    """Each process has its own circuit then: at most one probe of each at a time, and one line about the store."""
    with StoreServer(tmp_path) as store:
        async with outage(tmp_path, store, count=3) as fleet:
            await fleet.sleep_until(2.0)
            store.kill()
            codes = await end_all(fleet)

    assert codes == [0] * 3
    check_rows(fleet, 240)
    assert losses(fleet) == [1] * 3
    assert fleet.most_at_once(BEGIN + SETTLED, END) <= 3


@pytest.mark.long
async def test_a_store_that_is_restarted_empty_in_the_outage_costs_no_row(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as store:
        async with outage(tmp_path, store, count=3) as fleet:
            await fleet.sleep_until(BEGIN + 3)
            store.kill()
            await asyncio.sleep(0.5)
            store.start()
            codes = await end_all(fleet)

    assert codes == [0] * 3
    check_rows(fleet, 240)
    assert max(losses(fleet)) <= 2
    assert fleet.most_at_once(BEGIN + 9, END) <= 1


async def test_a_store_that_is_emptied_in_the_outage_still_leads_to_one_probe(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as store:
        async with outage(tmp_path, store, count=3) as fleet:
            for seconds in (2.0, 5.0, 8.0):
                await fleet.sleep_until(BEGIN + seconds)
                store.client().flushall()
            codes = await end_all(fleet)

    assert codes == [0] * 3
    check_rows(fleet, 240)
    assert losses(fleet) == [0] * 3
    assert fleet.most_at_once(BEGIN + SETTLED, END) == 1


@pytest.mark.long
async def test_a_store_that_is_paused_in_the_outage_costs_no_row(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as store:
        async with outage(tmp_path, store, count=3) as fleet:
            await fleet.sleep_until(BEGIN + 1)
            store.pause()
            await asyncio.sleep(5)
            store.unpause()
            codes = await end_all(fleet)

    assert codes == [0] * 3
    check_rows(fleet, 240)
    assert max(losses(fleet)) <= 2
    assert fleet.most_at_once(BEGIN + SETTLED, END) <= 3


async def test_a_store_that_is_poisoned_in_the_outage_costs_no_row(tmp_path: Path) -> None:
    """Every key of the board holds something else: as if the store were gone, and as quiet."""
    with StoreServer(tmp_path) as store:
        async with outage(tmp_path, store, count=3) as fleet:
            await fleet.sleep_until(BEGIN + 2)
            client = store.client()
            for key in client.keys("*"):
                client.delete(key)
                client.set(key, "poison")
            codes = await end_all(fleet)

    assert codes == [0] * 3
    check_rows(fleet, 240)
    assert max(losses(fleet)) <= 2
    assert fleet.most_at_once(BEGIN + SETTLED + 2, END) <= 3


async def test_a_store_that_is_far_away_costs_no_row(tmp_path: Path) -> None:
    """400 ms there and back: one probe at a time all the same, and it does not count as gone."""
    with StoreServer(tmp_path) as store, SlowWay(store.port, 0.2) as way:
        async with running(tmp_path, way.url, count=3, rows=400) as fleet:
            fleet.provider.down = (BEGIN + 4, END + 4)
            codes = await end_all(fleet)

    assert codes == [0] * 3
    check_rows(fleet, 400)
    assert losses(fleet) == [0] * 3
    assert fleet.most_at_once(BEGIN + 4 + 2 * SETTLED, END + 4) == 1


async def test_healthy_calls_do_not_notice_what_happens_to_the_store(tmp_path: Path) -> None:
    """It is killed, comes back empty and is paused: the rate of calls stays what it was."""
    with StoreServer(tmp_path) as store:
        async with running(tmp_path, store.url, count=3, rows=500) as fleet:
            await fleet.sleep_until(4.0)
            store.kill()
            await fleet.sleep_until(6.0)
            store.start()
            await fleet.sleep_until(8.0)
            store.pause()
            await fleet.sleep_until(10.0)
            codes = await end_all(fleet)
            store.unpause()

    before, during = len(fleet.calls(0.0, 4.0)), len(fleet.calls(4.0, 10.0))
    assert codes == [0] * 3
    check_rows(fleet, 500)
    assert during / 6 > 0.8 * before / 4


async def test_one_sick_process_stops_the_others_for_a_moment_only(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as store:
        async with running(tmp_path, store.url, count=4, rows=500) as fleet:
            fleet.provider.sick = ("w0", 4.0, 11.0)
            codes = await end_all(fleet)

    others = [call for call in fleet.calls(0, 11) if worker_of(call) != "w0"]
    before = sum(call.at + fleet.offset < 4.0 for call in others)
    assert codes == [0] * 4
    check_rows(fleet, 500)
    assert (len(others) - before) / 7 > 0.8 * before / 4
    assert [len(one.notes("outage of")) for one in fleet.processes[1:]] == [0] * 3


async def test_rows_that_are_bad_fail_alone_in_an_outage_that_a_slow_process_shares(tmp_path: Path) -> None:
    """Four processes, one of them five times as slow; rows that always fail are before, in and after the outage.

    Each has one line with its own code, no good row is lost or sent twice, and one probe goes at a time.
    """
    bad = {number: "poison" if number % 2 else "long" for number in range(3, 160, 13)} | {40: "poison", 150: "long"}
    with StoreServer(tmp_path) as store:
        async with running(tmp_path, store.url, count=4, rows=160, bad=bad, slow={"w0": 0.5}) as fleet:
            fleet.provider.down = (2.0, 14.0)
            codes = await end_all(fleet)

    probes = fleet.calls(2.0 + SETTLED, 14.0)
    good = Counter(call.text for call in fleet.calls(-1e9, 1e9, good=True))
    assert codes == [1] * 4
    check_rows(fleet, 160)
    codes_of = {"poison": "http_500", "long": "context_length_exceeded"}
    expected = {number: codes_of[why] for number, why in bad.items()}
    for one in fleet.processes:
        lines = [json.loads(line) for line in one.output.read_text().splitlines()]
        assert {line["row"]: line["error"]["code"] for line in lines if line["status"] == "failed"} == expected
    rows = [f"w{process} row {number}" for process in range(4) for number in range(1, 161) if number not in bad]
    assert all(good[row] for row in rows)
    again = {row.split()[2] for row in rows if good[row] > 1}
    assert again <= {"1"}  # the health check for the last rows, which are bad
    assert probes
    assert fleet.most_at_once(2.0 + SETTLED, 14.0) == 1
    assert losses(fleet) == [0] * 4
