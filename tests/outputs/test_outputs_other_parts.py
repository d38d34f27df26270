"""A shard whose rows are partly in parts of another number of shards: found, counted, and dropped there."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from example_lines import input_line, result_line
from failing_disk import failing

from llmbatch.core.errors import InUseError, OutputError, WriteError
from llmbatch.core.shards import Shard
from llmbatch.inputs.rows import line_digest
from llmbatch.outputs import other_parts
from llmbatch.outputs.file import Output
from llmbatch.outputs.free_parts import FreeParts
from llmbatch.outputs.lock import open_locked
from llmbatch.outputs.open import open_output
from llmbatch.outputs.other_parts import OtherParts
from llmbatch.outputs.parts import part_name
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FinishedRows

THREE = Shard(3, 4)
"""Rows 3, 7, 11 …, which a run of two shards has in its first part."""


def part(folder: Path, shard: Shard) -> Path:
    return folder / part_name(shard)


def lines(*rows: int, failed: Iterable[int] = (), model: str | None = None) -> bytes:
    bad = set(failed)
    return b"".join(result_line(n, status="failed" if n in bad else "success", model=model) for n in rows)


def rows_in(path: Path) -> list[int]:
    return [json.loads(line)["row"] for line in path.read_bytes().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards 1 and 2 of 2: rows 1, 3, 5, 7, 9 (3 and 9 failed), and rows 2, 4."""
    part(tmp_path, Shard(1, 2)).write_bytes(lines(1, 3, 5, 7, 9, failed=(3, 9), model="sim/a"))
    part(tmp_path, Shard(2, 2)).write_bytes(lines(2, 4, model="sim/b"))
    return tmp_path


def opened(
    folder: Path,
    shard: Shard = THREE,
    *,
    disk: Filesystem = FILESYSTEM,
    named: tuple[str, ...] = (),
    retry_failed: bool = False,
    overwrite: bool = False,
) -> Output:
    path = str(part(folder, shard))
    return open_output(
        path,
        shard=shard,
        elsewhere=lambda: OtherParts(path, shard, disk, named=named),
        retry_failed=retry_failed,
        overwrite=overwrite,
    )


def test_rows_of_other_parts_are_finished(folder: Path) -> None:
    """Those of the shard only; each is found in its file."""
    output = opened(folder)

    assert (list(output.finished.done_after(0)), output.finished.failed) == ([3, 7], 1)
    assert output.file_of(7) == str(part(folder, Shard(1, 2)))
    assert output.file_of(11) == str(part(folder, THREE))
    assert repr(output).endswith("open, 0 lines>")
    output.close()


def test_the_folder_says_how_much_it_holds(folder: Path) -> None:
    """For whoever debugs it."""
    found = OtherParts(str(part(folder, THREE)), THREE)

    found.enter(FinishedRows(THREE), "own")

    assert repr(found) == "<OtherParts of 3/4, 2 rows in 1 files>"
    assert found.file_of(11) is None
    assert found.among({3, 7, 11}) == {3, 7}


def test_what_earlier_answers_say_is_read_from_all_parts(folder: Path) -> None:
    """Their model, settings and inputs also tell of parts that have no rows of the shard."""
    output = opened(folder)
    found = OtherParts(str(part(folder, THREE)), THREE)

    assert output.has_success("sim/a")
    assert output.has_success("sim/b")
    assert not output.has_success("sim/c")
    assert output.earlier_success() == (str(part(folder, Shard(1, 2))), (1, "sim/a", ""))
    assert output.good_rows(2) == {1: line_digest(input_line(1)), 5: line_digest(input_line(5))}
    assert output.good_rows(9).keys() == {1, 2, 4, 5, 7}
    assert list(found.samples()) == [(str(part(folder, Shard(2, 2))), 2, line_digest(input_line(2)))]
    output.close()


def test_a_part_without_an_answer_has_no_sample(folder: Path) -> None:
    """Nor a model."""
    part(folder, Shard(1, 2)).unlink()
    part(folder, Shard(2, 2)).write_bytes(lines(2, failed=(2,)))
    output = opened(folder)

    assert list(OtherParts(str(part(folder, THREE)), THREE).samples()) == []
    assert output.earlier_success() is None
    output.close()


def test_the_cut_answers_of_other_parts_are_resent(folder: Path) -> None:
    """Their lines go, each from its file; those of other shards stay."""
    part(folder, THREE).write_bytes(lines(11))
    output = opened(folder)

    output.find_cut_answers(lambda line: True, up_to=7)
    output.drop_cut_answers()

    assert rows_in(part(folder, Shard(1, 2))) == [1, 3, 5, 9]
    assert list(output.finished.done_after(0)) == [3, 11]
    assert output.file_of(7) == str(part(folder, THREE))
    output.close()


def test_each_row_is_dropped_from_the_part_that_has_it(folder: Path) -> None:
    """A part without any of the rows is not even locked; one that holds none of the shard's rows is never looked at."""
    part(folder, Shard(3, 8)).write_bytes(lines(11))
    part(folder, Shard(7, 8)).write_bytes(b"")
    output = opened(folder)
    fd = open_locked(str(part(folder, Shard(3, 8))), "part")

    output.find_cut_answers(lambda line: True, up_to=7)
    output.drop_cut_answers()

    os.close(fd)
    assert list(output.finished.done_after(0)) == [3, 11]
    output.close()


def test_cut_answers_are_dropped_from_both_files(folder: Path) -> None:
    """From the own part too."""
    part(folder, THREE).write_bytes(lines(11))
    output = opened(folder)

    output.find_cut_answers(lambda line: True, up_to=None)
    output.drop_cut_answers()

    assert (rows_in(part(folder, THREE)), rows_in(part(folder, Shard(1, 2)))) == ([], [1, 3, 5, 9])
    output.close()


def test_failed_rows_of_other_parts_are_retried(folder: Path) -> None:
    """The lines of failed rows of the shard go, and no other line."""
    output = opened(folder, retry_failed=True)

    assert rows_in(part(folder, Shard(1, 2))) == [1, 5, 7, 9]
    assert list(output.finished.done_after(0)) == [7]
    output.close()


def test_starting_afresh_drops_the_shard_from_every_part(folder: Path) -> None:
    """Success or not; rows of other shards stay."""
    output = opened(folder, overwrite=True)

    assert rows_in(part(folder, Shard(1, 2))) == [1, 5, 9]
    assert rows_in(part(folder, Shard(2, 2))) == [2, 4]
    assert list(output.finished.done_after(0)) == []
    output.close()


def test_a_shard_without_rows_elsewhere_starts_afresh_alone(folder: Path) -> None:
    """Other parts are not even looked at."""
    output = opened(folder, Shard(6, 8), overwrite=True)
    output.drop_elsewhere(None, only_failed=True)

    assert rows_in(part(folder, Shard(2, 2))) == [2, 4]
    output.close()


def test_malformed_rows_of_other_parts_are_sent_once_corrected(folder: Path) -> None:
    """Their lines go from the file that has them."""
    text = result_line(3, status="failed", error_code="input_not_json", attempts=0, status_code=None, body=None)
    part(folder, Shard(1, 2)).write_bytes(lines(1, 5) + text)
    output = opened(folder)

    output.drop_input_errors()

    assert rows_in(part(folder, Shard(1, 2))) == [1, 5]
    output.close()


def test_a_row_in_two_parts_is_refused(folder: Path) -> None:
    """With both names: two other parts, or another and the own."""
    part(folder, Shard(3, 8)).write_bytes(lines(3))
    with pytest.raises(OutputError, match=r"00008\.jsonl: row 3 has a line here and in .*part-00001-of-00002\.jsonl"):
        opened(folder)
    part(folder, Shard(3, 8)).unlink()
    part(folder, THREE).write_bytes(lines(7))

    with pytest.raises(OutputError, match=r"00002\.jsonl: row 7 has a line here and in .*part-00003-of-00004\.jsonl"):
        opened(folder)


def test_a_part_that_another_run_writes_is_not_shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint has the number of shards that fits. A file that is named, such as the merged one, may be locked."""
    monkeypatch.setattr(other_parts, "_REWRITE_SECONDS", 0.05)
    path = str(part(folder, Shard(1, 2)))
    fd = open_locked(path, path)
    try:
        with pytest.raises(InUseError, match=r"is being written by another run .*shard 1/2 has rows of 3/4") as caught:
            opened(folder)
    finally:
        os.close(fd)
    assert caught.value.hint.endswith("--shard I/2")

    merged = part(folder, Shard(1, 2)).rename(folder / "all.jsonl")
    fd = open_locked(str(merged), str(merged))
    output = opened(folder, named=(str(merged),))

    os.close(fd)
    assert list(output.finished.done_after(0)) == [3, 7]
    output.close()


def test_a_part_that_is_locked_for_a_moment_is_waited_for(folder: Path) -> None:
    """Another process drops lines of its own shard."""
    path = str(part(folder, Shard(1, 2)))
    fd = open_locked(path, path)
    timer = threading.Timer(0.2, os.close, [fd])
    timer.start()

    output = opened(folder)

    timer.join()
    assert list(output.finished.done_after(0)) == [3, 7]
    output.close()


def test_a_part_that_stays_locked_keeps_its_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds it may append to it."""
    monkeypatch.setattr(other_parts, "_LOCK_SECONDS", 0.2)
    output = opened(folder)
    path = str(part(folder, Shard(1, 2)))
    output.find_cut_answers(lambda line: True, up_to=None)
    fd = open_locked(path, path)
    began = time.monotonic()
    try:
        with pytest.raises(InUseError):
            output.drop_cut_answers()
    finally:
        os.close(fd)

    assert time.monotonic() - began >= 0.2
    assert rows_in(part(folder, Shard(1, 2))) == [1, 3, 5, 7, 9]
    output.close()


def test_a_part_that_cannot_be_rewritten_stays_as_it_is(folder: Path) -> None:
    """The lines that were to be dropped are there."""
    output = opened(folder, disk=failing(write=errno.ENOSPC))
    output.find_cut_answers(lambda line: True, up_to=None)

    with pytest.raises(WriteError, match="No space left"):
        output.drop_cut_answers()

    assert rows_in(part(folder, Shard(1, 2))) == [1, 3, 5, 7, 9]
    output.close()


class SickOnceLocked(Filesystem):
    """A disk that fails as soon as a file of its has been locked."""

    is_sick = False

    def lock(self, fd: int) -> None:
        super().lock(fd)
        self.is_sick = True

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        if self.is_sick:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pread(fd, size, offset)


def test_a_disk_that_fails_before_lines_are_dropped_leaves_the_part_free(folder: Path) -> None:
    """As it was, and not locked."""
    output = opened(folder, disk=SickOnceLocked())
    output.find_cut_answers(lambda line: True, up_to=None)

    with pytest.raises(WriteError, match="could not be written"):
        output.drop_cut_answers()

    path = str(part(folder, Shard(1, 2)))
    os.close(open_locked(path, path))
    assert rows_in(Path(path)) == [1, 3, 5, 7, 9]
    output.close()


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_part_that_cannot_be_read_is_named(folder: Path, call: str) -> None:
    """With what the system says; it is never taken for empty."""
    with pytest.raises(OutputError, match=r"part-0000.-of-00002\.jsonl: cannot be read .input/output error"):
        opened(folder, disk=failing(**{call: errno.EIO}))


@pytest.mark.parametrize("call", ["open", "fstat"])
def test_the_first_answer_of_a_part_that_cannot_be_read_is_an_error(folder: Path, call: str) -> None:
    """Its settings would else not be compared; a search through all lines skips it."""
    found = OtherParts(str(part(folder, THREE)), THREE, failing(**{call: errno.EIO}))

    with pytest.raises(OutputError, match=r"cannot be read .input/output error"):
        found.first_success()

    assert not found.has_success("sim/a")
    assert found.good_rows(5) == {}


def test_parts_that_vanish_are_no_error(folder: Path) -> None:
    """Somebody has merged them and cleaned up."""
    output = opened(folder)
    part(folder, Shard(1, 2)).unlink()
    part(folder, Shard(2, 2)).unlink()

    assert not output.has_success("sim/a")
    assert output.earlier_success() is None
    assert output.good_rows(5) == {}
    assert output.file_of(7) == str(part(folder, THREE))
    output.find_cut_answers(lambda line: True, up_to=None)
    output.drop_cut_answers()
    output.drop_input_errors()
    output.drop_elsewhere(None, only_failed=True)
    output.close()


def test_a_part_that_vanishes_before_its_lines_are_dropped_is_no_error(folder: Path) -> None:
    """Its rows are sent again all the same."""
    output = opened(folder)
    output.find_cut_answers(lambda line: True, up_to=None)
    part(folder, Shard(1, 2)).unlink()

    output.drop_cut_answers()

    assert list(output.finished.done_after(0)) == [3]
    output.close()


def test_a_part_that_vanishes_is_no_error_as_it_is_entered(folder: Path) -> None:
    """It was listed a moment ago."""
    path = str(part(folder, THREE))
    listed = OtherParts(path, THREE)
    part(folder, Shard(1, 2)).unlink()

    output = open_output(path, shard=THREE, elsewhere=lambda: listed)

    assert list(output.finished.done_after(0)) == []
    output.close()


def test_failed_rows_of_a_part_that_cannot_be_read_stop_the_retry(folder: Path) -> None:
    """Nothing is dropped then."""
    output = opened(folder)
    path = part(folder, Shard(1, 2))
    before = path.read_bytes()
    path.unlink()
    path.mkdir()

    with pytest.raises(OutputError, match=r"part-00001-of-00002\.jsonl: cannot be read"):
        output.drop_elsewhere(None, only_failed=True)
    with pytest.raises(OutputError, match=r"part-00001-of-00002\.jsonl: cannot be read"):
        output.find_cut_answers(lambda line: True, up_to=None)

    path.rmdir()
    path.write_bytes(before)
    output.close()


def test_free_parts_are_chosen_in_order(folder: Path) -> None:
    """Not one whose rows another number of shards is writing, one that is held, or one that is complete."""
    part(folder, Shard(1, 2)).unlink()
    part(folder, Shard(2, 2)).write_bytes(lines(2, 4, 6, 8))
    free = FreeParts(str(folder), [2, 2, 2, 2])
    path = str(part(folder, Shard(1, 4)))
    fd = open_locked(path, path)
    try:
        assert (free.next(), free.held) == (Shard(3, 4), 1)
        free.over(Shard(3, 4))
        free.over(Shard(3, 4))
        assert (free.next(), free.held) == (None, 1)
    finally:
        os.close(fd)

    assert (free.next(), free.held) == (Shard(1, 4), 0)


def test_a_shard_whose_rows_others_write_is_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken, and looked at again later."""
    monkeypatch.setattr(other_parts, "_REWRITE_SECONDS", 0.05)
    free = FreeParts(str(folder), [3, 3, 3, 3])
    path = str(part(folder, Shard(1, 2)))
    fd = open_locked(path, path)
    try:
        assert (free.next(), free.held) == (Shard(2, 4), 1)
    finally:
        os.close(fd)
