"""Writes output lines: one write for all lines of a turn of the event loop, and periodic syncs in a worker thread.

Rows never wait for the disk: :meth:`LineWriter.put_line` only appends to a list, which is written at the turn's end, or
by :meth:`LineWriter.flush` before requests are sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import anyio

from llmbatch.core.errors import WriteError
from llmbatch.core.rows import Result, encode_line
from llmbatch.outputs.file import Output
from llmbatch.outputs.stream import StreamOutput
from llmbatch.outputs.watch import FileChangedError

__all__ = ["LineWriter"]

_CONGESTED_BYTES = 8 * 1024 * 1024


class LineWriter:
    """Appends lines to *output*, which it does not close; the sink of a run whose results are lines.

    For one event loop. While there is something unsynced, a worker thread syncs at most every ``sync_interval``
    seconds, one sync at a time; with ``sync_in_thread`` off, under virtual time, it happens inline; with a
    ``sync_interval`` of None nothing is synced. Each time, and once more at the end, the file is watched
    (:meth:`~llmbatch.outputs.file.Output.watch`). The first failure goes to *on_error*, once, and :meth:`aclose`
    raises it; after it lines are refused and counted in ``lines_refused``. A stream whose reader is slow never blocks
    the loop: its lines are buffered, see :attr:`congested`.
    """

    def __init__(
        self,
        output: Output,
        *,
        sync_interval: float | None = 1.0,
        on_error: Callable[[WriteError], None] | None = None,
        sync_in_thread: bool = True,
    ) -> None:
        self.error: WriteError | None = None
        self.lines_refused = 0
        self.congested = False
        """Whether a stream's reader is so far behind that no more calls should be made; never for a file."""
        self._loop = asyncio.get_running_loop()
        self._output = output
        self._stream = output if isinstance(output, StreamOutput) and sync_in_thread else None
        self._interval = 1.0 if sync_interval is None else sync_interval
        self._sync = output.watch if sync_interval is None else output.sync
        self._sync_in_thread = sync_in_thread
        self._on_error = on_error
        self._lines: list[bytes] = []
        self._flush_planned = False
        self._backlog = bytearray()
        self._drained: asyncio.Event | None = None
        self._unsynced = False
        self._timer: asyncio.TimerHandle | None = None
        self._syncing: asyncio.Future[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<LineWriter {self._output.name}, {self.lines_written} lines written>"

    @property
    def lines_written(self) -> int:
        """Lines that have been written to the operating system."""
        return self._output.lines_written

    async def drained(self) -> None:
        """Wait until a stream's reader has read all buffered lines; at once for a file."""
        if self._drained is not None:
            await self._drained.wait()

    def put(self, result: Result) -> None:
        """Append the line of *result*, as :meth:`put_line`."""
        self.put_line(encode_line(result))

    def put_line(self, line: bytes) -> None:
        r"""Append *line*, which ends in ``\n``, at the end of this turn of the loop. Never blocks, never raises."""
        if self.error is not None or self._closed:
            self.lines_refused += 1
            return
        self._lines.append(line)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush_planned_lines)

    async def aclose(self) -> None:
        """Write and sync what is left; for a file, cancellation is raised only afterwards.

        Raises:
            WriteError: the first failure of this writer.
        """
        self._closed = True
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stream is not None:
            try:
                await self.drained()
            finally:
                # Not shielded: a reader that never reads would keep the run from ending.
                self._stream.unwatch_ready(self._loop)
        else:
            # Shielded: these lines are paid for, and a sync must not be left running on a file about to be closed.
            with anyio.CancelScope(shield=True):
                await self._sync_the_rest()
                self._watch_once_more()
        if self.error is not None:
            raise self.error

    async def synced(self) -> None:
        """Write all buffered lines, and return when they are on the disk, as far as this writer syncs.

        Raises:
            WriteError: the first failure of this writer.
        """
        self.flush()
        if self._stream is not None:
            await self.drained()
        else:
            await self._sync_the_rest()
        if self.error is not None:
            raise self.error

    def abandon(self) -> bool:
        """Drop what a stream's reader has not read yet (not for a file). Whether lines were dropped."""
        if self._stream is None or self._drained is None:  # which is there while the backlog has bytes
            return False
        self._closed = True
        self.lines_refused += self._backlog.count(b"\n") + len(self._lines)
        self._backlog.clear()
        self.congested = False
        self._lines.clear()
        self._stream.unwatch_ready(self._loop)
        self._drained.set()
        self._drained = None
        return True

    def flush(self) -> None:
        """Write all buffered lines now. Never raises: see the class."""
        if not self._lines or self.error is not None:
            return
        data = b"".join(self._lines)
        self._lines.clear()
        if self._stream is not None:
            self._backlog += data
            self._write_ready(self._stream)
            return
        try:
            self._output.write(data)
        except WriteError as error:
            self._fail(error)
        else:
            self._unsynced = True
            self._plan_sync()

    def _flush_planned_lines(self) -> None:
        self._flush_planned = False
        self.flush()

    def _fail(self, error: WriteError) -> None:
        if self.error is None:
            self.error = error
            self.lines_refused += len(self._lines)
            self._lines.clear()
            if self._on_error is not None:
                self._on_error(error)

    # Syncing a file

    def _plan_sync(self) -> None:
        if self._closed:
            return
        if self._unsynced and self._timer is None and self._syncing is None:
            self._timer = self._loop.call_later(self._interval, self._start_sync)

    def _start_sync(self) -> None:
        self._timer = None
        self._unsynced = False
        if self._sync_in_thread:
            try:
                self._syncing = self._loop.run_in_executor(None, self._sync)
            except RuntimeError:  # no thread can be started, or the executor is shut down
                self._sync_here()  # better a loop that waits for the disk than no sync
            else:
                self._syncing.add_done_callback(self._end_sync)
        else:
            self._sync_here()

    def _sync_here(self) -> None:
        try:
            self._sync()
        except WriteError as error:
            self._fail_sync(error)

    def _end_sync(self, done: asyncio.Future[None]) -> None:
        self._syncing = None
        try:
            done.result()
        except WriteError as error:
            self._fail_sync(error)
        self._plan_sync()

    def _fail_sync(self, error: WriteError) -> None:
        if isinstance(error, FileChangedError):
            error = self._save(error)
        else:
            self._output.cut_unsynced()
        self._fail(error)

    def _save(self, error: FileChangedError) -> WriteError:
        """Write the pending lines too, then save all lines; give the error that ends the run."""
        rest, self._lines = self._lines, []
        try:
            self._output.write(b"".join(rest))
        except WriteError:
            self.lines_refused += len(rest)
        return self._output.save(error)

    def _watch_once_more(self) -> None:
        if self.error is None:
            try:
                self._output.watch()
            except WriteError as error:
                self._fail_sync(error)

    async def _sync_the_rest(self) -> None:
        cancelled = None
        while self._syncing is not None or (self._unsynced and self.error is None):
            if self._syncing is None:
                self._start_sync()
                continue
            try:
                await asyncio.wait([self._syncing])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    # Draining a stream

    def _write_ready(self, stream: StreamOutput) -> None:
        """Write what the stream accepts, and watch it while something is left."""
        try:
            with memoryview(self._backlog) as waiting:
                written = stream.write_ready(waiting)
        except WriteError as error:
            self._backlog.clear()
            self._fail(error)
        else:
            del self._backlog[:written]
        self.congested = len(self._backlog) > _CONGESTED_BYTES
        if self._backlog and self._drained is None:
            self._drained = asyncio.Event()
            stream.watch_ready(self._loop, partial(self._write_ready, stream))
        elif not self._backlog and self._drained is not None:
            stream.unwatch_ready(self._loop)
            self._drained.set()
            self._drained = None
