"""Several providers at once, each with a fate of its own over time, and what each of their answers was.

A *place* is what the runner calls a route: a provider's model by one key, and in the flex tier. Every answer names the
place and the number of its call, so that an output line can be traced to what really answered.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import deque
from dataclasses import dataclass, field
from random import Random

from simulation_provider import Phase

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import TransportError

ENVIRON = {
    "OPENAI_API_KEY": "sk-openai",
    "MISTRAL_API_KEY": "mk-mistral",
    "GROQ_API_KEY": "gk-groq",
    "ANTHROPIC_API_KEY": "sk-ant-anthropic",
    "KEY_A": "key-a",
    "KEY_B": "key-b",
    "KEY_C": "key-c",
}

DEAD = frozenset({"quota", "unauthorized"})
"""Phases in which the account is refused: the run may leave it for good."""

SICK = frozenset({"down", "refuse", "reset", "hang", "disguised"})
"""Phases in which no call succeeds, and that pass."""

_item_in = re.compile(rb"item (\d+)\b").search
_bad_in = re.compile(rb"\[bad ([a-z0-9]+)\]").search
_FINE = Phase("fine", 0.0, math.inf)


@dataclass(frozen=True)
class Place:
    """One route as the world has it. ``label``: the runner's name for it; ``model``: the one of its output lines."""

    label: str
    model: str
    key: str
    rank: int
    weight: float = 1.0
    tier: str = ""

    @property
    def is_anthropic(self) -> bool:
        return self.model.startswith("anthropic/")

    def carries(self, kind: str) -> bool:
        """Whether it can take rows of this kind: ``plain``, or a batch row in the format of ``openai``, ``anthropic``.

        Anthropic serves OpenAI's format too. A batch row is sent as it is, so that it asks for no tier.
        """
        if kind == "plain":
            return True
        return self.tier != "flex" and (kind == "openai" or self.is_anthropic)


@dataclass
class Sent:
    """One call. ``row`` is 0 for a health check."""

    number: int
    life: int
    place: Place
    row: int
    item: int
    at: float
    phase: Phase
    is_good: bool = False
    ended: float = math.inf
    text: str = ""


@dataclass
class Servers:
    """A transport to all places: one for all lives of a story."""

    seed: int
    places: list[Place]
    weather: dict[str, list[Phase]]
    """Phases by the label of the place."""
    latency: float
    rows_of: dict[int, list[int]] = field(default_factory=dict)
    """The rows of each item."""
    sent: list[Sent] = field(default_factory=list)
    announced: deque[tuple[str, int]] = field(default_factory=deque)
    """Calls that the events have told, in order: the place's label, and the row."""
    life: int = 0
    epoch: float = 0.0
    sender_is_dead: bool = False
    stray: str = ""
    """What was sent and had no event; empty if nothing was."""

    def now(self) -> float:
        return self.epoch + asyncio.get_running_loop().time()

    async def aclose(self) -> None:
        return

    def phase(self, place: Place, now: float) -> Phase:
        for phase in self.weather.get(place.label, ()):
            if phase.start <= now < phase.end:
                return phase
        return _FINE

    def fine_since(self, place: Place, now: float) -> float:
        """Seconds for which the place has been fine; below 0 if it is not."""
        if self.phase(place, now) is not _FINE:
            return -1.0
        return now - max((phase.end for phase in self.weather.get(place.label, ()) if phase.end <= now), default=0.0)

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if self.sender_is_dead:
            raise asyncio.CancelledError
        now = self.now()
        place = self._place_of(request)
        found, bad = _item_in(request.body), _bad_in(request.body)
        item = int(found[1]) if found else 0
        row = self._row_of(place, item)
        phase = self.phase(place, now)
        call = Sent(len(self.sent) + 1, self.life, place, row, item, now, phase)
        self.sent.append(call)
        rng = Random(f"{self.seed}:{call.number}")
        takes = self.latency * rng.lognormvariate(0.0, 0.4)
        try:
            what = self._answer(call, rng, bad[1].decode() if bad else "", request)
            if isinstance(what, Reply) and takes < timeout:
                await asyncio.sleep(takes)
                call.is_good = what.status == 200
                return what
            if isinstance(what, Reply) or what == "timeout":
                await asyncio.sleep(timeout)
                raise TransportError("timeout", f"no whole answer within {timeout:g} s", sent=True)
            await asyncio.sleep(0.001 if what == "connect" else min(takes, timeout))
            raise TransportError(what, f"simulated {what}", sent=what != "connect")  # type: ignore[arg-type]
        finally:
            call.ended = self.now()

    def _row_of(self, place: Place, item: int) -> int:
        """The row of a call: the first that was told for this place and item. A health check has none.

        Calls may begin in another order than they were told, and a health check may send the request of an item.
        """
        for rows in (self.rows_of.get(item, ()), (0,)):
            for told in self.announced:
                if told[0] == place.label and told[1] in rows:
                    self.announced.remove(told)
                    return told[1]
        self.stray = self.stray or f"a call to {place.label} for item {item} was told by no event"
        return 0

    def _place_of(self, request: Request) -> Place:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ") or request.headers.get("x-api-key", "")
        tier = "flex" if json.loads(request.body).get("service_tier") == "flex" else ""
        return next(place for place in self.places if place.key == key and (place.tier == "flex") == (tier == "flex"))

    def _answer(self, call: Sent, rng: Random, bad: str, request: Request) -> Reply | str:
        phase = call.phase
        match phase.kind:
            case "down":
                return _error(rng.choice([500, 502, 503]), None, "down")
            case "refuse":
                return "connect"
            case "reset":
                return "reset"
            case "hang":
                return "timeout"
            case "disguised":
                return _error(400, "invalid_request_error", "Something is wrong with the request")
            case "unauthorized":
                return _error(401, "invalid_api_key", "Incorrect API key provided")
            case "quota":
                return _error(429, "insufficient_quota", "You exceeded your current quota")
            case "lack" if rng.random() < phase.share:
                return _error(429, "resource_unavailable", "Resource unavailable: no flex capacity now")
            case "throttle" if rng.random() < phase.share:
                headers = {} if phase.hint is None else {"retry-after": f"{phase.hint:.3f}"}
                return _error(429, "rate_limit_exceeded", "Slow down", headers)
            case "errors" if not bad and rng.random() < phase.share:
                return _error(rng.choice([500, 502, 503]), None, "oops")
        if bad:
            code = "context_length_exceeded" if bad == "long" else None
            return _error(400 if bad == "long" else int(bad), code, "This row is bad")
        call.text = f"answer to item {call.item} of {call.place.label} in call {call.number}"
        return _good(call, is_messages=request.url.endswith("/messages"))


def _good(call: Sent, *, is_messages: bool) -> Reply:
    headers = {"content-type": "application/json", "x-request-id": f"r{call.number}"}
    if is_messages:
        body: dict[str, object] = {
            "id": f"c{call.number}",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": call.text}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 5, "output_tokens": 5},
        }
    else:
        choice = {"index": 0, "message": {"role": "assistant", "content": call.text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        body = {"id": f"c{call.number}", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
        if call.place.model.startswith(("openai/", "groq/")):
            body["service_tier"] = "flex" if call.place.tier == "flex" else "default"
    return Reply(200, headers, json.dumps(body).encode())


def _error(status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> Reply:
    body = json.dumps({"error": {"message": message, "type": code, "code": code}}).encode()
    return Reply(status, {"content-type": "application/json"} | (headers or {}), body)
