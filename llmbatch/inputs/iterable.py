"""Reads rows from a Python iterable or async iterable, one at a time.

With backpressure: an item is requested only when a row is needed, and at most one is buffered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator

from llmbatch.core.errors import InputError
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.rows import row_from_value
from llmbatch.inputs.shape import RowShape, Shaper

__all__ = ["IterableSource"]


class IterableSource:
    """Iterates over *rows*, numbered from 1; ``limit`` bounds them, with ``opaque`` any object is a row.

    ``shape``: how an item becomes a request.
    One consumer, on one event loop. An async iterable runs in one task of its own from its first item to its end, so
    that context managers inside a generator are entered and left in the same task; :meth:`aclose` ends that task.
    Exceptions of the iterable are raised once, by :meth:`take` (iterable) or :meth:`wait` (async iterable).
    Canceling :meth:`wait` leaves the pulled item for the next call.

    Raises :class:`~llmbatch.core.errors.InputError` for a string, bytes, a mapping or a table: they iterate over their
    own parts, or over the names of their columns.
    """

    name: str = "the rows"
    fraction: float | None = None
    can_skip: bool = False
    can_reread: bool = False
    skipped: int = 0
    torn_line: int | None = None

    def __init__(
        self,
        rows: Iterable[object] | AsyncIterable[object],
        *,
        limit: int | None = None,
        opaque: bool = False,
        shape: RowShape | None = None,
    ) -> None:
        _check_collection(rows)
        self.exhausted = limit is not None and limit <= 0
        self.rows_read = 0
        self._limit = limit
        self._opaque = opaque
        self._shaper = Shaper(shape, is_data=False) if shape else None
        self._rows: Iterator[object] | None = None
        self._pump: _Pump | None = None
        if isinstance(rows, AsyncIterable) and not isinstance(rows, Iterable):
            self._pump = _Pump(aiter(rows))
        else:
            self._rows = iter(rows)  # also what can only be indexed, such as a data set of PyTorch
        self._pulled: list[object] = []

    def __repr__(self) -> str:
        return f"<IterableSource {'exhausted' if self.exhausted else f'row {self.rows_read}'}>"

    def take(self) -> Row | Malformed | None:
        """Return the next row; None if none is available yet, or at the end. Raises what the iterable raises."""
        if self.exhausted:
            return None
        if self._rows is None:
            return self._row(self._pulled.pop()) if self._pulled else None
        try:
            item = next(self._rows)
        except StopIteration:
            self.exhausted = True
            return None
        except Exception:
            self.exhausted = True
            raise
        return self._row(item)

    def skip(self, row: Row) -> None:
        """Not supported: an iterable cannot be read again.

        Raises:
            RuntimeError: always; ``can_skip`` is False.
        """
        raise RuntimeError(f"row {row.number} of an iterable cannot be read in a later pass")

    def rewind(self) -> bool:
        """False: there is no other pass."""
        return False

    def finished(self, number: int) -> None:
        """Do nothing: there is no later pass."""

    def keep(self, row: Row) -> bool:
        """False: the row is only in memory."""
        return False

    def reread(self, row: Row) -> Row:
        """*row* itself: its fields were not dropped."""
        return row

    async def wait(self) -> None:
        """Pull the next item of an async iterable; return when there is one, or no more."""
        if self.exhausted or self._pump is None or self._pulled:
            await asyncio.sleep(0)
            return
        try:
            self._pulled.append(await self._pump.pull())
        except StopAsyncIteration:
            self.exhausted = True
        except Exception:
            self.exhausted = True
            raise

    def close(self) -> None:
        """Stop iterating; a generator is closed, an async one as soon as the event loop runs."""
        self.exhausted = True
        self._pulled.clear()
        if isinstance(self._rows, Generator):
            self._rows.close()
        if self._pump is not None:
            self._pump.cancel()

    async def aclose(self) -> None:
        """As :meth:`close`, and wait until an async generator has cleaned up."""
        self.close()
        if self._pump is not None:
            await self._pump.join()

    def _row(self, item: object) -> Row | Malformed:
        self.rows_read += 1
        if self.rows_read == self._limit:
            self.exhausted = True
        return row_from_value(self.rows_read, item, opaque=self._opaque, shaper=self._shaper)


def _check_collection(rows: object) -> None:
    """Refuse what iterates over something other than rows.

    Raises:
        InputError: a string, bytes, a mapping, a table such as a DataFrame, or nothing that iterates.
    """
    kind = type(rows).__name__
    shown = "None" if rows is None else f"one {kind}"
    if isinstance(rows, (str, bytes, bytearray, dict)):
        raise InputError(f"rows is one {kind}, not a collection of rows", hint="pass a list of rows")
    if not any(hasattr(rows, way) for way in ("__iter__", "__aiter__", "__getitem__")):
        raise InputError(f"rows is {shown}, not a collection of rows", hint="pass an iterable, or an async iterable")
    if isinstance(rows, type) or not (hasattr(rows, "columns") or hasattr(rows, "keys")):
        return
    for method, how in _TO_ROWS.items():
        if callable(getattr(rows, method, None)):
            hint = f"pass its rows: rows.{how}"
            break
    else:
        hint = "pass a list of its rows, each a dict with a prompt or messages"
    raise InputError(f"rows is one {kind}, which gives the names of its columns, not its rows", hint=hint)


_TO_ROWS = {
    "to_dicts": "to_dicts()",  # polars
    "to_pylist": "to_pylist()",  # pyarrow
    "to_dict": 'to_dict("records")',  # pandas
    "mappings": "mappings().all()",  # SQLAlchemy
    "values": "values()",
}
"""Methods that tell the kind of a table, and how its rows are asked for."""


class _Pump:
    """Task that steps through an async iterable, one item per :meth:`pull`."""

    def __init__(self, rows: AsyncIterator[object]) -> None:
        self._rows = rows
        self._wanted = asyncio.Event()
        self._answer: asyncio.Future[object] | None = None
        self._task: asyncio.Task[None] | None = None

    async def pull(self) -> object:
        """Give the next item. The next pull continues a canceled one.

        Raises:
            StopAsyncIteration: there is none. Anything else: the iterable raised it.
        """
        loop = asyncio.get_running_loop()
        if self._answer is None:
            self._answer = loop.create_future()
            self._wanted.set()
        if self._task is None:
            # Outside a task group: it lives from one pull to another, and the source's aclose() waits for its end.
            self._task = loop.create_task(self._run(), name="llmbatch rows")
        await asyncio.wait([self._answer])
        answer, self._answer = self._answer, None
        return answer.result()

    def cancel(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
        if self._answer is not None and self._answer.done() and not self._answer.cancelled():
            self._answer.exception()  # the exception is ignored on purpose: keep asyncio from logging it

    async def join(self) -> None:
        """Wait for the end of the task; raises what the iterable raised while it was closed."""
        if self._task is not None:
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    async def _run(self) -> None:
        try:
            while await self._wanted.wait() and self._answer is not None:
                self._wanted.clear()
                self._answer.set_result(await anext(self._rows))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling() or self._answer is None or self._answer.done():
                raise
            # Nobody has canceled this task. As it is, it would be taken for a cancellation of the run.
            message = "the iterable of rows raised CancelledError: something that it awaited was canceled"
            failure = InputError(message, hint="catch it in the iterable, or raise another exception")
            failure.__cause__ = error
            self._answer.set_exception(failure)
        except Exception as error:  # noqa: BLE001 - whatever the iterable raises is passed to the caller
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(error)
        finally:
            if self._answer is not None:
                self._answer.cancel()
            if isinstance(self._rows, AsyncGenerator):
                await self._rows.aclose()
