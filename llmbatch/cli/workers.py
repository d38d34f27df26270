"""``llmbatch run --workers N``: one run by several processes of this machine, with one display and one output.

This process opens and locks the output, and shows; the others send. Their parts are taken into the output at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Final

from llmbatch.cli.dashboard import DashboardOfRun, NoticeLevel
from llmbatch.cli.event_loop import run_in_loop
from llmbatch.cli.live import LiveControl, keys_in_terminal
from llmbatch.cli.make_runner import build_runner
from llmbatch.cli.monitoring import serve_metrics
from llmbatch.cli.notify import make_notifier
from llmbatch.cli.run import command_again, conclude, write_report_of
from llmbatch.cli.settings import Settings, target_of
from llmbatch.cli.signals import stop_on_signals, tell_on_signal
from llmbatch.cli.tell_status import StatusTeller
from llmbatch.cli.terminal import print_note
from llmbatch.cli.worker import Job
from llmbatch.cli.workers_control import WorkersControl
from llmbatch.core.errors import InputError, LlmbatchError, OutputError, UsageError, WriteError
from llmbatch.core.events import Event, Notice, Observer, RunEnded, RunStopping
from llmbatch.core.shards import Shard
from llmbatch.display import make_display
from llmbatch.display.format import plural
from llmbatch.display.history_file import HistoryFile
from llmbatch.display.status_file import StatusFile
from llmbatch.display.status_read import refuse_moved_run
from llmbatch.outputs.parts import is_folder, part_name, parts_beside
from llmbatch.peers.unix import BoardServer
from llmbatch.report.fold import FoldedStats
from llmbatch.report.join import worst_exit_code
from llmbatch.report.summary import Summary
from llmbatch.runner.concurrency import Auto
from llmbatch.runs.file_options import FileOptions
from llmbatch.runs.file_run import FileRun
from llmbatch.runs.logging_observer import LoggingObserver
from llmbatch.runs.spending import spent_on
from llmbatch.storage.filesystem import FILESYSTEM
from llmbatch.workers.fleet import Ending, Fleet
from llmbatch.workers.split import split_cost, split_number, split_rate

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
    if output == "-":
        raise OutputError(f"{several} needs an output file, and -o is '-'", hint="name a file with -o results.jsonl")
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
        for name, value in (("rpm", settings.rpm), ("tpm", settings.tpm), ("rpd", settings.rpd))
    }
    return [
        replace(
            settings,
            workers=1,
            shard=Shard(at + 1, count),
            output=str(parts_beside(output) / part_name(Shard(at + 1, count))),
            concurrency=Auto(flights[at]) if settings.adapts else flights[at],
            rpm=rates["rpm"][at],
            tpm=rates["tpm"][at],
            rpd=rates["rpd"][at],
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
    observers: list[Observer] = [stats]
    kind = settings.progress

    def emit(event: Event) -> None:
        if isinstance(event, RunStopping):
            event = replace(event, reason=_of_all(event.reason, runner.options.max_cost))
        for observer in observers:
            with contextlib.suppress(Exception):
                observer.observe(event)

    runner = build_runner(settings, ())
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(serve_metrics(settings, stats))
        display = make_display(kind, quiet=settings.quiet, verbose=settings.verbose, stats=stats)
        observers.append(stack.enter_context(display))
        status_file = StatusFile(Path(output), command=command, stats=stats, afresh=settings.overwrite)
        observers.append(stack.enter_context(status_file))
        history = HistoryFile(Path(output), command=command, stats=stats, afresh=settings.overwrite)
        observers.append(stack.enter_context(history))
        observers.append(LoggingObserver())
        is_json = kind == "json" and not settings.quiet
        teller = StatusTeller(output, stats, display, file=status_file, as_json=is_json)
        stack.enter_context(tell_on_signal(teller.tell))
        dashboard: DashboardOfRun | None = None
        if settings.dashboard is not None:
            dashboard = stack.enter_context(DashboardOfRun(settings, Path(output), command, stats, history))

        def say(text: str, level: NoticeLevel = "warning", hint: str = "") -> None:
            if kind == "none" and not settings.quiet:
                print_note(f"{text}; {hint}" if hint else text)
            else:
                display.observe(Notice(asyncio.get_running_loop().time(), level, text, hint))

        notifier = make_notifier(settings, stats, command=command)
        if notifier is not None:
            notifier.say = say
            observers.append(await stack.enter_async_context(notifier))
        async with (
            runner.open_files(settings.input, output, _file_options(settings)) as files,
            _shared(settings, jobs) as jobs,
        ):
            fleet = Fleet(_with_cost(jobs, files.left_usd, output), stats, emit)
            control = WorkersControl(runner, fleet, emit, left_usd=files.left_usd)
            drain = stack.enter_context(stop_on_signals(fleet, say))
            live = LiveControl(output)
            live.begin(control, stats, drain=drain, say=say)
            observers.append(live)
            stack.callback(live.close)
            stack.enter_context(keys_in_terminal(live, display))
            emit(files.started(runner.options))
            if dashboard is not None:
                say(*dashboard.notice)
            try:
                endings = await _send(fleet, files, control, output)
            except BaseException:
                emit(RunEnded(asyncio.get_running_loop().time(), 130, "the run was canceled", 0))
                raise
            return await _conclude(files, fleet, stats, emit, endings, runner.options.max_cost)


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
            fleet.replace_job(number, _job(fleet.job(number).settings, spent[number] + more, output))
        endings |= {ending.number: ending for ending in await fleet.run(stopped)}
        if sum(ending.summary.rows for ending in endings.values() if ending.summary is not None) == before:
            break
    return [endings[number] for number in everyone]


async def _conclude(
    files: FileRun,
    fleet: Fleet[Job],
    stats: FoldedStats,
    emit: object,
    endings: Sequence[Ending],
    max_cost: Decimal | None,
) -> tuple[Summary, LlmbatchError | None]:
    """Take the parts into the output, and say how the run ended: as the process that ended worst."""
    error: LlmbatchError | None = None
    try:
        success, failed, waiting = await files.collect()
    except (WriteError, UsageError) as found:
        error, success, failed, waiting = found, stats.success, stats.failed, 0
    stats.add_rows(success - stats.success, failed - stats.failed)
    own = [ending for ending in endings if ending.exit_code < 128]
    code = worst_exit_code(ending.exit_code for ending in own)
    if fleet.signal is not None and code in (0, 1, 75):
        code = 128 + fleet.signal
    worst = next((ending for ending in own if ending.exit_code == code), None)
    if code in (0, 1):  # of all lines, also of those of earlier runs
        code = 75 if waiting else 1 if failed else 0
    failure = None if worst is None else worst.failure
    if error is None and failure is not None:
        error = _error_of(failure.message, failure.hint, failure.exit_code)
    reason = "interrupted: requests in flight may finish" if code >= 128 else "finished"
    if code == 75:
        reason = f"{plural(waiting, 'row')} deferred"
    if worst is not None and worst.summary is not None and worst.summary.stopped_reason:
        reason = _of_all(worst.summary.stopped_reason, max_cost)
    now = asyncio.get_running_loop().time()
    ended = RunEnded(now, error.exit_code if error is not None else code, error.message if error else reason, waiting)
    emit(ended)  # type: ignore[operator]
    summary = stats.summary(ended)
    told = [ending.summary for ending in endings if ending.summary is not None]
    retry_at = min((one.retry_at for one in told if one.retry_at), default=None)
    advice = worst.summary.advice if worst is not None and worst.summary is not None else summary.advice
    return replace(summary, retry_at=retry_at, advice=advice), error


def _of_all(reason: str, max_cost: Decimal | None) -> str:
    """The *reason* of one process, with the cap of all instead of its share, and without what it alone has spent."""
    head, is_parted, rest = reason.partition(" spent, and the next request")
    if max_cost is None or not is_parted or not head.startswith("--max-cost "):
        return reason
    return f"--max-cost {max_cost:f} is reached by the processes together: the next request{rest}"


def _error_of(message: str, hint: str, exit_code: int) -> LlmbatchError:
    match exit_code:
        case 2:
            return UsageError(message, hint=hint)
        case 74:
            return WriteError(message, hint=hint)
        case _:
            return _WorkerError(message, hint=hint)


class _WorkerError(WriteError):
    """A process ended with an internal error, or again and again without a word."""

    exit_code = 70


def _with_cost(jobs: Sequence[Settings], left: Decimal | None, output: str) -> list[Job]:
    shares = [None] * len(jobs) if left is None else split_cost(left, len(jobs))
    return [_job(job, share, output) for job, share in zip(jobs, shares, strict=True)]


def _job(settings: Settings, most: Decimal | None, output: str) -> Job:
    return Job(replace(settings, max_cost=most), str(parts_beside(output)))


def _file_options(settings: Settings) -> FileOptions:
    return FileOptions(
        limit=settings.limit,
        retry_failed=settings.retry_failed,
        require_finish=settings.require_finish,
        overwrite=settings.overwrite,
        strict=settings.strict,
        force=settings.force,
        fsync=settings.fsync,
        lock=settings.lock,
        input_format=settings.input_format,
    )
