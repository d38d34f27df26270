"""The parts of a run without its loop: real routes, rows and sinks; calls go and come back when a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.core.events import Event
from llmbatch.core.ports import Provider
from llmbatch.core.rows import Result, Row
from llmbatch.inputs.iterable import IterableSource
from llmbatch.runner.attempt import Attempt
from llmbatch.runner.backlog import Backlog
from llmbatch.runner.context import RunContext
from llmbatch.runner.earlier import EarlierRuns
from llmbatch.runner.finish import Finisher
from llmbatch.runner.followers import Followers
from llmbatch.runner.machine_fault import Machine
from llmbatch.runner.options import RunOptions
from llmbatch.runner.pending import PendingRow, RunRoute
from llmbatch.runner.routes import Routes
from llmbatch.runner.routing import Routing
from llmbatch.runner.schedule import Scheduler

GOOD = Outcome("success", status=200, text="fine")
FAILED = Outcome("failure", retry=True, code="http_500", message="broken", status=500)
NO_HANDLES = Outcome("local", "machine", retry=True, code="no_handles", message="too many open files")
NO_NETWORK = Outcome("local", "machine", retry=True, code="no_network", message="network unreachable")
THROTTLED = Outcome("throttled", retry=True, code="http_429", message="slow down")


class ModelProvider(Provider):
    """A provider as its user would write one: a route per model; *smallest*: whether it has a health check."""

    def __init__(self, *, smallest: bool = False) -> None:
        self.smallest = smallest

    def routes(self, row: Row) -> Sequence[Route]:
        return [Route(row.fields.get("model", '"m"').strip('"'), "account")]

    def request(self, row: Row, route: Route) -> Request:
        return Request(route, "http://127.0.0.1/v1", {}, row.fields["prompt"].encode(), "mine", tokens=10)

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:
        raise AssertionError("tests say themselves how a call ends")

    def ping(self, like: Request) -> Request | None:
        return replace(like, body=b"", tokens=1) if self.smallest else None


class ResultList:
    """A sink that keeps all results; congested when a test says so."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.congested = False

    def put(self, result: Result) -> None:
        self.results.append(result)

    async def drained(self) -> None:
        return


def prompts(count: int, **fields: str) -> list[object]:
    return [{"prompt": f"row {number}", **fields} for number in range(1, count + 1)]


class Parts:
    """What the parts of a run share, on a clock that only the test moves."""

    def __init__(
        self, rows: Iterable[object] | AsyncIterable[object] = (), *, smallest: bool = False, **options: Any
    ) -> None:
        self.now = 1000.0
        self.events: list[Event] = []
        self.halted: list[tuple[int, str, str]] = []
        self.waited: list[int] = []
        self.provider = ModelProvider(smallest=smallest)
        self.source = IterableSource(rows)
        self.sink = ResultList()
        self.options = RunOptions(**options)

    def clock(self) -> float:
        return self.now

    def halt(self, exit_code: int, reason: str, hint: str) -> None:
        self.halted.append((exit_code, reason, hint))

    def context(self) -> RunContext:
        routes = Routes(self.options, seed=1, answered_before=lambda _: True)
        routing = Routing(routes, is_paused=lambda route: route in run.backlog.paused)
        run = RunContext(
            options=self.options,
            provider=self.provider,
            source=self.source,
            sink=self.sink,
            routes=routes,
            routing=routing,
            followers=Followers(),
            backlog=Backlog(
                emit=self.events.append,
                on_wait=lambda row: self.waited.append(row.row.number),
                find_other=routing.other,
            ),
            finisher=Finisher(self.sink, self.source, now=self.clock, emit=self.events.append),
            machine=Machine(longest=60.0),
            now=self.clock,
            emit=self.events.append,
            halt=self.halt,
        )
        return run

    def scheduler(self, *, good_rows: Callable[[], Sequence[Row]] = lambda: (), ever: bool = True) -> Scheduler:
        return Scheduler(
            self.provider,
            self.source,
            self.sink,
            self.options,
            now=self.clock,
            emit=self.events.append,
            halt=self.halt,
            earlier=EarlierRuns(lambda _: ever, good_rows),
            seed=1,
        )

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def row(number: int, **fields: str) -> Row:
    texts = {name: f'"{value}"' for name, value in fields.items()}
    return Row(number, f"{number:016x}", f'"r{number}"', {"prompt": f'"row {number}"', **texts})


def pending(run: RunContext, number: int, model: str = "m", **fields: str) -> PendingRow:
    """A row in memory, as reading leaves it."""
    one = row(number, model=model, **fields)
    request = run.provider.request(one, run.provider.routes(one)[0])
    made = PendingRow(one, request, run.routes.route_of(one, request.route, run.now()))
    run.backlog.add(made)
    return made


def numbers(rows: Iterable[PendingRow]) -> list[int]:
    return [one.row.number for one in rows]


def row_of(attempt: Attempt | None) -> int | None:
    """The row that a call carries, 0 for a health check, None for no call."""
    if attempt is None:
        return None
    return 0 if attempt.pending is None else attempt.pending.row.number


def open_circuit(run: RunContext, route: RunRoute) -> None:
    """As the route does it itself: rows fail until it opens."""
    for number in range(9000, 9100):
        if not route.state.is_closed:
            return
        call = route.state.admit(number, run.now(), timeout=60.0)
        assert call is not None
        route.state.settle(call, FAILED, run.now())
    raise AssertionError(f"{route!r} does not open")
