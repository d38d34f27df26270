"""Opens the port of a dashboard. Loads no server, so that a dashboard at which nobody looks costs nothing."""

from __future__ import annotations

import errno
import socket

from llmbatch.core.errors import UsageError

__all__ = ["listen"]


def listen(port: int) -> socket.socket:
    """Open *port* on loopback; 0 takes any that is free.

    Raises:
        UsageError: it is in use, or may not be opened.
    """
    try:
        return socket.create_server(("127.0.0.1", port), backlog=64)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} is in use", hint="choose another port, or 0 for any that is free") from error
        raise UsageError(
            f"port {port} cannot be opened ({error.strerror or error})", hint="choose a port from 1024 to 65535, or 0"
        ) from error
