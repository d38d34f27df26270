"""Converts errors of the operating system into a :class:`~llmbatch.core.errors.TransportError`.

Messages contain at most host and port: messages of other libraries may contain URLs.
"""

from __future__ import annotations

import errno
import socket
import ssl

from llmbatch.core.errors import TransportError, TransportFault
from llmbatch.core.system_errors import errno_of, machine_fault, name_fault

__all__ = ["connect_fault", "lost_fault", "not_sent"]

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
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return TransportError("tls", f"{place} speaks no TLS", sent=False, hint=_NO_TLS_HINT)
    fault, words = _connect_words(error, place)
    return TransportError(fault, words, sent=False)


def lost_fault(error: BaseException | None, place: str, *, sent: bool, is_begun: bool = False) -> TransportError:
    """The fault of a connection that was lost during an exchange; *is_begun*: after the head of the response."""
    mine = machine_fault(error) if error is not None else None
    if error is not None and mine == "local":
        return TransportError("local", f"this machine is out of resources ({_named(error)})", sent=sent)
    if error is not None and mine == "no_network":
        return TransportError("no_network", f"the network is gone ({_named(error)})", sent=sent)
    if is_begun:
        return TransportError("truncated", f"the answer of {place} ended early", sent=sent)
    if sent:
        return TransportError("reset", f"{place} closed the connection without an answer", sent=True)
    return not_sent(place)


def not_sent(place: str) -> TransportError:
    """The fault of a connection that was lost before the request was sent."""
    return TransportError("connect", f"{place} closed the connection before the request was sent", sent=False)


def _connect_words(error: Exception, place: str) -> tuple[TransportFault, str]:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls", f"the certificate of {place} was rejected: {error.verify_message or 'it does not verify'}"
    if isinstance(error, ssl.SSLError):
        if error.reason in _TLS_MISMATCH:
            return "tls", f"no TLS with {place}: {error.reason.lower().replace('_', ' ')}"
        return "connect", f"the TLS handshake with {place} broke off"
    if isinstance(error, socket.gaierror):
        fault = name_fault(error)
        return fault, _NAME_WORDS[fault].format(place=place)
    if isinstance(error, UnicodeError):  # a name that cannot be looked up
        return "unknown_host", _NAME_WORDS["unknown_host"].format(place=place)
    mine = machine_fault(error)
    if mine == "local":
        return "local", f"this machine is out of resources ({_named(error)}), no connection to {place}"
    if mine == "no_network":
        return "no_network", f"this machine has no network ({_named(error)}), no connection to {place}"
    number = errno_of(error)
    if number == errno.ECONNREFUSED:
        return "connect", f"connection refused by {place}"
    name = f" ({errno.errorcode[number]})" if number is not None and number in errno.errorcode else ""
    return "connect", f"no connection to {place}{name}"


def _named(error: BaseException) -> str:
    number = errno_of(error)
    return errno.errorcode.get(number, f"errno {number}") if number is not None else type(error).__name__
