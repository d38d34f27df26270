"""How the runs of a ``BatchRunner`` are controlled while they go on: paused, resumed, changed, and stopped.

All of it may be called from any thread and any task, also from an observer. Nothing here waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, Unpack

from llmbatch.runner.options import RunOptions

if TYPE_CHECKING:
    from decimal import Decimal

    from llmbatch.runs.open_runs import OpenRuns

__all__ = ["RunnerControls", "Settings"]


class Settings(TypedDict, total=False):
    """The keywords of :meth:`RunnerControls.set`."""

    concurrency: int | str
    rpm: float | None
    tpm: float | None
    max_cost: Decimal | float


class RunnerControls:
    """The part of :class:`~llmbatch.BatchRunner` that controls its runs; thread-safe."""

    _runs: OpenRuns

    @property
    def options(self) -> RunOptions:
        """How rows are sent now; :meth:`set` replaces it."""
        return self._runs.options

    @property
    def paused(self) -> bool:
        """Whether :meth:`pause` was called last, and not :meth:`resume`."""
        return self._runs.is_paused

    def pause(self) -> None:
        """Pause the open runs, and those that begin before :meth:`resume`: no call begins, not even a probe.

        Calls in flight end, and their results are written. Timers go on: an outage that has lasted ``max_outage`` ends
        a paused run too. A stream that is paused waits for its next result.
        """
        self._runs.pause()

    def resume(self) -> None:
        """Go on after :meth:`pause`: traffic ramps up, as after any wait. Does nothing if it is not paused."""
        self._runs.resume()

    def set(self, **settings: Unpack[Settings]) -> None:
        """Change ``concurrency``, ``rpm``, ``tpm`` or ``max_cost`` of the open runs, and of those to come.

        A lower concurrency counts for the calls that begin from now on; a higher one is reached by a ramp. With
        ``"auto"`` it is the new ceiling. None as ``rpm`` or ``tpm``: no limit. ``max_cost`` can be changed only where
        the runner has one.

        Raises:
            UsageError: an option cannot be changed, or a value is out of range; nothing was changed.
        """
        self._runs.change(settings)

    def stop(self, *, signal: int | None = None, now: bool = False) -> None:
        """Stop the open runs, or else the next run: no new rows; requests in flight have 30 s to finish.

        With *now*, at once. The exit code is 128 + *signal*, or 130. May be called from any thread.
        """
        exit_code = 128 + signal if signal is not None else 130
        reason = "stopped at once" if now else "interrupted"
        self._runs.stop(exit_code, reason, now=now)
