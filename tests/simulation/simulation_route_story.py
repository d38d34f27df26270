"""One seed, one story of a run with several routes: fallbacks, pools, tiers, tenants, equal rows and a cache.

As in :mod:`simulation_story`, lives of the real ``BatchRunner`` run on a loop with virtual time, over a simulated disk;
the cache is a real SQLite file. Some lives are killed, and what a kill may lose of the cache is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from simulation_disk import Killed, Machine, SimulatedFilesystem
from simulation_law import GuaranteeError
from simulation_route_plan import RoutePlan, draw_route_plan
from simulation_route_watch import RouteWatch
from simulation_servers import ENVIRON, Servers
from simulation_story import INPUT, OUTPUT, Life, StoryLoop, bury

import llmbatch.providers.cache
import llmbatch.storage.answer_cache
from llmbatch.core.errors import LlmbatchError, WriteError
from llmbatch.core.events import Event
from llmbatch.runs.batch_runner import BatchRunner
from llmbatch.sim.virtual import VirtualTimeError
from llmbatch.storage.answer_cache import AnswerCache

MOST_LIVES = 14
LONGEST_LIFE = 30 * 3600.0
AFTERWARDS = 3600.0
"""Virtual seconds in which a run must end once nothing passing is wrong any more."""


class RouteStory:
    """Runs the plan of one seed. ``tell`` raises :class:`GuaranteeError`, with the plan, where a claim is broken."""

    def __init__(self, seed: int) -> None:
        self.plan: RoutePlan = draw_route_plan(seed)
        self.log: list[str] = []
        self.machine = Machine(Random(f"disk:{seed}"))
        self.servers = Servers(seed, self.plan.places, self.plan.weather, self.plan.latency)
        for number, row in enumerate(self.plan.rows, 1):
            self.servers.rows_of.setdefault(row.item, []).append(number)
        self.watch = RouteWatch(self.plan, self.servers)
        self.lives: list[Life] = []
        self.met: Counter[str] = Counter()
        self.world = 0.0
        self._rng = Random(f"lives:{seed}")
        self._caches: list[AnswerCache] = []
        self._waits_for_its_user = False
        self._folder = ""

    @property
    def digest(self) -> str:
        """The same whenever the seed and the code are."""
        return hashlib.sha256("\n".join(sorted(self.log)).encode()).hexdigest()[:16]

    @property
    def calls(self) -> int:
        return len(self.servers.sent)

    def tell(self) -> None:
        """Live all lives, and check."""
        self.machine.put(INPUT, b"\n".join(self.plan.lines()) + b"\n")
        try:
            with tempfile.TemporaryDirectory(prefix="llmbatch-story-") as self._folder:
                self._live_on()
                self._again()
                if self.plan.cache_fates:
                    self._check_cache()
        except GuaranteeError as violation:
            violation.add_note(f"{self.plan}\n" + "\n".join(str(life) for life in self.lives))
            raise

    def _live_on(self) -> None:
        for number in range(MOST_LIVES):
            fate = self.plan.fates[number] if number < len(self.plan.fates) else "none"
            cache = self.plan.cache_fates[number] if number < len(self.plan.cache_fates) else "kept"
            began = self.world
            code = self._live(fate, cache)
            if code in (0, 1):
                return
            if fate == "none" and cache != "locked" and code not in (3, 75):
                raise GuaranteeError(f"rows: a life in which nothing happened ended with {code}: {self.lives[-1].why}")
            if fate == "none" and code in (3, 75) and began >= self.plan.clear_from:
                raise GuaranteeError(f"rows: stopped with {code} ({self.lives[-1].why}), and a route works")
            self.world += self.plan.gaps[number]
            if code in (3, 75) and number > 2:
                self.world = max(self.world, self.plan.clear_from)
        raise GuaranteeError(f"rows: not done after {MOST_LIVES} lives: {self.lives[-1].why}")

    def _again(self) -> None:
        """A finished job costs nothing when it is run again."""
        before, last = self.calls, self.lives[-1].exit_code
        code = self._live("none", "kept")
        if code != last or self.calls != before:
            raise GuaranteeError(f"lines: a finished job ran again: exit {code}, {self.calls - before} calls")

    def _live(self, fate: str, cache: str) -> int:
        number = len(self.lives) + 1
        kind, _, step = fate.partition(" ") if not fate.startswith("stop now") else ("stop now", "", fate[9:])
        disk = SimulatedFilesystem(self.machine)
        loop = StoryLoop(limit=LONGEST_LIFE, sync_seconds=0.05, rng=Random(f"threads:{self.plan.seed}:{number}"))
        servers = self.servers
        servers.life, servers.sender_is_dead, servers.epoch = number, False, self.world
        lines = self.watch.lines(self.machine.get(OUTPUT) or b"")
        self.watch.begin(number, self.world, lines)
        with self._prepared_cache(cache):
            runner = BatchRunner(
                environ=ENVIRON,
                transport=servers,
                filesystem=disk,
                observers=[self],
                cache=f"{self._folder}/answers.db" if self.plan.cache_fates else None,
                **self.plan.arguments,
            )
            began, before = self.world, servers.sent.copy()
            code, why = self._run(loop, disk, runner, kind, int(step or 0))
            was_killed = code == 137
            self._close_caches(loses=was_killed and self._rng.random() < 0.5)
        self.world = began + loop.time()
        disk.kill()
        if was_killed:
            self.met[kind] += 1
        if kind == "power" and was_killed:
            self.machine.cut_power()
        self.lives.append(Life(number, code, why, began, self.world))
        told = why.replace(self._folder, "")  # its name is another each time
        self.log.append(f"life {number} ended {code} at {self.world:.6f}: {told}")
        if cache == "locked" and self.plan.cache_fates:
            self.met["locked cache"] += 1
            if code not in (2, 137, 130) or len(servers.sent) != len(before):
                raise GuaranteeError(f"cache: it was locked, and the run ended with {code}: {why}")
        lines = self.watch.lines(self.machine.get(OUTPUT) or b"")
        self.watch.end(code, why, lines, calm=not was_killed)
        late = self.world - max(began, self.plan.clear_from) - self.watch.last_wait()
        if self._waits_for_its_user:
            self._waits_for_its_user = False
            return code
        # Each of many tenants finds out for itself that a route is down.
        # One after another, with few requests in flight; each of their rows may hang a few times at each such place.
        arguments = self.plan.arguments
        places = arguments["concurrency"] if isinstance(arguments["concurrency"], int) else 8
        hanging = sum(any(phase.kind == "hang" for phase in phases) for phases in self.plan.weather.values())
        hung = 5 * arguments["timeout"] * len(self.plan.rows) * hanging / places
        if late > (max(6 * AFTERWARDS, hung) if self.plan.has_tenants else AFTERWARDS):
            raise GuaranteeError(f"time: the run went on for {late:.0f} s while a route worked")
        return code

    def _run(
        self, loop: StoryLoop, disk: SimulatedFilesystem, runner: BatchRunner, kind: str, step: int
    ) -> tuple[int, str]:
        task = loop.create_task(_main(runner))

        def on_turn(turn: int) -> None:
            if disk.dead:
                raise Killed
            if self.watch.broken is not None:
                raise self.watch.broken
            if turn != step:
                return
            self.log.append(f"{loop.time():.6f} {kind}")
            match kind:
                case "kill" | "power":
                    disk.kill()
                    raise Killed
                case "stop":
                    self.met[kind] += 1
                    runner.stop(signal=15)
                case "stop now":
                    self.met[kind] += 1
                    runner.stop(signal=2, now=True)
                case "cancel":
                    self.met[kind] += 1
                    task.cancel()

        loop.on_turn = on_turn
        try:
            asyncio.set_event_loop(None)
            return loop.run_until_complete(task)
        except Killed:
            self.servers.sender_is_dead = True
            return 137, "killed"
        except asyncio.CancelledError:
            return 130, "cancelled before it began"
        except VirtualTimeError as error:
            if loop.time() >= LONGEST_LIFE and self.watch.none_is_left():
                self._waits_for_its_user = True  # it said that the key may have been revoked
                self.servers.sender_is_dead = True
                return 75, "killed by its user, as every route was refused"
            raise GuaranteeError(f"time: the run does not end: {error}") from None
        finally:
            loop.on_turn = lambda turn: None
            self.servers.sender_is_dead = True
            bury(loop)

    def observe(self, event: Event) -> None:
        """As the runner's observer."""
        if self.servers.sender_is_dead:
            return
        self.log.append(repr(event).replace(self._folder, ""))
        self.watch.observe(event)

    # The cache.

    @contextlib.contextmanager
    def _prepared_cache(self, fate: str) -> Iterator[None]:
        """Delete or lock the file as the plan says; what the runner opens is known, so that a kill can be had."""
        path = Path(self._folder, "answers.db")
        if fate == "deleted" and self.plan.cache_fates:
            self.met["deleted cache"] += path.exists()
            for file in Path(self._folder).glob("answers.db*"):
                file.unlink()
        story = self

        class Known(AnswerCache):
            def __init__(self, path: str | Path, *, replaces: bool = False) -> None:
                super().__init__(path, replaces=replaces)
                story._caches.append(self)

        kept = path.read_bytes() if path.exists() else b""
        self._kept = kept
        busy = llmbatch.storage.answer_cache.BUSY_SECONDS
        if fate == "locked":  # else closing would not wait for the thread that commits
            llmbatch.storage.answer_cache.BUSY_SECONDS = 0.02
        llmbatch.providers.cache.AnswerCache = Known  # type: ignore[attr-defined]
        locks = [sqlite3.connect(path, isolation_level=None)] if fate == "locked" and self.plan.cache_fates else []
        try:
            for lock in locks:
                lock.execute("BEGIN IMMEDIATE")
            yield
        finally:
            llmbatch.storage.answer_cache.BUSY_SECONDS = busy
            llmbatch.providers.cache.AnswerCache = AnswerCache  # type: ignore[attr-defined]
            for lock in locks:
                lock.close()

    def _close_caches(self, *, loses: bool) -> None:
        for cache in self._caches:
            cache.close()
        if self._caches and loses:
            # The process was killed before its last answers were committed.
            for file in Path(self._folder).glob("answers.db*"):
                file.unlink()
            if self._kept:
                Path(self._folder, "answers.db").write_bytes(self._kept)
        self._caches.clear()

    def _check_cache(self) -> None:
        """Only good answers are in it."""
        with contextlib.closing(sqlite3.connect(f"{self._folder}/answers.db")) as cache:
            answers = [row[0] for row in cache.execute("SELECT answer FROM answers")]
        for answer in answers:
            if b"answer to item" not in answer or b"error" in answer:
                raise GuaranteeError(f"cache: it holds {answer!r}")
        shutil.rmtree(self._folder, ignore_errors=True)
        Path(self._folder).mkdir(exist_ok=True)


async def _main(runner: BatchRunner) -> tuple[int, str]:
    try:
        summary: Any = await runner.run(INPUT, OUTPUT)
    except asyncio.CancelledError:
        return 130, "cancelled"
    except WriteError as error:
        return 74, error.message
    except LlmbatchError as error:
        return 2, error.message
    return summary.exit_code, summary.stopped_reason or "finished"
