"""Words for the batches of a run (``--via batch``)."""

from __future__ import annotations

from collections import Counter
from typing import assert_never

from llmbatch.core.batch_events import BatchCancelled, BatchCollected, BatchMoved, BatchSubmitted
from llmbatch.core.raw_json import JSON
from llmbatch.display.format import elided, plural, shown
from llmbatch.money.text import usd
from llmbatch.report.batches import BatchSnapshot

__all__ = ["batch_line", "batches_left", "batches_now"]

_MOST_IDS = 5


def batch_line(event: BatchSubmitted | BatchMoved | BatchCollected | BatchCancelled) -> str:
    """One line for *event*, safe to show."""
    name = f"batch {elided(event.batch, 80)}"
    match event:
        case BatchSubmitted():
            how = "submitted" if event.is_new else "found at the provider"
            return f"{name} {how}: {plural(event.rows, 'row')} ({event.first:,} to {event.last:,})"
        case BatchMoved():
            done = "" if event.done is None or not event.rows else f", {event.done:,} of {event.rows:,} rows"
            return f"{name} is {shown(event.status, 40)}{done}"
        case BatchCollected():
            words = [f"{name} collected: {event.success:,} success, {event.failed:,} failed"]
            if event.not_run:
                words.append(f"{event.not_run:,} did not run and go again")
            if event.again:
                words.append(f"{event.again:,} failed attempts")
            if event.saved_usd:
                words.append(f"{usd(event.saved_usd)} saved")
            return ", ".join(words)
        case BatchCancelled():
            return f"{name} is being canceled: {shown(event.reason, 200)}"
        case _:
            assert_never(event)


def batches_left(batches: JSON) -> list[tuple[str, str]]:
    """What the status file says of batches at the provider, as pairs of label and text; none without them."""
    left = batches.get("open") if isinstance(batches, dict) else None
    found = [batch for batch in left if isinstance(batch, dict)] if isinstance(left, list) else []
    if not found:
        return []
    states = Counter(shown(str(batch.get("status") or "unknown"), 40) for batch in found)
    rows = sum(rows for batch in found if isinstance(rows := batch.get("rows"), int))
    told = ", ".join(f"{count:,} {word}" for word, count in states.items())
    ids = ", ".join(shown(str(batch.get("id") or "?"), 80) for batch in found[:_MOST_IDS])
    more = ", …" if len(found) > _MOST_IDS else ""
    words = f"{plural(len(found), 'batch', 'batches')} at the provider ({told}), {plural(rows, 'row')}: {ids}{more}"
    return [("batches", words)]


def batches_now(batches: BatchSnapshot) -> str:
    """The open batches in a few words: ``3 batches (2 in_progress, 1 validating), 41,200 of 90,000 rows``."""
    if not batches.open:
        return ""
    states = ", ".join(f"{count:,} {shown(word, 40)}" for word, count in batches.states().items())
    done = sum(batch.done or 0 for batch in batches.open)
    words = plural(len(batches.open), "batch", "batches")
    return f"{words} at the provider ({states}), {done:,} of {batches.open_rows:,} rows"
