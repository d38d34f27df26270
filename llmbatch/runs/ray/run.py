"""A run whose rows the actors of a Ray cluster send: one input, one output, one summary.

This process, the driver, opens and locks the output, hands out shards, and takes their parts into the output at the
end. Circuits and rates are shared through a coordinator (:mod:`llmbatch.peers.ray`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio

from llmbatch.core.errors import InputError, LlmbatchError, OutputError, UsageError
from llmbatch.core.events import Event, RunEnded
from llmbatch.core.shards import MOST_SHARDS, Shard
from llmbatch.outputs.deferred import is_stream
from llmbatch.outputs.parts import is_folder, part_name, parts_beside
from llmbatch.peers.ray import end_coordinator, start_coordinator
from llmbatch.report.fold import FoldedStats
from llmbatch.report.summary import Summary
from llmbatch.runner.concurrency import Auto
from llmbatch.runner.earlier import NOTHING_EARLIER
from llmbatch.runner.options import RunOptions
from llmbatch.runs.conclude_parts import as_whole, conclude_parts
from llmbatch.runs.file_options import FileOptions
from llmbatch.runs.file_run import FileRun
from llmbatch.runs.ray.cluster import connected
from llmbatch.runs.ray.fleet import RayFleet
from llmbatch.runs.ray.worker import RowWorker, ShardJob, own_version
from llmbatch.runs.spending import spent_on
from llmbatch.runs.split_run import SplitRunner
from llmbatch.storage.filesystem import FILESYSTEM
from llmbatch.workers.messages import Ending
from llmbatch.workers.news import News
from llmbatch.workers.split import CostBudget, split_number, split_sent

__all__ = ["RayRun"]

_SHARDS_PER_WORKER: Final = 4
"""More shards than workers: whoever is done takes another, and a worker that is lost leaves less behind."""

_STOPPED: Final = 130

_SEEN_NAME: Final = ".part-00000-of-00000.jsonl.status.json"
"""Called like a file beside a part, so that the next run removes one that a kill has left."""

_LEAST_ROWS: Final = 20
"""Rows of a shard for each request in flight: at its end a shard waits for its slowest rows."""


@dataclass(slots=True, kw_only=True)
class RayRun:
    """One run by *workers* actors. *keywords* are those of :class:`~llmbatch.BatchRunner`; ``stats`` fold the run.

    May be run once. Call :meth:`stop` on the event loop of :meth:`run`, while that goes on.
    """

    address: str | None
    input: str
    output: str
    keywords: Mapping[str, Any]
    files: FileOptions
    workers: int
    verbose: int = 0
    flag: str = "address"
    """What the address is called, for messages."""
    requests_today: tuple[int, float] = NOTHING_EARLIER.requests_today
    """As in :class:`~llmbatch.runner.earlier.EarlierRuns`."""
    stats: FoldedStats = field(init=False)
    _fleet: RayFleet | None = field(init=False, default=None)
    _joining: anyio.CancelScope | None = field(init=False, default=None)
    _signal: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.stats = FoldedStats(self.workers)
        _check(self)

    def stop(self, *, signal: int | None = None, now: bool = False) -> None:
        """Let requests in flight finish (30 s at most); with *now*, or before any is sent, stop at once."""
        self._signal = signal if signal is not None else 2
        if self._fleet is not None:
            self._fleet.stop(signal=signal, now=now)
        elif self._joining is not None:
            self._joining.cancel()

    async def run(
        self, emit: Callable[[Event], None], on_start: Callable[[], None] = lambda: None
    ) -> tuple[Summary, LlmbatchError | None]:
        """Join the cluster and send all rows. *emit* gets the events, *on_start* is called after the first.

        Gives the summary, and the error that ended the run if one did.

        Raises:
            UsageError: something given is wrong, there is no such cluster, or an actor cannot work; nothing was sent.
            WriteError: the output could not be written.
        """
        runner = SplitRunner(**{**self.keywords, "shared": None, "display": False})
        max_cost = runner.options.max_cost
        news = News(self.stats, lambda event: emit(as_whole(event, max_cost)))
        async with (
            runner.open_files(self.input, self.output, self.files, needs_key=False) as files,
            contextlib.AsyncExitStack() as stack,
        ):
            if files.is_complete:
                endings = [Ending(0, 0)]
            elif files.left_usd is not None and files.left_usd <= 0:
                endings = [Ending(0, 4)]
            else:
                endings = [Ending(0, _STOPPED)]  # if it is stopped while it joins
                with anyio.CancelScope() as self._joining:
                    self._fleet = await self._join(stack, files, runner.options, news)
            emit(files.started(runner.options))
            on_start()
            if self._fleet is not None:
                try:
                    endings = await self._fleet.run()
                except BaseException:
                    emit(RunEnded(asyncio.get_running_loop().time(), _STOPPED, "the run was canceled", 0))
                    raise
            return await conclude_parts(files, self.stats, emit, endings, signal=self._signal, max_cost=max_cost)

    async def _join(
        self, stack: contextlib.AsyncExitStack, files: FileRun, options: RunOptions, news: News
    ) -> RayFleet:
        """Join the cluster, which *stack* leaves, and start the actors.

        Raises:
            UsageError: there is no such cluster, or an actor cannot work.
        """
        ray = await stack.enter_async_context(connected(self.address, self.flag))
        shared = await stack.enter_async_context(_coordinator(ray, self.keywords.get("shared")))
        jobs = self._jobs(options, shared, files.started(options).total_rows)
        self.stats.expect(len(jobs))
        folder = parts_beside(self.output)
        folder.mkdir(exist_ok=True)
        actors = ray.remote(RowWorker).options(
            num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=4, scheduling_strategy="SPREAD"
        )
        flights = int(jobs[0].keywords["concurrency"])
        fleet = RayFleet(
            ray,
            lambda: actors.remote(str(Path.cwd()), flights),
            self.workers,
            jobs,
            news,
            budget=None if files.left_usd is None else CostBudget(files.left_usd),
            spent=lambda number: spent_on(str(folder / part_name(jobs[number].shard)), FILESYSTEM),
        )
        try:
            await self._check_sight(fleet, jobs[0].input, folder)
        except BaseException:
            fleet.close()
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise
        return fleet

    def _jobs(self, options: RunOptions, shared: str, rows: int | None) -> list[ShardJob]:
        """The shards, each with a worker's part of what limits the whole."""
        workers = self.workers
        flights = min(split_number(int(options.concurrency), workers, flag="--concurrency"))
        count = workers
        if options.rpd is None and rows is not None:  # a day's requests are counted by each run for itself
            count = min(MOST_SHARDS, max(workers, min(_SHARDS_PER_WORKER * workers, rows // (_LEAST_ROWS * flights))))
        memory = int(self.keywords.get("max_answer_memory", 512_000_000))
        keywords = {
            **self.keywords,
            "shared": shared,
            "concurrency": Auto(flights) if options.adapts else flights,
            "max_answer_memory": max(1_000_000, memory // workers),
        }
        daily = [None] * count if options.rpd is None else split_number(int(options.rpd), count, flag="--rpd")
        sent = split_sent(self.requests_today, count)
        how = self.files
        files = {name: getattr(how, name) for name in ("limit", "force", "fsync", "lock", "input_format")}
        source, folder = str(Path(self.input).absolute()), str(parts_beside(self.output).absolute())
        return [
            ShardJob(
                source, folder, Shard(at + 1, count), {**keywords, "rpd": daily[at]}, files, self.verbose, sent[at]
            )
            for at in range(count)
        ]

    async def _check_sight(self, fleet: RayFleet, source: str, folder: Path) -> None:
        """Check that all actors see the input, and the folder of the parts: by a file that is made there.

        Raises:
            UsageError: one does not.
        """
        path, text = folder / _SEEN_NAME, secrets.token_hex(16)
        try:
            path.write_text(text)
            size_bytes = Path(source).stat().st_size if Path(source).is_file() else None  # noqa: ASYNC240 - one call
            await fleet.check(source, size_bytes, str(path.absolute()), text, own_version())
        finally:
            path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _coordinator(ray: Any, shared: str | None) -> AsyncIterator[str]:
    """Where the run's circuits and rates are shared: the store that is *shared*, else a coordinator of its own."""
    if shared is not None:
        yield shared
        return
    name = f"run-{secrets.token_hex(8)}"
    await asyncio.to_thread(start_coordinator, ray, name)
    try:
        yield f"ray:{name}"
    finally:
        await asyncio.to_thread(end_coordinator, ray, name)


def _check(run: RayRun) -> None:
    """Refuse what actors cannot do.

    Raises:
        UsageError: there is something.
    """
    source = Path(run.input)
    if run.input == "-" or (source.exists() and not source.is_file() and not source.is_dir()):
        name = "standard input" if run.input == "-" else run.input
        raise InputError(
            f"--ray: each worker reads the input, and {name} can be read once only",
            hint="save it to a file that all nodes see, and name that; or leave --ray out",
        )
    if is_stream(run.output):
        hint = "name a file with -o results.jsonl"
        raise OutputError(f"--ray needs an output file, and -o is '{run.output}'", hint=hint)
    if is_folder(run.output) or Path(run.output).is_dir():
        raise OutputError(
            f"--ray writes one file, and {run.output} is a folder",
            hint="name a file (-o results.jsonl) on a file system that all nodes see",
        )
    _check_keywords(run.keywords)


def _check_keywords(keywords: Mapping[str, Any]) -> None:
    if keywords.get("via", "live") != "live":
        raise UsageError(
            "--ray does not go with --via batch: no request is sent from here",
            hint="leave --ray out: one process submits and collects all batches",
        )
    for name in ("proxy", "shared"):
        value = str(keywords.get(name) or "")
        if "@" in value and "$" not in value:
            hint = (
                "set a variable on every node, and write --shared env:NAME" if name == "shared" else "use one without"
            )
            raise UsageError(f"--{name} has a password, which does not travel to the nodes of --ray", hint=hint)
