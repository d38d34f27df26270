"""The files beside the input and the output."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from llmbatch.core.errors import WriteError
from llmbatch.outputs.deferred import default_output, deferred_path, write_deferred


@pytest.mark.parametrize(
    ("output", "deferred"),
    [
        ("o.jsonl", "o.deferred.jsonl"),
        ("o", "o.deferred.jsonl"),
        ("d/prompts.results.jsonl", "d/prompts.results.deferred.jsonl"),
        ("o.txt", "o.txt.deferred.jsonl"),
    ],
)
def test_the_deferred_file_stands_beside_its_output(output: str, deferred: str) -> None:
    """Two outputs never share one."""
    assert deferred_path(output) == Path(deferred)


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("prompts.jsonl", "prompts.results.jsonl"),
        ("d/prompts.jsonl.gz", "d/prompts.results.jsonl"),
        ("prompts.jsonl.zst", "prompts.results.jsonl"),
        ("data.txt", "data.results.jsonl"),
        ("data", "data.results.jsonl"),
        ("-", "-"),
    ],
)
def test_results_go_beside_the_input(given: str, output: str) -> None:
    """Named after it; from standard input to standard output."""
    assert default_output(given) == Path(output)


def test_the_deferred_file_is_written_anew_and_goes_when_nothing_waits(tmp_path: Path) -> None:
    """Private, whole, and without anything left beside it."""
    output = tmp_path / "o.jsonl"
    deferred = tmp_path / "o.deferred.jsonl"

    write_deferred(output, [b"1\n", b"2\n"])
    first = deferred.read_bytes()
    mode = stat.S_IMODE(deferred.stat().st_mode)
    write_deferred(output, iter([b"3\n"]))
    second = deferred.read_bytes()
    write_deferred(output, [])
    write_deferred(output, [])

    assert (first, second, mode) == (b"1\n2\n", b"3\n", 0o600)
    assert list(tmp_path.iterdir()) == []


def test_a_leftover_of_a_killed_process_is_in_nobodys_way(tmp_path: Path) -> None:
    """It is replaced, not added to."""
    (tmp_path / ".o.deferred.jsonl.llmbatch-new").write_bytes(b"half a li")

    write_deferred(tmp_path / "o.jsonl", [b"1\n"])

    assert [file.name for file in tmp_path.iterdir()] == ["o.deferred.jsonl"]
    assert (tmp_path / "o.deferred.jsonl").read_bytes() == b"1\n"


@pytest.mark.parametrize("planted", ["o.deferred.jsonl", ".o.deferred.jsonl.llmbatch-new"])
def test_a_link_planted_in_its_place_is_not_followed(tmp_path: Path, planted: str) -> None:
    """What it names stays as it is, whether the link has the final name or the temporary one."""
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    (tmp_path / planted).symlink_to(theirs)

    write_deferred(tmp_path / "o.jsonl", [b"line\n"])

    assert theirs.read_text() == "theirs"
    assert not (tmp_path / "o.deferred.jsonl").is_symlink()
    assert (tmp_path / "o.deferred.jsonl").read_bytes() == b"line\n"


def test_a_deferred_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """And that nothing is lost by it."""
    with pytest.raises(WriteError, match="could not be written") as caught:
        write_deferred(tmp_path / "no" / "o.jsonl", [b"1\n"])

    assert "sent again" in caught.value.hint
