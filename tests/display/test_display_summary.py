"""The closing words: what they say for each exit code, and that they cannot be abused."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from llmbatch.core.rows import Result, encode_line
from llmbatch.display.phrases import local_time
from llmbatch.display.summary import failed_rows_command, how_to_go_on, print_summary
from llmbatch.report.summary import Summary

COMMAND = "llmbatch run prompts.jsonl -m openai/gpt-5-mini"
HOSTILE = "\x1b[31m[bold]red\x1b[0m\nforged"

SUMMARY = Summary(
    rows=600,
    success=598,
    failed=2,
    already_done=188,
    this_run_success=410,
    this_run_failed=2,
    deferred=0,
    total_rows=600,
    calls=640,
    probes=5,
    retries=12,
    calls_avoided=512,
    outages=1,
    outage_seconds=252.0,
    throttles=3,
    input_tokens=1_200_000,
    output_tokens=340_000,
    cost_usd=None,
    duration_s=62.0,
    rows_per_s=6.65,
    latency_p50_s=0.8,
    latency_p95_s=1.9,
    stopped_reason=None,
    advice="",
    exit_code=1,
    input="prompts.jsonl",
    output="prompts.results.jsonl",
    failures_by_code={"context_length_exceeded": 2},
    errors_by_code={"overloaded_error": 14},
    routes=(),
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def printed(summary: Summary, *, command: str = COMMAND, stream: io.StringIO | None = None) -> str:
    stream = io.StringIO() if stream is None else stream
    print_summary(summary, command=command, stream=stream, environ={"TERM": "xterm", "COLUMNS": "80"})
    return stream.getvalue()


def test_the_summary_tells_what_came_of_the_run() -> None:
    """Counts of the whole output and of this run, time, the outage survived, calls, tokens and failures by code."""
    assert printed(SUMMARY).splitlines() == [
        "finished      600 rows: 598 success, 2 failed",
        "this run      412 rows more",
        "time          1m02s, 6.7 rows/s",
        "outages       1, 4m12s in all, 512 calls avoided",
        "calls         640, 12 retries, 5 probes, 3 times asked for a slower pace",
        "tokens        1.2M in, 340k out",
        "latency       p50 0.8 s, p95 1.9 s",
        "failed        context_length_exceeded 2",
        "see them      llmbatch failed prompts.results.jsonl",
        f"results are in prompts.results.jsonl; to send the failed rows again: {COMMAND} --retry-failed",
    ]


@pytest.mark.parametrize(
    ("exit_code", "first", "last"),
    [
        (0, "done", "results are in prompts.results.jsonl"),
        (1, "finished", f"to send the failed rows again: {COMMAND} --retry-failed"),
        (2, "stopped", f"change what the error names, then run the same command again: {COMMAND}"),
        (3, "stopped", f"correct what it stopped for, then run the same command again: {COMMAND}"),
        (4, "stopped", f"raise --max-cost and run the same command again: {COMMAND}"),
        (74, "stopped", f"make room or repair the disk, then run the same command again: {COMMAND}"),
        (75, "stopped", f"to go on, run the same command again: {COMMAND}"),
        (130, "interrupted", f"to go on, run the same command again: {COMMAND}"),
        (143, "terminated", f"to go on, run the same command again: {COMMAND}"),
    ],
)
def test_the_last_line_says_where_the_results_are_and_how_to_go_on(exit_code: int, first: str, last: str) -> None:
    """For each exit code of the contract the last line names the results and the next step."""
    lines = printed(replace(SUMMARY, exit_code=exit_code)).splitlines()

    assert lines[0].startswith(first)
    assert lines[-1].startswith("results are in prompts.results.jsonl")
    assert lines[-1].endswith(last)


def test_a_refusal_is_told_with_its_advice() -> None:
    """After exit code 3 the summary says what the provider refused and what to do about it."""
    text = printed(
        replace(SUMMARY, exit_code=3, stopped_reason="openai: insufficient_quota", advice="add credit", deferred=40)
    )

    assert "600 rows: 598 success, 2 failed, 40 deferred" in text
    assert "reason        openai: insufficient_quota" in text
    assert "hint          add credit" in text


def test_deferred_rows_are_told_with_the_instant_from_which_they_may_go() -> None:
    """Where the run leaves rows for another command, it says when that makes sense."""
    summary = replace(SUMMARY, exit_code=75, deferred=40, retry_at="2026-11-28T14:48:29Z")

    line = next(line for line in printed(summary).splitlines() if line.startswith("deferred"))

    assert line == f"deferred      40 rows, may be sent again from {local_time(1795877309.0)}"
    assert "may be sent" not in printed(replace(summary, exit_code=130))


def test_retry_failed_is_not_offered_twice() -> None:
    """A command that has the flag already is repeated as it is."""
    last = printed(SUMMARY, command=f"{COMMAND} --retry-failed").splitlines()[-1]

    assert last.count("--retry-failed") == 1


def test_standard_output_promises_no_resume() -> None:
    """Results that went down a pipe are nowhere to resume, and the summary says so."""
    last = printed(replace(SUMMARY, output="-", exit_code=75)).splitlines()[-1]

    assert last == "results went to standard output, which cannot be resumed; a file (-o) can"


def test_commands_are_not_broken_by_a_narrow_terminal() -> None:
    """What is meant for copying stays one line, which the terminal wraps."""
    text = printed(replace(SUMMARY, output="a-rather-long-folder-name/" * 4 + "o.jsonl"), stream=Terminal())

    assert any("see them" in line and line.rstrip("\x1b[0m").endswith("o.jsonl") for line in text.splitlines())
    assert text.splitlines()[-1].count("--retry-failed") == 1


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_hostile_text_is_shown_and_not_obeyed(stream: type[io.StringIO]) -> None:
    """Names, reasons, codes and advice from outside stay on their line, escaped."""
    hostile = replace(
        SUMMARY,
        exit_code=3,
        stopped_reason=HOSTILE,
        advice=HOSTILE,
        output=f"{HOSTILE}.jsonl",
        failures_by_code={HOSTILE: 2},
    )

    text = printed(hostile, command=HOSTILE, stream=stream())

    assert "\x1b[31m" not in text
    assert "\nforged" not in text
    assert "[bold]red" in text


def test_a_terminal_gets_colour_that_it_can_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the same lines are styled; ``NO_COLOR`` takes the colours and none of the words."""
    coloured = printed(SUMMARY, stream=Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    bare = printed(SUMMARY, stream=Terminal())

    assert "\x1b[" in coloured
    assert "33m" not in bare
    for word in ("finished", "598 success, 2 failed", "4m12s in all", f"{COMMAND} --retry-failed"):
        assert word in bare


@pytest.mark.slow  # starts an interpreter
def test_the_command_that_shows_failed_rows_works(tmp_path: Path) -> None:
    """Pasted into a shell, the command shows the failed rows and no other, also from a path with odd characters."""
    output = tmp_path / "it's here.jsonl"
    lines = [
        Result(1, "00000000000000aa", "success", '"good"', body='{"status":"failed"}', status_code=200),
        Result(2, "00000000000000bb", "failed", '"bad"', error_code="timeout", error_message="no answer"),
    ]
    output.write_bytes(b"".join(map(encode_line, lines)))
    arguments = shlex.split(failed_rows_command(str(output)))

    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--ids"], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    assert done.stdout == "bad\n"


def test_rows_that_timed_out_were_to_be_sent_again_with_the_same_time_limit() -> None:
    """They would only time out again."""
    late = how_to_go_on("o.jsonl", 1, command="llmbatch run p.jsonl", codes=frozenset({"timeout", "http_500"}))

    assert late.endswith("(those that timed out need a longer --timeout): llmbatch run p.jsonl --retry-failed")


def test_retry_failed_was_named_where_only_malformed_rows_had_failed() -> None:
    """Resending does not mend a row that is no request: it has to be corrected."""
    only_input = how_to_go_on("o.jsonl", 1, command="llmbatch run p.jsonl", codes=frozenset({"input_bad_json"}))
    both = frozenset({"input_bad_json", "server_error"})
    mixed = how_to_go_on("o.jsonl", 1, command="llmbatch run p.jsonl", codes=both)

    assert "--retry-failed" not in only_input
    assert "correct them in the input" in only_input
    assert "--retry-failed" in mixed


def test_cut_answers_and_answers_without_text_were_told_nowhere() -> None:
    """Their numbers, and what to type to have the rows of cut ones sent again."""
    lines = printed(
        replace(SUMMARY, exit_code=0, failed=0, failures_by_code={}, cut_answers=12, answers_without_text=3)
    )

    assert "cut           12 answers were cut at their token limit (finish_reason length)" in lines
    assert "no text       3 answers have no text" in lines
    assert lines.splitlines()[-1].endswith(f"-P max_tokens=N --force): {COMMAND} --retry-failed --require-finish")
    one = printed(replace(SUMMARY, cut_answers=1, answers_without_text=1))
    assert "1 answer was cut at its token limit" in one
    assert "1 answer has no text" in one
    assert one.splitlines()[-1].endswith(f"--force): {COMMAND} --retry-failed --require-finish")
    assert "the failed rows and those of cut answers again" in one
    assert "cut" not in printed(SUMMARY)


def test_truncated_rows_need_more_tokens() -> None:
    """To resend them as they are is paid for nothing; flags that were given are not named twice."""
    again = f"{COMMAND} --retry-failed --require-finish"

    text = how_to_go_on("o.jsonl", 1, command=again, codes={"truncated"})

    assert text.endswith(
        f"to send the failed rows again, with a larger max_tokens (in the rows, or -P max_tokens=N --force): {again}"
    )


@pytest.mark.parametrize(
    ("unanswered", "unmetered", "line"),
    [
        (3, 0, "unanswered    3 calls got no answer and may be billed: US$ 0.049 at most"),
        (0, 6, "no usage      6 answers named no tokens and may be billed: US$ 0.049 at most"),
        (1, 1, "unanswered    1 call got no answer, 1 answer named no tokens; both may be billed: US$ 0.049 at most"),
    ],
)
def test_answers_without_tokens_were_told_as_calls_without_an_answer(
    unanswered: int, unmetered: int, line: str
) -> None:
    """Each kind by its own name, and what both can cost together."""
    summary = replace(SUMMARY, unanswered_calls=unanswered, unmetered_calls=unmetered, at_risk_usd=Decimal("0.049"))

    text = printed(summary)

    assert line in text
