"""What the shell has to do after an answer, as data. One ``match`` in the runner carries them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmbatch.breaker.core import State
from llmbatch.core.calls import Outcome

__all__ = [
    "CircuitMoved",
    "Decision",
    "Fail",
    "GiveUpRoute",
    "HoldForEvidence",
    "OutageConfirmed",
    "OutageOver",
    "ParkUntil",
    "PauseRoute",
    "Requeue",
    "RetryAt",
    "StopRun",
    "Succeed",
    "Tell",
]


@dataclass(frozen=True, slots=True)
class Succeed:
    """The row of this call has its answer."""


@dataclass(frozen=True, slots=True)
class Fail:
    """*row* ends as failed."""

    row: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class RetryAt:
    """*row* goes again, not before *at*."""

    row: int
    at: float
    code: str = ""


@dataclass(frozen=True, slots=True)
class HoldForEvidence:
    """*row* is not sent again before something else on the route has told whether the route works."""

    row: int


@dataclass(frozen=True, slots=True)
class ParkUntil:
    """*row* is deferred until the circuit closes."""

    row: int


@dataclass(frozen=True, slots=True)
class Requeue:
    """The circuit closed: parked rows go again."""


@dataclass(frozen=True, slots=True)
class CircuitMoved:
    """The circuit changed its state; on an opening whatever waits on the route is parked."""

    old: State
    new: State


@dataclass(frozen=True, slots=True)
class OutageConfirmed:
    """A probe showed that the opening was right."""

    since: float
    reason: str


@dataclass(frozen=True, slots=True)
class OutageOver:
    """The outage that was confirmed has ended."""

    since: float


@dataclass(frozen=True, slots=True)
class PauseRoute:
    """Nothing is sent to the route for *seconds*.

    ``is_named``: the provider named the wait; False where it is llmbatch's own backoff.
    """

    seconds: float
    code: str
    is_named: bool = True


@dataclass(frozen=True, slots=True)
class StopRun:
    """Only the operator can help. Nothing is marked as failed."""

    exit_code: int
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class GiveUpRoute:
    """Only the operator can help, but with this route alone: others go on."""

    outcome: Outcome
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Something a person should read."""

    level: Literal["info", "warning", "error"]
    message: str
    hint: str = ""


Decision = (
    Succeed
    | Fail
    | RetryAt
    | HoldForEvidence
    | ParkUntil
    | Requeue
    | CircuitMoved
    | OutageConfirmed
    | OutageOver
    | PauseRoute
    | StopRun
    | GiveUpRoute
    | Tell
)
