"""``llmbatch failed``: by code with messages and ids, as ids, as JSON; from the output's lines alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_parts import Run, TwoLines

from llmbatch.core.rows import Result, encode_line


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two good rows, three that timed out, and one with hostile text in everything."""
    rows = [Result(n, f"{n:016x}", "success", f'"r{n}"', text="fine") for n in (1, 2)]
    rows += [
        Result(n, f"{n:016x}", "failed", f'"r{n}"', error_code="timeout", error_message=message)
        for n, message in ((3, "no answer in 120 s"), (4, "no answer in 120 s"), (5, "no answer in 60 s"))
    ]
    hostile = "\x1b[2J\nforged"
    rows.append(Result(6, f"{6:016x}", "failed", json.dumps(hostile), error_code=hostile, error_message=hostile))
    path = tmp_path / "prompts.results.jsonl"
    path.write_bytes(b"".join(map(encode_line, rows)))
    return path


def test_failed_rows_are_grouped_by_code(llmbatch_here: Run, output: Path) -> None:
    """Each code with its count, what was said how often, and ids; nothing steers the terminal."""
    done = llmbatch_here("failed", output.name)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "4 failed rows",
        "",
        "timeout  3 rows",
        "  2 x no answer in 120 s",
        "  1 x no answer in 60 s",
        "  ids: r3, r4, r5",
        "",
        "\\x1b[2J forged  1 row",
        "  \\x1b[2J forged",
        "  ids: \\x1b[2J forged",
    ]


def test_ids_are_one_on_a_line(llmbatch_here: Run, output: Path) -> None:
    """For ``xargs`` and ``grep -f``, in the order of the lines."""
    done = llmbatch_here("failed", output.name, "--ids")

    assert done.stdout == "r3\nr4\nr5\n\\x1b[2J forged\n"


def test_json_has_all_ids(llmbatch_here: Run, output: Path) -> None:
    """Not only the first three, as they are in the input."""
    done = llmbatch_here("failed", output.name, "--json")

    value = json.loads(done.stdout)
    assert value["failed"] == 4
    assert value["failures"] == [
        {"code": "timeout", "count": 3, "message": "no answer in 120 s", "ids": ["r3", "r4", "r5"]},
        {"code": "\x1b[2J\nforged", "count": 1, "message": "\x1b[2J\nforged", "ids": ["\x1b[2J\nforged"]},
    ]


def test_an_output_without_failed_rows_is_no_error(llmbatch_here: Run, prompts: Path) -> None:
    """Nothing failed: a count of none, no ids, an empty list."""
    llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", "-q")

    told = [llmbatch_here("failed", "prompts.jsonl", *flags) for flags in ((), ("--ids",), ("--json",))]

    assert [done.returncode for done in told] == [0, 0, 0]
    assert told[0].stdout == "0 failed rows\n"
    assert told[1].stdout == ""
    assert json.loads(told[2].stdout)["failures"] == []


@pytest.mark.parametrize("arguments", [("nowhere.jsonl",), ("prompts.jsonl",), ("prompts.jsonl", "--ids", "--json")])
def test_what_cannot_be_listed_is_refused_in_two_lines(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path, arguments: tuple[str, ...]
) -> None:
    """A missing file, an input that was never run, and two forms at once."""
    done = llmbatch_here("failed", *arguments)

    assert done.returncode == 2
    two_lines(done.stderr)


@pytest.mark.slow  # writes and reads a hundred megabytes, in a process of its own
def test_a_million_failed_rows_took_memory_without_end(tmp_path: Path, environment: dict[str, str]) -> None:
    """Ids are spooled to disk: the peak with 300,000 failed rows is about that with one."""
    line = encode_line(Result(1, "0" * 16, "failed", '"a-rather-long-id-of-a-row-1"', error_code="timeout")).decode()

    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.jsonl"
        with path.open("w") as file:
            for number in range(1, rows + 1):
                file.write(line.replace('"row":1,', f'"row":{number},', 1).replace("row-1", f"row-{number}"))
        code = (
            "import resource, sys; from llmbatch.cli import main; code = main(); "
            "sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)); sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "failed", str(path), "--json"],
            capture_output=True,
            env=environment,
            check=True,
        )
        (group,) = json.loads(done.stdout)["failures"]
        assert (group["count"], len(set(group["ids"]))) == (rows, rows)
        return int(done.stderr)

    assert peak(300_000) - peak(1) < 15_000  # kB; four bytes a row are for the check of the lines
