"""Converts errors of the operating system into a :class:`~llmbatch.core.errors.TransportError`.

Messages contain at most host and port: messages of other libraries may contain URLs.
"""

from __future__ import annotations

import errno
import socket
import ssl

from llmbatch.core.errors import TransportError, TransportFault
from llmbatch.core.system_errors import errno_of, machine_fault, name_fault

__all__ = ["STOPPED_SECONDS", "connect_fault", "lost_fault", "not_running", "not_sent"]

STOPPED_SECONDS = 1.0
"""Seconds by which a deadline is noticed late from which this process counts as having been stopped."""

# What answered a TLS greeting was not TLS, or both sides share no version: only another URL helps. Other broken
# handshakes are what load balancers do while they fall over.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})
_TLS_MISMATCH = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"})
_NO_TLS_HINT = "this port speaks no TLS: try http:// in place of https://"

_NAME_WORDS: dict[TransportFault, str] = {
    "unknown_host": "the host in {place} does not exist",
    "dns": "the name in {place} does not resolve",
    "no_network": "no name server answered for {place}",
    "local": "this machine is out of resources: it cannot look up the name in {place}",
}


def connect_fault(error: Exception, place: str) -> TransportError:
    """The fault of a connection that was not made: look-up, connect or handshake. *place* is HOST:PORT."""
    fault: TransportFault = "connect"
    hint = ""
    number = errno_of(error)
    mine = machine_fault(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = "tls"
        words = f"the certificate of {place} was rejected: {error.verify_message or 'it does not verify'}"
    elif isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        fault, words, hint = "tls", f"{place} speaks no TLS", _NO_TLS_HINT
    elif isinstance(error, ssl.SSLError) and error.reason in _TLS_MISMATCH:
        fault, words = "tls", f"no TLS with {place}: {error.reason.lower().replace('_', ' ')}"
    elif isinstance(error, ssl.SSLError):
        words = f"the TLS handshake with {place} broke off"
    elif isinstance(error, (socket.gaierror, UnicodeError)):  # the latter: a name that cannot be looked up
        fault = name_fault(error) if isinstance(error, socket.gaierror) else "unknown_host"
        words = _NAME_WORDS[fault].format(place=place)
    elif mine is not None:
        fault, words = mine, f"{_machine_words(error)}, no connection to {place}"
    elif number == errno.ECONNREFUSED:
        words = f"connection refused by {place}"
    else:
        name = f" ({errno.errorcode[number]})" if number is not None and number in errno.errorcode else ""
        words = f"no connection to {place}{name}"
    return TransportError(fault, words, sent=False, hint=hint)


def lost_fault(error: BaseException | None, place: str, *, sent: bool, is_begun: bool = False) -> TransportError:
    """The fault of a connection that was lost during an exchange; *is_begun*: after the head of the response."""
    if error is not None and (mine := machine_fault(error)) is not None:
        return TransportError(mine, _machine_words(error), sent=sent)
    if is_begun:
        return TransportError("truncated", f"the answer of {place} ended early", sent=sent)
    if sent:
        return TransportError("reset", f"{place} closed the connection without an answer", sent=True)
    return not_sent(place)


def not_sent(place: str) -> TransportError:
    """The fault of a connection that was lost before the request was sent."""
    return TransportError("connect", f"{place} closed the connection before the request was sent", sent=False)


def not_running(seconds: float, *, sent: bool) -> TransportError:
    """The fault of a call whose deadline passed while this process was stopped for *seconds*."""
    words = f"this process was stopped, or its event loop blocked, for {seconds:.1f} s"
    return TransportError("local", words, sent=sent)


def _machine_words(error: BaseException) -> str:
    fault = "has no network" if machine_fault(error) == "no_network" else "is out of resources"
    return f"this machine {fault} ({errno.errorcode.get(errno_of(error) or 0, type(error).__name__)})"
