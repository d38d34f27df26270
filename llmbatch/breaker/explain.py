"""Explain the state of a circuit to humans and logs: the state, its reason, and the last failures.

Facts about exceptions come from the attributes that SDKs use (``status_code``, ``response.headers``, ``request_id``);
no SDK is imported. Exceptions are not kept: their tracebacks would keep the frames of the calls alive.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass

from llmbatch.breaker.classify import Judgement, Verdict, getattr_safe
from llmbatch.breaker.core import State

__all__ = ["Explanation", "Failure", "WindowCounts", "describe", "mask"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that counted against a circuit, as :meth:`CircuitBreaker.explain` shows it."""

    at: float
    """Seconds on the breaker's clock."""
    verdict: Verdict
    error: str
    """Type and message of the exception, or the message of the :class:`Judgement`; keys are masked."""
    status: int | None = None
    request_id: str | None = None
    caller: Hashable = None
    retry_after: float | None = None

    def __str__(self) -> str:
        facts = (
            "" if self.status is None else f"status {self.status}",
            "" if self.request_id is None else f"request {self.request_id}",
            "" if self.caller is None else f"caller {_one_line(str(self.caller))}",
            "" if self.retry_after is None else f"asked for {self.retry_after:g} s",
        )
        details = ", ".join(filter(None, facts))
        return f"{self.verdict}: {self.error}" + (f" ({details})" if details else "")


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """Calls that the rates are computed over: the last ``rate_window`` calls, or those of the last ``rate_seconds``.

    While the circuit is not closed, those that it had when it opened, as far as they are not too old.
    """

    calls: int
    failed: int
    slow: int
    """How many took over ``slow_call_duration``; 0 without that rule."""

    @property
    def failure_rate(self) -> float | None:
        """Share of failed calls, 0 to 1; None without calls. It opens nothing below ``minimum_calls``."""
        return self.failed / self.calls if self.calls else None

    @property
    def slow_call_rate(self) -> float | None:
        """Share of slow calls, 0 to 1; None without calls. It opens nothing below ``minimum_calls``."""
        return self.slow / self.calls if self.calls else None

    def __str__(self) -> str:
        return f"calls in the window: {self.calls}, failed: {self.failed}, slow: {self.slow}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Snapshot of one circuit; ``str()`` gives a few lines of text. Times are seconds on the breaker's clock."""

    name: str
    state: State
    at: float
    """When the snapshot was taken."""
    since: float | None
    """Time of the last change of state; None: it never changed."""
    reason: str
    """Why it opened, or would have if it is disabled; else empty while it is closed."""
    is_forced: bool
    """Whether it is forced open or disabled by hand."""
    retry_after: float | None
    """Seconds until a call may be admitted; None while closed, infinite while forced open for good."""
    failures: int
    """Number of consecutive failures; those that opened the circuit count until it closes."""
    last_failures: tuple[Failure, ...]
    """The last ten failed calls at most, oldest first; a reset does not clear them."""
    window: WindowCounts | None = None
    """Counts of the window of calls; None if no rule needs one."""

    def __str__(self) -> str:
        title = f"circuit {_one_line(self.name) or 'unnamed'}"
        if self.is_forced and self.state == "closed":
            opens = f", and it would have opened: {_one_line(self.reason)}" if self.reason else ""
            head = f"{title} is disabled: every call passes{opens}"
        elif self.state == "closed":
            count = f"consecutive failures: {self.failures}" if self.failures else "no failures since the last success"
            head = f"{title} is closed: calls pass, {count}"
        else:
            head = f"{title} is {self.state.replace('_', '-')}: {_one_line(self.reason)}"
        lines = [head]
        if self.since is not None:
            lines.append(f"  for {self.at - self.since:.1f} s")
        if self.retry_after == math.inf:
            lines.append("  until it is reset")
        elif self.retry_after is not None:
            lines.append(f"  a call may be admitted after {self.retry_after:.1f} s")
        if self.window is not None:
            lines.append(f"  {self.window}")
        lines += [f"  {self.at - failure.at:.1f} s ago: {failure}" for failure in self.last_failures]
        return "\n".join(lines)


def describe(judgement: Judgement, error: BaseException | None, *, at: float, caller: Hashable) -> Failure:
    """Build the record of a failed call from its classification and exception."""
    response = getattr_safe(error, "response")
    message = judgement.message or ("a result" if error is None else _text_of(error))
    return Failure(
        at,
        judgement.verdict,
        mask(message),
        judgement.status if judgement.status is not None else _status_of(error, response),
        _one_line(judgement.request_id) if judgement.request_id is not None else _request_id_of(error, response),
        caller,
        judgement.retry_after,
    )


def mask(text: str) -> str:
    """Return *text* as one printable line of at most 300 characters, with API keys and URL queries masked."""
    text = text[:MAX_READ]
    for pattern in _SECRETS:
        text = pattern.sub(r"\1…\2", text)
    return _one_line(text)


def _one_line(text: str) -> str:
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:MAX_READ]).split())
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


MAX_READ = 3000
MAX_SHOWN = 300

_SECRETS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(https?://[^\s?'\"]+\?)[^\s'\"]*()",
        r"(://)[^/\s@'\"]+(@)",
        # Key prefixes of providers. A digit is required: hf_transfer_enabled is not a key.
        r"(\b(?:sk|pk|rk|gsk|xai|hf|r8|nvapi|fw|pplx)[-_])(?=\S*\d)[A-Za-z0-9_.*\-]{8,}()",
        r"(\bAIza)[A-Za-z0-9_\-]{16,}()",
        # Values named key, token, secret, password or authorization, and bearer tokens.
        r"(?i)((?:key|token|secret|password|authorization)['\"]?\s*[:=]\s*['\"]?(?:bearer\s+)?)[^\s'\",;&]{6,}()",
        r"(?i)(bearer\s+)(?=\S*\d)[^\s'\",;&]{8,}()",
    )
)


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a foreign __str__ may do anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _status_of(error: BaseException | None, response: object) -> int | None:
    for holder in (error, response):
        for name in ("status_code", "status"):
            value = getattr_safe(holder, name)
            if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
                return int(value)
    return None


def _request_id_of(error: BaseException | None, response: object) -> str | None:
    value = getattr_safe(error, "request_id")
    if isinstance(value, str):
        return _one_line(value)
    headers = getattr_safe(response, "headers")
    for name in ("x-request-id", "request-id"):
        try:
            value = headers.get(name)  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001 - None, or a foreign mapping that does anything
            return None
        if isinstance(value, str):
            return _one_line(value)
    return None
