"""Bodies of rows that wait in memory: large ones are dropped, and built or read again before they are sent."""

from __future__ import annotations

from collections.abc import Callable

from llmbatch.core.calls import Outcome, Request
from llmbatch.core.errors import InputError, MalformedRowError, WriteError
from llmbatch.runner.backlog import SMALL_BYTES
from llmbatch.runner.context import RunContext
from llmbatch.runner.pending import PendingRow, RowState

__all__ = ["WaitingBodies"]


class WaitingBodies:
    """The bodies of one run. *fail* ends reading with an error, ``fail_row`` a row as failed with an outcome."""

    fail_row: Callable[[PendingRow, Outcome, float], None]

    def __init__(self, run: RunContext, *, fail: Callable[[Exception], None]) -> None:
        self._run = run
        self._fail = fail
        self._has_failed_row = False
        self.bytes = 0
        """Bytes of bodies that must be kept, because the input cannot be read again."""

    def __repr__(self) -> str:
        return f"<WaitingBodies {self.bytes} bytes>"

    def drop_body(self, pending: PendingRow) -> None:
        """Drop the body of a waiting row if it is large; it is built or read again before sending."""
        request = pending.request
        if request is None or pending.earlier_usage is not None or len(request.body) <= SMALL_BYTES:
            return
        pending.bytes = len(request.body)
        pending.request = None
        try:
            is_kept = self._run.source.keep(pending.row)
        except WriteError as error:  # no disk space to spool a row of standard input
            self._fail(error)
            is_kept = False
        if is_kept:
            metadata = pending.row.fields.get("metadata")
            pending.row.fields = {} if metadata is None else {"metadata": metadata}
            pending.is_body_dropped = True
        else:  # the files that it names are read again
            pending.bytes = min(pending.bytes, sum(map(len, pending.row.fields.values())))
            self.bytes += pending.bytes

    def request_of(self, pending: PendingRow) -> Request | None:
        """Return the request of the row, built again if needed.

        None if the input has changed, which ends the run, or if the row has failed, such as one whose file is gone.
        """
        if pending.request is not None:
            return pending.request
        try:
            if pending.is_body_dropped:
                pending.row = self._run.source.reread(pending.row)
                pending.is_body_dropped = False
            else:
                self.bytes -= pending.bytes
        except InputError as error:
            self._fail(error)
            return None
        try:
            pending.request = self._run.provider.request(pending.row, pending.route.route)
            if pending.follow_ups and pending.moves <= sum(map(len, pending.routes)):
                pending.follow_ups = 0  # another route is asked from the start, and again; but not for ever
            pending.request.follow_ups = pending.follow_ups
        except MalformedRowError as error:
            pending.bytes = 0
            self._has_failed_row = True
            outcome = Outcome("rejected", "row", row_is_bad=True, code=error.code, message=str(error))
            self.fail_row(pending, outcome, self._run.now())
        return pending.request

    def took_failed_row(self) -> bool:
        """Whether a row that was to be sent has failed since the last call, so that another may be sent instead."""
        had, self._has_failed_row = self._has_failed_row, False
        return had

    def drop(self, pending: PendingRow) -> None:
        """Release the memory of a row that is done."""
        if pending.request is None and not pending.is_body_dropped and pending.state is not RowState.DONE:
            self.bytes -= pending.bytes
