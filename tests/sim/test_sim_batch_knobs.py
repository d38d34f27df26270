"""The speeds and limits of the simulated batch APIs, and what they refuse: in virtual time, a day in a moment."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from sim_batches import Api, Form, anthropic_request, ids, openai_line, run

from llmbatch.core.errors import UsageError
from llmbatch.sim.batches.rules import BatchFault, BatchFaultKind, BatchRules
from llmbatch.sim.batches.uploads import FormBody
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.scenario_file import built_in_scenarios, find_scenario, read_scenario
from llmbatch.sim.virtual import run_virtual

NO_BODY = b'{"custom_id": "r2", "method": "POST", "url": "/v1/chat/completions"}'
NO_ID = b'{"method": "POST", "url": "/v1/chat/completions", "body": {"model": "sim/small"}}'


def test_a_batch_takes_the_time_of_its_scenario() -> None:
    """Validation, rows and finalizing take as long as the scenario says, to the second."""

    async def main(api: Api) -> Any:
        _, made = await api.create(100)
        await asyncio.sleep(60 + 505)
        return made, await api.retrieve(made["id"]), await api.ended(made["id"])

    (made, half, done), _ = run(main, validate_s=60, rows_per_s=0.1, finalize_s=600)

    assert (made["status"], half["status"], done["status"]) == ("validating", "in_progress", "completed")
    assert half["request_counts"] == {"total": 100, "completed": 50, "failed": 0}
    assert done["in_progress_at"] - made["created_at"] == 60
    assert done["finalizing_at"] - done["in_progress_at"] == 1000
    assert done["completed_at"] - done["finalizing_at"] == 600


def test_a_batch_that_is_too_slow_for_its_window_expires() -> None:
    """At the end of the window what was answered is kept, and the rest says that it expired."""

    async def main(api: Api) -> Any:
        batch = await api.ended((await api.create(27))[1]["id"])
        messages = await api.ended((await api.create_messages(27))[1]["id"])
        return batch, await api.lines(batch), messages

    (batch, lines, messages), provider = run(main, rows_per_s=10 / 86_399, validate_s=0, window_s=86_400)

    assert (batch["status"], batch["request_counts"]) == ("expired", {"total": 27, "completed": 10, "failed": 0})
    assert (batch["expired_at"] - batch["created_at"], sum(ids(lines).values())) == (86_400, 27)
    assert (messages["request_counts"]["succeeded"], messages["request_counts"]["expired"]) == (10, 17)
    assert provider.ledger is not None
    paid = [provider.ledger.paid(f"Tell of row {number}") for number in range(1, 28)]
    assert (provider.ledger.payments, sum(paid)) == (20, 20)
    assert (provider.ledger.rows, provider.ledger.twice) == (sum(map(bool, paid)), paid.count(2))


def test_a_cancel_takes_its_time() -> None:
    """``cancelling`` lasts as long as the knob says; no row runs any more."""

    async def main(api: Api) -> Any:
        _, made = await api.create(100)
        await asyncio.sleep(20.5)
        await api.call("POST", f"/v1/batches/{made['id']}/cancel")
        await asyncio.sleep(25)
        return await api.retrieve(made["id"]), await api.ended(made["id"])

    (during, ended), _ = run(main, validate_s=0, rows_per_s=1, cancel_s=30)

    assert (during["status"], ended["status"]) == ("cancelling", "cancelled")
    assert ended["cancelled_at"] - ended["cancelling_at"] == 30
    assert ended["request_counts"]["completed"] == during["request_counts"]["completed"] == 20


def test_the_queue_of_tokens_is_per_model() -> None:
    """A batch above what the other batches of its model leave fails; later, and for another model, it does not."""

    async def main(api: Api) -> list[str]:
        def lines(model: str) -> list[bytes]:
            return [openai_line(number, model) for number in range(10)]

        first, second, other = [(await api.create(lines(model)))[1]["id"] for model in ("a", "a", "b")]
        ended = [(await api.ended(batch))["status"] for batch in (first, second, other)]
        return [*ended, (await api.ended((await api.create(lines("a")))[1]["id"]))["status"]]

    statuses, _ = run(main, queue_tokens=500)

    assert statuses == ["completed", "failed", "completed", "completed"]


def test_the_queue_of_rows_refuses_creations() -> None:
    """429 while the rows of unfinished batches and the new ones are too many, at both APIs."""

    async def main(api: Api) -> list[int]:
        statuses = [(await api.create(60))[0], (await api.create(60))[0], (await api.create_messages(60))[0]]
        await asyncio.sleep(600)
        return [*statuses, (await api.create_messages(60))[0]]

    statuses, _ = run(main, queue_rows=100)

    assert statuses == [200, 429, 429, 200]


def test_creations_per_hour_are_limited() -> None:
    """The third creation of an hour is refused, and names when there may be one again."""

    async def main(api: Api) -> list[int]:
        statuses = [(await api.create(1))[0] for _ in range(3)]
        await asyncio.sleep(3600)
        return [*statuses, (await api.create(1))[0]]

    statuses, _ = run(main, creations_per_h=2)

    assert statuses == [200, 200, 429, 200]


def test_files_and_results_are_gone_after_their_time() -> None:
    """404 for files, an archived batch without results at Anthropic; ``expires_after`` shortens it."""

    async def main(api: Api) -> Any:
        short = await api.json("POST", "/v1/files", Form([openai_line(1)], **{"expires_after[seconds]": "3600"}))
        _, made = await api.create(1)
        batch = await api.ended(made["id"])
        messages = await api.ended((await api.create_messages(1))[1]["id"])
        output = f"/v1/files/{batch['output_file_id']}/content"
        await asyncio.sleep(3600)
        early = [(await api.call("GET", path))[0] for path in (f"/v1/files/{short['id']}", output)]
        await asyncio.sleep(86_400)
        late = (await api.call("GET", output))[0]
        return early, late, messages["results_url"], await api.retrieve(messages["id"])

    (early, late, results_url, archived), _ = run(main, keep_s=86_400)

    assert (early, late) == ([404, 200], 404)
    assert results_url is not None
    assert archived["results_url"] is None
    assert archived["archived_at"] is not None


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"[1]", "invalid_json_line"),
        (b"\xff", "invalid_json_line"),
        (openai_line(1), "duplicate_custom_id"),
        (openai_line(2).replace(b"chat/completions", b"responses"), "url_mismatch"),
        (openai_line(2, "sim/large"), "model_mismatch"),
        (openai_line(2).replace(b"POST", b"GET"), "invalid_method"),
        (NO_BODY, "missing_required_parameter"),
        (NO_ID, "missing_required_parameter"),
    ],
)
def test_validation_finds_what_is_wrong_with_a_line(line: bytes, code: str) -> None:
    """Create accepts it; then the batch fails and names code and line, and nothing was run."""

    async def main(api: Api) -> Any:
        status, made = await api.create([openai_line(1), line])
        return status, made["status"], await api.ended(made["id"])

    (status, first, batch), provider = run(main)

    assert (status, first, batch["status"]) == (200, "validating", "failed")
    assert [(error["code"], error["line"]) for error in batch["errors"]["data"]] == [(code, 2)]
    assert provider.ledger is not None
    assert provider.ledger.payments == 0


@pytest.mark.parametrize(
    ("rules", "lines", "code"),
    [
        ({}, [b""], "empty_file"),
        ({"max_rows": 2}, [openai_line(number) for number in range(3)], "too_many_tasks"),
        ({"max_mb": 0.0001}, [openai_line(1)], "invalid_request"),
    ],
)
def test_validation_finds_what_is_wrong_with_a_file(rules: dict[str, Any], lines: list[bytes], code: str) -> None:
    """Too many rows, too many bytes, or none."""

    async def main(api: Api) -> Any:
        return await api.ended((await api.create(lines))[1]["id"])

    batch, _ = run(main, **rules)

    assert (batch["status"], [error["code"] for error in batch["errors"]["data"]]) == ("failed", [code])


def test_a_batch_with_a_bad_file_can_be_cancelled_and_expires() -> None:
    """No line of it is ever read."""

    async def main(api: Api) -> list[str]:
        first, second = [(await api.create([b"{"]))[1]["id"] for _ in range(2)]
        await api.call("POST", f"/v1/batches/{first}/cancel")
        return [(await api.ended(batch))["status"] for batch in (first, second)]

    statuses, _ = run(main, BatchFault("stuck", seconds=1e9))

    assert statuses == ["cancelled", "expired"]


@pytest.mark.parametrize(
    ("order", "param"),
    [
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"metadata": {f"k{number}": "" for number in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after"),
        ({"endpoint": None}, "endpoint"),
    ],
)
def test_openai_refuses_a_bad_creation(order: dict[str, Any], param: str) -> None:
    """400 that names the parameter; no batch is made."""

    async def main(api: Api) -> Any:
        file = await api.upload([openai_line(1)])
        return await api.call("POST", "/v1/batches", {**await api.order(file["id"]), **order})

    (status, body), provider = run(main)

    assert (status, json.loads(body)["error"]["param"]) == (400, param)
    assert provider.batches.batches == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "requests: Field required"),
        (b'{"requests":[]}', "at least 1"),
        (b'{"requests":[1]}', r"requests.0: Input should be an object"),
        (b'{"requests":[{"params":{}}]}', r"requests.0.custom_id: Field required"),
        (b'{"requests":[{"custom_id":"a b","params":{}}]}', r"requests.0.custom_id: String should match"),
        (b'{"requests":[{"custom_id":"a"}]}', r"requests.0.params: Field required"),
        (b'{"requests":[{"custom_id":"a","params":{}}, {"custom_id":"a","params":{}}]}', "not unique"),
        (b'{"requests":[{"custom_id":"a","params":{}}', "valid JSON"),
        (b'{"requests":[{"custom_id":"a","params":{}] x }', "valid JSON"),
        (b"nonsense", "requests: Field required"),
    ],
)
def test_anthropic_refuses_a_bad_creation(body: bytes, message: str) -> None:
    """400 at once, which names the request; no batch is made."""

    async def main(api: Api) -> Any:
        return await api.call("POST", "/v1/messages/batches", body)

    (status, answer), provider = run(main)

    assert status == 400
    assert message in json.loads(answer)["error"]["message"]
    assert provider.batches.batches == []


def test_anthropic_limits_rows_and_bytes() -> None:
    """400 above the rows, 413 above the bytes."""

    async def main(api: Api) -> list[int]:
        return [(await api.create_messages(count))[0] for count in (3, 4, 100)]

    statuses, _ = run(main, max_rows=3, max_mb=0.01)

    assert statuses == [200, 400, 413]


def test_anthropic_takes_spaced_json() -> None:
    """Blanks and line breaks between the members do not matter."""
    body = json.dumps({"requests": [anthropic_request(number) for number in range(3)]}, indent=2).encode()

    async def main(api: Api) -> Any:
        status, made = await api.call("POST", "/v1/messages/batches", body)
        return status, await api.ended(json.loads(made)["id"])

    (status, batch), _ = run(main)

    assert (status, batch["request_counts"]["succeeded"]) == (200, 3)


def test_a_row_that_asks_for_a_stream_is_refused() -> None:
    """The other rows are answered."""

    async def main(api: Api) -> Any:
        batch = await api.ended((await api.create([openai_line(1), openai_line(2, stream=True)]))[1]["id"])
        messages = await api.ended((await api.create_messages(2, stream=True))[1]["id"])
        return batch, await api.lines(batch), messages

    (batch, lines, messages), _ = run(main)

    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert {line["custom_id"]: line["response"]["status_code"] for line in lines} == {"r1": 200, "r2": 400}
    assert messages["request_counts"]["errored"] == 2


def test_rows_meet_the_phases_and_row_faults_of_their_scenario() -> None:
    """The rows that are run while the scenario is down fail with its status; a bad row always does."""
    phases = (Phase(10), Phase(10, "down"))
    scenario = Scenario("half", phases, "half", batch=BatchRules(validate_s=0, rows_per_s=1, finalize_s=0))
    provider = SimulatedProvider(scenario, keep_ledger=True)

    async def main() -> Any:
        api = Api(provider)
        batch = await api.ended((await api.create(30))[1]["id"])
        return batch, await api.lines(batch)

    batch, lines = run_virtual(main)

    statuses = [line["response"]["status_code"] for line in lines]
    assert batch["request_counts"]["failed"] == statuses.count(503)
    assert 8 <= statuses.count(503) <= 11
    assert statuses.count(200) == 30 - statuses.count(503)


@pytest.mark.parametrize("kind", ["hang", "refuse", "cut", "html", "false_success"])
def test_a_row_without_a_good_answer_is_an_error_line(kind: Any) -> None:
    """Where a live call gets no JSON, or none at all, the row fails with 500 in the provider's shape."""
    scenario = Scenario("bad", (Phase(1e9, kind),), "bad", batch=BatchRules())
    provider = SimulatedProvider(scenario)

    async def main() -> Any:
        api = Api(provider)
        batch = await api.ended((await api.create(3))[1]["id"])
        messages = await api.ended((await api.create_messages(3))[1]["id"])
        return batch, await api.lines(batch), messages, await api.lines(messages)

    batch, lines, messages, results = run_virtual(main)

    assert batch["request_counts"] == {"total": 3, "completed": 0, "failed": 3}
    assert {line["response"]["status_code"] for line in lines} == {500}
    assert all(line["response"]["body"]["error"]["message"] for line in lines)
    assert messages["request_counts"]["errored"] == 3
    assert {line["result"]["error"]["type"] for line in results} == {"error"}


def test_the_model_chooses_the_scenario_of_its_batch() -> None:
    """``sim/b7-refused`` is refused, whatever the provider's own scenario is."""
    provider = SimulatedProvider("steady")

    async def main() -> Any:
        api = Api(provider)
        batch = await api.ended((await api.create([openai_line(1, "sim/b7-refused")]))[1]["id"])
        fine = await api.ended((await api.create([openai_line(1, "sim/steady")]))[1]["id"])
        return batch["request_counts"]["failed"], fine["request_counts"]["completed"]

    assert run_virtual(main) == (1, 1)


def test_a_faster_scenario_passes_faster() -> None:
    """All times are that much shorter, and so are those of its faults."""
    rules = BatchRules(validate_s=10, rows_per_s=1, keep_s=500, faults=(BatchFault("stuck", seconds=100, from_s=10),))

    faster = Scenario("x", (), "x", batch=rules).compressed(10).batch

    assert faster is not None
    assert (faster.validate_s, faster.rows_per_s, faster.keep_s, faster.window_s) == (1, 10, 50, 8640)
    assert (faster.faults[0].seconds, faster.faults[0].from_s) == (10, 1)


def test_reset_forgets_batches_and_files() -> None:
    """``/sim/reset`` starts afresh."""

    async def main(api: Api) -> Any:
        await api.create(1)
        api.provider.reset()
        return await api.json("GET", "/v1/batches"), await api.json("GET", "/v1/files")

    (batches, files), _ = run(main)

    assert (batches["data"], files["data"]) == ([], [])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100_000])
def test_a_form_may_come_in_pieces_of_any_size(size: int) -> None:
    """Boundaries are found wherever they are cut, and the file's bytes are whole, whatever they hold."""
    content = b"\r\n--not-it\r\n\x00\xff--bound\r\n-" * 20
    head = b'--bound\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--bound\r\n'
    head += b'Content-Disposition: form-data; name="file"; filename="a b.jsonl"\r\nContent-Type: x/y\r\n\r\n'
    whole = head + content + b"\r\n--bound--\r\n"
    form = FormBody({"content-type": 'multipart/form-data; boundary="bound"'})

    for start in range(0, len(whole), size):
        form.feed(whole[start : start + size])

    assert (form.is_whole, form.filename, form.fields) == (True, "a b.jsonl", {"purpose": b"batch"})
    assert form.text() == content


def test_a_form_without_its_end_is_refused() -> None:
    """An upload that was cut is no file."""

    async def main(api: Api) -> Any:
        form = Form([openai_line(1)])
        whole = b"".join([piece async for piece in form.blocks()])
        cut = await api.call("POST", "/v1/files", whole[:-10])
        purpose = await api.call("POST", "/v1/files", Form([openai_line(1)], purpose="other"))
        return cut[0], purpose[0], (await api.json("GET", "/v1/files"))["data"]

    seen, _ = run(main)

    assert seen == (400, 400, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[batch]\nspeed = 1", "batch: 'speed' is unknown"),
        ("[batch]\nrows_per_s = 'x'", "batch.rows_per_s is 'x', must be a number"),
        ("[batch]\nqueue_rows = 1.5", "batch.queue_rows is 1.5, must be a whole number"),
        ("[batch]\nrows_per_s = 0", "batch: rows_per_s is 0.0, must be above 0"),
        ("batch = 1", "batch is 1, must be a table"),
        ("[batch]\nfaults = 1", "batch.faults is 1, must be a list of tables"),
        ("[[batch.faults]]\nshare = 1", "batch fault 1: kind is missing"),
        ("[[batch.faults]]\nkind = 'expire'\nshare = 2", "batch fault 1: share is 2.0, must be 0 to 1"),
        ("[[batch.faults]]\nkind = 'expire'\nhalf = 2", "batch fault 1: 'half' is unknown"),
        ("[[batch.faults]]\nkind = 'expire'\nbatches = 1", "batch fault 1: batches is 1, must be a list"),
    ],
)
def test_a_bad_batch_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The message says where, and what it must be."""
    path = tmp_path / "mine.toml"
    path.write_text(text)

    with pytest.raises(UsageError) as caught:
        read_scenario(path)

    assert str(caught.value).startswith(f"{path}: {message}")


def test_b1_to_b8_have_rules_of_their_own() -> None:
    """They are found by their number, and each but the plain one has a fault."""
    found = [find_scenario(f"b{number}") for number in range(1, 9)]

    assert [scenario.name for scenario in found] == list(built_in_scenarios())[-8:]
    assert all(scenario.batch is not None for scenario in found)
    assert [bool(scenario.batch and scenario.batch.faults) for scenario in found] == [False] + [True] * 7


@pytest.mark.parametrize("number", range(1, 9))
def test_the_batches_of_each_built_in_scenario_end(number: int) -> None:
    """Six batches of each API end within two days; what is paid is what succeeded."""
    provider = SimulatedProvider(f"b{number}", keep_ledger=True)

    async def main() -> int:
        api = Api(provider)
        for _ in range(6):
            await api.create(20)
            await api.create_messages(20)
        await asyncio.sleep(2 * 86_400)
        succeeded = 0
        for path in ("/v1/batches", "/v1/messages/batches"):
            after = ""
            seen: dict[str, Any] = {}
            for _ in range(40):  # lists may fail and move
                page = await api.json("GET", f"{path}?limit=100{after}")
                seen |= {each["id"]: each for each in page.get("data", ())}
            for batch in seen.values():
                assert batch.get("ended_at") or batch["status"] in ("completed", "expired", "failed"), batch
                counts = batch["request_counts"]
                succeeded += counts.get("succeeded", counts.get("completed"))
        return succeeded

    succeeded = run_virtual(main)

    assert provider.ledger is not None
    assert provider.batches.stats.batches >= 10
    assert provider.ledger.payments == succeeded


def test_the_documentation_names_every_knob_and_fault() -> None:
    """Each field of the rules and each kind of fault is in a table of docs/outages.md, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "outages.md").read_text()
    section = page.partition("## Batch APIs")[2].partition("## The drill")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for cell in rows for name in re.findall("`(.*?)`", cell)} - {"kind"}

    assert named == {field.name for field in fields(BatchRules)} - {"faults"} | set(get_args(BatchFaultKind))
