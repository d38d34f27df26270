"""Decisions of a route, as frozen records. One ``match`` in :mod:`llmbatch.runner.settle` applies them."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from llmbatch.breaker.core import State
from llmbatch.core.calls import Outcome, record

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


@record
class Succeed:
    """The row of this call succeeded."""


@record
class Fail:
    """*row* ends as ``failed`` with *outcome*. *is_alone*: by its own attempts, as no other call could tell.

    *why*: the evidence against it; empty if the answer itself is enough. Not compared.
    """

    row: int
    outcome: Outcome
    is_alone: bool = False
    why: str = field(default="", compare=False)


@record
class RetryAt:
    """*row* is resent, not before *at* (seconds on the loop's clock)."""

    row: int
    at: float
    code: str = ""


@record
class HoldForEvidence:
    """*row* waits until another call shows whether the route works."""

    row: int


@record
class ParkUntil:
    """*row* is parked until the circuit closes."""

    row: int


@record
class Requeue:
    """Parked rows are queued again: the circuit closed."""


@record
class CircuitMoved:
    """The circuit changed its state. When it opens, all waiting rows of the route are parked."""

    old: State
    new: State


@record
class OutageConfirmed:
    """A probe confirmed the outage that began at *since*."""

    since: float
    reason: str


@record
class OutageOver:
    """The confirmed outage that began at *since* has ended."""

    since: float


@record
class PauseRoute:
    """Nothing is sent to the route for *seconds*.

    ``is_named``: the provider named the wait; False where it is llmbatch's own backoff. ``is_refusal``: calls were
    refused; False where a rate limit is kept before they are.
    """

    seconds: float
    code: str
    is_named: bool = True
    is_refusal: bool = True


@record
class StopRun:
    """The run stops: an operator must act. No row is marked as failed."""

    exit_code: int
    reason: str
    hint: str


@record
class GiveUpRoute:
    """This route is given up: an operator must act. Other routes continue."""

    outcome: Outcome
    message: str
    hint: str


@record
class Tell:
    """A message for the user."""

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
