"""The output file: opening, locking, repairing, appending."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from example_lines import input_line, result_line

from llmbatch.core.errors import OutputError, WriteError
from llmbatch.outputs.file import Output
from llmbatch.outputs.open import open_output
from llmbatch.outputs.scan import scan
from llmbatch.outputs.stream import StreamOutput, open_stream_output
from llmbatch.storage.filesystem import Filesystem
from llmbatch.storage.finished_rows import FinishedRows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def write_lines(path: Path, *lines: bytes) -> list[bytes]:
    path.write_bytes(b"".join(lines))
    return list(lines)


def open_and_close(path: Path | str, **options: object) -> FinishedRows:
    output = open_output(path, **options)  # type: ignore[arg-type]
    output.close()
    return output.finished


def done_rows(finished: FinishedRows, up_to: int = 30) -> list[int]:
    return [row for row in range(1, up_to) if finished.is_done(row)]


def python(code: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


# Opening


def test_a_new_output_is_private_and_empty(path: Path) -> None:
    """Results may be confidential: only their owner reads them."""
    output = open_output(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (len(output.finished), output.is_resumable) == (0, True)
    assert repr(output) == f"<Output {path} open, 0 lines>"
    output.close()


def test_opening_reads_back_which_rows_are_finished(path: Path) -> None:
    """By row, hash and status, in whatever order they stand."""
    write_lines(path, result_line(17), result_line(3, status="failed"), result_line(5))

    finished = open_and_close(path)

    assert (finished.success, finished.failed, finished.last, done_rows(finished)) == (2, 1, 17, [3, 5, 17])
    assert finished.matches(17, json.loads(result_line(17))["hash"])
    assert not finished.matches(17, json.loads(result_line(18))["hash"])


def test_appending_goes_on_after_what_is_there(path: Path) -> None:
    """Nothing that was there moves, and the mode stays."""
    first = write_lines(path, result_line(1))
    path.chmod(0o644)

    output = open_output(path)
    output.write(result_line(2) + result_line(3))
    output.sync()
    output.close()
    output.close()

    assert path.read_bytes() == first[0] + result_line(2) + result_line(3)
    assert output.lines_written == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_only_a_new_file_without_lines_is_removed(path: Path) -> None:
    """A run that is refused before its first line leaves nothing behind; lines, and files of the user's, stay."""
    for written, stays in ((b"", False), (result_line(1), True), (b"", True)):
        output = open_output(path)
        if written:
            output.write(written)
        output.remove_if_new()
        output.close()
        assert path.exists() is stays


def test_overwrite_starts_afresh_whatever_was_there(path: Path) -> None:
    """Also over a file that is not ours."""
    path.write_bytes(b"my notes\n")

    finished = open_and_close(path, overwrite=True)

    assert len(finished) == 0
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "text",
    [
        b"my notes\n",
        b"my notes",
        b"\n",
        b"SQLite format 3\0\0\0\0",
        b"\x89PNG\r\n\x1a\n\0\0\0",
        b"\0\0\0\x18ftypmp42",
        b"\0\0\0\x18ftypmp42\n",
        input_line(1) + b"\n",
        b'{"id":"r1","status":"deferred","retry_after":1.0,"reason":"x"}\n',
        b'{"row":0,"hash":"0123456789abcdef","status":"success"}\n',
        b'{"row":1,"hash":"0123456789abcdef","status":"deferred"}\n',
        b'{"row":1000000000000,"hash":"0123456789abcdef","status":"success"}\n',
        b'{"row":1,"hash":"0123456789ABCDEF","status":"success"}\n',
    ],
)
def test_a_file_that_is_not_ours_is_refused_and_not_touched(path: Path, text: bytes) -> None:
    """Not a byte of it goes, though its end may look torn; the message has the line, the hint the way on."""
    path.write_bytes(text)

    with pytest.raises(OutputError, match=rf"{path}:1: ") as caught:
        open_output(path)

    assert path.read_bytes() == text
    assert "--overwrite" in caught.value.hint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"\n", "not a result line"),
        (b"note to self\n", "not a result line"),
        (result_line(3)[:-2] + b"\n", "damaged"),
        (result_line(3)[:40] + b"\n", "damaged"),
        (result_line(3)[:-1] + b"\r\n", "damaged"),
        (result_line(3)[:40] + bytes(9) + result_line(3)[49:], "damaged"),
        (bytes(50) + result_line(3)[50:], "damaged"),
        (result_line(2), "row 2 has a second line"),
    ],
)
@pytest.mark.parametrize("after", [1, 400])
def test_a_bad_line_in_the_middle_is_refused_with_its_number(
    path: Path, damage: bytes, message: str, after: int
) -> None:
    """Nothing is guessed, and nothing changes; whether it stands in the first block of the file or later."""
    before = [result_line(row, text="x" * 1000) for row in range(10, 10 + after)]
    lines = write_lines(path, result_line(1), result_line(2), *before, damage, result_line(4), result_line(5)[:-9])

    with pytest.raises(OutputError, match=rf"out.jsonl:{after + 3}: .*{message}"):
        open_output(path)

    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    "convert",
    [lambda text: text.replace(b"\n", b"\r\n"), lambda text: b"\xef\xbb\xbf" + text],
    ids=["CR LF", "byte order mark"],
)
def test_an_output_that_an_editor_has_converted_can_be_restored_as_told(
    path: Path, convert: Callable[[bytes], bytes]
) -> None:
    """All lines were paid for; starting afresh, or removing them one by one, is not what helps."""
    text = b"".join(map(result_line, (1, 2, 3)))
    path.write_bytes(convert(text))

    with pytest.raises(OutputError, match=":1: ") as caught:
        open_output(path)

    assert "--overwrite" not in caught.value.hint
    subprocess.run(["sh", "-c", caught.value.hint.partition(": ")[2]], check=True)
    assert path.read_bytes() == text


@pytest.mark.parametrize("line", [b"\n", b"note to self\n"])
def test_a_foreign_line_among_ours_can_be_removed(path: Path, line: bytes) -> None:
    """It is one line, and the others are ours."""
    write_lines(path, result_line(1), line, result_line(2))

    with pytest.raises(OutputError, match=":2: this is not a result line") as caught:
        open_output(path)

    assert caught.value.hint.startswith("remove that line, or ")


def test_a_bad_line_at_the_end_is_refused_too(path: Path) -> None:
    """A whole line that no crash makes is not ours to delete."""
    write_lines(path, result_line(1), b"note to self\n")

    with pytest.raises(OutputError, match=r":2: this is not a result line"):
        open_output(path)


# Repair


@pytest.mark.slow  # a file for each byte
def test_a_tail_torn_at_any_byte_is_repaired(path: Path) -> None:
    """Cut anywhere in the last two lines, the whole lines stay, what is torn goes, and appending makes a good file."""
    lines = [result_line(1), result_line(2, text="é" * 20), result_line(3)]
    whole = b"".join(lines)
    for end in range(len(lines[0]), len(whole) + 1):
        path.write_bytes(whole[:end])
        # A line that lacks nothing but its newline is a whole result.
        count = sum(end >= len(b"".join(lines[:number])) - 1 for number in (1, 2, 3))

        output = open_output(path)
        output.write(result_line(9))
        output.close()

        assert done_rows(output.finished) == [1, 2, 3][:count]
        assert path.read_bytes() == b"".join(lines[:count]) + result_line(9)


def test_a_tail_of_nul_bytes_is_repaired_wherever_it_starts(path: Path) -> None:
    """What a power cut leaves: the size is there and the data is not, in part of a line or over several."""
    lines = [result_line(1), result_line(2), result_line(3)]
    whole = b"".join(lines)
    for start in range(len(lines[0]), len(whole), 7):
        path.write_bytes(whole[:start] + bytes(len(whole) - start))
        count = sum(start >= len(b"".join(lines[:number])) for number in (1, 2, 3))

        finished = open_and_close(path)

        assert done_rows(finished) == [1, 2, 3][:count]
        assert path.read_bytes() == b"".join(lines[:count])


@pytest.mark.parametrize("start", [0, 10, 200])
@pytest.mark.parametrize("tail", [b"", b'{"row":', bytes(20)])
def test_a_last_line_with_nul_bytes_in_it_goes(path: Path, start: int, tail: bytes) -> None:
    """Though its end reached the disk, and the start of another."""
    last = result_line(2)
    write_lines(path, result_line(1), last[:start] + bytes(50) + last[start + 50 :], tail)

    finished = open_and_close(path)

    assert done_rows(finished) == [1]
    assert path.read_bytes() == result_line(1)


@pytest.mark.parametrize("torn", [b"{", b'{"row":1,"hash":"01', b'{"row":' + bytes(100), result_line(1)[:-2]])
def test_a_torn_first_line_is_repaired(path: Path, torn: bytes) -> None:
    """A run that was killed at its very first line leaves a file that resumes."""
    path.write_bytes(torn)

    open_and_close(path)

    assert path.read_bytes() == b""


@pytest.mark.parametrize("text", [bytes(100), bytes(1_000_000), bytes(100) + b"\n"])
def test_a_file_of_nothing_but_nul_bytes_was_cut_to_nothing(path: Path, text: bytes) -> None:
    """It may be anything, such as a disk image or what a failing disk left: it is refused, and stays as it is."""
    path.write_bytes(text)

    with pytest.raises(OutputError, match=r"out.jsonl:1: the file contains nothing but NUL bytes") as caught:
        open_output(path)

    assert "--overwrite" in caught.value.hint
    assert path.read_bytes() == text


def test_lines_longer_than_a_block_are_read_and_repaired(path: Path) -> None:
    """The length of an answer changes nothing; not of the last one, either."""
    large = [result_line(row, text="x" * 700_000) for row in (1, 2, 3)]
    for tail, count in ((b"", 3), (large[0][:-1].replace(b'"row":1', b'"row":4'), 4), (large[0][:-2], 3)):
        write_lines(path, *large, tail)

        finished = open_and_close(path)

        assert done_rows(finished) == list(range(1, count + 1))
        assert path.stat().st_size == sum(map(len, large)) + (len(large[0]) if count == 4 else 0)


def test_a_long_last_line_with_nul_bytes_goes(path: Path) -> None:
    """Also where its start lies several blocks back."""
    long = result_line(2, text="x" * 700_000)
    write_lines(path, result_line(1), long[:300_000] + bytes(4096) + long[304_096:])

    open_and_close(path)

    assert path.read_bytes() == result_line(1)


def test_scanning_changes_nothing(path: Path) -> None:
    """Whoever only wants to know (status, check) may look at a file in use."""
    write_lines(path, result_line(1), result_line(2)[:50])
    fd = os.open(path, os.O_RDONLY)

    found = scan(fd, "out")

    assert (len(found.finished), found.end_bytes, found.lacks_newline) == (1, len(result_line(1)), False)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 0
    os.close(fd)


@pytest.mark.slow
def test_a_killed_writer_leaves_a_file_that_resumes(path: Path) -> None:
    """Whole lines, each row once, and no more than was written. Slow: a process starts and is killed five times."""
    code = """
import sys
sys.path.insert(0, sys.argv[2])
from example_lines import result_line
from llmbatch.outputs.open import open_output
output = open_output(sys.argv[1])
row = output.finished.last
print(len(output.finished), flush=True)
while True:
    row += 1
    output.write(result_line(row, text="x" * (row * 7919 % 9000)))
"""
    done = 0
    for delay in (0.0, 0.003, 0.01, 0.02, 0.03):
        writer = python(code, path, Path(__file__).parent)
        assert writer.stdout is not None
        assert int(writer.stdout.readline()) == done
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()

        finished = open_and_close(path)
        rows = [json.loads(line)["row"] for line in path.read_bytes().splitlines(keepends=True)]

        assert rows == list(range(1, len(finished) + 1))
        assert len(finished) >= done
        done = len(finished)
    assert done > 0


# Locking


def test_a_second_run_on_the_same_output_is_refused_at_once(path: Path, tmp_path: Path) -> None:
    """In this process, by whatever name the file is called; and its lines are safe even from an overwrite."""
    write_lines(path, result_line(1))
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    first = open_output(path)

    for name in (path, link):
        with pytest.raises(OutputError, match=rf"{name}: is in use by another run \(pid {os.getpid()}\)") as caught:
            open_output(name, overwrite=True)
        assert caught.value.hint

    first.close()
    assert open_and_close(link).success == 1


@pytest.mark.slow
def test_a_second_process_on_the_same_output_is_refused(path: Path) -> None:
    """The message names the process that has it; its end frees the file. Slow: it starts a process."""
    holder = python(
        "import sys; from llmbatch.outputs.open import open_output\n"
        "output = open_output(sys.argv[1]); print('ready', flush=True); sys.stdin.read()",
        path,
    )
    assert holder.stdout is not None
    holder.stdout.readline()

    with pytest.raises(OutputError, match=rf"in use by another run \(pid {holder.pid}\)"):
        open_output(path)
    holder.communicate()

    open_and_close(path)


def test_a_file_that_is_replaced_between_open_and_lock_is_opened_again(path: Path) -> None:
    """Or two runs would each hold a lock, one on a file that has no name any more."""
    write_lines(path, result_line(1))

    class ReplacedOnce(Filesystem):
        replaced = False

        def lock(self, fd: int) -> None:
            if not self.replaced:
                self.replaced = True
                other = path.with_name("other")
                write_lines(other, result_line(1), result_line(2))
                other.rename(path)
            super().lock(fd)

    output = open_output(path, disk=ReplacedOnce())
    output.write(result_line(3))
    output.close()

    assert path.read_bytes() == result_line(1) + result_line(2) + result_line(3)


# What cannot be opened


def test_what_cannot_be_opened_says_why_and_what_to_try(tmp_path: Path) -> None:
    """Missing directory, a directory, no name, a name that the system refuses."""
    cases: list[tuple[str | Path, str]] = [
        (tmp_path / "no" / "out.jsonl", f"there is no directory {tmp_path / 'no'}"),
        (tmp_path, "is a directory"),
        (f"{tmp_path}/new/", "names no file"),
        ("", "names no file"),
        (tmp_path / ("x" * 300), "cannot be opened"),
    ]

    for path, message in cases:
        with pytest.raises(OutputError, match=message) as caught:
            open_output(path)
        assert caught.value.hint


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write everything")
def test_no_permission_says_so(path: Path) -> None:
    """A read-only file is not a missing one."""
    path.touch(0o400)

    with pytest.raises(OutputError, match="no permission"):
        open_output(path)


def test_the_input_is_never_the_output(path: Path, tmp_path: Path) -> None:
    """Not by another name, not even to be overwritten."""
    text = input_line(1) + b"\n"
    path.write_bytes(text)
    link = tmp_path / "link.jsonl"
    link.hardlink_to(path)

    with pytest.raises(OutputError, match="is the input itself"):
        open_output(link, input_path=path, overwrite=True)

    assert path.read_bytes() == text
    open_and_close(tmp_path / "new.jsonl", input_path=path)


# Retrying failed rows


def test_retry_failed_drops_the_failed_lines_and_nothing_else(path: Path) -> None:
    """Byte for byte; the mode stays; rows whose lines went are not finished any more."""
    write_lines(path, result_line(1), result_line(2, status="failed"), result_line(3), result_line(4, status="failed"))
    path.chmod(0o640)

    output = open_output(path, retry_failed=True)
    output.write(result_line(2))
    output.close()

    assert done_rows(output.finished) == [1, 3]
    assert path.read_bytes() == result_line(1) + result_line(3) + result_line(2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_rewritten_file_is_locked_too(path: Path) -> None:
    """The new file, not only the one that it replaced."""
    write_lines(path, result_line(1, status="failed"))
    output = open_output(path, retry_failed=True)

    with pytest.raises(OutputError, match="in use"):
        open_output(path)

    output.close()


def test_retry_failed_follows_a_link(path: Path, tmp_path: Path) -> None:
    """The link stays a link."""
    write_lines(path, result_line(1, status="failed"), result_line(2))
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)

    open_and_close(link, retry_failed=True)

    assert link.is_symlink()
    assert path.read_bytes() == result_line(2)


def test_retry_failed_leaves_a_file_without_failed_lines_as_it_is(path: Path) -> None:
    """Not even a new inode."""
    write_lines(path, result_line(1))
    inode = path.stat().st_ino

    open_and_close(path, retry_failed=True)

    assert path.stat().st_ino == inode


def test_a_rewrite_that_cannot_be_written_leaves_the_old_file(path: Path) -> None:
    """Whole, with its failed lines, and without a temporary file beside it."""
    lines = write_lines(path, result_line(1, status="failed"), result_line(2))
    in_the_way = path.with_name(f".{path.name}.llmbatch-new")
    in_the_way.mkdir()

    with pytest.raises(WriteError):
        open_output(path, retry_failed=True)

    assert path.read_bytes() == b"".join(lines)
    open_and_close(path)


# Writing


def test_has_success_looks_at_our_own_model_only(path: Path) -> None:
    """Not at the one in the provider's body, not at failed rows."""
    write_lines(
        path,
        result_line(1, model="openai/a", body='{"model":"openai/inner","attempts":1}'),
        result_line(2, model="openai/b", status="failed"),
    )
    output = open_output(path)

    found = {name: output.has_success(name) for name in ("openai/a", "openai/b", "openai/inner", "a", "m")}
    output.write(result_line(3, model="openai/b"))

    assert found == {"openai/a": True, "openai/b": False, "openai/inner": False, "a": False, "m": False}
    assert output.has_success("openai/b")
    output.close()


@pytest.mark.slow
def test_a_full_file_keeps_the_lines_that_fit_and_no_torn_one(path: Path) -> None:
    """At a file size limit, for lines one by one and many at once. Slow: it starts a process for each."""
    code = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from example_lines import result_line
from llmbatch.core.errors import WriteError
from llmbatch.outputs.open import open_output
output = open_output(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
step = int(sys.argv[3])
try:
    for row in range(1, 1000, step):
        output.write(b"".join(result_line(row + more) for more in range(step)))
except WriteError as error:
    print(output.lines_written, error.message, error.hint)
try:
    output.write(b"{}\\n")
except WriteError:
    print("stays failed")
"""
    for step in (1, 500):
        path.unlink(missing_ok=True)

        told = python(code, path, Path(__file__).parent, str(step)).communicate()[0].decode()

        lines = path.read_bytes().splitlines(keepends=True)
        assert len(lines) == int(told.split()[0]) > 10
        assert lines == [result_line(row) for row in range(1, len(lines) + 1)]
        assert path.stat().st_size > 10_000 - len(result_line(100))
        assert f"{path}: could not be written" in told
        assert "ulimit" in told
        assert "stays failed" in told
        assert open_and_close(path).success == len(lines)


def test_a_failed_sync_is_never_tried_again() -> None:
    """The kernel reports a lost page once: after that every call fails, and the reason stays."""
    reading, writing = os.pipe()
    output = Output(writing, "out.jsonl", FinishedRows())

    for call in (output.sync, output.sync, lambda: output.write(b"{}\n")):
        with pytest.raises(WriteError, match=f"could not be written .{os.strerror(errno.EINVAL)}"):
            call()

    assert not select.select([reading], [], [], 0)[0]
    os.close(reading)
    output.close()


def test_a_closed_output_takes_nothing(path: Path) -> None:
    """And says so, instead of writing to whatever has its descriptor now."""
    output = open_output(path)
    output.close()

    with pytest.raises(WriteError, match="is closed"):
        output.write(result_line(1))


# Streams


@pytest.fixture
def pipe() -> Iterator[tuple[int, StreamOutput]]:
    reading, writing = os.pipe()
    output = open_stream_output(writing, "pipe")
    yield reading, output
    output.close()
    os.close(reading)


def test_a_stream_takes_all_though_its_reader_is_slow(pipe: tuple[int, StreamOutput]) -> None:
    """A plain write blocks until the reader has made room."""
    reading, output = pipe
    data = b"".join(result_line(row) for row in range(1, 1000))
    got = bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(os.read(reading, 10_000))

    reader = threading.Thread(target=read)
    reader.start()
    output.write(data)
    output.sync()
    reader.join()

    assert got == data
    assert output.lines_written == 999
    assert not output.is_resumable


def test_a_ready_write_never_blocks(pipe: tuple[int, StreamOutput]) -> None:
    """It gives up at a full pipe, which is in blocking mode."""
    _, output = pipe
    data = memoryview(bytes(1_000_000))

    first = output.write_ready(data)
    second = output.write_ready(data)

    assert 4096 <= first < len(data)
    assert second == 0


def test_a_reader_that_has_gone_is_a_write_error() -> None:
    """With a hint, and for good."""
    reading, writing = os.pipe()
    output = open_stream_output(writing, "standard output")
    os.close(reading)

    for _ in range(2):
        with pytest.raises(WriteError, match="standard output: could not be written") as caught:
            output.write(b"{}\n")
        assert "-o" in caught.value.hint

    output.close()


def test_a_full_device_is_a_write_error() -> None:
    """No space: said as such."""
    output = open_output("/dev/full")

    with pytest.raises(WriteError, match=os.strerror(errno.ENOSPC)) as caught:
        output.write(result_line(1))

    assert "space" in caught.value.hint
    output.close()


def test_devices_and_fifos_are_streams(tmp_path: Path) -> None:
    """Opened without resume, with the same ways to append."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    for path in ("/dev/null", fifo):
        output = open_output(path, overwrite=True, retry_failed=True)
        output.write(result_line(1))
        output.sync()
        output.close()
        assert (output.is_resumable, output.lines_written, output.has_success("m")) == (False, 1, False)

    assert os.read(reading, 10_000) == result_line(1)
    os.close(reading)


def test_a_dash_is_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    """Which stays open when the output is closed."""
    output = open_output("-")

    output.write(result_line(1))
    output.close()
    os.write(1, b"still open")

    assert capfd.readouterr().out == result_line(1).decode() + "still open"


def test_rows_with_cut_answers_may_be_resent(path: Path) -> None:
    """Those of the rows that are sent, and only successes; until they are dropped the file is as it was."""
    lines = write_lines(
        path,
        result_line(3, finish_reason="length"),
        result_line(1),
        result_line(2, finish_reason="length"),
        result_line(4, status="failed", finish_reason="length"),
        result_line(9, finish_reason="length"),
    )
    output = open_output(path)

    output.find_cut_answers(lambda line: b'"finish_reason":"length"' in line, up_to=5)
    before = path.read_bytes()
    output.drop_cut_answers()
    output.close()

    assert before == b"".join(lines)
    assert path.read_bytes() == b"".join(lines[at] for at in (1, 3, 4))


def test_cut_answers_of_a_file_that_cannot_be_read_are_not_looked_for(path: Path) -> None:
    """The error names the file, and nothing is dropped."""
    [line] = write_lines(path, result_line(1, finish_reason="length"))

    class Unreadable(Filesystem):
        broken = False

        def pread(self, fd: int, size: int, offset: int) -> bytes:
            if self.broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().pread(fd, size, offset)

    disk = Unreadable()
    output = open_output(path, disk=disk)
    disk.broken = True

    with pytest.raises(WriteError, match=r"out\.jsonl"):
        output.find_cut_answers(lambda _: True, up_to=None)

    output.close()
    assert path.read_bytes() == line
