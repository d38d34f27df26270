"""``llmbatch status`` on runs that are over."""

from __future__ import annotations

import json


def test_a_finished_run_is_told_in_words_and_as_json(llmbatch, prompts):
    """Counts and the state of a finished run are on standard output; the exit code is 0."""
    llmbatch("run", "prompts.jsonl", "-m", "sim/steady")

    words = llmbatch("status", "prompts.results.jsonl")
    report = llmbatch("status", "prompts.results.jsonl", "--json")

    assert (words.returncode, words.stderr) == (0, "")
    assert "3 success, 0 failed" in words.stdout
    values = json.loads(report.stdout)
    assert (values["state"], values["rows"], values["success"], values["failed"]) == ("finished", 3, 3, 0)


def test_a_missing_output_is_refused(llmbatch, two_lines):
    """An output that is not there exits with 2 in two lines."""
    done = llmbatch("status", "nowhere.jsonl")

    assert done.returncode == 2
    assert "nowhere.jsonl" in two_lines(done.stderr)[0]


def test_a_file_of_somebody_else_is_refused(llmbatch, two_lines, prompts):
    """A file that is no output of ours exits with 2 and is left alone."""
    before = prompts.read_bytes()

    done = llmbatch("status", "prompts.jsonl")

    assert done.returncode == 2
    assert "prompts.jsonl" in two_lines(done.stderr)[0]
    assert prompts.read_bytes() == before
