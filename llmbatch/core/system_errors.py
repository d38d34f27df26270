"""Classify errors of the operating system: is this machine at fault?

Used for errors of the HTTP client (:mod:`llmbatch.http.connect_errors`) and for exceptions that a function raises
(:mod:`llmbatch.classify.exceptions`). What a fault means for a row or a route is decided in
:mod:`llmbatch.classify.classify`.
"""

from __future__ import annotations

import errno
import re
import socket
from typing import Literal

__all__ = ["NETWORK_ERRNOS", "NO_NETWORK_ERRNOS", "RESOURCE_ERRNOS", "errno_of", "machine_fault", "name_fault"]


def _known(*names: str) -> frozenset[int]:
    """Return the errno values of the *names* that exist on this system."""
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


RESOURCE_ERRNOS = _known(
    "EMFILE",  # file handles of this process
    "WSAEMFILE",  # sockets of this process, on Windows
    "ENFILE",  # file handles of this machine
    "ENOMEM",
    "EBUSY",  # what looking up a name says without file handles
    "ENOBUFS",  # socket buffers
    "ENOSR",  # the same, on System V streams
    "ENOSPC",
    "EDQUOT",
    "EADDRNOTAVAIL",  # no free port left to connect from
    "EADDRINUSE",
    "EUSERS",
    "ENOLCK",
)
"""Out of file handles, memory, ports or disk space."""

NO_NETWORK_ERRNOS = _known("ENETUNREACH", "ENETDOWN", "ENONET")
"""No network."""

NETWORK_ERRNOS = _known(
    "ECONNREFUSED",
    "ECONNRESET",
    "ECONNABORTED",
    "EPIPE",
    "ESHUTDOWN",
    "ENOTCONN",
    "ETIMEDOUT",
    "EHOSTUNREACH",
    "EHOSTDOWN",
    "ENETRESET",
    "EPROTO",
)
"""Errors of the network path or the provider, never of this machine or the row."""

_WINDOWS_ERRNOS = {
    64: errno.ECONNRESET,  # ERROR_NETNAME_DELETED
    121: errno.ETIMEDOUT,  # ERROR_SEM_TIMEOUT: a connection attempt was not answered
    1225: errno.ECONNREFUSED,
    1231: errno.ENETUNREACH,
    1232: errno.EHOSTUNREACH,
    1236: errno.ECONNABORTED,
    1450: errno.ENOBUFS,  # ERROR_NO_SYSTEM_RESOURCES
}
"""Windows error numbers that Python maps to no errno or to ``EINVAL``."""

_no_name = frozenset(getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name))
# EAI_SYSTEM hides the errno: in practice the resolver found no free file handle.
_no_means = frozenset(getattr(socket, name) for name in ("EAI_MEMORY", "EAI_SYSTEM") if hasattr(socket, name))

_errnos_in_words = re.compile(r"\[Errno (\d{1,5})\]", re.ASCII).findall


def errno_of(error: BaseException) -> int | None:
    """Return the errno of *error*; if asyncio joined the errors of several addresses into one text, one of theirs.

    That is the first that does not mean that there is no network: one address family without a network says nothing if
    the other one has it. None for name lookups: their codes (``EAI_…``) overlap with errno values on some systems.
    """
    if not isinstance(error, OSError) or isinstance(error, socket.gaierror):
        return None
    winerror = getattr(error, "winerror", None)
    if winerror in _WINDOWS_ERRNOS:
        return _WINDOWS_ERRNOS[winerror]
    if error.errno is not None:
        return error.errno
    found = map(int, _errnos_in_words(str(error))) if type(error) is OSError else ()
    return min(found, key=NO_NETWORK_ERRNOS.__contains__, default=None)


def machine_fault(error: BaseException) -> Literal["local", "no_network"] | None:
    """Return ``local`` (out of resources) or ``no_network`` if this machine is at fault; else None."""
    number = errno_of(error)
    if number in RESOURCE_ERRNOS or isinstance(error, MemoryError):
        return "local"
    if number in NO_NETWORK_ERRNOS:
        return "no_network"
    # CPython's message if the system refuses to start a thread (pthread_create fails with EAGAIN).
    if type(error) is RuntimeError and error.args == ("can't start new thread",):
        return "local"
    return None


def name_fault(error: OSError) -> Literal["unknown_host", "dns", "no_network", "local"]:
    """Classify a failed name lookup.

    ``unknown_host``: a name server says that the name does not exist. ``no_network``: no name server answered.
    ``local``: this machine is out of resources. ``dns``: any other error.
    """
    if not isinstance(error, socket.gaierror):
        return machine_fault(error) or "dns"
    if error.errno in _no_name:
        return "unknown_host"
    if error.errno == socket.EAI_AGAIN:
        return "no_network"
    return "local" if error.errno in _no_means else "dns"
