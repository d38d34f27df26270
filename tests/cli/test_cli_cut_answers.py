"""Answers that were cut at their token limit, as the command tells them: summary, ``status``, ``failed``, ``check``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_parts import Run

RESEND = ("--retry-failed", "--require-finish")


@pytest.fixture
def cut(tmp_path: Path, llmbatch_here: Run) -> Path:
    """Rows 1 to 3 are cut by their own limit, row 4 has room."""
    rows = [{"id": f"r{n}", "prompt": "say a word", "max_tokens": 2} for n in (1, 2, 3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*rows, {"prompt": "say more"})))
    done = llmbatch_here("run", "p.jsonl", "-m", "sim/steady", "--progress", "none", "--json")
    assert (done.returncode, json.loads(done.stdout)["cut_answers"]) == (0, 3)
    assert "3 answers were cut at their token limit (finish_reason length)" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("--json --retry-failed --require-finish")
    return tmp_path / "p.results.jsonl"


def test_status_told_nothing_of_cut_answers(llmbatch_here: Run, cut: Path) -> None:
    """In words and as JSON, with its sidecar and from the output alone."""
    with_sidecar = llmbatch_here("status", cut.name).stdout
    sidecar = cut.with_name(f".{cut.name}.status.json")
    assert sidecar.exists()
    sidecar.unlink()
    alone = llmbatch_here("status", cut.name).stdout

    for text in (with_sidecar, alone):
        assert "cut         3 answers were cut at their token limit (finish_reason length)" in text
    assert with_sidecar.splitlines()[-1].endswith(" ".join(RESEND))
    report = json.loads(llmbatch_here("status", cut.name, "--json").stdout)
    assert (report["success"], report["cut_answers"], report["answers_without_text"]) == (4, 3, 0)


def test_status_and_failed_agree_on_truncated_rows(llmbatch_here: Run, cut: Path) -> None:
    """Before, three successes were cut; resent with --require-finish, three rows have failed, and none is cut."""
    assert llmbatch_here("failed", cut.name).stdout.startswith("0 failed rows")
    left = json.loads(llmbatch_here("check", "p.jsonl", "-m", "sim/steady", *RESEND, "--json").stdout)["rows_left"]

    done = llmbatch_here("run", "p.jsonl", "-m", "sim/steady", "--progress", "none", *RESEND)

    assert (left, done.returncode) == (3, 1)
    assert "failed        truncated 3" in done.stderr
    report = json.loads(llmbatch_here("status", cut.name, "--json").stdout)
    found = json.loads(llmbatch_here("failed", cut.name, "--json").stdout)
    assert [(group["code"], group["count"]) for group in report["failures"]] == [("truncated", 3)]
    assert (report["failed"], found["failed"], report["cut_answers"]) == (3, 3, 0)
    assert sorted(found["failures"][0]["ids"]) == ["r1", "r2", "r3"]
    assert len(cut.read_text().splitlines()) == 4


@pytest.mark.slow  # whole runs
def test_a_variable_and_a_config_file_may_require_the_end(llmbatch_here: Run, tmp_path: Path) -> None:
    """As any other option."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "max_tokens": 2}\n')
    run = ("run", "p.jsonl", "-m", "sim/steady", "-q", "--overwrite")

    assert llmbatch_here(*run).returncode == 0
    assert llmbatch_here(*run, LLMBATCH_REQUIRE_FINISH="true").returncode == 1
    (tmp_path / "llmbatch.toml").write_text("require_finish = true\n")
    assert llmbatch_here(*run).returncode == 1
