"""Folders of parts at the command line: runs of shards, what other commands say of their folder, and merging."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from cli_parts import Run, TwoLines

from llmbatch.outputs.lock import open_locked

pytestmark = pytest.mark.traced


@pytest.fixture
def twelve(tmp_path: Path) -> Path:
    """Twelve rows, of which row 7 is malformed, and a blank line behind row 9."""
    lines = [json.dumps({"id": f"r{n}", "prompt": f"say {n}", "label": n}) for n in range(1, 13)]
    lines[6] = "{oops"
    lines.insert(9, "")
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


ROWS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13]


def run_shards(run: Run, *shards: str, codes: tuple[int, ...] = (0, 1)) -> None:
    for shard in shards:
        done = run("run", "rows.jsonl", "-m", "sim/steady", "--shard", shard, "-o", "results/", "-q")
        assert done.returncode in codes, done.stderr


def rows_in(path: Path) -> list[int]:
    return [json.loads(line)["row"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("shard", ["2/2", None])
def test_a_refused_run_leaves_no_part(tmp_path: Path, llmbatch_here: Run, shard: str | None) -> None:
    """Nor anything else in the folder: ``status`` would count the part as one that is missing its rows."""
    (tmp_path / "rows.jsonl").write_text('"a"\n"b"\n"c"\n')
    run_shards(llmbatch_here, "1/2")
    before = sorted(path.name for path in (tmp_path / "results").iterdir())
    (tmp_path / "rows.jsonl").write_text('"x"\n"y"\n"z"\n')

    own = () if shard is None else ("--shard", shard)
    done = llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "-o", "results/", *own)

    assert done.returncode == 2
    assert "this row has changed since its result was written" in done.stderr
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == before


@pytest.mark.slow  # whole runs, in real time
def test_a_folder_is_read_by_every_command(tmp_path: Path, twelve: Path, llmbatch_here: Run) -> None:
    """All rows of all parts: counted, listed, exported in input order, joined with the input, reported."""
    run_shards(llmbatch_here, "1/3", "2/3", "3/3")

    status = json.loads(llmbatch_here("status", "results", "--json").stdout)
    failed = llmbatch_here("failed", "results/", "--ids").stdout
    exported = llmbatch_here("export", "results", "--join", "-o", "out.csv")
    report = llmbatch_here("report", "results")

    assert (status["state"], status["rows"], status["success"], status["total_rows"]) == ("finished", 12, 11, 12)
    assert status["parts"] == {
        "count": 3, "running": [], "finished": ["1/3", "2/3", "3/3"], "stopped": [], "missing": []
    }  # fmt: skip
    assert failed.split() == ["row-7"]
    assert "exported 12 rows" in exported.stderr
    table = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["label"] for row in table] == ["1", "2", "3", "4", "5", "6", "", "8", "9", "10", "11", "12"]
    assert report.stdout.strip() == "results.report.html"
    page = (tmp_path / "results.report.html").read_text()
    assert "11 of 12 rows" in page or "12 rows" in page


def test_the_status_of_a_folder_names_the_shards_that_are_left(twelve: Path, llmbatch_here: Run) -> None:
    """And the command of one of them."""
    run_shards(llmbatch_here, "2/3")

    done = llmbatch_here("status", "results")

    assert "1 of 3 finished, 2 not begun (1/3, 3/3)" in done.stdout
    assert done.stdout.startswith("stopped")
    assert done.stdout.splitlines()[-1].endswith("--shard 1/3 -o results/ -q")


def test_the_default_folder_is_found_by_its_input(twelve: Path, llmbatch_here: Run) -> None:
    """As a default output is."""
    llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "--shard", "3/4", "-q")

    done = llmbatch_here("status", "rows.jsonl", "--json")

    assert json.loads(done.stdout)["output"] == "rows.results"
    assert json.loads(done.stdout)["rows"] == 3


@pytest.mark.slow  # whole runs
def test_a_running_part_makes_a_running_folder(tmp_path: Path, twelve: Path, llmbatch_here: Run) -> None:
    """Its lock says so."""
    run_shards(llmbatch_here, "1/2", "2/2")
    held = str(tmp_path / "results" / "part-00002-of-00002.jsonl")
    fd = open_locked(held, held)
    try:
        report = json.loads(llmbatch_here("status", "results", "--json").stdout)
        merged = llmbatch_here("merge", "results", "-o", "all.jsonl")
    finally:
        os.close(fd)

    assert report["state"] == "running"
    assert report["parts"]["running"] == ["2/2"]
    assert merged.returncode == 2
    assert "part-00002-of-00002.jsonl: is in use by another run" in merged.stderr
    assert not (tmp_path / "all.jsonl").exists()


@pytest.mark.slow  # whole runs, in real time
def test_merging_gives_one_output_that_a_run_goes_on_with(tmp_path: Path, twelve: Path, llmbatch_here: Run) -> None:
    """One line per row, an ordinary output, whose status says that it is finished; the parts stay."""
    run_shards(llmbatch_here, "1/3", "2/3", "3/3")
    parts = json.loads(llmbatch_here("status", "results", "--json").stdout)

    done = llmbatch_here("merge", "results", "-o", "all.jsonl")
    status = json.loads(llmbatch_here("status", "all.jsonl", "--json").stdout)
    again = llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "-o", "all.jsonl", "--json", "-q")

    assert done.returncode == 0
    assert done.stderr == "merged 12 rows of 3 parts into all.jsonl: 11 success, 1 failed\n"
    assert (status["state"], status["rows"], status["total_rows"], status["exit_code"]) == ("finished", 12, 12, 1)
    assert (status["began"], status["ended"], status["input"]) == (parts["began"], parts["ended"], str(twelve))
    assert status["routes"] == parts["routes"]
    assert sorted(rows_in(tmp_path / "all.jsonl")) == ROWS
    assert json.loads(again.stdout)["calls"] == 0
    assert len(list((tmp_path / "results").glob("part-*-of-00003.jsonl"))) == 3


def test_a_folder_whose_shards_have_only_batches_is_read_by_every_command(tmp_path: Path, llmbatch_here: Run) -> None:
    """No part has a line yet: it is stopped with nothing done, and what is to be collected is said."""
    (tmp_path / "rows.jsonl").write_text('"a"\n"b"\n"c"\n')
    command = ("run", "rows.jsonl", "-m", "sim/steady", "--via", "batch", "--detach", "-o", "results/", "-q")
    for shard in ("1/2", "2/2"):
        assert llmbatch_here(*command, "--shard", shard).returncode == 75

    status = llmbatch_here("status", "results")
    failed = llmbatch_here("failed", "results")
    exported = llmbatch_here("export", "results", "-o", "out.csv")
    report = llmbatch_here("report", "results")
    merged = llmbatch_here("merge", "results", "-o", "all.jsonl")

    assert status.stdout.startswith("stopped     0 of 3 rows: 0 success, 0 failed\n")
    assert "batches     2: 2 at the provider" in status.stdout
    assert "to go on, run the same command again: llmbatch run rows.jsonl" in status.stdout
    assert failed.stdout == "0 failed rows\n"
    assert "exported 0 of 3 rows (3 not finished)" in exported.stderr
    assert report.stdout == "results.report.html\n"
    assert merged.returncode == 2
    assert "results: no shard has a line yet, so there is nothing to merge" in merged.stderr
    assert "llmbatch status results" in merged.stderr
    assert not (tmp_path / "all.jsonl").exists()


@pytest.mark.slow  # whole runs
def test_merging_tells_which_rows_are_missing(tmp_path: Path, twelve: Path, llmbatch_here: Run) -> None:
    """By the input, which knows of rows behind the last line, and that a blank line is no row."""
    run_shards(llmbatch_here, "1/4", "3/4")

    done = llmbatch_here("merge", "results", "-o", "all.jsonl")

    assert done.returncode == 75
    assert "missing: 5 rows (2, 4, 6, 8, 12)" in done.stderr
    assert "stopped     7 of 12 rows: 6 success, 1 failed" in llmbatch_here("status", "all.jsonl").stdout
    assert sorted(rows_in(tmp_path / "all.jsonl")) == [1, 3, 5, 7, 9, 11, 13]


def test_merging_without_the_input_tells_gaps(tmp_path: Path, twelve: Path, llmbatch_here: Run) -> None:
    """And that rows behind the last one may be missing."""
    run_shards(llmbatch_here, "1/2")
    twelve.rename(tmp_path / "elsewhere.jsonl")

    done = llmbatch_here("merge", "results", "-o", "all.jsonl")
    unknown = llmbatch_here("status", "all.jsonl")
    named = llmbatch_here("merge", "results", "-o", "all.jsonl", "--overwrite", "--input", "elsewhere.jsonl")

    assert done.returncode == 75
    assert "missing: 6 rows (2, 4, 6, 8, 10, …)" in done.stderr
    assert "which input they are of is not known" in done.stderr
    assert "unknown     7 rows" in unknown.stdout
    assert "missing: 5 rows (2, 4, 6, 8, 12)" in named.stderr


def test_deferred_rows_of_the_parts_are_those_of_the_merged_output(
    tmp_path: Path, twelve: Path, llmbatch_here: Run
) -> None:
    """In its deferred file."""
    run_shards(llmbatch_here, "1/2")
    (tmp_path / "results" / "part-00002-of-00002.jsonl").touch()
    waiting = '{"id":"r2","status":"deferred","retry_after":9.0}\n'
    (tmp_path / "results" / "part-00002-of-00002.deferred.jsonl").write_text(waiting)

    done = llmbatch_here("merge", "results", "-o", "all.jsonl")

    assert done.returncode == 75
    assert "; 1 row deferred" in done.stderr
    assert (tmp_path / "all.deferred.jsonl").read_text() == waiting


def twice(results: Path) -> str:
    shutil.copy(results / "part-00001-of-00002.jsonl", results / "part-00001-of-00004.jsonl")
    return "has rows of other shards than its name says"


def copied(results: Path) -> str:
    lines = (results / "part-00001-of-00002.jsonl").read_text().splitlines(keepends=True)
    (results / "part-00001-of-00004.jsonl").write_text("".join(line for line in lines if '"row":5,' in line))
    return "row 5 has a line here and in"


def named_otherwise(results: Path) -> str:
    shutil.copy(results / "part-00001-of-00002.jsonl", results / "part-1-of-2.jsonl")
    return "stands here twice"


def damaged(results: Path) -> str:
    part = results / "part-00001-of-00002.jsonl"
    part.write_text("hello\n" + part.read_text())
    return "part-00001-of-00002.jsonl:1: this is not a result line of llmbatch"


@pytest.mark.slow  # whole runs
@pytest.mark.parametrize("harm", [twice, copied, named_otherwise, damaged])
def test_what_cannot_be_merged_is_refused(
    tmp_path: Path, twelve: Path, llmbatch_here: Run, two_lines: TwoLines, harm: object
) -> None:
    """Exit code 2, with the file, and no target."""
    run_shards(llmbatch_here, "1/2", "2/2")
    words = harm(tmp_path / "results")  # type: ignore[operator]

    done = llmbatch_here("merge", "results", "-o", "all.jsonl")

    assert done.returncode == 2
    assert words in two_lines(done.stderr)[0]
    assert not (tmp_path / "all.jsonl").exists()


def test_an_input_that_has_changed_is_not_merged(tmp_path: Path, twelve: Path, llmbatch_here: Run) -> None:
    """Parts of another input would pass for its results."""
    run_shards(llmbatch_here, "1/2")
    twelve.write_text(twelve.read_text().replace("say 5", "say five"))

    done = llmbatch_here("merge", "results", "-o", "all.jsonl")

    assert done.returncode == 2
    assert "rows.jsonl:5: this row has changed" in done.stderr
    assert not (tmp_path / "all.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ((), "no parts to merge", "llmbatch merge results/ -o results.jsonl"),
        (("results",), "no file to write to", "llmbatch merge results -o results.jsonl"),
        (("none", "-o", "a.jsonl"), "none: there is no such file", "name the parts"),
        (("home", "-o", "a.jsonl"), "home: has no parts", "name the folder"),
        (("results", "-o", "other.jsonl"), "other.jsonl: exists already", "--overwrite"),
        (("results", "-o", "rows.jsonl", "--overwrite"), "rows.jsonl: is the input of the run", "another file"),
        (
            ("results", "-o", "other.jsonl", "--overwrite", "--input", "other.jsonl"),
            "other.jsonl: is the input of the run",
            "another file",
        ),
        (("results", "-o", "-"), "a merge needs a file", "-o results.jsonl"),
        (("results", "results", "-o", "a.jsonl"), "is named twice", "name each part once"),
    ],
)
def test_merge_says_what_it_needs(
    tmp_path: Path,
    twelve: Path,
    llmbatch_here: Run,
    two_lines: TwoLines,
    arguments: tuple[str, ...],
    error: str,
    hint: str,
) -> None:
    """Exit code 2, with what to type; no file is replaced, least of all the input."""
    run_shards(llmbatch_here, "1/3")
    text = twelve.read_text()
    (tmp_path / "other.jsonl").write_text(text)

    done = llmbatch_here("merge", *arguments)

    assert done.returncode == 2
    said = two_lines(done.stderr)
    assert error in said[0]
    assert hint in said[1]
    assert twelve.read_text() == (tmp_path / "other.jsonl").read_text() == text


@pytest.mark.parametrize("shard", ["0/8", "9/8", "x", "1/0", "any/0", "1"])
def test_a_shard_that_is_none_is_refused(twelve: Path, llmbatch_here: Run, two_lines: TwoLines, shard: str) -> None:
    """Before anything is sent; I counts from 1."""
    done = llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "--shard", shard, "-o", "results/")

    assert done.returncode == 2
    assert two_lines(done.stderr)[0].startswith(
        f"--shard is '{shard}', must be I/N with I from 1 to N, such as 3/64, or any/N"
    )


def test_a_file_in_place_of_a_folder_is_refused(
    tmp_path: Path, twelve: Path, llmbatch_here: Run, two_lines: TwoLines
) -> None:
    """With another name."""
    (tmp_path / "results").write_text("mine")

    done = llmbatch_here("run", "rows.jsonl", "-m", "sim/steady", "--shard", "1/2", "-o", "results/")

    assert done.returncode == 2
    assert two_lines(done.stderr)[0] == "results/: is a file, and the name of a folder is wanted"


@pytest.mark.parametrize("command", [("list", "o"), ("cancel", "o"), ("adopt", "o", "batch_1"), ("ignore", "o", "b_1")])
def test_the_batches_of_a_folder_are_those_of_its_parts(
    llmbatch: Run, two_lines: TwoLines, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The hint names one that has batches; nothing is written beside the folder."""
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "part-00002-of-00003.jsonl").write_text("")
    (tmp_path / "o" / "part-00002-of-00003.batch.jsonl").write_text("{}\n")

    done = llmbatch("batch", *command)

    error, hint = two_lines(done.stderr)
    assert done.returncode == 2
    assert error == "o: is a folder, and each of its parts has batches of its own"
    assert hint == f"name a part: {Path('o', 'part-00002-of-00003.jsonl')}"
    assert not (tmp_path / "o.batch.jsonl").exists()
