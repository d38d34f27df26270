"""The sections of the page about a run: each the HTML of one heading's content, empty where there is nothing to say."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable

from llmbatch.money.text import usd
from llmbatch.report.histogram import LatencyHistogram
from llmbatch.report.html.charts import bar_chart
from llmbatch.report.html.data import RunReport
from llmbatch.report.html.text import day_and_clock, escaped, number, offset, table, without_passwords
from llmbatch.report.html.timeline_section import outage_table
from llmbatch.report.html.verdict import state_of, verdict
from llmbatch.report.journal import from_iso
from llmbatch.report.output_lines import LineRoute
from llmbatch.report.words import count, duration, plural, rate

__all__ = ["SECTIONS", "file_name", "header"]

_MOST_ROUTES = 50
_MOST_CODES = 30
_MOST_RUNS = 20
_MOST_NOTICES = 50
_LARGEST = 10**15


def header(report: RunReport) -> str:
    """What the first screen says: state, verdict, what to type next, and the numbers."""
    word, kind = state_of(report)
    return (
        f'<p><span class="state {kind}">{escaped(word)}</span> '
        f"<code>{escaped(file_name(report.output), 200)}</code></p>\n"
        f"<h1>{escaped(verdict(report), 2000)}</h1>\n"
        f'<p class="dim">{_times(report)}</p>\n'
        f'<p class="next"><b>Next:</b> {escaped(without_passwords(report.next), 4000)}</p>\n{_tiles(report)}'
    )


def file_name(path: str) -> str:
    """The last part of *path*, of either system."""
    return path.replace("\\", "/").rpartition("/")[2] or path


def _times(report: RunReport) -> str:
    if report.began is None:
        return "When it ran is not known."
    zone = report.zone
    text = f"Began {day_and_clock(report.began, zone)}"
    if report.ended is not None:
        word = "last seen" if report.was_killed else "ended"
        text += f", {word} {day_and_clock(report.ended, zone)}, after {duration(report.ended - report.began)}"
    elif report.state == "running":
        text += f", running for {duration(report.made_at - report.began)}"
    paused_s = sum(report.end_of(pause) - pause.began for pause in report.history.pauses)
    text += f", {duration(paused_s)} of it paused by its user" if paused_s else ""
    runs = report.journal.runs
    return escaped(f"{text}{f', {runs:,} runs' if runs > 1 else ''} ({offset(report.began, zone)}).")


def _tiles(report: RunReport) -> str:
    facts = [("answered", f"{report.success:,}"), ("failed", f"{report.failed:,}")]
    if report.rows_left:
        facts.append(("not done", f"{'~' if report.total_is_estimate else ''}{report.rows_left:,}"))
    if report.now is not None:
        now = report.now
        facts.append(("speed", rate(now.rows_per_s)))
        facts.append(("in flight", f"{now.in_flight:,}"))
        if now.eta_s is None and now.work_left_s is not None:
            facts.append(("left once it goes on", f"about {duration(now.work_left_s)}"))
        else:
            facts.append(("time left", "unknown" if now.eta_s is None else duration(now.eta_s)))
    if report.deferred_rows:
        facts.append(("parked" if report.state == "running" else "deferred", f"{report.deferred_rows:,}"))
    cost = report.cost_usd
    facts.append(("cost", "unknown" if cost is None else usd(cost)))
    number_of_outages = len(report.outages) + report.journal.dropped
    facts.append(("outages", f"{number_of_outages:,}"))
    latency = _latency(report.routes)
    if latency.count:
        p50, p95 = latency.quantile(0.5), latency.quantile(0.95)
        facts.append(("latency p50, p95", f"{_short(p50)}, {_short(p95)}"))
    if report.spread.input_tokens.count:
        tokens = f"{_count(report.spread.input_tokens.total)} in, {_count(report.spread.output_tokens.total)} out"
        facts.append(("tokens", tokens))
    for name, value in (
        ("cached", report.cached),
        ("cut at the token limit", report.cut_answers),
        ("without text", report.answers_without_text),
    ):
        if value:
            facts.append((name, f"{value:,}"))
    items = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>" for name, text in facts)
    return f'<dl class="tiles">{items}</dl>\n'


def _latency(routes: Iterable[LineRoute]) -> LatencyHistogram:
    latency = LatencyHistogram()
    for route in routes:
        latency.include(route.latency)
    return latency


def _count(value: int) -> str:
    return count(min(value, _LARGEST))


def _failures(report: RunReport) -> str:
    if not report.failures:
        return "<p>No row has failed.</p>\n" if report.rows else ""
    parts = [_so_far(report)]
    for group in report.failures[:_MOST_CODES]:
        parts.append(f"<h3><code>{escaped(group.code, 80)}</code> {plural(group.count, 'row')}</h3>\n")
        rows = [
            [
                f'<code class="name">{escaped(row.id, 100)}</code>',
                f"{group.messages.get(row.message, 1):,}",
                f'<span class="long">{escaped(row.message, 300) or "(no message)"}</span>',
            ]
            for row in group.examples
        ]
        parts.append(
            table(f"Examples of {group.code[:80]}", ["row, such as", "rows", "message"], rows, numeric=frozenset({1}))
        )
    more = len(report.failures) - _MOST_CODES
    if more > 0:
        parts.append(f"<p>{plural(more, 'more code')}: llmbatch failed lists them.</p>\n")
    return "".join(parts)


def _errors(report: RunReport) -> str:
    """Failed attempts, most of which were repeated with success."""
    if not report.history.errors:
        return ""
    rows = []
    for error in sorted(report.history.errors.values(), key=lambda one: -one.count)[:_MOST_CODES]:
        examples = "".join(
            f"<li>{escaped(one.get('message'), 200) or '(no message)'} "
            f'<span class="dim">row {escaped(one.get("row"), 30)}, {escaped(one.get("route"), 100)}</span></li>'
            for one in error.examples
        )
        key = f' data-key="error {escaped(error.code, 80)}"'
        shown = (
            f"<details{key}><summary>{plural(len(error.examples), 'example')}</summary><ul>{examples}</ul></details>"
        )
        rows.append([f'<code class="name">{escaped(error.code, 80)}</code>', f"{min(error.count, _LARGEST):,}", shown])
    intro = "<p>Calls that failed, of all runs. Rows were sent again; those that failed for good are above.</p>\n"
    return intro + table("Failed calls by code", ["code", "calls", "examples"], rows, numeric=frozenset({1}))


def _distributions(report: RunReport) -> str:
    charts = []
    latency = _latency(report.routes)
    if latency.count:
        bars = [(f"{_seconds(low)} to {_seconds(high)}", rows) for low, high, rows in latency.bars()]
        p50, p95, p99 = (_short(latency.quantile(share)) for share in (0.5, 0.95, 0.99))
        label = f"Latency of {latency.count:,} answered rows: half within {p50}, 95 % within {p95}, 99 % within {p99}"
        charts.append((bar_chart(f"Latency: p50 {p50}, p95 {p95}, p99 {p99}", bars, label, "p50"), "latency", bars))
    for name, kind, tokens in (
        ("Input tokens", "in", report.spread.input_tokens),
        ("Output tokens", "out", report.spread.output_tokens),
    ):
        if tokens.count and tokens.total:
            spans = [(f"{_count(low)} to {_count(high - 1)}", rows) for low, high, rows in tokens.bars()]
            label = f"{name} of {tokens.count:,} rows: {_count(tokens.total)} in all"
            title = f"{name}: {number(tokens.total / tokens.count)} per row"
            charts.append((bar_chart(title, spans, label, kind), name.lower(), spans))
    if not charts:
        return "<p>No answered row tells its latency or tokens.</p>\n" if report.rows else ""
    tables = "".join(
        f"<h3>{html.escape(name.capitalize())}</h3>"
        + table(
            name.capitalize(),
            ["range", "rows"],
            [[html.escape(words), f"{rows:,}"] for words, rows in bars],
            numeric=frozenset({1}),
        )
        for _, name, bars in charts
    )
    pictures = "".join(chart for chart, _, _ in charts)
    numbers = f'<details data-key="ranges"><summary>The same in numbers</summary>{tables}</details>\n'
    return f'{_so_far(report)}<div class="charts">{pictures}</div>\n{numbers}'


def _so_far(report: RunReport) -> str:
    """That not all lines have been read yet, where it is so."""
    if report.lines_read is None or report.lines_read >= report.rows:
        return ""
    return f'<p class="dim">Of the first {report.lines_read:,} of {report.rows:,} rows so far.</p>\n'


def _short(value: float | None) -> str:
    """As :func:`duration`, with milliseconds where that would say 0."""
    return f"{value * 1000:.3g} ms" if value is not None and value < 0.1 else duration(value)


def _seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s" if value < 100 else duration(value)


def _routes(report: RunReport) -> str:
    if not report.routes:
        return ""
    routes = sorted(report.routes, key=lambda route: (-(route.cost_usd or 0), -route.rows, route.label))
    total = float(report.cost_usd or 0)
    rows = []
    for route in routes[:_MOST_ROUTES]:
        speed = report.journal.rows_per_s(route.label)
        if route.cost_usd is None:
            cost = "unknown"
        else:
            share = min(100.0, max(0.0, 100 * float(route.cost_usd) / total)) if total > 0 else 0.0
            bar = f'<svg class="share" aria-hidden="true"><rect width="{share:.1f}%" height="4"/></svg>'
            cost = escaped(usd(route.cost_usd)) + bar
        rows.append(
            [
                f'<span class="name">{escaped(route.label, 200)}</span>',
                f"{route.rows:,}",
                f"{route.failed:,}",
                "" if speed is None else rate(speed),
                _short(route.latency.quantile(0.5)) if route.latency.count else "",
                _short(route.latency.quantile(0.95)) if route.latency.count else "",
                _count(route.input_tokens),
                _count(route.output_tokens),
                cost,
            ]
        )
    heads = ["model", "rows", "failed", "speed", "p50", "p95", "tokens in", "tokens out", "cost"]
    text = table("Models and cost", heads, rows, numeric=frozenset(range(1, 9)))
    if len(routes) > _MOST_ROUTES:
        text += f"<p>And {plural(len(routes) - _MOST_ROUTES, 'more route')}: llmbatch status --json lists all.</p>\n"
    if report.tiers:
        tiers = ", ".join(f"{escaped(name, 80)} {rows_of:,}" for name, rows_of in list(report.tiers.items())[:20])
        text += f"<p>Rows by service tier: {tiers}.</p>\n"
    return text


def _slowest(report: RunReport) -> str:
    if not report.spread.slowest():
        return ""
    rows = [
        [
            f'<code class="name">{escaped(row.id, 100)}</code>',
            f"{row.number:,}" if row.number else "",
            "over an hour" if row.latency_s > 1e9 else duration(row.latency_s),
            "failed" if row.failed else "answered",
            _count(row.input_tokens),
            _count(row.output_tokens),
            f'<span class="name">{escaped(row.route, 200)}</span>',
        ]
        for row in report.spread.slowest()
    ]
    heads = ["id", "row", "latency", "outcome", "tokens in", "tokens out", "model"]
    return table("Slowest rows", heads, rows, numeric=frozenset({1, 2, 4, 5}))


def _latest(report: RunReport) -> str:
    """The rows that ended last; their prompts and answers only where that was asked for."""
    if not report.latest:
        return ""
    has_text = any(row.prompt is not None or row.answer is not None for row in report.latest)
    rows = []
    for row in report.latest:
        outcome = f"failed: <code>{escaped(row.code, 80)}</code>" if row.failed else "answered"
        cells = [
            f'<code class="name">{escaped(row.id, 100)}</code>',
            f"{row.number:,}" if row.number else "",
            "" if row.latency_s is None else duration(row.latency_s),
            f'<span class="name">{outcome}</span>',
            f'<span class="name">{escaped(row.model, 200)}</span>',
        ]
        if has_text:
            cells += [f'<span class="long">{escaped(text or "", 500)}</span>' for text in (row.prompt, row.answer)]
        rows.append(cells)
    heads = ["id", "row", "latency", "outcome", "model", *(["prompt", "answer"] if has_text else [])]
    return table("Latest rows", heads, rows, numeric=frozenset({1, 2}))


def _notices(report: RunReport) -> str:
    if not report.history.notices:
        return ""
    rows = []
    for notice in report.history.notices[-_MOST_NOTICES:]:
        at = from_iso(notice.get("at"))
        hint = notice.get("hint")
        said = escaped(notice.get("message"), 300) + (
            f'<br><span class="dim">{escaped(hint, 200)}</span>' if hint else ""
        )
        time = "" if at is None else day_and_clock(at, report.zone, seconds=True)
        rows.append([time, escaped(notice.get("level") or "", 20), f'<span class="long">{said}</span>'])
    return table("Notices", ["time", "level", "notice"], rows)


def _settings(report: RunReport) -> str:
    facts = [("output", report.output), ("input", report.input), ("command", without_passwords(report.command))]
    rows = [[html.escape(name), f'<code class="long">{escaped(text, 4000)}</code>'] for name, text in facts if text]
    text = table("Settings", ["setting", "value"], rows)
    runs = report.history.runs
    if not runs:
        return text
    lines = []
    for run in runs[-_MOST_RUNS:]:
        goes_on = run is runs[-1] and report.state == "running"
        ended = "goes on" if goes_on else "left no last word"
        if run.ended is not None and not goes_on:
            ended = day_and_clock(run.ended, report.zone, seconds=True)
        lines.append(
            [
                day_and_clock(run.began, report.zone, seconds=True),
                ended,
                "" if run.exit_code is None else str(run.exit_code)[:10],
                f"{run.concurrency:,}"[:20] if run.concurrency else "",
                f'<span class="long">{escaped(run.reason, 300)}</span>',
                f'<span class="long"><code>{escaped(without_passwords(run.command), 1000)}</code></span>',
            ]
        )
    heads = ["began", "ended", "exit code", "concurrency", "reason", "command"]
    earlier = len(runs) - len(lines)
    more = f"<p>And {plural(earlier, 'earlier run')}.</p>\n" if earlier else ""
    return text + table("Runs", heads, lines, numeric=frozenset({2, 3})) + more


SECTIONS: tuple[tuple[str, str, Callable[[RunReport], str]], ...] = (
    ("outages", "Outages", outage_table),
    ("failures", "Why rows failed", _failures),
    ("calls", "Failed calls", _errors),
    ("spread", "Latency and tokens", _distributions),
    ("models", "Models and cost", _routes),
    ("slowest", "Slowest rows", _slowest),
    ("latest", "Latest rows", _latest),
    ("notices", "Notices", _notices),
    ("settings", "Settings and runs", _settings),
)
"""The sections below the charts, in their order: key, heading, and what makes the HTML of its content."""
