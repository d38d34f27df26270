"""The board: what the processes of a fleet know together of their circuits, rates and cost cap. Pure: *now* is given.

Local decides, shared coordinates: each process has its own circuit and its own evidence, and the board does nothing but
number openings, hand out one probe at a time, and pass on what came of it. It may forget everything at any time: then
those who know more (a higher version) tell it.

* **Version**: rises with each opening and closing of a circuit; it never goes back.
* **Fence**: number of a probe's lease. Both are taken from the clock, so that none is given twice even if the board
  forgets.
* **Second opinion**: the first probe after an opening goes at once, and never to the opener. If it passes, the opener's
  trouble is its own: it is *alone* for a while, and the others lost one round trip.

The same in Lua, for Redis: :mod:`llmbatch.peers.lua`. Random stories through both prove that they are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llmbatch.peers.messages import MICROS, CircuitNews, PollReply, ProbeResult, Reply

__all__ = ["ALONE", "FORGET", "GRACE", "LONGEST_ALONE", "MOST_DOUBLINGS", "MOST_NEWS", "ROTATION", "SILENT", "Board"]

ALONE = 60 * MICROS
"""How long an opener that the second opinion disproves is on its own, doubled each time."""

LONGEST_ALONE = 3600 * MICROS

ROTATION = 1 * MICROS
"""How much longer the owner of a failed probe waits than the others, at most, so that the prober changes."""

GRACE = 1 * MICROS
"""How long a board that forgot a circuit waits before it grants a probe: another one may be out."""

SILENT = 5 * MICROS
"""A prober that was not heard of for so long is dead: its lease is handed on."""

MOST_DOUBLINGS = 4
"""How often a lease doubles as probers die."""

MOST_NEWS = 512
"""Circuits that one answer to ``poll`` tells of."""

FORGET = 86_400 * MICROS
"""What was not changed for so long is forgotten."""

_MOST_CIRCUITS = 20_000
"""Circuits from which those that have not changed for a day are looked for."""


@dataclass(slots=True)
class _Circuit:
    """One shared circuit. Instants are microseconds of the board's clock, which may be set back."""

    version: int = 0
    is_open: bool = False
    seq: int = 0
    until: int = 0
    """When the next probe may be granted."""
    span: int = 0
    """The wait that ended at *until* when it was set: a clock that was set back makes no wait longer."""
    opener: str = ""
    opener_until: int = 0
    """When the opener itself may probe, while a second opinion is due."""
    opener_span: int = 0
    needs_opinion: bool = False
    failed: int = 0
    prober: str = ""
    fence: int = 0
    granted: int = 0
    lease: int = 0
    takeovers: int = 0
    last: str = ""
    """Owner of the last failed probe."""
    alone: str = ""
    alone_for: int = 0
    hold: int = 0
    hold_span: int = 0
    is_named: bool = False
    why: str = ""

    def heed_clock(self, now: int) -> None:
        """Shorten what lies further ahead than it may: the clock was set back."""
        self.until = min(self.until, now + self.span)
        self.opener_until = min(self.opener_until, now + self.opener_span)
        self.hold = min(self.hold, now + self.hold_span)
        self.granted = min(self.granted, now)


@dataclass(slots=True)
class _Alone:
    """How long one process is on its own with one circuit."""

    until: int
    span: int
    times: int


@dataclass(slots=True)
class Board:
    """Shared state of one fleet. *on_news* is called with each change. Not safe for concurrent use.

    All arguments that are durations or instants are microseconds. Memory: about 1 KB for each circuit that changed
    within a day.
    """

    on_news: Callable[[CircuitNews], None] = lambda news: None
    _circuits: dict[str, _Circuit] = field(default_factory=dict)
    _alone: dict[tuple[str, str], _Alone] = field(default_factory=dict)
    _beats: dict[str, int] = field(default_factory=dict)
    _rates: dict[str, int] = field(default_factory=dict)
    _claims: dict[str, dict[str, int]] = field(default_factory=dict)
    _seq: int = 0
    _beat_at: int = 0
    _prune_at: int = _MOST_CIRCUITS

    def __repr__(self) -> str:
        opened = sum(circuit.is_open for circuit in self._circuits.values())
        return f"<Board {len(self._beats)} members, {len(self._circuits)} circuits, {opened} open>"

    # Circuits.

    def open(self, name: str, owner: str, wait: int, why: str, known: int, *, is_named: bool, now: int) -> Reply:
        """Note that *owner* opened its circuit *name* by its own evidence, and would probe after *wait*.

        *known*: highest version that it has heard of. *is_named*: the provider named the wait, so nobody probes before
        its end, and there is no second opinion.
        """
        circuit = self._load(name, known, now)
        if circuit.is_open:
            if is_named and now + wait > circuit.until:
                circuit.until, circuit.span, circuit.is_named = now + wait, wait, True
                self._tell(name, circuit, now)
            return Reply("opened", circuit.version, 0, max(0, circuit.until - now))
        alone = self._alone.get((name, owner))
        if alone is not None and not is_named:
            left = min(alone.until - now, alone.span)
            if left > 0:
                return Reply("alone", circuit.version, 0, left)
        circuit.version = max(circuit.version + 1, now)
        circuit.is_open, circuit.why, circuit.is_named = True, why, is_named
        circuit.opener, circuit.opener_until, circuit.opener_span = owner, now + wait, wait
        circuit.needs_opinion, circuit.failed = not is_named, 0
        circuit.span = wait if is_named else 0
        circuit.until = now + circuit.span
        circuit.prober = circuit.last = circuit.alone = ""
        circuit.takeovers = circuit.alone_for = 0
        self._tell(name, circuit, now)
        return Reply("opened", circuit.version, 0, circuit.span)

    def ask(self, name: str, owner: str, lease: int, known: int, *, now: int) -> Reply:
        """Answer whether *owner* may probe the circuit *name*, for at most *lease*.

        *known*: the version in which its own circuit is open; a board that forgot takes it over.
        """
        circuit = self._circuits.get(name)
        if circuit is None or circuit.version < known:
            circuit = self._recreate(name, known, now)
            circuit.until, circuit.span = now + GRACE, GRACE
            self._tell(name, circuit, now)
        circuit.heed_clock(now)
        if not circuit.is_open:
            return Reply("closed", circuit.version)
        if circuit.prober and circuit.prober != owner:
            left = min(circuit.granted + circuit.lease, self._heard_of(circuit.prober, circuit.granted) + SILENT) - now
            if left > 0:
                return Reply("busy", circuit.version, 0, left)
            circuit.takeovers += 1
        circuit.prober = ""  # dead, or the asker itself, whose earlier probe is over
        until = circuit.until
        if circuit.needs_opinion and owner == circuit.opener:
            until = max(until, circuit.opener_until)
        if circuit.last == owner:
            until += min(ROTATION, circuit.span)
        if until > now:
            return Reply("wait", circuit.version, 0, until - now)
        circuit.prober, circuit.granted = owner, now
        circuit.fence = max(circuit.fence + 1, now)
        circuit.lease = lease * 2 ** min(circuit.takeovers, MOST_DOUBLINGS)
        return Reply("granted", circuit.version, circuit.fence, circuit.lease)

    def tell(
        self,
        name: str,
        owner: str,
        fence: int,
        version: int,
        result: ProbeResult,
        wait: int = 0,
        *,
        is_named: bool = False,
        now: int,
    ) -> Reply:
        """Note what came of the probe with *fence*; *wait*: until the next one, after a failure or a release.

        Fence 0: the opener's own calls have disproved its opening.
        """
        circuit = self._circuits.get(name)
        if circuit is None or circuit.version < version:
            if result == "release":
                return Reply("stale", 0 if circuit is None else circuit.version)
            circuit = self._recreate(name, version, now)
            circuit.prober, circuit.fence = owner, fence
        circuit.heed_clock(now)
        if not circuit.is_open or circuit.version != version:
            return Reply("stale", circuit.version)
        disproves = fence == 0 and result == "success" and owner == circuit.opener and not circuit.failed
        is_forgotten = not circuit.prober and fence > circuit.fence  # granted before the board forgot, and none since
        if not disproves and not is_forgotten and (fence != circuit.fence or owner != circuit.prober):
            return Reply("stale", circuit.version)
        circuit.prober, circuit.fence = "", max(circuit.fence, fence)
        if result == "release":
            if wait:
                circuit.until, circuit.span = now + wait, wait
            self._tell(name, circuit, now)
            return Reply("released", circuit.version)
        circuit.takeovers = 0
        if result == "success":
            self._close(name, circuit, owner, now)
            return Reply("closed", circuit.version)
        if circuit.needs_opinion:
            circuit.needs_opinion = False
            self._alone.pop((name, circuit.opener), None)
        circuit.failed += 1
        circuit.until, circuit.span, circuit.last, circuit.is_named = now + wait, wait, owner, is_named
        self._tell(name, circuit, now)
        return Reply("later", circuit.version, 0, wait)

    def look(self, name: str, *, now: int) -> Reply:
        """Answer how the circuit *name* is, and change nothing."""
        circuit = self._circuits.get(name) or _Circuit()
        if not circuit.is_open:
            return Reply("closed", circuit.version)
        return Reply("opened", circuit.version, 0, max(0, min(circuit.until - now, circuit.span)))

    def hold(self, name: str, wait: int, *, now: int) -> Reply:
        """Note that a provider asked for a *wait*, which all are to heed; never shortens one."""
        circuit = self._load(name, 0, now)
        if now + wait > circuit.hold:
            circuit.hold, circuit.hold_span = now + wait, wait
            self._tell(name, circuit, now)
        return Reply("held", circuit.version, 0, circuit.hold - now)

    def _close(self, name: str, circuit: _Circuit, owner: str, now: int) -> None:
        circuit.alone, circuit.alone_for = "", 0
        if circuit.needs_opinion and owner != circuit.opener:
            alone = self._alone.get((name, circuit.opener))
            times = 0 if alone is None else alone.times
            span = min(LONGEST_ALONE, ALONE * 2 ** min(times, 10))
            if circuit.opener:
                self._alone[name, circuit.opener] = _Alone(now + span, span, times + 1)
                circuit.alone, circuit.alone_for = circuit.opener, span
        circuit.version = max(circuit.version + 1, now)
        circuit.is_open, circuit.why, circuit.needs_opinion, circuit.is_named = False, "", False, False
        self._tell(name, circuit, now)

    def _load(self, name: str, known: int, now: int) -> _Circuit:
        """The circuit as far as it is known; a closed one of version *known* if the board has forgotten it."""
        circuit = self._circuits.get(name)
        if circuit is None or circuit.version < known:
            circuit = self._replace(name, known)
        circuit.heed_clock(now)
        return circuit

    def _recreate(self, name: str, version: int, now: int) -> _Circuit:
        """An open circuit of *version*, of which nothing else is known."""
        circuit = self._replace(name, version)
        circuit.is_open, circuit.until = True, now
        return circuit

    def _replace(self, name: str, version: int) -> _Circuit:
        """A closed circuit of *version*; of an older one only what does not depend on the version is kept."""
        old = self._circuits.get(name) or _Circuit()
        circuit = _Circuit(version, seq=old.seq, fence=old.fence, hold=old.hold, hold_span=old.hold_span)
        self._circuits[name] = circuit
        return circuit

    def _heard_of(self, owner: str, otherwise: int) -> int:
        # Several circuits of one process add a number to its name.
        return max(self._beats.get(owner.partition("#")[0], otherwise), otherwise)

    # News.

    def _tell(self, name: str, circuit: _Circuit, now: int) -> None:
        self._seq = circuit.seq = max(self._seq + 1, now)
        if len(self._circuits) > self._prune_at:
            self.forget_old(now)
            self._prune_at = max(_MOST_CIRCUITS, 2 * len(self._circuits))
        self.on_news(_news(name, circuit, now))

    def poll(self, owner: str, since: int, *, now: int) -> PollReply:
        """Note that *owner* is alive; return what changed after change *since* (0: all that is known), oldest first."""
        self._beat(owner, now)
        since = since if since <= self._seq else 0  # else the board has forgotten
        changed = [(circuit.seq, name) for name, circuit in self._circuits.items() if circuit.seq > since]
        news = [_news(name, self._circuits[name], now) for _, name in sorted(changed)[:MOST_NEWS]]
        return PollReply(news[-1].seq if news else self._seq, len(self._beats), tuple(news))

    def _beat(self, owner: str, now: int) -> None:
        """Note that *owner* is alive, and drop those that were not heard of for long. Amortized O(1)."""
        beats = self._beats
        if now < self._beat_at:  # the clock was set back
            for other in [other for other, beat in beats.items() if beat > now]:
                del beats[other]
        self._beat_at = now
        beats.pop(owner, None)
        beats[owner] = now
        while beats and beats[oldest := next(iter(beats))] <= now - SILENT:
            del beats[oldest]

    def leave(self, owner: str) -> None:
        """Note that *owner* has ended; its lease is handed on at once."""
        self._beats.pop(owner, None)

    def forget_old(self, now: int) -> None:
        """Forget what was not changed for a day."""
        self._circuits = {name: circuit for name, circuit in self._circuits.items() if circuit.seq > now - FORGET}
        self._alone = {key: alone for key, alone in self._alone.items() if alone.until > now - FORGET}

    # Rates and money.

    def book(self, name: str, cost: int, burst: int, *, now: int) -> int:
        """Book units of a rate that take *cost* to pass; return how long to wait before they are used.

        The generic cell rate algorithm: *burst* is how far behind the clock the rate may be caught up. A negative
        *cost* gives units back.
        """
        latest = self._rates.get(name, 0)
        at = max(min(latest, now + FORGET), now - burst)
        self._rates[name] = at + cost
        return max(0, at - now)

    def claim(self, name: str, part: str, amount: int, limit: int) -> int:
        """Claim that *part* has spent, or will, *amount* of a *limit* for all; return what it may count on.

        Amounts are absolute, so to claim again is no second spending. A part never gets less than it already holds,
        unless it asks for less.
        """
        claims = self._claims.setdefault(name, {})
        held = claims.get(part, 0)
        others = sum(claims.values()) - held
        claims[part] = amount if amount <= held else max(held, min(amount, limit - others))
        return claims[part]


def _news(name: str, circuit: _Circuit, now: int) -> CircuitNews:
    return CircuitNews(
        id=name,
        seq=circuit.seq,
        version=circuit.version,
        is_open=circuit.is_open,
        wait=max(0, min(circuit.until - now, circuit.span)) if circuit.is_open else 0,
        failed=circuit.failed if circuit.is_open else 0,
        opener=circuit.opener,
        alone=circuit.alone,
        alone_for=circuit.alone_for,
        hold=max(0, min(circuit.hold - now, circuit.hold_span)),
        is_named=circuit.is_named,
        why=circuit.why,
    )
