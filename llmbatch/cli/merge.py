"""``llmbatch merge``: the parts of a job as one output, and which of its rows are missing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from llmbatch.cli.export import recorded_input
from llmbatch.cli.terminal import print_note
from llmbatch.core.errors import InputError, UsageError
from llmbatch.display.merged_status import write_merged_status
from llmbatch.display.phrases import plural
from llmbatch.outputs.merge import Merge, missing_rows, nothing_to_merge, parts_of

__all__ = ["merge"]

_MOST_RANGES: Final = 5
_EXAMPLE: Final = "llmbatch merge results/ -o results.jsonl"


def merge(
    paths: Sequence[str],
    *,
    target: str | None,
    input_path: str | None,
    input_format: str | None,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Join the outputs that *paths* name into *target*; gives 75 if rows are missing, else 0.

    Which rows there are is told by the input: *input_path*, or the one that a run recorded. Without it only rows before
    the last one can be missed.

    Raises:
        UsageError: something given is wrong, a part is in use, or a row has two lines; nothing is written.
        WriteError: the target could not be written.
    """
    if not paths:
        raise UsageError("no parts to merge", hint=f"name their folder: {_EXAMPLE}")
    if target is None:
        command = shlex.join(["llmbatch", "merge", *paths, "-o", "results.jsonl"])
        raise UsageError("no file to write to", hint=command)
    parts = parts_of(paths)
    recorded = _recorded(parts)
    source = input_path if input_path is not None else recorded
    inputs = [path for path in (source, recorded) if path is not None]
    with Merge(parts, target, inputs=inputs, overwrite=overwrite) as joined:
        missing, count = _missing(joined, source, input_format)
        if count and not len(joined.finished):
            raise nothing_to_merge(paths)
        joined.write()
        waiting = len(joined.deferred())
    rows = joined.finished
    write_merged_status(
        Path(target), parts, input_path=source, success=rows.success, failed=rows.failed, missing=count, waiting=waiting
    )
    if not quiet:
        print_note(
            f"merged {plural(len(rows), 'row')} of {plural(len(parts), 'part')} into {target}: "
            f"{rows.success:,} success, {rows.failed:,} failed"
        )
        if source is None:
            print_note("note: which input they are of is not known, so rows after the last one may be missing")
            print_note("hint: name it with --input PATH")
    if not missing:
        return 0
    more = ", …" if len(missing) > _MOST_RANGES else ""
    named = ", ".join(str(one) if one == other else f"{one}-{other}" for one, other in missing[:_MOST_RANGES])
    deferred = f"; {plural(waiting, 'row')} deferred" if waiting else ""
    print_note(f"missing: {plural(count, 'row')} ({named}{more}){deferred}")
    print_note("hint: run the shards again, which sends only these, then merge again (--overwrite)")
    return 75


def _recorded(parts: Sequence[Path]) -> str | None:
    """The input that the runs on *parts* have recorded, where it is there."""
    found = (recorded_input(part)[1] or recorded_input(part.parent)[1] for part in parts)
    return next((path for path in found if path is not None), None)


def _missing(joined: Merge, source: str | None, input_format: str | None) -> tuple[list[tuple[int, int]], int]:
    """The first ranges of missing rows, and how many rows are missing.

    Raises:
        InputError: the input cannot be read, or a row has changed.
    """
    if source is None:
        found = missing_rows(joined.finished, None)
        return _counted(found)
    from llmbatch.inputs.input import open_input

    with open_input(source, output="", input_format=input_format) as rows:  # type: ignore[arg-type]  # checked there
        if not rows.is_rereadable:
            raise InputError(f"{source}: is read once", hint="save it to a file, and name that with --input")
        rows.verify(joined.finished)
        return _counted(missing_rows(joined.finished, rows.numbers()))


def _counted(ranges: Iterator[tuple[int, int]]) -> tuple[list[tuple[int, int]], int]:
    first = list(islice(ranges, _MOST_RANGES + 1))
    count = sum(last - one + 1 for one, last in first)
    return first, count + sum(last - one + 1 for one, last in ranges)
