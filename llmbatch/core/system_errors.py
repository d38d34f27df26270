"""Classifies errors of the operating system: which are faults of this machine.

Used for errors of the HTTP client (:mod:`llmbatch.http.connect_errors`) and for exceptions that a function raises
(:mod:`llmbatch.classify.exceptions`). What the fault means for a row or a route is decided in
:mod:`llmbatch.classify.classify`.
"""

from __future__ import annotations

import errno
import re
import socket
from typing import Literal

__all__ = ["NETWORK_ERRNOS", "NO_NETWORK_ERRNOS", "RESOURCE_ERRNOS", "errno_of", "machine_fault", "name_fault"]


def _known(*names: str) -> frozenset[int]:
    """The errno values of *names* that exist on this system."""
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


RESOURCE_ERRNOS = _known(
    "EMFILE",  # file handles of this process
    "WSAEMFILE",  # sockets of this process, on Windows
    "ENFILE",  # file handles of this machine
    "ENOMEM",
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
    121: errno.ETIMEDOUT,  # ERROR_SEM_TIMEOUT: nobody answered a connection attempt
    1225: errno.ECONNREFUSED,
    1231: errno.ENETUNREACH,
    1232: errno.EHOSTUNREACH,
    1236: errno.ECONNABORTED,
    1450: errno.ENOBUFS,  # ERROR_NO_SYSTEM_RESOURCES
}
"""What Windows' own event loop reports by numbers that Python gives no errno, or ``EINVAL``."""

_no_name = frozenset(getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name))
# "System error" hides the errno: in practice the resolver found no free file handle.
_no_means = frozenset(getattr(socket, name) for name in ("EAI_MEMORY", "EAI_SYSTEM") if hasattr(socket, name))

_errnos_in_words = re.compile(r"\[Errno (\d{1,5})\]", re.ASCII).findall


def errno_of(error: BaseException) -> int | None:
    """The errno of *error*, also if it joins the errors of several addresses in one text, as asyncio does.

    Then the first in that text that is not about a missing network: that one address family has none says nothing if
    the other one has. None for name lookups, whose codes (``EAI_…``) overlap with errno values on some systems.
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
    """Whether *error* is this machine's fault: out of resources, or without a network."""
    number = errno_of(error)
    if number in RESOURCE_ERRNOS or isinstance(error, MemoryError):
        return "local"
    if number in NO_NETWORK_ERRNOS:
        return "no_network"
    # CPython's message if the system refuses a thread (pthread_create fails with EAGAIN).
    if type(error) is RuntimeError and error.args == ("can't start new thread",):
        return "local"
    return None


def name_fault(error: OSError) -> Literal["unknown_host", "dns", "no_network", "local"]:
    """Classify a failed name lookup.

    ``unknown_host``: a name server says that there is no such name. ``no_network``: none answered. ``dns``: any other
    error of the lookup.
    """
    if not isinstance(error, socket.gaierror):
        return machine_fault(error) or "dns"
    if error.errno in _no_name:
        return "unknown_host"
    if error.errno == socket.EAI_AGAIN:
        return "no_network"
    return "local" if error.errno in _no_means else "dns"
