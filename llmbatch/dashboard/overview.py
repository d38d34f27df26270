"""The list of outputs that ``llmbatch view`` begins with: state, rows, cost and time of each, read when it changes."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import quote

from llmbatch.core.errors import LlmbatchError
from llmbatch.core.raw_json import JSON
from llmbatch.dashboard.catalog import Catalog, Entry, Listing
from llmbatch.dashboard.painter import Message, encode
from llmbatch.dashboard.sources import file_states
from llmbatch.display.report_read import read_report
from llmbatch.display.status_file import read_sidecar
from llmbatch.display.status_read import is_running
from llmbatch.money.text import usd
from llmbatch.report.html.page import live_head
from llmbatch.report.html.text import day_and_clock, escaped, table
from llmbatch.report.html.verdict import state_of
from llmbatch.report.iso_time import from_iso
from llmbatch.report.words import plural

__all__ = ["ListPainter", "page_path"]

_BUDGET_S: Final = 1.0
_SHOWN_OTHERS: Final = 100


@dataclass(frozen=True, slots=True)
class _Facts:
    """One line of the list. ``kind``: as :func:`~llmbatch.report.html.verdict.state_of`."""

    state: str = "being read …"
    kind: str = "plain"
    rows: int | None = None
    total: int | None = None
    failed: int | None = None
    cost: Decimal | None = None
    began: float | None = None
    ended: float | None = None
    note: str = ""


def page_path(key: str) -> str:
    """The path of the page about the output *key*."""
    return f"/run/{quote(key, safe='/')}/"


class ListPainter:
    """The list. An output is read as a whole when its files have changed, a running one by its status file only."""

    def __init__(self, catalog: Catalog, *, version: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._catalog = catalog
        self._version = version
        self._clock = clock
        self._known: dict[Path, tuple[object, _Facts]] = {}
        self._shown = ""
        self._lock = threading.Lock()

    def page(self) -> str:
        """The document."""
        with self._lock:
            content = self._content()
        return (
            f'{live_head("llmbatch view", "/events")}<section id="list">\n{content}</section>\n'
            f"<footer>Made by llmbatch {escaped(self._version)}.</footer>\n</main>\n</body>\n</html>\n"
        )

    def message(self, number: int, *, is_last: bool = False) -> Message:
        """The list, where it has changed."""
        with self._lock:
            content = self._content()
            news = {} if content == self._shown else {"list": content}
            self._shown = content
        status = "The list has ended: llmbatch view was stopped." if is_last else "Live: updated once a second."
        whole = encode(number, status=status, parts={"list": content}, is_last=is_last)
        return Message(
            number, encode(number, status=status, parts=news, is_last=is_last), lambda: whole, is_last=is_last
        )

    def _content(self) -> str:
        listing = self._catalog.listing()
        self._read(listing)
        return _markup(
            listing, [(entry, self._known.get(entry.path, (None, _Facts()))[1]) for entry in listing.entries]
        )

    def _read(self, listing: Listing) -> None:
        """Read what has changed, for about a second; the rest has its turn next time."""
        paths = {entry.path for entry in listing.entries}
        self._known = {path: known for path, known in self._known.items() if path in paths}
        until = self._clock() + _BUDGET_S
        for path in sorted(paths, key=lambda path: path in self._known):
            state = file_states(path)
            if self._known.get(path, (None,))[0] == state:
                continue
            facts = self._facts_of_running(path)
            if facts is None:
                if self._clock() >= until:
                    continue
                facts = self._facts(path)
            self._known[path] = (state, facts)

    def _facts(self, path: Path) -> _Facts:
        try:
            report = read_report(path, version=self._version)
        except LlmbatchError as error:
            return _Facts("cannot be read", "bad", note=error.message)
        state, kind = state_of(report)
        return _Facts(
            state,
            kind,
            report.rows,
            report.total_rows,
            report.failed,
            report.cost_usd,
            report.began,
            report.ended,
            f"{report.history_note}: no charts over time" if report.history_note else "",
        )

    @staticmethod
    def _facts_of_running(path: Path) -> _Facts | None:
        """By the status file alone; None where no run goes on."""
        sidecar = read_sidecar(path)
        run = sidecar.get("run")
        if not isinstance(run, dict) or run.get("exit_code") is not None:
            return None
        try:
            if not is_running(path):
                return None
        except LlmbatchError:
            return None
        spending = run.get("spending")
        cost = spending.get("cost_usd") if isinstance(spending, dict) else None
        waits = sidecar.get("waits_for")
        return _Facts(
            "running",
            "plain",
            _count(run.get("done_rows")),
            _count(run.get("total_rows")),
            _count(run.get("failed")),
            Decimal(str(cost)) if isinstance(cost, (int, float)) and 0 <= cost < 1e12 else None,
            from_iso(sidecar.get("started")),
            None,
            f"waits for {waits}" if isinstance(waits, str) else "",
        )


def _count(value: JSON) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15 else None


def _markup(listing: Listing, lines: list[tuple[Entry, _Facts]]) -> str:
    states: dict[str, int] = {}
    for _, facts in lines:
        states[facts.state] = states.get(facts.state, 0) + 1
    counted = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
    title = f"{plural(len(lines), 'output')}: {counted}" if lines else "No output of llmbatch is here yet"
    text = f"<h1>{escaped(title)}</h1>\n"
    if lines:
        newest = sorted(lines, key=lambda line: (line[1].state != "running", -(line[1].ended or line[1].began or 0.0)))
        heads = ["output", "state", "rows", "failed", "cost", "began", "ended", "note"]
        text += table("Outputs", heads, [_row(*line) for line in newest], numeric=frozenset({2, 3, 4}))
    else:
        text += "<p>Begin with: llmbatch run prompts.jsonl -m PROVIDER/MODEL</p>\n"
    if listing.is_cut:
        text += "<p>There are more files than can be listed: name a smaller folder, or the outputs themselves.</p>\n"
    if listing.others:
        names = "".join(f"<li><code>{escaped(name, 300)}</code></li>" for name in listing.others[:_SHOWN_OTHERS])
        more = len(listing.others) - _SHOWN_OTHERS
        last = f"<li>and {more:,} more</li>" if more > 0 else ""
        what = plural(len(listing.others), "other file")
        text += (
            f'<details data-key="others"><summary>{what} of JSON lines, which llmbatch has not written</summary>'
            f"<ul>{names}{last}</ul></details>\n"
        )
    return text


def _row(entry: Entry, facts: _Facts) -> list[str]:
    rows = "" if facts.rows is None else f"{facts.rows:,}"
    if facts.rows is not None and facts.total is not None and facts.total > facts.rows:
        rows += f" of {facts.total:,}"
    return [
        f'<a class="name" href="{html.escape(page_path(entry.key))}">{escaped(entry.key, 300)}</a>',
        f'<span class="state {facts.kind}">{escaped(facts.state)}</span>',
        rows,
        "" if facts.failed is None else f"{facts.failed:,}",
        "" if facts.cost is None else escaped(usd(facts.cost)),
        *("" if at is None else day_and_clock(at, None) for at in (facts.began, facts.ended)),
        f'<span class="long">{escaped(facts.note, 300)}</span>' if facts.note else "",
    ]
