"""Words for the batches of a run (``--via batch``)."""

from __future__ import annotations

from collections import Counter
from typing import assert_never

from llmbatch.core.batch_events import BatchCancelled, BatchCollected, BatchMoved, BatchSubmitted
from llmbatch.core.raw_json import JSON
from llmbatch.display.phrases import elided, local_time, plural, shown
from llmbatch.money.text import usd
from llmbatch.report.batch_log import BatchLog, Fate, LoggedBatch
from llmbatch.report.batches import BatchSnapshot

__all__ = ["batch_line", "batches_left", "batches_logged", "batches_now"]

_MOST_IDS = 5
_MOST_LOGGED = 10
_FATES: dict[Fate, str] = {"open": "at the provider", "collected": "collected", "lost": "given up"}


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


def batches_left(batches: JSON) -> str:
    """What the status file says of batches at the provider; empty without them."""
    left = batches.get("open") if isinstance(batches, dict) else None
    found = [batch for batch in left if isinstance(batch, dict)] if isinstance(left, list) else []
    if not found:
        return ""
    states = Counter(shown(str(batch.get("status") or "unknown"), 40) for batch in found)
    rows = sum(rows for batch in found if isinstance(rows := batch.get("rows"), int))
    told = ", ".join(f"{count:,} {word}" for word, count in states.items())
    ids = ", ".join(shown(str(batch.get("id") or "?"), 80) for batch in found[:_MOST_IDS])
    more = ", …" if len(found) > _MOST_IDS else ""
    return f"{plural(len(found), 'batch', 'batches')} at the provider ({told}), {plural(rows, 'row')}: {ids}{more}"


def batches_logged(log: BatchLog) -> list[str]:
    """The batches of all runs: a line for all, and one for each of the last ones; none without batches."""
    if not log.batches:
        return []
    fates = Counter(one.fate for one in log.batches)
    words = [f"{fates[fate]:,} {name}" for fate, name in _FATES.items() if fates[fate]]
    if log.total_cost_usd is not None:
        words.append(usd(log.total_cost_usd))
    if log.total_saved_usd is not None:
        words.append(f"{usd(log.total_saved_usd)} saved")
    lines = [f"{log.earlier + len(log.batches):,}: {', '.join(words)}"]
    more = log.earlier + len(log.batches) - _MOST_LOGGED
    if more > 0:
        lines.append(f"({more:,} earlier)")
    return lines + [_logged(one) for one in log.batches[-_MOST_LOGGED:]]


def _logged(one: LoggedBatch) -> str:
    parts = [f"{elided(one.id, 80) or '(no id)'}: {shown(one.state, 120)}", plural(one.rows, "row")]
    if one.fate == "collected":
        counts = {"answered": one.success, "failed": one.failed, "not run": one.not_run}
        parts += [f"{number:,} {word}" for word, number in counts.items() if number and number != one.rows]
    parts.append(f"made {local_time(one.made)}")
    if one.ended is not None:
        parts.append(f"ended {local_time(one.ended)}")
    if one.cost_usd is not None:
        parts.append(usd(one.cost_usd))
    if one.saved_usd is not None:
        parts.append(f"{usd(one.saved_usd)} saved")
    return ", ".join(parts)


def batches_now(batches: BatchSnapshot) -> str:
    """The open batches in a few words: ``3 batches (2 in_progress, 1 validating), 41,200 of 90,000 rows``."""
    if not batches.open:
        return ""
    states = ", ".join(f"{count:,} {shown(word, 40)}" for word, count in batches.states().items())
    done = sum(batch.done or 0 for batch in batches.open)
    words = plural(len(batches.open), "batch", "batches")
    return f"{words} at the provider ({states}), {done:,} of {batches.open_rows:,} rows"
