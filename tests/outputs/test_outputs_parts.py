"""Folders of parts: what they are called, read as one output, merged, and taken in beside an output."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from example_lines import result_line
from failing_disk import failing

from llmbatch.core.errors import InUseError, OutputError, WriteError
from llmbatch.core.shards import Shard
from llmbatch.outputs import take_in
from llmbatch.outputs.file import Output
from llmbatch.outputs.joined import OpenResults, files_of, open_file
from llmbatch.outputs.lines import read_lines
from llmbatch.outputs.lock import open_locked
from llmbatch.outputs.merge import Merge, missing_rows, parts_of
from llmbatch.outputs.open import open_output
from llmbatch.outputs.parts import (
    create_folder,
    has_parts,
    has_shards,
    is_folder,
    list_parts,
    list_shards,
    output_of_parts,
    part_path,
)
from llmbatch.storage.filesystem import Filesystem
from llmbatch.storage.finished_rows import FinishedRows

FIRST, SECOND = "part-00001-of-00002.jsonl", "part-00002-of-00002.jsonl"


def rows_in(path: Path) -> list[int]:
    return [json.loads(line)["row"] for line in path.read_bytes().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards 1 and 2 of 2, with rows 1, 3 and 2, 4."""
    path = tmp_path / "results"
    path.mkdir()
    (path / FIRST).write_bytes(result_line(1) + result_line(3))
    (path / SECOND).write_bytes(result_line(2) + result_line(4, status="failed"))
    return path


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """An output with row 1, and the parts of its ``--workers`` with rows 1, 3 and 2, 4."""
    (tmp_path / "o.jsonl").write_bytes(result_line(1))
    path = tmp_path / "o.jsonl.parts"
    path.mkdir()
    (path / FIRST).write_bytes(result_line(1) + result_line(3))
    (path / SECOND).write_bytes(result_line(2) + result_line(4, status="failed"))
    return path


# What is a folder, and what is in it.


def test_what_cannot_be_a_folder_is_none(tmp_path: Path) -> None:
    """Standard output, nothing, a root; a name that ends in a slash is one, whatever is there."""
    assert not is_folder("-")
    assert not is_folder("")
    assert is_folder(f"{tmp_path}/new/")
    assert not is_folder(tmp_path / "new")
    assert is_folder(tmp_path / "new", Shard(1, 2))
    assert not is_folder(tmp_path / "new.jsonl", Shard(1, 2))
    assert part_path(tmp_path / "new.jsonl", None) == str(tmp_path / "new.jsonl")
    assert not has_parts(tmp_path / "a\0b")


def test_a_folder_with_a_name_that_is_too_long_has_no_parts(tmp_path: Path) -> None:
    """Opening the output reports it."""
    assert list_parts(tmp_path / ("x" * 300)) == []


def test_a_folder_that_is_a_file_cannot_be_listed(tmp_path: Path) -> None:
    """With the system's reason."""
    (tmp_path / "o").write_text("")

    with pytest.raises(OutputError, match=r"cannot be read .not a directory"):
        list_parts(tmp_path / "o")


@pytest.mark.parametrize("name", ["part-00003-of-00002.jsonl", "part-0-of-2.jsonl", "part-one.jsonl"])
def test_a_file_that_is_called_like_a_part_is_told(folder: Path, name: str) -> None:
    """It may hold paid answers; sidecars of parts are none."""
    (folder / "part-00001-of-00002.jsonl.events.jsonl").write_text("")
    assert len(list_parts(folder)) == 2
    (folder / name).write_text("")

    with pytest.raises(OutputError, match="is called like a part, and is none"):
        list_parts(folder)


def test_a_part_that_stands_twice_is_told(folder: Path) -> None:
    """As 1/2 and 00001/00002."""
    (folder / "part-1-of-2.jsonl").write_text("")

    with pytest.raises(OutputError, match="part 1/2 stands here twice, also as"):
        list_parts(folder)


def test_shards_without_a_line_have_begun_all_the_same(tmp_path: Path, folder: Path) -> None:
    """Their sidecars say so, as while their batches run; there is nothing to merge then."""
    (folder / ".part-00002-of-00003.jsonl.status.json").write_text("")
    (folder / ".part-00001-of-00002.jsonl.status.json").write_text("")
    (folder / "part-00003-of-00003.deferred.jsonl").write_text("")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".part-00002-of-00003.jsonl.status.json").write_text("")

    assert [str(part.shard) for part in list_shards(folder)] == ["1/2", "2/2", "2/3", "3/3"]
    assert has_shards(tmp_path / "begun")
    assert not has_shards(tmp_path / "missing")
    with pytest.raises(OutputError, match="no shard has a line yet, so there is nothing to merge") as caught:
        parts_of([str(tmp_path / "begun")])
    assert caught.value.hint == f"what they wait for: llmbatch status {tmp_path / 'begun'}"


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    """And not where a file is, in a directory that is missing, or under a name that none can have."""
    (tmp_path / "file").write_text("")

    assert create_folder(tmp_path / "new")
    assert not create_folder(tmp_path / "new")
    with pytest.raises(OutputError, match="is a file, and the name of a folder is wanted"):
        create_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="there is no directory") as caught:
        create_folder(tmp_path / "a" / "b")
    assert caught.value.hint == f"create it: mkdir -p {tmp_path / 'a'}"
    with pytest.raises(OutputError, match=r"cannot be created .Not a directory"):
        create_folder(tmp_path / "file" / "b")
    with pytest.raises(OutputError, match=r"cannot be created .*embedded null"):
        create_folder("a\0b")


def test_parts_beside_belong_to_their_output(beside: Path) -> None:
    """Only while that is there, and only of that name."""
    assert output_of_parts(beside) == beside.with_name("o.jsonl")
    beside.with_name("o.jsonl").unlink()
    assert output_of_parts(beside) is None


# Several files, read as one output.


def test_parts_are_read_as_one_file(folder: Path) -> None:
    """All rows and lines, also where the last line of a file lacks its line end."""
    path = folder / FIRST
    path.write_bytes(path.read_bytes()[:-1])

    with OpenResults(files_of(folder), "results") as results:
        found = [json.loads(line)["row"] for line in read_lines(results.fd, results.end_bytes, results.disk)]
        end = results.disk.pread(results.fd, 10, results.end_bytes)
        other = os.open(path, os.O_RDONLY)
        assert results.disk.pread(other, 5, 0) == path.read_bytes()[:5]
        os.close(other)

    assert (found, end, results.torn_bytes, results.is_running) == ([1, 3, 2, 4], b"", 0, False)
    assert (len(results.finished), results.finished.failed) == (4, 1)


def test_a_single_file_without_its_last_line_end_is_read_whole(folder: Path) -> None:
    """Its end is added."""
    path = folder / FIRST
    path.write_bytes(path.read_bytes()[:-1])

    with OpenResults([path], str(path)) as results:
        found = [json.loads(line)["row"] for line in read_lines(results.fd, results.end_bytes, results.disk)]

    assert found == [1, 3]


def test_a_part_that_was_renamed_is_read(folder: Path) -> None:
    """Its rows are those of its lines."""
    (folder / FIRST).unlink()
    (folder / SECOND).rename(folder / FIRST)

    with OpenResults(files_of(folder), "results") as results:
        assert list(results.finished.done_after(0)) == [2, 4]


def test_one_shard_is_read_of_all_files(folder: Path) -> None:
    """As a run of another number of shards does."""
    with OpenResults(files_of(folder), "results", shard=Shard(3, 4)) as results:
        assert list(results.finished.done_after(0)) == [3]


def test_a_row_in_two_files_is_told(folder: Path) -> None:
    """With its number; the files are closed again."""
    with (folder / SECOND).open("ab") as file:
        file.write(result_line(3))
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.is_dir() else 0

    with pytest.raises(OutputError, match="row 3 has a line here and in another part of results"):
        OpenResults([folder / FIRST, folder / SECOND], "results")

    assert not before or len(list(descriptors.iterdir())) == before


def test_an_output_and_the_parts_beside_it_are_one(beside: Path) -> None:
    """Of an output that is gone, the parts alone; a folder has no parts of its own."""
    output = beside.with_name("o.jsonl")

    assert files_of(output) == [output, beside / FIRST, beside / SECOND]
    output.unlink()
    assert files_of(output) == [beside / FIRST, beside / SECOND]
    assert files_of(Path("/")) == [Path("/")]


def test_results_that_cannot_be_opened_are_told(tmp_path: Path) -> None:
    """What is missing, no file, or has a name that none can have."""
    with pytest.raises(OutputError, match="there is no such file"), open_file(tmp_path / "x"):
        pass
    with pytest.raises(OutputError, match="is a folder, and not one of the parts"), open_file(tmp_path):
        pass
    with pytest.raises(OutputError, match="is not a regular file"), open_file(Path("/dev/null")):
        pass
    with pytest.raises(OutputError, match=r"cannot be read .*embedded null"), open_file(Path("a\0b")):
        pass
    (tmp_path / "file").write_bytes(b"text")
    with open_file(tmp_path / "file") as fd:
        assert os.read(fd, 9) == b"text"
    with pytest.raises(OutputError, match=r"cannot be read .Not a directory"), open_file(tmp_path / "file" / "x"):
        pass


# Parts, merged into an output.


def test_merging_needs_a_file_and_different_parts(folder: Path, tmp_path: Path) -> None:
    """Nothing is written otherwise, and every part is free again."""
    parts = parts_of([str(folder)])
    assert parts == [folder / FIRST, folder / SECOND]
    with pytest.raises(OutputError, match="a merge needs a file to write to"):
        Merge(parts, "-")
    with pytest.raises(OutputError, match="is named twice"):
        Merge([*parts, parts[0]], str(tmp_path / "all.jsonl"))
    with pytest.raises(OutputError, match="has no parts"):
        parts_of([str(tmp_path)])
    with pytest.raises(OutputError, match="there is no such file"):
        parts_of([str(tmp_path / "x")])

    with Merge(parts_of([str(folder / FIRST), str(folder / SECOND)]), str(tmp_path / "all.jsonl")) as merge:
        merge.write()
    assert rows_in(tmp_path / "all.jsonl") == [1, 3, 2, 4]


def test_a_merge_that_has_no_room_leaves_no_file(folder: Path, tmp_path: Path) -> None:
    """And says why."""
    with (
        Merge(parts_of([str(folder)]), str(tmp_path / "all.jsonl"), disk=failing(write=errno.ENOSPC)) as merge,
        pytest.raises(WriteError, match="No space left"),
    ):
        merge.write()

    assert not (tmp_path / "all.jsonl").exists()


class RenamesClosedFilesOnly(Filesystem):
    """A disk as Windows has it, on which another process locks the new file before this one can."""

    can_rename_open_files = False
    locks = 0

    def lock(self, fd: int) -> None:
        self.locks += 1
        if self.locks > 3:  # of the two parts and of the new file, before it gets its name
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        super().lock(fd)


def test_a_merged_file_that_a_run_opens_at_once_is_told(folder: Path, tmp_path: Path) -> None:
    """Where a new file can be locked by others as soon as it has its name."""
    with (
        Merge(parts_of([str(folder)]), str(tmp_path / "all.jsonl"), disk=RenamesClosedFilesOnly()) as merge,
        pytest.raises(WriteError, match="is in use by another run"),
    ):
        merge.write()

    assert rows_in(tmp_path / "all.jsonl") == [1, 3, 2, 4]


def test_missing_rows_are_ranges(folder: Path) -> None:
    """Of the input's rows, or up to the last line."""
    with OpenResults([folder / FIRST], "results", shard=Shard(1, 2)) as results:
        assert list(missing_rows(results.finished, None)) == [(2, 2)]
        assert list(missing_rows(results.finished, [1, 2, 3, 5, 6, 8])) == [(2, 2), (5, 6), (8, 8)]


# Parts beside an output, which a run that was killed has left.


def test_parts_beside_are_taken_in_once(beside: Path) -> None:
    """A row that the output has already is not appended again; the parts and their folder go."""
    output = open_output(beside.with_name("o.jsonl"))

    assert list(output.finished.done_after(0)) == [1, 2, 3, 4]
    output.close()
    assert rows_in(beside.with_name("o.jsonl")) == [1, 3, 2, 4]
    assert not beside.exists()


def test_many_long_lines_are_taken_in(beside: Path) -> None:
    """In pieces; lines that are longer than a piece, and a part without its last line end, too."""
    long = [result_line(row, text="x" * 700_000) for row in (1, 3, 5)]
    (beside / FIRST).write_bytes(b"".join(long))
    longer = [result_line(row, text="y" * 2_500_000) for row in (2, 4)]
    (beside / SECOND).write_bytes(b"".join(longer)[:-1])

    output = open_output(beside.with_name("o.jsonl"))

    assert list(output.finished.done_after(0)) == [1, 2, 3, 4, 5]
    output.close()
    assert beside.with_name("o.jsonl").read_bytes() == b"".join([result_line(1), *long[1:], *longer])


def test_sidecars_of_parts_without_lines_go_too(beside: Path) -> None:
    """Whatever else is in the folder stays, and the folder with it."""
    for name in (".part-00003-of-00003.jsonl.cost.json", ".part-00001-of-00003.jsonl.x", "notes.txt"):
        (beside / name).write_text("")

    open_output(beside.with_name("o.jsonl")).close()

    assert sorted(path.name for path in beside.iterdir()) == [".part-00001-of-00003.jsonl.x", "notes.txt"]


def test_a_part_of_another_input_is_refused(beside: Path) -> None:
    """Its row 1 is another row; the output stays as it is."""
    (beside / FIRST).write_bytes(result_line(1, raw=b'"another"'))

    with pytest.raises(OutputError, match="row 1 has a result of another input in the output"):
        open_output(beside.with_name("o.jsonl"))

    assert rows_in(beside.with_name("o.jsonl")) == [1]


def test_a_part_with_rows_of_another_shard_is_refused(beside: Path) -> None:
    """It was renamed."""
    (beside / FIRST).write_bytes(result_line(2))

    with pytest.raises(OutputError, match="has rows of other shards than its name says"):
        open_output(beside.with_name("o.jsonl"))


class SickPart(Filesystem):
    """A disk that cannot read the second file that is locked: the output is the first, a part the next."""

    locks = 0

    def lock(self, fd: int) -> None:
        super().lock(fd)
        self.locks += 1

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        if self.locks > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pread(fd, size, offset)


def test_a_part_that_cannot_be_read_is_named(beside: Path) -> None:
    """It is not the output that failed."""
    with pytest.raises(WriteError, match=r"part-00001-of-00002.*Input/output error"):
        open_output(beside.with_name("o.jsonl"), disk=SickPart())

    assert rows_in(beside.with_name("o.jsonl")) == [1]


class ForgetfulPart(SickPart):
    """A disk that gives other bytes when a part is read for the second time."""

    def __init__(self) -> None:
        self.places: set[tuple[int, int]] = set()

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        found = Filesystem.pread(self, fd, size, offset)
        if self.locks > 1 and (fd, offset) in self.places:
            return b"?" * len(found)
        self.places.add((fd, offset))
        return found


def test_a_part_that_reads_differently_is_not_taken_in(beside: Path) -> None:
    """Nothing is appended that was not checked, and the part stays."""
    with pytest.raises(OutputError, match="has changed while it was read"):
        open_output(beside.with_name("o.jsonl"), disk=ForgetfulPart())

    assert rows_in(beside / FIRST) == [1, 3]


def test_a_new_output_whose_parts_are_refused_is_not_left(beside: Path) -> None:
    """It has no lines; the parts have them all."""
    beside.with_name("o.jsonl").unlink()
    (beside / FIRST).write_bytes(result_line(2))

    with pytest.raises(OutputError, match="has rows of other shards"):
        open_output(beside.with_name("o.jsonl"))

    assert not beside.with_name("o.jsonl").exists()


def test_a_part_that_is_still_written_is_waited_for(beside: Path) -> None:
    """The processes of a run that was killed notice it, and end."""
    fd = open_locked(str(beside / FIRST), FIRST)
    timer = threading.Timer(0.2, os.close, [fd])
    timer.start()

    open_output(beside.with_name("o.jsonl")).close()

    timer.join()
    assert rows_in(beside.with_name("o.jsonl")) == [1, 3, 2, 4]


def test_a_part_that_stays_locked_is_in_use(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is taken in."""
    monkeypatch.setattr(take_in, "_PATIENCE_S", 0.1)
    fd = open_locked(str(beside / FIRST), FIRST)
    try:
        with pytest.raises(InUseError, match="part-00001-of-00002"):
            open_output(beside.with_name("o.jsonl"))
    finally:
        os.close(fd)

    assert rows_in(beside.with_name("o.jsonl")) == [1]


def test_starting_afresh_removes_the_parts(beside: Path) -> None:
    """Or says which one stays."""
    with pytest.raises(OutputError, match=r"part-00001-of-00002.jsonl: cannot be removed .operation not permitted"):
        open_output(beside.with_name("o.jsonl"), overwrite=True, disk=failing(unlink=errno.EPERM))

    output = open_output(beside.with_name("o.jsonl"), overwrite=True)

    assert list(output.finished.done_after(0)) == []
    assert not beside.exists()
    output.close()


def test_an_output_takes_in_parts_while_it_is_open(beside: Path) -> None:
    """As the parent of ``--workers`` does at the end; a full disk is told, and the parts stay."""
    parts = beside.rename(beside.with_name("elsewhere"))
    output = open_output(beside.with_name("o.jsonl"))
    parts.rename(beside)

    assert output.take_in_parts() == 3

    assert repr(output).endswith("open, 4 lines>")
    output.close()


def test_parts_that_find_no_room_stay(beside: Path) -> None:
    """The error names the output."""
    parts = beside.rename(beside.with_name("elsewhere"))
    output = open_output(beside.with_name("o.jsonl"), disk=failing(sync_all=errno.EIO, write=errno.ENOSPC))
    parts.rename(beside)

    with pytest.raises(WriteError, match=r"o\.jsonl: could not be written .No space left"):
        output.take_in_parts()

    assert len(list_parts(beside)) == 2
    output.close()


def test_parts_that_cannot_be_removed_are_an_error_of_the_disk(beside: Path) -> None:
    """Their lines are in the output, and are recognized by the next run."""
    parts = beside.rename(beside.with_name("elsewhere"))
    output = open_output(beside.with_name("o.jsonl"), disk=failing(unlink=errno.EIO))
    parts.rename(beside)

    with pytest.raises(WriteError, match=r"o\.jsonl: could not be written .Input/output error"):
        output.take_in_parts()
    output.close()

    again = open_output(beside.with_name("o.jsonl"))
    assert rows_in(beside.with_name("o.jsonl")) == [1, 3, 2, 4]
    again.close()


def test_an_output_without_a_path_has_no_parts(beside: Path) -> None:
    """As one that nobody watches."""
    fd = os.open(beside.with_name("o.jsonl"), os.O_RDWR)
    output = Output(fd, "o.jsonl", FinishedRows())

    assert output.take_in_parts() == 0
    output.close()


def test_a_new_output_that_has_lines_by_now_is_kept(beside: Path) -> None:
    """The first part was taken in before the second was refused."""
    beside.with_name("o.jsonl").unlink()
    (beside / SECOND).write_bytes(result_line(3))

    with pytest.raises(OutputError, match="has rows of other shards"):
        open_output(beside.with_name("o.jsonl"))

    assert rows_in(beside.with_name("o.jsonl")) == [1, 3]
    assert not (beside / FIRST).exists()
