"""What the sidecars of the parts in a folder tell together: which shards have ended, and what the others wait for.

The lines of all parts are the truth, and are counted by :mod:`llmbatch.display.status_read`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from llmbatch.core.raw_json import JSON, RawJsonError, parse
from llmbatch.core.shards import Shard
from llmbatch.display.status_file import integer, mapping, read_sidecar, text
from llmbatch.display.status_report import Deferred, PartsState, StatusReport
from llmbatch.outputs.deferred import deferred_path
from llmbatch.outputs.parts import Part, list_shards
from llmbatch.report.counters import CodeCounter
from llmbatch.report.iso_time import from_iso, to_iso
from llmbatch.report.journal import Journal
from llmbatch.report.output_lines import OutputLines
from llmbatch.storage.filesystem import FILESYSTEM
from llmbatch.storage.sidecar import open_sidecar

__all__ = ["folder_total", "parked_now", "read_deferred", "read_folder"]

_LONGEST_REASON = 200
"""Characters of the reason of a deferred row."""


def read_folder(
    folder: Path, lines: OutputLines, *, success: int, failed: int, torn_bytes: int, is_running: bool
) -> StatusReport:
    """The status of the parts in *folder*, whose *lines* were counted: so many *success* and *failed*.

    Sidecars are believed where what they tell together agrees with the lines. The number of shards is that of the part
    that was written last.

    Raises:
        OutputError: as :func:`~llmbatch.outputs.parts.list_shards`.
    """
    parts = list_shards(folder)
    known = _known(parts)
    latest = _latest(known)
    count = (latest or max((part.shard for part in parts), key=lambda shard: shard.count)).count
    runs = _runs(known, count)
    running = {part.shard for part in parts if _is_locked(part.path)} if is_running else set()
    state = _parts_state(count, runs, running)
    rows = success + failed
    total = _total(runs, count)
    deferred = _deferred([part.path for part in parts], [runs.get(shard, {}) for shard in running], is_running)
    journal = Journal.joined([Journal(sidecar.get("history")) for sidecar in known.values()])
    updated = [stamp for sidecar in known.values() if (stamp := text(sidecar.get("updated")))]
    told = known.get(latest, {}) if latest else {}
    is_complete = len(state.finished) == count and total == rows
    codes = [integer(run.get("exit_code")) for run in runs.values()]
    return StatusReport(
        output=str(folder),
        state=_state(state, is_running=is_running, is_complete=is_complete, leaves=bool(deferred.rows or torn_bytes)),
        rows=rows,
        success=success,
        failed=failed,
        was_killed=not is_running and any(code is None for code in codes),
        torn_bytes=torn_bytes,
        deferred=deferred,
        total_rows=total,
        input=text(mapping(told.get("run")).get("input")),
        pid=None,
        started=min((stamp for sidecar in known.values() if (stamp := text(sidecar.get("started")))), default=None),
        updated=max(updated, default=None),
        exit_code=_worst(codes) if is_complete or (not is_running and not state.missing) else None,
        waits_for=next((word for shard in running if (word := text(known.get(shard, {}).get("waits_for")))), None),
        command=_command(text(told.get("command")) or "", (*state.stopped, *state.missing)),
        run=_sum([runs[shard] for shard in running if shard in runs], runs.values()),
        journal=journal,
        seen=None if is_running else from_iso(max(updated, default=None)),
        failures=list(lines.failures),
        cut_answers=lines.cut_answers,
        answers_without_text=lines.answers_without_text,
        cached=lines.cached,
        tiers=lines.tiers.top(),
        routes=lines.routes,
        parts=state,
    )


def folder_total(folder: Path) -> int | None:
    """How many rows the shards of *folder* have together, by their sidecars; None if that is not known.

    Raises:
        OutputError: as :func:`~llmbatch.outputs.parts.list_shards`.
    """
    known = _known(list_shards(folder))
    latest = _latest(known)
    return None if latest is None else _total(_runs(known, latest.count), latest.count)


def _known(parts: Sequence[Part]) -> dict[Shard, dict[str, JSON]]:
    """The sidecars of *parts* that tell of a run."""
    sidecars = {part.shard: read_sidecar(part.path) for part in parts}
    return {shard: sidecar for shard, sidecar in sidecars.items() if mapping(sidecar.get("run"))}


def _latest(known: dict[Shard, dict[str, JSON]]) -> Shard | None:
    return max(known, key=lambda shard: text(known[shard].get("updated")) or "", default=None)


def _runs(known: dict[Shard, dict[str, JSON]], count: int) -> dict[Shard, dict[str, JSON]]:
    return {shard: mapping(sidecar["run"]) for shard, sidecar in known.items() if shard.count == count}


def _total(runs: dict[Shard, dict[str, JSON]], count: int) -> int | None:
    totals = [integer(run.get("total_rows")) for run in runs.values() if not run.get("total_is_estimate")]
    return sum(filter(None, totals)) if len(totals) == count and None not in totals else None


def _parts_state(count: int, runs: dict[Shard, dict[str, JSON]], running: set[Shard]) -> PartsState:
    finished, stopped, missing = [], [], []
    for index in range(1, count + 1):
        shard = Shard(index, count)
        if shard in running:
            continue
        if shard not in runs:
            missing.append(str(shard))
        elif integer(runs[shard].get("exit_code")) in (0, 1):
            finished.append(str(shard))
        else:
            stopped.append(str(shard))
    return PartsState(count, tuple(map(str, sorted(running, key=str))), tuple(finished), tuple(stopped), tuple(missing))


def _state(
    parts: PartsState, *, is_running: bool, is_complete: bool, leaves: bool
) -> Literal["running", "finished", "stopped", "unknown"]:
    if is_running:
        return "running"
    if is_complete and not leaves:
        return "finished"
    return "stopped" if leaves or parts.stopped or parts.missing else "unknown"


def _deferred(paths: Sequence[Path], running: Sequence[dict[str, JSON]], is_running: bool) -> Deferred:
    if not is_running:
        return read_deferred(paths, is_known=True)
    found = [parked_now(run, None) for run in running]
    reasons: dict[str, int] = {}
    for one in found:
        for reason, rows in one.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + rows
    return Deferred(sum(one.rows or 0 for one in found), reasons=reasons)


def _worst(codes: Sequence[int | None]) -> int | None:
    """The exit code of the shards together; None if one has left no last word."""
    return None if None in codes else max((code for code in codes if code is not None), default=None)


def _command(command: str, left: Sequence[str]) -> str:
    """*command*, of any shard, for the first of those that are *left*."""
    return _SHARD_FLAG.sub(rf"\g<1>{left[0]}", command) if left else command


_SHARD_FLAG = re.compile(r"(--shard[ =])[0-9]+/[0-9]+")
_SUMS = ("rows_per_s", "in_flight", "parked")


def _sum(running: Sequence[dict[str, JSON]], runs: Iterable[dict[str, JSON]]) -> dict[str, JSON] | None:
    """The movement of the *running* parts together, paused if all are; and the batches of all *runs*."""
    total: dict[str, JSON] = {}
    for run in running:
        for name in _SUMS:
            total[name] = _number(total.get(name)) + _number(run.get(name))
        if run.get("eta_s") is not None:
            total["eta_s"] = max(_number(total.get("eta_s")), _number(run.get("eta_s")))
    pauses = [run.get("pause_s") for run in running]
    if pauses and None not in pauses:
        total["pause_s"] = min(map(_number, pauses))
    batches = [batch for run in runs for batch in _items(mapping(run.get("batches")).get("open"))]
    if batches:
        total["batches"] = {"open": batches}
    return total or None


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return FILESYSTEM.is_locked(file.fileno())
    except OSError:
        return False


def read_deferred(outputs: Iterable[Path], *, is_known: bool) -> Deferred:
    """What the deferred files of *outputs* tell; *is_known* says that where there is none, no row waits."""
    rows = 0
    reasons = CodeCounter(longest=_LONGEST_REASON)
    shortest, longest, first = None, None, None
    for item in (item for output in outputs for item in _deferred_items(deferred_path(output))):
        rows += 1
        reasons.add(text(item.get("reason")) or "")
        wait = item.get("retry_after")
        if isinstance(wait, (int, float)):
            shortest = wait if shortest is None else min(shortest, wait)
            longest = wait if longest is None else max(longest, wait)
        instant = text(item.get("retry_at"))
        if instant is not None:  # all in one form, which sorts as text
            first = instant if first is None else min(first, instant)
    return Deferred(rows if rows or is_known else None, first, shortest, longest, reasons.top())


def _deferred_items(path: Path) -> Iterator[dict[str, JSON]]:
    try:
        with open_sidecar(path) as file:
            for line in file:
                try:
                    yield mapping(parse(line.decode()))
                except (RawJsonError, UnicodeDecodeError):
                    continue
    except OSError:
        return


def parked_now(run: dict[str, JSON], updated: float | None) -> Deferred:
    """The rows that a running run has parked, and the instant of its next probe or of the end of a pause."""
    reasons: dict[str, int] = {}
    waits: list[float] = []
    routes = run.get("routes")
    for route in map(mapping, routes if isinstance(routes, list) else ()):
        parked = integer(route.get("parked")) or 0
        if not parked:
            continue
        reason = (text(route.get("reason")) or "paused")[:80]
        reasons[reason] = reasons.get(reason, 0) + parked
        wait = route.get("next_probe_s") if route.get("state") != "closed" else route.get("paused_s")
        if isinstance(wait, (int, float)):
            waits.append(wait)
    at = None if updated is None or not waits else to_iso(updated + min(waits))
    return Deferred(integer(run.get("parked")) or 0, at, reasons=reasons)


def _items(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else []


def _number(value: JSON) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
