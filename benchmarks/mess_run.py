"""One run of the real engine in virtual time, against a provider whose every answer a function decides.

The provider has no scenario, shapes or queue: a ``Fate`` says what becomes of each call, so that a cell of
``mess_cells.py`` reads as what it does, and some ten thousand calls are simulated per second. The same fate serves HTTP
(``HttpProvider`` over :class:`FateTransport`) and functions (``FunctionProvider``).
"""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import LlmbatchError, TransportError
from llmbatch.core.events import CircuitChanged, Event, OutageStarted
from llmbatch.core.rows import Result
from llmbatch.inputs.iterable import IterableSource
from llmbatch.providers.function_provider import FunctionProvider
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.sim.virtual import VirtualTimeError, run_virtual

__all__ = ["Answer", "Attempt", "Fate", "Kind", "Story", "is_opening", "is_outage", "run"]

Kind = Literal["http", "function", "function-canary", "own-error", "own-error-canary"]
"""Over HTTP; or a function that raises ConnectionError or an exception class of its own, with or without a canary."""

_row_in = re.compile(rb'"row (\d+)"').search
_model_in = re.compile(rb'"model":"([^"]+)"').search

_GOOD = (
    b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"fine"},"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":1}}'
)


def is_outage(event: Event) -> bool:
    """Whether *event* reports a confirmed outage."""
    return isinstance(event, OutageStarted)


def is_opening(event: Event) -> bool:
    """Whether a closed circuit opened."""
    return isinstance(event, CircuitChanged) and event.old == "closed" and event.new == "open"


@dataclass(slots=True)
class Attempt:
    """One call on its way. ``row`` is 0 for the smallest request, ``chance`` a draw from 0 to 1."""

    row: int
    model: str
    number: int
    """How many calls came before it, and 1."""
    at: float
    """Seconds since the first call."""
    chance: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of a call: a status after some seconds. A function raises where the status is no 200.

    Status 0: this machine lacks the memory for the call (functions only).
    """

    status: int = 200
    seconds: float = 2.0
    retry_after: float | None = None
    code: str = "server_error"
    message: str = "The server had an error while processing the request."


Fate = Callable[[Attempt], Answer]


class RowBrokenError(Exception):
    """What a user's own function may raise: nothing that llmbatch knows."""


class Provider:
    """Numbers calls and asks the fate. Latencies vary by a tenth, so that calls do not march in step."""

    def __init__(self, fate: Fate, seed: int) -> None:
        self.fate = fate
        self.calls = 0
        self.pings = 0
        self.started = array("d")
        self._chance = Random(f"{seed}:calls")
        self._first: float | None = None

    def answer(self, row: int, model: str) -> tuple[Answer, float]:
        """The answer, and the seconds until it is there."""
        now = asyncio.get_running_loop().time()
        self._first = now if self._first is None else self._first
        self.calls += 1
        self.pings += row == 0
        at = now - self._first
        self.started.append(at)
        answer = self.fate(Attempt(row, model, self.calls, at, self._chance.random()))
        return answer, answer.seconds * self._chance.uniform(0.9, 1.1)


class FateTransport:
    """Carries requests of :class:`HttpProvider` to a :class:`Provider`, sleeping in place of speaking HTTP."""

    def __init__(self, simulated: Provider) -> None:
        self._provider = simulated

    async def post(self, request: Request, *, timeout: float) -> Reply:  # noqa: ASYNC109 - the port's own deadline
        row, model = _row_in(request.body), _model_in(request.body)
        number = int(row[1]) if row is not None else 0
        answer, seconds = self._provider.answer(number, model[1].decode() if model is not None else "")
        if seconds > timeout:
            await asyncio.sleep(timeout)
            raise TransportError("timeout", f"no whole answer within {timeout:g} s", sent=True)
        await asyncio.sleep(seconds)
        if answer.status == 200:
            return Reply(200, {"content-type": "application/json"}, _GOOD)
        headers = {"content-type": "application/json"}
        if answer.retry_after is not None:
            headers["retry-after"] = f"{answer.retry_after:g}"
        body = f'{{"error":{{"message":"{answer.message}","type":"{answer.code}","code":"{answer.code}"}}}}'
        return Reply(answer.status, headers, body.encode())

    async def aclose(self) -> None:
        return


@dataclass
class Story:
    """What a run did. Durations are virtual seconds, but for ``cpu``."""

    rows: int
    seconds: float = 0.0
    exit_code: int | None = None
    """None where the run did not end within its limit."""
    reason: str = ""
    stuck: str = ""
    """Why it did not end."""
    succeeded: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    """The rows that failed, with their codes."""
    last_good: dict[str, float] = field(default_factory=dict)
    """When the last good row of each group was done."""
    outages: int = 0
    openings: int = 0
    calls: int = 0
    pings: int = 0
    started: array[float] = field(default_factory=lambda: array("d"), repr=False)
    """When each call left, seconds since the first."""
    cpu: float = 0.0

    @property
    def waiting(self) -> int:
        """Rows without a line at the end."""
        return self.rows - self.succeeded - len(self.failed)


class _Watcher:
    """The sink and the observer of a run; keeps numbers, not events, so that a million rows fit."""

    congested = False

    def __init__(self, story: Story, group: Callable[[int], str]) -> None:
        self._story = story
        self._group = group
        self._loop = asyncio.get_running_loop()

    def put(self, result: Result) -> None:
        story = self._story
        if result.status == "success":
            story.succeeded += 1
            story.last_good[self._group(result.number)] = self._loop.time()
        else:
            story.failed[result.number] = result.error_code or ""

    async def drained(self) -> None:
        return

    def observe(self, event: Event) -> None:
        self._story.outages += is_outage(event)
        self._story.openings += is_opening(event)


def run(
    rows: int,
    fate: Fate,
    *,
    limit: float,
    kind: Kind = "http",
    seed: int = 1,
    group: Callable[[int], str] = lambda _: "",
    model: Callable[[int], str] = lambda _: "mess",
    tenant: Callable[[int], str] | None = None,
    keep: Callable[[int], bool] = lambda _: True,
    **options: Any,
) -> Story:
    """Run rows 1 to *rows* (those that *keep* lets through), for at most *limit* virtual seconds.

    Args:
        rows: how many there are before *keep*.
        fate: decides every answer.
        limit: the run is cut off after so many virtual seconds, and ``exit_code`` is None.
        kind: what stands in for the provider.
        seed: of every draw, here and in the runner.
        group: under which name ``last_good`` keeps a row.
        model: the model that a row names.
        tenant: the tenant that a row names, if any.
        keep: which rows there are.
        options: fields of :class:`RunOptions`.
    """
    wanted = [number for number in range(1, rows + 1) if keep(number)]
    story = Story(len(wanted))
    simulated = Provider(fate, seed)
    settings = RunOptions(**({"seed": seed} | options))

    async def main() -> None:
        watcher = _Watcher(story, lambda place: group(wanted[place - 1]))
        provider: HttpProvider | FunctionProvider
        if kind == "http":
            provider = HttpProvider(
                ProviderSettings(base_url="http://127.0.0.1:1/v1", environ={}), FateTransport(simulated)
            )
            source = IterableSource(_requests(wanted, model, tenant))
        else:
            provider = FunctionProvider(_function(simulated, kind), ping_row=0 if kind.endswith("canary") else None)
            source = IterableSource(wanted, opaque=True)
        engine = Engine(provider, source, watcher, settings, observers=[watcher])
        ending = await engine.run()
        story.seconds = asyncio.get_running_loop().time()
        story.exit_code = ending.exit_code
        story.reason = " ".join(filter(None, (ending.reason, ending.hint)))

    began = time.process_time()
    try:
        run_virtual(main, limit=limit)
    except VirtualTimeError as error:
        story.seconds = limit
        story.stuck = str(error)
    story.cpu = time.process_time() - began
    story.calls, story.pings, story.started = simulated.calls, simulated.pings, simulated.started
    story.failed = {wanted[place - 1]: code for place, code in story.failed.items()}
    return story


def _requests(
    wanted: Iterable[int], model: Callable[[int], str], tenant: Callable[[int], str] | None
) -> Iterable[dict[str, object]]:
    for number in wanted:
        row: dict[str, object] = {"prompt": f"row {number}", "model": model(number)}
        if tenant is not None:
            row["metadata"] = {"tenant": tenant(number)}
        yield row


def _function(simulated: Provider, kind: Kind) -> Callable[[object], Any]:
    async def call(value: object) -> str:
        answer, seconds = simulated.answer(value if isinstance(value, int) else 0, "")
        await asyncio.sleep(seconds)
        if answer.status == 200:
            return "fine"
        if answer.status == 0:
            raise MemoryError(answer.message)
        if kind.startswith("own-error"):
            raise RowBrokenError(answer.message)
        raise ConnectionError(answer.message)

    return call


def explain_error(error: Exception) -> str:
    """*error* on one line."""
    text = f"{type(error).__name__}: {error}" if not isinstance(error, LlmbatchError) else str(error)
    return " ".join(text.split())[:200]
