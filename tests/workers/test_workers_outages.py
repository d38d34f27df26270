"""What a run of several processes says of an outage that they end in, as ``--max-outage`` has it.

Slow: every run starts several interpreters.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from workers_server import Provider

Start = Callable[..., "subprocess.Popen[bytes]"]
CommandHere = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.traced, pytest.mark.slow]  # every run starts several interpreters


def write(path: Path, rows: int) -> None:
    path.write_text("".join(f'{{"prompt":"row {n}"}}\n' for n in range(1, rows + 1)))


def end(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out.decode(), err.decode()


def test_an_outage_that_the_run_ends_in_is_not_over(
    tmp_path: Path, start: Start, provider: Provider, command_here: CommandHere
) -> None:
    """It was over once the last process had ended: "openai/m is back after 3.0 s: its rows are resent"."""
    write(tmp_path / "rows.jsonl", 300)
    run = start("--workers", "2", "-c", "4", "--max-outage", "3", "--recovery-timeout", "1", "--progress", "plain")
    while provider.answered.total() < 40 and run.poll() is None:
        time.sleep(0.02)

    provider.status = 503
    code, _, err = end(run)
    status = json.loads(command_here(tmp_path, {}, "status", "out.jsonl", "--json").stdout)

    assert code == 75, err
    assert "is in an outage (--max-outage 3 reached)" in err
    assert "is back" not in err
    assert [outage["to"] for outage in status["outages"]] == [None]


def test_rows_of_a_provider_that_never_answers_are_deferred(
    tmp_path: Path, start: Start, provider: Provider, command_here: CommandHere
) -> None:
    """Of parts without a line the deferred rows were not taken over: "deferred 0 rows", and no list of them."""
    write(tmp_path / "rows.jsonl", 60)
    provider.close()

    flags = ("-c", "4", "--max-outage", "2", "--recovery-timeout", "1", "--json")
    code, out, err = end(start("--workers", "2", *flags))
    status = json.loads(command_here(tmp_path, {}, "status", "out.jsonl", "--json").stdout)

    summary = json.loads(out)
    assert code == 75, err
    waiting = [json.loads(line) for line in (tmp_path / "out.deferred.jsonl").read_text().splitlines()]
    assert (
        len({line["id"] for line in waiting}) == len(waiting) == summary["deferred"] == status["deferred"]["rows"] > 0
    )
    assert {line["status"] for line in waiting} == {"deferred"}
    assert not (tmp_path / "out.jsonl.parts").exists()
