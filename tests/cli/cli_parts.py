"""What the fixtures of the command's tests give: a runner of commands, a server that nobody should call."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable

Run = Callable[..., subprocess.CompletedProcess[str]]
"""``llmbatch(*arguments, stdin=…, **variables)``."""
TwoLines = Callable[[str], tuple[str, str]]
"""Standard error to its error and its hint."""


class Silence:
    """A listening socket that nobody should connect to."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def was_broken(self) -> bool:
        """Whether anybody connected."""
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
