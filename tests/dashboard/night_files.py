"""Writes what a run leaves behind, with an outage or hostile text in it, in place of a night of waiting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmbatch.core.calls import Usage
from llmbatch.core.rows import Result, encode_line
from llmbatch.outputs.deferred import history_path
from llmbatch.report.iso_time import to_iso

WALL = 1_795_744_800.0  # 2026-11-27 02:00 UTC
DOWN = (420, 6060)
HOSTILE = (
    "</script></td><script>window.evil=1</script><img src=x onerror=window.evil=1>\"'&`${window.evil=1}\x1b[2J\u202e"
)


def write_night(
    folder: Path, *, rows: int = 200, failures: int = 20, messages: int = 5, hostile: bool = False, seconds: int = 7200
) -> Path:
    """An output and its history: two hours, down from 02:07 to 03:41, *failures* of *rows* with *messages* messages."""
    text = HOSTILE if hostile else "an ordinary text"
    model = HOSTILE if hostile else "openai/gpt-5-mini"
    output = folder / "night.results.jsonl"
    done = []
    for n in range(1, rows + 1):
        name = json.dumps(f"{HOSTILE}{n}" if hostile else f"r{n}")
        if n <= failures:
            error = f"{text} {n % messages}"
            done.append(
                Result(n, f"{n:016x}", "failed", name, error_code=f"{text[:40]}", error_message=error, model=model)
            )
        else:
            result = Result(n, f"{n:016x}", "success", name, text=text, model=model, attempts=1)
            result.usage, result.latency_s = Usage(n * 3, n), 0.2 + n % 17 / 10
            done.append(result)
    output.write_bytes(b"".join(map(encode_line, done)))
    began, ended = to_iso(WALL), to_iso(WALL + seconds)
    outage = {"route": model, "from": to_iso(WALL + DOWN[0]), "to": to_iso(WALL + DOWN[1]), "message": text}
    lines: list[dict[str, Any]] = [
        {"kind": "run", "began": began, "ended": ended, "exit_code": 1, "command": f"llmbatch run {text}"},
        {"kind": "journal", "began": began, "ended": ended, "runs": 1, "outages": [outage]},
        {"kind": "notice", "at": began, "level": "warning", "message": text, "hint": text},
        {"kind": "error", "code": text[:40], "count": 9, "examples": [{"message": text, "route": model, "row": 3}]},
    ]
    lines += [bucket(at) for at in range(0, seconds, 60)]
    history_path(output).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return output


def bucket(at: int) -> dict[str, Any]:
    """The minute from *at* seconds after the beginning; in the outage nothing is answered, and rows are parked."""
    found = {"kind": "bucket", "start": WALL + at, "width": 60, "in_flight": 40, "limit": 40}
    if DOWN[0] <= at < DOWN[1]:
        return found | {"open_circuits": 1, "parked": 900, "in_flight": 1, "throttled": 2}
    return found | {"success": 2, "good_calls": 2, "p50_s": 0.5, "p95_s": 1.5, "cost_usd": 0.01, "failed": 1}
