"""Describe the planned response to one request (:class:`ResponsePlan`) and the totals so far (:class:`Stats`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from llmbatch.core.raw_json import JSON

__all__ = ["ResponsePlan", "Stats"]


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """Planned response to one request.

    ``answer``: after ``delay`` seconds the status, headers and body go out; with ``chunks`` the body comes in parts,
    each after its gap in seconds. ``close``: after ``delay`` the connection closes without an answer; ``sent`` is False
    where a client could not even connect. ``cut``: the connection closes in the middle of the body. ``hang``: nothing
    ever happens. ``good``: it is what was asked for. ``down``: no request could succeed now.
    ``counted`` is False for what is no model's call.
    """

    kind: Literal["answer", "close", "cut", "hang"]
    delay: float = 0.0
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    chunks: tuple[tuple[float, bytes], ...] = field(default=(), repr=False)
    sent: bool = True
    good: bool = False
    down: bool = False
    counted: bool = True
    row: str = field(default="", repr=False)
    """Of a good answer: the row's text, by which the ledger knows it."""


@dataclass(slots=True)
class Stats:
    """Statistics of requests. ``by_status`` has ``closed``, ``cut`` and ``hung`` for calls without a whole answer.

    ``timeline`` has the calls and the good answers among them for each tenth of a second in which calls arrived, and
    ``started`` when the first call for each model did: both on the clock of the provider, in seconds.
    """

    calls: int = 0
    calls_while_down: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    by_model: dict[str, int] = field(default_factory=dict)
    timeline: dict[int, tuple[int, int]] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)

    def json(self) -> dict[str, JSON]:
        """The statistics as a JSON object."""
        return {
            "calls": self.calls,
            "calls_while_down": self.calls_while_down,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "by_status": dict(self.by_status),
            "by_model": dict(self.by_model),
            "timeline": [[tenth / 10, calls, good] for tenth, (calls, good) in self.timeline.items()],
            "started": dict(self.started),
        }
