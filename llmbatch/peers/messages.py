"""What travels between a process and the board: requests, replies, and news of circuits.

Instants never travel, only durations: each process and the board have clocks of their own. Times are whole
microseconds, so that the board in Python and the one in Lua, which counts in doubles, give exactly the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = [
    "MICROS",
    "CircuitNews",
    "PollReply",
    "ProbeResult",
    "Reply",
    "ReplyKind",
    "circuit_id",
    "micros",
    "parse_news",
]

MICROS = 1_000_000
"""Microseconds of a second."""

LONGEST = 10 * 365 * 86_400 * MICROS
"""Longest duration that travels, so that sums stay exact in doubles."""

ReplyKind = Literal["opened", "alone", "granted", "busy", "wait", "closed", "later", "stale", "released", "held"]
ProbeResult = Literal["success", "failure", "release"]


def micros(seconds: float) -> int:
    """*seconds* as whole microseconds; infinity as ten years, nothing below 0."""
    return min(LONGEST, max(0, round(min(seconds, 1e9) * MICROS)))


def circuit_id(label: str) -> str:
    """Name of a circuit in the shared state: a hash, so that no label (a tenant, perhaps) is told to the store."""
    return hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Reply(NamedTuple):
    """What the board answers to ``open``, ``ask``, ``tell`` and ``hold``.

    * ``opened``: the circuit is open for all, in *version*; *wait* until its next probe.
    * ``alone``: the others are well. Do not share this circuit for *wait*.
    * ``granted``: probe, with *fence*, for at most *wait* (the lease).
    * ``busy``: another process probes, for at most *wait*. ``wait``: too early to probe, by *wait*.
    * ``closed``: the circuit is closed for all, in *version*.
    * ``later``: a failed probe was noted. ``released``: the lease is free again. ``held``: the hold was noted.
    * ``stale``: the lease, or the version, is no longer that of the message; nothing was changed.
    """

    kind: ReplyKind
    version: int
    fence: int = 0
    wait: int = 0


@dataclass(frozen=True, slots=True)
class CircuitNews:
    """State of one shared circuit when it was told. Durations are microseconds from then on."""

    id: str
    seq: int
    """Number of the change, rising over all circuits of the board, also if the board forgets everything."""
    version: int
    """Rises with each opening and closing."""
    is_open: bool
    wait: int = 0
    """Until the next probe."""
    failed: int = 0
    """Failed probes since the opening."""
    opener: str = ""
    alone: str = ""
    """Who was told with this closing that its trouble is its own; empty: nobody."""
    alone_for: int = 0
    hold: int = 0
    """Until calls may be sent, as a provider named a wait."""
    is_named: bool = False
    """Whether the provider named the wait until the next probe."""
    why: str = ""
    """Why it is open."""

    def encode(self) -> str:
        """The news as one line of text, members separated by ``|``; *why* last, as it may contain anything."""
        members = (
            self.id,
            self.seq,
            self.version,
            int(self.is_open),
            self.wait,
            self.failed,
            self.opener,
            self.alone,
            self.alone_for,
            self.hold,
            int(self.is_named),
            self.why,
        )
        return "|".join(map(str, members))


def parse_news(text: str) -> CircuitNews:
    """Read what :meth:`CircuitNews.encode` wrote.

    Raises:
        ValueError: it is something else.
    """
    members = text.split("|", 11)
    if len(members) != 12 or len(members[0]) != 16:
        raise ValueError(f"no news of a circuit: {text[:80]!r}")
    name, seq, version, is_open, wait, failed, opener, alone, alone_for, hold, is_named, why = members
    return CircuitNews(
        name,
        int(seq),
        int(version),
        is_open == "1",
        int(wait),
        int(failed),
        opener,
        alone,
        int(alone_for),
        int(hold),
        is_named == "1",
        why,
    )


class PollReply(NamedTuple):
    """Answer to ``poll``: the last change, the number of members, and the circuits that changed since."""

    seq: int
    members: int
    news: tuple[CircuitNews, ...]
