"""Answers that were cut at their token limit: counted, failed with ``require_finish``, and resent in a later run."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmbatch import BatchRunner, OutputError, Result, WriteError
from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import UsageError
from llmbatch.core.events import Event, RowFinished
from llmbatch.display.status_read import read_status
from llmbatch.report.summary import Summary
from llmbatch.runs.cut_answers import is_cut_answer
from llmbatch.storage.filesystem import Filesystem

NEEDED = 10
"""Tokens that each answer needs."""


class Provider:
    """A transport that cuts each answer at the request's ``max_tokens``; "say nothing" gets an empty answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def post(self, request: Request, *, timeout: float) -> Reply:
        body = json.loads(request.body)
        prompt = body["messages"][0]["content"]
        self.asked.append(prompt)
        most = body.get("max_tokens", NEEDED)
        text = "" if prompt == "say nothing" else "word " * min(most, NEEDED)
        choice = {"message": {"content": text}, "finish_reason": "length" if most < NEEDED else "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": min(most, NEEDED)}
        return Reply(200, {}, json.dumps({"choices": [choice], "usage": usage}).encode())

    async def aclose(self) -> None:
        return


def runner(provider: Provider, **keywords: Any) -> BatchRunner[Any, Any]:
    return BatchRunner("x", base_url="http://127.0.0.1:9/v1", environ={}, transport=provider, **keywords)


async def run(tmp_path: Path, provider: Provider, *, retry_failed: bool = False, **keywords: Any) -> Summary:
    arguments = {name: keywords.pop(name) for name in ("limit", "force", "overwrite") if name in keywords}
    run = runner(provider, **keywords).run(tmp_path / "p.jsonl", tmp_path / "o", retry_failed=retry_failed, **arguments)
    return await run


def lines(tmp_path: Path) -> dict[int, dict[str, Any]]:
    """The line of each row; fails where a row has two."""
    found = [json.loads(line) for line in (tmp_path / "o").read_text().splitlines()]
    assert max(Counter(line["row"] for line in found).values(), default=1) == 1
    return {line["row"]: line for line in found}


def write(tmp_path: Path, *rows: object) -> None:
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Rows 2 and 4 are cut, the answer to row 5 is empty."""
    write(
        tmp_path,
        {"prompt": "one"},
        {"prompt": "two", "max_tokens": 3},
        {"prompt": "three"},
        {"prompt": "four", "max_tokens": 3, "metadata": {"n": 4}},
        {"prompt": "say nothing"},
    )
    return tmp_path


async def test_cut_and_empty_answers_were_plain_successes_told_nowhere(mixed: Path) -> None:
    """The line says it, the summary and the status count it, from the output alone too."""
    summary = await run(mixed, Provider())

    found = lines(mixed)
    assert [row for row, line in sorted(found.items()) if line.get("finish_reason") == "length"] == [2, 4]
    assert all("finish_reason" not in found[row] for row in (1, 3, 5))
    assert found[5]["text"] == ""
    assert (summary.exit_code, summary.success, summary.cut_answers, summary.answers_without_text) == (0, 5, 2, 1)
    assert (summary.to_json()["cut_answers"], summary.to_json()["answers_without_text"]) == (2, 1)
    report = read_status(mixed / "o")
    assert (report.cut_answers, report.answers_without_text) == (2, 1)
    assert (report.to_json()["cut_answers"], report.to_json()["answers_without_text"]) == (2, 1)


async def test_row_hash_and_status_stay_the_first_members_of_a_line(mixed: Path) -> None:
    """A resumed run reads nothing else."""
    await run(mixed, Provider())
    provider = Provider()

    again = await run(mixed, provider)

    assert all(list(line)[:3] == ["row", "hash", "status"] for line in lines(mixed).values())
    assert (again.exit_code, again.already_done, provider.asked) == (0, 5, [])


async def test_with_require_finish_a_cut_answer_fails_at_once_and_is_paid_once(mixed: Path) -> None:
    """Its text, body, usage and finish reason stay in the line; the circuit and other rows do not mind."""
    provider, events = Provider(), list[Event]()

    summary = await run(mixed, provider, require_finish=True, observers=[events.append])

    line = lines(mixed)[2]
    assert (line["status"], line["error"]["code"], line["finish_reason"]) == ("failed", "truncated", "length")
    assert (line["text"], line["usage"]["output_tokens"], line["attempts"]) == ("word word word ", 3, 1)
    assert line["response"]["body"]["choices"][0]["finish_reason"] == "length"
    assert sorted(provider.asked) == sorted(["one", "two", "three", "four", "say nothing"])
    assert (summary.exit_code, summary.success, summary.failed, summary.cut_answers) == (1, 3, 2, 0)
    assert summary.failures_by_code == {"truncated": 2}
    ended = {event.row: (event.status, event.code) for event in events if isinstance(event, RowFinished)}
    assert ended[4] == ("failed", "truncated")
    report = read_status(mixed / "o")
    assert [(group.code, group.count) for group in report.failures] == [("truncated", 2)]
    assert (report.failed, report.cut_answers) == (2, 0)


async def test_a_run_whose_answers_are_all_cut_goes_on(tmp_path: Path) -> None:
    """Five first rows that fail stop a run that the provider refuses, but here it has answered."""
    write(tmp_path, *({"prompt": f"row {n}", "max_tokens": 2} for n in range(40)))
    provider = Provider()

    summary = await run(tmp_path, provider, require_finish=True)

    assert (summary.exit_code, summary.failed, summary.outages, len(provider.asked)) == (1, 40, 0, 40)


async def test_retry_failed_resent_no_row_whose_answer_was_cut(mixed: Path) -> None:
    """With require_finish it does: these rows only, and each has one line in the end."""
    await run(mixed, Provider())
    provider = Provider()
    before = lines(mixed)

    plain = await run(mixed, provider, retry_failed=True)
    assert (plain.exit_code, provider.asked, lines(mixed)) == (0, [], before)
    summary = await run(mixed, provider, retry_failed=True, require_finish=True)

    after = lines(mixed)
    assert sorted(provider.asked) == ["four", "two"]
    assert {row: after[row] for row in (1, 3, 5)} == {row: before[row] for row in (1, 3, 5)}
    assert {after[row]["error"]["code"] for row in (2, 4)} == {"truncated"}
    assert (summary.rows, summary.failed) == (5, 2)


async def test_a_cut_answer_is_good_once_it_has_room(tmp_path: Path) -> None:
    """The parameters change, so that force is needed; the rows that were not cut keep their lines."""
    write(tmp_path, *({"prompt": f"row {n}"} for n in range(5)), {"prompt": "short", "max_tokens": NEEDED})
    await run(tmp_path, Provider(), params={"max_tokens": 4})
    provider = Provider()

    more = {"max_tokens": 50}
    summary = await run(tmp_path, provider, params=more, force=True, retry_failed=True, require_finish=True)

    assert sorted(provider.asked) == [f"row {n}" for n in range(5)]
    assert (summary.exit_code, summary.success, read_status(tmp_path / "o").cut_answers) == (0, 6, 0)


async def test_a_command_that_is_refused_drops_no_answer_that_was_paid_for(mixed: Path) -> None:
    """Lines are removed after every check: of the parameters, and of the rows that may not change."""
    await run(mixed, Provider())
    before = (mixed / "o").read_bytes()
    provider = Provider()

    with pytest.raises(UsageError, match="other parameters"):
        await run(mixed, provider, params={"top_p": 1}, retry_failed=True, require_finish=True)
    rows = (mixed / "p.jsonl").read_text().replace('"one"', '"eins"')
    (mixed / "p.jsonl").write_text(rows)
    with pytest.raises(UsageError, match=r"p.jsonl:1: this row has changed"):
        await run(mixed, provider, retry_failed=True, require_finish=True)

    assert ((mixed / "o").read_bytes(), provider.asked) == (before, [])


async def test_a_row_that_is_resent_may_be_given_more_tokens_in_the_input(mixed: Path) -> None:
    """Its own max_tokens wins over the run's, so that it is the only place to raise it."""
    await run(mixed, Provider())
    (mixed / "p.jsonl").write_text((mixed / "p.jsonl").read_text().replace('"max_tokens": 3', '"max_tokens": 30'))
    provider = Provider()

    with pytest.raises(UsageError, match=r"p.jsonl:2: this row has changed"):
        await run(mixed, provider, retry_failed=True)
    summary = await run(mixed, provider, retry_failed=True, require_finish=True)

    assert (summary.exit_code, summary.success, sorted(provider.asked)) == (0, 5, ["four", "two"])
    again = await run(mixed, Provider())
    assert (again.exit_code, again.calls) == (0, 0)


async def test_a_limit_holds_for_cut_answers_too(mixed: Path) -> None:
    """Row 4 is beyond it and keeps its line."""
    await run(mixed, Provider())
    provider, before = Provider(), lines(mixed)

    await run(mixed, provider, limit=3, retry_failed=True, require_finish=True)

    assert provider.asked == ["two"]
    assert lines(mixed)[4] == before[4]


async def test_lines_of_an_older_version_are_read_from_the_answer_in_them(mixed: Path) -> None:
    """They have no finish_reason; a word in a text or in metadata is no reason to resend a row."""
    await run(mixed, Provider())
    old = []
    for line in map(json.loads, (mixed / "o").read_text().splitlines()):
        line.pop("finish_reason", None)
        line["metadata"] = {"finish_reason": "length"}
        old.append(json.dumps(line, separators=(",", ":")) + "\n")
    (mixed / "o").write_text("".join(old))
    provider = Provider()

    await run(mixed, provider, retry_failed=True, require_finish=True)

    assert sorted(provider.asked) == ["four", "two"]
    assert len(lines(mixed)) == 5


class Dying(Filesystem):
    """Fails at the rename of the rewritten output, or right after it, as a kill there would leave it."""

    def __init__(self, *, after: bool) -> None:
        self.after = after

    def replace(self, source: str, target: str) -> None:
        if self.after:
            super().replace(source, target)
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("after", [False, True])
async def test_an_end_in_the_middle_of_the_rewrite_loses_and_doubles_no_row(mixed: Path, after: bool) -> None:
    """Before the rename all lines are there, after it the resent rows have none; either way a run goes on."""
    await run(mixed, Provider())
    with pytest.raises((WriteError, OutputError)):
        await run(mixed, Provider(), retry_failed=True, require_finish=True, filesystem=Dying(after=after))
    assert sorted(lines(mixed)) == ([1, 3, 5] if after else [1, 2, 3, 4, 5])
    provider = Provider()

    summary = await run(mixed, provider, retry_failed=True, require_finish=True)

    assert sorted(provider.asked) == ["four", "two"]
    assert (len(lines(mixed)), summary.failed) == (5, 2)


async def test_an_output_without_cut_answers_is_not_rewritten(tmp_path: Path) -> None:
    """It stays the file that it was."""
    write(tmp_path, {"prompt": "one"}, {"prompt": '"finish_reason":"length"'})
    await run(tmp_path, Provider())
    inode = (tmp_path / "o").stat().st_ino

    summary = await run(tmp_path, Provider(), retry_failed=True, require_finish=True)

    assert (summary.calls, (tmp_path / "o").stat().st_ino) == (0, inode)


async def test_results_of_a_stream_say_how_they_ended() -> None:
    """As values; a refused one is no success."""
    rows = [{"prompt": "a", "max_tokens": 2}, {"prompt": "b"}]

    kept = await runner(Provider()).map(rows)
    refused = await runner(Provider(), require_finish=True).map(rows)

    assert [(result.ok, result.finish_reason) for result in kept] == [(True, "length"), (True, None)]
    assert [(result.ok, result.error_code, result.finish_reason) for result in refused] == [
        (False, "truncated", "length"),
        (True, None, None),
    ]


class Choice:
    def __init__(self, finish: object) -> None:
        self.finish_reason = finish
        self.message = self
        self.content = "some"


class Completion:
    """Members as an SDK's object has them, without ``model_dump``."""

    def __init__(self, finish: object) -> None:
        self.choices = [Choice(finish)]


async def test_objects_of_an_sdk_say_how_they_ended_too(tmp_path: Path) -> None:
    """A function's results are counted and failed like a provider's answers."""

    async def ask(row: dict[str, Any]) -> object:
        return Completion(row["finish"])

    rows = [{"prompt": "p", "finish": finish} for finish in ("length", "stop", 3)]

    kept: list[Result[Any, Any]] = await BatchRunner(ask).map(rows)
    refused = await BatchRunner(ask, require_finish=True).map(rows)
    write(tmp_path, *rows)
    summary = await BatchRunner(ask).run(tmp_path / "p.jsonl", tmp_path / "o")

    assert [result.finish_reason for result in kept] == ["length", None, None]
    assert [result.ok for result in refused] == [False, True, True]
    assert refused[0].error_code == "truncated"
    assert summary.cut_answers == 1


async def test_what_a_function_returned_is_not_read_again_to_find_cut_answers(tmp_path: Path) -> None:
    """A dictionary is its author's own, whatever it looks like: else its row would be resent each time."""

    async def ask(_: object) -> object:
        return {"choices": [{"message": {"content": "some"}, "finish_reason": "length"}]}

    write(tmp_path, {"prompt": "a"})
    function = BatchRunner(ask, require_finish=True)
    await function.run(tmp_path / "p.jsonl", tmp_path / "o")

    again = await function.run(tmp_path / "p.jsonl", tmp_path / "o", retry_failed=True)

    assert (again.exit_code, again.calls) == (0, 0)


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": '"finish_reason":"length"}'}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": "length"}, "finish_reason": "stop"}], "unit": "length"},
        {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}, {"finish_reason": "length"}]},
        {"data": [{"embedding": [1.0]}], "object": "list", "finish_reason": "length"},
        ["length"],
        None,
    ],
)
def test_the_word_length_in_an_answer_is_no_cut(body: object) -> None:
    """Only the finish reason of the answer that was taken counts."""
    line = json.dumps({"row": 1, "status": "success", "response": {"body": body}}).encode()

    assert not is_cut_answer(line, reads_body=True)


def test_a_line_that_cannot_be_parsed_is_no_cut_answer() -> None:
    """It is left for the checks that refuse it, or as it is."""
    assert not is_cut_answer(b'{"a":"length"}, nonsense', reads_body=True)
    assert not is_cut_answer(b'{"a":"\xff","b":"length"}', reads_body=True)
    assert not is_cut_answer(b'["length"]', reads_body=True)
