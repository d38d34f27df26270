"""What goes into batches, what is refused before anything is sent, and what goes live instead."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from batch_world import INPUT, JOURNAL, OUTPUT, World, prompt

from llmbatch import BatchRunner
from llmbatch.core.batch_events import BatchSubmitted
from llmbatch.core.errors import OutputError, UsageError
from llmbatch.core.events import Notice
from llmbatch.display.summary import batch_facts
from llmbatch.sim.batches.rules import BatchFault, BatchRules


def rows_of(*rows: dict[str, Any]) -> bytes:
    """Lines of an input."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_rows_of_several_models_go_in_batches_of_their_own() -> None:
    """However they are mixed in the input; each row is answered by its model."""

    def body(number: int) -> bytes:
        return json.dumps({"prompt": prompt(number), "model": f"m{number % 3}"}).encode()

    world = World(90, body=body)

    summary = world.live(chunk_rows=20)

    assert summary is not None
    world.check_whole()
    assert {line["row"] % 3 for line in world.lines if line["model"] == "m1"} == {1}
    assert summary.batches.submitted == 6
    assert world.paid == 90


def test_malformed_rows_fail_at_once_and_the_others_go() -> None:
    """They are in no batch, and their lines say why."""

    def body(number: int) -> bytes:
        return b"{broken" if number == 7 else json.dumps({"prompt": prompt(number)}).encode()

    world = World(60, body=body)

    summary = world.live()

    assert summary is not None
    assert summary.exit_code == 1
    rows = world.by_row()
    assert len(rows) == 60
    assert rows[7]["error"]["code"] == "input_bad_json"
    assert world.paid == 59


def test_a_row_too_large_for_a_batch_goes_live() -> None:
    """At the end, through the ordinary runner; its line has no ``via``."""

    def body(number: int) -> bytes:
        more = " and more" * 20_000 if number == 5 else ""
        return json.dumps({"prompt": prompt(number) + more}).encode()

    world = World(60, body=body)

    summary = world.live(chunk_mb=0.1)

    assert summary is not None
    world.check_whole()
    assert [line["row"] for line in world.lines if "via" not in line] == [5]
    assert world.provider.stats.calls == 1


def test_bodies_of_batch_rows_go_as_they_are() -> None:
    """Byte for byte, whatever their spelling; the user's own ids come back."""
    lines = b"".join(
        b'{"custom_id":"mine %d","method":"POST","url":"/v1/chat/completions",'
        b'"body":{"model":"m",  "messages":[{"role":"user","content":"Tell of row %d"}], "temperature":1.0e0}}\n'
        % (n, n)
        for n in range(1, 61)
    )
    world = World(60)
    world.machine.put(INPUT, lines)

    world.live()

    world.check_whole()
    assert {line["custom_id"] for line in world.lines} == {f"mine {number}" for number in range(1, 61)}


def test_a_row_that_was_edited_after_it_was_submitted_is_sent_again() -> None:
    """Its answer is to another question: it is dropped, and the run says so."""
    world = World(60, rules=BatchRules(rows_per_s=0.1))
    world.live(detach=True)
    data = (world.machine.get(INPUT) or b"").replace(b'Tell of row 7"', b'Tell of row 7 again"')
    world.machine.put(INPUT, data)
    world.clock += 3600

    world.live_on()

    world.check_whole()
    assert any("were edited" in notice.message for notice in world.of(Notice))
    assert world.provider.ledger is not None
    assert world.provider.ledger.paid("Tell of row 7 again") == 1


def test_results_that_another_job_may_need_are_not_deleted() -> None:
    """An output of the same name elsewhere, whose input begins with the same row: its batch is found, and left."""
    world = World(60, rules=BatchRules(rows_per_s=0.1))
    world.live(detach=True)
    mine = world.machine.get(INPUT) or b""
    world.machine.names.clear()
    world.machine.put(
        INPUT,
        mine.splitlines(keepends=True)[0]
        + b"".join(json.dumps({"prompt": f"Another question {number}"}).encode() + b"\n" for number in range(2, 61)),
    )
    world.clock += 3600
    world.live_on()
    assert sorted(world.by_row()) == list(range(1, 61))

    world.machine.names.clear()
    world.machine.put(INPUT, mine)
    world.live_on()

    world.check_whole()
    assert world.paid == 60 + 59


def test_outputs_of_one_name_in_two_folders_took_each_others_batches() -> None:
    """The same command in another folder has its own batch, and is told of the other, which is left alone."""
    world = World(60, rules=BatchRules(rows_per_s=0.1))
    world.live(detach=True)
    other = "/other/out.jsonl"

    summary = world.live(output=other)
    mine = world.live()

    assert summary is not None
    assert mine is not None
    assert (summary.exit_code, mine.exit_code) == (0, 0)
    assert any("in another folder" in notice.message for notice in world.of(Notice))
    theirs = [json.loads(line) for line in (world.machine.get(other) or b"").splitlines()]
    assert len(theirs) == len(world.lines) == 60
    assert {line["batch_id"] for line in theirs}.isdisjoint(line["batch_id"] for line in world.lines)
    assert len(world.calls("POST /v1/batches")) == 2


@pytest.mark.parametrize("keeps_journal", [True, False])
def test_an_output_that_was_moved_finds_its_batches(keeps_journal: bool) -> None:
    """With its journal; without it the run tells of the batch, and ``adopt`` makes it this output's."""
    world = World(60, rules=BatchRules(rows_per_s=0.1))
    world.live(detach=True)
    names = world.machine.names
    for name in [name for name in names if name.startswith("/data/out")]:
        moved = names.pop(name)
        if name == OUTPUT:
            names["/moved/out.jsonl"] = moved
        elif keeps_journal and name == JOURNAL:
            names["/moved/out.batch.jsonl"] = moved
    if not keeps_journal:
        batch_id = world.of(BatchSubmitted)[0].batch
        world.machine.put("/moved/out.batch.jsonl", json.dumps({"kind": "adopt", "batch": batch_id}).encode() + b"\n")

    summary = world.live(output="/moved/out.jsonl")

    assert summary is not None
    assert summary.exit_code == 0
    assert (world.machine.get("/moved/out.jsonl") or b"").count(b"\n") == 60
    assert world.paid == 60
    assert len(world.calls("POST /v1/batches")) == 1


def copy_output(world: World, output: str) -> str:
    """Copy the output and its journal to *output*; gives the copy's journal."""
    journal = output.replace(".jsonl", ".batch.jsonl")
    for old, new in ((OUTPUT, output), (JOURNAL, journal)):
        world.machine.put(new, world.machine.get(old) or b"")
    return journal


def test_a_copy_of_an_output_collected_its_batches_too_and_paid_for_what_it_did_not_find() -> None:
    """While the original is there, the copy is refused. Once that is gone it is no copy but moved, and collects."""
    world = World(60, rules=BatchRules(rows_per_s=0.1))
    world.live(detach=True)
    copy_output(world, "/copy/out.jsonl")

    with pytest.raises(OutputError, match=r"is a copy of /data/out\.jsonl, of which a batch \(\w+\) is run") as caught:
        world.live(output="/copy/out.jsonl")
    del world.machine.names[JOURNAL]
    summary = world.live(output="/copy/out.jsonl")

    assert "llmbatch batch adopt /copy/out.jsonl" in caught.value.hint
    assert summary is not None
    assert summary.exit_code == 0
    assert world.paid == 60
    assert len(world.calls("POST /v1/batches")) == 1


def test_a_copy_of_a_finished_output_has_batches_of_its_own() -> None:
    """New rows go from both, as from two outputs: neither takes the results of the other's batch."""
    world = World(60, rules=BatchRules(rows_per_s=0.1))
    world.live()
    copy_output(world, "/copy/out.jsonl")
    world.machine.put(INPUT, (world.machine.get(INPUT) or b"") + rows_of(*({"prompt": f"new {n}"} for n in range(60))))

    world.live(output="/copy/out.jsonl", detach=True)
    copys = world.of(BatchSubmitted)[-1].batch
    world.live()
    summary = world.live(output="/copy/out.jsonl")

    assert summary is not None
    assert summary.exit_code == 0
    theirs = [json.loads(line) for line in (world.machine.get("/copy/out.jsonl") or b"").splitlines()]
    assert len(theirs) == len(world.lines) == 120
    assert {line["batch_id"] for line in theirs if line["row"] > 60} == {copys}
    assert copys not in {line["batch_id"] for line in world.lines}
    assert world.paid == 180


def test_an_output_that_was_renamed_with_its_journal_paid_for_running_batches_twice() -> None:
    """The journal says that they run: refused, until it is told whether they are this output's."""
    world = World(60, rules=BatchRules(rows_per_s=0.1))
    world.live(detach=True)
    journal = copy_output(world, "/data/renamed.jsonl")

    with pytest.raises(OutputError, match=r"a batch \(\w+\) is running that another input") as caught:
        world.live(output="/data/renamed.jsonl")
    note = {"kind": "adopt", "batch": world.of(BatchSubmitted)[0].batch}
    world.machine.put(journal, (world.machine.get(journal) or b"") + json.dumps(note).encode() + b"\n")
    summary = world.live(output="/data/renamed.jsonl")

    assert "llmbatch batch adopt /data/renamed.jsonl" in caught.value.hint
    assert summary is not None
    assert summary.exit_code == 0
    assert (world.machine.get("/data/renamed.jsonl") or b"").count(b"\n") == 60
    assert world.paid == 60
    assert len(world.calls("POST /v1/batches")) == 1


def test_a_limit_is_kept() -> None:
    """Only the first rows go; the others follow when it is lifted."""
    world = World(100)

    first = world.live(arguments={"limit": 60})
    assert first is not None
    assert first.exit_code == 0
    assert world.paid == 60
    world.live()

    world.check_whole()
    assert world.paid == 100


def test_failed_rows_are_resent_when_that_is_asked_for() -> None:
    """With ``retry_failed``; a small remainder goes live."""
    world = World(100, rules=BatchRules(faults=(BatchFault("bad_line", batches=(1,), rows=7),)))
    first = world.live()
    assert first is not None
    assert first.exit_code == 1

    again = world.live(arguments={"retry_failed": True})

    assert again is not None
    assert again.exit_code == 0
    world.check_whole()
    assert world.paid == 100


def test_starting_afresh_does_not_take_old_results() -> None:
    """With ``overwrite`` collected batches are over: every row is asked again."""
    world = World(60)
    world.live(keep_remote=True)

    world.live(arguments={"overwrite": True})

    world.check_whole()
    assert world.paid == 120


def test_a_cap_was_accepted_with_the_batch_price_of_input_alone(tmp_path: Path) -> None:
    """The answers would have cost nothing under it; it is refused as a missing batch price is."""
    prices, source = tmp_path / "prices.toml", tmp_path / "in.jsonl"
    prices.write_text('["m"]\ninput = 10.0\noutput = 10.0\n["m".batch]\ninput = 5.0\n')
    source.write_bytes(rows_of({"prompt": "hello"}))
    runner: BatchRunner[Any, Any] = BatchRunner(
        "m", via="batch", base_url="http://localhost:1/v1", max_cost=5, prices=str(prices), environ={}
    )

    with pytest.raises(UsageError, match="needs the batch price of m"):
        asyncio.run(runner.run(source))


@pytest.mark.slow  # many calls in virtual time
def test_the_cap_holds_back_batches_that_could_exceed_it(tmp_path: Path) -> None:
    """Exit 4 before the batch that could cost too much; what was collected counts, and a higher cap goes on."""
    prices = tmp_path / "prices.toml"
    prices.write_text('["m"]\ninput = 10.0\noutput = 10.0\n["m".batch]\ninput = 5.0\noutput = 5.0\n')

    def body(number: int) -> bytes:
        return json.dumps({"prompt": prompt(number), "max_tokens": 100}).encode()

    world = World(200, body=body)

    first = world.live(chunk_rows=50, max_cost=0.06, prices=str(prices))

    assert first is not None
    assert first.exit_code == 4
    done = len(world.lines)
    assert 0 < done < 200
    assert sum(line["cost_usd"] for line in world.lines) <= 0.06
    assert first.batches.saved_usd == first.batches.cost_usd
    last = world.live(chunk_rows=50, max_cost=5, prices=str(prices))
    assert last is not None
    assert last.exit_code == 0
    world.check_whole()
    assert world.paid == 200


def test_the_cap_counts_batches_of_a_killed_run(tmp_path: Path) -> None:
    """They are reserved again, so that both runs together keep it."""
    prices = tmp_path / "prices.toml"
    prices.write_text('["m"]\ninput = 10.0\noutput = 10.0\n["m".batch]\ninput = 5.0\noutput = 5.0\n')

    def body(number: int) -> bytes:
        return json.dumps({"prompt": prompt(number), "max_tokens": 100}).encode()

    for is_deleted in (False, True):
        world = World(200, body=body, rules=BatchRules(rows_per_s=0.01))
        world.live(chunk_rows=50, max_cost=0.08, prices=str(prices), detach=True)
        submitted = len(world.calls("POST /v1/batches"))
        if is_deleted:
            world.delete_journal()
        world.live(chunk_rows=50, max_cost=0.08, prices=str(prices), detach=True)

        assert submitted
        assert len(world.calls("POST /v1/batches")) == submitted


def test_an_adopted_batch_of_a_renamed_output_is_collected() -> None:
    """Rows are matched by number and hash, whatever the job's name was."""
    world = World(60, rules=BatchRules(rows_per_s=0.1))
    world.live(detach=True)
    (batch_id,) = {event.batch for event in world.events if hasattr(event, "batch")}
    world.delete_journal()
    world.machine.names.clear()
    world.machine.put("/data/in.jsonl", b"".join(world._row(number) + b"\n" for number in range(1, 61)))
    world.machine.put("/data/new.batch.jsonl", json.dumps({"kind": "adopt", "batch": batch_id}).encode() + b"\n")
    world.clock += 3600

    summary = world.live(output="/data/new.jsonl")

    assert summary is not None
    assert summary.exit_code == 0
    assert (world.machine.get("/data/new.jsonl") or b"").count(b"\n") == 60
    assert (summary.batches.found, summary.batches.collected, summary.batches.rows) == (1, 1, 60)
    assert "1 batch collected, 60 rows" in dict(batch_facts(summary.batches))["batches"]
    assert world.machine.get(OUTPUT) is None
    assert world.paid == 60


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"model": "ollama/llama3.2"}, "no batch API for ollama/llama3.2"),
        ({"model": "m", "base_url": "http://localhost:1/v1", "cache": "c.sqlite"}, "--cache"),
        ({"model": "m", "base_url": "http://localhost:1/v1", "tier": "flex"}, "--tier flex"),
        ({"model": "m", "base_url": "http://localhost:1/v1", "via": "live", "deadline": 60.0}, "--deadline"),
        ({"model": "m", "base_url": "http://localhost:1/v1", "via": "live", "detach": True}, "--detach"),
        ({"model": "m", "base_url": "http://localhost:1/v1", "via": "live", "chunk_rows": 9}, "--chunk-rows"),
        ({"model": "m", "base_url": "http://localhost:1/v1", "via": "live", "chunk_mb": 9.0}, "--chunk-mb"),
        ({"model": "m", "base_url": "http://localhost:1/v1", "via": "live", "queue_tokens": 9}, "--queue-tokens"),
        ({"model": "m", "base_url": "http://localhost:1/v1", "via": "live", "keep_remote": True}, "--keep-remote"),
        (
            {"model": "m", "base_url": "http://localhost:1/v1", "via": "live", "on_interrupt": "cancel"},
            "--on-interrupt",
        ),
        ({"model": "m", "base_url": "http://localhost:1/v1", "max_cost": 5}, "price"),
        ({"model": None}, "stream"),
    ],
    ids=[
        *(
            "no batch API",
            "cache",
            "flex",
            "deadline",
            "detach",
            "chunk rows",
            "chunk MB",
            "queue",
            "keep",
            "interrupt",
        ),
        *("cap without price", "stream"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_sent(
    keywords: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """With what to type instead; no file is left."""
    source = tmp_path / "in.jsonl"
    row: dict[str, Any] = {"prompt": "hello"}
    if words == "stream":
        keywords = {"model": "m", "base_url": "http://localhost:1/v1"}
        row["stream"] = True
    source.write_bytes(rows_of({"prompt": "first"}, row))
    runner: BatchRunner[Any, Any] = BatchRunner(**{"via": "batch", "environ": {}, **keywords})

    with pytest.raises(UsageError) as caught:
        asyncio.run(runner.run(source))

    assert words in caught.value.message
    assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_functions_and_streams_have_no_batches(tmp_path: Path) -> None:
    """A function is called, and results of batches need a file."""

    async def call(row: Any) -> str:
        return str(row)

    source = tmp_path / "in.jsonl"
    source.write_bytes(rows_of({"prompt": "first"}))

    with pytest.raises(UsageError, match="function"):
        asyncio.run(BatchRunner(call, via="batch").run(source))


@pytest.mark.slow  # sockets, and a batch of the simulated provider in real time
@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.csv", "in.json"])
def test_any_input_that_can_be_read_twice_goes(name: str, tmp_path: Path) -> None:
    """Compressed ones and tables too, whose rows are kept in a temporary file while results are read."""
    source = tmp_path / name
    rows = [{"prompt": f"row {number}"} for number in range(1, 61)]
    if name.endswith(".gz"):
        source.write_bytes(gzip.compress(rows_of(*rows)))
    elif name.endswith(".csv"):
        source.write_text("prompt\n" + "".join(f"row {number}\n" for number in range(1, 61)))
    else:
        source.write_text(json.dumps(rows, indent=2))

    summary = asyncio.run(BatchRunner("sim/steady", via="batch").run(source, tmp_path / "out.jsonl"))

    assert summary.exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(line["row"] for line in lines) == list(range(1, 61))
    assert {line["via"] for line in lines} == {"batch"}
    assert sorted(path.name for path in tmp_path.iterdir() if "spool" in path.name) == []


def batches_left_running(world: World, output: str = OUTPUT, **arguments: Any) -> None:
    """Submit, and leave it at that."""
    summary = world.live(detach=True, output=output, arguments=arguments)

    assert summary is not None
    assert summary.exit_code == 75
    assert summary.batches.submitted == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_rows_that_batches_hold_are_not_sent_live(overwrite: bool) -> None:
    """Both would be paid for. The batches are collected, and then the live run has nothing left to send."""
    world = World(60)
    batches_left_running(world)

    with pytest.raises(UsageError, match="sending the same rows live would pay for them twice") as refused:
        world.live(via="live", arguments={"overwrite": overwrite})
    summary = world.live()
    again = world.live(via="live")

    assert "--via batch" in refused.value.hint
    assert "--force" in refused.value.hint
    assert summary is not None
    assert again is not None
    assert again.exit_code == 0
    world.check_whole()
    assert world.paid == 60
    assert world.provider.stats.calls == 0


def test_rows_that_batches_hold_are_sent_live_if_that_is_forced() -> None:
    """The user knows that they may be paid for twice."""
    world = World(60)
    batches_left_running(world)

    summary = world.live(via="live", arguments={"force": True})

    assert summary is not None
    assert summary.exit_code == 0
    assert world.provider.stats.calls == 60


@pytest.mark.slow  # whole runs
@pytest.mark.parametrize("via", ["live", "batch"])
def test_rows_that_batches_of_other_shards_hold_are_not_sent(tmp_path: Path, via: str) -> None:
    """Of another number of shards, which share rows; a shard that shares none goes on."""
    asyncio.run(_shards(tmp_path, via))


async def _shards(folder: Path, via: Any) -> None:
    rows = folder / "in.jsonl"
    rows.write_bytes(rows_of(*({"prompt": prompt(number)} for number in range(1, 121))))
    (folder / "o").mkdir()
    first = BatchRunner("sim/steady", via="batch", detach=True)
    summary = await first.run(rows, folder / "o", shard=(1, 2))
    assert summary.exit_code == 75

    with pytest.raises(UsageError, match="shard 1/2 has rows of 1/3 too") as refused:
        await BatchRunner("sim/steady", via=via).run(rows, folder / "o", shard=(1, 3))
    other = await BatchRunner("sim/steady").run(rows, folder / "o", shard=(2, 2))

    assert "--via batch --shard 1/2" in refused.value.hint
    assert (other.exit_code, other.rows) == (0, 60)
