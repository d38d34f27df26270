"""What the parts of one run share: its options, its routes, its rows in memory, and how to tell and stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llmbatch.core.events import Event
from llmbatch.core.ports import Provider, Sink, Source
from llmbatch.runner.backlog import Backlog, RunRoute
from llmbatch.runner.finish import Finisher
from llmbatch.runner.machine import Machine
from llmbatch.runner.options import RunOptions
from llmbatch.runner.routes import Routes

__all__ = ["RunContext"]


@dataclass(slots=True)
class RunContext:
    """One run's shared parts. *halt* ends the run: exit code, reason and hint."""

    options: RunOptions
    provider: Provider
    source: Source
    sink: Sink
    routes: Routes
    backlog: Backlog
    finisher: Finisher
    machine: Machine
    now: Callable[[], float]
    emit: Callable[[Event], None]
    halt: Callable[[int, str, str], None]
    open: dict[RunRoute, None] = field(default_factory=dict)
    """Routes whose circuit is not closed."""

    @property
    def most_waiting(self) -> int:
        """Rows of a route that may wait in memory, and as many that may be parked."""
        return max(1000, 20 * self.options.concurrency)
