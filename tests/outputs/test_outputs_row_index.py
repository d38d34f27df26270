"""Lines of an output in the order of its rows, read by their offsets."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from example_lines import result_line

from llmbatch.core.errors import OutputError
from llmbatch.outputs.row_index import RowIndex, index_rows, lines_in_order

BOTH = ("success", "failed")


def write(path: Path, lines: list[bytes]) -> int:
    path.write_bytes(b"".join(lines))
    return os.open(path, os.O_RDONLY)


def rows_of(fd: int, path: Path, statuses: tuple[str, ...] = BOTH) -> list[int]:
    index = index_rows(fd, path.stat().st_size, "o", statuses=statuses)
    return [line.row for line in lines_in_order(fd, index, "o")]


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_lines_is_read_in_the_order_of_rows(tmp_path: Path, seed: int) -> None:
    """Also with gaps between the numbers, lines larger than a batch, and lines far from their neighbors."""
    chance = random.Random(seed)
    numbers = chance.sample(range(1, 20_000), 700)
    texts = {number: chance.choice(["x", "y" * 5000, "z" * 700_000 if number % 97 == 0 else "é"]) for number in numbers}
    path = tmp_path / "o.jsonl"
    fd = write(path, [result_line(number, text=texts[number]) for number in numbers])

    index = index_rows(fd, path.stat().st_size, "o", statuses=BOTH)
    found = list(lines_in_order(fd, index, "o"))
    os.close(fd)

    assert len(index) == 700
    assert [line.row for line in found] == sorted(numbers)
    assert all(line.line + b"\n" == result_line(line.row, text=texts[line.row]) for line in found)
    assert all(f'"hash":"{line.hash}"'.encode() in line.line for line in found)


def test_lines_of_one_status(tmp_path: Path) -> None:
    """The others are not indexed."""
    path = tmp_path / "o.jsonl"
    fd = write(path, [result_line(n, status="failed" if n % 2 else "success") for n in (4, 1, 3, 2)])

    assert rows_of(fd, path) == [1, 2, 3, 4]
    assert rows_of(fd, path, ("failed",)) == [1, 3]
    assert rows_of(fd, path, ("success",)) == [2, 4]
    os.close(fd)


def test_a_last_line_without_its_line_end_counts(tmp_path: Path) -> None:
    """What the scan took as whole is read as a line."""
    path = tmp_path / "o.jsonl"
    fd = write(path, [result_line(2), result_line(1)[:-1]])

    assert rows_of(fd, path) == [1, 2]
    os.close(fd)


def test_a_file_that_is_emptied_or_rewritten_meanwhile_is_refused(tmp_path: Path) -> None:
    """Rather than exporting lines of other rows."""
    path = tmp_path / "o.jsonl"
    fd = write(path, [result_line(n) for n in range(1, 50)])
    index = index_rows(fd, path.stat().st_size, "o", statuses=BOTH)

    path.write_bytes(b"".join(result_line(n) for n in range(51, 100)))
    with pytest.raises(OutputError, match="o: has changed while it was read"):
        list(lines_in_order(fd, index, "o"))
    path.write_bytes(b"")
    with pytest.raises(OutputError, match="o: has changed while it was read"):
        list(lines_in_order(fd, index, "o"))
    os.close(fd)


def test_an_impossible_line_is_refused() -> None:
    """Its size would not fit."""
    with pytest.raises(ValueError, match="4 GiB"):
        RowIndex().add(1, 0, 1 << 32)
