"""Write the state of a circuit as a plain dictionary, and read one that an earlier process wrote.

The monotonic clock does not outlast a process, so the dictionary holds durations, and the wall time when it was made.
Wall time is a hint: it shortens waits by the time that has passed since, and never lengthens them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar, get_args

from llmbatch.breaker.circuit_state import Cause, Forced, Memory, State
from llmbatch.breaker.policy import BreakerPolicy

__all__ = ["read_snapshot", "write_snapshot"]

VERSION = 1

T = TypeVar("T", bound=str)


def write_snapshot(memory: Memory, name: str, wall: float) -> dict[str, object]:
    """Return *memory* as a dictionary that JSON can hold. *wall*: seconds since 1970."""
    members: dict[str, object] = {"version": VERSION, "name": name, "saved_at": wall, **memory._asdict()}
    if memory.forced_for == math.inf:
        members["forced_for"] = None
    return members


def read_snapshot(snapshot: Mapping[str, object], policy: BreakerPolicy, wall: float) -> tuple[str, Memory]:
    """Return the name and what a circuit with *policy* should remember at *wall*, in seconds since 1970.

    Waits are cut to the longest one that *policy* allows. Unknown members are ignored.

    Raises:
        ValueError: not a snapshot of this version, or a member is missing or out of range; the message names it.
    """
    if not isinstance(snapshot, Mapping):
        raise ValueError(f"snapshot is {snapshot!r}, must be a dictionary")  # noqa: TRY004 - wrong data, not a wrong call
    if (version := snapshot.get("version")) != VERSION:
        raise ValueError(f"snapshot: version is {version!r}, must be {VERSION}")
    # A clock that was set back, or a snapshot from the future: no time has passed.
    passed = max(0.0, wall - _seconds(snapshot, "saved_at"))
    forced = _choice(snapshot, "forced", get_args(Forced))
    state = _choice(snapshot, "state", get_args(State))
    if forced != {"closed": "disabled", "open": "open"}.get(state) and forced:
        raise ValueError(f"snapshot: forced is {forced!r}, which a circuit that is {state} cannot be")
    until_reset = forced == "open" and _member(snapshot, "forced_for") is None
    since = None if _member(snapshot, "since") is None else _seconds(snapshot, "since") + passed
    if since is None and state != "closed":
        raise ValueError(f"snapshot: since is None, must be a number of seconds if state is {state!r}")
    longest = max(policy.longest_hint, policy.recovery_timeout * (1 + policy.jitter))
    forced_for = math.inf if until_reset else max(0.0, _seconds(snapshot, "forced_for") - passed)
    return _text(snapshot, "name"), Memory(
        state=state,
        reason=_text(snapshot, "reason"),
        cause=_choice(snapshot, "cause", get_args(Cause)),
        failures=_whole(snapshot, "failures"),
        wait=min(longest, max(0.0, _seconds(snapshot, "wait") - passed)),
        level=_whole(snapshot, "level"),
        since=since,
        forced=forced,
        forced_for=forced_for,
        would_have_opened=_flag(snapshot, "would_have_opened"),
    )


def _member(snapshot: Mapping[str, object], name: str) -> object:
    if name not in snapshot:
        raise ValueError(f"snapshot: {name} is missing")
    return snapshot[name]


def _seconds(snapshot: Mapping[str, object], name: str) -> float:
    value = _member(snapshot, name)
    # Comparing instead of isfinite(), which cannot convert integers of any length.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_SECONDS:
        raise ValueError(f"snapshot: {name} is {value!r}, must be a number of seconds from 0 to {MOST_SECONDS:g}")
    return float(value)


def _whole(snapshot: Mapping[str, object], name: str) -> int:
    value = _member(snapshot, name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_COUNTED:
        raise ValueError(f"snapshot: {name} is {value!r}, must be a whole number from 0 to {MOST_COUNTED}")
    return value


def _flag(snapshot: Mapping[str, object], name: str) -> bool:
    value = _member(snapshot, name)
    if not isinstance(value, bool):
        raise ValueError(f"snapshot: {name} is {value!r}, must be true or false")  # noqa: TRY004 - wrong data, not a wrong call
    return value


def _text(snapshot: Mapping[str, object], name: str) -> str:
    value = _member(snapshot, name)
    if not isinstance(value, str):
        raise ValueError(f"snapshot: {name} is {value!r}, must be a string")  # noqa: TRY004 - wrong data, not a wrong call
    return value


def _choice(snapshot: Mapping[str, object], name: str, choices: tuple[T, ...]) -> T:
    value = _member(snapshot, name)
    for choice in choices:
        if value == choice:
            return choice
    raise ValueError(f"snapshot: {name} is {value!r}, must be one of {', '.join(map(repr, choices))}")


MOST_SECONDS = 1e12
"""Longest duration and latest time in seconds, some 30,000 years: sums of such numbers are exact enough."""

MOST_COUNTED = 2**53
"""Largest count that every JSON library keeps."""
