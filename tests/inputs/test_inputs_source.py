"""Rows out of files and streams."""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from example_lines import drain, input_line
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.errors import InputError
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.decode import text_lines
from llmbatch.inputs.open import BLOCK_BYTES
from llmbatch.inputs.rows import MAX_LINE_BYTES, line_digest
from llmbatch.inputs.source import FileSource, StreamSource, open_source
from llmbatch.inputs.verify import count_rows, verify_finished
from llmbatch.storage.finished_rows import FinishedRows


def write_rows(path: Path, count: int, *, end: bytes = b"\n") -> Path:
    path.write_bytes(b"".join(input_line(number) + end for number in range(1, count + 1)))
    return path


def finished_of(*numbers: int) -> FinishedRows:
    finished = FinishedRows()
    for number in numbers:
        finished.add(number, line_digest(input_line(number)), "success")
    return finished


async def numbers(path: Path, **options: object) -> list[int]:
    source = open_source(path, **options)  # type: ignore[arg-type]
    try:
        return [row.number for row in await drain(source)]
    finally:
        source.close()


@contextmanager
def stdin_from(fd: int) -> Iterator[None]:
    saved = os.dup(0)
    os.dup2(fd, 0)
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)


# Blocks and lines


def blocks_of(text: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


@given(
    st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"\r")), max_size=12),
    st.booleans(),
    st.lists(st.integers(0, 200), max_size=30),
)
def test_block_boundaries_change_no_line(lines: list[bytes], ends: bool, cuts: list[int]) -> None:
    """However the bytes are cut into blocks, the lines are those of a naive split."""
    text = b'"first"\n' + b"\n".join(lines) + (b"\n" if ends else b"")
    naive = text.split(b"\n")
    if not naive[-1]:
        naive.pop()

    read = [line for batch in text_lines(iter(blocks_of(text, cuts)), "x") for line in batch or ()]

    assert read == naive


async def test_rows_come_in_order_with_their_physical_line_numbers(tmp_path: Path) -> None:
    """Blank lines are no rows but count as lines; the last line needs no newline; malformed lines are rows."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt":"a"}\r\n\n  \n{oops\n"b"')
    source = FileSource(path)

    rows = await drain(source)

    assert [(row.number, type(row)) for row in rows] == [(1, Row), (4, Malformed), (5, Row)]
    assert rows[0].hash == line_digest(b'{"prompt":"a"}')
    assert (source.rows_read, source.fraction, source.exhausted) == (3, 1.0, True)
    source.close()


async def test_a_file_of_many_blocks_is_read_whole(tmp_path: Path) -> None:
    """Lines of every length, some longer than a block, against a naive read."""
    rng = random.Random(5)
    texts = ["x" * rng.choice([1, 50, 600, 5000, BLOCK_BYTES - 3, 2 * BLOCK_BYTES]) for _ in range(60)]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'"{text}"\n' for text in texts))
    source = FileSource(path)
    fractions: list[float] = []

    rows = []
    while not source.exhausted:
        assert source.fraction is not None
        fractions.append(source.fraction)
        row = source.take()
        if row is not None:
            rows.append(row)

    assert [row.fields["prompt"] for row in rows if isinstance(row, Row)] == [f'"{text}"' for text in texts]
    assert fractions == sorted(fractions)
    assert 0.0 in fractions
    assert any(0.2 < fraction < 0.8 for fraction in fractions)
    source.close()


@pytest.mark.slow
async def test_a_line_above_64_mib_is_passed_over_without_being_held(tmp_path: Path) -> None:
    """It is one malformed row with the hash of the whole line. Slow: the line has 150 MiB, so that holding it shows."""
    path = tmp_path / "in.jsonl"
    line_bytes = 150 * 1024 * 1024
    with path.open("wb") as file:
        file.write(b'"a"\n')
        file.truncate(4 + line_bytes)  # a hole, which reads as NUL bytes
        file.seek(0, os.SEEK_END)
        file.write(b'\r\n"b"\n')
    source = FileSource(path)

    tracemalloc.start()
    rows = await drain(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert [row.number for row in rows] == [1, 2, 3]
    assert isinstance(rows[1], Malformed)
    assert (rows[1].code, rows[1].hash) == ("input_too_long", line_digest(bytes(line_bytes)))
    assert peak < MAX_LINE_BYTES + 4 * BLOCK_BYTES
    source.close()


async def test_limit_counts_malformed_rows_but_not_blank_lines(tmp_path: Path) -> None:
    """Only the first so many rows."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'"a"\n\n{oops\n\n"c"\n"d"\n')

    assert await numbers(path, limit=3) == [1, 3, 5]
    assert await numbers(path, limit=0) == []
    assert await numbers(path, limit=99) == [1, 3, 5, 6]


async def test_the_limit_is_known_to_be_reached_with_its_last_row(tmp_path: Path) -> None:
    """No further call is needed to learn that nothing will come."""
    source = FileSource(write_rows(tmp_path / "in.jsonl", 5), limit=2)

    source.take()
    before = source.exhausted
    source.take()

    assert (before, source.exhausted) == (False, True)
    assert source.take() is None
    source.close()


async def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    """It is exhausted at the first look."""
    (tmp_path / "in.jsonl").touch()

    assert await numbers(tmp_path / "in.jsonl") == []


# Finished rows


@pytest.mark.parametrize("verified", [False, True])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_finished_rows_are_passed_over(tmp_path: Path, verified: bool, pack: Callable[[bytes], bytes]) -> None:
    """Whether they lead, lie scattered or fill blocks, only the others come, and all are counted."""
    count = 2 * BLOCK_BYTES // len(input_line(1))
    path = write_rows(tmp_path / "in.jsonl", count)
    path.write_bytes(pack(path.read_bytes()))
    missing = {count // 2, count // 2 + 7, count - 1}
    finished = finished_of(*(set(range(1, count)) - missing))
    if verified:
        verify_finished(path, finished)
    source = FileSource(path, finished=finished)

    rows = await drain(source)

    assert [row.number for row in rows] == [*sorted(missing), count]
    assert rows[0].hash == line_digest(input_line(count // 2))
    assert source.rows_read == count
    assert await numbers(path, finished=finished, limit=count // 2) == [count // 2]
    source.close()


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf%s\n%s\n%s\n", b"%s\r\n%s\r\n%s\r\n", b"%s\n%s\n%s"])
async def test_reading_starts_exactly_after_the_leading_finished_rows(tmp_path: Path, text: bytes) -> None:
    """A byte order mark, carriage returns or a missing last newline shift nothing."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(text % (input_line(1), input_line(2), input_line(3)) + b'\n"new"\n')
    finished = finished_of(1, 2, 3)
    verify_finished(path, finished)
    path_numbers = await numbers(path, finished=finished)

    only_new = path_numbers[0]

    assert only_new == len(path.read_bytes().rstrip(b"\n").split(b"\n"))
    assert len(path_numbers) == 1


async def test_a_file_that_changed_after_it_was_verified_is_compared_again(tmp_path: Path) -> None:
    """What verification learned holds for that state of the file only."""
    path = write_rows(tmp_path / "in.jsonl", 3)
    finished = finished_of(1, 2)
    verify_finished(path, finished)
    path.write_bytes(b"changed\n" + path.read_bytes())

    with pytest.raises(InputError, match="changed"):
        await numbers(path, finished=finished)


@pytest.mark.parametrize("changed", [b'{"id":"r3","prompt":"other"}', b"", b"  ", b"{oops"])
async def test_a_changed_finished_row_is_refused_with_its_line(tmp_path: Path, changed: bytes) -> None:
    """By the check up front and by reading alike; the hint says how to go on."""
    path = tmp_path / "in.jsonl"
    lines = [input_line(number) for number in range(1, 6)]
    lines[2] = changed
    path.write_bytes(b"\n".join(lines))

    with pytest.raises(InputError) as up_front:
        verify_finished(path, finished_of(1, 3))
    with pytest.raises(InputError) as while_reading:
        await numbers(path, finished=finished_of(1, 3))

    for error in (up_front.value, while_reading.value):
        assert error.message == f"{path}:3: this row has changed since its result was written"
        assert error.line == 3
        assert "-o" in error.hint


def test_rows_after_the_last_finished_one_are_not_looked_at(tmp_path: Path) -> None:
    """Appended rows are simply new, whatever they are."""
    path = write_rows(tmp_path / "in.jsonl", 2)
    finished = finished_of(1, 2)
    with path.open("ab") as file:
        file.write(b'{"prompt":"new"}\n\xff\n')

    verify_finished(path, finished)

    assert finished.verified is not None


def test_a_shortened_input_is_refused(tmp_path: Path) -> None:
    """The output has results for rows that are not there any more."""
    path = write_rows(tmp_path / "in.jsonl", 2)

    with pytest.raises(InputError, match=r"has 2 lines, but the output has a result for line 4"):
        verify_finished(path, finished_of(1, 4))


# Archives


@pytest.mark.parametrize(
    "pack",
    [
        gzip.compress,
        zstandard.compress,
        lambda text: gzip.compress(text[:100]) + b"\0" * 600 + gzip.compress(text[100:]),
        lambda text: zstandard.compress(text[:100]) + zstandard.compress(text[100:]),
        lambda text: b"\x50\x2a\x4d\x18\x02\0\0\0hi" + zstandard.compress(text),
    ],
    ids=["gzip", "zstd", "gzip members", "zstd frames", "zstd skippable frame"],
)
async def test_archives_are_recognised_whatever_their_name(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """By their first bytes; several members or frames are one text; the mark at its start is forgiven."""
    count = 3 * BLOCK_BYTES // 30
    path = write_rows(tmp_path / "in.jsonl", count)
    path.write_bytes(pack(b"\xef\xbb\xbf" + path.read_bytes()))

    assert await numbers(path) == list(range(1, count + 1))
    assert count_rows(path) is None


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress])
@pytest.mark.parametrize("harm", ["cut", "flip", "tail"])
async def test_a_harmed_archive_is_an_error_and_not_a_short_input(
    tmp_path: Path, pack: Callable[[bytes], bytes], harm: str
) -> None:
    """Truncated, damaged or followed by something else: the error names the file and says what to try."""
    rng = random.Random(1)
    text = b"".join(b'"%s"\n' % rng.randbytes(20).hex().encode() for _ in range(500))
    packed = bytearray(pack(text))
    if harm == "cut":
        del packed[-1]
    elif harm == "flip":
        packed[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    else:
        packed += b"garbage"
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(packed)
    source = FileSource(path)

    with pytest.raises(InputError, match=r"in\.jsonl\.gz: ") as caught:
        await drain(source)

    assert "again" in caught.value.hint
    assert source.exhausted
    source.close()


async def test_every_truncation_of_an_archive_is_an_error(tmp_path: Path) -> None:
    """At whatever byte it ends, from the first that tells it is an archive."""
    path = tmp_path / "in.gz"
    for packed, least in ((gzip.compress(b'"a"\n' * 9), 2), (zstandard.compress(b'"a"\n' * 9), 4)):
        for end in range(least, len(packed)):
            path.write_bytes(packed[:end])

            with pytest.raises(InputError, match="ends early"):
                await numbers(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
async def test_utf_16_is_refused_with_the_way_to_convert_it(tmp_path: Path, encoding: str) -> None:
    """It would otherwise be a malformed row a line."""
    path = tmp_path / "in.jsonl"
    path.write_bytes('\ufeff"a"\n'.encode(encoding))

    with pytest.raises(InputError, match="UTF-16") as caught:
        await numbers(path)

    assert "iconv" in caught.value.hint


# What cannot be opened


def test_what_cannot_be_opened_says_why_and_what_to_try(tmp_path: Path) -> None:
    """Missing, a directory, an empty path, a path with a NUL byte."""
    cases: list[tuple[str | Path, str]] = [
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path, "is a directory"),
        ("", "path is empty"),
        ("a\0b", "cannot be opened"),
        (tmp_path / ("x" * 300), "cannot be opened"),
    ]

    for path, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            open_source(path)
        assert caught.value.hint


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read everything")
def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    """No permission is not a missing file."""
    path = write_rows(tmp_path / "in.jsonl", 1)
    path.chmod(0)

    with pytest.raises(InputError, match="no permission"):
        open_source(path)


# Streams


async def test_a_slow_pipe_is_read_as_it_comes_without_blocking_or_threads(tmp_path: Path) -> None:
    """Rows come while the writer still writes, the event loop goes on, and no thread is started."""
    fifo = tmp_path / "rows"
    os.mkfifo(fifo)
    source = open_source(fifo)
    threads = set(threading.enumerate())
    before_any_writer = source.take()
    writer = os.open(fifo, os.O_WRONLY)
    turns = 0

    async def write_slowly() -> None:
        for piece in (b'"a', b'"\n"b"\n"', b"c\xc3", b'\xa9"'):
            os.write(writer, piece)
            await asyncio.sleep(0.01)
        os.close(writer)

    async def count_turns() -> None:
        nonlocal turns
        while not source.exhausted:
            turns += 1
            await asyncio.sleep(0.001)

    _, _, rows = await asyncio.gather(write_slowly(), count_turns(), drain(source))

    assert isinstance(source, StreamSource)
    assert before_any_writer is None
    assert [row.fields["prompt"] for row in rows if isinstance(row, Row)] == ['"a"', '"b"', '"cé"']
    assert turns > 4
    assert set(threading.enumerate()) <= threads
    assert source.fraction is None
    source.close()


async def test_a_cancelled_wait_leaves_the_stream_as_it_was(tmp_path: Path) -> None:
    """No row is lost, and nothing goes on watching the descriptor."""
    fifo = tmp_path / "rows"
    os.mkfifo(fifo)
    source = open_source(fifo)
    writer = os.open(fifo, os.O_WRONLY)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(source.wait(), 0.01)
    os.write(writer, b'"a"\n')
    os.close(writer)

    assert [row.number for row in await drain(source)] == [1]
    assert source._file.fd is not None
    assert not asyncio.get_running_loop().remove_reader(source._file.fd)
    source.close()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
async def test_standard_input_as_a_pipe(pack: Callable[[bytes], bytes]) -> None:
    """A dash is standard input; archives are recognised there too, however the bytes arrive."""
    reading, writing = os.pipe()
    with stdin_from(reading):
        source = open_source("-")
    os.close(reading)

    async def write() -> None:
        for byte in pack(b'"a"\n"b"\n'):
            os.write(writing, bytes([byte]))
            await asyncio.sleep(0)
        os.close(writing)

    _, rows = await asyncio.gather(write(), drain(source))

    assert isinstance(source, StreamSource)
    assert [row.number for row in rows] == [1, 2]
    source.close()


async def test_standard_input_as_a_redirected_file_is_read_as_a_file(tmp_path: Path) -> None:
    """From where it stands, so that a script may have taken lines before; standard input stays open."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'header\n"a"\n"b"\n')
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, len(b"header\n"))

    with stdin_from(fd):
        source = open_source("-")
        rows = await drain(source)
        source.close()
        os.fstat(0)
    os.close(fd)

    assert isinstance(source, FileSource)
    assert [row.number for row in rows] == [1, 2]
    assert source.fraction == 1.0


async def test_a_socket_is_a_stream() -> None:
    """Anything that the kernel can wait for is."""
    here, there = socket.socketpair()
    source = StreamSource(os.dup(here.fileno()), "socket")
    with here, there:
        there.sendall(b'"a"\n"b"')
        there.shutdown(socket.SHUT_WR)

        assert [row.number for row in await drain(source)] == [1, 2]
    source.close()


async def test_the_null_device_is_an_empty_input() -> None:
    """Devices that the event loop cannot watch work too."""
    source = open_source("/dev/null")

    await source.wait()

    assert await drain(source) == []
    source.close()


async def test_a_stream_passes_over_finished_rows_and_compares_them() -> None:
    """It cannot be read twice, so the comparison happens while reading."""
    for third, expected in ((input_line(3), [2]), (b'"other"', None)):
        reading, writing = os.pipe()
        os.write(writing, b"\n".join([input_line(1), input_line(2), third, b""]))
        os.close(writing)
        source = StreamSource(reading, "standard input", finished=finished_of(1, 3))

        if expected is None:
            with pytest.raises(InputError, match="standard input:3: this row has changed"):
                await drain(source)
        else:
            assert [row.number for row in await drain(source)] == expected
        source.close()


def test_closing_twice_is_one_closing(tmp_path: Path) -> None:
    """And a closed source is exhausted."""
    source = FileSource(write_rows(tmp_path / "in.jsonl", 2))

    source.close()
    source.close()

    assert source.exhausted
    assert source.take() is None


# Counting


def test_count_rows_counts_lines_that_are_not_blank(tmp_path: Path) -> None:
    """The last one without its newline too; None for what is not a plain file."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'"a"\n\n \r\n{oops\n"c"')

    assert count_rows(path) == 3
    assert count_rows(tmp_path / "none") is None
    assert count_rows("/dev/null") is None
    assert count_rows("-") is None
    assert count_rows("a\0b") is None


def test_count_rows_leaves_large_files_alone(tmp_path: Path) -> None:
    """From 256 MiB on it would take too long."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(256 * 1024 * 1024)

    assert count_rows(path) is None


def test_a_source_has_the_name_of_its_input(tmp_path: Path) -> None:
    """By which a run calls it in its messages."""
    path = write_rows(tmp_path / "in.jsonl", 1)
    reading, writing = os.pipe()
    os.close(writing)
    file, stream = FileSource(path), StreamSource(reading, "standard input")

    assert (file.name, stream.name) == (str(path), "standard input")
    file.close()
    stream.close()
