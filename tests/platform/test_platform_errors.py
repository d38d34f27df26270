"""What Windows' event loop reports, by the numbers that it gives, and pipes that are read and written by threads."""

from __future__ import annotations

import asyncio
import errno
import os
import threading

import pytest

from llmbatch.core.errors import InputError
from llmbatch.core.system_errors import errno_of, machine_fault
from llmbatch.inputs.pipe import ThreadedPipe
from llmbatch.outputs.stream import ThreadedStreamOutput


class WindowsError(OSError):
    """As Python raises it there: the errno says little, ``winerror`` all."""

    def __init__(self, winerror: int) -> None:
        super().__init__(errno.EINVAL, "a Windows error")
        self.winerror = winerror


@pytest.mark.parametrize(
    ("winerror", "number", "fault"),
    [
        (121, errno.ETIMEDOUT, None),
        (1225, errno.ECONNREFUSED, None),
        (1231, errno.ENETUNREACH, "no_network"),
        (1450, errno.ENOBUFS, "local"),
        (87, errno.EINVAL, None),
    ],
)
def test_windows_numbers_mean_what_their_errno_means(winerror: int, number: int, fault: str | None) -> None:
    """A lost network is this machine's fault there too, and a refused connection is not."""
    error = WindowsError(winerror)

    assert errno_of(error) == number
    assert machine_fault(error) == fault


async def test_a_threaded_pipe_gives_what_comes_and_its_end_without_blocking() -> None:
    """Nothing yet is None, the end is empty."""
    reading, writing = os.pipe()
    pipe = ThreadedPipe(reading, "pipe")

    before = pipe.read()
    os.write(writing, b"one\n")
    await asyncio.wait_for(pipe.wait(), 60)
    block = pipe.read()
    os.close(writing)
    await asyncio.wait_for(pipe.wait(), 60)

    assert (before, block, pipe.read()) == (None, b"one\n", b"")
    pipe.close()
    pipe.close()
    os.close(reading)


async def test_a_threaded_pipe_that_cannot_be_read_says_so() -> None:
    """The thread's error is raised where the block is asked for."""
    writing = os.open(os.devnull, os.O_WRONLY)
    pipe = ThreadedPipe(writing, "standard input")

    assert pipe.read() is None
    await asyncio.wait_for(pipe.wait(), 60)

    with pytest.raises(InputError, match="standard input: cannot be read"):
        pipe.read()
    pipe.close()
    os.close(writing)


async def test_a_threaded_stream_counts_the_lines_that_its_reader_has_taken() -> None:
    """A reader that does not read blocks the thread and nobody else; closing does not wait for it."""
    reading, writing = os.pipe()
    output = ThreadedStreamOutput(writing, "pipe")
    data = b"x" * 999 + b"\n"
    backlog = bytearray(data * 1000)
    ready = asyncio.Event()
    output.watch_ready(asyncio.get_running_loop(), ready.set)

    assert output.write_ready(memoryview(backlog)) == 0
    assert output.lines_written == 0
    received = bytearray()
    reader = threading.Thread(target=lambda: received.extend(_read_all(reading)))
    reader.start()
    while backlog:
        await asyncio.wait_for(ready.wait(), 60)
        ready.clear()
        with memoryview(backlog) as waiting:
            written = output.write_ready(waiting)
        del backlog[:written]
    output.close()
    reader.join(60)

    assert output.lines_written == 1000
    assert received == data * 1000
    os.close(reading)


@pytest.mark.skipif(not hasattr(os, "set_blocking"), reason="cannot tell when a pipe is full")
async def test_closing_a_stream_whose_reader_does_not_read_does_not_wait() -> None:
    """The thread is left with it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    output = ThreadedStreamOutput(writing, "pipe")

    assert output.write_ready(memoryview(b"one\n")) == 0
    output.close()

    assert output.lines_written == 0
    os.fstat(writing)  # what the thread writes to is not closed
    os.close(reading)  # which ends its write
    os.close(writing)


def _read_all(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, 65536), b""))
