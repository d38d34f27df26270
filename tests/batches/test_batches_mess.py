"""Everyday mess: rows that are refused, slow batches, a full queue behind them, no money, batches that are not ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from batch_world import World, prompt

from llmbatch.core.batch_events import BatchCollected
from llmbatch.core.events import Notice
from llmbatch.sim.batches.rules import BatchFault, BatchRules


def half_bad(number: int) -> bytes:
    """Every other row is refused."""
    row: dict[str, Any] = {"prompt": prompt(number), "id": f"r{number}"}
    if number % 2:
        row["max_tokens"] = -1
    return json.dumps(row).encode()


def told(world: World, words: str) -> bool:
    """Whether a notice has these words."""
    return any(words in notice.message for notice in world.of(Notice))


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
@pytest.mark.parametrize("endpoint", ["chat", "messages"])
def test_half_of_the_rows_are_refused_with_a_full_queue_behind_them(endpoint: str) -> None:
    """The refused ones fail, the others are paid for once, and few uploads are made in vain."""
    rules = BatchRules(queue_tokens=3500, rows_per_s=0.05, validate_s=30.0)
    world = World(300, body=half_bad, endpoint=endpoint, rules=rules)

    summary = world.live(chunk_rows=30)

    assert summary is not None
    assert summary.exit_code == 1
    rows = world.by_row()
    assert len(rows) == 300
    assert {number for number, line in rows.items() if line["status"] == "failed"} == set(range(1, 301, 2))
    assert world.paid == 150
    creates = world.calls("POST /v1/messages/batches" if endpoint == "messages" else "POST /v1/batches")
    assert len(creates) <= 20  # ten at once, before the first is refused


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("endpoint", ["chat", "messages"])
def test_a_stuck_batch_lets_those_behind_it_go_on(endpoint: str) -> None:
    """Its rows wait for it; all others are done long before."""
    rules = BatchRules(
        faults=(BatchFault("stuck", batches=(1,), seconds=80_000.0),), queue_tokens=3500, rows_per_s=0.5, validate_s=5.0
    )
    world = World(300, endpoint=endpoint, rules=rules)

    summary = world.live(chunk_rows=30)

    assert summary is not None
    world.check_whole()
    assert world.paid == 300
    ends = sorted(event.at for event in world.of(BatchCollected) if event.success)
    assert ends[-2] < 20_000 < 80_000 < ends[-1]


@pytest.mark.parametrize("endpoint", ["chat", "messages"])
def test_no_money_in_the_middle_stops_the_run_and_the_next_goes_on(endpoint: str) -> None:
    """What was answered before stays, nothing is marked failed, and no row is paid for twice afterwards."""
    rules = BatchRules(faults=(BatchFault("refused", batches=(2,), reason="credit"),), rows_per_s=0.1)
    world = World(180, endpoint=endpoint, rules=rules)

    first = world.live(chunk_rows=60)

    assert first is not None
    assert first.exit_code == 3
    assert 60 <= len(world.lines) <= 120
    assert {line["status"] for line in world.lines} == {"success"}
    world.live_on(chunk_rows=60)
    world.check_whole()
    assert world.paid == 180


@pytest.mark.parametrize("is_mine_there", [True, False])
def test_a_batch_of_others_with_our_label_costs_no_row(is_mine_there: bool) -> None:
    """Its lines are dropped, it is left at the provider, and each row has its own answer."""
    world, twin = World(60, rules=BatchRules(rows_per_s=0.1)), World(60, rules=BatchRules(rows_per_s=0.1))
    twin.live(detach=True)
    if is_mine_there:
        world.live(detach=True)
    (mine,) = twin.provider.batches.batches
    lines = b"".join(
        json.dumps(
            {
                "custom_id": f"theirs-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "m", "messages": [{"role": "user", "content": f"Another {number}"}]},
            }
        ).encode()
        + b"\n"
        for number in range(60)
    )
    file_id = upload(world, lines)
    label = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    call(world, "POST", "/v1/batches", json.dumps({**label, "metadata": mine.request.metadata}).encode())
    world.delete_journal()

    world.live_on()

    world.check_whole()
    assert world.paid == 60 + 60
    assert told(world, "are of no row of it, and dropped") != is_mine_there  # else all rows have their lines by then
    assert call(world, "GET", f"/v1/files/{file_id}")["status"] == "processed"


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
@pytest.mark.parametrize("endpoint", ["chat", "messages"])
def test_a_cap_of_rows_below_the_usual_one_makes_smaller_batches(endpoint: str) -> None:
    """The provider refuses the batch for its number of rows: chunks are halved until one fits."""
    world = World(300, endpoint=endpoint, rules=BatchRules(max_rows=100))

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert world.paid == 300


def upload(world: World, data: bytes) -> str:
    """Upload a batch file; its id."""
    head = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="theirs.jsonl"\r\n\r\n' + data
    answer = call(world, "POST", "/v1/files", head + file + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")
    return str(answer["id"])


def call(world: World, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> dict[str, Any]:
    """A call of somebody else to the provider, as of now."""
    service, headers = world.provider.batches, {"content-type": kind}
    taken = service.body(path, headers)
    taken.feed(body)
    reply = service.answer(method, path, "", headers, taken, world.clock, origin="http://provider.invalid")
    answer = json.loads(b"".join(reply.pieces()))
    assert reply.status == 200, answer
    assert isinstance(answer, dict)
    return answer
