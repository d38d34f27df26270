"""The run's end of the control socket: reads commands within the run's event loop, hands them on, and answers.

Whatever comes over the socket, the run goes on: a client has a few seconds for one line of bounded length, only so
many are heard at a time, and garbage gets a refusal. Clients of other users cannot connect, and are hung up on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

from llmbatch.control.protocol import MOST_BYTES, Answer, Command, read_command, write_answer
from llmbatch.control.unix_socket import is_owner, listen, remove
from llmbatch.core.errors import UsageError

__all__ = ["ControlServer"]

MOST_CLIENTS = 16
CLIENT_SECONDS = 5.0
"""Time that a client has, from its connection to the end of the answer."""
REST_SECONDS = 1.0
"""Pause before clients are heard again once there were no file handles left."""

_NO_HANDLES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ControlServer:
    """Listens at *path* from :meth:`start` to :meth:`aclose`; *obey* carries out a command and returns the answer.

    *obey* may raise :class:`~llmbatch.core.errors.UsageError`, which becomes a refusal. Belongs to one event loop.
    """

    def __init__(self, path: Path, obey: Callable[[Command], Answer]) -> None:
        self._path = path.absolute()
        self._obey = obey
        self._listener: socket.socket | None = None
        self._about: os.stat_result | None = None
        self._clients: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ControlServer {self._path}, {len(self._clients)} clients>"

    def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: as :func:`~llmbatch.control.unix_socket.listen`.
        """
        self._listener, self._about = listen(self._path)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Listen no more, and hang up; the socket's name is gone afterwards. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        asyncio.get_running_loop().remove_reader(listener.fileno())
        if self._about is not None:
            remove(self._path, self._about)
        listener.close()
        for client in self._clients:
            client.cancel()

    async def aclose(self) -> None:
        """As :meth:`close`, and wait until every client is gone."""
        self.close()
        if self._clients:
            await asyncio.wait(self._clients)

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _NO_HANDLES:  # it would be tried again at once, and again
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener.fileno())
                loop.call_later(REST_SECONDS, self._go_on)
            return
        if len(self._clients) >= MOST_CLIENTS or not _is_ours(connection):
            connection.close()
            return
        connection.setblocking(False)
        client = asyncio.get_running_loop().create_task(self._serve(connection), name="llmbatch control")
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    def _go_on(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(OSError):
                async with asyncio.timeout(CLIENT_SECONDS):
                    line = await _read_line(connection)
                    if line:
                        await loop.sock_sendall(connection, write_answer(self._answer(line)))
        finally:
            connection.close()

    def _answer(self, line: bytes) -> Answer:
        command = read_command(line)
        if isinstance(command, Answer):
            return command
        try:
            return self._obey(command)
        except UsageError as error:
            return Answer(False, error.message, error.hint)


def _is_ours(connection: socket.socket) -> bool:
    try:
        return is_owner(connection)
    except OSError:
        return False


async def _read_line(connection: socket.socket) -> bytes:
    """One line, or what there is of it once the client has sent its last byte or too many."""
    loop = asyncio.get_running_loop()
    line = bytearray()
    while b"\n" not in line and len(line) <= MOST_BYTES:
        data = await loop.sock_recv(connection, 4096)
        if not data:
            break
        line += data
    return bytes(line)
