"""The files beside the input and the output."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from llmbatch.core.errors import InputError, WriteError
from llmbatch.core.rows import Result
from llmbatch.outputs.deferred import (
    default_output,
    deferred_path,
    is_stream,
    report_path,
    spool_path,
    stamp_retry_at,
    write_deferred,
)


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


def test_a_directory_has_no_default_output(tmp_path: Path) -> None:
    """The hint says what to name."""
    with pytest.raises(InputError, match="is a directory") as caught:
        default_output(tmp_path)

    assert "name a file" in caught.value.hint


def test_results_of_a_data_set_go_beside_its_folder(tmp_path: Path) -> None:
    """One that `datasets` has saved; of several in one folder, one has to be named."""
    train = tmp_path / "reviews" / "train"
    train.mkdir(parents=True)
    (train / "state.json").write_text("{}")
    (tmp_path / "reviews" / "dataset_dict.json").write_text("{}")

    assert default_output(train) == tmp_path / "reviews" / "train.results.jsonl"
    with pytest.raises(InputError, match="is a directory") as caught:
        default_output(tmp_path / "reviews")

    assert f"name one of them, such as {train}" in caught.value.hint


def test_the_page_stands_beside_its_output() -> None:
    """Named after it."""
    assert report_path("d/o.jsonl") == Path("d/o.report.html")
    assert report_path("o") == Path("o.report.html")


def test_a_folder_with_the_name_of_the_deferred_file_stays(tmp_path: Path) -> None:
    """Nothing waits, so nothing has to be written there; what waits has to."""
    (tmp_path / "o.deferred.jsonl").mkdir()

    write_deferred(tmp_path / "o.jsonl", [])
    with pytest.raises(WriteError, match="could not be written"):
        write_deferred(tmp_path / "o.jsonl", [b"1\n"])

    assert [file.name for file in tmp_path.iterdir()] == ["o.deferred.jsonl"]


def test_what_is_no_file_is_a_stream(tmp_path: Path) -> None:
    """Standard output, devices and pipes; a file that is yet to be made, a folder and a bad path are none."""
    os.mkfifo(tmp_path / "pipe")

    assert [is_stream(path) for path in ("-", "/dev/null", tmp_path / "pipe")] == [True, True, True]
    assert [is_stream(path) for path in (tmp_path / "new", tmp_path, "x" * 999, "\0")] == [False] * 4


def test_only_files_have_a_spool_beside_them(tmp_path: Path) -> None:
    """Hidden, beside the file that a link leads to; devices, pipes and standard output have none."""
    (tmp_path / "there").mkdir()
    link = tmp_path / "o.jsonl"
    link.symlink_to(tmp_path / "there" / "real.jsonl")

    assert spool_path(link) == tmp_path / "there" / ".real.jsonl.llmbatch-spool"
    assert spool_path("-") is None
    assert spool_path("/dev/null") is None


def test_retry_at_is_never_a_second_early_and_never_beyond_the_calendar() -> None:
    """Rounded up; a row without a wait has none; a wait of for ever is the last day of the year 9999."""
    rows = [
        Result(number, "0" * 16, "deferred", f'"r{number}"', retry_after=wait)
        for number, wait in enumerate((0.2, None, 1e15), 1)
    ]

    stamp_retry_at(rows, wall=1_000_000_000.9)

    assert [row.retry_at for row in rows] == ["2001-09-09T01:46:42Z", None, "9999-12-31T00:00:00Z"]
