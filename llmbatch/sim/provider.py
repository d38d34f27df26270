"""Plan the simulated provider's response to each request; a server or a test carries the plan out.

Every choice follows from the seed, the request's bytes and how often those bytes came before, so that the order in
which requests arrive cannot change what is answered. The model's name chooses the scenario: ``sim/outage`` (or
``outage``) is answered by the scenario of that name, any other name by the provider's own; each model name has its own
clock, which starts at the first request for it.

A prompt that contains ``[sim:500]`` is answered with that status (400 to 599) whenever the scenario would answer well:
a row that fails by itself.

No I/O and no clock: the caller passes ``elapsed``. Not thread-safe.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from random import Random

from llmbatch.core.errors import UsageError
from llmbatch.core.raw_json import JSON, RawJsonError, dumps, parse
from llmbatch.sim.admission import Admission, has_key, key_of, no_money
from llmbatch.sim.answer_text import write_answer
from llmbatch.sim.anthropic_responses import anthropic_body, anthropic_events
from llmbatch.sim.batches.ledger import Ledger
from llmbatch.sim.batches.rules import BatchRules
from llmbatch.sim.batches.run_rows import RowRunner
from llmbatch.sim.batches.service import BatchService
from llmbatch.sim.capacity import CapacityLimiter
from llmbatch.sim.faulty_plans import corrupted, error_plan, outage, throttling
from llmbatch.sim.openai_responses import CREATED, embeddings_body, models_body, openai_body, openai_events
from llmbatch.sim.protocol import (
    ENDPOINTS,
    HTML,
    Dialect,
    Endpoint,
    ErrorResponse,
    answer_headers,
    dialect_of,
    error_body,
)
from llmbatch.sim.request import SimRequest, read_request
from llmbatch.sim.response_plan import ResponsePlan, Stats
from llmbatch.sim.row_fault import RowFault, find_fault
from llmbatch.sim.scenario import DEFAULT_STATUSES, Behavior, Phase, Scenario
from llmbatch.sim.scenario_file import built_in_scenarios, find_scenario

__all__ = ["SimulatedProvider"]

_MAX_ATTEMPT_KEYS = 100_000
"""Bodies whose number of attempts is kept; some 10 MB when full."""

_SPREAD = 0.35
"""Sigma of the log-normal latency: one answer in a hundred takes more than 2.3 times the median."""

_SERVER_ERROR = "The server had an error while processing your request."

_forced_status = re.compile(rb"\[sim:([45]\d\d)\]").search


class SimulatedProvider:
    """Answers like OpenAI and Anthropic do, with the faults of a scenario.

    Not thread-safe. Every plan of :meth:`answer` must be passed to :meth:`finish` once, however the request ended,
    or it counts as in flight for ever.
    """

    def __init__(
        self,
        scenario: str | Scenario = "steady",
        *,
        seed: int = 0,
        latency: float | None = None,
        speed: float = 1.0,
        require_key: str | None = None,
        capacity: int | None = None,
        rate: float = 100.0,
        epoch: float = CREATED,
        keep_ledger: bool = False,
    ) -> None:
        """Prepare a provider.

        Args:
            scenario: a built-in scenario's name, the path of a file, or one of your own; for every model whose name is
                no scenario's.
            seed: decides every answer, latency and fault.
            latency: median seconds of a good answer, at least 0; 0 answers at once. A short share comes on top for each
                output token. None: the scenario's own, else 0.15.
            speed: how many times faster scenarios pass, above 0; good answers keep their latency.
            require_key: the only API key that is accepted; None: any or none.
            capacity: requests in flight at most, at least 1; those above it get 429. None: no bound.
            rate: requests a second, above 0, that a model's full load is; a scenario's capacity is a part of it.
            epoch: the Unix time at which the provider's clock starts: what its batches and files are dated by.
            keep_ledger: count how often each row is paid for, in :attr:`ledger`.

        Raises:
            UsageError: a scenario's name is unknown, its file says something impossible, or a value is out of range.
        """
        if latency is not None and not 0 <= latency < math.inf:
            raise UsageError(f"latency is {latency!r}, must be 0 or more seconds")
        if capacity is not None and capacity < 1:
            raise UsageError(f"capacity is {capacity!r}, must be a whole number of at least 1")
        if not 0 < rate < math.inf:
            raise UsageError(f"rate is {rate!r}, must be a number above 0")
        chosen = find_scenario(scenario) if isinstance(scenario, str) else scenario
        self._scenario = chosen.compressed(speed)
        # One of your own takes the place of the built-in scenario of its name.
        by_name = {**built_in_scenarios(), chosen.name: chosen}
        self._by_name = {name: each.compressed(speed) for name, each in by_name.items()}
        self._seed = seed
        self._latency = latency
        self._key = require_key
        self._capacity = capacity
        self._rate = rate
        self._limiters: dict[str, CapacityLimiter] = {}
        self._admission = Admission()
        self.stats = Stats()
        self._started: dict[str, float] = {}
        self._attempts: dict[bytes, int] = {}
        self._epoch = epoch
        self._usual_batch_rules = BatchRules().compressed(speed)
        self.ledger = Ledger() if keep_ledger else None
        """How often each row was paid for, if that is counted."""
        self.batches = self._batch_service()
        """The batch APIs."""

    def __repr__(self) -> str:
        return f"<SimulatedProvider {self._scenario.name}, {self.stats.calls} calls, {self.stats.in_flight} in flight>"

    def reset(self) -> None:
        """Reset clocks, statistics and the record of earlier requests; requests in flight stay counted."""
        in_flight = self.stats.in_flight
        self.stats = Stats(in_flight=in_flight, max_in_flight=in_flight)
        self._started.clear()
        self._limiters.clear()
        self._admission.reset()
        self._attempts.clear()
        self.ledger = None if self.ledger is None else Ledger()
        self.batches = self._batch_service()

    def phase(self, model: str, elapsed: float) -> Phase:
        """The phase that *model* is in *elapsed* seconds after the provider started; starts its clock."""
        scenario, started = self._scenario_of(model), self._started.setdefault(model, elapsed)
        return scenario.at(elapsed - started if scenario.affects(model) else math.inf)

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes, elapsed: float) -> ResponsePlan:
        """Plan the response to a request that arrives *elapsed* seconds after the provider started.

        Header names are lower case. ``/sim/stats``, ``/sim/reset`` and the list of models answer at once and count
        nowhere.
        """
        dialect = dialect_of(path)
        endpoint = ENDPOINTS.get(path)
        if endpoint is None or method != "POST":
            return self._control_plan(method, path, dialect, known=endpoint is not None)
        document = _object_in(body)
        model = document.get("model") if document is not None else None
        name = model.removeprefix("sim/") if isinstance(model, str) else ""
        phase = self.phase(name, elapsed)
        chance = self._chance(path, body)
        limiter = self._limiters.get(name)
        if limiter is None:
            limiter = self._limiters[name] = CapacityLimiter(self._rate)
        admitted = limiter.admits(phase, elapsed)
        median = self._median(name)
        if phase.knee is not None:
            median *= max(1.0, (self.stats.in_flight + 1) / phase.knee)
        plan = self._plan(
            *(endpoint, dialect, headers, body, document, phase, chance, median),
            faults=self._scenario_of(name).rows,
            is_admitted=admitted,
        )
        plan = self._admission.apply(
            *(plan, self._scenario_of(name), phase, name, dialect, headers, body, document, elapsed)
        )
        self._count(plan, name, elapsed)
        if self.ledger is not None and plan.good:
            self.ledger.pay_live(plan.row)
        return plan

    def answer_row(
        self, path: str, headers: Mapping[str, str], body: bytes, document: dict[str, JSON], elapsed: float
    ) -> ResponsePlan:
        """Plan the answer to a row of a batch, run at *elapsed*: as to a call, but no limit of calls counts it."""
        model = document.get("model")
        name = model.removeprefix("sim/") if isinstance(model, str) else ""
        phase, scenario, dialect = self.phase(name, elapsed), self._scenario_of(name), dialect_of(path)
        if scenario.is_spent(key_of(headers)):
            return error_plan(dialect, no_money(dialect), "spent", 0.0, None, down=False)
        chance, median = self._chance(path, body), self._median(name)
        return self._plan(
            *(ENDPOINTS[path], dialect, headers, body, document, phase, chance, median),
            faults=scenario.rows,
            is_admitted=True,
        )

    def finish(self, plan: ResponsePlan) -> None:
        """Record that *plan* has ended: answered, broken off or given up."""
        if plan.counted:
            self.stats.in_flight -= 1

    def _batch_service(self) -> BatchService:
        runner = RowRunner(self.answer_row, self.ledger, self._seed)
        return BatchService(
            self._batch_rules,
            runner,
            usual=self._usual_batch_rules,
            seed=self._seed,
            epoch=self._epoch,
            require_key=self._key,
        )

    def _batch_rules(self, model: str | None) -> BatchRules | None:
        """The rules of a model's scenario; of the provider's own for None."""
        return (self._scenario if model is None else self._scenario_of(model.removeprefix("sim/"))).batch

    def _scenario_of(self, name: str) -> Scenario:
        return self._by_name.get(name, self._scenario)

    def _median(self, name: str) -> float:
        if self._latency is not None:
            return self._latency
        own = self._scenario_of(name).latency
        return 0.15 if own is None else own

    def _chance(self, path: str, body: bytes) -> Random:
        """The random numbers of this attempt, seeded by the request and its count, never by the order of requests."""
        key = blake2b(body, digest_size=8, key=path.encode()[:64]).digest()
        attempt = self._attempts.pop(key, 0) + 1
        self._attempts[key] = attempt
        if len(self._attempts) > _MAX_ATTEMPT_KEYS:
            del self._attempts[next(iter(self._attempts))]
        return Random(f"{self._seed}:answer:{key.hex()}:{attempt}")

    def _count(self, plan: ResponsePlan, name: str, elapsed: float) -> None:
        stats = self.stats
        stats.calls += 1
        stats.calls_while_down += plan.down
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
        status = {"close": "closed", "cut": "cut", "hang": "hung"}.get(plan.kind, str(plan.status))
        stats.by_status[status] = stats.by_status.get(status, 0) + 1
        stats.by_model[name] = stats.by_model.get(name, 0) + 1
        stats.started.setdefault(name, elapsed)
        tenth = int(10 * elapsed)
        calls, good = stats.timeline.get(tenth, (0, 0))
        stats.timeline[tenth] = (calls + 1, good + plan.good)

    def _control_plan(self, method: str, path: str, dialect: Dialect, *, known: bool) -> ResponsePlan:
        if (method, path) == ("GET", "/sim/stats"):
            return _control_json(self.stats.json() | {"batch": self.batches.stats.json()})
        if (method, path) == ("POST", "/sim/reset"):
            self.reset()
            return _control_json({"ok": True})
        if (method, path) == ("GET", "/v1/models"):
            return _control_json(models_body([f"sim/{name}" for name in built_in_scenarios()]))
        error = ErrorResponse(404, f"Invalid URL ({method} {path})")
        if known:
            error = ErrorResponse(405, f"Not allowed to {method} on {path}", code="method_not_supported")
        kind, page = error_body(dialect, error, "req_none")
        return ResponsePlan("answer", status=error.status, headers={"content-type": kind}, body=page, counted=False)

    def _plan(
        self,
        endpoint: Endpoint,
        dialect: Dialect,
        headers: Mapping[str, str],
        body: bytes,
        document: dict[str, JSON] | None,
        phase: Phase,
        chance: Random,
        median: float,
        *,
        faults: tuple[RowFault, ...],
        is_admitted: bool,
    ) -> ResponsePlan:
        # The draws come first and in this order, so that no branch shifts those of another.
        suffix = f"{chance.getrandbits(96):024x}"
        delay = chance.lognormvariate(math.log(median), _SPREAD) if median > 0 else 0.0
        behavior = phase.pick(chance.random())
        pick = chance.random()

        def refused(error: ErrorResponse, wait: float | None = None) -> ResponsePlan:
            # Bad answers are quick ones.
            return error_plan(dialect, error, suffix, delay / 5, wait, down=phase.is_down)

        if behavior == "hang":
            return ResponsePlan("hang", down=phase.is_down)
        if behavior == "refuse":
            return ResponsePlan("close", delay / 5, sent=pick < 0.5, down=phase.is_down)
        error = self._error_due(dialect, headers, behavior, phase, pick, is_admitted=is_admitted)
        if error is not None:
            return refused(error, phase.retry_after)
        forced = _forced_status(body)
        if forced is not None:
            return refused(ErrorResponse(int(forced[1]), "The request asked for this error."))
        if document is None:
            return refused(ErrorResponse(400, "We could not parse the JSON body of your request."))
        try:
            request = read_request(endpoint, document)
            if isinstance(request, ErrorResponse):
                return refused(request)
            fault = find_fault(faults, request.opening) if faults else None
            is_cut = fault is not None and fault.behavior == "length"
            if fault is not None and fault.behavior in ("errors", "throttle"):
                status = fault.status_of(request.prompt)
                return refused(
                    throttling() if status == 429 else ErrorResponse(status, _SERVER_ERROR), fault.retry_after
                )
            if behavior == "stream_error" and not request.stream:
                return refused(ErrorResponse(500, _SERVER_ERROR))
            is_late = behavior == "slow" or (behavior == "stream_pause" and not request.stream)
            is_stalled = fault is not None and fault.behavior == "slow"
            late = (phase.stall if is_late else 0.0) + (fault.stall if fault is not None and is_stalled else 0.0)
            if is_cut:
                request = replace(request, max_tokens=1)
            elif fault is not None:
                request = replace(request, content=fault.content(request.turns))
            good = self._good_plan(request, suffix, delay + late, median)
            return corrupted(good, request, behavior, phase)
        except (RecursionError, OverflowError, ValueError):
            # Nesting deeper than the stack, numbers beyond all floats: valid JSON that nobody can answer.
            return refused(ErrorResponse(400, "The request has a value that is out of range."))

    def _error_due(
        self,
        dialect: Dialect,
        headers: Mapping[str, str],
        behavior: Behavior,
        phase: Phase,
        pick: float,
        *,
        is_admitted: bool,
    ) -> ErrorResponse | None:
        """The error due to the key, the load or the scenario; None if there is none."""
        if self._key is not None and not has_key(headers, self._key):
            return ErrorResponse(401, "Incorrect API key provided.", code="invalid_api_key")
        if self._capacity is not None and self.stats.in_flight >= self._capacity:
            return ErrorResponse(429, "Too many requests at a time.", code="rate_limit_exceeded")
        match behavior:
            case "down" | "errors":
                return outage(dialect, phase.statuses or DEFAULT_STATUSES[behavior], pick)
            case "html":
                return ErrorResponse(502, "Bad gateway", code=HTML)
            case "throttle":
                return throttling()
            case "unauthorized":
                return ErrorResponse(401, "Incorrect API key provided.", code="invalid_api_key")
            case "bad_request":
                return ErrorResponse(400, "The request could not be processed.", code="invalid_request")
            case "quota":
                return no_money(dialect)
        return None if is_admitted else outage(dialect, phase.statuses or (503,), pick)

    def _good_plan(self, request: SimRequest, suffix: str, delay: float, median: float) -> ResponsePlan:
        row = request.opening or request.prompt
        dialect: Dialect = "anthropic" if request.endpoint in ("messages", "count_tokens") else "openai"
        headers = answer_headers(dialect, suffix, delay) | {"content-type": "application/json"}
        if request.endpoint == "count_tokens":
            return ResponsePlan("answer", delay, 200, headers, dumps({"input_tokens": request.input_tokens}).encode())
        if request.endpoint == "embeddings":
            body = dumps(embeddings_body(request, self._seed)).encode()
            return ResponsePlan("answer", delay, 200, headers, body, good=True, row=row)
        answer = write_answer(self._seed, request)
        writing = answer.output_tokens * median / 300
        if not request.stream:
            whole = (
                anthropic_body(request, answer, suffix)
                if dialect == "anthropic"
                else openai_body(request, answer, suffix)
            )
            return ResponsePlan("answer", delay + writing, 200, headers, dumps(whole).encode(), good=True, row=row)
        events = (
            anthropic_events(request, answer, suffix)
            if dialect == "anthropic"
            else openai_events(request, answer, suffix)
        )
        gap = writing / len(events)
        headers["content-type"] = "text/event-stream; charset=utf-8"
        chunks = tuple((gap, event) for event in events)
        return ResponsePlan("answer", delay, 200, headers, chunks=chunks, good=True, row=row)


def _control_json(value: JSON) -> ResponsePlan:
    headers = {"content-type": "application/json"}
    return ResponsePlan("answer", status=200, headers=headers, body=dumps(value).encode(), counted=False)


def _object_in(body: bytes) -> dict[str, JSON] | None:
    try:
        document = parse(body.decode())
    except (RawJsonError, UnicodeDecodeError):
        return None
    return document if isinstance(document, dict) else None
