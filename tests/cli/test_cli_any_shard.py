"""``--shard any/N``: processes that take parts which nobody holds, until none is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from cli_parts import Run, TwoLines

from llmbatch.outputs.lock import open_locked

pytestmark = pytest.mark.traced


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Forty rows, and a blank line that is a shard's only line between two of its rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"prompt":"say {n}"}}\n' if n != 9 else "\n" for n in range(1, 42)))
    return path


def rows_in(folder: Path) -> Counter[int]:
    parts = folder.glob("part-*-of-?????.jsonl")
    return Counter(json.loads(line)["row"] for part in parts for line in part.read_text().splitlines())


EVERY_ROW = Counter(n for n in range(1, 42) if n != 9)


@pytest.mark.slow  # three processes
def test_three_processes_share_an_input(tmp_path: Path, rows: Path, environment: dict[str, str]) -> None:
    """Started at once, with nothing told: every row has one line, every part one writer, and each process ends well."""
    command = [sys.executable, "-m", "llmbatch", "run", "rows.jsonl", "-m", "sim/steady", "--shard", "any/8"]
    processes = [
        subprocess.Popen(
            [*command, "-o", "out", "-q", "--json"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    told = [process.communicate(timeout=240) for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], told
    assert rows_in(tmp_path / "out") == EVERY_ROW
    assert sum(json.loads(out)["this_run_success"] for out, _ in told if out) == 40


@pytest.mark.slow  # whole runs, in real time
def test_one_process_takes_all_parts(tmp_path: Path, rows: Path, llmbatch_here: Run) -> None:
    """One after another; a summary of all of them, and nothing is left for the next."""
    done = llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "--shard", "any/3", "-o", "out/", "--json", "-q")
    again = llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "--shard", "any/3", "-o", "out/")
    last = llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "--shard", "any/3", "-o", "out/", "-q", "--json")

    summary = json.loads(done.stdout)
    assert (done.returncode, summary["rows"], summary["total_rows"], summary["calls"]) == (0, 40, 40, 40)
    assert summary["output"] == "out/"
    assert summary["latency_p50_s"] > 0
    assert rows_in(tmp_path / "out") == EVERY_ROW
    assert (again.returncode, again.stderr) == (0, "nothing is left in out/\n")
    assert {name: json.loads(last.stdout)[name] for name in ("rows", "total_rows", "calls", "exit_code")} == {
        "rows": 40, "total_rows": 40, "calls": 0, "exit_code": 0
    }  # fmt: skip


@pytest.mark.slow  # whole runs, in real time
def test_parts_that_others_hold_are_left_to_them(tmp_path: Path, rows: Path, llmbatch_here: Run) -> None:
    """They are neither waited for nor a failure; the next command takes them once they are free."""
    command = ("run", "rows.jsonl", "-m", "sim/steady", "--shard", "any/3", "-o", "out")
    (tmp_path / "out").mkdir()
    held = str(tmp_path / "out" / "part-00002-of-00003.jsonl")
    fd = open_locked(held, held)
    try:
        done = llmbatch_here(*command, "--progress", "none")
        empty = llmbatch_here(*command)
    finally:
        os.close(fd)
    after = llmbatch_here(*command, "-q")

    assert done.returncode == 0
    assert "note: others are writing 1 part of out" in done.stderr
    assert empty.stderr == "all that is left is in 1 part that others write in out\n"
    assert after.returncode == 0
    assert rows_in(tmp_path / "out") == EVERY_ROW


@pytest.mark.slow  # whole runs, in real time
def test_parts_of_another_number_count(tmp_path: Path, rows: Path, llmbatch_here: Run) -> None:
    """What any part has is not sent again."""
    llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "--shard", "2/2", "-o", "out", "-q")

    done = llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "--shard", "any/4", "-o", "out", "-q", "--json")

    assert json.loads(done.stdout)["calls"] == 20
    assert rows_in(tmp_path / "out") == EVERY_ROW


@pytest.mark.slow  # whole runs, in real time
def test_no_part_is_begun_while_the_provider_is_down(tmp_path: Path, rows: Path, llmbatch_here: Run) -> None:
    """Deferred rows end the command as they end a run: exit code 75."""
    done = llmbatch_here(
        *("run", "rows.jsonl", "-m", "sim/s3-down", "--shard", "any/8", "-o", "out", "-q", "--on-outage", "defer")
    )

    parts = sorted(path.name for path in (tmp_path / "out").glob("part-*.jsonl") if path.name.count(".") == 1)
    assert done.returncode in (0, 75)
    if done.returncode == 75:
        assert len(parts) < 8


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("-o", "out.jsonl"), "--shard any/4 needs a folder for its parts, and -o is out.jsonl", "-o results/"),
        (("-o", "out", "--retry-failed"), "--retry-failed and --shard any/4 contradict each other", "--shard 1/4"),
        (("-o", "out", "--overwrite"), "--overwrite and --shard any/4 contradict each other", "--shard 1/4"),
    ],
)
def test_what_needs_a_shard_of_ones_own_is_refused(
    tmp_path: Path,
    rows: Path,
    llmbatch_here: Run,
    two_lines: TwoLines,
    arguments: tuple[str, ...],
    error: str,
    hint: str,
) -> None:
    """Exit code 2, before anything is sent."""
    done = llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "--shard", "any/4", *arguments)

    assert done.returncode == 2
    said = two_lines(done.stderr)
    assert error in said[0]
    assert hint in said[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # whole runs, in real time
def test_an_input_that_is_read_once_is_refused(llmbatch: Run, two_lines: TwoLines) -> None:
    """It is read for every part."""
    done = llmbatch("run", "-", "-m", "sim/steady", "--shard", "any/4", "-o", "out/", stdin='"a"\n')

    assert done.returncode == 2
    said = two_lines(done.stderr)
    assert "standard input can be read once only" in said[0]
    assert "save it to a file first" in said[1]


def test_check_reads_the_rows_of_the_shard(tmp_path: Path, rows: Path, llmbatch_here: Run) -> None:
    """And knows what other parts have; of any shard it reads all."""
    llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "--shard", "1/2", "-o", "out", "-q")

    shards = ("1/4", "2/4", "any/4")
    command = ("check", "rows.jsonl", "-m", "sim/steady", "-o", "out", "--json", "--shard")
    own, other, every = (json.loads(llmbatch_here(*command, shard).stdout) for shard in shards)

    assert [value["rows"] for value in (own, other, every)] == [10, 10, 40]
    assert [value["done_success"] for value in (own, other, every)] == [10, 0, 20]
