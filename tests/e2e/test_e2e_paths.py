"""Paths that are taken: the cache's is the output's or the input's, and a folder has a sidecar's name."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_recorder import Answer, Arrival, Recorder, answer

from llmbatch import BatchRunner
from llmbatch.classify.classify import classify_reply
from llmbatch.core.calls import Reply
from llmbatch.core.events import Event, Notice, RunEnded
from llmbatch.storage import answer_cache


@pytest.fixture
def server() -> Iterator[Recorder]:
    """A server on loopback."""
    recorder = Recorder()
    yield recorder
    recorder.close()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "p.jsonl").write_text('{"prompt": "a"}\n')
    return llmbatch(folder, "run", "p.jsonl", "-m", "sim/steady", "--progress", "none", *arguments)


def llmbatch(folder: Path, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmbatch", *arguments],
        cwd=folder,
        env=os.environ | {"HOME": str(folder)},
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize(
    ("cache", "name"), [("o.jsonl", "output"), ("./o.jsonl", "output"), ("p.jsonl", "input"), ("link.db", "input")]
)
def test_a_cache_at_the_path_of_a_new_output_was_made_first_and_refused_as_a_foreign_output(
    tmp_path: Path, cache: str, name: str
) -> None:
    """Exit 2 before anything is created."""
    (tmp_path / "link.db").symlink_to("p.jsonl")

    done = run(tmp_path, "-o", "o.jsonl", "--cache", cache)
    checked = llmbatch(tmp_path, "check", "p.jsonl", "-m", "sim/steady", "-o", "o.jsonl", "--cache", cache)

    for refused in (done, checked):
        assert refused.returncode == 2
        assert f"--cache {cache} is the {name} too" in refused.stderr
    assert not (tmp_path / "o.jsonl").exists()
    assert (tmp_path / "p.jsonl").read_text() == '{"prompt": "a"}\n'


@pytest.mark.slow  # starts processes
@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_pipe_that_nobody_reads_hung_without_a_word(tmp_path: Path) -> None:
    """Exit 2, and says how to go on; an export too."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "r.jsonl").write_bytes(b"")

    done = run(tmp_path, "-o", "pipe")
    exported = llmbatch(tmp_path, "export", "r.jsonl", "-o", "pipe", "--format", "jsonl")

    for ended in (done, exported):
        assert ended.returncode == 2, ended.stderr
        assert "pipe: is a pipe that nobody reads" in ended.stderr
        assert "start its reader first, such as: cat pipe" in ended.stderr
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.slow  # starts processes
@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_pipe_with_a_reader_is_a_stream(tmp_path: Path) -> None:
    """All lines arrive there, as with ``-o -``."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "many.jsonl").write_text("".join(f'"{number} {"x" * 1000}"\n' for number in range(300)))
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    writer = subprocess.Popen(
        [sys.executable, "-m", "llmbatch", "run", "many.jsonl", "-m", "sim/steady", "-q", "-o", "pipe"],
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    with os.fdopen(reading, "rb") as file:
        while not (lines := file.readlines()):  # the writer has not opened it yet
            pass

    assert writer.wait(60) == 0
    assert sorted(json.loads(line)["row"] for line in lines) == list(range(1, 301))


@pytest.mark.slow  # starts processes
def test_a_folder_with_the_name_of_the_deferred_file_failed_each_run(tmp_path: Path) -> None:
    """Nothing waits, so it does not matter."""
    (tmp_path / "o.deferred.jsonl").mkdir()

    done = run(tmp_path, "-o", "o.jsonl")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.deferred.jsonl").is_dir()


def test_a_country_that_is_not_served_was_blamed_on_the_key() -> None:
    """OpenAI's code of a 403 says what to do."""
    body = b'{"error":{"code":"unsupported_country_region_territory","message":"Country not supported"}}'

    outcome = classify_reply(Reply(403, {}, body), endpoint="chat", mask=str)

    assert outcome.verdict == "account_refused"
    assert "key" not in outcome.hint


@pytest.mark.slow  # starts a process
@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
def test_a_cache_that_was_deleted_under_a_run_was_not_told(tmp_path: Path, server: Recorder) -> None:
    """The run goes on, and says once that answers are not kept."""

    def respond(arrival: Arrival) -> Answer:
        if len(server.arrivals) == 1:
            (tmp_path / "answers.db").unlink()
        return answer(arrival)

    server.respond = respond
    done = llmbatch(
        *(tmp_path, "run", "-", "-m", "m", "--base-url", server.url, "-o", "o.jsonl"),
        *("--cache", "answers.db", "--progress", "plain"),
        text='"one"\n"two"\n',
    )

    assert done.returncode == 0, done.stderr
    told = "answers.db: answers are not kept in the cache any more (the file was deleted or replaced during the run)"
    assert done.stderr.count(f"warning: {told}") == 1, done.stderr


async def test_a_locked_cache_held_up_the_loop_at_the_end(
    tmp_path: Path, server: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on, and it is told before the run is over."""
    monkeypatch.setattr(answer_cache, "CLOSE_SECONDS", 0.2)
    events: list[Event] = []
    (tmp_path / "p.jsonl").write_text('"one"\n')
    runner = BatchRunner(
        "m", base_url=server.url, environ={}, cache=str(tmp_path / "answers.db"), observers=[events.append]
    )
    ticks = 0

    def respond(arrival: Arrival) -> Answer:
        locking = sqlite3.connect(tmp_path / "answers.db", isolation_level=None)
        locking.execute("BEGIN IMMEDIATE")
        held.append(locking)
        return answer(arrival)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    held: list[sqlite3.Connection] = []
    server.respond = respond
    ticking = asyncio.create_task(tick())

    summary = await runner.run(tmp_path / "p.jsonl", tmp_path / "o.jsonl")

    ticking.cancel()
    assert summary.exit_code == 0
    assert ticks > 2
    said = [type(event).__name__ for event in events if isinstance(event, Notice | RunEnded)]
    assert said == ["Notice", "RunEnded"]
