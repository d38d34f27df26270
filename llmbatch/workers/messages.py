"""What a parent and its processes tell each other: pickled values behind their length, and commands as lines.

Both ends are this program, started by the same user, and speak over pipes that nobody else has.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final

from llmbatch.core.events import Event, OutageEnded, OutageStarted
from llmbatch.report.fold import ProcessState
from llmbatch.report.summary import Summary

__all__ = [
    "LENGTH_BYTES",
    "PAUSE",
    "RESUME",
    "Done",
    "Ending",
    "Failed",
    "Happened",
    "Message",
    "Told",
    "pack",
    "read_message",
    "set_line",
    "shifted",
    "stop_line",
]

LENGTH_BYTES: Final = 4

PAUSE: Final = b"pause\n"
RESUME: Final = b"resume\n"
"""Commands for the standard input of a process, as :func:`stop_line` and :func:`set_line` make others."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a process has counted so far."""

    state: ProcessState


@dataclass(frozen=True, slots=True)
class Happened:
    """An event that concerns the whole run."""

    event: Event


@dataclass(frozen=True, slots=True)
class Done:
    """The run of a process has ended."""

    summary: Summary


@dataclass(frozen=True, slots=True)
class Failed:
    """The run of a process could not begin or go on: an error for the user, and the exit code that it ends with."""

    message: str
    hint: str
    exit_code: int


Message = Told | Happened | Done | Failed


@dataclass(frozen=True, slots=True)
class Ending:
    """How the run of a process has ended: with a summary, or with an error."""

    number: int
    exit_code: int
    summary: Summary | None = None
    failure: Failed | None = None


def shifted(message: Message, seconds: float) -> Message:
    """*message* with its instants later by *seconds*: those of another machine's clock, on the clock of this one."""
    match message:
        case Told(state):
            routes = [
                replace(
                    route,
                    last_row_at=route.last_row_at and route.last_row_at + seconds,  # 0: no row has ended yet
                    calls=replace(
                        route.calls, first_at=None if route.calls.first_at is None else route.calls.first_at + seconds
                    ),
                )
                for route in state.routes
            ]
            progress = None if state.progress is None else replace(state.progress, at=state.progress.at + seconds)
            return Told(replace(state, at=state.at + seconds, routes=routes, progress=progress))
        case Happened(OutageStarted() | OutageEnded() as event):
            return Happened(replace(event, at=event.at + seconds, since=event.since + seconds))
        case Happened(event):
            return Happened(replace(event, at=event.at + seconds))
        case _:
            return message


def pack(message: object) -> bytes:
    """*message* as it is sent."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def read_message(stream: BinaryIO) -> Any:
    """Read one message; blocks until it is there.

    Raises:
        EOFError: the other end has closed the pipe.
    """
    head = stream.read(LENGTH_BYTES)
    data = stream.read(int.from_bytes(head, "big"))
    if len(head) < LENGTH_BYTES or len(data) < int.from_bytes(head, "big"):
        raise EOFError
    return pickle.loads(data)  # noqa: S301 - see above


def stop_line(signal: int | None, *, now: bool) -> bytes:
    """The command to stop, for the standard input of a process; *signal* 0 is none."""
    return f"{'now' if now else 'stop'} {signal or 0}\n".encode()


def set_line(values: Mapping[str, str]) -> bytes:
    """The command to change options, by name, as typed: they have no spaces."""
    return f"set {' '.join(f'{name}={text}' for name, text in values.items())}\n".encode()
