"""Rows with local files, over real sockets: what arrives, what is refused, and what an outage does to them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_recorder import Answer, Arrival, Recorder, answer, error

from llmbatch import BatchRunner
from llmbatch.core.errors import InputError, UsageError
from llmbatch.core.events import Event, RowParked

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200)) * 100


@pytest.fixture
def server() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


def row(url: str, **members: object) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, part]}], **members}


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def lines_of(path: Path) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in map(json.loads, path.read_text().splitlines())}


def image_of(arrival: Arrival) -> str:
    found: str = json.loads(arrival.body)["messages"][0]["content"][1]["image_url"]["url"]
    return found


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(PNG + bytes([number]))
    return folder


async def test_files_below_the_folder_are_sent_and_the_other_rows_fail_alone(tmp_path: Path, server: Recorder) -> None:
    """Each row gets its own picture; one that names another file is ``failed`` with its code and costs no call."""
    folder = pictures(tmp_path / "files", 3)
    rows = [row(f"file:{number}.png", id=f"r{number}") for number in range(3)]
    batch = {"custom_id": "batch", "url": "/v1/chat/completions", "body": row("file:0.png")}
    path = write_rows(
        tmp_path / "in.jsonl", *rows, row("file:../in.jsonl", id="out"), row("file:9.png", id="none"), batch
    )

    runner = BatchRunner("m", base_url=server.url, environ={}, allow_files=folder)
    summary = await runner.run(path, tmp_path / "o.jsonl")

    lines = lines_of(tmp_path / "o.jsonl")
    assert (summary.success, summary.failed, len(server.arrivals)) == (3, 3, 3)
    assert sorted(map(image_of, server.arrivals)) == [
        "data:image/png;base64," + b64encode(PNG + bytes([number])).decode() for number in range(3)
    ]
    assert {name: lines[name]["error"]["code"] for name in ("out", "none", "batch")} == {
        "out": "input_file_outside",
        "none": "input_file_missing",
        "batch": "input_file_unsupported",
    }


async def test_without_the_flag_no_file_is_read_and_the_run_names_the_flag(tmp_path: Path, server: Recorder) -> None:
    """Where all rows name files nothing is sent or written; among other rows such a row fails alone."""
    pictures(tmp_path / "files", 1)
    only = write_rows(tmp_path / "only.jsonl", row("file:files/0.png"))
    mixed = write_rows(tmp_path / "mixed.jsonl", {"prompt": "hi", "id": "good"}, row("file:files/0.png", id="file"))
    runner = BatchRunner("m", base_url=server.url, environ={})

    with pytest.raises(InputError, match="--allow-files DIR"):
        await runner.run(only, tmp_path / "only.o.jsonl")
    await runner.run(mixed, tmp_path / "o.jsonl")

    assert not (tmp_path / "only.o.jsonl").exists()
    lines = lines_of(tmp_path / "o.jsonl")
    assert (lines["good"]["status"], len(server.arrivals)) == ("success", 1)
    assert lines["file"]["error"]["code"] == "input_file_not_allowed"


async def test_a_folder_that_is_not_there_stops_the_run_before_it_begins(tmp_path: Path, server: Recorder) -> None:
    """Exit 2, with the flag and the path."""
    path = write_rows(tmp_path / "in.jsonl", row("file:0.png"))

    with pytest.raises(UsageError, match=r"--allow-files .*none does not exist"):
        await BatchRunner("m", base_url=server.url, environ={}, allow_files=tmp_path / "none").run(path)

    assert server.arrivals == []


@pytest.mark.slow  # waits between attempts in real time
async def test_a_retried_row_is_sent_with_the_same_bytes(tmp_path: Path, server: Recorder) -> None:
    """The file is read again for each attempt, because waiting rows hold no content."""
    folder = pictures(tmp_path / "files", 1)
    path = write_rows(tmp_path / "in.jsonl", row("file:0.png"))

    def fail_once(arrival: Arrival) -> Answer:
        return error(500, "server_error") if server.count == 1 else answer(arrival)

    server.respond = fail_once
    runner = BatchRunner("m", base_url=server.url, environ={}, allow_files=folder, seed=1)
    summary = await runner.run(path, tmp_path / "o.jsonl")

    assert summary.success == 1
    with_picture = [body for body in server.bodies if b"base64" in body]  # the others are health checks
    assert len(with_picture) == 2
    assert len(set(with_picture)) == 1


@pytest.mark.parametrize("is_file", [True, False])
async def test_a_file_that_vanishes_while_its_row_waits_fails_that_row_alone(
    tmp_path: Path, server: Recorder, *, is_file: bool
) -> None:
    """Parked in an outage, its file is deleted: the row ends with what is wrong, the others succeed."""
    folder = pictures(tmp_path / "files", 4)
    rows = [row(f"file:{number}.png", id=f"r{number}") for number in range(4)]
    events: list[Event] = []

    def lose(event: Event) -> None:
        events.append(event)
        if isinstance(event, RowParked) and event.row == 2:
            (folder / "1.png").unlink(missing_ok=True)

    def fail_first(arrival: Arrival) -> Answer:
        return error(503, "down") if server.count <= 4 else answer(arrival)

    server.respond = fail_first
    runner = BatchRunner(
        "m",
        base_url=server.url,
        environ={},
        allow_files=folder,
        failure_threshold=2,
        recovery_timeout=0.05,
        concurrency=4,
        observers=[lose],
    )

    if is_file:
        path = write_rows(tmp_path / "in.jsonl", *rows)
        await runner.run(path, tmp_path / "o.jsonl")
        found = {name: (line["error"] or {}).get("code") for name, line in lines_of(tmp_path / "o.jsonl").items()}
    else:
        found = {result.id: result.error_code async for result in runner.stream(rows)}

    assert any(isinstance(event, RowParked) and event.row == 2 for event in events)
    assert found == {"r0": None, "r1": "input_file_missing", "r2": None, "r3": None}


async def test_a_changed_file_is_another_request_to_the_cache(tmp_path: Path, server: Recorder) -> None:
    """The key of an answer is the body that was sent, with the picture in it."""
    folder = pictures(tmp_path / "files", 1)
    path = write_rows(tmp_path / "in.jsonl", row("file:0.png"))

    async def ask(output: str) -> bool:
        runner = BatchRunner(
            "m", base_url=server.url, environ={}, allow_files=folder, cache=tmp_path / "cache.db", seed=1
        )
        await runner.run(path, tmp_path / output)
        return bool(json.loads((tmp_path / output).read_text()).get("cached"))

    first, again = await ask("1.jsonl"), await ask("2.jsonl")
    (folder / "0.png").write_bytes(PNG + b"changed")
    changed = await ask("3.jsonl")

    assert (first, again, changed) == (False, True, False)
    assert len(server.arrivals) == 2


async def test_a_server_that_reads_its_own_files_gets_the_urls_as_they_are(tmp_path: Path, server: Recorder) -> None:
    """Nothing is read here, and batch rows are sent to the byte; vLLM reads below its --allowed-local-media-path."""
    parts = {"type": "image_url", "image_url": {"url": "file:///data/cat.png"}}
    audio = {"type": "audio_url", "audio_url": {"url": "file:/data/a.wav"}}
    batch = {
        "custom_id": "b",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"content": [parts]}]},
    }
    path = write_rows(tmp_path / "in.jsonl", {"messages": [{"role": "user", "content": [parts, audio]}]}, batch)

    runner = BatchRunner("m", base_url=server.url, environ={}, server_files=True, concurrency=1)
    summary = await runner.run(path, tmp_path / "o.jsonl")

    assert summary.success == 2
    assert json.loads(server.bodies[0])["messages"][0]["content"] == [parts, audio]
    assert server.bodies[1] == json.dumps(batch["body"]).encode()


async def test_files_are_read_here_or_by_the_server(tmp_path: Path) -> None:
    """Not both, and not for a function."""
    path = write_rows(tmp_path / "in.jsonl", {"prompt": "x"})
    with pytest.raises(UsageError, match="either here or by the server"):
        await BatchRunner("openai/m", environ={"OPENAI_API_KEY": "k"}, allow_files=tmp_path, server_files=True).run(
            path
        )
    with pytest.raises(UsageError, match="server_files is for models"):
        await BatchRunner(lambda row: row, server_files=True).run(path)
    assert [file.name for file in tmp_path.iterdir()] == ["in.jsonl"]
