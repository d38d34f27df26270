"""What was asked: the prompts of the rows that a dashboard shows, read from the input beside the run."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace

from llmbatch.core.errors import LlmbatchError
from llmbatch.core.raw_json import RawJsonError, parse
from llmbatch.inputs.input import Input
from llmbatch.inputs.records import Record
from llmbatch.report.html.data import LatestRow

__all__ = ["Prompts"]

_FIELDS = ("prompt", "messages", "input", "body", "params", "text")
_MOST_CHARACTERS = 2000
_KEPT = 5000
_BUDGET_S = 0.01


class Prompts:
    """The prompts of rows, as far as they have been read: forward only, for a hundredth of a second each time.

    Of the last 5,000 rows that were read the first 2,000 characters are kept. An input that cannot be read again, such
    as a pipe, has none.
    """

    def __init__(self, source: Input) -> None:
        self._records: Generator[Record] | None = source.records() if source.is_rereadable else None
        self._known: dict[int, str] = {}

    def added_to(self, rows: list[LatestRow]) -> list[LatestRow]:
        """*rows* with their prompts; empty where it is not known."""
        self._read_up_to(max((row.number for row in rows), default=0))
        return [replace(row, prompt=self._known.get(row.number, "")) for row in rows]

    def _read_up_to(self, number: int) -> None:
        until = time.thread_time() + _BUDGET_S
        last = next(reversed(self._known), 0)
        try:
            while self._records is not None and last < number and time.thread_time() < until:
                record = next(self._records, None)
                if record is None:
                    self._records = None
                    return
                last = record.number
                self._known[last] = _prompt(record)
                if len(self._known) > _KEPT:
                    del self._known[next(iter(self._known))]
        except LlmbatchError:
            self._records = None


def _prompt(record: Record) -> str:
    text = next((record.fields[name] for name in _FIELDS if name in record.fields), "")
    if not text:
        text = ", ".join(f"{name}: {value[:200]}" for name, value in list(record.fields.items())[:20])
    if text.startswith('"'):
        try:
            return str(parse(text))[:_MOST_CHARACTERS]
        except RawJsonError:
            pass
    return text[:_MOST_CHARACTERS]
