"""What ``--workers`` cannot do is refused before a process is started; and what a kill between two steps leaves."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from llmbatch.cli import main
from llmbatch.core.errors import InUseError, OutputError
from llmbatch.outputs.lock import open_locked
from llmbatch.outputs.open import open_output


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    path = tmp_path / "rows.jsonl"
    path.write_text('"a"\n"b"\n"c"\n"d"\n')
    return path


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("-",), "--workers 3: each process reads the input, and standard input can be read once", "save it to a file"),
        (("rows.jsonl", "--shard", "1/2"), "--workers 3 and --shard exclude each other", "leave --shard out"),
        (("rows.jsonl", "-o", "-"), "--workers 3 needs an output file", "-o results.jsonl"),
        (("rows.jsonl", "-o", "results/"), "--workers 3 writes one file, and results/ is a folder", "--shard any/N"),
        (("rows.jsonl", "-c", "2"), "--concurrency 2 is less than --workers 3", "--workers 2"),
        (("rows.jsonl", "--rpd", "2"), "--rpd 2 is less than --workers 3", "--workers 2"),
        (("rows.jsonl", "--retry-failed", "--overwrite"), "contradict each other", "--retry-failed keeps"),
        (("none.jsonl",), "none.jsonl: no such file", "check the path"),
        (("rows.jsonl", "--via", "batch"), "--workers 3 does not go with --via batch", "leave --workers out"),
        (("rows.jsonl", "--via", "batch", "--dry-run"), "--workers 3 does not go with --via batch", "--workers out"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    error: str,
    hint: str,
) -> None:
    """Exit code 2, with what to type; nothing is left behind."""
    monkeypatch.setattr(sys, "argv", ["llmbatch", "run", *arguments, "-m", "sim/steady", "--workers", "3"])

    code = main()

    said = capsys.readouterr().err
    assert code == 2
    assert error in said
    assert hint in said
    assert [path.name for path in rows.parent.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("number", ["0", "-1", "x", "1001"])
def test_a_number_of_processes_out_of_range_is_refused(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    """One is an ordinary run."""
    monkeypatch.setattr(sys, "argv", ["llmbatch", "run", "rows.jsonl", "-m", "sim/steady", f"--workers={number}"])

    assert main() == 2
    assert f"--workers is '{number}', must be" in capsys.readouterr().err


def line(row: int, digest: str = "0123456789abcdef", status: str = "success") -> bytes:
    return f'{{"row":{row},"hash":"{digest}","status":"{status}","id":"r{row}"}}\n'.encode()


def rows_of(path: Path) -> list[int]:
    return [json.loads(text)["row"] for text in path.read_text().splitlines()]


@pytest.fixture
def left(tmp_path: Path) -> tuple[Path, Path]:
    """An output, and the folder of parts that a killed run has left beside it."""
    output = tmp_path / "o.jsonl"
    output.write_bytes(line(1) + line(4))
    folder = tmp_path / "o.jsonl.parts"
    folder.mkdir()
    (folder / "part-00001-of-00003.jsonl").write_bytes(line(7) + line(10, status="failed"))
    (folder / "part-00002-of-00003.jsonl").write_bytes(line(2) + line(5) + line(8)[:-9])
    (folder / ".part-00002-of-00003.jsonl.status.json").write_text("{}")
    (folder / "part-00002-of-00003.deferred.jsonl").write_text("{}\n")
    return output, folder


def test_what_a_killed_run_has_left_is_taken_in(left: tuple[Path, Path]) -> None:
    """Whole lines of all parts; a torn one is sent again. The folder is gone."""
    path, folder = left

    output = open_output(path)
    output.close()

    assert rows_of(path) == [1, 4, 7, 10, 2, 5]
    assert (output.finished.success, output.finished.failed) == (5, 1)
    assert not folder.exists()


def test_a_kill_between_two_steps_leaves_no_row_twice(left: tuple[Path, Path]) -> None:
    """A part that was appended, and not removed: none of its rows comes again, but those that are missing do."""
    path, folder = left
    path.write_bytes(path.read_bytes() + line(7) + line(10)[:-20])

    output = open_output(path)
    output.close()

    assert rows_of(path) == [1, 4, 7, 10, 2, 5]
    assert not folder.exists()


def test_parts_of_many_blocks_are_taken_in_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a last line that lacks nothing but its line end."""
    monkeypatch.setattr("llmbatch.outputs.take_in._BATCH_BYTES", 50)
    path, folder = tmp_path / "o.jsonl", tmp_path / "o.jsonl.parts"
    folder.mkdir()
    text = b"".join(line(n) for n in range(1, 40))
    (folder / "part-00001-of-00001.jsonl").write_bytes(text[:-1])

    output = open_output(path)
    output.close()

    assert path.read_bytes() == text
    assert len(output.finished) == 39


def test_failed_rows_of_the_parts_are_dropped_too(left: tuple[Path, Path]) -> None:
    """As those of the output, to be sent again."""
    path, _ = left

    output = open_output(path, retry_failed=True)
    output.close()

    assert rows_of(path) == [1, 4, 7, 2, 5]


def test_a_part_of_another_input_is_refused(left: tuple[Path, Path]) -> None:
    """Nothing is removed."""
    path, folder = left
    part = folder / "part-00001-of-00003.jsonl"
    part.write_bytes(line(4, digest="fedcba9876543210"))

    with pytest.raises(OutputError, match="row 4 has a result of another input in the output"):
        open_output(path)

    assert part.exists()
    assert rows_of(path) == [1, 4]


def test_parts_that_are_being_written_are_left_alone(left: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run's processes have them."""
    path, folder = left
    monkeypatch.setattr("llmbatch.outputs.take_in._PATIENCE_S", 0.0)
    held = str(folder / "part-00001-of-00003.jsonl")
    fd = open_locked(held, held)
    try:
        with pytest.raises(InUseError, match="is in use by another run"):
            open_output(path)
    finally:
        os.close(fd)

    assert rows_of(path) == [1, 4]


def test_sidecars_of_parts_that_got_no_line_are_not_left_behind(left: tuple[Path, Path]) -> None:
    """A process that no row was answered for leaves deferred rows without a part; files of yours stay."""
    path, folder = left
    (folder / "part-00003-of-00003.deferred.jsonl").write_text("{}\n")
    (folder / ".part-00003-of-00003.jsonl.status.json").write_text("{}")

    open_output(path).close()

    assert not folder.exists()


def test_files_of_yours_among_the_parts_stay(left: tuple[Path, Path]) -> None:
    """Only what the processes have written is removed."""
    path, folder = left
    (folder / "notes.txt").write_text("mine")

    open_output(path).close()

    assert [found.name for found in folder.iterdir()] == ["notes.txt"]
