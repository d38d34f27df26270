"""``llmbatch run --workers N``: one run by several processes of this machine, with one display and one output.

This process opens and locks the output, and shows; the others send. Their parts are taken into the output at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Final

from llmbatch.cli.joint_display import showing
from llmbatch.cli.live import LiveControl, keys_in_terminal
from llmbatch.cli.make_runner import build_runner, file_options_of
from llmbatch.cli.run import command_again, conclude, write_report_of
from llmbatch.cli.settings import Settings, target_of
from llmbatch.cli.signals import stop_on_signals
from llmbatch.cli.worker import Job
from llmbatch.cli.workers_control import WorkersControl
from llmbatch.core.errors import InputError, LlmbatchError, OutputError, UsageError
from llmbatch.core.events import Event, RunEnded
from llmbatch.core.shards import Shard
from llmbatch.display.moved_run import refuse_moved_run
from llmbatch.outputs.deferred import is_stream
from llmbatch.outputs.parts import is_folder, part_name, parts_beside
from llmbatch.peers.unix import BoardServer
from llmbatch.report.fold import FoldedStats
from llmbatch.report.summary import Summary
from llmbatch.runner.concurrency import Auto
from llmbatch.runs.conclude_parts import as_whole, conclude_parts
from llmbatch.runs.event_loop import run_in_loop
from llmbatch.runs.file_run import FileRun
from llmbatch.runs.spending import spent_on
from llmbatch.storage.filesystem import FILESYSTEM
from llmbatch.workers.fleet import Fleet
from llmbatch.workers.messages import Ending
from llmbatch.workers.split import split_cost, split_number, split_rate, split_sent

__all__ = ["run_workers"]

_MOST_ROUNDS: Final = 20
"""How often what processes have left of ``--max-cost`` is given to those that have reached their share."""


def run_workers(settings: Settings) -> int:
    """Run the rows of ``settings.input`` in several processes and give the exit code.

    Raises:
        UsageError: something given is wrong, or cannot be split.
        WriteError: the output could not be written.
    """
    output = target_of(settings)
    _check(settings, output)
    jobs = _jobs(settings, output)
    if not settings.overwrite:
        refuse_moved_run(output)
    command = command_again(sys.argv[1:])
    stats = FoldedStats(settings.workers)
    summary, error = run_in_loop(_run(settings, output, command, stats, jobs))
    write_report_of(settings, output)
    if error is not None:
        raise error
    conclude(settings, summary, command, is_error_shown=False)
    return summary.exit_code


def _check(settings: Settings, output: str) -> None:
    """Refuse what several processes cannot do.

    Raises:
        UsageError: there is something.
    """
    several = f"--workers {settings.workers}"
    source = Path(settings.input)
    if settings.input == "-" or (source.exists() and not source.is_file() and not source.is_dir()):
        name = "standard input" if settings.input == "-" else settings.input
        raise InputError(
            f"{several}: each process reads the input, and {name} can be read once only",
            hint="save it to a file first, and name that; or leave --workers out",
        )
    if settings.shard is not None:
        raise UsageError(
            f"{several} and --shard exclude each other: each process has a shard of its own",
            hint="start a process per shard, or leave --shard out",
        )
    if settings.shared is not None and settings.max_cost is not None:
        raise UsageError(
            f"{several}, --shared and --max-cost together are not possible: the cap is split among the processes",
            hint="leave --shared out, or start a process per shard with --shard and --shared",
        )
    if is_stream(output):
        hint = "name a file with -o results.jsonl"
        raise OutputError(f"{several} needs an output file, and -o is '{output}'", hint=hint)
    if is_folder(output) or Path(output).is_dir():
        raise OutputError(
            f"{several} writes one file, and {output} is a folder",
            hint="name a file (-o results.jsonl); into a folder, start processes with --shard any/N",
        )


def _jobs(settings: Settings, output: str) -> list[Settings]:
    """The settings of each process: a shard, and its share of what limits the whole; without the cap of the cost.

    Raises:
        UsageError: a limit cannot be split.
    """
    count = settings.workers
    flights = split_number(int(settings.concurrency), count, flag="--concurrency")
    memory = max(1_000_000, settings.max_answer_memory // count)
    rates = {
        name: [None] * count if value is None else split_rate(value, count)
        for name, value in (("rpm", settings.rpm), ("tpm", settings.tpm))
    }
    daily = [None] * count if settings.rpd is None else split_number(int(settings.rpd), count, flag="--rpd")
    return [
        replace(
            settings,
            workers=1,
            shard=Shard(at + 1, count),
            output=str(parts_beside(output) / part_name(Shard(at + 1, count))),
            concurrency=Auto(flights[at]) if settings.adapts else flights[at],
            rpm=rates["rpm"][at],
            tpm=rates["tpm"][at],
            rpd=daily[at],
            max_answer_memory=memory,
            overwrite=False,
            retry_failed=False,
            report=None,
            dashboard=None,
            metrics_port=None,
            notify=None,
            ignored=(),
            origin={},
        )
        for at in range(count)
    ]


async def _run(
    settings: Settings, output: str, command: str, stats: FoldedStats, jobs: Sequence[Settings]
) -> tuple[Summary, LlmbatchError | None]:
    runner = build_runner(settings, ())
    async with contextlib.AsyncExitStack() as stack:
        show = await stack.enter_async_context(showing(settings, output, command, stats))

        def emit(event: Event) -> None:
            show.emit(as_whole(event, runner.options.max_cost))

        async with (
            runner.open_files(settings.input, output, file_options_of(settings)) as files,
            _shared(settings, jobs) as jobs,
        ):
            fleet = Fleet(_with_cost(jobs, files.left_usd, output, show.earlier), stats, emit, counted=_counted)
            control = WorkersControl(runner, fleet, emit, left_usd=files.left_usd)
            drain = stack.enter_context(stop_on_signals(fleet, show.say))
            live = LiveControl(output)
            live.begin(control, stats, drain=drain, say=show.say)
            show.observers.append(live)
            stack.callback(live.close)
            stack.enter_context(keys_in_terminal(live, show.display))
            emit(files.started(runner.options))
            show.started()
            try:
                endings = await _send(fleet, files, control, output)
            except BaseException:
                emit(RunEnded(asyncio.get_running_loop().time(), 130, "the run was canceled", 0))
                raise
            most = runner.options.max_cost
            return await conclude_parts(files, stats, emit, endings, signal=fleet.signal, max_cost=most)


@contextlib.asynccontextmanager
async def _shared(settings: Settings, jobs: Sequence[Settings]) -> AsyncIterator[Sequence[Settings]]:
    """Let the processes share circuits and rates, through this process if no store is named; gives their settings.

    Rates that are shared are not split: what one process does not use, others may.
    """
    if settings.shared is not None or not hasattr(socket, "AF_UNIX"):
        whole = {} if settings.shared is None else {"rpm": settings.rpm, "tpm": settings.tpm}
        yield [replace(job, **whole) for job in jobs]  # type: ignore[arg-type]  # numbers or None
        return
    async with BoardServer() as server:
        yield [replace(job, shared=server.url, rpm=settings.rpm, tpm=settings.tpm) for job in jobs]


async def _send(fleet: Fleet[Job], files: FileRun, control: WorkersControl, output: str) -> list[Ending]:
    """Let the processes send all rows; those that have reached their share of the cost get what others have left."""
    everyone = range(fleet.count)
    if files.is_complete:
        return [Ending(number, 0) for number in everyone]
    if files.left_usd is not None and split_cost(files.left_usd, fleet.count)[0] <= 0:
        return [Ending(number, 4) for number in everyone]
    parts_beside(output).mkdir(exist_ok=True)
    endings = {ending.number: ending for ending in await fleet.run(everyone)}
    for _ in range(_MOST_ROUNDS):
        stopped = [number for number, ending in endings.items() if ending.exit_code == 4]
        if not stopped or control.left_usd is None or fleet.signal is not None:
            break
        spent = [spent_on(str(fleet.job(number).settings.output), FILESYSTEM) for number in everyone]
        left = control.left_usd - sum(spent, Decimal(0))
        before = sum(ending.summary.rows for ending in endings.values() if ending.summary is not None)
        shares = split_cost(left, len(stopped))
        if shares[0] <= 0:
            break
        for number, more in zip(stopped, shares, strict=True):
            job = fleet.job(number)
            fleet.replace_job(number, replace(job, settings=replace(job.settings, max_cost=spent[number] + more)))
        endings |= {ending.number: ending for ending in await fleet.run(stopped)}
        if sum(ending.summary.rows for ending in endings.values() if ending.summary is not None) == before:
            break
    return [endings[number] for number in everyone]


def _with_cost(jobs: Sequence[Settings], left: Decimal | None, output: str, earlier: tuple[int, float]) -> list[Job]:
    """The jobs: each with its part of what is *left* of the cap, and of what *earlier* runs have sent today."""
    count = len(jobs)
    caps = [None] * count if left is None else split_cost(left, count)
    folder = str(parts_beside(output))
    return [
        Job(replace(job, max_cost=cap), folder, sent)
        for job, cap, sent in zip(jobs, caps, split_sent(earlier, count), strict=True)
    ]


def _counted(job: Job, sent_today: Callable[[tuple[int, float]], tuple[int, float]]) -> Job:
    return replace(job, requests_today=sent_today(job.requests_today))
