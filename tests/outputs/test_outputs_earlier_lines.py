"""What an open output tells of its earlier lines, which lines it can drop, and what a failing disk leaves of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from example_lines import result_line
from failing_disk import failing

from llmbatch.core.errors import OutputError, WriteError
from llmbatch.outputs.file import Output
from llmbatch.outputs.open import open_output
from llmbatch.storage.filesystem import Filesystem
from llmbatch.storage.finished_rows import FinishedRows

MALFORMED = result_line(2, status="failed", status_code=None, body=None, text=None, error_code="input_bad_json")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "o.jsonl"
    path.write_bytes(result_line(1, model="openai/a") + MALFORMED + result_line(3, status="failed"))
    return path


def opened(path: Path, disk: Filesystem, *, is_named: bool = True) -> Output:
    """The output on a disk that fails only now that it is open."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    return Output(fd, "o", FinishedRows(), disk, path=str(path) if is_named else None)


def test_the_first_success_has_its_row_and_model(path: Path) -> None:
    """None where no row succeeded, or where its line has no model."""
    output = open_output(path)
    assert output.first_success() == (1, "openai/a", "")
    assert output.good_rows(9).keys() == {1}
    output.close()

    path.write_bytes(MALFORMED)
    output = open_output(path)
    assert output.first_success() is None
    output.close()

    path.write_bytes(result_line(1))
    output = open_output(path)
    assert output.first_success() is None
    output.close()


def test_a_first_success_that_is_no_json_is_refused(path: Path) -> None:
    """Whatever is behind its prefix: another model could have answered it."""
    path.write_bytes(result_line(1).replace(b'"id":', b'"id"?'))
    output = open_output(path)

    with pytest.raises(OutputError, match="is damaged"):
        output.first_success()

    output.close()


def test_lines_that_cannot_be_read_say_nothing_or_stop_the_run(path: Path) -> None:
    """A run that must know the model stops; what only helps is left out."""
    output = opened(path, failing(pread=errno.EIO))

    assert not output.has_success("openai/a")
    with pytest.raises(OSError, match="Input/output error"):
        output.good_rows(9)  # whoever asks does without, and asks again later
    with pytest.raises(WriteError, match="Input/output error"):
        output.first_success()

    output.close()


def test_lines_that_cannot_be_dropped_stay_and_the_output_is_closed(path: Path) -> None:
    """The file is as it was; nothing can be written to it by this run any more."""
    before = path.read_bytes()
    output = opened(path, failing(replace=errno.EACCES))
    output.finished.add_all((1, 2, 3), (1, 2, 3), (1, 2, 2))

    with pytest.raises(WriteError, match="Permission denied"):
        output.drop_input_errors()

    with pytest.raises(WriteError, match="Permission denied"):
        output.write(result_line(4))
    output.close()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("up_to", "left"), [(None, [1, 3]), (2, [1, 3]), (1, [1, 2, 3])])
def test_only_rows_that_were_no_requests_are_dropped(path: Path, up_to: int | None, left: list[int]) -> None:
    """Up to the row that a run is limited to."""
    output = open_output(path)

    output.drop_input_errors(up_to)

    assert [row for row in (1, 2, 3) if output.finished.is_done(row)] == left
    assert path.read_bytes().count(b"\n") == len(left)
    output.close()


def test_an_output_without_failed_rows_has_nothing_to_drop(path: Path) -> None:
    """It is not even read."""
    path.write_bytes(result_line(1))
    output = open_output(path)

    output.drop_input_errors()

    assert path.read_bytes() == result_line(1)
    output.close()


def test_an_output_without_a_path_is_only_synced_to_test_it(path: Path) -> None:
    """No file is written beside it, and it is not watched."""
    output = opened(path, Filesystem(), is_named=False)
    output.check_room(sync=False)
    output.check_room(sync=True)
    path.unlink()

    output.watch()
    output.drop_corrected()

    output.close()


def test_a_torn_line_is_removed_though_only_a_part_of_it_fitted(path: Path) -> None:
    """The lines that fit stay; where the torn end cannot be removed, the next opening does it."""

    class Room(Filesystem):
        room = len(result_line(4)) + 10

        def write(self, fd: int, data: bytes | memoryview) -> int:
            size = min(len(data), self.room)
            if not size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= size
            return super().write(fd, bytes(data[:size]))

    class Stuck(Room):
        def truncate(self, fd: int, size: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = path.read_bytes()
    none = Room()
    none.room = 0
    output = opened(path, none)
    with pytest.raises(WriteError, match="No space left"):
        output.write(result_line(4))
    output.close()
    assert (path.read_bytes(), output.lines_written) == (before, 0)

    for disk, left in ((Room(), 0), (Stuck(), 10)):
        path.write_bytes(before)
        output = opened(path, disk)
        with pytest.raises(WriteError, match="No space left"):
            output.write(result_line(4) + result_line(5))

        assert output.lines_written == 1
        output.close()
        assert path.read_bytes() == before + result_line(4) + result_line(5)[:left]
        open_output(path).close()
        assert path.read_bytes() == before + result_line(4)


def test_a_disk_that_fails_while_cut_answers_are_sought_ends_the_run(path: Path) -> None:
    """The file is named; nothing of it is changed."""
    before = path.read_bytes()
    output = opened(path, failing(pread=errno.EIO))

    with pytest.raises(WriteError, match=r"^o: .*Input/output error") as caught:
        output.find_cut_answers(lambda line: True, None)

    assert (caught.value.exit_code, path.read_bytes()) == (74, before)
    output.close()
