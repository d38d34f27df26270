"""Rate limits of a simulated provider, kept and reported as OpenAI, Anthropic, Azure and Groq do.

Each limit is a token bucket that is full at first and fills all the time: a request takes from it when it arrives, by
its own estimate (a token for four bytes of the body, and the output limit that it asks for). A request that does not
fit is refused with 429. Good answers tell what remains, in the provider's own headers; ``reset`` is the time until a
bucket is full again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal, get_args

from llmbatch.core.errors import UsageError

__all__ = ["Buckets", "LimitStyle", "RateLimits"]

LimitStyle = Literal["openai", "anthropic", "azure", "groq"]

_EPOCH = datetime(2026, 11, 26, tzinfo=UTC)
"""The wall time at which a simulated provider starts."""

_MINUTE, _DAY = 60.0, 86_400.0


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits of each model and key. None: no limit.

    Raises :class:`~llmbatch.core.errors.UsageError` for a value out of range.
    """

    style: LimitStyle = "openai"
    rpm: float | None = None
    """Requests per minute; with the style ``groq`` they are kept but not reported."""
    tpm: float | None = None
    """Tokens per minute."""
    rpd: float | None = None
    """Requests per day."""
    headers: bool = True
    """Whether answers report them."""

    def __post_init__(self) -> None:
        if self.style not in get_args(LimitStyle):
            raise UsageError(
                f"limits.style is {self.style!r}, which is unknown", hint=f"one of: {', '.join(get_args(LimitStyle))}"
            )
        for name in ("rpm", "tpm", "rpd"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < math.inf:
                raise UsageError(f"limits.{name} is {value!r}, must be 1 or more")


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
            ("day", limits.rpd, _DAY),
        ):
            if limit is not None:
                self._buckets[name] = _Bucket(limit, window)

    def admit(self, tokens: float, now: float, factor: float) -> tuple[float, dict[str, str]]:
        """Take a request of *tokens* that arrives *now*; the limits are *factor* times what they were.

        Returns the seconds until it would fit, 0 if it is admitted, and the headers of its answer.
        """
        own = {"requests": self._limits.rpm, "tokens": self._limits.tpm, "day": self._limits.rpd}
        wait = 0.0
        for name, bucket in self._buckets.items():
            bucket.fill(now, (own[name] or 1.0) * factor)
            wait = max(wait, bucket.lacks(tokens if name == "tokens" else 1.0))
        if wait == 0.0:
            for name, bucket in self._buckets.items():
                bucket.level -= min(tokens, bucket.limit) if name == "tokens" else 1.0
        if not self._limits.headers:
            return wait, {}
        headers = dict(self._headers(now))
        if wait > 0.0:
            headers["retry-after"] = str(math.ceil(wait))
            if self._limits.style in ("openai", "azure"):
                headers["retry-after-ms"] = str(math.ceil(1000 * wait))
        return wait, headers

    def _headers(self, now: float) -> Mapping[str, str]:
        style = self._limits.style
        headers = {"date": format_datetime(_EPOCH + timedelta(seconds=math.floor(now)), usegmt=True)}
        shown = {"requests": self._buckets.get("requests"), "tokens": self._buckets.get("tokens")}
        if style == "groq":
            shown["requests"] = self._buckets.get("day")
        for kind, bucket in shown.items():
            if bucket is None:
                continue
            left = math.floor(bucket.level + 1e-9)
            match style:
                case "anthropic":
                    prefix = f"anthropic-ratelimit-{kind}"
                    instant = _EPOCH + timedelta(seconds=now + bucket.reset)
                    rounded = 1000 * round(left / 1000) if kind == "tokens" else left
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
