"""What one process shares: circuits, rates, and claims on the cost cap. Pure: messages go out, deliveries come in.

A process that cannot reach the board goes on with its own circuits; this says so once, and once when it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from llmbatch.peers.member import Effect, Member, Message
from llmbatch.peers.messages import MICROS, CircuitNews, Reply

__all__ = [
    "Answer",
    "Booking",
    "CameBack",
    "Delivery",
    "Group",
    "Heard",
    "WentDown",
    "longest_wait",
    "probe_share",
]

_MOST_NEWS = 4096
"""Open circuits of others that are remembered in case this process comes to use them."""

_MOST_SHARERS = 6
"""Processes among which the waits between probes are divided, at most."""

_LEAST_LONGEST = 5.0
"""Shortest longest wait, in seconds."""

_LARGE_FLEET = 64
"""Processes from which on the waits between probes are longer."""


class Answer(NamedTuple):
    """The board's answer to a message: of a circuit's verb, or the number that ``book`` and ``claim`` return."""

    message: Message
    reply: Reply | int


class Heard(NamedTuple):
    """News of circuits. *members*: number of processes; None if this news does not say."""

    news: tuple[CircuitNews, ...]
    members: int | None = None


class WentDown(NamedTuple):
    """The board cannot be reached, because of *why*."""

    why: str


class CameBack(NamedTuple):
    """The board can be reached."""


Delivery = Answer | Heard | WentDown | CameBack


class Booking(Protocol):
    """Something with a name that books at the board: a rate, or the cost cap."""

    def answered(self, message: Message, amount: int, now: float) -> None:
        """Take the board's answer to a message of its own."""
        ...

    def went_down(self, now: float) -> None:
        """Note that no answer will come."""
        ...

    def came_back(self, now: float) -> None:
        """Note that the board can be reached again."""
        ...


@dataclass(frozen=True, slots=True)
class _LastNews:
    news: CircuitNews
    at: float


def longest_wait(recovery_timeout: float, members: int) -> float:
    """Longest wait between probes that *members* processes share, in seconds.

    One probe for all may be far more frequent than one for each.
    """
    if members <= 1:
        return recovery_timeout
    return min(recovery_timeout, max(_LEAST_LONGEST, recovery_timeout / min(members, _MOST_SHARERS)))


def probe_share(members: int) -> float:
    """Wait between probes that *members* processes (at least two) share, as a share of the outage's time so far.

    A few know within 4 s that an outage of a minute is over: a second lost is lost by all of them, and one probe more
    is one for all. The recovery of a large fleet is a rush of calls, so it probes some fifteen times in that minute.
    """
    return 1 / 16 if members < _LARGE_FLEET else 0.4


class Group:
    """Everything that one process shares. *send* takes messages to the board. Not safe for concurrent use.

    *chance* draws 0 to 1. Memory: about 1 KB for each circuit of the process.
    """

    def __init__(
        self, owner: str, send: Callable[[Message], None], *, chance: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.owner = owner
        self.members = 1
        """Number of processes that were heard of lately, this one included."""
        self.is_up = False
        self._is_down = False
        """Whether the board was told to be away; at first neither is known."""
        self.send = send
        self._chance = chance
        self._circuits: dict[str, Member] = {}
        self._by_id: dict[str, dict[str, str]] = {}
        """Labels by the circuits' shared names and owners."""
        self._last_news: dict[str, _LastNews] = {}
        self._bookings: dict[str, Booking] = {}

    def __repr__(self) -> str:
        where = "up" if self.is_up else "down"
        return f"<Group {self.owner} {where}, {self.members} members, {len(self._circuits)} circuits>"

    def __iter__(self) -> Iterator[Member]:
        return iter(self._circuits.values())

    def get(self, label: str) -> Member | None:
        """The circuit of *label*, if there is one."""
        return self._circuits.get(label)

    def join(self, label: str, now: float, *, name: str = "", owner: str = "") -> tuple[Member, list[Effect]]:
        """Share the circuit of *label*; return it with what is known of it.

        *name*: by which the processes know it; default: the label. *owner*: who shares it, where several circuits of
        this process are one for the others: the name of the process, ``#`` and a number.
        """
        known = self._circuits.get(label)
        if known is not None:
            return known, []
        member = Member(name or label, owner or self.owner, self.send, is_up=self.is_up, chance=self._chance)
        self._circuits[label] = member
        self._by_id.setdefault(member.id, {})[member.owner] = label
        last = self._last_news.get(member.id)
        if last is None:
            return member, []
        passed = round((now - last.at) * MICROS)
        news = last.news
        news = replace(news, wait=max(0, news.wait - passed), hold=max(0, news.hold - passed))
        return member, member.heard(news, now)

    def leave(self, label: str, now: float) -> None:
        """Stop sharing the circuit of *label*."""
        member = self._circuits.pop(label, None)
        if member is None:
            return
        owners = self._by_id[member.id]
        del owners[member.owner]
        if not owners:
            del self._by_id[member.id]
        if member.holds_lease:
            member.probe_ended("release", 0.0, now, is_named=False)

    def hold(self, label: str, wait: float) -> None:
        """Tell the others that a provider asked for a wait of *wait* seconds."""
        member = self._circuits.get(label)
        if member is not None and self.is_up:
            self.send(Message("hold", (member.id, round(wait * MICROS))))

    def book_with(self, name: str, booking: Booking, now: float) -> None:
        """Let *booking* have the answers to messages about *name*."""
        self._bookings[name] = booking
        if self.is_up:
            booking.came_back(now)
        elif self._is_down:
            booking.went_down(now)

    def receive(self, delivery: Delivery, now: float) -> list[tuple[str, Effect]]:
        """Take a delivery; return what the circuits are to do, by label."""
        match delivery:
            case Answer(message, Reply() as reply):
                label = self._by_id.get(message.args[0], {}).get(str(message.args[1]))
                if label is None:
                    return []
                return [(label, effect) for effect in self._circuits[label].answered(message, reply, now)]
            case Answer(message, int() as amount):
                booking = self._bookings.get(message.args[0])
                if booking is not None:
                    booking.answered(message, amount, now)
                return []
            case Heard(news, members):
                if members is not None:
                    self.members = max(1, members)
                    for member in self:
                        member.tick(now)
                return [pair for item in news for pair in self._heard(item, now)]
            case WentDown():
                self.is_up, self._is_down = False, True
                for booking in self._bookings.values():
                    booking.went_down(now)
                return [(label, effect) for label, one in self._circuits.items() for effect in one.went_down(now)]
            case CameBack():
                self.is_up, self._is_down = True, False
                for booking in self._bookings.values():
                    booking.came_back(now)
                return [(label, effect) for label, one in self._circuits.items() for effect in one.came_back(now)]
        return []

    def _heard(self, news: CircuitNews, now: float) -> list[tuple[str, Effect]]:
        self._last_news.pop(news.id, None)
        if news.is_open or news.hold:
            if len(self._last_news) >= _MOST_NEWS:
                del self._last_news[next(iter(self._last_news))]
            self._last_news[news.id] = _LastNews(news, now)
        labels = self._by_id.get(news.id, {})
        return [(label, effect) for label in labels.values() for effect in self._circuits[label].heard(news, now)]
