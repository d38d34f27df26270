"""Outputs to pipes: one that the event loop watches, and one that a thread writes to."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Iterator

import pytest

from llmbatch.core.errors import PipeClosedError, WriteError
from llmbatch.core.rows import Result, encode_line
from llmbatch.outputs.stream import ThreadedStreamOutput, open_stream_output
from llmbatch.outputs.writer import LineWriter

Pair = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pair]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def fill(fd: int) -> None:
    """Write to the pipe until it is full."""
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(fd, True)


def test_a_stream_knows_no_earlier_rows(pipe: Pair) -> None:
    """Nothing can be resumed, tested or synced."""
    output = open_stream_output(pipe[1], "pipe")

    assert (output.is_resumable, output.has_success("m"), output.good_rows(9)) == (False, False, {})
    output.check_room(sync=True)
    output.sync()
    output.close()
    with pytest.raises(WriteError, match="is closed"):
        output.sync()


def test_a_pipe_that_another_writer_fills_at_the_last_moment_is_full(
    pipe: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was ready, and takes nothing: no error, and nothing is counted."""
    output = open_stream_output(pipe[1], "pipe")

    def full(fd: int, data: bytes) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert output.write_ready(memoryview(b"one\n")) == 0

    assert output.lines_written == 0
    assert output.write_ready(memoryview(b"one\n")) == 4
    assert output.lines_written == 1
    output.close()


@pytest.mark.skipif(sys.platform == "win32", reason="a thread writes there, and os.write waits")
def test_a_write_waits_for_a_reader_that_is_late(pipe: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the pipe holds is written whole: what does not fit waits until the reader has made room."""
    from llmbatch.outputs.stream import PolledStreamOutput

    output = open_stream_output(pipe[1], "pipe")
    fill(pipe[1])
    write_ready, waits = PolledStreamOutput.write_ready, []

    def read_after_a_refusal(self: PolledStreamOutput, data: memoryview) -> int:
        written = write_ready(self, data)
        if not written:
            waits.append(os.read(pipe[0], 1 << 20))
        return written

    with monkeypatch.context() as patch:
        patch.setattr(PolledStreamOutput, "write_ready", read_after_a_refusal)
        output.write(b"one\n")

    assert len(waits) == 1
    assert os.read(pipe[0], 99) == b"one\n"
    output.close()


def test_a_thread_need_not_be_used_to_write_at_once(pipe: Pair) -> None:
    """Lines are counted; a reader that has gone is told."""
    reading, writing = os.pipe()
    output = ThreadedStreamOutput(writing, "pipe")
    output.write(b"one\ntwo\n")

    assert (os.read(reading, 99), output.lines_written) == (b"one\ntwo\n", 2)
    os.close(reading)
    with pytest.raises(PipeClosedError):
        output.write(b"three\n")
    output.close()


async def test_a_reader_that_goes_while_the_thread_writes_is_told_by_the_next_call() -> None:
    """As for any output, it stays failed."""
    reading, writing = os.pipe()
    os.close(reading)
    output = ThreadedStreamOutput(writing, "pipe")
    ready = asyncio.Event()
    output.watch_ready(asyncio.get_running_loop(), ready.set)

    assert output.write_ready(memoryview(b"one\n")) == 0
    await asyncio.wait_for(ready.wait(), 60)
    output.unwatch_ready(asyncio.get_running_loop())
    for _ in range(2):
        with pytest.raises(WriteError):
            output.write_ready(memoryview(b"one\n"))

    output.close()


async def test_what_the_thread_has_written_is_told_by_the_next_call(pipe: Pair) -> None:
    """With nothing behind it, nothing more is written; the stream then closes at once."""
    loop = asyncio.get_running_loop()
    output = ThreadedStreamOutput(pipe[1], "pipe")
    ready = asyncio.Event()
    output.watch_ready(loop, ready.set)

    first = output.write_ready(memoryview(b"one\ntwo\n"))
    again = output.write_ready(memoryview(b"one\ntwo\n"))  # while the thread has it, or has written it just now
    await asyncio.wait_for(ready.wait(), 60)
    written = again or output.write_ready(memoryview(b"one\ntwo\n"))
    output.unwatch_ready(loop)
    output.close()

    assert (first, written, output.lines_written) == (0, 8, 2)
    assert os.read(pipe[0], 99) == b"one\ntwo\n"
    assert os.read(pipe[0], 99) == b""


def test_a_stream_whose_reader_does_not_read_stays_open(pipe: Pair) -> None:
    """Closing waits for nobody: the thread still has the descriptor, and ends once the pipe has room."""
    fill(pipe[1])
    output = ThreadedStreamOutput(pipe[1], "pipe")
    output.write_ready(memoryview(b"late\n"))

    output.close()
    os.fstat(pipe[1])

    received = b""
    while not received.endswith(b"late\n"):
        received += os.read(pipe[0], 1 << 20)
    os.close(pipe[1])


async def test_a_writer_that_is_abandoned_drops_what_the_reader_has_not_read(pipe: Pair) -> None:
    """It says how many lines, once; closing waits for nobody."""
    fill(pipe[1])
    output = open_stream_output(pipe[1], "pipe")
    writer = LineWriter(output)
    assert repr(writer) == "<LineWriter pipe, 0 lines written>"
    assert not writer.abandon()
    writer.put_line(b"one\n")
    writer.flush()
    writer.put_line(b"two\n")

    assert writer.abandon()
    assert not writer.abandon()

    await asyncio.wait_for(writer.aclose(), 60)
    assert (writer.lines_refused, writer.lines_written) == (2, 0)
    output.close()


async def test_a_writer_is_congested_until_the_reader_has_caught_up(pipe: Pair) -> None:
    """And whoever waits for it goes on then."""
    output = open_stream_output(pipe[1], "pipe")
    writer = LineWriter(output)
    result = Result(1, "0" * 16, "success", '"r1"', 1, text="x" * 9_000_000)

    def read() -> bytes:
        received = bytearray()
        while not received.endswith(b"\n"):
            received += os.read(pipe[0], 1_000_000)
        return bytes(received)

    writer.put(result)
    await asyncio.sleep(0)
    was_congested = writer.congested
    received = asyncio.create_task(asyncio.to_thread(read))
    await asyncio.wait_for(writer.drained(), 60)

    assert (was_congested, writer.congested) == (True, False)
    assert await received == encode_line(result)
    await writer.aclose()
    output.close()
