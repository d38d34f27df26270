"""Rows of paths that llmbatch knows nothing of: vLLM's rerank and score, Cohere's, audio."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_recorder import Recorder

from llmbatch import BatchRunner
from llmbatch.classify.classify import classify_reply
from llmbatch.core.calls import Reply
from llmbatch.core.errors import InputError

MP3 = b"\xff\xfb\x90\x00" * 100


@pytest.fixture
def server() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


def batch_rows(folder: Path, url: str, count: int) -> Path:
    """A file of *count* batch rows for *url*."""
    row = {"method": "POST", "url": url, "body": {"model": "m", "query": "q", "documents": ["a"]}}
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps({"custom_id": f"r{number}", **row}) + "\n" for number in range(count)))
    return path


async def test_rows_of_another_path_were_refused_without_naming_the_way_to_send_them(
    tmp_path: Path, server: Recorder
) -> None:
    """The hint of the error is the flag, not what a row looks like."""
    rows = batch_rows(tmp_path, "/v1/rerank", 3)

    with pytest.raises(InputError) as caught:
        await BatchRunner("m", base_url=server.url, environ={}).run(rows)

    assert "--endpoint raw" in (caught.value.hint or "")
    assert server.arrivals == []


async def test_prompts_with_the_endpoint_raw_were_told_to_use_it(tmp_path: Path, server: Recorder) -> None:
    """They have no path to go to: the flag is what to leave out."""
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"prompt": "p"}\n' * 3)

    with pytest.raises(InputError, match="takes batch rows with a url") as caught:
        await BatchRunner("m", base_url=server.url, environ={}, endpoint="raw").run(rows)

    assert (caught.value.hint or "").startswith("leave out --endpoint")
    assert server.arrivals == []


async def test_rows_of_another_path_are_sent_there_as_they_are(tmp_path: Path, server: Recorder) -> None:
    """The body is the row's, and the answer is kept whole."""
    server.respond = lambda _: (200, b'{"results":[{"index":0,"relevance_score":0.9}]}')
    rows = batch_rows(tmp_path, "/v1/rerank", 3)

    summary = await BatchRunner("m", base_url=server.url, environ={}, endpoint="raw").run(rows, tmp_path / "o.jsonl")

    assert summary.success == 3
    assert {arrival.path for arrival in server.arrivals} == {"/v1/rerank"}
    assert json.loads(server.arrivals[0].body) == {"model": "m", "query": "q", "documents": ["a"]}
    line = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])
    assert line["response"]["body"] == {"results": [{"index": 0, "relevance_score": 0.9}]}


def test_speech_was_asked_for_and_paid_eight_times() -> None:
    """An answer that is a file cannot be kept in a line: the row fails at once, and says what came."""
    reply = Reply(200, {"content-type": "audio/mpeg; x=y"}, MP3)

    outcome = classify_reply(reply, endpoint="raw", mask=str)

    assert (outcome.verdict, outcome.row_is_bad, outcome.retry) == ("rejected", True, False)
    assert outcome.code == "binary_answer"
    assert outcome.message == "the answer is audio/mpeg (400 bytes), and results hold JSON answers only"


def test_json_that_is_declared_as_bytes_is_read() -> None:
    """Some servers declare everything so; what is cut off of it is a failing answer, not a file."""
    declared = {"content-type": "application/octet-stream"}

    whole = classify_reply(Reply(200, declared, b'{"results":[]}'), endpoint="raw", mask=str)
    cut = classify_reply(Reply(200, declared, b'{"results":['), endpoint="raw", mask=str)

    assert whole.verdict == "success"
    assert (cut.verdict, cut.row_is_bad) == ("failure", False)
