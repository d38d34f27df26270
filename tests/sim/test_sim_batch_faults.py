"""Each fault of the simulated batch APIs does what it says, in virtual time."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from sim_batches import Api, ids, openai_line, run

from llmbatch.core.errors import UsageError
from llmbatch.sim.batches.rules import BatchFault, BatchRules

ALL = {f"r{number}": 1 for number in range(1, 101)}


async def whole(api: Api, count: int = 100) -> tuple[Any, list[Any]]:
    """An OpenAI batch that has ended, and its lines."""
    _, made = await api.create(count)
    batch = await api.ended(made["id"])
    return batch, await api.lines(batch)


async def whole_messages(api: Api, count: int = 100, **more: object) -> tuple[Any, list[Any]]:
    """An Anthropic batch that has ended, and its lines."""
    _, made = await api.create_messages(count, **more)
    batch = await api.ended(made["id"])
    return batch, await api.lines(batch)


@pytest.mark.parametrize(("statuses", "status"), [((), 0), ((502,), 502)])
def test_a_lost_create_made_a_batch_all_the_same(statuses: tuple[int, ...], status: int) -> None:
    """The answer never comes, or is an error; the batch is listed, and runs."""

    async def main(api: Api) -> Any:
        file = await api.upload([openai_line(1)])
        code, _ = await api.call("POST", "/v1/batches", await api.order(file["id"]))
        return code, (await api.json("GET", "/v1/batches"))["data"]

    (code, listed), provider = run(main, BatchFault("create_lost", batches=(1,), statuses=statuses))

    assert code == status
    assert len(listed) == 1
    assert provider.batches.stats.batches == 1


def test_create_is_refused_so_many_times() -> None:
    """429 with the hint, then the batch is made."""

    async def main(api: Api) -> list[int]:
        return [(await api.create(1))[0] for _ in range(3)]

    statuses, _ = run(main, BatchFault("create_refused", times=2, retry_after=30))

    assert statuses == [429, 429, 200]


def test_a_full_queue_shows_after_validation_at_openai_and_at_once_at_anthropic() -> None:
    """OpenAI creates the batch, then fails it with ``token_limit_exceeded``; Anthropic refuses with 429."""

    async def main(api: Api) -> Any:
        status, made = await api.create(5)
        return status, await api.ended(made["id"]), await api.create_messages(5)

    (status, batch, refused), _ = run(main, BatchFault("queue_full"))

    assert (status, batch["status"], refused[0]) == (200, "failed", 429)
    assert [error["code"] for error in batch["errors"]["data"]] == ["token_limit_exceeded"]
    assert "Enqueued token limit reached for sim/small" in batch["errors"]["data"][0]["message"]
    assert refused[1]["error"]["type"] == "rate_limit_error"
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}


def test_a_new_batch_is_not_found_for_a_while() -> None:
    """404 to retrieve and cancel for so many seconds after the creation, at both APIs."""

    async def main(api: Api) -> list[int]:
        _, one = await api.create(1)
        _, two = await api.create_messages(1)
        paths = [f"/v1/batches/{one['id']}", f"/v1/messages/batches/{two['id']}"]
        early = [(await api.call("GET", path))[0] for path in paths]
        early.append((await api.call("POST", f"{paths[0]}/cancel"))[0])
        await asyncio.sleep(100)
        return early + [(await api.call("GET", path))[0] for path in paths]

    statuses, _ = run(main, BatchFault("not_found", seconds=100))

    assert statuses == [404, 404, 404, 200, 200]


def test_results_are_not_found_for_a_while() -> None:
    """404 for the results for so many seconds after the end."""

    async def main(api: Api) -> list[int]:
        _, made = await api.create(1)
        await asyncio.sleep(10)
        path = f"/v1/files/{(await api.retrieve(made['id']))['output_file_id']}/content"
        early = (await api.call("GET", path))[0]
        await asyncio.sleep(100)
        return [early, (await api.call("GET", path))[0]]

    statuses, _ = run(main, BatchFault("results_not_found", seconds=100))

    assert statuses == [404, 200]


def test_a_batch_is_listed_late_or_never() -> None:
    """It can be retrieved meanwhile."""

    async def main(api: Api) -> list[Any]:
        made = [(await api.create(1))[1]["id"] for _ in range(3)]
        seen = []
        for _ in range(2):
            listed = {each["id"] for each in (await api.json("GET", "/v1/batches"))["data"]}
            seen.append([batch in listed for batch in made])
            await asyncio.sleep(100)
        return [*seen, (await api.call("GET", f"/v1/batches/{made[1]}"))[0]]

    faults = (
        BatchFault("unlisted", batches=(1,), seconds=50),
        BatchFault("unlisted", batches=(2,), seconds=math.inf),
    )
    (early, late, status), _ = run(main, *faults)

    assert (early, late, status) == ([False, False, True], [True, False, True], 200)


def test_expiry_keeps_a_share_and_counts_the_rest_nowhere() -> None:
    """37 % are answered, the rest says ``batch_expired`` at the end of the window; both APIs pay for 37 only."""

    async def main(api: Api) -> Any:
        return await whole(api), await whole_messages(api)

    ((batch, lines), (messages, results)), provider = run(main, BatchFault("expire", share=0.37))

    good = [line for line in lines if line["response"] is not None]
    assert (batch["status"], batch["request_counts"]) == ("expired", {"total": 100, "completed": 37, "failed": 0})
    assert batch["expired_at"] - batch["created_at"] == 86_400
    assert (len(good), ids(lines)) == (37, ALL)
    assert {line["error"]["code"] for line in lines if line["response"] is None} == {"batch_expired"}
    assert (messages["request_counts"]["succeeded"], messages["request_counts"]["expired"]) == (37, 63)
    assert ids(results) == ALL
    assert provider.ledger is not None
    assert provider.ledger.payments == 74


def test_missing_rows_are_in_no_file_and_unpaid() -> None:
    """The rows that are missing have no line, and did not run."""

    async def main(api: Api) -> Any:
        return await whole(api)

    (batch, lines), provider = run(main, BatchFault("missing", share=0.2))

    assert batch["status"] == "completed"
    assert 60 < len(lines) < 95
    assert set(ids(lines).values()) == {1}
    assert provider.ledger is not None
    assert provider.ledger.payments == len(lines) == batch["request_counts"]["completed"]


def test_missing_rows_of_a_cancelled_batch_are_in_no_file_either() -> None:
    """Where all are missing a cancelled batch has no files."""

    async def main(api: Api) -> Any:
        _, made = await api.create(10)
        await api.call("POST", f"/v1/batches/{made['id']}/cancel")
        return await api.ended(made["id"])

    batch, _ = run(main, BatchFault("missing", share=1))

    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("cancelled", None, None)


def test_duplicate_lines_come_twice_and_are_paid_once() -> None:
    """The lines of half of the rows repeat."""

    async def main(api: Api) -> Any:
        return await whole(api), await whole_messages(api)

    ((_, lines), (_, results)), provider = run(main, BatchFault("duplicate", share=0.5))

    for each in (lines, results):
        assert set(ids(each)) == set(ALL)
        assert set(ids(each).values()) == {1, 2}
    assert provider.ledger is not None
    assert provider.ledger.payments == 200


def test_foreign_lines_are_of_nobody() -> None:
    """They have unknown ids, some of which look like llmbatch's."""

    async def main(api: Api) -> Any:
        return await whole(api, 10), await whole_messages(api, 10)

    ((_, lines), (_, results)), _ = run(main, BatchFault("foreign", rows=4))

    for each in (lines, results):
        foreign = [line["custom_id"] for line in each if line["custom_id"] not in ALL]
        assert [name.startswith("lb-") for name in foreign] == [True, False, True, False]


@pytest.mark.parametrize(("kind", "status"), [("torn", 0), ("short", 200)])
def test_a_download_breaks_off_at_first(kind: Any, status: int) -> None:
    """The first download has the first half of the bytes, without or with a good ending; the next has all."""

    async def main(api: Api) -> Any:
        batch = await api.ended((await api.create(50))[1]["id"])
        path = f"/v1/files/{batch['output_file_id']}/content"
        return [await api.call("GET", path) for _ in range(2)]

    ((first, part), (second, everything)), _ = run(main, BatchFault(kind, share=0.5))

    assert (first, second) == (status, 200)
    assert part == everything[: len(everything) // 2]
    assert len(everything.splitlines()) == 50


def test_all_rows_failed_leaves_an_error_file_only() -> None:
    """A completed batch without an output file."""

    async def main(api: Api) -> Any:
        return await whole(api), await whole_messages(api)

    ((batch, lines), (messages, results)), provider = run(main, BatchFault("error_only", statuses=(500, 429)))

    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    assert batch["request_counts"] == {"total": 100, "completed": 0, "failed": 100}
    assert {line["response"]["status_code"] for line in lines} == {429, 500}
    assert messages["request_counts"]["errored"] == 100
    assert {line["result"]["error"]["error"]["type"] for line in results} == {"api_error", "rate_limit_error"}
    assert provider.ledger is not None
    assert provider.ledger.payments == 0


def test_an_error_file_id_may_be_empty_or_name_an_empty_file() -> None:
    """As some providers have it."""

    async def main(api: Api) -> Any:
        batches = [(await whole(api, 3))[0] for _ in range(3)]
        path = f"/v1/files/{batches[1]['error_file_id']}/content"
        return [batch["error_file_id"] for batch in batches], await api.call("GET", path)

    faults = (BatchFault("empty_error_id", batches=(1,)), BatchFault("empty_error_file", batches=(2,)))
    ((first, second, third), (status, content)), _ = run(main, *faults)

    assert (first, third) == ("", None)
    assert second.startswith("file-")
    assert (status, content) == (200, b"")


def test_validation_names_a_bad_line() -> None:
    """The batch fails, and one line is named."""

    async def main(api: Api) -> Any:
        return await api.ended((await api.create(5))[1]["id"])

    batch, provider = run(main, BatchFault("bad_line", rows=3))

    assert batch["status"] == "failed"
    assert [(error["code"], error["line"]) for error in batch["errors"]["data"]] == [("invalid_request", 3)]
    assert provider.ledger is not None
    assert provider.ledger.payments == 0


@pytest.mark.parametrize(
    ("reason", "code", "message"),
    [("credit", "insufficient_quota", "credit balance is too low"), ("key", "invalid_api_key", "Incorrect API key")],
)
def test_all_rows_are_refused(reason: Any, code: str, message: str) -> None:
    """Without money Anthropic's rows look like bad ones; OpenAI's have the code of a live refusal."""

    async def main(api: Api) -> Any:
        return await whole(api, 10), await whole_messages(api, 10)

    ((batch, lines), (_, results)), _ = run(main, BatchFault("refused", reason=reason))

    assert (batch["status"], batch["request_counts"]["failed"]) == ("completed", 10)
    assert {line["response"]["body"]["error"]["code"] for line in lines} == {code}
    errors = [line["result"]["error"]["error"] for line in results]
    assert {error["type"] for error in errors} == {
        "invalid_request_error" if reason == "credit" else "authentication_error"
    }
    assert all(message in error["message"] for error in errors)


def test_a_model_without_batches_fails_validation_or_every_row() -> None:
    """OpenAI finds out while validating, Anthropic only when it processes the rows."""

    async def main(api: Api) -> Any:
        return await api.ended((await api.create(5))[1]["id"]), await whole_messages(api, 5)

    (batch, (messages, results)), _ = run(main, BatchFault("unsupported"))

    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", "model_not_found")
    assert messages["request_counts"]["errored"] == 5
    assert {line["result"]["error"]["error"]["type"] for line in results} == {"invalid_request_error"}


def test_finalizing_lasts_long_after_the_last_row() -> None:
    """All rows are counted, but the results come hours later."""

    async def main(api: Api) -> Any:
        _, made = await api.create(10)
        await asyncio.sleep(3600)
        return await api.retrieve(made["id"]), await api.ended(made["id"])

    (early, ended), _ = run(main, BatchFault("finalizing", seconds=14_400))

    assert (early["status"], early["request_counts"]["completed"]) == ("finalizing", 10)
    assert early["output_file_id"] is None
    assert ended["completed_at"] - ended["finalizing_at"] == pytest.approx(14_401, abs=1)


def test_a_stuck_batch_waits_and_expires_if_that_lasts() -> None:
    """Nothing happens for so long; past the window it expires without a row."""

    async def main(api: Api) -> Any:
        _, first = await api.create(10)
        _, second = await api.create(10)
        await asyncio.sleep(3000)
        return await api.retrieve(first["id"]), await api.ended(first["id"]), await api.ended(second["id"])

    faults = (
        BatchFault("stuck", batches=(1,), seconds=7200),
        BatchFault("stuck", batches=(2,), seconds=math.inf),
    )
    (early, first, second), provider = run(main, *faults)

    assert (early["status"], first["status"], second["status"]) == ("validating", "completed", "expired")
    assert second["request_counts"] == {"total": 10, "completed": 0, "failed": 0}
    assert provider.ledger is not None
    assert provider.ledger.payments == 10


def test_a_slow_cancel_completes_some_rows() -> None:
    """It takes its time, and a fifth of the rows that were left still runs, and is paid."""

    async def main(api: Api) -> Any:
        batches = []
        for base, create in (("/v1/batches", api.create), ("/v1/messages/batches", api.create_messages)):
            _, made = await create(100)
            await asyncio.sleep(51)
            cancelling = await api.json("POST", f"{base}/{made['id']}/cancel")
            await asyncio.sleep(500)
            later = await api.retrieve(made["id"])
            ended = await api.ended(made["id"])
            batches.append((cancelling, later, ended, await api.lines(ended)))
        return batches

    faults = BatchFault("slow_cancel", seconds=600, share=0.2)
    ((begun, later, ended, lines), (_, canceling, messages, results)), provider = run(
        main, faults, rows_per_s=1, validate_s=0
    )

    assert (begun["status"], later["status"], ended["status"]) == ("cancelling", "cancelling", "cancelled")
    assert ended["cancelled_at"] - ended["cancelling_at"] == 600
    assert (ended["request_counts"]["completed"], ids(lines)) == (60, ALL)
    assert {line["error"]["code"] for line in lines if line["error"]} == {"batch_cancelled"}
    assert canceling["processing_status"] == "canceling"
    counts = messages["request_counts"]
    assert (counts["succeeded"], counts["canceled"], ids(results)) == (60, 40, ALL)
    assert provider.ledger is not None
    assert provider.ledger.payments == 120


def test_pages_of_a_moving_list_repeat_and_omit() -> None:
    """An item of the page before comes again and one is left out; each comes within a few readings."""

    async def main(api: Api) -> Any:
        made = {(await api.create(1))[1]["id"] for _ in range(6)}
        readings = []
        for _ in range(6):
            seen: list[str] = []
            after = ""
            while True:
                page = await api.json("GET", f"/v1/batches?limit=2{after}")
                seen += [each["id"] for each in page["data"]]
                after = f"&after={page['last_id']}"
                if not page["has_more"]:
                    break
            readings.append(seen)
        return made, readings

    (made, readings), _ = run(main, BatchFault("list_moves"))

    assert any(len(seen) > len(set(seen)) for seen in readings), "an item repeats"
    assert any(set(seen) != made for seen in readings), "an item is left out"
    assert set().union(*readings) == made


def test_control_calls_fail_while_batches_go_on() -> None:
    """Between two instants the calls of a kind are answered with 5xx; the batch ends meanwhile."""

    async def main(api: Api) -> Any:
        _, made = await api.create(10)
        path = f"/v1/batches/{made['id']}"
        await asyncio.sleep(1000)
        down = [(await api.call("GET", path))[0], (await api.call("GET", "/v1/files"))[0]]
        await asyncio.sleep(1000)
        return down, await api.retrieve(made["id"])

    fault = BatchFault("control_errors", from_s=500, to_s=1500, statuses=(500,), calls=("retrieve", "list"))
    (down, batch), provider = run(main, fault)

    assert (down, batch["status"]) == ([500, 200], "completed")
    assert batch["completed_at"] - batch["created_at"] < 10
    assert provider.batches.stats.calls("retrieve", since=500, until=1500) == 1


def test_some_control_calls_fail_by_chance() -> None:
    """With a rate, so many of the calls."""

    async def main(api: Api) -> list[int]:
        return [(await api.call("GET", "/v1/batches"))[0] for _ in range(300)]

    statuses, _ = run(main, BatchFault("control_errors", rate=0.2))

    assert 30 < statuses.count(503) < 90
    assert statuses.count(200) == 300 - statuses.count(503)


def test_a_file_is_processed_late() -> None:
    """It is ``uploaded`` for a while, in which no batch can be made of it."""

    async def main(api: Api) -> Any:
        file = await api.upload([openai_line(1)])
        early, _ = await api.call("POST", "/v1/batches", await api.order(file["id"]))
        await asyncio.sleep(30)
        later = await api.json("GET", f"/v1/files/{file['id']}")
        made, _ = await api.call("POST", "/v1/batches", await api.order(file["id"]))
        return file["status"], early, later["status"], made

    seen, _ = run(main, BatchFault("file_pending", seconds=30))

    assert seen == ("uploaded", 400, "processed", 200)


def test_a_seed_repeats_everything() -> None:
    """The same seed gives the same files, byte for byte; another one others."""

    async def main(api: Api) -> list[str]:
        return [json.dumps(await whole(api, 30)) for _ in range(4)]

    faults = [BatchFault("missing", share=0.1), BatchFault("duplicate", rate=0.5), BatchFault("expire", rate=0.5)]
    one, two, other = (run(main, *faults, seed=seed)[0] for seed in (5, 5, 6))

    assert one == two
    assert one != other


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "gone"}, "kind is 'gone'"),
        ({"kind": "expire", "share": 2}, "share is 2"),
        ({"kind": "expire", "batches": (0,)}, "batches is"),
        ({"kind": "torn", "times": 0}, "times is 0"),
        ({"kind": "error_only", "statuses": (200,)}, "statuses is"),
        ({"kind": "refused", "reason": "mood"}, "reason is 'mood'"),
        ({"kind": "control_errors", "calls": ("post",)}, "calls has 'post'"),
        ({"kind": "control_errors", "from_s": 5, "to_s": 1}, "from_s is 5"),
        ({"kind": "create_refused", "retry_after": 0}, "retry_after is 0"),
        ({"kind": "stuck", "seconds": -1}, "seconds is -1"),
    ],
)
def test_an_impossible_fault_is_refused(values: dict[str, Any], message: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        BatchFault(**values)


@pytest.mark.parametrize(
    "values", [{"rows_per_s": 0}, {"validate_s": -1}, {"window_s": 0}, {"queue_rows": 0}, {"keep_s": -5}]
)
def test_impossible_rules_are_refused(values: dict[str, Any]) -> None:
    """The message names the knob."""
    with pytest.raises(UsageError, match=next(iter(values))):
        BatchRules(**values)
