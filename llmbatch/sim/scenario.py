"""Describe how a simulated provider behaves over time: a sequence of phases (:class:`Scenario`, :class:`Phase`).

Pure data. :mod:`llmbatch.sim.scenario_file` reads it from files; :mod:`llmbatch.sim.provider` plays it, with a clock
that starts at the first request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal, get_args

from llmbatch.core.errors import UsageError
from llmbatch.sim.batches.rules import BatchRules
from llmbatch.sim.rate_limits import RateLimits
from llmbatch.sim.row_fault import RowFault

__all__ = ["DEFAULT_STATUSES", "Behavior", "Phase", "Scenario"]

Behavior = Literal[
    "fine",  # answers well
    "down",  # answers with one of `statuses` (503)
    "refuse",  # closes the connection without an answer
    "hang",  # takes the request and never answers
    "slow",  # answers well, `stall` seconds late
    "throttle",  # answers with 429, and names a wait if `retry_after` is set
    "errors",  # answers with one of `statuses` (500)
    "cut",  # breaks off in the middle of a good answer
    "stream_error",  # sends an error event in the middle of a stream, and answers with 500 where none was asked for
    "stream_pause",  # pauses for `stall` seconds in the middle of a stream, or before an answer in one piece
    "false_success",  # answers 200 with an error in the body
    "html",  # answers with a gateway's page: 502 and HTML
    "unauthorized",  # refuses every key with 401
    "bad_request",  # refuses the request with 400
    "quota",  # says that the money is spent: 429 insufficient_quota
]

DEFAULT_STATUSES: Mapping[Behavior, tuple[int, ...]] = {"down": (503,), "errors": (500,)}
"""What a phase that names no ``statuses`` answers with."""

_ANSWERING: frozenset[Behavior] = frozenset({"fine", "slow", "stream_pause"})
_ALL = 1.0 - 1e-9


@dataclass(frozen=True, slots=True)
class Phase:
    """A period with one behavior, or several side by side.

    Raises :class:`~llmbatch.core.errors.UsageError` for a value out of range.
    """

    seconds: float
    """How long it lasts, above 0; infinity for the rest of time."""
    behavior: Behavior = "fine"
    share: float = 1.0
    """Which part of the requests meets ``behavior``, 0 to 1, drawn for each request; the others are answered well."""
    share_to: float | None = None
    """Where ``share`` has got to at the end, 0 to 1, in a straight line; None: it stays."""
    mix: Mapping[Behavior, float] = field(default_factory=dict)
    """Several behaviors with their shares, together at most 1, instead of ``behavior`` and ``share``."""
    stall: float = 30.0
    """Seconds before the first byte of a ``slow`` answer and within a stream that pauses, at least 0."""
    retry_after: float | None = None
    """Seconds that a 429 or 5xx asks to wait, above 0; None: it names none."""
    statuses: tuple[int, ...] = ()
    """What ``down``, ``errors`` and too much load are answered with, 400 to 599, drawn for each request."""
    capacity: float | None = None
    """Which part of the full load is carried, at least 0; requests above it are refused. None: any load."""
    capacity_to: float | None = None
    """Where ``capacity`` has got to at the end, in a straight line; None: it stays."""
    limits: float = 1.0
    """What the scenario's rate limits are multiplied by, above 0."""
    knee: float | None = None
    """Requests in flight, above 0, from which answers take longer in proportion. None: they never do."""
    flex: bool = True
    """Whether the flex tier has capacity; without it, requests for it get 429 ``resource_unavailable``."""
    collapses: bool = False
    """Whether less is carried the more is offered above ``capacity``: as much less as the load is above it."""

    def __post_init__(self) -> None:
        known = get_args(Behavior)
        for behavior in (self.behavior, *self.mix):
            if behavior not in known:
                raise UsageError(f"behavior is {behavior!r}, which is unknown", hint=f"one of: {', '.join(known)}")
        if not self.seconds > 0:
            raise UsageError(f"seconds is {self.seconds!r}, must be above 0")
        shares = {f"mix.{behavior}": share for behavior, share in self.mix.items()}
        for name, share in ({"share": self.share, "share_to": self.share_to} | shares).items():
            if share is not None and not 0 <= share <= 1:
                raise UsageError(f"{name} is {share!r}, must be 0 to 1")
        if sum(self.mix.values()) > 1 + 1e-9:
            raise UsageError(f"the shares of mix add up to {sum(self.mix.values()):g}, must be 1 at most")
        if not 0 <= self.stall < math.inf:
            raise UsageError(f"stall is {self.stall!r}, must be 0 or more seconds")
        if self.retry_after is not None and not 0 < self.retry_after < math.inf:
            raise UsageError(f"retry_after is {self.retry_after!r}, must be above 0")
        if not all(400 <= status <= 599 for status in self.statuses):
            raise UsageError(f"statuses is {self.statuses!r}, must be 400 to 599 each")
        for name, capacity in (("capacity", self.capacity), ("capacity_to", self.capacity_to)):
            if capacity is not None and not 0 <= capacity < math.inf:
                raise UsageError(f"{name} is {capacity!r}, must be 0 or more")
        if not 0 < self.limits < math.inf:
            raise UsageError(f"limits is {self.limits!r}, must be above 0")
        if self.knee is not None and not 0 < self.knee < math.inf:
            raise UsageError(f"knee is {self.knee!r}, must be above 0")
        if self.capacity is None and (self.capacity_to is not None or self.collapses):
            raise UsageError("capacity is missing, where capacity_to or collapses is set")
        if self.seconds == math.inf and not (self.share_to is None and self.capacity_to is None):
            raise UsageError("seconds is inf, must be finite where share_to or capacity_to is set")

    @property
    def is_down(self) -> bool:
        """Whether no request at all can succeed now; of a phase that changes, at its beginning.

        A provider that only throttles is not down.
        """
        if not self.mix and self.behavior == "throttle":
            return False
        return self.good_share < 1 - _ALL or self.capacity == 0

    @property
    def good_share(self) -> float:
        """The share of requests, 0 to 1, that get a good answer at a load within capacity."""
        shares = self.mix or {self.behavior: self.share}
        return 1.0 - sum(share for behavior, share in shares.items() if behavior not in _ANSWERING)

    def pick(self, draw: float) -> Behavior:
        """The behavior that a request meets whose random number, 0 to 1, is *draw*."""
        if not self.mix:
            return self.behavior if draw < self.share else "fine"
        for behavior, share in self.mix.items():
            if draw < share:
                return behavior
            draw -= share
        return "fine"

    def after(self, seconds: float) -> Phase:
        """The phase as it is *seconds* after its beginning, with its gradual changes applied."""
        if self.share_to is None and self.capacity_to is None:
            return self
        part = min(1.0, seconds / self.seconds)
        share = self.share if self.share_to is None else _between(self.share, self.share_to, part)
        capacity = self.capacity
        if capacity is not None and self.capacity_to is not None:
            capacity = _between(capacity, self.capacity_to, part)
        return replace(self, share=share, capacity=capacity, share_to=None, capacity_to=None)

    def compressed(self, speed: float) -> Phase:
        """The same phase passing *speed* times faster: its length, stall and hint are that much shorter."""
        hint = None if self.retry_after is None else self.retry_after / speed
        return replace(self, seconds=self.seconds / speed, stall=self.stall / speed, retry_after=hint)


def _between(first: float, last: float, part: float) -> float:
    return first + (last - first) * part


_FINE_FOR_EVER = Phase(math.inf, "fine")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Phases in sequence, then ``fine`` for ever; with ``repeat`` they start again instead.

    Raises :class:`~llmbatch.core.errors.UsageError` if a repeating scenario has no end to repeat from.
    """

    name: str
    phases: tuple[Phase, ...]
    description: str
    repeat: bool = False
    latency: float | None = None
    """The median of a good answer in seconds, where the scenario wants another than the provider's."""
    models: tuple[str, ...] = ()
    """Patterns (``gpt-4*``) of the models affected; others are fine. Empty: all."""
    source: str = ""
    """Where it happened."""
    limits: RateLimits | None = None
    """Rate limits of each model and key."""
    spent_keys: tuple[str, ...] = ()
    """Patterns (``key-b*``) of the API keys whose accounts have no money: refused whatever the phase."""
    rows: tuple[RowFault, ...] = ()
    """Trouble of rows that lasts, whatever the phase; the first that has a row counts."""
    batch: BatchRules | None = None
    """How its batch APIs behave; None: as those of the provider's own scenario, or well."""

    def __post_init__(self) -> None:
        if self.repeat and not 0 < self.length < math.inf:
            raise UsageError(f"scenario {self.name} repeats, but lasts {self.length:g} s")

    @property
    def length(self) -> float:
        """Seconds until the last phase ends; may be infinite."""
        return sum(phase.seconds for phase in self.phases)

    def affects(self, model: str) -> bool:
        """Return whether the scenario affects *model*."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)

    def is_spent(self, key: str) -> bool:
        """Return whether the account of *key* has no money."""
        return any(fnmatchcase(key, pattern) for pattern in self.spent_keys)

    def at(self, elapsed: float) -> Phase:
        """The phase *elapsed* seconds after the start, as it is then; its first instant belongs to it, its last not."""
        left = elapsed % self.length if self.repeat else elapsed
        for phase in self.phases:
            if left < phase.seconds:
                return phase.after(left)
            left -= phase.seconds
        # Rounding may leave a repeating scenario a hair past its last phase.
        return self.phases[-1] if self.repeat else _FINE_FOR_EVER

    def compressed(self, speed: float) -> Scenario:
        """The same scenario passing *speed* times faster; latencies of good answers stay.

        Raises:
            UsageError: *speed* is not a number above 0.
        """
        if not 0 < speed < math.inf:
            raise UsageError(f"speed is {speed!r}, must be a number above 0")
        if speed == 1:
            return self
        batch = None if self.batch is None else self.batch.compressed(speed)
        return replace(self, phases=tuple(phase.compressed(speed) for phase in self.phases), batch=batch)
