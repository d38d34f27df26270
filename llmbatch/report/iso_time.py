"""Times of the sidecars as text."""

from __future__ import annotations

from datetime import UTC, datetime

from llmbatch.core.raw_json import JSON

__all__ = ["from_iso", "to_iso"]


def to_iso(wall: float) -> str:
    """*wall* (seconds since the epoch) as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_iso(value: JSON) -> float | None:
    """Seconds since the epoch; None if *value* is not a timestamp."""
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None
