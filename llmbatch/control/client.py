"""The end of the control socket that a command holds: it sends one command to the run of an output, and waits."""

from __future__ import annotations

import contextlib
from pathlib import Path

from llmbatch.control.protocol import MOST_BYTES, Answer, Command, read_answer, write_command
from llmbatch.control.unix_socket import connect

__all__ = ["ask"]

ANSWER_SECONDS = 10.0
"""Time that the run has to answer; one whose process is stopped (Ctrl-Z) never does."""


def ask(path: Path, command: Command, *, timeout: float = ANSWER_SECONDS) -> Answer | None:
    """Send *command* to the run that listens at *path*; None if there is none.

    Raises:
        TimeoutError: the run does not answer within *timeout* seconds.
        PermissionError: it is another user's.
    """
    try:
        connection = connect(path, timeout)
    except (PermissionError, TimeoutError):
        raise
    except OSError:
        return None
    with connection:
        line = bytearray()
        with contextlib.suppress(ConnectionError):
            connection.sendall(write_command(command))
            while not line.endswith(b"\n") and len(line) < MOST_BYTES:
                data = connection.recv(4096)
                if not data:
                    break
                line += data
    return read_answer(bytes(line))
