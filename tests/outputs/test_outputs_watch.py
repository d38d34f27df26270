"""An output that somebody else deletes, renames, replaces, truncates or appends to while a run writes it."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path

import pytest
from example_lines import result_line
from failing_disk import failing

from llmbatch import BatchRunner, Summary
from llmbatch.core.errors import OutputError, WriteError
from llmbatch.outputs import watch
from llmbatch.outputs.file import Output
from llmbatch.outputs.open import open_output
from llmbatch.outputs.watch import FileChangedError
from llmbatch.outputs.writer import LineWriter
from llmbatch.storage.filesystem import Filesystem
from llmbatch.storage.finished_rows import FinishedRows

ROWS = 40
LINES = result_line(1) + result_line(2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def start(path: Path) -> Output:
    output = open_output(path)
    output.write(LINES)
    return output


def changed(output: Output) -> WriteError:
    """What the output says once it is watched, its lines saved."""
    with pytest.raises(FileChangedError) as caught:
        output.sync()
    error = output.save(caught.value)
    output.close()
    return error


def test_an_output_that_is_let_alone_is_fine(path: Path) -> None:
    """However often it is watched, also after its mode and times have changed."""
    output = start(path)
    output.sync()
    path.chmod(0o644)
    os.utime(path)
    output.write(result_line(3))

    output.watch()
    output.close()


def test_the_lines_of_a_deleted_output_are_saved_under_its_name(path: Path) -> None:
    """The name is free, so the same command goes on and pays for nothing twice."""
    output = start(path)
    path.chmod(0o640)
    path.unlink()

    error = changed(output)

    assert "was deleted while the run was writing it; its 2 lines were saved" in error.message
    assert "same command" in error.hint
    assert path.read_bytes() == LINES
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_deleted_output_without_lines_stays_away(path: Path) -> None:
    """There is nothing to save."""
    output = open_output(path)
    path.unlink()

    error = changed(output)

    assert "no lines yet" in error.message
    assert not path.exists()


def test_an_output_whose_folder_is_gone_says_that_its_lines_are(tmp_path: Path) -> None:
    """They could not be saved, and nobody should believe otherwise."""
    path = tmp_path / "sub" / "out.jsonl"
    path.parent.mkdir()
    output = start(path)
    path.unlink()
    path.parent.rmdir()

    error = changed(output)

    assert "its 2 lines could not be saved (No such file or directory)" in error.message


def test_a_renamed_output_gets_its_old_name_too(path: Path) -> None:
    """Else a second run would find nothing there, and pay for every row again."""
    output = start(path)
    kept = path.with_name("kept.jsonl")
    path.rename(kept)

    error = changed(output)

    assert f"was renamed while the run was writing it; it is {kept} now" in error.message
    assert path.samefile(kept)
    assert path.read_bytes() == LINES


def test_a_renamed_output_is_locked_by_its_old_name(path: Path) -> None:
    """While the run that writes it is not over, a second one is refused."""
    output = start(path)
    path.rename(path.with_name("kept.jsonl"))
    with pytest.raises(FileChangedError) as caught:
        output.sync()
    output.save(caught.value)

    with pytest.raises(OutputError, match="in use by another run"):
        open_output(path)
    output.close()


@pytest.mark.parametrize("taken", [False, True])
def test_a_replaced_output_is_saved_beside_it(path: Path, taken: bool) -> None:
    """As editors do it: a new file under the name. It is not touched, nor is an earlier saved one."""
    output = start(path)
    saved = path.with_name("out.recovered.jsonl")
    if taken:
        saved.write_bytes(b"earlier")
        saved = path.with_name("out.recovered-2.jsonl")
    theirs = path.with_name("theirs")
    theirs.write_bytes(b"theirs")
    theirs.replace(path)

    error = changed(output)

    assert f"was replaced by another file while the run was writing it; its 2 lines were saved to {saved}" in str(error)
    assert f"-o {saved}" in error.hint
    assert path.read_bytes() == b"theirs"
    assert saved.read_bytes() == LINES
    assert not taken or path.with_name("out.recovered.jsonl").read_bytes() == b"earlier"


def test_a_renamed_output_with_a_new_file_in_its_place_is_named(path: Path) -> None:
    """As log rotation does it: the lines are where it was renamed to."""
    output = start(path)
    kept = path.with_name("kept.jsonl")
    path.rename(kept)
    path.write_bytes(b"")

    error = changed(output)

    assert f"the lines of the run are in {kept}" in error.message
    assert path.read_bytes() == b""
    assert kept.read_bytes() == LINES


@pytest.mark.parametrize("size", [0, 10, len(LINES) - 1])
def test_a_truncated_output_is_noticed(path: Path, size: int) -> None:
    """Lines are gone that were paid for."""
    output = start(path)
    os.truncate(path, size)

    error = changed(output)

    assert f"was truncated by {len(LINES) - size} bytes" in error.message
    assert "sent again" in error.hint


def test_an_output_that_somebody_else_appends_to_is_noticed(path: Path) -> None:
    """Its lines may be torn by theirs."""
    output = start(path)
    with path.open("ab") as file:
        file.write(b"hello\n")

    error = changed(output)

    assert "was written to by another program (6 bytes)" in error.message


def test_a_link_to_the_output_is_watched_at_its_target(tmp_path: Path) -> None:
    """The file that the link names is the one that is locked and written."""
    real = tmp_path / "real.jsonl"
    link = tmp_path / "link.jsonl"
    link.symlink_to(real)
    output = start(link)
    output.sync()
    real.unlink()

    assert "was deleted" in changed(output).message
    assert real.read_bytes() == LINES


@pytest.mark.parametrize("fsync", [1, None])
async def test_lines_that_wait_are_saved_with_the_others(path: Path, fsync: float | None) -> None:
    """What was put and not written yet when the change is seen is among the saved lines, at the end too."""
    output = open_output(path)
    writer = LineWriter(output, sync_interval=fsync)
    writer.put_line(result_line(1))
    await asyncio.sleep(0)
    path.unlink()
    writer.put_line(result_line(2))

    with pytest.raises(WriteError, match="its 2 lines were saved"):
        await writer.aclose()

    assert path.read_bytes() == LINES
    output.close()


# A whole run


class Meddler:
    """An async function in place of a provider that does something to the output at its tenth call."""

    def __init__(self, path: Path, deed: str) -> None:
        self.calls = 0
        self.path = path
        self.deed = deed

    async def __call__(self, row: object) -> str:
        self.calls += 1
        if self.calls == 20:
            await asyncio.sleep(0)
            match self.deed:
                case "delete":
                    self.path.unlink()
                case "rename":
                    self.path.rename(self.path.with_name("kept.jsonl"))
                case "truncate":
                    os.truncate(self.path, 0)
                case "replace":
                    theirs = self.path.with_name("theirs")
                    theirs.write_bytes(b"theirs\n")
                    theirs.replace(self.path)
                case "append":
                    with self.path.open("ab") as file:
                        file.write(b"theirs\n")
        await asyncio.sleep(0)
        return "fine"


async def run(path: Path, function: Meddler, **options: object) -> Summary:
    prompts = path.with_name("p.jsonl")
    prompts.write_text("".join(f'{{"prompt":"{number}"}}\n' for number in range(ROWS)))

    async def call(row: object) -> str:
        return await function(row)

    return await BatchRunner(call, concurrency=4).run(prompts, path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("fsync", ["group", "off"])
@pytest.mark.parametrize("deed", ["delete", "rename", "truncate", "replace", "append"])
async def test_a_run_ended_with_0_though_its_lines_were_gone(path: Path, deed: str, fsync: str) -> None:
    """Whatever is done to the output, the run says so; deleted or renamed, its lines are there for the next one."""
    function = Meddler(path, deed)

    with pytest.raises(WriteError, match="while the run was writing it"):
        await run(path, function, fsync=fsync)

    if deed in ("delete", "rename"):
        paid = function.calls
        again = await run(path, function, fsync=fsync)
        assert (again.exit_code, again.already_done + function.calls - paid) == (0, ROWS)
        assert again.already_done == ROWS
    elif deed == "replace":
        assert path.read_bytes() == b"theirs\n"
        assert path.with_name("out.recovered.jsonl").read_bytes().count(b"\n") == ROWS


def test_a_path_that_can_no_longer_be_looked_up_changes_nothing(path: Path) -> None:
    """Its directory was closed to us; the file is still there, and is written."""
    output = Output(
        os.open(path, os.O_RDWR | os.O_CREAT), "o", FinishedRows(), failing(stat=errno.EACCES), path=str(path)
    )

    output.write(LINES)
    output.watch()

    output.close()
    assert path.read_bytes() == LINES


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"link": errno.EPERM}, "was renamed while the run was writing it; it is {moved} now"),
        ({"name_of": errno.ENOENT}, "its 2 lines were saved under the same name"),
        ({"name_of": errno.ENOENT, "sync_all": errno.EIO}, "its 2 lines could not be saved"),
    ],
)
def test_a_renamed_output_is_saved_as_far_as_the_system_lets_us(
    path: Path, monkeypatch: pytest.MonkeyPatch, fault: dict[str, int], said: str
) -> None:
    """Without hard links it keeps its new name, without a name for an open file it is copied; or the error says why."""
    output = Output(os.open(path, os.O_RDWR | os.O_CREAT), "o", FinishedRows(), failing(**fault), path=str(path))
    output.write(LINES)
    moved = path.rename(path.with_name("moved.jsonl"))

    with pytest.raises(FileChangedError) as caught:
        output.watch()
    error = output.save(caught.value)
    output.close()

    assert said.format(moved=moved) in error.message
    assert moved.read_bytes() == LINES
    assert path.exists() == ("saved under" in said)


def test_lines_are_not_saved_where_every_name_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of others is overwritten."""
    monkeypatch.setattr(watch, "_MOST_NAMES", 2)
    output = start(path)
    path.unlink()
    for taken in (path, path.with_name("out.recovered.jsonl")):
        taken.write_bytes(b"mine")

    error = changed(output)

    assert "its 2 lines could not be saved (File exists)" in error.message
    assert {file.read_bytes() for file in path.parent.iterdir()} == {b"mine"}


# Room and syncing, before anything is sent


class Full(Filesystem):
    """A disk with room for *room* bytes more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, fd: int, data: bytes | memoryview) -> int:
        size = min(len(data), self.room)
        if not size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= size
        return super().write(fd, bytes(data[:size]))

    def unlink(self, path: str) -> None:
        self.room += Path(path).stat().st_size
        super().unlink(path)


async def test_a_full_disk_let_calls_be_paid_for(path: Path) -> None:
    """The run ends before its first call, and the file is as it was."""
    calls = 0

    async def call(row: object) -> str:
        nonlocal calls
        calls += 1
        return "fine"

    prompts = path.with_name("p.jsonl")
    prompts.write_text('"one"\n"two"\n')
    path.write_bytes(b"")

    with pytest.raises(WriteError, match="No space left on device") as caught:
        await BatchRunner(call, filesystem=Full(5_000)).run(prompts, path)
    assert calls == 0
    assert path.read_bytes() == b""
    assert "free some space" in caught.value.hint

    summary = await BatchRunner(call, filesystem=Full(50_000)).run(prompts, path)
    assert (summary.exit_code, calls) == (0, 2)

    again = await BatchRunner(call, filesystem=Full(0)).run(prompts, path)
    assert (again.exit_code, again.already_done) == (0, 2)  # a finished run needs no room


def test_a_kill_while_room_is_tested_leaves_a_file_that_resumes(path: Path) -> None:
    """The file beside the output that was tested with is removed, and the output was not touched."""

    class Killed(Filesystem):
        def unlink(self, path: str) -> None:
            raise OSError(errno.EIO, "as if killed here")

    output = open_output(path, disk=Killed())
    output.write(LINES)
    with pytest.raises(WriteError):
        output.check_room(sync=True)
    output.close()
    assert path.read_bytes() == LINES
    assert len(list(path.parent.iterdir())) == 2

    again = open_output(path)
    again.check_room(sync=True)
    again.close()

    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == LINES
    assert again.finished.success == 2


class Unsyncable(Filesystem):
    """A file system without fdatasync, as some FUSE and network mounts are."""

    def sync(self, fd: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def sync_all(self, fd: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


async def test_a_file_system_that_cannot_sync_lost_every_paid_line(path: Path) -> None:
    """It is refused before anything is sent, with the way out; with ``fsync="off"`` it works, resuming too."""
    calls = 0

    async def call(row: object) -> str:
        nonlocal calls
        calls += 1
        return "fine"

    prompts = path.with_name("p.jsonl")
    prompts.write_text('"one"\n"two"\n')

    with pytest.raises(OutputError, match="cannot sync") as caught:
        await BatchRunner(call, filesystem=Unsyncable()).run(prompts, path)
    assert calls == 0
    assert "--fsync off" in caught.value.hint
    assert not path.exists(), "a refusal leaves no empty output"

    first = await BatchRunner(call, filesystem=Unsyncable()).run(prompts, path, fsync="off", limit=1)
    second = await BatchRunner(call, filesystem=Unsyncable()).run(prompts, path, fsync="off")
    assert (first.exit_code, second.exit_code, calls) == (0, 0, 2)


def test_a_sync_that_is_not_supported_takes_no_line_back(path: Path) -> None:
    """Only a sync that failed may have lost something."""
    output = open_output(path, disk=Unsyncable())
    output.write(LINES)

    with pytest.raises(WriteError):
        output.sync()
    output.cut_unsynced()
    output.close()

    assert path.read_bytes() == LINES
