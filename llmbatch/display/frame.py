"""One frame of the live display: a snapshot as styled lines that fit the terminal.

A pure function of the numbers, the width and the height. Nothing is said by color alone: each state has its word and
its mark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.text import Text

from llmbatch.display.batches import batches_now
from llmbatch.display.phrases import (
    count,
    duration,
    idle_reason,
    next_probe_phrase,
    outage_left,
    pause_phrase,
    paused_phrase,
    plural,
    rate,
    rows_phrase,
    shown,
    state_word,
    time_left,
)
from llmbatch.money.text import usd
from llmbatch.report.snapshot import RouteSnapshot, Snapshot

__all__ = ["frame"]

_LABEL_COLUMNS = 10
_OTHER_LINES = 8
_LEAST_ROUTES = 3
_NARROW_COLUMNS = 60
_MOST_CODES = 4
_WORDS = {"closed": ("●", "green"), "open": ("○", "bold red"), "probing": ("◐", "yellow"), "paused": ("◌", "yellow")}
_LEVELS = {"info": "", "warning": "yellow", "error": "bold red"}
_BLOCKS = "▁▂▃▄▅▆▇█"


def frame(now: Snapshot, history: Sequence[float], *, width: int, height: int = 24, has_keys: bool = False) -> Text:
    """*now* in at most *height* lines of at most *width* columns; *history* is the rate along the run.

    *has_keys*: keys control the run, and the last line names them.
    """
    # In the order shown, each with what it matters: the highest number goes first where the terminal is low.
    ranked = [
        (8, _title(now, width)),
        (0, _rows(now, width)),
        (2, _speed(now, history, width)),
        (3, _calls(now, width)),
        (2, _batches(now, width)),
        *((1, line) for line in _circuits(now, width, max(_LEAST_ROUTES, height - _OTHER_LINES))),
        (1, _paused(now, width)),
        (1, _gives_up(now, width)),
        (5, _failed(now, width)),
        (6, _tokens(now, width)),
        (4, _news(now)),
        (7, _keys(now, width) if has_keys else None),
    ]
    lines = [(rank, line) for rank, line in ranked if line is not None]
    while len(lines) > max(1, height):
        lines.remove(max(lines, key=lambda pair: pair[0]))
    for _, line in lines:
        line.truncate(max(1, width), overflow="ellipsis")
    return Text("\n", no_wrap=True, overflow="crop").join(line for _, line in lines)


def _title(now: Snapshot, width: int) -> Text:
    room = max(8, (width - _LABEL_COLUMNS - 3) // 2)
    source = _elided(now.input, room)
    target = _elided(now.output, max(8, width - _LABEL_COLUMNS - 3 - source.cell_len))
    return _line("llmbatch", [Text.assemble((source.plain, "dim"), (" → ", "dim"), (target.plain, "dim"))])


def _elided(name: str, columns: int) -> Text:
    """*name* in at most *columns* columns; its middle goes, as names differ at both ends."""
    text = shown(name)
    if cell_len(text) <= columns:
        return Text(text)
    tail = max(0, columns - 1) // 2
    end = ""
    for character in reversed(text):
        if cell_len(character + end) > tail:
            break
        end = character + end
    start = Text(text)
    start.truncate(max(0, columns - 1 - cell_len(end)), overflow="crop")
    return Text(f"{start.plain}…{end}")


def _rows(now: Snapshot, width: int) -> Text:
    words = [rows_phrase(now).removesuffix(" rows")]
    share = 0.0
    if now.total_rows:
        share = min(now.done_rows / now.total_rows, 0.99 if now.total_is_estimate else 1.0)
        words.append(f"{int(share * 100)} %")
    elif now.total_rows is None:
        words.append("of an unknown number")
    tail = "  ".join(words)
    line = _line("rows", [])
    columns = width - _LABEL_COLUMNS - len(tail) - 2
    if now.total_rows and columns >= 5:
        full = int(share * columns)
        line.append("━" * full, style="green")
        line.append("─" * (columns - full), style="dim")
        line.append("  ")
    return line.append(tail)


def _speed(now: Snapshot, history: Sequence[float], width: int) -> Text:
    items = [Text(rate(now.rows_per_s), style="bold")]
    left = time_left(now, short=width < _NARROW_COLUMNS)
    if left is not None:
        items.append(Text(left))
    items.append(Text(f"elapsed {duration(now.elapsed_s)}"))
    line = _line("speed", items, width)
    room = min(30, width - line.cell_len - 3)
    if room >= 8 and len(history) > 1:
        line.append("   ")
        line.append(_sparkline(history, room), style="cyan")
    return line


def _sparkline(history: Sequence[float], columns: int) -> str:
    highest = max(history) or 1.0
    last = history[-columns:]
    return "".join(_BLOCKS[min(7, int(value / highest * 7.999))] for value in last)


def _calls(now: Snapshot, width: int) -> Text:
    items = [Text(f"{now.in_flight:,}{' of auto' if now.adapts else ''} in flight")]
    idle = idle_reason(now)
    if idle is not None:
        items[0] = Text.assemble(items[0], (f": {idle}", "yellow"))
    if now.parked:
        items.append(Text(f"{now.parked:,} parked", style="yellow"))
    if now.waiting_retries:
        items.append(Text(f"{plural(now.waiting_retries, 'retry', 'retries')} waiting"))
    if now.calls_avoided:
        items.append(Text(f"{plural(now.calls_avoided, 'call')} avoided"))
    if now.probes:
        items.append(Text(plural(now.probes, "probe")))
    return _line("calls", items, width)


def _batches(now: Snapshot, width: int) -> Text | None:
    words = batches_now(now.batches)
    return _line("batches", [Text(words)], width) if words else None


def _circuits(now: Snapshot, width: int, most: int) -> Iterable[Text]:
    """A line for each of the *most* routes, those in trouble first; where there are more, the last line counts them."""
    if now.routes_total > most:
        most -= 1
    for place, route in enumerate(now.routes[:most]):
        yield _line("circuit" if place == 0 else "", _circuit(route, width), width)
    rest = now.routes[most:]
    more = now.routes_total - len(now.routes[:most])
    if more > 0:
        states = Counter(state_word(route) for route in rest)
        if more > len(rest):  # beyond what the snapshot holds, where trouble comes first
            states[state_word(rest[-1]) if rest else "closed"] += more - len(rest)
        kinds = ", ".join(f"{number:,} {word}" for word, number in states.items())
        yield _line("", [Text(f"+{more:,} more: {kinds}", style="dim")], width)


def _gives_up(now: Snapshot, width: int) -> Text | None:
    """How long until the run stops waiting for a route, the one that is down the longest."""
    down = max(now.routes, key=lambda route: route.open_s or 0.0, default=None)
    left = None if down is None else outage_left(now, down)
    if left is None:
        return None
    flag = f"--max-outage {duration(now.max_outage_s)}"
    return _line(
        "gives up", [Text(f"in {duration(left)} ({flag})" if left else f"now ({flag})", style="yellow")], width
    )


def _paused(now: Snapshot, width: int) -> Text | None:
    """How long the user has paused the run."""
    if paused_phrase(now) is None or now.pause_s is None:
        return None
    what = "the requests in flight end" if now.in_flight else "nothing is sent"
    return _line("paused", [Text(f"for {duration(now.pause_s)}: {what}", style="bold yellow")], width)


def _circuit(route: RouteSnapshot, width: int) -> list[Text]:
    word = state_word(route)
    mark, style = _WORDS[word]
    # Room for the mark, and in trouble for how long it has lasted, and for the next probe where the terminal is wide.
    is_narrow = width < _NARROW_COLUMNS
    reserved = 10 if word == "closed" else 20 if is_narrow else 42
    label = _elided(route.label, max(8, width - _LABEL_COLUMNS - reserved))
    items = [Text.assemble((f"{mark} {word:<8}", style), label)]
    if route.open_s is not None:
        items.append(Text(f"{'' if is_narrow else 'for '}{duration(route.open_s)}", style="bold"))
    if word == "open":
        items.append(Text(next_probe_phrase(route)))
    if word == "paused":
        items.append(Text(pause_phrase(route), style="yellow"))
    if route.parked:
        items.append(Text(f"{route.parked:,} parked"))
    if route.in_flight:
        limit = "" if route.limit is None else f" of {route.limit:,}"
        items.append(Text(f"{route.in_flight:,}{limit} in flight"))
    if word == "closed" and route.recovered_s is not None and route.recovered_s < 60:
        items.append(Text(f"recovered {duration(route.recovered_s)} ago", style="green"))
    if route.reason:
        items.append(Text(shown(route.reason, 200), style="dim"))
    return items


def _failed(now: Snapshot, width: int) -> Text:
    items = [Text(plural(now.failed, "row"), style="bold red" if now.failed else "")]
    codes = list(now.errors_by_code.items())
    items += [Text(f"{shown(code, 40)} {number:,}", style="yellow") for code, number in codes[:_MOST_CODES]]
    if len(codes) > _MOST_CODES:
        items.append(Text(f"+{len(codes) - _MOST_CODES} more codes", style="dim"))
    if codes:
        items[1] = Text.assemble("attempts: ", items[1])
    return _line("failed", items, width)


def _tokens(now: Snapshot, width: int) -> Text | None:
    items = []
    if now.input_tokens or now.output_tokens:
        items += [Text(f"{count(now.input_tokens)} in"), Text(f"{count(now.output_tokens)} out")]
    if now.spending.cost_usd is not None:
        items.append(Text(usd(now.spending.cost_usd)))
    if now.latency_p50_s is not None:
        items += [Text(f"latency p50 {duration(now.latency_p50_s)}"), Text(f"p95 {duration(now.latency_p95_s)}")]
    return _line("tokens", items, width) if items else None


def _news(now: Snapshot) -> Text | None:
    if now.stopping is not None and now.exit_code is None:
        return _line("stopping", [Text(shown(now.stopping, 400), style="yellow")])
    if now.notices:
        last = now.notices[-1]
        return _line(last.level, [Text(shown(last.message, 400), style=_LEVELS[last.level])])
    return None


def _keys(now: Snapshot, width: int) -> Text | None:
    """What the keys do now."""
    if now.stopping is not None or now.exit_code is not None:
        return None
    first = "p pause" if now.pause_s is None else "r resume"
    items = (first, "+ more at once", "- fewer", "q finish and stop", "? help")
    return _line("keys", [Text(item, style="dim") for item in items], width)


def _line(label: str, items: Iterable[Text], width: int | None = None) -> Text:
    """*items* behind *label*, dots between; from the first one that passes *width* on they are left out."""
    line = Text.assemble((f"{label:<{_LABEL_COLUMNS}}", "dim"))
    for place, item in enumerate(items):
        if place and width is not None and line.cell_len + 3 + item.cell_len > width:
            # What is left of a long last item still tells more than nothing.
            if width - line.cell_len >= 12:
                line.append(" · ").append_text(item)
            break
        line.append(" · " if place else "").append_text(item)
    return line
