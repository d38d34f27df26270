"""Records of files and of data sets through the library."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmbatch import BatchRunner, InputError, UsageError
from llmbatch.core.calls import Reply, Request

CSV = "id,text,label\na,good,1\nb,bad,0\n"


class Echo:
    """A transport that answers with what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []

    async def post(self, request: Request, *, timeout: float) -> Reply:
        body = json.loads(request.body)
        self.asked.append(body)
        message = {"role": "assistant", "content": body["messages"][-1]["content"]}
        answer = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {}}
        return Reply(200, {}, json.dumps(answer).encode())

    async def aclose(self) -> None:
        """Nothing is open."""


def runner(transport: Echo, **options: Any) -> BatchRunner[Any, Any]:
    """A runner that sends to *transport*."""
    environ = {"OPENAI_API_KEY": "sk-test"}
    return BatchRunner("openai/gpt", transport=transport, environ=environ, **options)


class Dataset:
    """As a data set of Hugging Face: it is iterated over by rows that are dicts, and has a length and columns."""

    column_names = ("text", "label")

    def __iter__(self) -> Iterator[dict[str, object]]:
        yield {"text": "good", "label": 1}
        yield {"text": "bad", "label": 0}

    def __len__(self) -> int:
        return 2


async def test_a_template_is_filled_from_the_rows_of_a_data_set() -> None:
    """Rows that are dicts; kept fields come back in the metadata, and the row itself."""
    transport = Echo()

    results = await runner(transport, template="Sentiment of: {{ text }}", keep=["label"]).map(Dataset())

    assert [result.text for result in results] == ["Sentiment of: good", "Sentiment of: bad"]
    assert [result.metadata_json for result in results] == ['{"label":1}', '{"label":0}']
    assert results[0].row == {"text": "good", "label": 1}
    assert {frozenset(body) for body in transport.asked} == {frozenset({"model", "messages"})}


async def test_a_row_without_the_field_is_a_failed_result() -> None:
    """The others are sent; ordered results come in order."""
    rows = [{"text": "a"}, {"txt": "b"}, {"text": "c"}]

    results = [
        result async for result in runner(Echo(), prompt_column="text", id_column="text").stream(rows, ordered=True)
    ]

    assert [(result.id, result.error and result.error["code"]) for result in results] == [
        ("a", None),
        ("row-2", "input_missing_field"),
        ("c", None),
    ]


async def test_run_takes_any_format_by_its_ending_or_name(tmp_path: Path) -> None:
    """The default output is beside the input, without both endings of a compressed file."""
    transport = Echo()
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    (tmp_path / "rows").write_text(CSV)

    first = await runner(transport, template="{{ text }}!").run(tmp_path / "r.csv.gz")
    again = await runner(transport, template="{{ text }}!").run(tmp_path / "r.csv.gz")
    named = await runner(transport, prompt_column="text").run(tmp_path / "rows", input_format="csv")

    assert (first.success, again.success, named.success) == (2, 2, 2)
    assert len(transport.asked) == 4
    assert (tmp_path / "r.results.jsonl").exists()


async def test_a_file_that_has_the_output_of_another_is_refused_by_both_names(tmp_path: Path) -> None:
    """``p.csv`` and ``p.jsonl`` have one default output."""
    (tmp_path / "p.csv").write_text("prompt\na\n")
    (tmp_path / "p.jsonl").write_text('{"prompt":"b"}\n')
    await runner(Echo()).run(tmp_path / "p.csv")

    with pytest.raises(InputError, match=r"its results may be those of p\.csv") as caught:
        await runner(Echo()).run(tmp_path / "p.jsonl")

    assert "give each input its own (-o)" in caught.value.hint


async def test_a_function_gets_every_column_of_a_record(tmp_path: Path) -> None:
    """A prompt is not needed; text lines have the field text."""
    (tmp_path / "p.csv").write_text(CSV)
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    got: list[object] = []

    async def take(row: object) -> str:
        got.append(row)
        return "ok"

    await BatchRunner(take, concurrency=1).run(tmp_path / "p.csv", tmp_path / "a.jsonl")
    await BatchRunner(take, concurrency=1).run(tmp_path / "p.txt", tmp_path / "b.jsonl")

    assert got == [
        {"text": "good", "label": "1", "id": "a"},
        {"text": "bad", "label": "0", "id": "b"},
        {"text": "one", "id": "row-1"},
        {"text": "two", "id": "row-2"},
    ]


@pytest.mark.parametrize("options", [{"template": "{{ a }}"}, {"prompt_column": "a"}, {"system_column": "a"}])
def test_a_function_takes_no_template(options: dict[str, Any]) -> None:
    """Said at once, not by ignoring it."""
    with pytest.raises(UsageError, match="a function is given"):
        BatchRunner(print, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "{{ a"}, "the template: line 1: "),
        ({"template": ""}, "template is empty"),
        ({"keep": [""]}, "keep is "),
        ({"prompt_column": 3}, "prompt_column is 3"),
        ({"template": "{{ a }}", "prompt_column": "a"}, "two ways to make the prompt"),
    ],
)
def test_a_wrong_keyword_is_refused_at_once(options: dict[str, object], message: str) -> None:
    """As on the command line."""
    with pytest.raises(UsageError, match=message):
        runner(Echo(), **options)


async def test_text_that_holds_json_rows_is_refused_unless_its_format_is_named(tmp_path: Path) -> None:
    """Else the source of rows would be sent as prompts."""
    path = tmp_path / "p.txt"
    path.write_text('{"prompt":"hello"}\n')
    transport = Echo()

    with pytest.raises(InputError, match=r"p\.txt: its first line is a JSON row") as caught:
        await runner(transport).run(path)
    await runner(transport).run(path, input_format="jsonl", output=tmp_path / "a.jsonl")
    await runner(transport).run(path, input_format="txt", output=tmp_path / "b.jsonl")

    assert "--input-format jsonl" in caught.value.hint
    asked = [body["messages"] for body in transport.asked]
    assert asked == [[{"role": "user", "content": text}] for text in ("hello", '{"prompt":"hello"}')]
