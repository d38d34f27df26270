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

__all__ = ["connect_fault", "lost_fault"]

_LOCAL = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})
_NO_NETWORK = frozenset({errno.ENETUNREACH, errno.ENETDOWN})

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
    number = error.errno if isinstance(error, OSError) else None
    if number in _LOCAL:
        return TransportError("local", f"this machine is out of resources ({errno.errorcode[number]})", sent=sent)
    if number in _NO_NETWORK:
        return TransportError("no_network", f"the network is gone ({errno.errorcode[number]})", sent=sent)
    if isinstance(error, aiohttp.ClientPayloadError):
        return TransportError("truncated", f"the answer of {place} ended early", sent=sent)
    # It carries a status of 400, which nobody gave.
    if isinstance(error, HttpProcessingError):
        return TransportError("garbage", f"what {place} answered is not HTTP", sent=sent)
    if sent:
        return TransportError("reset", f"{place} closed the connection without an answer", sent=True)
    return TransportError("connect", f"{place} closed the connection before the request was sent", sent=False)


def _connect_words(error: aiohttp.ClientConnectorError, cause: BaseException, place: str) -> tuple[TransportFault, str]:
    number = cause.errno if isinstance(cause, OSError) else None
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(cause, "verify_message", "") or "it does not verify"
        return "tls", f"the certificate of {place} was rejected: {reason}"
    if isinstance(cause, ssl.SSLError):
        if cause.reason in _TLS_MISMATCH:
            return "tls", f"no TLS with {place}: {cause.reason.lower().replace('_', ' ')}"
        return "connect", f"the TLS handshake with {place} broke off"
    if isinstance(cause, socket.gaierror):
        if number == socket.EAI_AGAIN:
            return "no_network", f"no name server answered for {place}"
        return "dns", f"the name in {place} does not resolve"
    if number in _LOCAL:
        return "local", f"this machine is out of resources ({errno.errorcode[number]}), no connection to {place}"
    if number in _NO_NETWORK:
        return "no_network", f"this machine has no network ({errno.errorcode[number]}), no connection to {place}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns", f"the name in {place} does not resolve"
    if number == errno.ECONNREFUSED:
        return "connect", f"connection refused by {place}"
    name = f" ({errno.errorcode[number]})" if number is not None and number in errno.errorcode else ""
    return "connect", f"no connection to {place}{name}"
