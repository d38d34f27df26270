"""Read rows from the source: when, which of them wait in memory, and which are skipped until a later pass.

Rows are read when slots are free. A row whose route takes none is parked; beyond a bounded number it is skipped and
read in a later pass over the input, as in resuming, so that no route waits for another. Of a large waiting row the
offset is kept, not the body.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from llmbatch.core.calls import Outcome, Route
from llmbatch.core.errors import MalformedRowError, MissingKeyError, UsageError, WriteError
from llmbatch.core.events import Notice
from llmbatch.core.rows import Malformed
from llmbatch.runner.context import RunContext
from llmbatch.runner.pending import PendingRow, RoutesByRank, RunRoute
from llmbatch.runner.tenant_keys import missing_key_text
from llmbatch.runner.unsent import Unsent
from llmbatch.runner.waiting_bodies import WaitingBodies

__all__ = ["Reading"]

_ONE_ROUTE = "a provider gives at least one route for each row, or raises MalformedRowError"

TURN = 256
"""Maximum rows read before the event loop gets a turn."""

SEARCHED_ROWS = 20_000
"""Rows of a file that are searched for another model if the only one so far was given up; it takes about a second."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Maximum memory of waiting rows if the input cannot be read again, in bytes."""

ROW_BYTES = 2000
"""Estimated memory of a waiting row without a large body, in bytes."""


class Reading:
    """Reads the rows of one run. An exception of the source ends the run; it is kept as ``error``.

    Belongs to one event loop.
    """

    def __init__(self, run: RunContext) -> None:
        self.ended = False
        """Whether this pass over the input has ended."""
        self.needs_input = False
        """Whether the source had no row right now, so that the engine should :meth:`wait` for it."""
        self.error: Exception | None = None
        self._stopped = False
        self._open_route: RunRoute | None = None
        """Route with room that :meth:`may_read` found last."""
        self.jumping: tuple[RunRoute, int] | None = None
        """Route whose last probe was to come from further ahead, and how many of its rows are still to be skipped."""
        self._run = run
        self._source = run.source
        self._is_later_pass = False
        self._unsent = Unsent(run, fail=self.fail)
        self._park: Callable[[PendingRow, float], None]
        self.bodies = WaitingBodies(run, fail=self.fail)

    def settle_with(
        self, *, park: Callable[[PendingRow, float], None], fail_row: Callable[[PendingRow, Outcome, float], None]
    ) -> None:
        """Call *park* for a row whose route takes none, *fail_row* for one that can be no request any more."""
        self._park, self.bodies.fail_row = park, fail_row

    def __repr__(self) -> str:
        return f"<Reading {'ended' if self.ended else 'open'}, {self._source.skipped} rows left for later>"

    @property
    def is_over(self) -> bool:
        """Whether no row will come any more, not even in a later pass."""
        return self.ended and (self._stopped or not self._source.skipped)

    def is_over_for(self, route: RunRoute) -> bool:
        """Whether all rows of *route* were read, though rows of others may come in a later pass."""
        return self.is_over if route.skipped else self.ended

    @property
    def is_held(self) -> bool:
        """Whether the source gives no row before one that was read has its result, as for results in order."""
        return bool(getattr(self._source, "is_held", False))

    def lend(self) -> bool:
        """Let a source that is held give one more row, whose answer is wanted; False if it gives none."""
        lend = getattr(self._source, "lend", None)
        return lend is not None and lend()

    def lend_to_probe(self, rows: int) -> None:
        """Let a source that is held give *rows* more rows, to probe an open circuit."""
        if self.is_held:
            self._source.lend_to_probe(rows)  # type: ignore[attr-defined]  # only such a source is ever held

    @property
    def left(self) -> int:
        """Number of rows skipped for a later pass."""
        return self._source.skipped

    @property
    def may_have_others(self) -> bool:
        """Whether rows of routes that are not known yet may follow at once: the input is a file with more rows."""
        is_file = self._source.can_skip and self._source.fraction is not None
        return is_file and not self.ended and self._source.rows_read < SEARCHED_ROWS

    def next_row(self, now: float) -> PendingRow | None:
        """Read the next row that may be sent at once; None if there is none now."""
        for _ in range(TURN):
            if not self.may_read(now):
                return None
            pending = self._next(now)
            if pending is not None:
                if pending.route is self._open_route or pending.route.room(now):
                    return pending
                self.set_aside(pending, now)
            elif self.needs_input or self.ended:
                return None
        self.needs_input = True
        return None

    def most_skipped(self, wanted: RunRoute) -> int:
        """How many rows may be read over to probe *wanted*: where no later pass can read them again, they wait here."""
        return SEARCHED_ROWS if self._source.can_skip else max(0, self._run.max_waiting - wanted.unfinished)

    def next_of(self, wanted: RunRoute, now: float, jump: int) -> PendingRow | None:
        """Read a row of *wanted* to probe with, skipping *jump* of its rows, which wait; None if there is none."""
        found: PendingRow | None = None
        self.jumping = None
        for _ in range(TURN + 2 * jump):
            if not self.can_read_for(wanted):
                break
            pending = self._next(now, wanted)
            if pending is None:
                if self.needs_input and jump:
                    self.jumping = wanted, jump
                if self.needs_input or self.ended:
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

    def jump_on(self, now: float) -> None:
        """Read on as far as the last probe was to jump, where the input gives its rows one at a time (``jumping``)."""
        assert self.jumping is not None  # noqa: S101 - see above
        wanted, jump = self.jumping
        while jump and not wanted.state.is_closed and self.can_read_for(wanted):
            pending = self._next(now, wanted)
            if pending is not None:
                self.set_aside(pending, now)
                jump -= pending.route is wanted
            elif self.needs_input or self.ended:
                break
        if not jump:
            self.needs_input = True  # the next one is what probes
        self.jumping = (wanted, jump) if jump and not wanted.state.is_closed and not self.ended else None

    def may_read(self, now: float) -> bool:
        """Whether a new row can be used: some route takes rows, and waiting rows leave memory for it."""
        self._open_route = None
        if self.ended and not self._start_pass(now):
            return False
        routes = self._run.routes
        if (not self._source.can_skip and self._is_full()) or (len(routes.known) > 1 and routes.is_full):
            return False
        down = not routes.known
        routing = self._run.routing
        for route in routes.known.values():
            if (
                route.room(now)
                and (not route.queue or route.waiting < self._run.max_waiting)
                and (not routing.is_used or routing.is_wanted(route))
            ):
                self._open_route = route
                return True
            down = down or (self._is_down(route) and not routing.is_covered(route))
        # All known routes may be down: rows of other routes may follow.
        return down or (routes.has_tenants and self._source.can_skip)

    def _is_down(self, route: RunRoute) -> bool:
        """Whether the route takes no rows for long, and its rows can be skipped or failed."""
        state = route.state
        if self._run.options.on_outage == "fail" and state.is_confirmed:
            return True
        if state.dead is not None and len(self._run.routes) == 1 and self._source.rows_read >= SEARCHED_ROWS:
            return False
        return self._source.can_skip and (state.is_confirmed or state.dead is not None or state.throttle.given_up)

    def can_read_for(self, wanted: RunRoute) -> bool:
        """Whether a new row may be read to probe *wanted* with; starts another pass if needed."""
        if self._run.routes.is_full or (self.ended and not (wanted.skipped and self._rewind())):
            return False
        return self._source.can_skip or not self._is_full()

    def could_read_for(self, wanted: RunRoute) -> bool:
        """Whether :meth:`next_of` may find a row, without reading any."""
        if (self.ended and (not wanted.skipped or self._stopped)) or wanted.unfinished >= 2 * self._run.max_waiting:
            return False
        if self._run.routes.is_full:
            return False
        return self._source.can_skip or not self._is_full()

    def _next(self, now: float, wanted: RunRoute | None = None) -> PendingRow | None:
        """Read the next row that is a request; None for one that is not, or if there is none now.

        Of several routes it gets *wanted* if that is one of them.
        """
        try:
            item = self._source.take()
        except Exception as error:  # noqa: BLE001 - see the class
            self.fail(error)
            return None
        if item is None:
            self._note_no_row()
            return None
        if isinstance(item, Malformed):
            self._unsent.add(item, MalformedRowError(item.code, item.message))
            return None
        if self._is_later_pass and item.number in self._run.backlog.rows:
            return None
        run = self._run
        routes: RoutesByRank = ()
        try:
            candidates = run.provider.routes(item)
            if not candidates:
                raise UsageError(
                    f"{type(run.provider).__name__}.routes() gave none for row {item.number}", hint=_ONE_ROUTE
                )
            if len(candidates) == 1:
                route = run.routes.route_of(item, candidates[0], now)
                route.is_first = True
            else:
                routes = run.routing.known(item, candidates, now)
                route = run.routing.choose(routes, now, wanted)
            request = run.provider.request(item, route.route)
            if run.costs.cap is not None:
                run.costs.check_prices(candidates, request)
        except (MalformedRowError, MissingKeyError) as error:
            self._unsent.add(item, error)
            return None
        except Exception as error:  # noqa: BLE001 - such as a missing model: the run cannot continue
            self.fail(error)
            return None
        if self._unsent.held is not None:
            self._unsent.release()
        pending = PendingRow(item, request, route, routes)
        known = run.provider.lookup(item, request)
        key = None
        if known is None:
            key = run.provider.flight_key(request)
            if key is None:
                run.backlog.add(pending)
                return pending
            if routes:
                known = self._look_elsewhere(pending, candidates)
                # Equal rows are known by the request of their first route, whichever takes them now or later.
                key = run.provider.flight_key(run.provider.request(item, candidates[0]))
        if known is not None:
            run.finisher.finish(pending, known, "success" if known.verdict == "success" else "failed", now)
        elif key is None or not self._follows(pending, key):
            run.backlog.add(pending)
            return pending
        if routes:
            run.routing.take_back()
        return None

    def _look_elsewhere(self, pending: PendingRow, candidates: Sequence[Route]) -> Outcome | None:
        """An answer that is known of another route of the row, preferred ones first; None if there is none."""
        run, row = self._run, pending.row
        for route in candidates:
            if route.label != pending.route.route.label:
                known = None
                with contextlib.suppress(MalformedRowError):  # such as of a file that is gone since
                    known = run.provider.lookup(row, run.provider.request(row, route))
                if known is not None:
                    pending.route = run.routes.route_of(row, route, run.now())
                    return known
        return None

    def _follows(self, pending: PendingRow, key: bytes) -> bool:
        """Whether an equal request is on its way already, so that the row waits for its answer."""
        most = self._run.max_waiting if self._source.can_skip else None
        follows = self._run.followers.join(key, pending, most)
        if follows is None:
            try:
                self._source.skip(pending.row)
            except WriteError as error:
                self.fail(error)
            self._run.finisher.marks = True
            return True
        return follows

    def _note_no_row(self) -> None:
        """Note that the source gave no row: it has ended, or the next one has not come yet."""
        if self._source.exhausted:
            self.ended = True
            self._unsent.end()
            self._warn_missing_field()
            self._run.finisher.tell_progress(self._run.now(), exhausted=True)
        else:
            self.needs_input = True

    def _warn_missing_field(self) -> None:
        path = self._run.routes.missing_field
        if path and not self._is_later_pass:
            text = missing_key_text(path)
            self._run.emit(Notice(self._run.now(), "warning", text, "check its spelling, such as metadata.tenant"))

    def _is_full(self) -> bool:
        """Whether waiting rows use all their memory and cannot be skipped for a later pass."""
        if self._source.can_skip:
            return False
        return self.bodies.bytes + ROW_BYTES * len(self._run.backlog.rows) >= MAX_WAITING_BYTES

    def _start_pass(self, now: float) -> bool:
        """Start another pass over the input if a route takes its skipped rows now."""
        if self._stopped or not self._source.skipped:
            return False
        most = self._run.max_waiting
        useful = any(
            other.state.takes_calls(now) and other.waiting < most // 2
            for route in self._run.routes
            if route.skipped
            for other in (route, *route.backups)
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
        """Keep a row that may not be sent now in memory, or skip it for a later pass over the input."""
        run, route, state = self._run, pending.route, pending.route.state
        waits = state.is_closed and state.dead is None and not state.throttle.given_up
        most = run.max_waiting
        is_full = (route.waiting if waits else len(route.parked)) >= most or route.unfinished > 2 * most
        if self._source.can_skip and (is_full or self.bodies.bytes >= MAX_WAITING_BYTES):
            self._skip(pending)
        elif waits:
            run.backlog.enqueue(pending)
        else:
            self._park(pending, now)

    def _skip(self, pending: PendingRow) -> None:
        try:
            self._source.skip(pending.row)
            for follower in self._run.followers.release(pending)[0]:
                self._source.skip(follower.row)
        except WriteError as error:  # no disk space to spool a row of standard input
            self.fail(error)
            return
        self._run.finisher.marks = True
        self._run.backlog.drop(pending)
        pending.route.skipped = True

    async def wait(self) -> None:
        """Wait until the source may have a row again."""
        self.needs_input = False
        try:
            await self._source.wait()
        except Exception as error:  # noqa: BLE001 - see the class
            self.fail(error)

    def stop(self) -> None:
        """Read no more rows."""
        self.ended = self._stopped = True

    def fail(self, error: Exception) -> None:
        """Stop reading because of *error*."""
        self.error = error
        self.stop()
