"""Where rows come in: which may be read now, which wait in memory, and which are left for a later pass.

Reading is pulled by free slots. A row of a route that takes none is parked; beyond a bounded number it is left for a
later pass over the input (finished rows have their bit, so a pass is what resuming is), and no route waits for another.
A waiting row that is large keeps its offset, not its body.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import starmap

from llmbatch.core.calls import Request
from llmbatch.core.errors import InputError, MalformedRowError, MissingKeyError, WriteError
from llmbatch.core.events import Notice
from llmbatch.core.ports import first_request
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.recognize import MOST_MALFORMED, other_format, unsendable
from llmbatch.runner.backlog import SMALL_BYTES, PendingRow, RowState, RunRoute
from llmbatch.runner.context import RunContext
from llmbatch.runner.tenant_keys import missing_key_text

__all__ = ["Reading"]

TURN = 256
"""Rows handled at most before the event loop gets a turn."""

MOST_WAITING_BYTES = 64 * 1024 * 1024
"""What waiting rows may take in memory, where the input cannot be read again."""

ROW_BYTES = 2000
"""What a waiting row takes besides a large body."""

STANDARD_INPUT = "standard input"


class Reading:
    """The reading end of one run. A user's iterable may raise anything; it ends the run in order, as ``error``.

    *park* takes a row whose route takes none.
    """

    def __init__(self, run: RunContext, *, park: Callable[[PendingRow, float], None]) -> None:
        self.ended = False
        """No new row will come in this pass over the input."""
        self.hungry = False
        """The source had nothing right now: somebody should :meth:`wait` for it."""
        self.error: Exception | None = None
        self._stopped = False
        self._open_route: RunRoute | None = None
        """A route that has room, as :meth:`may_read` found last."""
        self._run = run
        self._park = park
        self._source = run.source
        self._is_later_pass = False
        self._waiting_bytes = 0
        self._name: str = getattr(run.source, "name", STANDARD_INPUT)
        self._held: list[tuple[Row | Malformed, MalformedRowError | MissingKeyError]] | None = []
        """The first rows, while none of them could be sent. None: such rows fail alone."""

    def __repr__(self) -> str:
        return f"<Reading {'ended' if self.ended else 'open'}, {self._source.skipped} rows left for later>"

    @property
    def is_over(self) -> bool:
        """Whether no row will come any more, in a later pass neither."""
        return self.ended and (self._stopped or not self._source.skipped)

    @property
    def left(self) -> int:
        """Rows left for a later pass."""
        return self._source.skipped

    def next_row(self, now: float) -> PendingRow | None:
        """The next new row that may go at once."""
        for _ in range(TURN):
            if not self.may_read(now):
                return None
            pending = self._next(now)
            if pending is not None:
                if pending.route is self._open_route or pending.route.state.room(now):
                    return pending
                self.set_aside(pending, now)
            elif self.hungry or self.ended:
                return None
        self.hungry = True
        return None

    def next_of(self, wanted: RunRoute, now: float, jump: int) -> PendingRow | None:
        """A new row of *wanted* to probe with, *jump* of its rows further on; those between wait."""
        found: PendingRow | None = None
        for _ in range(TURN + 2 * jump):
            if not self.can_read_for(wanted):
                break
            pending = self._next(now)
            if pending is None:
                if self.hungry or self.ended:
                    break
                continue
            if pending.route is not wanted:
                self.set_aside(pending, now)
                continue
            if found is not None:
                self.set_aside(found, now)
            found = pending
            if not jump:
                break
            jump -= 1
        return found

    def may_read(self, now: float) -> bool:
        """Whether a new row could be used: some route takes rows, and what waits has room."""
        self._open_route = None
        if self.ended and not self._start_pass(now):
            return False
        routes = self._run.routes
        if self._is_full() or routes.are_many:
            return False
        down = not routes.known
        for route in routes.known.values():
            if route.state.room(now) and (not route.queue or route.waiting < self._run.most_waiting):
                self._open_route = route
                return True
            down = down or self._is_down(route)
        # The rows of a route that is certainly down tell nothing of the others: look for theirs.
        return down or (routes.may_differ and self._source.can_skip)

    def _is_down(self, route: RunRoute) -> bool:
        """Whether the route takes no rows for long, and reading on costs no room."""
        state = route.state
        if self._run.options.on_outage == "fail" and state.is_confirmed:
            return True
        return self._source.can_skip and (state.is_confirmed or state.dead is not None or state.throttle.given_up)

    def can_read_for(self, wanted: RunRoute) -> bool:
        """Whether a new row may be read to probe *wanted* with."""
        if self._run.routes.are_many or (self.ended and not (wanted.skipped and self._rewind())):
            return False
        return self._source.can_skip or not self._is_full()

    def could_read_for(self, wanted: RunRoute) -> bool:
        """Whether :meth:`next_of` may find a row, without reading any."""
        if (self.ended and (not wanted.skipped or self._stopped)) or wanted.live >= 2 * self._run.most_waiting:
            return False
        if self._run.routes.are_many:
            return False
        return self._source.can_skip or not self._is_full()

    def _next(self, now: float) -> PendingRow | None:
        """The next row that is a request; None for one that is not, or where there is none (``hungry``, ``ended``)."""
        item = self._pull()
        if item is None:
            return None
        if isinstance(item, Malformed):
            self._cannot_send(item, MalformedRowError(item.code, item.message))
            return None
        if self._is_later_pass and item.number in self._run.backlog.rows:
            return None
        try:
            request = first_request(self._run.provider, item)
        except (MalformedRowError, MissingKeyError) as error:
            self._cannot_send(item, error)
            return None
        except Exception as error:  # noqa: BLE001 - no model: the run cannot go on
            self.fail(error)
            return None
        if self._held is not None:
            self._release()
        run = self._run
        pending = PendingRow(item, request, run.routes.route_of(item, request.route, now))
        known = run.provider.lookup(item, request)
        if known is not None:
            run.finisher.finish(pending, known, "success" if known.verdict == "success" else "failed", now)
            return None
        run.backlog.add(pending)
        return pending

    def _cannot_send(self, row: Row | Malformed, error: MalformedRowError | MissingKeyError) -> None:
        """The row fails alone; where no row can be sent at all, the run ends and no row fails."""
        if self._held is not None and not self._may_hold(error):
            self._release()
        if self._held is None:
            self._finish_unsent(row, error)
            return
        self._held.append((row, error))
        first = self._malformed(*self._held[0]) if len(self._held) == 1 else None
        other = None if first is None else other_format(self._name, first)
        if other is not None:
            self.fail(other)
        elif len(self._held) >= MOST_MALFORMED:
            self._refuse_held()

    def _may_hold(self, error: MalformedRowError | MissingKeyError) -> bool:
        """Whether a row may wait for one that can be sent: all rows before it do, none is finished."""
        assert self._held is not None  # noqa: S101 - the caller has looked
        # What an iterable gives is the caller's own data, and its errors are values.
        may_refuse = self._source.can_skip or isinstance(error, MissingKeyError)
        return may_refuse and self._source.rows_read == len(self._held) + 1

    def _refuse_held(self) -> None:
        """End the run: none of the rows held can be sent."""
        held = self._held or []
        no_key = next((error for _, error in held if isinstance(error, MissingKeyError)), None)
        malformed = [item for item in starmap(self._malformed, held) if item is not None]
        self.fail(no_key or unsendable(self._name, malformed))

    def _malformed(self, row: Row | Malformed, error: MalformedRowError | MissingKeyError) -> Malformed | None:
        if isinstance(row, Malformed):
            return row
        if isinstance(error, MissingKeyError):
            return None
        return Malformed(row.number, row.hash, row.id_json, error.code, str(error))

    def _release(self) -> None:
        """A row can be sent: those held fail alone."""
        rows, self._held = self._held or (), None
        for row, error in rows:
            self._finish_unsent(row, error)

    def _finish_unsent(self, row: Row | Malformed, error: MalformedRowError | MissingKeyError) -> None:
        code = error.code if isinstance(error, MalformedRowError) else "no_key"
        self._run.finisher.finish_malformed(row, code, str(error))

    def _pull(self) -> Row | Malformed | None:
        try:
            item = self._source.take()
        except Exception as error:  # noqa: BLE001 - see the class
            self.fail(error)
            return None
        if item is None:
            if self._source.exhausted:
                self.ended = True
                if self._held:
                    self._refuse_held()
                self._tell_missing_key()
                self._run.finisher.tell_progress(self._run.now(), exhausted=True)
            else:
                self.hungry = True
        return item

    def _tell_missing_key(self) -> None:
        path = self._run.routes.missing_key
        if path and not self._is_later_pass:
            text = missing_key_text(path)
            self._run.emit(Notice(self._run.now(), "warning", text, "check its spelling, such as metadata.tenant"))

    def _is_full(self) -> bool:
        """Whether rows wait that can neither be kept nor left for a later pass."""
        if self._source.can_skip:
            return False
        return self._waiting_bytes + ROW_BYTES * len(self._run.backlog.rows) >= MOST_WAITING_BYTES

    def _start_pass(self, now: float) -> bool:
        """Read again the rows that were left, if their route may take them now."""
        if self._stopped or not self._source.skipped:
            return False
        most = self._run.most_waiting
        useful = any(
            route.skipped and route.state.takes_calls(now) and route.waiting < most // 2 for route in self._run.routes
        )
        return useful and self._rewind()

    def _rewind(self) -> bool:
        if self._stopped or not self._source.rewind():
            return False
        for route in self._run.routes:
            route.skipped = False
        self.ended = False
        self._is_later_pass = True
        return True

    # Rows that wait.

    def set_aside(self, pending: PendingRow, now: float) -> None:
        """A row that may not go now: keep it in memory, or leave it for a later pass over the input."""
        run, route, state = self._run, pending.route, pending.route.state
        waits = state.is_closed and state.dead is None and not state.throttle.given_up
        most = run.most_waiting
        is_full = (route.waiting if waits else len(route.parked)) >= most or route.live > 2 * most
        if self._source.can_skip and (is_full or self._waiting_bytes >= MOST_WAITING_BYTES):
            self._skip(pending)
        elif waits:
            run.backlog.enqueue(pending)
        else:
            self._park(pending, now)

    def _skip(self, pending: PendingRow) -> None:
        try:
            self._source.skip(pending.row)
        except WriteError as error:  # no room to spool a row of standard input
            self.fail(error)
            return
        self._run.finisher.marks = True
        self._run.backlog.drop(pending)
        pending.route.skipped = True

    def slim(self, pending: PendingRow) -> None:
        """The row waits: drop its body where that is large, to be made or read again when it goes."""
        request = pending.request
        if request is None or pending.spent is not None or len(request.body) <= SMALL_BYTES:
            return
        pending.bytes = len(request.body)
        pending.request = None
        try:
            is_kept = self._source.keep(pending.row)
        except WriteError as error:  # no room to spool a row of standard input
            self.fail(error)
            is_kept = False
        if is_kept:
            metadata = pending.row.fields.get("metadata")
            pending.row.fields = {} if metadata is None else {"metadata": metadata}
            pending.slim = True
        else:
            self._waiting_bytes += pending.bytes

    def request_of(self, pending: PendingRow) -> Request | None:
        """What the row is sent as; None where the input has changed under the run, which ends it."""
        if pending.request is not None:
            return pending.request
        try:
            if pending.slim:
                pending.row = self._source.reread(pending.row)
                pending.slim = False
            else:
                self._waiting_bytes -= pending.bytes
        except InputError as error:
            self.fail(error)
            return None
        pending.request = self._run.provider.request(pending.row, pending.route.route)
        return pending.request

    def drop(self, pending: PendingRow) -> None:
        """The row is done, waiting or not."""
        if pending.request is None and not pending.slim and pending.state is not RowState.DONE:
            self._waiting_bytes -= pending.bytes

    async def wait(self) -> None:
        """Return when the source may have something again."""
        self.hungry = False
        try:
            await self._source.wait()
        except Exception as error:  # noqa: BLE001 - see the class
            self.fail(error)

    def stop(self) -> None:
        """Take no new rows from now on."""
        self.ended = self._stopped = True

    def fail(self, error: Exception) -> None:
        """Reading cannot go on."""
        self.error = error
        self.stop()
