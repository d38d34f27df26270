"""``llmbatch run``: build a runner and its displays from the settings, run, and print the summary.

Flags are read in :mod:`llmbatch.cli.settings`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmbatch.cli.earlier_requests import requests_today, told_earlier
from llmbatch.cli.live import LiveControl, keys_in_terminal
from llmbatch.cli.local_config import LOCAL_CONFIG
from llmbatch.cli.make_runner import build_runner
from llmbatch.cli.monitoring import send_telemetry, serve_metrics
from llmbatch.cli.notify import make_notifier
from llmbatch.cli.settings import Settings, output_of, target_of
from llmbatch.cli.signals import stop_on_signals, tell_on_signal
from llmbatch.cli.tell_status import StatusTeller
from llmbatch.cli.terminal import print_error, print_note, print_out
from llmbatch.core.errors import LlmbatchError, OutputError, WriteError
from llmbatch.core.events import ROW_EVENTS, Event, Notice, Observer, RunStarted
from llmbatch.display import make_display
from llmbatch.display.history_file import HistoryFile
from llmbatch.display.moved_run import refuse_moved_run
from llmbatch.display.status_file import StatusFile
from llmbatch.display.summary import failed_rows_command, how_to_go_on, print_summary
from llmbatch.outputs.deferred import is_stream
from llmbatch.report.stats import RunStats, Summary
from llmbatch.runs.event_loop import raise_file_limit, run_in_loop

if TYPE_CHECKING:
    from llmbatch.cli.dashboard import DashboardOfRun, NoticeLevel
    from llmbatch.notify.notifier import Notifier

__all__ = ["command_again", "conclude", "run", "run_once", "write_report_of"]


def run(settings: Settings) -> int:
    """Run the rows of ``settings.input`` and give the exit code.

    Raises:
        UsageError: something given is wrong.
        OutputError: the output is in use, or not one of ours.
        WriteError: the output could not be written.
    """
    if settings.ray is not None:
        from llmbatch.cli.ray import run_on_ray

        return run_on_ray(settings)
    if settings.workers > 1:
        from llmbatch.cli.workers import run_workers

        return run_workers(settings)
    if settings.shard is not None and settings.shard.is_any:
        from llmbatch.cli.any_shard import run_any_shard

        return run_any_shard(settings)
    output = output_of(settings)
    if not Path(output).name:  # a dot or a slash
        raise OutputError(f"{output}: is a directory", hint="name a file in it, such as -o results.jsonl")
    if output != "-" and not settings.overwrite:
        refuse_moved_run(output)
    if settings.overwrite and "output" in settings.from_local:
        _refuse_to_empty(output)
    raise_file_limit(settings.concurrency)
    command = command_again(sys.argv[1:])
    stats = RunStats()  # one fold for all displays
    if settings.report is not None:
        from llmbatch.cli.report import check_report_target

        check_report_target(settings.report, output, input_path=settings.input)
    try:
        summary = run_in_loop(run_once(settings, output, command, stats))
    except WriteError:
        write_report_of(settings, output)
        raise
    write_report_of(settings, output)
    conclude(settings, summary, command, is_error_shown=_was_error(summary, stats))
    return summary.exit_code


def conclude(settings: Settings, summary: Summary, command: str, *, is_error_shown: bool) -> None:
    """Print the summary as the settings want it. *is_error_shown*: displays have shown why the run stopped."""
    if settings.json:
        print_out(json.dumps(summary.to_json()))
    if settings.progress != "json":  # whose last line says it all
        is_told = is_error_shown if settings.quiet else settings.progress != "none"
        _say_last_words(summary, command, quiet=settings.quiet, is_told=is_told)


def write_report_of(settings: Settings, output: str) -> None:
    """Write the page of ``--report``. What goes wrong there is told, and changes nothing of the run."""
    if settings.report is None:
        return
    from llmbatch.cli.report import write_report

    try:
        write_report(settings.report, output)
    except LlmbatchError as error:
        print_note(f"note: no report was written: {error.message}")
        return
    if not settings.quiet and settings.progress != "json":
        print_note(f"report written to {settings.report}")


def _refuse_to_empty(output: str) -> None:
    """``--overwrite`` means the lines of an earlier run, not any file that a ``./llmbatch.toml`` names as the output.

    Raises:
        OutputError: *output* is a file that is not one of ours.
    """
    from llmbatch.display.status_read import read_status

    try:
        if Path(output).exists():
            read_status(output)
    except OutputError as error:
        hint = f"./{LOCAL_CONFIG} names it as the output: to empty it all the same, name it yourself (-o)"
        raise OutputError(error.message, hint=hint) from None


async def run_once(settings: Settings, output: str, command: str, stats: RunStats) -> Summary:
    """Run the rows that have no line in the file *output*, and show it. *stats* count the run.

    Raises:
        UsageError: something given is wrong.
        WriteError: the output could not be written.
    """
    async with contextlib.AsyncExitStack() as stack:
        notifier = make_notifier(settings, stats, command=command)
        if notifier is not None:
            await stack.enter_async_context(notifier)
        return await _run_rows(settings, output, command, stats, notifier)


async def _run_rows(
    settings: Settings, output: str, command: str, stats: RunStats, notifier: Notifier | None
) -> Summary:
    observers: list[Observer] = [stats]
    if notifier is not None:
        observers.append(notifier)
    kind = settings.progress
    dashboard: DashboardOfRun | None = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(serve_metrics(settings, stats))
        telemetry = stack.enter_context(send_telemetry(settings, lambda: display))
        display = make_display(kind, quiet=settings.quiet, verbose=settings.verbose, stats=stats)
        observers.append(stack.enter_context(display))
        status_file: StatusFile | None = None
        path = None if is_stream(output) else Path(output)
        if path is not None:
            status_file = StatusFile(path, command=command, stats=stats, afresh=settings.overwrite)
            observers.append(stack.enter_context(status_file))
        if path is not None or settings.dashboard is not None:
            history = HistoryFile(path, command=command, stats=stats, afresh=settings.overwrite)
            observers.append(stack.enter_context(history))
            if settings.dashboard is not None:
                from llmbatch.cli.dashboard import DashboardOfRun

                dashboard = stack.enter_context(DashboardOfRun(settings, path, command, stats, history))
        live = LiveControl(output)
        is_json = kind == "json" and not settings.quiet
        teller = StatusTeller(output, stats, display, file=status_file, as_json=is_json)
        stack.enter_context(tell_on_signal(teller.tell))
        sent = requests_today(settings, output)
        tell_start = _StartTeller(lambda event: tell(event))
        runner = build_runner(settings, [*observers, live, tell_start], telemetry, requests_today=sent)

        def say(text: str, level: NoticeLevel = "warning", hint: str = "") -> None:
            if kind == "none" and not settings.quiet:
                print_note(f"{text}; {hint}" if hint else text)
            else:
                display.observe(Notice(asyncio.get_running_loop().time(), level, text, hint))

        def tell(event: RunStarted) -> None:
            if dashboard is not None:
                say(*dashboard.notice)
            if sent[0] and event.total_rows != event.done_success + event.done_failed:
                say(told_earlier(output, sent, settings.rpd or 0), "info")

        if notifier is not None:
            notifier.say, after = say, notifier.say
            stack.callback(setattr, notifier, "say", after)
        drain = stack.enter_context(stop_on_signals(runner, say))
        live.begin(runner, stats, drain=drain, say=say)
        stack.callback(live.close)
        if settings.input != "-":
            stack.enter_context(keys_in_terminal(live, display))
        return await runner.run(
            settings.input,
            target_of(settings),
            limit=settings.limit,
            retry_failed=settings.retry_failed,
            overwrite=settings.overwrite,
            strict=settings.strict,
            force=settings.force,
            fsync=settings.fsync,
            lock=settings.lock,
            input_format=settings.input_format,
            shard=settings.shard,
        )


class _StartTeller:
    """An observer that calls *tell* at the start of the run."""

    skips = ROW_EVENTS

    def __init__(self, tell: Callable[[RunStarted], None]) -> None:
        self._tell = tell

    def observe(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._tell(event)


def _was_error(summary: Summary, stats: RunStats) -> bool:
    """Whether an error that displays show, also the quiet one, has said why the run stopped."""
    notices = stats.snapshot().notices
    return any(notice.level == "error" and notice.message == summary.stopped_reason for notice in notices)


def _say_last_words(summary: Summary, command: str, *, quiet: bool, is_told: bool) -> None:
    """Print the summary; with *quiet* a line where something is left to do.

    *is_told*: the display has said why the run stopped.
    """
    if not quiet:
        print_summary(summary, command=command, is_reason_told=is_told)
    elif summary.exit_code == 1:
        see = "" if summary.output == "-" else f"; to see them: {failed_rows_command(summary.output)}"
        print_note(f"{summary.failed:,} of {summary.rows:,} rows failed{see}")
    elif summary.stopped_reason and not is_told and summary.exit_code not in (130, 143):  # what the user did
        hint = summary.advice or how_to_go_on(
            summary.output, summary.exit_code, command=command, has_lines=bool(summary.rows)
        )
        print_error(summary.stopped_reason, hint)


def command_again(arguments: list[str]) -> str:
    """What to type to go on. Starting afresh is nothing to repeat: it would drop what this run has paid for."""
    words = ["llmbatch", *(argument for argument in arguments if argument != "--overwrite")]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
