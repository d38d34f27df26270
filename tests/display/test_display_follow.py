"""Following an output while a run appends to it: each line once, whatever has been written of the last one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmbatch.core.calls import Usage
from llmbatch.core.errors import OutputError
from llmbatch.core.rows import Result, encode_line
from llmbatch.display.follow import OutputFollower
from llmbatch.display.status_read import read_status

LONG = 3600.0


def line(number: int, text: str = "fine", *, failed: bool = False) -> bytes:
    result = Result(
        number, f"{number:016x}", "failed" if failed else "success", f'"r{number}"', model="p/m", attempts=1
    )
    result.latency_s = number / 10
    if failed:
        result.error_code, result.error_message = "bad", f"why {number}"
    else:
        result.text, result.usage = text, Usage(number, 2)
    return encode_line(result)


def test_what_is_appended_is_read_once_and_as_status_reads_it(tmp_path: Path) -> None:
    """In whatever pieces: a line counts when its end is there."""
    path = tmp_path / "o.jsonl"
    path.touch()
    follower = OutputFollower(path)
    text = b"".join(line(n, failed=n % 7 == 0) for n in range(1, 100))

    for start in range(0, len(text), 97):
        with path.open("ab") as file:
            file.write(text[start : start + 97])
        follower.advance(LONG)
        assert follower.rows == text[: start + 97].count(b"\n")
        assert not follower.is_behind

    status = read_status(path)
    assert (follower.success, follower.failed) == (status.success, status.failed) == (85, 14)
    assert [group.count for group in follower.lines.failures] == [group.count for group in status.failures]
    assert follower.lines.routes[0].input_tokens == status.routes[0].input_tokens
    assert [row.id for row in follower.latest()] == [f"r{n}" for n in range(99, 79, -1)]


def test_an_output_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    """As --retry-failed and --overwrite do; a file that was cut is another one too."""
    path, other = tmp_path / "o.jsonl", tmp_path / "new"
    path.write_bytes(b"".join(line(n, failed=True) for n in range(1, 10)))
    follower = OutputFollower(path)
    follower.advance(LONG)
    other.write_bytes(line(1))
    other.replace(path)

    follower.advance(LONG)
    assert (follower.success, follower.failed, len(follower.latest())) == (1, 0, 1)

    path.write_bytes(b"")
    follower.advance(LONG)
    assert follower.rows == 0


@pytest.mark.slow  # up to some seconds of CPU
def test_no_more_time_is_taken_than_is_given(tmp_path: Path) -> None:
    """The rest is read the next times, and nothing twice."""
    path = tmp_path / "o.jsonl"
    path.write_bytes(b"".join(line(n) for n in range(1, 20_001)))
    follower = OutputFollower(path)

    follower.advance(0.002)
    first = follower.rows
    turns = 1
    while follower.is_behind:
        follower.advance(0.002)
        turns += 1

    assert 0 < first < 20_000
    assert follower.rows == 20_000
    assert turns > 3


def test_lines_longer_than_a_block_are_read(tmp_path: Path) -> None:
    """A megabyte of text."""
    path = tmp_path / "o.jsonl"
    path.write_bytes(line(1) + line(2, "x" * 1_000_000) + line(3) + line(4, "y" * 600_000)[:-10])
    follower = OutputFollower(path)

    follower.advance(LONG)

    assert (follower.rows, follower.is_behind) == (3, False)
    assert len(follower.latest(with_text=True)[1].answer or "") == 2000


def test_answers_are_read_only_if_they_are_asked_for(tmp_path: Path) -> None:
    """And of a failed row the code."""
    path = tmp_path / "o.jsonl"
    path.write_bytes(line(1, "the answer") + line(2, failed=True))
    follower = OutputFollower(path)
    follower.advance(LONG)

    assert [row.answer for row in follower.latest()] == [None, None]
    failed, good = follower.latest(with_text=True)
    assert (failed.answer, failed.failed, failed.code) == (None, True, "bad")
    assert (good.answer, good.number, good.model, good.latency_s) == ("the answer", 1, "p/m", 0.1)


def test_a_foreign_or_missing_file_is_refused_and_a_damaged_line_left_out(tmp_path: Path) -> None:
    """Nothing crashes."""
    path = tmp_path / "o.jsonl"
    with pytest.raises(OutputError, match="no such file"):
        OutputFollower(path).advance(LONG)
    path.write_text(json.dumps({"score": 1}) + "\n")
    with pytest.raises(OutputError, match="is not an output of llmbatch"):
        OutputFollower(path).advance(LONG)
    path.write_bytes(line(1) + b'{"row":2,"ha\n\0\0\0\n' + line(3))
    follower = OutputFollower(path)
    follower.advance(LONG)
    assert follower.rows == 2
