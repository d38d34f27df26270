"""Classifies transport faults, where no complete reply came: a table by the kind of fault."""

from __future__ import annotations

from typing import NamedTuple

from llmbatch.classify.safe_text import shorten
from llmbatch.core.calls import Outcome, Scope, Verdict
from llmbatch.core.errors import TransportError, TransportFault

__all__ = ["classify_fault"]


class _Fault(NamedTuple):
    verdict: Verdict
    scope: Scope
    retry: bool
    code: str
    hint: str = ""
    unreachable: bool = False


_NO_HOST = "check the host's name in the base URL, and this machine's name servers"
_LOCAL = "free file handles, ports, memory or disk on this machine"
_FAULTS: dict[TransportFault, _Fault] = {
    "unknown_host": _Fault("failure", "provider", True, "unknown_host", _NO_HOST, unreachable=True),
    "dns": _Fault("failure", "provider", True, "dns_failed", unreachable=True),
    "connect": _Fault("failure", "provider", True, "connection_failed", unreachable=True),
    "connect_timeout": _Fault("failure", "provider", True, "connect_timeout", unreachable=True),
    "tls": _Fault(
        "account_refused",
        "provider",
        False,
        "tls_failed",
        "the server's certificate was rejected: check the base URL and this machine's certificates and clock",
    ),
    "timeout": _Fault(
        "failure",
        "provider",
        True,
        "timeout",
        "if answers take longer than that, raise --timeout (in Python: timeout=…)",
    ),
    "reset": _Fault("failure", "provider", True, "connection_reset"),
    "truncated": _Fault("failure", "provider", True, "truncated_body"),
    "garbage": _Fault("failure", "provider", True, "not_http"),
    "too_large": _Fault("failure", "provider", True, "answer_too_large"),
    "duplicate": _Fault("failure", "provider", True, "duplicate_answer"),
    "no_network": _Fault("local", "machine", True, "no_network", "check this machine's network", unreachable=True),
    "local": _Fault("local", "machine", True, "local_resources", _LOCAL),
}


def classify_fault(error: TransportError) -> Outcome:
    """Classify a request without a complete HTTP response."""
    fault = _FAULTS[error.fault]
    return Outcome(
        verdict=fault.verdict,
        scope=fault.scope,
        retry=fault.retry,
        code=fault.code,
        message=shorten(str(error)),
        hint=error.hint or fault.hint,
        unreachable=fault.unreachable,
    )
