"""One circuit of one process, as shared: what it tells the board, what it hears, and whether it may probe. Pure.

The process's own circuit decides; this only says when it was opened or closed elsewhere, and whether the lease of a
probe is held. Nothing here waits: messages go out through *send*, and answers come back later, or never.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from llmbatch.peers.messages import MICROS, CircuitNews, ProbeResult, Reply, circuit_id, micros

__all__ = ["ANSWER_TIME", "Effect", "Member", "Message"]

ANSWER_TIME = 3.0
"""Seconds after which a message without an answer is sent again."""

UNUSED = 1.0
"""Seconds until a lease is asked for again that could not be used."""

JITTER = 0.1
"""Part of a wait, 0 to 1, by which asking for a lease is late at most, so that many processes do not ask at once."""


class Message(NamedTuple):
    """One message to the board: a verb and its arguments, without the clock."""

    verb: Literal["open", "ask", "tell", "hold", "look", "poll", "book", "claim", "leave"]
    args: tuple[Any, ...]


class Effect(NamedTuple):
    """What the process's own circuit is to do, for *wait* seconds.

    * ``open``: another process opened it. *is_confirmed*: a probe has failed there.
    * ``failed``: a probe failed elsewhere. The next one is due after *wait*.
    * ``close``: a probe passed elsewhere. ``hold``: a provider asked for a wait there.
    * ``ready``: look again whether it may probe.
    """

    kind: Literal["open", "failed", "close", "hold", "ready"]
    wait: float = 0.0
    why: str = ""
    is_confirmed: bool = False


@dataclass(slots=True)
class _Opening:
    """An opening by own evidence that the board has not acknowledged. *until*: when the process would probe."""

    until: float
    why: str
    is_named: bool


@dataclass(slots=True)
class _Told:
    """The end of a probe that the board has not acknowledged."""

    message: Message
    result: ProbeResult
    version: int


class Member:
    """One shared circuit of one process. *send* takes messages. *chance* draws 0 to 1. Not safe for concurrent use.

    Call :meth:`opened`, :meth:`closed` and :meth:`probe_ended` as the process's own circuit moves, and apply the
    effects that :meth:`answered`, :meth:`heard`, :meth:`went_down` and :meth:`came_back` return.
    """

    __slots__ = (
        "_alone_until",
        "_asked_at",
        "_chance",
        "_closing",
        "_failed",
        "_fence",
        "_free_at",
        "_lease_until",
        "_next_ask",
        "_opening",
        "_sent_at",
        "_told",
        "id",
        "is_open",
        "is_private",
        "is_shared_open",
        "is_up",
        "owner",
        "send",
        "version",
    )

    def __init__(
        self,
        label: str,
        owner: str,
        send: Callable[[Message], None],
        *,
        is_up: bool = True,
        chance: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.id = circuit_id(label)
        self.owner = owner
        self.send = send
        self.is_up = is_up
        """Whether the board can be reached."""
        self.version = 0
        """Highest version heard of."""
        self.is_open = False
        """Whether the process's own circuit is not closed."""
        self.is_shared_open = False
        """Whether the shared circuit is, as far as it is known."""
        self.is_private = False
        """Whether the opening concerns this process alone, such as its own key: nobody is told, and no lease asked."""
        self._chance = chance
        self._opening: _Opening | None = None
        self._told: _Told | None = None
        self._sent_at = -math.inf
        """When the unacknowledged opening or end was last sent."""
        self._asked_at = -math.inf
        self._next_ask = -math.inf
        self._fence = 0
        self._lease_until = -math.inf
        self._free_at = -math.inf
        """Without the board: when this process may probe on its own."""
        self._alone_until = -math.inf
        self._closing = 0
        """Version that a probe of this process has closed, as far as it knows."""
        self._failed = 0

    def __repr__(self) -> str:
        state = "open" if self.is_shared_open else "closed"
        return f"<Member {self.id} {state} in version {self.version}>"

    # The process's own circuit.

    def opened(self, wait: float, why: str, now: float, *, is_named: bool = False) -> None:
        """Note that the process's own circuit opened by its own evidence, to probe after *wait* seconds."""
        self.is_open, self.is_private = True, False
        self._opening = _Opening(now + wait, why, is_named)
        if self.is_up and (is_named or now >= self._alone_until):
            self._offer(now)

    def opened_privately(self) -> None:
        """Note that the process's own circuit opened for a reason that concerns no other process."""
        self.is_open = self.is_private = True

    def closed(self, now: float) -> None:
        """Note that the process's own circuit closed without a probe: its calls disproved its opening."""
        was_offered = self._opening is not None and self._sent_at > -math.inf
        self.is_open = self.is_private = False
        self._opening = None
        self._release(now)
        if self.is_shared_open or was_offered:
            self._tell("success", 0, 0.0, now, is_named=False)

    def closed_by_hand(self, now: float) -> None:
        """Note that an operator closed the process's own circuit: that says nothing to the others."""
        self.is_open = self.is_private = False
        self._opening = None
        self._release(now)

    def may_probe(self, lease: float, now: float) -> bool:
        """Whether the process's own circuit may probe now; if not, ask for a lease of *lease* seconds."""
        if self.is_private:
            return True
        if not self.is_up:
            return now >= self._free_at
        if now < self._alone_until:
            return True
        if self._fence and now < self._lease_until:
            return True
        if self._opening is not None:
            if now - self._sent_at >= ANSWER_TIME:
                self._offer(now)
            return False
        if now >= self._next_ask and now - self._asked_at >= ANSWER_TIME:
            self._fence = 0
            self._asked_at = now
            self.send(Message("ask", (self.id, self.owner, micros(lease), self.version)))
        return False

    def next_change(self, now: float) -> float | None:
        """When :meth:`may_probe` may answer otherwise, without any news; None if only an answer can change that."""
        if self.is_private:
            return None
        if not self.is_up:
            return self._free_at if self._free_at > now else None
        times = (self._next_ask, self._asked_at + ANSWER_TIME, self._alone_until, self._sent_at + ANSWER_TIME)
        return min((time for time in times if time > now), default=None)

    @property
    def is_waiting(self) -> bool:
        """Whether an answer of the board is awaited."""
        return self._asked_at > -math.inf or self._opening is not None

    @property
    def holds_lease(self) -> bool:
        """Whether a probe of this process was granted, and has not ended."""
        return self._fence > 0

    def probe_ended(self, result: ProbeResult | Literal["again"], wait: float, now: float, *, is_named: bool) -> None:
        """Note how a probe ended; *wait*: seconds until the next one after a failure.

        ``again``: another one follows at once, under the same lease. ``success`` closed the process's own circuit.
        """
        if result == "again":
            return
        if result == "success":
            self.is_open = self.is_private = False
            self._opening = None
        fence, self._fence = self._fence, 0
        if fence:
            self._tell(result, fence, wait, now, is_named=is_named)
            if result == "failure":
                self._next_ask = now + wait
            elif result == "release":
                self._next_ask = now + max(UNUSED, wait)
        elif result == "success" and self.is_shared_open and self.is_up and now >= self._alone_until:
            self._tell("success", 0, 0.0, now, is_named=False)

    def _release(self, now: float) -> None:
        if self._fence:
            self.probe_ended("release", 0.0, now, is_named=False)

    def _offer(self, now: float) -> None:
        opening = self._opening
        if opening is None:
            return
        self._sent_at = now
        wait = micros(max(0.0, opening.until - now))
        self.send(Message("open", (self.id, self.owner, wait, opening.why, self.version, opening.is_named)))

    def _tell(self, result: ProbeResult, fence: int, wait: float, now: float, *, is_named: bool) -> None:
        if result == "success":
            self._closing = self.version
            self.is_shared_open = False
        args = (self.id, self.owner, fence, self.version, result, micros(wait), is_named)
        self._told = _Told(Message("tell", args), result, self.version)
        self._sent_at = now
        if self.is_up:
            self.send(self._told.message)

    # The board.

    def answered(self, message: Message, reply: Reply, now: float) -> list[Effect]:
        """Return the effects of the board's *reply* to a *message*."""
        match message.verb:
            case "open":
                return self._offered(reply, now)
            case "ask":
                return self._asked(reply, now)
            case "tell":
                return self._was_told(message, reply, now)
            case _:
                return []

    def _offered(self, reply: Reply, now: float) -> list[Effect]:
        opening, self._opening = self._opening, None
        wait = reply.wait / MICROS
        if reply.kind == "alone":
            self._alone_until = now + wait
            self._opening = opening  # to be offered again when that time is over
            return [Effect("ready")]
        if reply.version < self.version:
            return []
        self.version = reply.version
        self.is_shared_open = True
        self._next_ask = max(now + wait, now if opening is None else opening.until)
        if not self.is_open:
            self._tell("success", 0, 0.0, now, is_named=False)  # its calls have disproved it meanwhile
            return []
        return [Effect("ready")]

    def _asked(self, reply: Reply, now: float) -> list[Effect]:
        self._asked_at = -math.inf
        wait = reply.wait / MICROS
        if reply.version < self.version:
            return []
        if reply.kind == "closed":
            return self._heard_closed(reply.version, "", 0.0, now)
        self.version = reply.version
        self.is_shared_open = True
        if reply.kind == "granted":
            self._fence, self._lease_until = reply.fence, now + wait
            if not self.is_open:
                self._release(now)
                return []
            return [Effect("ready")]
        self._next_ask = now + wait * (1.0 + JITTER * self._chance())
        return [Effect("ready")]

    def _was_told(self, message: Message, reply: Reply, now: float) -> list[Effect]:
        told = self._told
        if told is None or told.message != message:
            return []
        self._told = None
        if told.result == "success" and reply.kind == "stale" and reply.version == told.version and not self.is_open:
            # The lease was lost: the others do not believe it, and they go on probing.
            self._closing = 0
            if message.args[2] == 0:
                return []  # it was no probe; the circuit of this process knows better
            self.is_open = self.is_shared_open = True
            self._next_ask = now
            return [Effect("open", 0.0, "", is_confirmed=self._failed > 0)]
        if reply.kind in ("later", "closed", "released"):
            self.version = max(self.version, reply.version)
        return []

    def heard(self, news: CircuitNews, now: float) -> list[Effect]:
        """Return the effects of *news* of this circuit."""
        effects = [Effect("hold", news.hold / MICROS)] if news.hold > 0 else []
        if news.version < self.version or (news.is_open and news.version == self._closing):
            return effects
        if not news.is_open:
            return effects + self._heard_closed(news.version, news.alone, news.alone_for / MICROS, now)
        self.version = news.version
        self.is_shared_open = True
        wait, failed_before, self._failed = news.wait / MICROS, self._failed, news.failed
        is_confirmed = news.failed > 0
        if now >= self._alone_until and not self.is_private:
            # Whoever was busy may have ended; whoever must wait does so by the newest news.
            self._next_ask = max(
                now + wait * (1.0 + JITTER * self._chance()),
                self._next_ask if news.opener == self.owner and not is_confirmed else -math.inf,
            )
        if not self.is_open:
            self.is_open = True
            return [*effects, Effect("open", wait, news.why, is_confirmed=is_confirmed)]
        if is_confirmed and (news.failed != failed_before or news.is_named):
            return [*effects, Effect("failed", wait)]
        return [*effects, Effect("ready")]

    def _heard_closed(self, version: int, alone: str, alone_for: float, now: float) -> list[Effect]:
        is_news = version > self.version or self.is_shared_open
        self.version = max(self.version, version)
        self.is_shared_open, self._failed = False, 0
        if alone == self.owner and is_news:
            self._alone_until = now + alone_for
            if self.is_open:
                self._opening = self._opening or _Opening(now, "", is_named=False)
                return [Effect("ready")]
            return []
        if not self.is_open or self.is_private or self._opening is not None or now < self._alone_until:
            return []
        if not is_news:
            # Open here and closed for all: this opening was never offered.
            self._opening = _Opening(now, "", is_named=False)
            self._offer(now)
            return []
        self.is_open = False
        self._fence = 0
        return [Effect("close")]

    # The link.

    def tick(self, now: float) -> None:
        """Send again what has got no answer; call it about once a second."""
        if not self.is_up or now - self._sent_at < ANSWER_TIME:
            return
        if self._told is not None:
            self._sent_at = now
            self.send(self._told.message)
        elif self._opening is not None and now >= self._alone_until:
            self._offer(now)

    def went_down(self, now: float) -> list[Effect]:
        """Note that the board cannot be reached: this process probes on its own, after a wait by chance."""
        self.is_up = False
        self._asked_at = -math.inf
        self._fence = 0
        self._free_at = now + self._chance() * max(1.0, min(5.0, self._next_ask - now))
        return [Effect("ready")] if self.is_open else []

    def came_back(self, now: float) -> list[Effect]:
        """Note that the board can be reached again: tell it what it could not be told."""
        self.is_up = True
        self._sent_at = -math.inf
        if self.is_open and not self.is_private and not self.is_shared_open and self._opening is None:
            self._opening = _Opening(now, "", is_named=False)
        self.tick(now)
        return [Effect("ready")] if self.is_open else []
