"""Reads values in the answers of batch APIs, leniently."""

from __future__ import annotations

from datetime import datetime

from llmbatch.core.calls import Outcome
from llmbatch.core.raw_json import JSON
from llmbatch.providers.batches.port import ControlError

__all__ = ["count", "id_of", "instant", "unexpected"]


def instant(value: JSON) -> float | None:
    """Unix seconds of a number, or of an ISO time."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value:
        try:
            return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
        except ValueError:
            return None
    return None


def count(value: JSON) -> int | None:
    """A number of rows; None if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def id_of(what: str, answer: JSON) -> str:
    """The ``id`` of an *answer* to *what*.

    Raises:
        ControlError: it has none.
    """
    found = answer.get("id") if isinstance(answer, dict) else None
    if not isinstance(found, str) or not found:
        raise unexpected(what)
    return found


def unexpected(what: str) -> ControlError:
    """The error for an answer to *what* that no batch API gives."""
    outcome = Outcome("failure", code="invalid_body", message="the answer is not what a batch API answers")
    return ControlError(what, outcome, may_have_arrived=True)
