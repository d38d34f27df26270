"""Rate limits of a simulated provider, kept and reported as OpenAI, Anthropic, Azure and Groq do.

Each limit is a token bucket that is full at first and fills all the time: a request takes from it when it arrives, by
its own estimate (a token for four bytes of the body, and the output limit that it asks for). A request that does not
fit is refused with 429, in the provider's own words. Good answers tell what remains, in the provider's own headers;
``reset`` is the time until a bucket is full again. Azure's requests have a second bucket, of ten seconds, that no
header shows; Anthropic counts input and output tokens each by themselves where ``input_tpm`` and ``output_tpm`` are
set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal, get_args

from llmbatch.core.errors import UsageError
from llmbatch.sim.protocol import ErrorResponse

__all__ = ["Buckets", "LimitStyle", "RateLimits"]

LimitStyle = Literal["openai", "anthropic", "azure", "groq"]

_EPOCH = datetime(2026, 11, 26, tzinfo=UTC)
"""The wall time at which a simulated provider starts."""

_MINUTE, _DAY = 60.0, 86_400.0
_AZURE_BURST = 10.0

_LIMITS = ("rpm", "tpm", "input_tpm", "output_tpm", "rpd")


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits of each model and key. None: no limit.

    Raises :class:`~llmbatch.core.errors.UsageError` for a value out of range.
    """

    style: LimitStyle = "openai"
    rpm: float | None = None
    """Requests per minute; with the style ``groq`` they are kept but not reported."""
    tpm: float | None = None
    """Tokens per minute, of input and output together."""
    input_tpm: float | None = None
    """Input tokens per minute."""
    output_tpm: float | None = None
    """Output tokens per minute."""
    rpd: float | None = None
    """Requests per day; reported with the style ``groq``, kept with the others."""
    burst: float | None = None
    """Seconds of ``rpm``, above 0 and at most 60, that may come at once; None: 60, with the style ``azure`` 10."""
    headers: bool = True
    """Whether answers report them."""

    def __post_init__(self) -> None:
        if self.style not in get_args(LimitStyle):
            raise UsageError(
                f"limits.style is {self.style!r}, which is unknown", hint=f"one of: {', '.join(get_args(LimitStyle))}"
            )
        for name in _LIMITS:
            value = getattr(self, name)
            if value is not None and not 1 <= value < math.inf:
                raise UsageError(f"limits.{name} is {value!r}, must be 1 or more")
        if self.burst is not None and not 0 < self.burst <= _MINUTE:
            raise UsageError(f"limits.burst is {self.burst!r}, must be above 0 and at most 60 seconds")

    @property
    def burst_seconds(self) -> float:
        """Seconds of ``rpm`` that may come at once."""
        return self.burst or (_AZURE_BURST if self.style == "azure" else _MINUTE)


class _Bucket:
    __slots__ = ("_at", "level", "limit", "window")

    def __init__(self, limit: float, window: float) -> None:
        self.limit = self.level = limit
        self.window = window
        self._at = 0.0

    def fill(self, now: float, limit: float) -> None:
        """Bring the level to *now*; *limit* may have changed."""
        self.level = min(limit, self.level + (now - self._at) * limit / self.window)
        self.limit, self._at = limit, now

    @property
    def reset(self) -> float:
        """Seconds until it is full."""
        return (self.limit - self.level) * self.window / self.limit

    def lacks(self, amount: float) -> float:
        """Seconds until *amount* fits; 0 if it does."""
        return max(0.0, min(amount, self.limit) - self.level) * self.window / self.limit


class Buckets:
    """The buckets of one model and key."""

    __slots__ = ("_buckets", "_limits")

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._buckets: dict[str, _Bucket] = {}
        for name, limit, window in (
            ("requests", limits.rpm, _MINUTE),
            ("tokens", limits.tpm, _MINUTE),
            ("input-tokens", limits.input_tpm, _MINUTE),
            ("output-tokens", limits.output_tpm, _MINUTE),
            ("day", limits.rpd, _DAY),
        ):
            if limit is not None:
                self._buckets[name] = _Bucket(limit, window)
        if limits.rpm is not None and limits.burst_seconds < _MINUTE:
            share = limits.burst_seconds / _MINUTE
            self._buckets["burst"] = _Bucket(max(1.0, limits.rpm * share), limits.burst_seconds)

    def admit(
        self, input_tokens: float, output_tokens: float, now: float, factor: float
    ) -> tuple[ErrorResponse | None, dict[str, str]]:
        """Take a request that arrives *now*; the limits are *factor* times what they were.

        Returns the refusal, None if it is admitted, and the headers of its answer.
        """
        own = {"requests": self._limits.rpm, "day": self._limits.rpd, "tokens": self._limits.tpm}
        own |= {"input-tokens": self._limits.input_tpm, "output-tokens": self._limits.output_tpm}
        if "burst" in self._buckets:
            own["burst"] = max(1.0, (self._limits.rpm or 1.0) * self._limits.burst_seconds / _MINUTE)
        costs = {"tokens": input_tokens + output_tokens, "input-tokens": input_tokens, "output-tokens": output_tokens}
        wait, short = 0.0, ""
        for name, bucket in self._buckets.items():
            bucket.fill(now, (own[name] or 1.0) * factor)
            lacks = bucket.lacks(costs.get(name, 1.0))
            if lacks > wait:
                wait, short = lacks, name
        if wait == 0.0:
            for name, bucket in self._buckets.items():
                bucket.level -= min(costs.get(name, 1.0), bucket.limit)
        headers = dict(self._headers(now)) if self._limits.headers else {}
        if wait == 0.0:
            return None, headers
        if self._limits.headers:
            headers["retry-after"] = str(math.ceil(wait))
            if self._limits.style in ("openai", "azure"):
                headers["retry-after-ms"] = str(math.ceil(1000 * wait))
        return self._refusal(short, costs.get(short, 1.0), wait), headers

    def _refusal(self, short: str, cost: float, wait: float) -> ErrorResponse:
        """429 in the words of the provider; *short*: the bucket that *cost* does not fit into for *wait* seconds."""
        bucket = self._buckets[short]
        limit = bucket.limit * (_MINUTE / bucket.window if short == "burst" else 1.0)
        what, unit = _NAMES[short]
        hint = f" Please try again in {_go_duration(wait)}." if self._limits.headers else ""
        match self._limits.style:
            case "anthropic":
                return ErrorResponse(
                    429, f"This request would exceed your organization's rate limit of {limit:,.0f} {what}."
                )
            case "azure":
                hint = f" Please retry after {math.ceil(wait)} seconds." if self._limits.headers else ""
                kind = "token" if "tokens" in short else "call"
                message = f"Requests to this operation have exceeded {kind} rate limit of your current pricing tier."
                return ErrorResponse(429, message + hint, code="429", kind="")
            case "openai" | "groq":
                used = max(0.0, bucket.limit - bucket.level)
                message = f"Rate limit reached on {what} ({unit}): Limit {limit:.0f}, Used {used:.0f}, "
                message += f"Requested {cost:.0f}.{hint}"
                kind = "tokens" if "tokens" in short else "requests"
                return ErrorResponse(429, message, code="rate_limit_exceeded", kind=kind)

    def _headers(self, now: float) -> Mapping[str, str]:
        style = self._limits.style
        headers = {"date": format_datetime(_EPOCH + timedelta(seconds=math.floor(now)), usegmt=True)}
        shown = {name: self._buckets.get(name) for name in ("requests", "tokens")}
        if style == "groq":
            shown["requests"] = self._buckets.get("day")
        elif style == "anthropic":
            shown |= {name: self._buckets.get(name) for name in ("input-tokens", "output-tokens")}
        for kind, bucket in shown.items():
            if bucket is None:
                continue
            left = math.floor(bucket.level + 1e-9)
            match style:
                case "anthropic":
                    prefix = f"anthropic-ratelimit-{kind}"
                    instant = _EPOCH + timedelta(seconds=now + bucket.reset)
                    rounded = 1000 * round(left / 1000) if "tokens" in kind else left
                    headers[f"{prefix}-limit"] = _shown(bucket.limit)
                    headers[f"{prefix}-remaining"] = _shown(rounded)
                    headers[f"{prefix}-reset"] = instant.strftime("%Y-%m-%dT%H:%M:%SZ")
                case "azure":
                    headers[f"x-ratelimit-limit-{kind}"] = _shown(bucket.limit)
                    headers[f"x-ratelimit-remaining-{kind}"] = _shown(left)
                    headers[f"x-ratelimit-reset-{kind}"] = str(math.ceil(bucket.reset))
                case "openai" | "groq":
                    headers[f"x-ratelimit-limit-{kind}"] = _shown(bucket.limit)
                    headers[f"x-ratelimit-remaining-{kind}"] = _shown(left)
                    headers[f"x-ratelimit-reset-{kind}"] = _go_duration(bucket.reset)
        return headers


_NAMES = {
    "requests": ("requests per min", "RPM"),
    "burst": ("requests per min", "RPM"),
    "day": ("requests per day", "RPD"),
    "tokens": ("tokens per min", "TPM"),
    "input-tokens": ("input tokens per min", "ITPM"),
    "output-tokens": ("output tokens per min", "OTPM"),
}


def _shown(value: float) -> str:
    return f"{value:.0f}"


def _go_duration(seconds: float) -> str:
    """As Go writes durations: ``17ms``, ``8.64s``, ``6m0s``, ``1h2m3s``."""
    if seconds < 1:
        return f"{math.ceil(1000 * seconds)}ms"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{rest:.2f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours:.0f}h{minutes:.0f}m{text}"
    return f"{minutes:.0f}m{text}" if minutes else text
