"""Batches as ``status`` and ``report`` show them, from real runs over the simulated provider's batch API."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_parts import Run

PRICES = """
["sim/steady"]
input = 10.0
output = 10.0
["sim/steady".batch]
input = 5.0
output = 5.0
"""


@pytest.mark.slow  # batches of the simulated provider in real time, some 4 s
def test_status_and_report_show_batches_with_what_they_cost_and_saved(llmbatch_here: Run, tmp_path: Path) -> None:
    """State, rows, when made and ended, cost and saving of each; the page has a section for them."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "a word"}\n' * 120)
    (tmp_path / "prices.toml").write_text(PRICES)
    words = ("-m", "sim/steady", "--via", "batch", "--chunk-rows", "70", "--prices", "prices.toml")
    done = llmbatch_here("run", "p.jsonl", *words, "--progress", "none")
    assert done.returncode == 0, done.stderr

    told = llmbatch_here("status", "p.results.jsonl").stdout
    as_json = json.loads(llmbatch_here("status", "p.results.jsonl", "--json").stdout)["batches"]
    llmbatch_here("report", "p.results.jsonl")
    page = (tmp_path / "p.results.report.html").read_text()

    lines = [line for line in told.splitlines() if "batch_" in line]
    assert "batches     2: 2 collected, US$ " in told
    assert len(lines) == 2
    assert all(part in line for line in lines for part in (": completed, collected, ", "made 2", "ended 2", "saved"))
    assert [(one["status"], one["fate"], one["rows"], one["success"]) for one in as_json] == [
        ("completed", "collected", 70, 70),
        ("completed", "collected", 50, 50),
    ]
    assert all(float(one["saved_usd"]) > 0 for one in as_json)
    assert all(one["id"] in page for one in as_json)
    assert "saved by batches" in page


@pytest.mark.slow  # a server in real time, some 2 s
def test_status_shows_batches_that_run_at_the_provider(llmbatch_here: Run, tmp_path: Path) -> None:
    """After ``--detach``: how many, their states, and that there are no results yet."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "a word"}\n' * 60)
    done = llmbatch_here("run", "p.jsonl", "-m", "sim/b8-slow", "--via", "batch", "--detach", "--progress", "none")
    assert done.returncode == 75, done.stderr

    told = llmbatch_here("status", "p.results.jsonl").stdout

    assert "batches     1: 1 at the provider\n" in told
    assert "60 rows, made 2" in told


def test_a_batch_that_was_collected_was_noted_again_when_it_was_adopted(llmbatch_here: Run, tmp_path: Path) -> None:
    """It says so instead, and writes nothing; others are noted."""
    output, journal = tmp_path / "o.jsonl", tmp_path / "o.batch.jsonl"
    output.write_text("")
    chunk = {
        "key": "1-9-g1-m",
        "at": 1.0,
        "job": "0123456789",
        "first": 1,
        "last": 9,
        "gen": 1,
        "rows": 9,
        "route": "m",
    }
    steps = [{**chunk, "kind": "created", "batch": "batch_1"}, {"kind": "collected", "key": chunk["key"], "at": 2.0}]
    journal.write_text("".join(json.dumps(step) + "\n" for step in steps))
    before = journal.read_bytes()

    again = llmbatch_here("batch", "adopt", "o.jsonl", "batch_1")
    untouched = journal.read_bytes()
    both = llmbatch_here("batch", "adopt", "o.jsonl", "batch_1", "batch_2")

    assert again.returncode == both.returncode == 0
    assert again.stderr.strip() == "batch_1 is collected already"
    assert untouched == before
    assert "batch_1 is collected already" in both.stderr
    assert "1 batch noted" in both.stderr
    assert journal.read_text().count('"adopt"') == 1
