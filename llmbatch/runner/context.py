"""State shared by the parts of one run: options, routes, rows in memory, and functions to emit events and stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llmbatch.core.events import Event
from llmbatch.core.ports import Provider, Sink, Source
from llmbatch.money.prices import Prices
from llmbatch.runner.backlog import Backlog
from llmbatch.runner.costs import Costs
from llmbatch.runner.finish import Finisher
from llmbatch.runner.followers import Followers
from llmbatch.runner.machine_fault import Machine
from llmbatch.runner.options import RunOptions
from llmbatch.runner.pending import RunRoute
from llmbatch.runner.routes import Routes
from llmbatch.runner.routing import Routing
from llmbatch.runner.unshared import NoPeers

__all__ = ["RunContext"]


@dataclass(slots=True)
class RunContext:
    """Shared state of one run. ``halt`` ends the run with an exit code, a reason and a hint."""

    options: RunOptions
    provider: Provider
    source: Source
    sink: Sink
    routes: Routes
    routing: Routing
    followers: Followers
    backlog: Backlog
    finisher: Finisher
    machine: Machine
    now: Callable[[], float]
    emit: Callable[[Event], None]
    halt: Callable[[int, str, str], None]
    costs: Costs = field(default_factory=lambda: Costs(Prices()))
    peers: NoPeers = field(default_factory=NoPeers)
    """What is shared with other processes."""
    open: dict[RunRoute, None] = field(default_factory=dict)
    """Routes whose circuit is not closed."""

    @property
    def max_waiting(self) -> int:
        """Maximum rows of a route that wait in memory, and again as many that are parked."""
        options = self.options
        return max(1000, (4 if options.adapts else 20) * options.concurrency)
