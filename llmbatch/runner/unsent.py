"""Rows that cannot be sent: each fails alone, unless none of the first rows can be sent, which ends the run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import starmap

from llmbatch.core.errors import MalformedRowError, MissingKeyError
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.recognize import MOST_MALFORMED, other_format, unsendable
from llmbatch.runner.context import RunContext

__all__ = ["Unsent"]


class Unsent:
    """Holds back the first rows of a run while none of them can be sent. *fail* ends the run with an error."""

    __slots__ = ("_fail", "_run", "held")

    def __init__(self, run: RunContext, *, fail: Callable[[Exception], None]) -> None:
        self._run = run
        self._fail = fail
        self.held: list[tuple[Row | Malformed, MalformedRowError | MissingKeyError]] | None = []
        """First rows while none of them can be sent; None: such rows fail alone."""

    def __repr__(self) -> str:
        return f"<Unsent {'nothing held' if self.held is None else len(self.held)}>"

    def add(self, row: Row | Malformed, error: MalformedRowError | MissingKeyError) -> None:
        """Fail a row that cannot be sent; if no row can be sent at all, end the run instead."""
        if self.held is not None and not self._may_hold(self.held, error):
            self.release()
        if self.held is None:
            self._finish(row, error)
            return
        self.held.append((row, error))
        first = _malformed(*self.held[0]) if len(self.held) == 1 else None
        other = None if first is None else other_format(self._run.source.name, first, unit=self._unit)
        if other is not None:
            self._fail(other)
        elif len(self.held) >= MOST_MALFORMED:
            self.end()

    @property
    def _unit(self) -> str:
        return str(getattr(self._run.source, "unit", "line"))

    def _may_hold(
        self,
        held: list[tuple[Row | Malformed, MalformedRowError | MissingKeyError]],
        error: MalformedRowError | MissingKeyError,
    ) -> bool:
        """Whether a first row of a stream is held back: so far none could be sent, and none is finished."""
        # Errors in rows of an iterable are results, not reasons to end the run.
        source = self._run.source
        return (source.can_skip or isinstance(error, MissingKeyError)) and source.rows_read == len(held) + 1

    def end(self) -> None:
        """The input has ended, or too many rows are held: if none can be sent, end the run."""
        if not self.held:
            return
        no_key = next((error for _, error in self.held if isinstance(error, MissingKeyError)), None)
        malformed = [item for item in starmap(_malformed, self.held) if item is not None]
        self._fail(no_key or unsendable(self._run.source.name, malformed, unit=self._unit))

    def release(self) -> None:
        """A row can be sent: the rows held back fail alone."""
        rows, self.held = self.held, None
        for row, error in rows or ():
            self._finish(row, error)

    def _finish(self, row: Row | Malformed, error: MalformedRowError | MissingKeyError) -> None:
        code = error.code if isinstance(error, MalformedRowError) else "no_key"
        self._run.finisher.finish_malformed(row, code, str(error))


def _malformed(row: Row | Malformed, error: MalformedRowError | MissingKeyError) -> Malformed | None:
    if isinstance(row, Malformed):
        return row
    if isinstance(error, MissingKeyError):
        return None
    return Malformed(row.number, row.hash, row.id_json, error.code, str(error))
