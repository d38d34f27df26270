"""``llmbatch batch``: list, cancel, adopt and ignore the provider batches of an output."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from llmbatch.cli.terminal import print_note, print_out, shown
from llmbatch.core.errors import OutputError, UsageError
from llmbatch.display.phrases import local_time, plural
from llmbatch.http.exchange import HttpExchanger
from llmbatch.outputs.find import find_output
from llmbatch.runs.batches.commands import BatchCommands, ListedBatch

__all__ = ["adopt", "cancel", "list_batches"]


def list_batches(path: str, *, as_json: bool) -> int:
    """Print the batches of the output that *path* names (or of an input's default output); gives 0.

    Raises:
        OutputError: no batches are known.
    """
    batches = asyncio.run(_list(path))
    if as_json:
        print_out(json.dumps([asdict(batch) for batch in batches]))
    else:
        print_out("\n".join(map(_line, batches)) or "no batches")
    return 0


def cancel(path: str, ids: Sequence[str]) -> int:
    """Cancel the open batches of an output, or those named; gives 1 if one could not be canceled.

    Raises:
        OutputError: no batches are known.
        UsageError: an id is none of its batches.
    """
    told: list[str] = []
    failed = asyncio.run(_cancel(path, ids, told))
    print_note("\n".join(map(shown, told)) or "no batch is open")
    return 1 if failed else 0


def adopt(path: str, ids: Sequence[str], *, ignores: bool) -> int:
    """Note that batches belong to an output, or with *ignores* that they do not; gives 0.

    Raises:
        UsageError: no id is given, or one cannot be one.
        WriteError: the journal cannot be written.
    """
    if not ids:
        raise UsageError(
            "no batch is named", hint=f"llmbatch batch {'ignore' if ignores else 'adopt'} OUTPUT BATCH_ID…"
        )
    collected = BatchCommands(_output(path), HttpExchanger()).say("ignore" if ignores else "adopt", ids)
    what = "waited for no more" if ignores else "collected"
    told = [f"{shown(batch_id)} is collected already" for batch_id in collected]
    if noted := len(set(ids).difference(collected)):
        told.append(f"{plural(noted, 'batch', 'batches')} noted, to be {what} when the run's command is typed again")
    print_note("\n".join(told))
    return 0


def _output(path: str) -> Path:
    """The output that *path* names.

    Raises:
        OutputError: it is a folder, whose parts have batches of their own.
    """
    output = find_output(path)
    if not output.is_dir():
        return output
    journals = sorted(output.glob("part-*-of-*.batch.jsonl"))
    name = f"{journals[0].name.removesuffix('.batch.jsonl')}.jsonl" if journals else "part-00001-of-00002.jsonl"
    raise OutputError(
        f"{output}: is a folder, and each of its parts has batches of its own", hint=f"name a part: {output / name}"
    )


async def _list(path: str) -> list[ListedBatch]:
    exchanger = HttpExchanger()
    try:
        return await BatchCommands(_output(path), exchanger).list()
    finally:
        await exchanger.aclose()


async def _cancel(path: str, ids: Sequence[str], told: list[str]) -> int:
    exchanger = HttpExchanger()
    try:
        return await BatchCommands(_output(path), exchanger).cancel(ids, told.append)
    finally:
        await exchanger.aclose()


def _line(batch: ListedBatch) -> str:
    rows = "" if batch.rows is None else f"{plural(batch.rows, 'row')}, "
    return (
        f"{shown(batch.id)}  {shown(batch.status)}  {rows}lines {batch.first:,} to {batch.last:,}  "
        f"{shown(batch.model)}  {local_time(batch.created_at)}"
    )
