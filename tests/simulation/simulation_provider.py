"""A provider whose fate over time is drawn from a seed, and that knows which row every call was for.

It shares no code with ``llmbatch.sim``, so that the two cannot make the same mistake. Phases (outages, surges, pace,
load) follow each other; within good ones single calls fall sick in every way that one answer can. A bad row is one
that fails by itself, always.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from random import Random
from types import MappingProxyType

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError

_row_in = re.compile(rb"row (\d+)\b").search
_model_in = re.compile(rb'"model":\s*"([^"]+)"').search
_bad_in = re.compile(rb"\[bad ([a-z0-9]+)\]").search

TOTAL = frozenset({"down", "refuse", "reset", "hang", "cut", "html", "disguised", "unauthorized", "stall"})
"""Phases in which no call succeeds, and that pass."""
LOCAL = {"offline": "no_network", "handles": "local"}
"""Phases in which this machine is at fault."""
SPENT = frozenset({"quota", "billing", "redirect", "gone"})
"""Phases that only the operator can end: the run stops."""
REFUSING = frozenset({"disguised", "unauthorized"})

PARTIAL = (400, 401, 402, 403, 404, 408, 409, 422, 424, 429, 498, 500, 502, 503, 504, 520, 529, 530)
"""What a part of the calls may be answered with while others pass. Several 402 in a row may stop a run."""


@dataclass(frozen=True)
class Phase:
    kind: str
    start: float
    end: float
    statuses: tuple[int, ...] = ()
    share: float = 1.0
    hint: float | None = None
    form: str = "seconds"
    stall: float = 0.0
    capacity: int = 0
    model: str = ""
    """The one model that it concerns; empty: all."""

    def __str__(self) -> str:
        more = {
            "down": f" {self.statuses} hint {self.hint}",
            "errors": f" {self.share:.0%} {self.statuses}",
            "throttle": f" {self.share:.0%} hint {self.hint} as {self.form}",
            "sick": f" {self.share:.0%}",
            "slow": f" {self.stall:.1f} s",
            "stall": f" {self.stall:.1f} s",
            "capacity": f" {self.capacity}",
        }.get(self.kind, "")
        only = f" of {self.model}" if self.model else ""
        return f"{self.start:.1f}-{self.end:.1f} s {self.kind}{more}{only}"


@dataclass
class Sent:
    """One call as the provider saw it. ``fate``: good, bad (by the row), random, total, spent, local, throttled."""

    number: int
    life: int
    row: int
    at: float
    phase: Phase
    fate: str = ""
    ended: float = math.inf
    hint_until: float = 0.0
    answered: str = ""
    probe: bool = False
    check: bool = False
    """Whether no row waits for it: the smallest request, or a finished row's sent once more."""
    route: str = ""


@dataclass
class Weather:
    """The phases of one story; fine before, between and after them."""

    phases: list[Phase] = field(default_factory=list)

    @property
    def clear_from(self) -> float:
        return max((phase.end for phase in self.phases), default=0.0)

    def at(self, now: float, model: str = "m") -> Phase:
        for phase in self.phases:
            if phase.start <= now < phase.end and phase.model in ("", model):
                return phase
        return _FINE


_FINE = Phase("fine", 0.0, math.inf)


def draw_weather(rng: Random, timeout: float, *, other_model: bool = False) -> Weather:
    """Some phases; the first good answers come before most of them, but not always.

    With *other_model* that one, ``m2``, is dead for a while: its phase comes first, so that others do not hide it.
    """
    weather = Weather()
    if other_model and rng.random() < 0.8:
        start = rng.choice([0.0, rng.uniform(0, 10)])
        kind = rng.choice(["down", "refuse", "hang", "gone", "disguised"])
        end = start + rng.choice([rng.uniform(60, 600), rng.uniform(600, 10_000)])
        weather.phases.append(Phase(kind, start, end, (rng.choice([500, 503]),), model="m2"))
    at = rng.choice([0.0, rng.uniform(0.5, 5), rng.uniform(5, 60)])
    for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 4])):
        kind = rng.choice(
            ["down", "down", "refuse", "reset", "hang", "stall", "cut", "html", "slow", "errors", "errors", "throttle"]
            + ["partial", "partial"]
            + ["throttle", "capacity", "capacity", "disguised", "unauthorized", "sick", "sick", "flapping", "recovery"]
            + ["offline", "handles"]
            + ["quota", "billing", "redirect", "gone"] * (rng.random() < 0.3)
        )
        length = rng.choice([rng.uniform(3, 30), rng.uniform(30, 600), rng.uniform(600, 15_000)])
        if kind in REFUSING:
            length = max(length, 60.0)
        statuses = tuple(rng.sample([500, 502, 503, 504, 520, 529, 530, 498, 408, 424], rng.randint(1, 3)))
        hint = rng.choice([None, None, rng.uniform(0.2, 20), rng.uniform(20, 900)])
        form = rng.choice(["seconds", "ms", "date", "rfc3339", "duration", "words"])
        share = rng.choice([rng.uniform(0.01, 0.05), rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.9)])
        if kind == "partial":
            kind, statuses = "errors", tuple(rng.sample(PARTIAL, rng.choice([1, 1, 2])))
        if kind == "flapping":
            turns = rng.randint(2, 6)
            each = max(2.0, length / 20)
            for turn in range(turns):
                start = at + 2 * turn * each
                weather.phases.append(Phase("down", start, start + each, statuses))
            length = 2 * turns * each
        elif kind == "recovery":
            # Down, then a capacity that grows back in steps.
            down = length / 4
            weather.phases.append(Phase("down", at, at + down, statuses))
            for step in range(1, 4):
                start = at + down * step
                weather.phases.append(Phase("capacity", start, start + down, statuses, capacity=2**step))
        else:
            stall = rng.uniform(1, 8) if kind == "slow" else timeout + 5.0
            capacity = rng.randint(1, 10)
            weather.phases.append(Phase(kind, at, at + length, statuses, share, hint, form, stall, capacity))
        at += length + rng.choice([0.0, rng.uniform(1, 30), rng.uniform(60, 2000)])
    return weather


class Provider:
    """Carries requests to itself: it is a transport, one for all lives of a story."""

    def __init__(
        self,
        seed: int,
        weather: Weather,
        *,
        latency: float,
        smallest: str = "",
        cuts: bool = False,
        heavy: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        self.weather = weather
        self.heavy = heavy
        """Rows for which this machine may lack memory, each with how often it does, 0 to 1."""
        self.cuts = cuts
        """Whether some answers to rows are cut at their token limit."""
        self.smallest = smallest
        """What the smallest request meets whatever rows do: ``passes``, ``fails``; empty: what they do."""
        self.latency = latency
        self.sent: list[Sent] = []
        self.life = 0
        self.epoch = 0.0
        """The world's time at which this life's loop began."""
        self.announced: dict[int, tuple[str, bool]] = {}
        """Rows whose next call the events have announced: on which route, and whether it is a probe."""
        self.checks: deque[tuple[str, bool]] = deque()
        """The same for calls that no row waits for."""
        self.unannounced: list[Sent] = []
        self.sender_is_dead = False
        """Whether the process was killed: what its tasks do while they are cleared away was never sent."""
        self._seed = seed
        self._in_flight = 0
        self._nth: Counter[bytes] = Counter()
        self._randomly: Counter[int] = Counter()
        self._weighed: Counter[int] = Counter()
        self._answered: Counter[int] = Counter()

    def now(self) -> float:
        return self.epoch + asyncio.get_running_loop().time()

    async def aclose(self) -> None:
        return

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if self.sender_is_dead:
            raise asyncio.CancelledError
        now = self.now()
        found = _row_in(request.body)
        bad = _bad_in(request.body)
        self._nth[request.body] += 1
        rng = Random(f"{self._seed}:{request.body!r}:{self._nth[request.body]}")
        model = _model_in(request.body)
        phase = self.weather.at(now, model[1].decode() if model else "m")
        call = Sent(len(self.sent) + 1, self.life, int(found[1]) if found else 0, now, phase)
        self._know(call)
        self.sent.append(call)
        self._in_flight += 1
        takes = self.latency * rng.lognormvariate(0.0, 0.4)
        try:
            what = self._fate(call, phase, rng, bad[1].decode() if bad else "")
            call.answered = what if isinstance(what, str) else str(what.status)
            if isinstance(what, Reply):
                takes = {"slow": takes + phase.stall, "stall": takes + phase.stall}.get(phase.kind, takes)
                if takes < timeout:
                    await asyncio.sleep(takes)
                    if "x-wait" in what.headers:
                        call.hint_until = self.now() + float(what.headers["x-wait"])
                    return what
                call.fate = "random" if call.fate in ("good", "throttled") else call.fate
                what = call.answered = "timeout"
            if what == "timeout":
                await asyncio.sleep(timeout)
                raise TransportError("timeout", f"no whole answer within {timeout:g} s", sent=True)
            unsent = what in ("connect", "local", "no_network")
            await asyncio.sleep(0.001 if unsent else min(takes, timeout))
            raise TransportError(what, f"simulated {what}", sent=not unsent)  # type: ignore[arg-type]
        finally:
            self._in_flight -= 1
            call.ended = self.now()

    def _know(self, call: Sent) -> None:
        announced = self.announced.pop(call.row, None)
        if announced is not None:
            call.route, call.probe = announced
        elif self.checks:
            call.check = True
            call.route, call.probe = self.checks.popleft()
        else:
            self.unannounced.append(call)

    def check_ended(self, route: str) -> None:
        """Match a check with its event anew: those sent in one moment may begin in another order than announced."""
        now, checks = self.now(), [call for call in self.sent if call.check]
        ended = [call for call in checks if abs(call.ended - now) < 1e-9]
        if any(call.route == route for call in ended):
            return
        for call in ended:
            for other in checks:
                if other.route == route and other.at == call.at and other.ended > now:
                    call.route, call.probe, other.route, other.probe = other.route, other.probe, call.route, call.probe
                    return

    def _fate(self, call: Sent, phase: Phase, rng: Random, bad: str) -> Reply | str:
        kind = phase.kind
        if kind not in LOCAL and not call.check and self._lacks_memory(call.row):
            call.fate = "local"
            return "local"
        if not call.row and self.smallest and kind not in LOCAL:
            call.fate = "good" if self.smallest == "passes" else "bad"
            return _good(0, call.number) if self.smallest == "passes" else _error(500, None, "too small")
        if kind in TOTAL:
            call.fate = "total"
            return self._good(call) if kind == "stall" else self._total(phase, rng)
        if kind in LOCAL:
            call.fate = "local"
            return LOCAL[kind]
        if kind in SPENT:
            call.fate = "spent"
            return {
                "quota": _error(429, "insufficient_quota", "You exceeded your current quota"),
                "billing": _error(402, "billing_hard_limit_reached", "Payment required"),
                "redirect": Reply(307, {"location": "http://elsewhere.invalid/"}, b""),
                "gone": _error(404, "model_not_found", "The model does not exist"),
            }[kind]
        if kind == "throttle" and rng.random() < phase.share:
            call.fate = "throttled"
            return self._throttled(phase, rng)
        if kind == "capacity" and self._in_flight > phase.capacity:
            call.fate = "throttled"
            if rng.random() < 0.5:
                return self._throttled(phase, rng)
            call.fate = "random"
            return _error(rng.choice([503, 529]), "overloaded_error", "Overloaded")
        if bad:
            call.fate = "bad"
            return self._bad(bad)
        likely = phase.share if kind in ("errors", "sick") else 0.0
        if rng.random() < likely and (likely >= 0.15 or self._randomly[call.row] < 2):
            self._randomly[call.row] += 1
            call.fate = "random"
            if kind != "errors":
                return _sickness(rng)
            status = rng.choice(phase.statuses)
            call.fate = "throttled" if status == 429 else "random"
            return _error(status, None, "oops")
        call.fate = "good"
        return self._good(call)

    def _lacks_memory(self, row: int) -> bool:
        if row not in self.heavy:
            return False
        self._weighed[row] += 1
        return Random(f"{self._seed}:heavy:{row}:{self._weighed[row]}").random() < self.heavy[row]

    def _good(self, call: Sent) -> Reply:
        """A good answer. Its row and how often that was answered say whether it is cut, so that no other draw moves."""
        self._answered[call.row] += 1
        chance = Random(f"{self._seed}:cut:{call.row}:{self._answered[call.row]}").random()
        return _good(call.row, call.number, is_cut=self.cuts and call.row > 0 and chance < 0.3)

    def _total(self, phase: Phase, rng: Random) -> Reply | str:
        match phase.kind:
            case "down":
                return _hinted(_error(rng.choice(phase.statuses), None, "down"), phase, rng)
            case "html":
                return Reply(rng.choice([200, 502, 503]), {"content-type": "text/html"}, b"<html>Bad gateway</html>")
            case "disguised":
                return _error(400, "invalid_request_error", "Something is wrong with the request")
            case "unauthorized":
                return _error(401, "invalid_api_key", "Incorrect API key provided")
            case "refuse":
                return "connect"
            case "reset":
                return "reset"
            case "cut":
                return "truncated"
        return "timeout"

    def _throttled(self, phase: Phase, rng: Random) -> Reply:
        return _hinted(_error(429, "rate_limit_exceeded", "Slow down"), phase, rng)

    @staticmethod
    def _bad(bad: str) -> Reply | str:
        if bad == "hang":
            return "timeout"
        if bad == "402":
            return _error(402, None, "This row costs too much")
        if bad == "429":
            return _error(429, "rate_limit_exceeded", "Request too large")
        if bad == "long":
            return _error(400, "context_length_exceeded", "This model's maximum context length is 8192 tokens")
        return _error(int(bad), None, "This row is bad")


def _good(row: int, number: int, *, is_cut: bool = False) -> Reply:
    finish = "length" if is_cut else "stop"
    body = {
        "id": f"c{number}",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": f"answer to {row}"}, "finish_reason": finish}
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
    }
    return Reply(200, {"content-type": "application/json", "x-request-id": f"r{number}"}, json.dumps(body).encode())


def _error(status: int, code: str | None, message: str) -> Reply:
    body = json.dumps({"error": {"message": message, "type": code, "code": code}}).encode()
    return Reply(status, {"content-type": "application/json"}, body)


def _hinted(reply: Reply, phase: Phase, rng: Random) -> Reply:
    """The wait that the phase names, in one of the forms that are in use, by a clock of the provider's own."""
    if phase.hint is None:
        if reply.status == 429 and rng.random() < 0.3:
            return Reply(
                reply.status, {**reply.headers, "retry-after": rng.choice(["0", "-1", "nan", "soon"])}, reply.body
            )
        return reply
    wait = phase.hint
    clock = 1_700_000_000 + rng.randint(-100_000, 100_000)
    headers = dict(reply.headers)
    body = reply.body
    match phase.form:
        case "ms":
            headers["retry-after-ms"] = str(math.ceil(wait * 1000))
            headers["retry-after"] = "1"
        case "date":
            wait = float(math.ceil(wait))
            headers["date"] = formatdate(clock, usegmt=True)
            headers["retry-after"] = formatdate(clock + wait, usegmt=True)
        case "duration":
            details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait:.9f}s"}]
            status = "RESOURCE_EXHAUSTED" if reply.status == 429 else "UNAVAILABLE"
            error = {"code": reply.status, "message": "busy", "status": status, "details": details}
            body = json.dumps({"error": error}).encode()
        case _:
            headers["retry-after"] = f"{wait:.3f}"
            wait = float(headers["retry-after"])
    headers["x-wait"] = repr(wait)  # for the invariants; it means nothing to a client
    return Reply(reply.status, headers, body)


def _sickness(rng: Random) -> Reply | str:
    """What a single answer can have, FIELD.md's field rates aside: one of each."""
    good = _good(1, 1)
    choices: list[Reply | str] = [
        "timeout",
        "truncated",
        "garbage",
        "reset",
        "connect",
        "too_large",
        Reply(200, good.headers, b'{"error":{"message":"upstream failed","type":"server_error","code":500}}'),
        Reply(200, good.headers, good.body[: len(good.body) // 2]),
        Reply(200, good.headers, b""),
        Reply(200, good.headers, b'{"choices":null}'),
        Reply(200, {"content-type": "text/html"}, b"<html>please wait</html>"),
        Reply(200, good.headers, b"\xff\xfe\x00"),
        Reply(204, {}, b""),
        Reply(502, {"content-type": "text/html"}, b"<html>Bad gateway</html>"),
        _error(500, "server_error", "oops"),
        _error(529, "overloaded_error", "Overloaded"),
        _error(408, None, "Request timeout"),
        _error(409, None, "Conflict"),
        _error(424, "model_error", "failed dependency"),
    ]
    return rng.choice(choices)
