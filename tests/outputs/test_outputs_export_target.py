"""Where an export goes: formats by name, files that are replaced whole, and what may not be overwritten."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from failing_disk import failing
from standard_stream import standard_output

from llmbatch.core.errors import OutputError, UsageError, WriteError
from llmbatch.outputs.export_target import Compression, check_target, format_of, write_target
from llmbatch.storage.atomic_replace import is_being_replaced, replace_file


@pytest.mark.parametrize(
    ("path", "wanted", "found"),
    [
        ("a.jsonl", None, ("jsonl", "")),
        ("a.b.NDJSON", None, ("jsonl", "")),
        ("a.csv.gz", None, ("csv", "gzip")),
        ("a.tsv.zst", None, ("tsv", "zstd")),
        ("dir.csv/a.parquet", None, ("parquet", "")),
        ("-", None, ("jsonl", "")),
        ("-", "csv", ("csv", "")),
        ("a.jsonl.gz", "openai", ("openai", "gzip")),
        ("a", "csv", ("csv", "")),
    ],
)
def test_the_format_is_named_by_the_file_or_the_flag(path: str, wanted: str | None, found: tuple[str, str]) -> None:
    """The flag first; the end says how it is compressed."""
    assert format_of(path, wanted) == found


@pytest.mark.parametrize("path", ["a", "a.txt", "a.gz", "csv", ".csv"])
def test_a_name_that_says_no_format_is_refused(path: str) -> None:
    """With the names that do."""
    with pytest.raises(UsageError, match="does not say which format"):
        format_of(path, None)


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_a_failure_in_the_middle_leaves_what_was_there(tmp_path: Path, compression: Compression) -> None:
    """Whatever ends it, an interruption too; and nothing beside it."""
    path = tmp_path / "x"
    path.write_text("old")

    def blocks() -> Iterator[bytes]:
        yield b"new" * 100_000
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_target(str(path), blocks(), compression, overwrite=True)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_of_reading_are_not_blamed_on_the_target(tmp_path: Path) -> None:
    """They are passed on as they are."""

    def blocks() -> Iterator[bytes]:
        yield b"x"
        raise OSError(errno.EIO, "the source")

    with pytest.raises(OSError, match="the source"):
        write_target(str(tmp_path / "x"), blocks(), "", overwrite=False)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, WriteError), (errno.EDQUOT, WriteError), (errno.EROFS, OutputError)]
)
def test_errors_of_writing_name_the_file(tmp_path: Path, number: int, kind: type[Exception]) -> None:
    """A full disk is exit code 74, a folder that may not be written a wrong command."""
    call = "open" if number == errno.EROFS else "write"

    with pytest.raises(kind, match=r"x: (could not|cannot) be written") as caught:
        write_target(str(tmp_path / "x"), [b"data"], "", overwrite=False, disk=failing(**{call: number}))

    assert getattr(caught.value, "exit_code", None) == (2 if kind is OutputError else 74)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    """Without ``--overwrite`` nothing is ever replaced."""
    path = tmp_path / "x"

    def blocks() -> Iterator[bytes]:
        yield b"mine"
        path.write_text("theirs")

    with pytest.raises(OutputError, match="made by another program"):
        write_target(str(path), blocks(), "", overwrite=False)

    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_two_exports_do_not_write_one_file(tmp_path: Path) -> None:
    """The second is refused while the first goes on; a leftover of one that was killed is no obstacle."""
    path = str(tmp_path / "x.csv")

    def blocks() -> Iterator[bytes]:
        yield b"first"
        with pytest.raises(OutputError, match="another export is writing it"):
            check_target(path, {}, overwrite=False, is_binary=False)

    os.close(replace_file(path, blocks()))
    (tmp_path / ".y.csv.llmbatch-new").write_text("left over")

    assert not is_being_replaced(str(tmp_path / "y.csv"))
    check_target(str(tmp_path / "y.csv"), {}, overwrite=False, is_binary=False)
    write_target(str(tmp_path / "y.csv"), [b"whole"], "", overwrite=False)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["x.csv", "y.csv"]


def test_links_stay_links(tmp_path: Path) -> None:
    """The file that a link names is replaced; one that is the output under another name is refused."""
    (tmp_path / "real").write_text("old")
    link = tmp_path / "link"
    link.symlink_to("real")

    with pytest.raises(OutputError, match="is the output"):
        check_target(str(link), {str(tmp_path / "real"): "the output"}, overwrite=True, is_binary=False)
    write_target(str(link), [b"new"], "gzip", overwrite=True)

    assert link.is_symlink()
    assert gzip.decompress((tmp_path / "real").read_bytes()) == b"new"


def test_the_output_of_a_run_that_goes_on_is_not_replaced(tmp_path: Path) -> None:
    """Even on request: its rows would be lost."""
    path = str(tmp_path / "o.jsonl")
    fd = replace_file(path, [b"{}\n"])  # which holds the lock, as a run does

    with pytest.raises(OutputError, match="a run is writing it"):
        check_target(path, {}, overwrite=True, is_binary=False)

    os.close(fd)
    check_target(path, {}, overwrite=True, is_binary=False)


@pytest.mark.skipif(sys.platform == "win32", reason="has no terminals of this kind")
def test_a_binary_file_is_not_written_to_a_terminal() -> None:
    """Text is, and either goes to a pipe; a standard output that is closed, or only read from, is none."""
    master, terminal = os.openpty()
    reading, writing = os.pipe()

    with standard_output(terminal):
        check_target("-", {}, overwrite=False, is_binary=False)
        with pytest.raises(OutputError, match="the terminal cannot show a binary file"):
            check_target("-", {}, overwrite=False, is_binary=True)
    with standard_output(writing):
        check_target("-", {}, overwrite=False, is_binary=True)
    for closed in (None, reading):
        with standard_output(closed), pytest.raises(OutputError, match="standard output is closed"):
            check_target("-", {}, overwrite=False, is_binary=False)

    for fd in (master, terminal, reading, writing):
        os.close(fd)


def test_standard_output_takes_the_blocks_of_an_export() -> None:
    """As they come, packed if that is asked for; it stays open."""
    reading, writing = os.pipe()

    with standard_output(writing):
        write_target("-", [b"one\n", b"two\n"], "", overwrite=False)
        write_target("-", [b"three\n"], "gzip", overwrite=False)
    os.close(writing)

    with os.fdopen(reading, "rb") as file:
        received = file.read()
    assert received[:8] == b"one\ntwo\n"
    assert gzip.decompress(received[8:]) == b"three\n"


@pytest.mark.skipif(sys.platform == "win32", reason="has no named pipes of this kind")
def test_a_named_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """Without ``--overwrite``: nothing is lost. Its reader must be there."""
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    check_target(path, {}, overwrite=False, is_binary=True)
    with pytest.raises(OutputError, match="is a pipe that nobody reads"):
        write_target(path, [b"lost"], "", overwrite=False)

    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_target(path, [b"one\n", b"two\n"], "", overwrite=False)

    assert os.read(fd, 99) == b"one\ntwo\n"
    assert stat.S_ISFIFO(os.stat(path).st_mode)  # noqa: PTH116
    os.close(fd)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    """Before anything is read."""
    with pytest.raises(OutputError, match="cannot be written"):
        check_target(str(tmp_path / name), {}, overwrite=False, is_binary=False)


def test_files_that_are_not_there_are_not_the_target(tmp_path: Path) -> None:
    """The input may have gone since the run, and its name may be one that no file can have."""
    (tmp_path / "x").write_text("old")
    others = {str(tmp_path / "gone.jsonl"): "the input", "a\0b": "the input"}

    check_target(str(tmp_path / "x"), others, overwrite=True, is_binary=False)


def test_a_file_that_may_not_be_read_can_be_replaced(tmp_path: Path) -> None:
    """Whether a run is writing it cannot be seen; who may write to the folder may replace it."""
    (tmp_path / "x").write_text("old")

    check_target(str(tmp_path / "x"), {}, overwrite=True, is_binary=False, disk=failing(open=errno.EACCES))


@pytest.mark.parametrize(("path", "why"), [("", "the path is empty"), ("new/", "is a directory"), (".", "is a dir")])
def test_a_folder_is_no_target(path: str, why: str) -> None:
    """Nor is one that is not there yet."""
    with pytest.raises(OutputError, match=why) as caught:
        check_target(path, {}, overwrite=True, is_binary=False)

    assert caught.value.hint == "name a file to write to (-o)"
