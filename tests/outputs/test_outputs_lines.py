"""The lines of an output, read in blocks of a mebibyte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_lines import result_line

from llmbatch.outputs.lines import failed_rows, lines_without, read_lines, success_lines
from llmbatch.storage.filesystem import FILESYSTEM

LONG = result_line(2, text="x" * 2_500_000)
MALFORMED = result_line(3, status="failed", status_code=None, body=None, text=None, error_code="input_bad_json")
ECHO = '{"response":null,"error":{"code":"input_x"}}'
FAILED = result_line(4, status="failed", error_code="server_error", metadata_json=ECHO)
DAMAGED = result_line(6, status="failed", error_code="server_error", metadata_json=ECHO).replace(b"}\n", b"?\n")


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "o.jsonl"
    path.write_bytes(result_line(1) + LONG + MALFORMED + FAILED + result_line(5)[:-1])
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def size(fd: int) -> int:
    return os.fstat(fd).st_size


def test_lines_longer_than_a_block_are_whole(fd: int) -> None:
    """And the last one needs no line end."""
    assert list(read_lines(fd, size(fd))) == [
        line.rstrip(b"\n") for line in (result_line(1), LONG, MALFORMED, FAILED, result_line(5))
    ]


def test_nothing_behind_the_end_is_read(fd: int) -> None:
    """What a run appends meanwhile does not count; an end beyond the file's is the file's."""
    assert list(read_lines(fd, len(result_line(1)))) == [result_line(1).rstrip(b"\n")]
    assert len(list(read_lines(fd, size(fd) + 1000))) == 5


def test_rows_that_were_no_requests_are_told_by_their_code(tmp_path: Path) -> None:
    """Not by words in the row's metadata, nor by a line that is damaged or not llmbatch's."""
    path = tmp_path / "o.jsonl"
    path.write_bytes(MALFORMED + FAILED + b"my notes\n" + DAMAGED)
    fd = os.open(path, os.O_RDONLY)

    found = failed_rows(fd, size(fd))

    assert [row for row in range(1, 9) if row in found.all] == [3, 4, 6]
    assert [row for row in range(1, 9) if row in found.input_errors] == [3]
    os.close(fd)


def test_only_successes_are_among_the_success_lines(fd: int) -> None:
    """In the file's order."""
    assert list(success_lines(fd, size(fd))) == [line.rstrip(b"\n") for line in (result_line(1), LONG, result_line(5))]


def test_dropped_lines_are_those_of_failed_rows_alone(fd: int) -> None:
    """Blocks of whole lines; a success stays, whatever its number."""
    blocks = list(lines_without(fd, size(fd), FILESYSTEM, lambda number: number in (1, 3)))

    assert b"".join(blocks) == result_line(1) + LONG + FAILED + result_line(5)
    assert len(blocks) > 1
    assert all(block.endswith(b"\n") for block in blocks)
