"""What went wrong under HTTP: the client's and the system's exceptions as transport faults.

The words are our own, with host and port at most: foreign messages may hold URLs. What a fault means for a row or a
route is not decided here.
"""

from __future__ import annotations

import errno
import socket
import ssl

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from llmbatch.errors import TransportError, TransportFault
from llmbatch.providers.system_errors import errno_of, machine_fault, name_fault

__all__ = ["connect_fault", "lost_fault"]

# A plain-text server answered a TLS greeting, or both sides share no version: only another URL helps. Other broken
# handshakes are what load balancers do while they fall over.
_TLS_MISMATCH = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"}
)


def connect_fault(error: aiohttp.ClientConnectorError, place: str) -> TransportError:
    """The fault of a connection that was not made; *place* is HOST:PORT."""
    cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error.os_error
    fault, words = _connect_words(error, cause, place)
    return TransportError(fault, words, sent=False)


def lost_fault(error: Exception, place: str, *, sent: bool) -> TransportError:
    """The fault of an exchange that broke off once there was a connection."""
    mine = machine_fault(error)
    if mine == "local":
        return TransportError("local", f"this machine is out of resources ({_named(error)})", sent=sent)
    if mine == "no_network":
        return TransportError("no_network", f"the network is gone ({_named(error)})", sent=sent)
    if isinstance(error, aiohttp.ClientPayloadError):
        return TransportError("truncated", f"the answer of {place} ended early", sent=sent)
    # It carries a status of 400, which nobody gave.
    if isinstance(error, HttpProcessingError):
        return TransportError("garbage", f"what {place} answered is not HTTP", sent=sent)
    if sent:
        return TransportError("reset", f"{place} closed the connection without an answer", sent=True)
    return TransportError("connect", f"{place} closed the connection before the request was sent", sent=False)


def _connect_words(error: aiohttp.ClientConnectorError, cause: BaseException, place: str) -> tuple[TransportFault, str]:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(cause, "verify_message", "") or "it does not verify"
        return "tls", f"the certificate of {place} was rejected: {reason}"
    if isinstance(cause, ssl.SSLError):
        if cause.reason in _TLS_MISMATCH:
            return "tls", f"no TLS with {place}: {cause.reason.lower().replace('_', ' ')}"
        return "connect", f"the TLS handshake with {place} broke off"
    mine = machine_fault(cause)
    if isinstance(cause, socket.gaierror) or (mine is None and isinstance(error, aiohttp.ClientConnectorDNSError)):
        fault = name_fault(cause) if isinstance(cause, OSError) else "dns"
        return fault, _NAME_WORDS[fault].format(place=place)
    if mine == "local":
        return "local", f"this machine is out of resources ({_named(cause)}), no connection to {place}"
    if mine == "no_network":
        return "no_network", f"this machine has no network ({_named(cause)}), no connection to {place}"
    number = errno_of(cause)
    if number == errno.ECONNREFUSED:
        return "connect", f"connection refused by {place}"
    name = f" ({errno.errorcode[number]})" if number is not None and number in errno.errorcode else ""
    return "connect", f"no connection to {place}{name}"


_NAME_WORDS: dict[TransportFault, str] = {
    "unknown_host": "the host in {place} does not exist",
    "dns": "the name in {place} does not resolve",
    "no_network": "no name server answered for {place}",
    "local": "this machine is out of resources: it cannot look up the name in {place}",
}


def _named(error: BaseException) -> str:
    number = errno_of(error)
    return errno.errorcode.get(number, f"errno {number}") if number is not None else type(error).__name__
