"""``llmbatch run --shard any/N``: one part after another, each the first that nobody holds and that is not complete."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from llmbatch.cli.run import command_again, conclude, run_once
from llmbatch.cli.settings import Settings, output_of, target_of
from llmbatch.cli.terminal import print_note, print_out
from llmbatch.core.errors import InputError, InUseError, UsageError
from llmbatch.core.events import RunEnded, RunStarted
from llmbatch.display.phrases import plural
from llmbatch.inputs.input import open_input
from llmbatch.outputs.free_parts import FreeParts
from llmbatch.outputs.joined import OpenResults, files_of
from llmbatch.outputs.parts import create_folder, is_folder
from llmbatch.report.histogram import LatencyHistogram
from llmbatch.report.join import join_summaries
from llmbatch.report.stats import RunStats
from llmbatch.report.summary import Summary
from llmbatch.runs.event_loop import raise_file_limit, run_in_loop

__all__ = ["run_any_shard"]

_GO_ON = frozenset({0, 1})
_TRY_AGAIN_S = 0.2


def run_any_shard(settings: Settings) -> int:
    """Run the shards that nobody else runs, one after another; the exit code of all of them.

    A shard whose rows are deferred is left behind if some of its rows were answered: then the provider is not down for
    all. Otherwise, and where a run stops for another reason, no further shard is begun.

    Raises:
        UsageError: something given is wrong.
        WriteError: an output could not be written.
    """
    assert settings.shard is not None  # noqa: S101 - that is why this is called
    folder, count = target_of(settings), settings.shard.count
    _check(settings, folder)
    raise_file_limit(settings.concurrency)
    command = command_again(sys.argv[1:])
    began = time.monotonic()
    free = FreeParts(folder, _rows_of_shards(settings, count))
    create_folder(folder)
    summaries: list[Summary] = []
    latencies = LatencyHistogram()
    while (shard := free.next()) is not None:
        stats = RunStats()
        own = replace(settings, shard=shard)
        try:
            summary = run_in_loop(run_once(own, output_of(own), command, stats))
        except InUseError:
            time.sleep(_TRY_AGAIN_S)  # another process was quicker, and its lock is there by then
            continue
        free.over(shard)
        summaries.append(summary)
        latencies.include(stats.latencies)
        if not _goes_on(summary):
            break
    if not summaries:
        held = f"all that is left is in {plural(free.held, 'part')} that others write"
        if not settings.quiet:
            print_note(f"{held if free.held else 'nothing is left'} in {folder}")
        if settings.json:
            print_out(json.dumps(_nothing_done(settings, folder).to_json()))
        return 0
    whole = join_summaries(summaries, latencies, output=folder, duration_s=time.monotonic() - began)
    conclude(settings, whole, command, is_error_shown=True)
    if free.held and not settings.quiet:
        print_note(f"note: others are writing {plural(free.held, 'part')} of {folder}")
    return whole.exit_code


def _check(settings: Settings, folder: str) -> None:
    """Refuse what needs a shard of one's own.

    Raises:
        UsageError: there is something.
    """
    if not is_folder(folder, settings.shard):
        raise UsageError(
            f"--shard {settings.shard} needs a folder for its parts, and -o is {folder}", hint="name one: -o results/"
        )
    for is_set, flag in ((settings.retry_failed, "--retry-failed"), (settings.overwrite, "--overwrite")):
        if is_set:
            raise UsageError(
                f"{flag} and --shard {settings.shard} contradict each other: which parts others have done is not known",
                hint=f"name the shards (--shard 1/{settings.shard.count if settings.shard else 1} and so on)",
            )


def _rows_of_shards(settings: Settings, count: int) -> list[int]:
    """How many rows each of *count* shards has.

    Raises:
        InputError: the input cannot be read, or only once.
    """
    with open_input(settings.input, output="", input_format=settings.input_format) as rows:
        if not rows.is_rereadable:
            name = "standard input" if settings.input == "-" else settings.input
            raise InputError(
                f"--shard any/{count} reads its input for each part, and {name} can be read once only",
                hint="save it to a file first, and name that",
            )
        return count_by_shard(rows.numbers(settings.limit), count)


def count_by_shard(numbers: Iterable[int], count: int) -> list[int]:
    """How many of the row *numbers* belong to each of *count* shards."""
    rows = [0] * count
    for number in numbers:
        rows[(number - 1) % count] += 1
    return rows


def _nothing_done(settings: Settings, folder: str) -> Summary:
    """The summary of a command that found no shard to run: what is in *folder* already."""
    stats = RunStats()
    with OpenResults(files_of(Path(folder)), folder) as results:
        finished, concurrency = results.finished, settings.concurrency
        stats.observe(
            RunStarted(0.0, settings.input, folder, concurrency, finished.success, finished.failed, len(finished))
        )
    return stats.summary(RunEnded(0.0, 0, "", 0))


def _goes_on(summary: Summary) -> bool:
    return summary.exit_code in _GO_ON or (summary.exit_code == 75 and summary.this_run_success > 0)
