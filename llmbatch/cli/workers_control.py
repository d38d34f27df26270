"""What is changed of a run of ``--workers`` while it goes on: each process is told its share of it.

It stands where the runner stands in a run of one process, for the socket and for the keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final, Unpack

from llmbatch.cli.worker import Job
from llmbatch.core.errors import UsageError
from llmbatch.core.events import Event, RunPaused, RunResumed
from llmbatch.runner.concurrency import Auto
from llmbatch.runner.control import changed, option_changes
from llmbatch.runner.options import RunOptions
from llmbatch.runs.controls import Settings
from llmbatch.runs.spending import SpendingFile
from llmbatch.runs.split_run import SplitRunner
from llmbatch.storage.filesystem import FILESYSTEM
from llmbatch.workers.fleet import Fleet
from llmbatch.workers.messages import set_line
from llmbatch.workers.split import split_number

__all__ = ["WorkersControl"]

_LEAST_CAP: Final = Decimal("0.000001")


class WorkersControl:
    """Controls the processes of *fleet*, which send the rows of *runner*. Belongs to their event loop.

    *emit* takes the events of the whole run. *left_usd*: what it may spend; None without a cap.
    """

    def __init__(
        self, runner: SplitRunner, fleet: Fleet[Job], emit: Callable[[Event], None], *, left_usd: Decimal | None
    ) -> None:
        self._runner = runner
        self._fleet = fleet
        self._emit = emit
        self._paused_at = 0.0
        self.left_usd = left_usd
        """What all processes together may spend, from the start of this run; None without a cap."""

    def __repr__(self) -> str:
        return f"<WorkersControl of {self._fleet!r}{', paused' if self.paused else ''}>"

    @property
    def options(self) -> RunOptions:
        """The options of the whole run that are in force."""
        return self._runner.options

    @property
    def paused(self) -> bool:
        """Whether the run is paused."""
        return self._runner.paused

    def pause(self) -> None:
        """Let no process begin a call before :meth:`resume`."""
        if not self.paused:
            self._runner.pause()
            self._paused_at = asyncio.get_running_loop().time()
            self._fleet.pause()
            self._emit(RunPaused(self._paused_at))

    def resume(self) -> None:
        """Let all processes go on."""
        if self.paused:
            self._runner.resume()
            now = asyncio.get_running_loop().time()
            self._fleet.resume()
            self._emit(RunResumed(now, now - self._paused_at))

    def set(self, **settings: Unpack[Settings]) -> None:
        """Change options of the whole run: ``rpm`` and ``tpm`` are shared, the others are split.

        Raises:
            UsageError: an option cannot be changed, is out of range, or cannot be split; nothing was changed.
        """
        before = self._runner.options
        after = changed(before, settings)
        shares = self._shares(before, after, frozenset(settings))
        self._runner.set(**settings)
        if after.max_cost is not None and before.max_cost is not None and self.left_usd is not None:
            self.left_usd += after.max_cost - before.max_cost
        for event in option_changes(before, after, asyncio.get_running_loop().time()):
            self._emit(event)
        for number, values in enumerate(shares):
            job = self._fleet.job(number)
            line = set_line({name: _typed(value) for name, value in values.items()})
            self._fleet.replace_job(number, replace(job, settings=replace(job.settings, **values)), line)

    def _shares(self, before: RunOptions, after: RunOptions, names: frozenset[str]) -> list[dict[str, Any]]:
        """What each process is to set, by name."""
        count = self._fleet.count
        shares: list[dict[str, Any]] = [{name: getattr(after, name) for name in names} for _ in range(count)]
        if "concurrency" in names:
            if after.concurrency < count:
                raise UsageError(
                    f"concurrency {int(after.concurrency)} is less than the {count} processes of this run (--workers)",
                    hint=f"give {count} or more; llmbatch pause lets no request begin at all",
                )
            flights = split_number(int(after.concurrency), count, flag="concurrency")
            for share, own in zip(shares, flights, strict=True):
                share["concurrency"] = Auto(own) if after.adapts else own
        if "max_cost" in names and after.max_cost is not None and before.max_cost is not None:
            for share, cap in zip(shares, self._caps(after.max_cost - before.max_cost), strict=True):
                share["max_cost"] = cap
        return shares

    def _caps(self, more: Decimal) -> list[Decimal]:
        """The cap of each process once all may spend *more*: what it has booked, and its part of what nobody has."""
        count = self._fleet.count
        outputs = (str(self._fleet.job(number).settings.output) for number in range(count))
        booked = [SpendingFile(output, FILESYSTEM).read() for output in outputs]
        free = (self.left_usd or Decimal(0)) + more - sum(booked, Decimal(0))
        return [max(_LEAST_CAP, own + free / count).quantize(_LEAST_CAP, rounding=ROUND_DOWN) for own in booked]


def _typed(value: object) -> str:
    """*value* as a user types it: digits, or none."""
    return "none" if value is None else f"{value:f}" if isinstance(value, Decimal) else f"{value!s}"
