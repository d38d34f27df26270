"""The last words of a run, for people: what came of it, where the results are, and how to go on.

What it does not do: decide. Every number is the :class:`~llmbatch.report.summary.Summary`'s.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Set
from typing import TextIO

from llmbatch.display import is_live_terminal, is_utf8
from llmbatch.display.phrases import codes_phrase, count, duration, elided, local_time, plural, rate, shown
from llmbatch.display.safe_stream import write_line
from llmbatch.money.text import usd
from llmbatch.report.batches import BatchSnapshot
from llmbatch.report.iso_time import from_iso
from llmbatch.report.summary import Summary

__all__ = ["answer_facts", "failed_rows_command", "how_to_go_on", "print_summary", "summary_lines", "tier_facts"]

_LABEL_COLUMNS = 14
_MOST_ROUTES = 20
"""With more routes, as those of tenants, the summary leaves them out."""
_HEADLINES = {0: "done", 1: "finished", 129: "interrupted", 130: "interrupted", 143: "terminated"}
_REASONS = {
    3: "the provider refuses the account, the key or the first rows",
    4: "--max-cost is reached",
    74: "the output could not be written",
    75: "rows are still deferred",
}


def print_summary(
    summary: Summary,
    *,
    command: str,
    is_reason_told: bool = False,
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Print *summary* on *stream* (default: standard error), with color on a terminal or where ``FORCE_COLOR`` asks.

    *command* is what to type to run it again. *is_reason_told*: a display has just said why the run stopped, and what
    to do. Never fails.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:
        return
    facts = summary_lines(summary, is_reason_told=is_reason_told)
    # Of rows that failed in earlier runs the codes are not known.
    codes = summary.failures_by_code if sum(summary.failures_by_code.values()) == summary.failed else ()
    last = how_to_go_on(
        *(summary.output, summary.exit_code),
        command=command,
        codes=frozenset(codes),
        has_lines=bool(summary.rows),
        has_cut_answers=bool(summary.cut_answers),
    )
    environ = os.environ if environ is None else environ
    if is_live_terminal(stream, environ) or (environ.get("FORCE_COLOR") and is_utf8(stream)):
        _print_rich(stream, summary, facts, last)
    else:
        for label, text in facts:
            write_line(stream, f"{label:<{_LABEL_COLUMNS}}{text}")
        write_line(stream, last)


def summary_lines(summary: Summary, *, is_reason_told: bool = False) -> list[tuple[str, str]]:
    """The facts as pairs of label and text, safe to show; what did not happen has no line.

    *is_reason_told* leaves out why the run stopped, and the hint.
    """
    facts = [(_HEADLINES.get(summary.exit_code, "stopped"), _rows(summary))]
    if summary.already_done:
        facts.append(("this run", plural(summary.this_run_success + summary.this_run_failed, "row") + " more"))
    paused = f", paused for {duration(summary.paused_s)} of it" if summary.paused_s else ""
    facts.append(("time", f"{duration(summary.duration_s)}, {rate(summary.rows_per_s)}{paused}"))
    if summary.outages:
        facts.append(("outages", _outages(summary)))
    facts.append(("calls", _calls(summary)))
    if summary.input_tokens or summary.output_tokens:
        facts.append(("tokens", f"{count(summary.input_tokens)} in, {count(summary.output_tokens)} out"))
    facts += cost_facts(summary)
    facts += batch_facts(summary.batches)
    if summary.latency_p50_s is not None:
        p95 = duration(summary.latency_p95_s)
        facts.append(("latency", f"p50 {duration(summary.latency_p50_s)}, p95 {p95}"))
    facts += _route_facts(summary)
    facts += tier_facts(summary.tiers)
    if summary.failures_by_code:
        facts.append(("failed", codes_phrase(summary.failures_by_code, 5)))
    facts += answer_facts(summary.cut_answers, summary.answers_without_text, summary.repaired)
    first = from_iso(summary.retry_at)
    if summary.exit_code == 75 and first is not None:
        facts.append(("deferred", f"{plural(summary.deferred, 'row')}, may be sent again from {local_time(first)}"))
    if summary.cached:
        facts.append(("cached", f"{plural(summary.cached, 'row')} answered from the cache, without a call"))
    reason = summary.stopped_reason or _REASONS.get(summary.exit_code)
    if reason and not (is_reason_told and summary.stopped_reason):
        facts.append(("reason", shown(reason, 1000)))
    if summary.exit_code not in (0, 1) and summary.advice and not is_reason_told:
        facts.append(("hint", shown(summary.advice, 1000)))
    if summary.failed and summary.output != "-":
        facts.append(("see them", failed_rows_command(summary.output)))
    return facts


def _route_facts(summary: Summary) -> list[tuple[str, str]]:
    """Rows of this run by the route on which they ended, as a pair of label and text; none if that was one alone."""
    rows = {route.label: route.success + route.failed for route in summary.routes if route.success + route.failed}
    if not 1 < len(rows) <= _MOST_ROUTES:
        return []
    return [("routes", codes_phrase(dict(sorted(rows.items(), key=lambda item: -item[1])), 5))]


def cost_facts(summary: Summary) -> list[tuple[str, str]]:
    """What this run cost as pairs of label and text; none if no price is known and no call is in doubt."""
    facts = []
    if summary.cost_usd is not None:
        unpriced = f", and {plural(summary.unpriced_calls, 'call')} of unknown price" if summary.unpriced_calls else ""
        facts.append(("cost", f"{usd(summary.cost_usd)}{unpriced}"))
    unanswered = f"{plural(summary.unanswered_calls, 'call')} got no answer" if summary.unanswered_calls else ""
    unmetered = f"{plural(summary.unmetered_calls, 'answer')} named no tokens" if summary.unmetered_calls else ""
    if unanswered or unmetered:
        calls = f"{unanswered}, {unmetered}; both" if unanswered and unmetered else f"{unanswered or unmetered} and"
        label = "unanswered" if unanswered else "no usage"
        facts.append((label, f"{calls} may be billed: {usd(summary.at_risk_usd)} at most"))
    return facts


def batch_facts(batches: BatchSnapshot) -> list[tuple[str, str]]:
    """What became of the batches of a run, and what they saved, as pairs of label and text; none without batches."""
    if not batches.is_used:
        return []
    words = [f"{plural(batches.collected, 'batch', 'batches')} collected, {plural(batches.rows, 'row')}"]
    if batches.open:
        states = ", ".join(f"{count:,} {elided(word, 40)}" for word, count in batches.states().items())
        words.append(f"{len(batches.open):,} at the provider ({states})")
    if batches.not_run:
        words.append(f"{plural(batches.not_run, 'row')} came back unrun")
    facts = [("batches", "; ".join(words))]
    if batches.saved_usd:
        facts.append(("saved", f"{usd(batches.saved_usd)} against the live price"))
    elif batches.rows:
        facts.append(("saved", "unknown: no batch price is known, so rows are shown at full price"))
    if batches.perhaps_twice_rows:
        rows, usd_ = plural(batches.perhaps_twice_rows, "row"), batches.perhaps_twice_usd
        most = "at an unknown price" if usd_ is None else f"{usd(usd_)} at most"
        facts.append(("perhaps", f"{rows} may be paid for twice, {most}: {shown(batches.why_twice, 300)}"))
    return facts


def tier_facts(tiers: Mapping[str, int]) -> list[tuple[str, str]]:
    """Rows by service tier as a pair of label and text; none if no line names one."""
    return [("tiers", codes_phrase(tiers, 5))] if tiers else []


def answer_facts(cut: int, without_text: int, repaired: int) -> list[tuple[str, str]]:
    """Pairs of label and text that count successes: repaired ones, and those that may be of no use.

    Those that there are none of have no line.
    """
    facts = []
    if repaired:
        facts.append(("repaired", f"{plural(repaired, 'row')} asked again until the answer fit the schema"))
    if cut:
        was = "answer was" if cut == 1 else "answers were"
        facts.append(
            ("cut", f"{cut:,} {was} cut at {'its' if cut == 1 else 'their'} token limit (finish_reason length)")
        )
    if without_text:
        facts.append(("no text", f"{without_text:,} {'answer has' if without_text == 1 else 'answers have'} no text"))
    return facts


def how_to_go_on(
    output: str,
    exit_code: int,
    *,
    command: str,
    codes: Set[str] = frozenset(),
    has_lines: bool = True,
    has_cut_answers: bool = False,
) -> str:
    """One line, by exit code: where the results are, and what to do next. *command* runs it again; it may be empty.

    *has_lines*: whether the output has any; a run that stopped without one leaves no output.

    *codes* of the failed rows, where they are known: rows that are no requests are corrected, not resent; those that
    timed out need more time, those that were truncated more tokens. *has_cut_answers*: among the successes are answers
    that were cut at their token limit.
    """
    if output == "-":
        where = "results went to standard output"
        return where if exit_code in (0, 1) else f"{where}, which cannot be resumed; a file (-o) can"
    where = f"results are in {shown(shlex.quote(output))}" if has_lines or exit_code in (0, 1) else "no results yet"
    again = f"run the same command again{f': {shown(command)}' if command else ''}"
    match exit_code:
        case 0:
            if has_cut_answers:
                again = _with_flags(command, "--retry-failed", "--require-finish")
                return f"{where}; to send the cut answers' rows again, {_LARGER}: {again}"
            return where
        case 1:
            if codes and all(code.startswith("input_") for code in codes):
                return f"{where}; to send the malformed rows, correct them in the input and {again}"
            longer = " (those that timed out need a longer --timeout)" if "timeout" in codes else ""
            larger = f", {_LARGER}" if "truncated" in codes or has_cut_answers else ""
            cut = " and those of cut answers" if has_cut_answers else ""
            flags = ("--retry-failed", "--require-finish") if has_cut_answers else ("--retry-failed",)
            return f"{where}; to send the failed rows{cut} again{longer}{larger}: {_with_flags(command, *flags)}"
        case 2:
            return f"{where}; change what the error names, then {again}"
        case 3:
            return f"{where}; correct what it stopped for, then {again}"
        case 4:
            return f"{where}; to go on, raise --max-cost and {again}"
        case 74:
            return f"{where}; make room or repair the disk, then {again}"
        case _:
            return f"{where}; to go on, {again}"


_LARGER = "with a larger max_tokens (in the rows, or -P max_tokens=N --force)"


def _with_flags(command: str, *flags: str) -> str:
    """*command*, safe to show, with those of *flags* that it lacks."""
    given = command.split()
    return " ".join([shown(command) or "the same command with", *(flag for flag in flags if flag not in given)])


def failed_rows_command(output: str) -> str:
    """A command that shows the failed rows of *output*, safe to show."""
    return shown(f"llmbatch failed {shlex.quote(output)}")


def _rows(summary: Summary) -> str:
    of = f" of {summary.total_rows:,}" if summary.total_rows is not None and summary.total_rows != summary.rows else ""
    parts = [f"{summary.success:,} success", f"{summary.failed:,} failed"]
    if summary.deferred:
        parts.append(f"{summary.deferred:,} deferred")
    return f"{summary.rows:,}{of} {'row' if summary.rows == 1 and not of else 'rows'}: {', '.join(parts)}"


def _outages(summary: Summary) -> str:
    survived = f"{summary.outages:,}, {duration(summary.outage_seconds)} in all"
    return f"{survived}, {plural(summary.calls_avoided, 'call')} avoided"


def _calls(summary: Summary) -> str:
    parts = [f"{summary.calls:,}"]
    if summary.retries:
        parts.append(plural(summary.retries, "retry", "retries"))
    if summary.repairs:
        parts.append(plural(summary.repairs, "repair"))
    if summary.probes:
        parts.append(plural(summary.probes, "probe"))
    if summary.throttles:
        parts.append(f"{plural(summary.throttles, 'time')} asked for a slower pace")
    return ", ".join(parts)


def _print_rich(stream: TextIO, summary: Summary, facts: list[tuple[str, str]], last: str) -> None:
    from rich.text import Text

    from llmbatch.display.console import terminal_console

    is_mild = summary.exit_code in (1, 75, 130, 143)
    style = "bold green" if summary.exit_code == 0 else "bold yellow" if is_mild else "bold red"
    lines = [
        Text.assemble((f"{label:<{_LABEL_COLUMNS}}", "dim" if place else style), (text, "" if place else "bold"))
        for place, (label, text) in enumerate(facts)
    ]
    # Soft wrapped, so that a long command can be copied in one piece.
    terminal_console(stream).print(Text("\n").join([*lines, Text(last)]), soft_wrap=True)
