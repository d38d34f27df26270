"""The section about batches at the provider (``--via batch``): a table of them, and what they have saved."""

from __future__ import annotations

from llmbatch.money.text import usd
from llmbatch.report.batch_log import LoggedBatch
from llmbatch.report.html.data import RunReport
from llmbatch.report.html.text import day_and_clock, escaped, table
from llmbatch.report.words import plural

__all__ = ["batch_table"]

_LARGEST = 10**15


def batch_table(report: RunReport) -> str:
    """The batches of all runs, the newest last; empty without any."""
    log = report.journal.batches
    if not log.batches:
        return ""
    heads = ["batch", "model", "state", "made", "ended", "rows", "answered", "failed", "not run", "cost", "saved"]
    rows = [_row(report, one) for one in log.batches]
    text = table("Batches", heads, rows, numeric=frozenset({5, 6, 7, 8, 9, 10}))
    if log.earlier:
        text += f"<p>And {plural(log.earlier, 'earlier batch', 'earlier batches')}.</p>\n"
    cost, saved = log.total_cost_usd, log.total_saved_usd
    if saved is not None and cost is not None:
        text += f"<p>They cost {escaped(usd(cost))}, {escaped(usd(saved))} less than rows that are sent live.</p>\n"
    return text


def _row(report: RunReport, one: LoggedBatch) -> list[str]:
    is_over = one.fate == "collected"
    return [
        f'<code class="name">{escaped(one.id, 100) or "(no id)"}</code>',
        f'<span class="name">{escaped(one.model, 200)}</span>',
        escaped(one.state, 200),
        day_and_clock(one.made, report.zone),
        "" if one.ended is None else day_and_clock(one.ended, report.zone),
        _count(one.rows),
        _count(one.success) if is_over else "",
        _count(one.failed) if is_over else "",
        _count(one.not_run) if is_over else "",
        "" if one.cost_usd is None else escaped(usd(one.cost_usd)),
        "" if one.saved_usd is None else escaped(usd(one.saved_usd)),
    ]


def _count(value: int) -> str:
    return f"{min(value, _LARGEST):,}"
