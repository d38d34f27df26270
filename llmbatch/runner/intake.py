"""Where rows come in: the source, asked one row at a time, and whether it has ended, failed, or has nothing just now.

What it does not do: decide when a row may be read (:mod:`llmbatch.runner.dispatch` does) or what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable

from llmbatch.records import Malformed, Row
from llmbatch.runner.outlet import Outlet
from llmbatch.runner.ports import Source

__all__ = ["Intake"]


class Intake:
    """The reading end of one run. A user's iterable may raise anything; it ends the run in order, as ``error``."""

    def __init__(self, source: Source, outlet: Outlet, *, now: Callable[[], float]) -> None:
        self.ended = False
        """No new row will come."""
        self.hungry = False
        """The source had nothing right now: somebody should :meth:`wait` for it."""
        self.error: Exception | None = None
        self._source = source
        self._outlet = outlet
        self._now = now

    def pull(self) -> Row | Malformed | None:
        """The next row, or None: nothing right now (``hungry``), or nothing any more (``ended``)."""
        try:
            item = self._source.take()
        except Exception as error:  # noqa: BLE001 - see the class
            self.fail(error)
            return None
        if item is None:
            if self._source.exhausted:
                self.ended = True
                self._outlet.tell_progress(self._now(), exhausted=True)
            else:
                self.hungry = True
        return item

    async def wait(self) -> None:
        """Return when the source may have something again."""
        self.hungry = False
        try:
            await self._source.wait()
        except Exception as error:  # noqa: BLE001 - see the class
            self.fail(error)

    def stop(self) -> None:
        """Take no new rows from now on."""
        self.ended = True

    def fail(self, error: Exception) -> None:
        """Reading cannot go on."""
        self.error = error
        self.ended = True
