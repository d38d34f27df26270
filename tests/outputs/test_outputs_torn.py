"""An output that somebody cuts in mid-line while a run appends to it: the same command resumes it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path

import pytest
from example_lines import result_line
from failing_disk import failing

from llmbatch import BatchRunner
from llmbatch.core.errors import WriteError
from llmbatch.outputs.file import Output
from llmbatch.outputs.open import open_output
from llmbatch.outputs.torn import Torn, find_torn, whole_lines
from llmbatch.outputs.watch import FileChangedError
from llmbatch.storage.finished_rows import FinishedRows

FIRST, SECOND, THIRD = (result_line(number) for number in (1, 2, 3))
NESTED = result_line(4, body='{"row":1,"x":{"row":9,"hash":"0123456789abcdef","status":"success"}}')


def mended(path: Path, data: bytes) -> tuple[Torn, bytes]:
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        return find_torn(fd, len(data)), b"".join(whole_lines(fd, len(data)))
    finally:
        os.close(fd)


@pytest.mark.parametrize("cut", range(1, len(SECOND)))
def test_a_line_cut_at_any_byte_leaves_the_lines_around_it(tmp_path: Path, cut: int) -> None:
    """What is left of the torn line goes; a line that lacks its newline only is whole, and stays."""
    found, text = mended(tmp_path / "o", FIRST + SECOND[:cut] + THIRD + NESTED)

    kept = SECOND if cut == len(SECOND) - 1 else b""
    assert found == Torn(2, None)
    assert text == FIRST + kept + THIRD + NESTED


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", Torn(None, None)),
        (FIRST + SECOND, Torn(None, None)),
        (NESTED + FIRST, Torn(None, None)),
        (FIRST + SECOND[:30], Torn(None, None)),  # as the next opening removes it
        (FIRST + b"theirs\n" + SECOND, Torn(None, 2)),
        (FIRST[:90] + SECOND[:40] + THIRD, Torn(1, None)),
        (FIRST[:-1] + SECOND + b"theirs\n" + THIRD, Torn(1, 3)),
    ],
)
def test_other_lines_stay_as_they_are(tmp_path: Path, data: bytes, found: Torn) -> None:
    """Answers that contain what looks like a line, lines of others, and files that were not cut."""
    torn, text = mended(tmp_path / "o", data)

    assert torn == found
    if found.mendable is None:
        assert text == data.removesuffix(SECOND[:30])


@pytest.mark.parametrize("size", [5, 40, 100, len(FIRST) - 1, len(FIRST) + 50])
async def test_a_truncation_in_mid_line_left_a_file_that_the_next_run_refused(tmp_path: Path, size: int) -> None:
    """The same command resumes, each line is whole, and no row has two."""
    prompts, path = tmp_path / "p.jsonl", tmp_path / "o.jsonl"
    prompts.write_text("".join(f'{{"prompt":"{number}"}}\n' for number in range(40)))
    calls = 0

    async def call(row: object) -> str:
        nonlocal calls
        calls += 1
        if calls == 20:
            await asyncio.sleep(0)
            os.truncate(path, size)
        await asyncio.sleep(0)
        return "fine"

    with pytest.raises(WriteError, match="was truncated by") as caught:
        await BatchRunner(call, concurrency=4).run(prompts, path)
    left = path.read_bytes().splitlines()
    again = await BatchRunner(call, concurrency=4).run(prompts, path)

    assert "run the same command again" in caught.value.hint
    assert len([json.loads(line) for line in left]) == again.already_done
    assert again.exit_code == 0
    assert sorted(json.loads(line)["row"] for line in path.read_bytes().splitlines()) == list(range(1, 41))


def test_the_hint_names_a_line_that_could_not_be_mended(tmp_path: Path) -> None:
    """Where the disk has no room for the mended file, or another program wrote there too."""
    path = tmp_path / "o.jsonl"
    for fault, theirs, number in (({"sync_all": errno.ENOSPC}, b"", 2), ({}, b"theirs\n", 3)):
        path.write_bytes(b"")
        output = Output(os.open(path, os.O_RDWR | os.O_APPEND), "o", FinishedRows(), failing(**fault), path=str(path))
        output.write(FIRST + SECOND + FIRST * 3)
        os.truncate(path, len(FIRST) + 90)
        output.write(THIRD + theirs)

        with pytest.raises(FileChangedError) as caught:
            output.sync()
        error = output.save(caught.value)
        output.close()

        assert f"remove its line {number}, which is damaged" in error.hint


def test_the_mended_file_is_locked_until_the_run_ends(tmp_path: Path) -> None:
    """And has the mode of the old one."""
    path = tmp_path / "o.jsonl"
    output = open_output(path)
    path.chmod(0o640)
    output.write(FIRST + SECOND)
    os.truncate(path, 100)
    output.write(THIRD)

    with pytest.raises(FileChangedError) as caught:
        output.sync()
    output.save(caught.value)

    assert path.read_bytes() == THIRD
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(Exception, match="in use by another run"):
        open_output(path)
    output.close()
    open_output(path).close()
