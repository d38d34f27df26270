"""Random stories of a board: steps by several processes with one clock, which may jump, and a board that forgets."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from llmbatch.peers.board import SILENT, Board
from llmbatch.peers.messages import MICROS, CircuitNews, Reply, circuit_id

OWNERS = ("ann", "bob", "cid#1", "dee#22")
NAMES = tuple(circuit_id(label) for label in ("openai/a", "openai/b"))
START = 1_790_000_000 * MICROS

Step = tuple[str, tuple[Any, ...]]
"""A verb of the board and its arguments; ``forget`` empties it, ``sleep`` moves the clock."""


@dataclass
class Known:
    """What one process remembers of a circuit: the highest version, and its last fence."""

    version: int = 0
    fence: int = 0


def story(seed: int, length: int = 40, *, forgets: bool = True, jumps: bool = True) -> Generator[Step, Any, None]:
    """Yield steps; send the reply to each step back in. Processes act on what they have heard, sometimes wrongly."""
    random = Random(seed)
    known = {(owner, name): Known() for owner in OWNERS for name in NAMES}
    since = dict.fromkeys(OWNERS, 0)
    sick, prober = random.choice(OWNERS), (OWNERS[0], NAMES[0])
    for _ in range(length):
        owner, name = random.choice(OWNERS), random.choice(NAMES)
        wait = random.choice((0, 1, 250_000, MICROS, 3 * MICROS, 40 * MICROS, 7 * 3600 * MICROS))
        verb = random.choice(
            (
                "open",
                "ask",
                "ask",
                "ask",
                "tell",
                "tell",
                "tell",
                "poll",
                "hold",
                "look",
                "book",
                "claim",
                "leave",
                "sleep",
            )
        )
        if random.random() < 0.02 and forgets:
            verb = "forget"
        if verb == "open" and random.random() < 0.5:
            owner = sick
        if verb == "tell" and random.random() < 0.7:
            owner, name = prober
        mine = known[owner, name]
        step: Step
        if verb == "open":
            named = random.random() < 0.2
            step = ("open", (name, owner, wait, random.choice(("", "5 rows | failed", "é")), mine.version, named))
        elif verb == "ask":
            step = ("ask", (name, owner, random.choice((MICROS, 10 * MICROS, 125 * MICROS)), mine.version))
        elif verb == "tell":
            fence = mine.fence if random.random() < 0.9 else random.choice((0, 1, mine.fence + 1))
            result = random.choice(("success", "success", "failure", "release"))
            step = ("tell", (name, owner, fence, mine.version, result, wait, random.random() < 0.2))
        elif verb == "poll":
            step = ("poll", (owner.partition("#")[0], since[owner]))
        elif verb == "hold":
            step = ("hold", (name, wait))
        elif verb == "look":
            step = ("look", (name,))
        elif verb == "book":
            step = (
                "book",
                (random.choice(("rpm", "tpm")), random.randint(-3, 9) * 100_000, random.choice((0, MICROS))),
            )
        elif verb == "claim":
            step = ("claim", ("cap", owner, random.randint(0, 60), 100))
        elif verb == "leave":
            step = ("leave", (owner.partition("#")[0],))
        elif verb == "sleep":
            back = jumps and random.random() < 0.05
            step = ("sleep", (-random.randint(0, 20 * MICROS) if back else random.choice(SLEEPS),))
        else:
            step = ("forget", ())
        reply: Any = yield step
        if isinstance(reply, Reply):
            if reply.kind == "granted":
                mine.fence, prober = reply.fence, (owner, name)
            if random.random() < 0.9:  # else the answer was lost
                mine.version = max(mine.version, reply.version)
        elif verb == "poll" and random.random() < 0.9:
            since[owner] = reply[0]
            for news in reply[2]:
                heard = known[owner, news.id]
                heard.version = max(heard.version, news.version)


SLEEPS = (1, 1000, 100_000, MICROS, 2 * MICROS, SILENT, 30 * MICROS, 61 * MICROS, 130 * MICROS)


def do(board: Board, step: Step, now: int) -> Any:
    """Carry out one step on a Python board."""
    verb, args = step
    if verb == "open":
        return board.open(*args[:5], is_named=args[5], now=now)
    if verb == "tell":
        return board.tell(*args[:6], is_named=args[6], now=now)
    if verb == "claim":
        return board.claim(*args)
    if verb == "leave":
        return board.leave(*args)
    return getattr(board, verb)(*args, now=now)


class BrokenRuleError(AssertionError):
    """An invariant of the board does not hold."""


@dataclass
class Lease:
    owner: str
    fence: int
    granted: int
    length: int


@dataclass
class Watch:
    """What must hold, from outside: told of each step and its reply, it raises :class:`BrokenRuleError`."""

    fences: dict[str, set[int]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    seq: int = 0
    leases: dict[str, Lease] = field(default_factory=dict)
    beats: dict[str, int] = field(default_factory=dict)
    openers: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Who opened, and until when a second opinion is not its business."""
    not_before: dict[str, int] = field(default_factory=dict)
    shares: dict[str, int] = field(default_factory=dict)

    def forgot(self) -> None:
        """The board is empty: leases and waits no longer bind it. Fences and versions do."""
        self.leases.clear()
        self.openers.clear()
        self.not_before.clear()
        self.shares.clear()
        self.versions.clear()

    def before(self, step: Step) -> None:
        """A board that forgot takes over what a process with a higher version tells it, and drops what it had."""
        verb, args = step
        known = args[3] if verb in ("ask", "tell") else args[4] if verb == "open" else 0
        if known > self.versions.get(args[0], 0) and not (verb == "tell" and args[4] == "release"):
            for state in (self.leases, self.openers, self.not_before):
                state.pop(args[0], None)

    def heard(self, news: CircuitNews) -> None:
        self.need(news.seq > self.seq, "changes are numbered upward")
        self.seq = news.seq
        self.need(news.version >= self.versions.get(news.id, 0), "no version goes back")
        self.versions[news.id] = news.version

    @staticmethod
    def need(yes: bool, rule: str) -> None:
        if not yes:
            raise BrokenRuleError(rule)

    def step(self, step: Step, reply: Any, now: int) -> None:
        verb, args = step
        if verb == "poll":
            self.beats[args[0]] = now
            alive = sum(beat > now - SILENT for beat in self.beats.values())
            self.need(reply.members == alive, "members are those that were heard of within 5 s")
        elif verb == "leave":
            self.beats.pop(args[0], None)
        elif verb == "open":
            self._opened(args, reply, now)
        elif verb == "ask" and reply.kind == "granted":
            self._granted(args, reply, now)
        elif verb == "ask" and (lease := self.leases.get(args[0])) is not None and lease.owner == args[1]:
            del self.leases[args[0]]  # who asks again has ended its earlier probe
        elif verb == "tell":
            self._told(args, reply, now)
        elif verb == "claim":
            _, part, amount, limit = args
            self.need(reply <= max(amount, self.shares.get(part, 0)), "nobody gets more than it claims or holds")
            self.shares[part] = reply
            self.need(sum(self.shares.values()) <= limit, "all claims together stay below the limit")

    def _opened(self, args: tuple[Any, ...], reply: Reply, now: int) -> None:
        name, owner, wait, _, _, named = args
        self.need(not (named and reply.kind == "alone"), "a named wait is always shared")
        if reply.kind == "opened" and reply.version == now:  # the clock numbers openings
            self.leases.pop(name, None)
            self.openers[name] = (owner, now if named else now + wait)
            self.not_before[name] = now + wait if named else now

    def _granted(self, args: tuple[Any, ...], reply: Reply, now: int) -> None:
        name, owner, _, _ = args
        self.need(reply.fence not in self.fences.setdefault(name, set()), "no fence is given twice")
        self.fences[name].add(reply.fence)
        lease = self.leases.get(name)
        if lease is not None and lease.owner != owner:
            heard = max(lease.granted, self.beats.get(lease.owner.partition("#")[0], 0))
            alive = now < lease.granted + lease.length and now < heard + SILENT
            self.need(not alive, "one process probes at a time")
        self.need(now >= self.not_before.get(name, 0), "nobody probes before the wait is over")
        opener, until = self.openers.get(name, ("", 0))
        self.need(owner != opener or now >= until, "the opener does not give the second opinion")
        self.leases[name] = Lease(owner, reply.fence, now, reply.wait)

    def _told(self, args: tuple[Any, ...], reply: Reply, now: int) -> None:
        name, owner, fence, _, result, wait, _ = args
        lease = self.leases.get(name)
        is_mine = lease is not None and lease.fence == fence and lease.owner == owner
        if reply.kind in ("later", "released"):
            self.need(is_mine or lease is None, "only the owner of the lease can tell how its probe ended")
        if lease is not None and not is_mine and fence and result == "success":
            self.need(reply.kind != "closed", "a probe that lost its lease closes nothing")
        if reply.kind in ("later", "released", "closed"):
            self.leases.pop(name, None)
            if reply.kind == "later":
                self.openers.pop(name, None)
            if reply.kind == "later" or (reply.kind == "released" and wait):
                self.not_before[name] = now + wait


def check_story(seed: int, make: Callable[[], Board], *, length: int = 60, forgets: bool = True) -> int:
    """Run one story through a board and the watch; return the number of steps.

    Raises:
        BrokenRuleError: an invariant does not hold.
    """
    watch = Watch()
    now, board = START, make()
    board.on_news = watch.heard
    steps = story(seed, length, forgets=forgets, jumps=False)
    reply: Any = None
    for count in range(length):
        step = steps.send(reply) if count else next(steps)
        if step[0] == "sleep":
            now, reply = now + step[1][0], None
        elif step[0] == "forget":
            board, reply = make(), None
            board.on_news = watch.heard
            watch.forgot()
            watch.beats.clear()
            now += 1
        else:
            now += 1
            watch.before(step)
            reply = do(board, step, now)
            watch.step(step, reply, now)
    return length
