"""Opening an output where the system refuses: every refusal has its message, and leaves the file alone."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
from example_lines import result_line
from failing_disk import failing
from standard_stream import standard_output

from llmbatch.core.errors import OutputError, WriteError
from llmbatch.outputs.open import open_output

LINES = result_line(1) + result_line(2)


def test_an_output_whose_lines_cannot_be_synced_is_not_gone_on_with(tmp_path: Path) -> None:
    """They may be in memory only; the error is the disk's, and nothing has changed."""
    path = tmp_path / "o.jsonl"
    path.write_bytes(LINES)

    with pytest.raises(WriteError, match=f"could not be written .{os.strerror(errno.EIO)}."):
        open_output(path, disk=failing(sync=errno.EIO))

    assert path.read_bytes() == LINES
    open_output(path, disk=failing(sync=errno.EINVAL)).close()  # a file system that cannot sync at all


def test_failed_lines_that_cannot_be_removed_stay(tmp_path: Path) -> None:
    """A retry of failed rows rewrites the file, or leaves the old one."""
    path = tmp_path / "o.jsonl"
    path.write_bytes(LINES + result_line(3, status="failed"))

    with pytest.raises(WriteError, match="No space left"):
        open_output(path, retry_failed=True, disk=failing(write=errno.ENOSPC))

    assert path.read_bytes() == LINES + result_line(3, status="failed")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("path", ["", "results/"])
def test_a_path_without_a_name_is_no_file(path: str) -> None:
    """The hint has the flag."""
    with pytest.raises(OutputError, match="names no file") as caught:
        open_output(path)

    assert "-o" in caught.value.hint


def test_a_compressed_output_is_refused_with_the_plain_one(tmp_path: Path) -> None:
    """Nothing can be appended to it; the hint has a path to write to."""
    with pytest.raises(OutputError, match="are written uncompressed") as caught:
        open_output(tmp_path / "o.jsonl.zst")

    assert f"write to {tmp_path / 'o.jsonl'}," in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_socket_cannot_be_the_output(tmp_path: Path) -> None:
    """Its path is no file, and cannot be opened."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))

        with pytest.raises(OutputError, match="cannot be opened") as caught:
            open_output(path)

    assert caught.value.hint == "write to a file (-o)"


def test_a_path_with_a_nul_is_no_path(tmp_path: Path) -> None:
    """From Python or a configuration file: it was no error of ours."""
    with pytest.raises(OutputError, match="cannot have a NUL"):
        open_output(f"{tmp_path}/a\0b")


def test_a_closed_standard_output_is_told_before_anything_is_sent() -> None:
    """Also where its number is held by a descriptor that cannot be written to."""
    with standard_output(None), pytest.raises(OutputError, match="standard output is closed"):
        open_output("-")
    with (
        Path("/dev/null").open("rb") as null,
        standard_output(null.fileno()),
        pytest.raises(OutputError, match="standard output is closed"),
    ):
        open_output("-")


def test_an_input_that_is_missing_is_not_the_outputs_fault(tmp_path: Path) -> None:
    """Whoever reads it says so."""
    output = open_output(tmp_path / "o.jsonl", input_path=tmp_path / "missing.jsonl")

    assert len(output.finished) == 0
    output.close()


@pytest.mark.parametrize("name", ["x.csv", "x.TSV", "x.xlsx"])
def test_a_new_output_is_no_table(tmp_path: Path, name: str) -> None:
    """The hint says how results become one; a file of that name that is an output is one."""
    path = tmp_path / name
    with pytest.raises(OutputError, match="are written as JSON Lines, not as") as caught:
        open_output(path)
    assert "llmbatch export" in caught.value.hint
    assert list(tmp_path.iterdir()) == []

    path.write_bytes(LINES)

    output = open_output(path)
    assert len(output.finished) == 2
    output.close()
