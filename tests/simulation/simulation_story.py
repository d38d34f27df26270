"""One seed, one story: an input, a provider's fate, and a chain of lives of the real runner, some of which end badly.

Everything random is drawn from the seed; every life runs ``BatchRunner.run`` on a loop with virtual time, over the
simulated disk and provider. What must hold is checked while it goes on and after every life
(:mod:`simulation_invariants`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar, TypeVarTuple

from simulation_disk import Killed, Machine, SimulatedFilesystem
from simulation_invariants import Watch
from simulation_law import GuaranteeError
from simulation_provider import Provider, Weather, draw_weather

import llmbatch.runner.engine
from llmbatch.core.errors import LlmbatchError, OutputError, WriteError
from llmbatch.core.events import Event, RunStarted
from llmbatch.runner.context import RunContext
from llmbatch.runs.batch_runner import BatchRunner
from llmbatch.sim.virtual import VirtualClockLoop, VirtualTimeError

llmbatch.runner.engine.LOOK_AGAIN_SECONDS = math.inf  # a run that nothing wakes is to be found, not helped on

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

INPUT = "/data/in.jsonl"
OUTPUT = "/data/out.jsonl"
DEFERRED = "/data/out.deferred.jsonl"

MOST_LIVES = 14
LONGEST_LIFE = 60 * 3600.0
"""Virtual seconds."""
NEWER = 10**9
"""Seeds from here on draw what was added later; earlier ones go on telling the stories that they told."""


@dataclass(frozen=True)
class Fate:
    """What happens to one life. ``step`` counts turns of the loop, ``call`` calls into the disk."""

    kind: str = "none"
    step: int = 0
    call: int = 0
    seconds: float = 0.0
    power: bool = False

    def __str__(self) -> str:
        if self.kind == "none":
            return "nothing happens"
        where = f"in disk call {self.call}" if self.call else f"in turn {self.step}"
        more = " and the power goes" if self.power else ""
        return f"{self.kind} {where}{f' for {self.seconds:.1f} s' if self.seconds else ''}{more}"


@dataclass
class Plan:
    """All that the seed decides."""

    seed: int
    options: dict[str, Any]
    rows: list[bytes]
    bad: dict[int, str]
    weather: Weather
    fates: list[Fate]
    latency: float
    gaps: list[float]
    appended: int
    epilogue: str
    sync_seconds: float
    smallest: str = ""
    most_waiting: int | None = None
    """How many rows of a route may wait in memory; None: as many as the product allows, more than there are."""
    heavy: dict[int, float] = field(default_factory=dict)
    """Rows that may need more memory than this machine has, each with how often it does, 0 to 1."""
    too_slow: bool = False
    """Whether so many rows of a tenant are endless that it has to be given up: exit 3, and none of them fails."""
    all_fates: list[Fate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.all_fates = list(self.fates)

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {len(self.rows)} lines, bad rows {self.bad or 'none'}, latency {self.latency:.2f} s"
            + (f", the smallest request {self.smallest}" if self.smallest else "")
            + (f", at most {self.most_waiting} rows in memory" if self.most_waiting else "")
            + (f", heavy rows {self.heavy}" if self.heavy else ""),
            f"options {self.options}",
            *(f"provider: {phase}" for phase in self.weather.phases),
            *(f"life {number}: {fate}" for number, fate in enumerate(self.all_fates, 1)),
            f"epilogue: {self.epilogue}",
        ]
        return "\n".join(lines)


def draw_plan(seed: int) -> Plan:
    rng = Random(f"story:{seed}")
    concurrency = rng.choice([1, 2, 3, 5, 8, 20, 40])
    timeout = rng.choice([5.0, 10.0, 30.0, 60.0, 120.0])
    options: dict[str, Any] = {
        "concurrency": concurrency,
        "timeout": timeout,
        "max_attempts": rng.choice([3, 3, 3, 4]),
        "failure_threshold": rng.choice([2, 3, 5, 5, 5, 8]),
        "recovery_timeout": rng.choice([5.0, 30.0, 60.0, 60.0, 120.0]),
        "success_threshold": rng.choice([1, 1, 1, 2]),
        "seed": seed,
    }
    if rng.random() < 0.1:
        options["rpm"] = rng.choice([60.0, 600.0])
    if rng.random() < 0.1:
        options["tpm"] = 30_000.0
    if rng.random() < 0.25:
        options["on_outage"] = rng.choice(["defer", "defer", "fail"])
    wants_bound = rng.random() < 0.15
    if rng.random() < 0.1:
        options["circuit_key"] = "metadata.tenant"
    count = rng.choice([1, 2, rng.randint(3, 12), rng.randint(10, 40), rng.randint(30, 90)])
    bad = _draw_bad(rng, count, options, wants_bound=wants_bound)
    if wants_bound:
        # One row alone may have to time out as often as the law asks for.
        options["max_outage"] = 600.0 if "hang" in bad.values() else rng.choice([30.0, 600.0])
    other_model = rng.random() < 0.12
    rows = [_line(rng, number, bad, other_model=other_model) for number in range(1, count + 1)]
    if other_model:
        _spare_other_model(rows, bad)
    firsts = [number for number, row in enumerate(rows, 1) if row.strip() and b'"model"' not in row]
    if all(number in bad for number in firsts):
        # As many as the threshold that only ever fail, and nothing beside them that passes, are an outage for ever.
        for number in firsts[options["failure_threshold"] - 1 :]:
            rows[number - 1] = rows[number - 1].replace(f" [bad {bad.pop(number)}]".encode(), b"")
    if "circuit_key" in options and wants_bound:
        # The same of a tenant, whose rows are judged by their own attempts after a longer time than the bound allows.
        for ours in ([number for number in firsts if number % 2 == tenant] for tenant in (0, 1)):
            if all(number in bad for number in ours):
                for number in ours[options["failure_threshold"] - 1 :]:
                    rows[number - 1] = rows[number - 1].replace(f" [bad {bad.pop(number)}]".encode(), b"")
    # Where no row can pass and the smallest request fails, nothing tells whether the route works.
    has_good = any(row.strip() for number, row in enumerate(rows, 1) if number not in bad)
    smallest = rng.choice(["", "", "", "", "passes", "fails"]) if has_good else ""
    if smallest == "fails" and other_model:
        smallest = ""  # then nothing could tell of a model whose last rows are bad
    if smallest == "fails" and options.get("on_outage") == "defer" and _begins_with_bad_rows(bad, options):
        smallest = ""  # all that is tried fails, and such a run is to end before it has tried the rest
    fates = [_draw_fate(rng) for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 4]))]
    return Plan(
        seed=seed,
        options=options,
        rows=rows,
        bad=bad,
        weather=draw_weather(rng, timeout, other_model=other_model),
        fates=fates,
        latency=rng.choice([0.05, 0.3, 1.0, 3.0]),
        gaps=[rng.choice([0.0, rng.uniform(0, 5), rng.uniform(0, 2000)]) for _ in range(MOST_LIVES)],
        appended=rng.choice([0, 0, 0, 3]),
        epilogue=rng.choice(["none", "again", "retry_failed", "changed", "appended"]),
        sync_seconds=rng.choice([0.001, 0.05, 2.5]),
        smallest=smallest,
        # The product's bound is never below what may be in flight.
        most_waiting=max(options["concurrency"], rng.choice([10, 20]))
        if rng.random() < (0.6 if other_model else 0.1)
        else None,
        heavy=_draw_heavy(Random(f"heavy:{seed}"), count, options) if seed >= NEWER else {},
    )


def _draw_heavy(rng: Random, count: int, options: dict[str, Any]) -> dict[int, float]:
    """In a third of the stories a row, or a few in a block or scattered, that often lack memory, bad ones too.

    Seldom where a run waits two minutes at most: it is to be done within some lives.
    """
    if rng.random() < 0.67:
        return {}
    many = min(count, rng.choice([1, 1, 1, 2, 3, rng.randint(3, 10)]))
    first = rng.randint(1, count - many + 1)
    rows = range(first, first + many) if rng.random() < 0.5 else rng.sample(range(1, count + 1), many)
    shares = [0.2] if {"on_outage", "max_outage"} & options.keys() else [0.2, 0.6, 0.9]
    return {row: rng.choice(shares) for row in rows}


def _begins_with_bad_rows(bad: dict[int, str], options: dict[str, Any]) -> bool:
    """Whether the first rows are bad, as many as open the circuit."""
    return all(number in bad for number in range(1, options["failure_threshold"] + 1))


def _draw_bad(rng: Random, count: int, options: dict[str, Any], *, wants_bound: bool) -> dict[int, str]:
    """Bad rows: some, scattered or in a block, of every kind.

    As many refused (or endless) first rows as the threshold are the operator's matter: the run would stop, every time.
    Of rows that may be what has no money, two are told from an account that has none.
    """
    threshold = options["failure_threshold"]
    bad: dict[int, str] = {}
    for _ in range(min(rng.choice([0, 0, 0, 1, 1, 2, 3]), threshold - 1)):
        row = rng.randint(1, count)
        # A row that is throttled alone cannot be told from a route that is, if nothing else is sent or time is short.
        throttled = "500" if {"circuit_key", "on_outage"} & options.keys() or wants_bound else "429"
        bad[row] = rng.choice(["400", "400", "422", "404", "402", "long", "long", "500", "hang", throttled])
        if bad[row] == "404" and row < 4:
            bad[row] = "422"  # an address that has never answered but with 404 is wrong
    if sum(kind == "402" for kind in bad.values()) > 2:
        bad = {row: "500" if kind == "402" else kind for row, kind in bad.items()}
    if count > 4 and rng.random() < 0.2:
        # Of a tenant, for which nothing else can be asked, twice the threshold are judged by their own attempts.
        most = threshold if "circuit_key" in options else 40
        many = rng.randint(2, max(2, min(int(0.6 * count), most)))
        kind = rng.choice(["500", "500", "long", "mixed"])
        block = rng.randint(1, count - many)
        for row in range(block, block + many) if rng.random() < 0.6 else rng.sample(range(1, count + 1), many):
            bad[row] = rng.choice(["500", "500", "long"]) if kind == "mixed" else kind
    if "404" in bad.values():
        bad = {row: kind for row, kind in bad.items() if row > 3}
    return bad


def _spare_other_model(rows: list[bytes], bad: dict[int, str]) -> None:
    """A model that has never answered but with 404 does not exist, and stops the run: a good row of it comes first.

    Where none of its rows is good, they are deferred in every life: one is made good.
    """
    others = [number for number, row in enumerate(rows, 1) if b'"model"' in row]
    for number in others:
        if bad.get(number) == "404" and not any(other < number and other not in bad for other in others):
            bad[number] = "422"
            rows[number - 1] = rows[number - 1].replace(b"[bad 404]", b"[bad 422]")
    if others and all(number in bad for number in others):
        kind = bad.pop(others[-1])
        rows[others[-1] - 1] = rows[others[-1] - 1].replace(f" [bad {kind}]".encode(), b"")


def _line(rng: Random, number: int, bad: dict[int, str], *, other_model: bool = False) -> bytes:
    if rng.random() < 0.03 and number not in bad:
        return b""
    tag = f" [bad {bad[number]}]" if number in bad else ""
    row = {"prompt": f"row {number} please{tag}", "id": f"r{number}", "metadata": {"tenant": f"t{number % 2}"}}
    if other_model and number % 3 == 0:
        row["model"] = "m2"
    return json.dumps(row).encode() + (b"\r" if rng.random() < 0.05 else b"")


def _draw_fate(rng: Random) -> Fate:
    kind = rng.choice(
        (
            *("kill", "kill", "kill", "stop", "stop now", "cancel", "pause", "pause", "second run"),
            *("full", "write error", "sync error", "read error"),
        )
    )
    power = kind == "kill" and rng.random() < 0.5
    step = rng.choice([rng.randint(1, 30), rng.randint(1, 300), rng.randint(1, 3000)])
    if kind == "kill" and rng.random() < 0.6:
        return Fate(kind, call=rng.choice([rng.randint(1, 20), rng.randint(1, 120)]), power=power)
    if kind == "full":
        return Fate(kind, call=rng.randint(200, 20_000))
    if kind.endswith("error"):
        return Fate(kind, call=rng.choice([1, rng.randint(1, 10), rng.randint(1, 60)]))
    seconds = rng.choice([rng.uniform(1, 60), rng.uniform(60, 90_000)]) if kind == "pause" else 0.0
    return Fate(kind, step=step, seconds=seconds, power=power)


class NumberedTask(asyncio.Task[Any]):
    """Its place in a set is the same in every process: a task's own hash is its address.

    A cancelled group of tasks is cancelled in the order of a set.
    """

    _numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(NumberedTask._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class StoryLoop(VirtualClockLoop):
    """A virtual loop that counts its turns, and whose threads are virtual too: a job ends *sync_seconds* later."""

    def __init__(self, *, limit: float, sync_seconds: float, rng: Random) -> None:
        super().__init__(limit=limit)
        NumberedTask._numbers = itertools.count()
        self.set_task_factory(lambda loop, coro, **kwargs: NumberedTask(coro, loop=loop, **kwargs))
        self.turns = 0
        self.on_turn: Callable[[int], None] = lambda turn: None
        self._sync_seconds = sync_seconds
        self._rng = rng

    def _run_once(self) -> None:
        self.turns += 1
        self.on_turn(self.turns)
        super()._run_once()  # type: ignore[misc]

    def jump(self, seconds: float) -> None:
        """The process was stopped, and the clock went on."""
        self._now += seconds

    def run_in_executor(self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts) -> asyncio.Future[_T]:
        done: asyncio.Future[_T] = self.create_future()
        early = self._rng.random() < 0.5
        result = _outcome(func, *args) if early else None

        def finish() -> None:
            value, error = result if result is not None else _outcome(func, *args)
            if done.cancelled():
                return
            if isinstance(error, Killed):
                raise error
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(value)

        self.call_later(self._sync_seconds * self._rng.uniform(0.2, 2.0), finish)
        return done


def _outcome(func: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    try:
        return func(*args), None
    except (Exception, Killed) as error:
        return None, error


@dataclass
class Life:
    """How one life ended."""

    number: int
    exit_code: int
    why: str
    began: float
    ended: float


class Story:
    """Runs the plan of one seed. ``tell`` raises :class:`GuaranteeError`, with the plan, where a claim is broken."""

    def __init__(self, seed: int) -> None:
        self.plan = draw_plan(seed)
        self.log: list[str] = []
        self._room: int | None = None
        self.machine = Machine(Random(f"disk:{seed}"))
        self.provider = Provider(
            *(seed, self.plan.weather),
            latency=self.plan.latency,
            smallest=self.plan.smallest,
            cuts=Random(f"cuts:{seed}").random() < 0.3,
            heavy=self.plan.heavy,
        )
        self.watch = Watch(self.plan, self.machine, self.provider)
        self.lives: list[Life] = []
        self.met: Counter[str] = Counter()
        """The fates that really struck."""
        self.world = 0.0
        self._rng = Random(f"lives:{seed}")
        self._seconds: list[asyncio.Task[None]] = []

    @property
    def digest(self) -> str:
        """The same whenever the seed and the code are.

        Sorted: what is cancelled at one instant is cancelled in the order of a set, which is that of addresses.
        """
        return hashlib.sha256("\n".join(sorted(self.log)).encode()).hexdigest()[:16]

    @property
    def calls(self) -> int:
        return len(self.provider.sent)

    def tell(self) -> None:
        """Live all lives, and check."""
        plan = self.plan
        self.machine.put(INPUT, b"\n".join(plan.rows) + self._rng.choice([b"", b"\n"]))
        try:
            code = self._live_on()
            self._epilogue(code)
        except GuaranteeError as violation:
            violation.add_note(f"{plan}\n" + "\n".join(str(life) for life in self.lives))
            raise

    def _live_on(self, **arguments: Any) -> int:
        """Lives until the job is done; every one but the last few may have its fate."""
        code = -1
        for number in range(MOST_LIVES):
            fate = self.plan.fates.pop(0) if self.plan.fates else Fate()
            code = self._live(fate, **arguments)
            if code in (0, 1) or (code == 3 and self.plan.too_slow):
                return code
            if fate.kind == "none" and code not in (3, 75):
                raise GuaranteeError(f"a life in which nothing happened ended with {code}: {self.lives[-1].why}")
            self.world += self.plan.gaps[number]
            if code in (3, 75) and self.world < self.plan.weather.clear_from and number > 4:
                self.world = self.plan.weather.clear_from  # the operator waits for better weather
        raise GuaranteeError(f"not done after {MOST_LIVES} lives, the last ended with {code}: {self.lives[-1].why}")

    def _epilogue(self, code: int) -> None:
        before = len(self.provider.sent)
        match self.plan.epilogue:
            case "again":
                again = self._live(Fate())
                if again != code or len(self.provider.sent) != before:
                    raise GuaranteeError(
                        f"a finished job was run again: exit {again}, {len(self.provider.sent) - before} calls"
                    )
            case "retry_failed":
                self.watch.retrying = True
                if self.provider.cuts:
                    self.plan.options["require_finish"] = self.watch.requiring = True
                self.plan.fates = [self._draw_rewriting_fate() for _ in range(2)]
                self.plan.all_fates += self.plan.fates
                self._live_on(retry_failed=True)
                self.watch.retrying = False
                self.plan.options["require_finish"] = self.watch.requiring = False
            case "changed":
                self._change_a_row()
            case "appended":
                number = len(self.plan.rows) + 1
                self.plan.rows.append(_line(Random(1), number, {}) or b'"row 0"')
                self.machine.put(INPUT, b"\n".join(self.plan.rows) + b"\n")
                self.watch.new_input()
                self._live_on()

    def _draw_rewriting_fate(self) -> Fate:
        if self._rng.random() < 0.4:
            return _draw_fate(self._rng)
        # Around the rename, which is among the first calls into the disk.
        return Fate("kill", call=self._rng.randint(8, 40), power=True)

    def _change_a_row(self) -> None:
        """A finished row that is edited is refused with its number, before anything is sent."""
        filled = [at for at, row in enumerate(self.plan.rows, 1) if row]
        if not filled:
            return
        number = self._rng.choice(filled)
        rows = list(self.plan.rows)
        rows[number - 1] = rows[number - 1].replace(b"please", b"now")
        self.machine.put(INPUT, b"\n".join(rows))
        before = len(self.provider.sent)
        code = self._live(Fate())
        if code != 2 or f":{number}:" not in self.lives[-1].why or len(self.provider.sent) != before:
            raise GuaranteeError(f"row {number} was edited, but the run ended with {code}: {self.lives[-1].why}")

    def _live(self, fate: Fate, **arguments: Any) -> int:
        number = len(self.lives) + 1
        disk = SimulatedFilesystem(self.machine)
        self._prepare_faults(disk, fate)
        loop = StoryLoop(
            limit=LONGEST_LIFE, sync_seconds=self.plan.sync_seconds, rng=Random(f"threads:{self.plan.seed}:{number}")
        )
        self.provider.life = number
        self.provider.sender_is_dead = False
        self.provider.epoch = self.world
        self.watch.begin(disk, loop, number, self.world)
        runner = BatchRunner(
            "m",
            base_url="http://provider.invalid/v1",
            environ={},
            transport=self.provider,
            filesystem=disk,
            observers=[self],
            **self.plan.options,
        )
        began = self.world
        with _bounded(self.plan.most_waiting):
            code, why = self._run(loop, disk, runner, fate, arguments)
        self.machine.capacity = None
        self.world = began + loop.time()
        disk.kill()
        if fate.call and code == 137:
            self.met["kill in a disk call"] += 1
        if fate.kind == "full" and code == 74:
            self.met["disk full"] += 1
        if fate.power and code == 137:
            self.met["power cut"] += 1
            self.machine.cut_power()
        self.lives.append(Life(number, code, why, began, self.world))
        self.log.append(f"life {number} ended {code} at {self.world:.6f}: {why}")
        self.watch.end(code, why, power=fate.power and code == 137, calm=fate.kind in ("none", "pause"))
        return code

    def _run(
        self, loop: StoryLoop, disk: SimulatedFilesystem, runner: BatchRunner, fate: Fate, arguments: dict[str, Any]
    ) -> tuple[int, str]:
        task = loop.create_task(self._main(runner, arguments))

        def on_turn(turn: int) -> None:
            if disk.dead:
                raise Killed
            if self.watch.broken is not None:
                raise self.watch.broken
            if turn == fate.step:
                self.met[fate.kind] += 1
                self.log.append(f"{loop.time():.6f} {fate}")
                match fate.kind:
                    case "kill":
                        disk.kill()
                        raise Killed
                    case "stop":
                        runner.stop(signal=15)
                    case "stop now":
                        runner.stop(signal=2, now=True)
                    case "cancel":
                        task.cancel()
                    case "pause":
                        loop.jump(fate.seconds)
                    case "second run":
                        self._second(loop, disk)

        loop.on_turn = on_turn
        try:
            asyncio.set_event_loop(None)
            return loop.run_until_complete(task)
        except Killed:
            self.watch.died_at = loop.time()
            self.provider.sender_is_dead = True
            return 137, "killed"
        except asyncio.CancelledError:
            return 130, "cancelled before it began"
        except VirtualTimeError as error:
            raise GuaranteeError(f"the run does not end: {error}") from None
        finally:
            loop.on_turn = lambda turn: None
            bury(loop)

    def _second(self, loop: StoryLoop, disk: SimulatedFilesystem) -> None:
        """Somebody starts the same command a second time: it must be refused at once, without a call."""

        async def run() -> None:
            if not disk.has_open(OUTPUT):
                return  # not begun yet, or done
            other = SimulatedFilesystem(self.machine)
            runner = BatchRunner(
                "m", base_url="http://provider.invalid/v1", environ={}, transport=self.provider, filesystem=other
            )
            try:
                await runner.run(INPUT, OUTPUT)
            except OutputError as error:
                if "in use by another run" in error.message:
                    return
            self.watch.broken = GuaranteeError("claim 11: a second run was let in")

        self._seconds.append(loop.create_task(run()))

    async def _main(self, runner: BatchRunner, arguments: dict[str, Any]) -> tuple[int, str]:
        try:
            summary = await runner.run(INPUT, OUTPUT, **arguments)
        except asyncio.CancelledError:
            return 130, "cancelled"
        except WriteError as error:
            return 74, error.message
        except LlmbatchError as error:
            return 2, error.message
        return summary.exit_code, summary.stopped_reason or "finished"

    def _prepare_faults(self, disk: SimulatedFilesystem, fate: Fate) -> None:
        self._room = None
        if fate.kind == "kill" and fate.call:
            disk.die_at_call = fate.call
        elif fate.kind == "full":
            self._room = fate.call
        elif fate.kind.endswith("error"):
            wanted = fate.kind.split()[0]
            left = [fate.call]

            def fault(call: str, path: str) -> OSError | None:
                if call != wanted or path not in (OUTPUT, INPUT):
                    return None
                left[0] -= 1
                if left[0] != 0:
                    return None
                self.log.append(f"EIO in {call} of {path}")
                self.met[f"{call} error"] += 1
                self.watch.sync_failed |= call == "sync"
                self.watch.doubtful |= call == "sync" and not self.watch.running
                return OSError(errno.EIO, "Input/output error")

            disk.fault = fault

    def observe(self, event: Event) -> None:
        """As the runner's observer."""
        if self.provider.sender_is_dead:
            return
        self.log.append(repr(event))
        if isinstance(event, RunStarted) and self._room is not None:
            # Not before: a disk that is full from the start is noticed before anything is sent.
            self.machine.capacity, self._room = self.machine.used() + self._room, None
        self.watch.observe(event)


@contextlib.contextmanager
def _bounded(most: int | None) -> Iterator[None]:
    """A bound on rows in memory that these few rows can meet. It is a constant of the product's, of a thousand rows."""
    bound = RunContext.__dict__["max_waiting"]
    if most is not None:
        RunContext.max_waiting = property(lambda run: most)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        RunContext.max_waiting = bound  # type: ignore[method-assign]


def bury(loop: StoryLoop) -> None:
    """What is left of a life: its tasks end without effect, the disk being dead or closed."""
    loop._limit = float("inf")
    tasks = [task for task in asyncio.all_tasks(loop) if not task.done()]
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.cancel()
    loop.set_exception_handler(lambda loop, context: None)
    if tasks:
        stop = loop.call_later(1e9, loop.stop)
        with contextlib.suppress(Killed, VirtualTimeError, RuntimeError):
            loop.run_until_complete(asyncio.wait(tasks, timeout=10.0))
        stop.cancel()
    loop.close()
