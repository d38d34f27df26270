"""Events of batches at a provider (``--via batch``). ``batch`` is the provider's id; ``at`` as in other events."""

from __future__ import annotations

from decimal import Decimal

from llmbatch.core.calls import record

__all__ = ["BatchCancelled", "BatchCollected", "BatchEvent", "BatchLost", "BatchMoved", "BatchSubmitted"]


@record
class BatchSubmitted:
    """A batch was created, or one of an earlier run was found. Rows *first* to *last* hold its ``rows``."""

    at: float
    batch: str
    route: str
    first: int
    last: int
    rows: int
    generation: int
    is_new: bool = True
    """False: of an earlier run."""
    created_at: float | None = None
    """When the provider made it, in Unix seconds; None: it does not say."""


@record
class BatchMoved:
    """The provider reports another status, or more finished rows (``done`` of ``rows``; None: it does not say)."""

    at: float
    batch: str
    status: str
    done: int | None
    rows: int | None
    ended_at: float | None = None
    """When it ended, in Unix seconds; None: it has not, or the provider does not say."""


@record
class BatchCollected:
    """All results of a batch are in the output.

    ``not_run`` rows had no result and go again; ``again`` had a failed attempt. ``dropped`` lines answered no waiting
    row. ``saved_usd``: what the rows would have cost more if sent live; None: unknown.
    """

    at: float
    batch: str
    route: str
    success: int
    failed: int
    not_run: int
    again: int
    dropped: int
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None


@record
class BatchCancelled:
    """A batch is being canceled. ``reason``: why."""

    at: float
    batch: str
    reason: str


@record
class BatchLost:
    """A batch is given up, and its rows are sent again: they may be paid for twice, ``at_risk_usd`` at most.

    ``batch`` is empty if its id was never known. ``reason``: why. ``at_risk_usd``: None if that is unknown.
    """

    at: float
    batch: str
    rows: int
    reason: str
    at_risk_usd: Decimal | None = None


BatchEvent = BatchSubmitted | BatchMoved | BatchCollected | BatchCancelled | BatchLost
