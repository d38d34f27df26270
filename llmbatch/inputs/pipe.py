"""Reads a pipe, a socket or a device without blocking the event loop.

The descriptor's blocking mode is not changed: other processes share it.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
from functools import partial
from typing import Protocol

from llmbatch.inputs.open import BLOCK_BYTES, read_block, unreadable
from llmbatch.storage.background_call import BackgroundCall

__all__ = ["Pipe", "ThreadedPipe", "open_pipe"]


class Pipe(Protocol):
    """Reader of a stream, block by block."""

    def read(self) -> bytes | None:
        """The next block, empty at the end; None if no data is available yet.

        Raises:
            InputError: it cannot be read.
        """
        ...

    async def wait(self) -> None:
        """Return when :meth:`read` has data, or the end, to return."""
        ...

    def close(self) -> None:
        """Release the reader's resources, but not the descriptor; idempotent."""
        ...


def open_pipe(fd: int, name: str) -> Pipe:
    """A reader of *fd*, which stays the caller's. *name* is for messages."""
    if sys.platform == "win32":
        return ThreadedPipe(fd, name)
    else:  # noqa: RET505 - one branch a system, for the type checker
        return PolledPipe(fd, name)


if sys.platform != "win32":

    class PolledPipe:
        """Reads when ``poll`` reports data; starts no thread."""

        def __init__(self, fd: int, name: str) -> None:
            self._fd = fd
            self._name = name
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)

        def read(self) -> bytes | None:
            """See :class:`Pipe`."""
            if not self._poll.poll(0):
                return None
            try:
                return read_block(self._fd, self._name)
            except BlockingIOError:
                return None

        async def wait(self) -> None:
            """See :class:`Pipe`."""
            # Devices that epoll refuses (/dev/null) are always ready for poll, so they never get past this line.
            if self._poll.poll(0):
                await asyncio.sleep(0)
                return
            loop = asyncio.get_running_loop()
            ready = asyncio.Event()
            loop.add_reader(self._fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(self._fd)

        def close(self) -> None:
            """Do nothing: it holds no resources."""


class ThreadedPipe:
    """Reads in a thread, one block ahead, where the event loop cannot watch a pipe (Windows)."""

    def __init__(self, fd: int, name: str) -> None:
        self._name = name
        # A duplicate: on Windows, closing a descriptor waits for a read in progress.
        self._fd = os.dup(fd)
        self._call: BackgroundCall[bytes] = BackgroundCall()
        self._is_closed = False

    def read(self) -> bytes | None:
        """See :class:`Pipe`."""
        if not self._call.is_busy:
            self._start()
        if not self._call.is_done:
            return None
        try:
            block = self._call.take()
        except OSError as error:
            raise unreadable(self._name, error) from error
        if block:
            self._start()
        return block

    async def wait(self) -> None:
        """See :class:`Pipe`."""
        if not self._call.is_busy:
            self._start()
        ready = asyncio.Event()
        self._call.watch(asyncio.get_running_loop(), ready.set)
        try:
            await ready.wait()
        finally:
            self._call.unwatch()

    def close(self) -> None:
        """End the thread once its read has returned; idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._call.close()
            if not self._call.is_busy or self._call.is_done:
                os.close(self._fd)

    def _start(self) -> None:
        self._call.start(partial(os.read, self._fd, BLOCK_BYTES))
