"""``llmbatch run``: build a runner and its displays from the settings, run, and print the summary.

Flags are read in :mod:`llmbatch.cli.settings`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llmbatch.cli.dashboard import DashboardOfRun, NoticeLevel
from llmbatch.cli.event_loop import raise_file_limit, run_in_loop
from llmbatch.cli.local_config import LOCAL_CONFIG
from llmbatch.cli.monitoring import Telemetry, send_telemetry, serve_metrics
from llmbatch.cli.report import check_report_target, write_report
from llmbatch.cli.settings import Settings, output_of, schema_of, target_of
from llmbatch.cli.signals import stop_on_signals
from llmbatch.cli.terminal import print_error, print_note, print_out
from llmbatch.core.errors import LlmbatchError, OutputError, WriteError
from llmbatch.core.events import Event, Notice, Observer, RunStarted
from llmbatch.display import make_display
from llmbatch.display.format import local_time
from llmbatch.display.history_file import HistoryFile, read_history
from llmbatch.display.status_file import StatusFile
from llmbatch.display.status_read import read_status, refuse_moved_run
from llmbatch.display.summary import failed_rows_command, how_to_go_on, print_summary
from llmbatch.pace.daily import DAY
from llmbatch.report.stats import RunStats, Summary
from llmbatch.runs.batch_runner import BatchRunner

__all__ = ["build_runner", "command_again", "conclude", "run", "run_once", "write_report_of"]


def run(settings: Settings) -> int:
    """Run the rows of ``settings.input`` and give the exit code.

    Raises:
        UsageError: something given is wrong.
        OutputError: the output is in use, or not one of ours.
        WriteError: the output could not be written.
    """
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
    try:
        if Path(output).exists():
            read_status(output)
    except OutputError as error:
        hint = f"./{LOCAL_CONFIG} names it as the output: to empty it all the same, name it yourself (-o)"
        raise OutputError(error.message, hint=hint) from None


def build_runner(
    settings: Settings, observers: Sequence[Observer | Callable[[Event], object]], telemetry: Telemetry | None = None
) -> BatchRunner:
    """The runner that the settings describe.

    Raises:
        UsageError: something given is wrong.
    """
    return BatchRunner(
        settings.model,
        base_url=settings.base_url,
        proxy=settings.proxy,
        api_key_env=settings.api_key_env,
        headers=dict(settings.headers or ()),
        endpoint=settings.endpoint,
        system=settings.system or None,
        template=settings.template,
        prompt_column=settings.prompt_column,
        system_column=settings.system_column,
        id_column=settings.id_column,
        keep=settings.keep or (),
        params=settings.params,
        fallback=settings.fallback or (),
        pools=settings.pools,
        cache=settings.cache,
        allow_files=settings.allow_files,
        prices=settings.prices,
        schema=schema_of(settings),
        schema_lenient=settings.schema_lenient,
        repair=settings.repair,
        observers=observers,
        environ=os.environ,
        tracer_provider=None if telemetry is None else telemetry.tracer_provider,
        meter_provider=None if telemetry is None else telemetry.meter_provider,
        max_answer_memory=settings.max_answer_memory,
        **settings.run_options(),
    )


async def run_once(settings: Settings, output: str, command: str, stats: RunStats) -> Summary:
    """Run the rows that have no line in the file *output*, and show it. *stats* count the run.

    Raises:
        UsageError: something given is wrong.
        WriteError: the output could not be written.
    """
    observers: list[Observer] = [stats]
    kind = settings.progress
    dashboard: DashboardOfRun | None = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(serve_metrics(settings, stats))
        telemetry = stack.enter_context(send_telemetry(settings, lambda: display))
        display = make_display(kind, quiet=settings.quiet, verbose=settings.verbose, stats=stats)
        observers.append(stack.enter_context(display))
        if output != "-":
            status_file = StatusFile(Path(output), command=command, stats=stats, afresh=settings.overwrite)
            observers.append(stack.enter_context(status_file))
        if output != "-" or settings.dashboard is not None:
            path = None if output == "-" else Path(output)
            history = HistoryFile(path, command=command, stats=stats, afresh=settings.overwrite)
            observers.append(stack.enter_context(history))
            if settings.dashboard is not None:
                dashboard = stack.enter_context(DashboardOfRun(settings, path, command, stats, history))
        earlier = _requests_of_today(Path(output), settings.rpd) if settings.rpd and output != "-" else ""
        runner = build_runner(settings, [*observers, _once_started(lambda event: tell(event))], telemetry)

        def say(text: str, level: NoticeLevel = "warning", hint: str = "") -> None:
            if kind == "none" and not settings.quiet:
                print_note(f"{text}; {hint}" if hint else text)
            else:
                display.observe(Notice(asyncio.get_running_loop().time(), level, text, hint))

        def tell(event: RunStarted) -> None:
            if dashboard is not None:
                say(*dashboard.notice)
            if earlier and event.total_rows != event.done_success + event.done_failed:
                say(earlier)

        stack.enter_context(stop_on_signals(runner, say))
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


def _once_started(tell: Callable[[RunStarted], None]) -> Callable[[Event], None]:
    """An observer that calls *tell* at the start of the run."""

    def observe(event: Event) -> None:
        if isinstance(event, RunStarted):
            tell(event)

    return observe


def _requests_of_today(output: Path, per_day: float) -> str:
    """What to say of the requests of earlier runs, which ``--rpd`` does not count; empty if there were none."""
    sent, since = read_history(output).timeline.calls_since(time.time() - DAY)
    if not sent:
        return ""
    left = f"--rpd {per_day - sent:g} would" if sent < per_day else "only a later run would"
    return (
        f"--rpd counts the requests of this run alone: earlier runs on {output} have sent {sent:,} since "
        f"{local_time(since)}; {left} keep to {per_day:g} a day"
    )


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
