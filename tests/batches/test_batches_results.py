"""Results that cannot be fetched: not found, refused, failing for long, or short. None is silent, or paid for twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from batch_world import LifeTransport, World, prompt
from simulation_disk import SimulatedFilesystem

from llmbatch.core.batch_events import BatchCollected, BatchLost
from llmbatch.core.errors import TransportError
from llmbatch.core.events import Notice, OutageEnded, OutageStarted
from llmbatch.core.exchange import HttpCall
from llmbatch.display.summary import batch_facts
from llmbatch.providers.batches.result_stream import stream_lines
from llmbatch.report.summary import Summary
from llmbatch.runs.batch_runner import BatchRunner
from llmbatch.sim.batches.rules import BatchFault, BatchRules
from llmbatch.sim.virtual import StreamedReply, run_virtual

NIGHT = 10 * 3600.0


def told(world: World, words: str) -> list[str]:
    """The notices that have these words."""
    return [notice.message for notice in world.of(Notice) if words in notice.message]


def answering(answer: Callable[[str, float], tuple[int, str] | None]) -> type[LifeTransport]:
    """A network on which *answer*, given a call and when it is made, may answer with a status and a message instead."""

    class Network(LifeTransport):
        @contextlib.asynccontextmanager
        async def exchange(self, call: HttpCall, *, timeout: float) -> AsyncIterator[StreamedReply]:
            async with super().exchange(call, timeout=timeout) as reply:
                at, name = self._world.log[-1]
                given = answer(name, at)
                if given is None:
                    yield reply
                    return
                status, message = given
                yield StreamedReply(status, {}, _once(json.dumps({"error": {"message": message}}).encode()))

    return Network


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def prices_file(folder: Path) -> str:
    """Prices of the model ``m``: US$ 5 per million tokens in a batch."""
    path = folder / "prices.toml"
    path.write_text('["m"]\ninput = 10.0\noutput = 10.0\n["m".batch]\ninput = 5.0\noutput = 5.0\n')
    return str(path)


def short_row(number: int) -> bytes:
    """A row that costs little more than US$ 0.0005 at most."""
    return json.dumps({"prompt": prompt(number), "max_tokens": 20}).encode()


def test_one_404_on_results_of_the_night_before_threw_the_paid_answers_away() -> None:
    """The batch has ended long ago and is listed; its file is there a minute later."""
    missing = iter([True])
    world = World(
        60, network=answering(lambda name, at: (404, "none") if "/content" in name and next(missing, False) else None)
    )
    world.live(detach=True)
    world.clock += NIGHT

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 60
    assert not world.of(BatchLost)
    assert len(told(world, "asked for again for 15 minutes")) == 1


def test_results_that_stay_missing_are_given_up_after_fifteen_minutes_and_counted_by_the_cap(tmp_path: Path) -> None:
    """What the lost batch may have cost is named, and holds back what would exceed the cap."""
    fault = BatchFault("results_not_found", seconds=10 * NIGHT)
    world = World(100, body=short_row, rules=BatchRules(faults=(fault,)))
    cap: Any = {"max_cost": Decimal("0.08"), "prices": prices_file(tmp_path)}
    world.live(detach=True, **cap)
    submitted = world.clock
    world.clock += NIGHT
    woke = world.clock

    summary = world.live(**cap)

    assert summary is not None
    [lost, *_] = world.of(BatchLost)
    assert lost.rows == 100
    assert Decimal("0.03") < lost.at_risk_usd < Decimal("0.08")
    assert told(world, "at most")
    creates = world.calls("POST /v1/batches")
    assert creates[0] < submitted
    assert creates[1] >= woke + 900
    assert summary.exit_code == 4
    assert summary.batches.perhaps_twice_usd == sum(event.at_risk_usd for event in world.of(BatchLost))


def test_detached_runs_that_find_no_results_give_them_up_once_they_have_asked_for_fifteen_minutes() -> None:
    """Each asks once; the journal keeps since when."""
    fault = BatchFault("results_not_found", batches=(1,), seconds=10 * NIGHT)
    world = World(60, rules=BatchRules(faults=(fault,)))
    world.live(detach=True)
    world.clock += NIGHT

    for _ in range(3):
        summary = world.live(detach=True)
        assert summary is not None
        assert summary.exit_code == 75
        world.clock += 600

    assert len(world.of(BatchLost)) == 1
    world.live_on()
    world.check_whole()


class RealFiles:
    """Lives of a job of *world* on real files in *folder*, under a cap, ten hours apart."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self.source, self.output = folder / "in.jsonl", folder / "out.jsonl"
        self.source.write_bytes(world.machine.get("/data/in.jsonl") or b"")
        self._settings: Any = {"endpoint": "chat", "via": "batch", "max_cost": 10, "prices": prices_file(folder)}

    def live(self, *, detach: bool) -> Summary:
        """One life of the command."""
        world = self._world
        transport = LifeTransport(world, None, "after", SimulatedFilesystem(world.machine))
        settings: Any = {**world.target, **self._settings, "detach": detach}
        runner = BatchRunner[Any, None](transport=transport, observers=[world.events.append], display=False, **settings)
        summary = run_virtual(runner.run(self.source, self.output))
        world.clock += NIGHT
        return summary

    @property
    def booked(self) -> Decimal:
        """What the sidecar of the costs says."""
        text = self.output.with_name(".out.jsonl.cost.json").read_text()
        return Decimal(json.loads(text)["booked_usd"])

    @property
    def lines_cost(self) -> Decimal:
        """What the lines say that they cost."""
        lines = map(json.loads, self.output.read_text().splitlines())
        return sum((Decimal(str(line["cost_usd"])) for line in lines), Decimal(0))


def test_the_next_run_counts_a_lost_batch_under_the_cap_although_others_are_open(tmp_path: Path) -> None:
    """What was booked for the lost batch is not taken for that of the open one."""
    fault = BatchFault("results_not_found", batches=(1,), seconds=10 * NIGHT)
    world = World(100, body=short_row, rules=BatchRules(faults=(fault,), rows_per_s=0.1))
    job = RealFiles(world, tmp_path)

    for _ in range(4):
        job.live(detach=True)
    [lost] = world.of(BatchLost)
    summary = job.live(detach=False)

    assert summary.exit_code == 0
    assert job.booked == lost.at_risk_usd + job.lines_cost


def test_what_a_detached_run_booked_for_its_batches_is_corrected_once_they_are_collected(tmp_path: Path) -> None:
    """The sidecar holds the most that they can cost as long as they are open, and then what they did cost."""
    job = RealFiles(World(100, body=short_row), tmp_path)

    job.live(detach=True)
    most = job.booked
    summary = job.live(detach=False)

    assert summary.exit_code == 0
    assert job.booked == job.lines_cost < most


@pytest.mark.parametrize("is_priced", [True, False])
def test_a_lost_create_cost_nothing_at_most_where_no_cap_was_set(is_priced: bool, tmp_path: Path) -> None:
    """It is the most that its rows can cost where their price is known, and else unknown."""
    faults = (BatchFault("create_lost", batches=(1,)), BatchFault("unlisted", batches=(1,), seconds=5000.0))
    world = World(100, body=short_row, rules=BatchRules(faults=faults))

    summary = world.live(prices=prices_file(tmp_path) if is_priced else None)

    assert summary is not None
    assert summary.batches.perhaps_twice_rows == 100
    facts = dict(batch_facts(summary.batches))
    if is_priced:
        assert (summary.batches.perhaps_twice_usd or 0) > Decimal("0.03")
        assert "US$ 0.0" in facts["perhaps"]
    else:
        assert summary.batches.perhaps_twice_usd is None
        assert "at an unknown price" in facts["perhaps"]


def failing(call: Any, status: int, *, to_s: float = 7200.0) -> World:
    """A provider whose listing works, while *call* gets *status* for *to_s* seconds."""
    fault = BatchFault("control_errors", calls=(call,), statuses=(status,), to_s=to_s)
    return World(60, rules=BatchRules(faults=(fault,)))


@pytest.mark.parametrize("call", ["upload", "create", "content"])
def test_calls_that_failed_while_the_listing_worked_were_silent(call: str) -> None:
    """The first failure is told with its message, lasting ones are one outage, and what succeeds at last ends it."""
    world = failing(call, 502)

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 60
    first = next(event for event in world.events if isinstance(event, Notice | OutageStarted))
    assert isinstance(first, Notice)
    assert first.level == "warning"
    assert summary.outages == 1
    assert len(world.of(OutageStarted)) == len(world.of(OutageEnded)) == 1
    assert 7000 < summary.outage_seconds < 8000


@pytest.mark.parametrize("call", ["list", "upload", "content"])
def test_max_outage_did_not_end_a_run_over_batches(call: str) -> None:
    """Exit 75 after it, with what fails and what to type; the next run goes on."""
    world = failing(call, 502)

    summary = world.live(max_outage=900.0)

    assert summary is not None
    assert summary.exit_code == 75
    assert "--max-outage 900 reached" in (summary.stopped_reason or "")
    assert "The server had an error" in (summary.stopped_reason or "")
    assert 850 < world.clock < 1000
    world.clock = 7300.0
    world.live_on()
    world.check_whole()
    assert world.paid == 60


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_did_not_stop_the_download_of_results(status: int) -> None:
    """Exit 3 with the provider's words; the batch is kept, and the next run collects it."""
    world = failing("content", status)

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 3
    assert "the results of batch" in (summary.stopped_reason or "")
    assert not world.lines
    world.clock = 7300.0
    again = world.live()
    assert again is not None
    assert again.exit_code == 0
    world.check_whole()
    assert world.paid == 60


def test_results_of_one_batch_that_fail_do_not_hold_back_those_of_others() -> None:
    """Nor what is left to submit; the failing ones are an outage all the same."""
    names: list[str] = []

    def answer(name: str, at: float) -> tuple[int, str] | None:
        if "/content" not in name or at > 7200:
            return None
        names.append(name)
        return (500, "oops") if name == names[0] else None

    world = World(60, network=answering(answer), rules=BatchRules(queue_tokens=700))

    summary = world.live(chunk_rows=20)

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 60
    assert summary.outages == 1
    assert len(world.calls(names[0])) < 40
    done = [event.at for event in world.of(BatchCollected)]
    assert sum(at < 3600 for at in done) >= 2


def hanging(start: str, end: str = "") -> type[LifeTransport]:
    """A network on which calls of these names get no answer for an hour."""

    class Network(LifeTransport):
        @contextlib.asynccontextmanager
        async def exchange(self, call: HttpCall, *, timeout: float) -> AsyncIterator[StreamedReply]:
            async with super().exchange(call, timeout=timeout) as reply:
                at, name = self._world.log[-1]
                if name.startswith(start) and name.endswith(end) and at < 3600:
                    await asyncio.sleep(3600.0)
                    raise TransportError("timeout", "nothing came", sent=True)
                yield reply

    return Network


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("GET /v1/batches", ""),
        ("POST /v1/files", ""),
        ("POST /v1/batches", ""),
        ("GET /v1/files", "/content"),
    ],
)
def test_the_first_signal_waited_for_a_control_call_without_answer(start: str, end: str) -> None:
    """It gets 30 s more; then the run ends with its code, and the next one goes on and pays once."""
    world = World(60, network=hanging(start, end))

    summary = world.live(stop_at=100.0)

    assert summary is not None
    assert summary.exit_code == 130
    assert 130 <= world.clock <= 133
    assert bool(told(world, "still running")) == (start != "POST /v1/files" and start != "GET /v1/batches")
    world.clock = 4000.0
    world.live_on()
    world.check_whole()
    assert world.paid == 60


def test_a_cancel_without_answer_held_up_the_end_of_an_interrupted_run() -> None:
    """``on_interrupt="cancel"`` waits for 30 s, also for the call itself."""
    world = World(60, network=hanging("POST /v1/batches/", "/cancel"), rules=BatchRules(rows_per_s=0.01))

    summary = world.live(stop_at=100.0, on_interrupt="cancel")

    assert summary is not None
    assert summary.exit_code == 130
    assert world.clock <= 133


@pytest.mark.parametrize("block_bytes", [1, 2, 5, 1000])
@pytest.mark.parametrize("end", ["\n", ""])
def test_the_first_line_of_results_with_a_byte_order_mark_was_lost(block_bytes: int, end: str) -> None:
    """One before the first line is left out, however the blocks are cut; others are part of their line."""

    async def read(data: bytes) -> list[bytes]:
        async def blocks() -> AsyncIterator[bytes]:
            for start in range(0, len(data), block_bytes):
                yield data[start : start + block_bytes]

        return [line async for line in stream_lines(blocks())]

    mark = "\ufeff"

    assert asyncio.run(read(f"{mark}one\n{mark}two{end}".encode())) == [b"one", f"{mark}two".encode()]
    assert asyncio.run(read(f"{mark}one{end}".encode())) == [b"one"]
    assert asyncio.run(read(f"{mark}{end}".encode())) == []


def test_results_that_are_too_few_were_waited_for_without_a_word() -> None:
    """How many came, and when they are downloaded again; codes of errors count once, however often they are read."""
    faults = (
        BatchFault("error_only", batches=(1,), statuses=(500,)),
        BatchFault("short", batches=(1,), times=2, share=0.4),
    )
    world = World(100, rules=BatchRules(faults=faults))

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    first, second = told(world, "downloading again in")
    assert "of 100 lines of batch batch_" in first
    assert first.endswith("downloading again in 60 s")
    assert second.endswith("downloading again in 120 s")
    assert sum(summary.errors_by_code.values()) == 100
    assert not told(world, "perhaps paid for twice")


def test_results_that_stay_too_few_are_taken_after_four_downloads_of_detached_runs_too() -> None:
    """That rows without a line may be paid for twice is told."""
    world = World(100, rules=BatchRules(faults=(BatchFault("short", batches=(1,), times=4, share=0.4),)))
    world.live(detach=True)

    for _ in range(5):
        world.clock += 600
        world.live(detach=True)

    assert len(told(world, "downloading again in")) == 3
    assert len(told(world, "4 times: rows without one are sent again, perhaps paid for twice")) == 1
    world.live_on()
    world.check_whole()


@pytest.mark.parametrize("is_running", [False, True])
def test_a_batch_that_was_found_by_its_results_was_missing_from_the_summary(is_running: bool) -> None:
    """Anthropic's listing has no labels: without the journal the results tell whose a batch is, now or once it ends."""
    world = World(60, endpoint="messages", rules=BatchRules(rows_per_s=0.01))
    world.live(detach=True)
    world.delete_journal()
    world.clock += 60.0 if is_running else NIGHT

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 60
    assert (summary.batches.submitted, summary.batches.found, summary.batches.collected) == (0, 1, 1)
    assert dict(batch_facts(summary.batches))["batches"] == "1 batch collected, 60 rows"
