"""The words of ``llmbatch failed``: the failed rows of an output, by code, with their messages and ids.

Everything comes from the output's lines. Memory does not grow with the number of failed rows.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from llmbatch.core.raw_json import JSON
from llmbatch.display.phrases import plural, shown
from llmbatch.display.status_read import open_for_reading
from llmbatch.outputs.lines import read_lines
from llmbatch.report.output_lines import FailedRow, FailureGroup, FailureGroups, failed_row, is_failed

__all__ = ["failed_ids", "failed_json", "failed_words", "failure_lines"]

_IDS_FOR_PEOPLE = 10
_MESSAGES_FOR_PEOPLE = 3
_SPOOL_BYTES = 1 << 16


def failed_words(output: Path) -> Iterator[str]:
    """Lines for people: each code with its count, what was said, and some ids.

    Raises:
        OutputError: there is no such file, it cannot be read, or it is not an output of llmbatch.
    """
    groups = FailureGroups(most_ids=_IDS_FOR_PEOPLE)
    for row in _failed_rows(output):
        groups.add(row)
    found = list(groups)
    yield plural(sum(group.count for group in found), "failed row")
    for group in found:
        yield ""
        yield f"{shown(group.code)}  {plural(group.count, 'row')}"
        said = sorted(group.messages, key=lambda text: -group.messages[text])
        for message in said[:_MESSAGES_FOR_PEOPLE]:
            times = f"{group.messages[message]:,} x " if len(said) > 1 else ""
            yield f"  {times}{shown(message, 500) or '(no message)'}"
        if len(said) > _MESSAGES_FOR_PEOPLE:
            yield "  (and other messages)"
        yield f"  ids: {_ids(group, _IDS_FOR_PEOPLE)}"


def failed_ids(output: Path) -> Iterator[str]:
    """The id of each failed row, in the order of the lines, safe to show.

    Raises:
        OutputError: as :func:`failed_words`.
    """
    for row in _failed_rows(output):
        yield _id(row.id)


def failed_json(output: Path) -> Iterator[str]:
    """One JSON object in pieces: ``failed`` (a count) and ``failures``: code, count, message and all ids.

    Raises:
        OutputError: as :func:`failed_words`.
        OSError: the temporary files that hold the ids could not be written.
    """
    groups = FailureGroups(most_ids=0)
    with ExitStack() as stack:
        spools: dict[str, IO[bytes]] = {}
        for row in _failed_rows(output):
            group = groups.add(row)
            if group.code not in spools:
                spools[group.code] = stack.enter_context(tempfile.SpooledTemporaryFile(_SPOOL_BYTES))
            spools[group.code].write(json.dumps(row.id).encode() + b"\n")
        found = list(groups)
        yield json.dumps({"output": str(output), "failed": sum(group.count for group in found)})[:-1]
        yield ', "failures": ['
        for place, group in enumerate(found):
            about = {"code": group.code, "count": group.count, "message": group.message}
            yield f'{", " if place else ""}{json.dumps(about)[:-1]}, "ids": ['
            spool = spools[group.code]
            spool.seek(0)
            for number, line in enumerate(spool):
                yield f"{', ' if number else ''}{line.decode().rstrip()}"
            yield "]}"
        yield "]}"


def failure_lines(groups: Iterable[FailureGroup], most: int) -> list[str]:
    """A line for each of the *most* frequent codes: its count, what was said most often, three ids."""
    found = list(groups)
    lines = [
        f"{shown(group.code)} {group.count:,}: {shown(group.message, 200) or '(no message)'} ({_ids(group, 3)})"
        for group in found[:most]
    ]
    if len(found) > most:
        lines.append(f"and {plural(len(found) - most, 'more code')}")
    return lines


def _failed_rows(output: Path) -> Iterator[FailedRow]:
    with open_for_reading(output) as results:
        for line in read_lines(results.fd, results.end_bytes, results.disk):
            if is_failed(line):
                yield failed_row(line)


def _ids(group: FailureGroup, most: int) -> str:
    names = [shown(_id(name), 80) for name in group.ids[:most]]
    rest = group.count - len(names)
    return ", ".join([*names, f"+{rest:,} more"] if rest else names)


def _id(value: JSON) -> str:
    return shown(value) if isinstance(value, str) else shown(json.dumps(value))
