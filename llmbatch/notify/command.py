"""Runs a user's command through the shell, in a process group of its own, within a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

__all__ = ["TIME_LIMIT_S", "Ran", "run_shell"]

TIME_LIMIT_S = 30.0

_LINGER_S = 0.5
"""Seconds to wait for the rest of the output once the shell has ended: what it has started may keep the pipe open."""

_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended: its exit code, None if it was killed at the time limit; and the start of its output."""

    exit_code: int | None
    output: str


class _Talk(asyncio.SubprocessProtocol):
    """What a command prints, and when its shell and its output end, which need not be at the same time."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.kept = bytearray()
        self.has_ended: asyncio.Future[None] = loop.create_future()
        self.is_silent: asyncio.Future[None] = loop.create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.kept += data[: max(0, _MOST_BYTES - len(self.kept))]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1 and not self.is_silent.done():
            self.is_silent.set_result(None)

    def process_exited(self) -> None:
        if not self.has_ended.done():
            self.has_ended.set_result(None)


async def run_shell(words: str, given: bytes, environ: Mapping[str, str], *, limit: float = TIME_LIMIT_S) -> Ran:
    """Run *words* by the shell, with *given* on its standard input; after *limit* seconds its group is killed.

    A cancellation kills it too. It has no terminal. Of what it prints on both streams 64 KB are kept.

    Raises:
        OSError: no process could be started.
    """
    talk = _Talk()
    starting = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_shell(
            lambda: talk,
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            start_new_session=sys.platform != "win32",
        )
    )
    try:
        transport, _ = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # Canceled while it starts, asyncio would kill the shell alone, and wait for all that it has started.
        transport, _ = await starting
        _kill(transport)
        transport.close()
        raise
    exit_code: int | None = None
    try:
        stdin = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
        with contextlib.suppress(RuntimeError, OSError):  # it has ended, and has read nothing
            stdin.write(given)
            stdin.close()  # once all is written
        await asyncio.wait([talk.has_ended], timeout=limit)
        if talk.has_ended.done():
            exit_code = transport.get_returncode()
            await asyncio.wait([talk.is_silent], timeout=_LINGER_S)
    finally:
        if not talk.has_ended.done():
            _kill(transport)
            await asyncio.wait([talk.has_ended])
        transport.close()
    return Ran(exit_code, talk.kept.decode(errors="replace"))


def _kill(transport: asyncio.SubprocessTransport) -> None:
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            transport.kill()
        else:
            os.killpg(transport.get_pid(), signal.SIGKILL)
