"""A last line whose blocks never reached the disk: NUL bytes in it, though it is whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_lines import result_line

from llmbatch.core.errors import OutputError
from llmbatch.outputs.open import open_output


def holed(line: bytes, *, at: int = 80) -> bytes:
    return line[:at] + bytes(9) + line[at + 9 :]


@pytest.mark.parametrize("size", [0, 600_000])
@pytest.mark.parametrize("before", [0, 1])
def test_a_holed_last_line_is_removed(tmp_path: Path, before: int, size: int) -> None:
    """Also if it is the only line, or longer than two blocks; its row is sent again."""
    path = tmp_path / "o.jsonl"
    kept = result_line(1) * before
    path.write_bytes(kept + holed(result_line(2, text="x" * size)))

    output = open_output(path)

    assert len(output.finished) == before
    assert path.read_bytes() == kept
    output.close()


@pytest.mark.parametrize("before", [1, 3])
def test_a_short_foreign_line_is_told_and_not_the_result_behind_it(tmp_path: Path, before: int) -> None:
    """That one was told to be a second line of its row."""
    path = tmp_path / "o.jsonl"
    lines = [result_line(row) for row in range(1, before + 1)]
    path.write_bytes(b"".join((*lines, b'{"foreign":1}\n', result_line(9), result_line(10))))

    with pytest.raises(OutputError, match=rf"o\.jsonl:{before + 1}: this is not a result line of llmbatch"):
        open_output(path)


@pytest.mark.parametrize("other", [b"\xff", b""], ids=["no UTF-8", "no JSON"])
def test_a_last_line_without_its_newline_that_is_damaged_is_removed(tmp_path: Path, other: bytes) -> None:
    """It ends as a whole one does, but what is between was never written."""
    path = tmp_path / "o.jsonl"
    last = result_line(2, text="x" * 100)[:-1]
    at = last.index(b'"text"') + 3
    path.write_bytes(result_line(1) + last[:at] + other + last[at + 9 :])

    output = open_output(path)

    assert len(output.finished) == 1
    assert path.read_bytes() == result_line(1)
    output.close()


def test_a_holed_line_with_others_behind_it_is_refused(tmp_path: Path) -> None:
    """In the next block too: a crash leaves holes in the last line alone."""
    path = tmp_path / "o.jsonl"
    first = result_line(1, text="x" * 262_144)  # its end is in the second block
    path.write_bytes(holed(first) + result_line(2, text="y" * 262_144) + result_line(3))

    with pytest.raises(OutputError, match=r"o\.jsonl:1: this result line is damaged"):
        open_output(path)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (result_line(1), "row 1 has a second line"),
        (result_line(3).replace(b'"row":3', b'"row":99999999999'), "is not a row number"),
    ],
)
@pytest.mark.parametrize("last", [result_line(5), holed(result_line(5))], ids=["whole", "holed"])
def test_a_wrong_line_has_its_own_message(tmp_path: Path, second: bytes, message: str, last: bytes) -> None:
    """Lines before a holed one are read one by one, with the same checks."""
    path = tmp_path / "o.jsonl"
    path.write_bytes(result_line(1) + second + last)

    with pytest.raises(OutputError, match=message) as caught:
        open_output(path)

    assert caught.value.message.startswith(f"{path}:2: ")
