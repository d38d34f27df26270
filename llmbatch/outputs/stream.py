"""Standard output, a pipe or a device as the output: write-only, without earlier lines.

:mod:`~llmbatch.outputs.writer` decides when to write.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import shlex
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Final

from llmbatch.core.errors import OutputError
from llmbatch.outputs.file import Output
from llmbatch.storage.background_call import BackgroundCall
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, O_NOCTTY, O_NONBLOCK, Filesystem
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["StreamOutput", "ThreadedStreamOutput", "open_stream", "open_stream_output"]

_PIECE_BYTES: Final = 64 * 1024


class StreamOutput(Output, ABC):
    """Output to a stream. It has no earlier lines, written bytes cannot be removed, and a run cannot resume from it."""

    is_resumable = False

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd, name, FinishedRows())

    def has_success(self, model: str) -> bool:
        """False: a stream has no earlier lines."""
        return False

    def first_success(self) -> None:
        """None: a stream has no earlier lines."""

    def good_rows(self, most: int) -> dict[int, str]:
        """None: a stream has no earlier lines."""
        return {}

    @abstractmethod
    def write_ready(self, data: memoryview) -> int:
        """Write as much of *data* as is possible without blocking; return the number of bytes written.

        The next call gets the rest, and maybe more behind it.

        Raises:
            WriteError: the reader has gone, or an I/O error.
        """

    @abstractmethod
    def watch_ready(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        """Call *callback* in *loop* whenever the stream is writable."""

    @abstractmethod
    def unwatch_ready(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop calling the callback; idempotent."""

    def check_room(self, *, sync: bool) -> None:
        """Do nothing: what is written to a stream to test it cannot be removed."""

    def sync(self) -> None:
        """Check for an earlier failure; a stream cannot be synced."""
        self._check()


def open_stream(path: str, disk: Filesystem = FILESYSTEM) -> StreamOutput:
    """Open the pipe or device *path* for writing, without waiting for a pipe's reader.

    Raises:
        OutputError: it cannot be opened, or nobody reads the pipe.
    """
    try:
        # Without O_NONBLOCK a pipe that nobody reads waits here for a reader, for ever.
        fd = disk.open(path, os.O_WRONLY | os.O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)
        if sys.platform != "win32":
            os.set_blocking(fd, True)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(disk.stat(path).st_mode):
            hint = f"start its reader first, such as: cat {shlex.quote(path)}; or write to a file (-o)"
            raise OutputError(f"{path}: is a pipe that nobody reads", hint=hint) from error
        raise OutputError(f"{path}: cannot be opened ({error.strerror})", hint="write to a file (-o)") from error
    return open_stream_output(fd, path)


def open_stream_output(fd: int, name: str) -> StreamOutput:
    """An output on the stream *fd*, which it closes."""
    if sys.platform == "win32":
        return ThreadedStreamOutput(fd, name)
    else:  # noqa: RET505 - one branch a system, for the type checker
        return PolledStreamOutput(fd, name)


if sys.platform != "win32":

    class PolledStreamOutput(StreamOutput):
        """Writes when ``poll`` reports the stream as writable."""

        def __init__(self, fd: int, name: str) -> None:
            super().__init__(fd, name)
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)
            self._most_bytes_at_once = select.PIPE_BUF

        def write(self, data: bytes) -> None:
            """Write all of *data*, blocking as long as the reader does.

            Raises:
                WriteError: the reader has gone, or an I/O error.
            """
            written = 0
            while written < len(data):
                written += self.write_ready(memoryview(data)[written:])
                if written < len(data):
                    self._poll.poll()

        def write_ready(self, data: memoryview) -> int:
            """See :class:`StreamOutput`."""
            self._check()
            written = 0
            try:
                # A pipe that is ready takes so much at least, also one in blocking mode, which others may share.
                while written < len(data) and self._poll.poll(0):
                    piece = bytes(data[written : written + self._most_bytes_at_once])
                    count = os.write(self._fd, piece)
                    self.lines_written += piece.count(b"\n", 0, count)
                    written += count
            except BlockingIOError:
                pass
            except OSError as error:
                raise self._failed(error) from error
            return written

        def watch_ready(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
            """See :class:`StreamOutput`."""
            loop.add_writer(self._fd, callback)

        def unwatch_ready(self, loop: asyncio.AbstractEventLoop) -> None:
            """See :class:`StreamOutput`."""
            loop.remove_writer(self._fd)


class ThreadedStreamOutput(StreamOutput):
    """Writes in a thread, where the event loop cannot watch a pipe (Windows)."""

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd, name)
        self._call: BackgroundCall[int] = BackgroundCall()
        self._piece = b""

    def write(self, data: bytes) -> None:
        """Write all of *data*, blocking as long as the reader does.

        Raises:
            WriteError: the reader has gone, or an I/O error.
        """
        self._check()
        try:
            while data:
                count = os.write(self._fd, data)
                self.lines_written += data.count(b"\n", 0, count)
                data = data[count:]
        except OSError as error:
            raise self._failed(error) from error

    def write_ready(self, data: memoryview) -> int:
        """See :class:`StreamOutput`. The bytes that the thread is writing are the first ones of *data*."""
        self._check()
        written = 0
        if self._call.is_done:
            try:
                written = self._call.take()
            except OSError as error:
                raise self._failed(error) from error
            self.lines_written += self._piece.count(b"\n", 0, written)
        if not self._call.is_busy and written < len(data):
            self._piece = bytes(data[written : written + _PIECE_BYTES])
            self._call.start(partial(os.write, self._fd, self._piece))
        return written

    def watch_ready(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        """See :class:`StreamOutput`."""
        self._call.watch(loop, callback)

    def unwatch_ready(self, loop: asyncio.AbstractEventLoop) -> None:
        """See :class:`StreamOutput`."""
        self._call.unwatch()

    def close(self) -> None:
        """Close the stream; one whose reader does not read stays open until the process ends. Idempotent."""
        self._call.close()
        if not self._call.is_busy or self._call.is_done:
            super().close()
