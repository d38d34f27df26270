"""``llmbatch check``: reads everything, sends nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_parts import Run, Silence, TwoLines

from llmbatch.cli.duplicates import SeenNames
from llmbatch.inputs.rows import line_digest

KEY = {"OPENAI_API_KEY": "sk-test-0123456789"}

MIXED = (
    '{"id":"a","prompt":"one","max_tokens":100}\n'
    "not json\n"
    '{"id":"b","messages":[{"role":"user","content":"two"}]}\n'
    "\n"
    '{"id":"c"}\n'
    '{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"text-embedding-3","input":"x"}}\n'
    "{broken\n"
)


@pytest.mark.traced
@pytest.mark.slow  # starts an interpreter
def test_a_good_input_is_described(llmbatch: Run, prompts: Path) -> None:
    """Rows, routes, tokens, time and price are told on standard output; the exit code is 0."""
    done = llmbatch("check", "prompts.jsonl", "-m", "openai/gpt-5-mini", "--rpm", "2", **KEY)

    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert "rows          3 in prompts.jsonl, 0 malformed" in lines
    assert "routes        openai/gpt-5-mini 3" in lines
    assert "time          about 1m30s, bound by --rpm 2" in lines
    assert any(line.startswith("cost          US$ 0.0006") and " to US$ 0.0" in line for line in lines)
    assert lines[-1] == "nothing was sent; the input is fine"


def test_malformed_rows_and_same_ids_are_told_with_their_lines(llmbatch_here: Run, tmp_path: Path) -> None:
    """Malformed rows are counted by code with their lines, ids that come again too; the exit code is 1."""
    (tmp_path / "mixed.jsonl").write_text(MIXED)

    done = llmbatch_here("check", "mixed.jsonl", "-m", "openai/gpt-5-mini", "--json", **KEY)

    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["rows"], report["malformed"], report["rows_left"]) == (6, 3, 3)
    assert {code: found["lines"] for code, found in report["malformed_by_code"].items()} == {
        "input_bad_json": [2, 7],
        "input_no_prompt": [5],
    }
    assert report["duplicate_ids"] == {"count": 1, "lines": [6], "example": '"a"', "complete": True}
    assert report["endpoints"] == {"chat": 2, "embeddings": 1}
    assert report["routes"] == {"openai/gpt-5-mini": 2, "openai/text-embedding-3": 1}
    low, high = report["cost_usd"]["low"], report["cost_usd"]["high"]
    assert 0 < low < high < 0.02, "two rows of gpt-5-mini, without a limit"
    assert report["unpriced_rows"] == 1, "there is no model text-embedding-3"
    assert report["estimate"] == {"seconds": 2.0, "bound_by": "concurrency", "call_seconds": 2.0}


def test_a_cut_off_last_line_was_called_malformed(llmbatch_here: Run, tmp_path: Path) -> None:
    """A run gives it no result until its end is there: it is told as cut off, and the exit code is 1."""
    (tmp_path / "cut.jsonl").write_text('{"prompt":"a"}\n{"prompt":"b')

    done = llmbatch_here("check", "cut.jsonl", "-m", "openai/gpt-5-mini", **KEY)
    told = llmbatch_here("check", "cut.jsonl", "-m", "openai/gpt-5-mini", "--json", **KEY)

    assert (done.returncode, told.returncode) == (1, 1)
    lines = done.stdout.splitlines()
    assert "rows          1 in cut.jsonl, 0 malformed" in lines
    assert "cut off       line 2, the last one, has no end: a run gives it no result until it has one" in lines
    assert lines[-1] == "nothing was sent; the input is not complete"
    assert json.loads(told.stdout)["cut_off"] == 2


def test_the_time_with_an_adaptive_concurrency_includes_its_start(llmbatch_here: Run, tmp_path: Path) -> None:
    """8, 8, 16 and then 8 of 40 rows at once: four rounds of 2 s, and what was assumed is told."""
    (tmp_path / "many.jsonl").write_text('{"prompt": "hello"}\n' * 40)

    done = llmbatch_here("check", "many.jsonl", "-m", "openai/gpt-5-mini", "-c", "auto:16", **KEY)

    told = "about 8.0 s, if a call takes 2 s and as many run at once as the provider takes, up to 16"
    assert f"time          {told}" in done.stdout.splitlines()


def test_a_daily_limit_bounds_the_time(llmbatch_here: Run, tmp_path: Path) -> None:
    """Of 25 rows at ten per day the last five go two days later; ten of ten need no second day."""
    (tmp_path / "many.jsonl").write_text('{"prompt": "hello"}\n' * 25)
    (tmp_path / "few.jsonl").write_text('{"prompt": "hello"}\n' * 10)

    many = llmbatch_here("check", "many.jsonl", "-m", "openai/gpt-5-mini", "--rpd", "10", **KEY)
    few = llmbatch_here("check", "few.jsonl", "-m", "openai/gpt-5-mini", "--rpd", "10", **KEY)

    assert "time          about 2d00h, bound by --rpd 10" in many.stdout.splitlines()
    assert "--rpd" not in few.stdout


def test_strict_makes_malformed_rows_an_error(llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path) -> None:
    """With --strict malformed rows exit with 2 and name their first lines."""
    (tmp_path / "mixed.jsonl").write_text(MIXED)

    done = llmbatch_here("check", "mixed.jsonl", "-m", "openai/gpt-5-mini", "--strict", **KEY)

    assert done.returncode == 2
    error, _ = two_lines(done.stderr)
    assert error == "mixed.jsonl has 3 malformed rows: lines 2, 7: input_bad_json; line 5: input_no_prompt"


def test_dry_run_is_check(llmbatch_here: Run, prompts: Path) -> None:
    """``run --dry-run`` prints what ``check`` prints, and writes nothing."""
    check = llmbatch_here("check", "prompts.jsonl", "-m", "openai/gpt-5-mini", **KEY)
    dry = llmbatch_here("run", "prompts.jsonl", "-m", "openai/gpt-5-mini", "--dry-run", **KEY)

    assert (dry.returncode, dry.stdout) == (check.returncode, check.stdout)
    assert sorted(path.name for path in prompts.parent.iterdir()) == ["home", "prompts.jsonl"]


@pytest.mark.traced
@pytest.mark.slow  # starts an interpreter
def test_nothing_is_sent(llmbatch: Run, prompts: Path, silence: Silence) -> None:
    """A check connects to nobody, not even with a base URL and a key."""
    done = llmbatch("check", "prompts.jsonl", "-m", "m", "--base-url", silence.url, OPENAI_API_KEY="sk-test-123456")

    assert done.returncode == 0
    assert not silence.was_broken()


def test_only_the_first_rows_are_checked_when_limited(llmbatch_here: Run, prompts: Path) -> None:
    """``-n`` bounds what is read."""
    done = llmbatch_here("check", "prompts.jsonl", "-m", "sim/steady", "-n", "2", "--json")

    assert json.loads(done.stdout)["rows"] == 2


@pytest.mark.traced
@pytest.mark.slow  # starts an interpreter
def test_standard_input_is_checked_too(llmbatch: Run) -> None:
    """``-`` reads a pipe."""
    done = llmbatch("check", "-", "-m", "sim/steady", "--json", stdin='"one"\n"two"\n')

    assert json.loads(done.stdout)["rows"] == 2


def test_a_row_without_a_model_is_named(llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path) -> None:
    """Where no model is named anywhere, the error has the line's number."""
    (tmp_path / "rows.jsonl").write_text('{"prompt":"a","model":"gpt-5-mini"}\n{"prompt":"b"}\n')

    done = llmbatch_here("check", "rows.jsonl")

    assert done.returncode == 2
    assert two_lines(done.stderr)[0] == "line 2: no model"


def result_line(row: int, digest: str, status: str) -> str:
    """The start of a result line, which is all that is read of it."""
    return f'{{"row":{row},"hash":"{digest}","status":"{status}","id":"x"}}\n'


def test_what_an_output_has_already_is_told(llmbatch_here: Run, prompts: Path) -> None:
    """Rows that have their line are counted as done; --retry-failed and --overwrite count as a run would."""
    digests = [line_digest(line) for line in prompts.read_bytes().split(b"\n")]
    output = prompts.with_name("prompts.results.jsonl")
    output.write_text(result_line(1, digests[0], "success") + result_line(3, digests[2], "failed"))

    reports = [
        json.loads(llmbatch_here("check", "prompts.jsonl", "-m", "sim/steady", "--json", *flags).stdout)
        for flags in ((), ("--retry-failed",), ("--overwrite",))
    ]

    assert [(r["done_success"], r["done_failed"], r["rows_left"]) for r in reports] == [(1, 1, 1), (1, 1, 2), (0, 0, 3)]


def test_a_changed_row_is_refused_as_a_run_would(llmbatch_here: Run, two_lines: TwoLines, prompts: Path) -> None:
    """A finished row whose input line has changed exits with 2 and its line number."""
    prompts.with_name("prompts.results.jsonl").write_text(result_line(2, "0" * 16, "success"))

    done = llmbatch_here("check", "prompts.jsonl", "-m", "sim/steady")

    assert done.returncode == 2
    assert "2" in two_lines(done.stderr)[0]


@pytest.mark.parametrize("change", [("-m", "sim/small"), ("-m", "sim/steady", "-s", "Be brief.")])
def test_check_called_an_input_fine_whose_output_a_run_would_refuse(
    llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path, change: tuple[str, ...]
) -> None:
    """Another model or other settings have answered; --force accepts it in both."""
    (tmp_path / "p.jsonl").write_text('"a"\n"b"\n')
    assert llmbatch_here("run", "p.jsonl", "-m", "sim/steady", "-n", "1").returncode == 0

    done = llmbatch_here("check", "p.jsonl", *change)

    assert done.returncode == 2
    assert "row 1 was answered" in two_lines(done.stderr)[0]
    assert two_lines(done.stderr) == two_lines(llmbatch_here("run", "p.jsonl", *change).stderr)
    assert llmbatch_here("check", "p.jsonl", *change, "--force").returncode == 0


def test_text_from_the_input_is_escaped(llmbatch_here: Run, tmp_path: Path) -> None:
    """A model's name with control characters cannot steer the terminal."""
    (tmp_path / "rows.jsonl").write_text(r'{"prompt":"a","model":"gpt\u001b[2J"}' + "\n")

    done = llmbatch_here("check", "rows.jsonl", **KEY)

    assert "\x1b" not in done.stdout
    assert r"gpt\x1b[2J" in done.stdout


@pytest.mark.parametrize("most_slots", [1024, 4096])
def test_seen_names_are_exact_until_full_and_say_when_they_are(most_slots: int) -> None:
    """Every name is recognised again as long as there is room; then ``is_full`` says that some were left out."""
    seen = SeenNames(most_slots)
    room = 2 * most_slots // 3

    new = [seen.add(f"row {number}") for number in range(room)]
    again = [seen.add(f"row {number}") for number in range(room)]

    assert all(new)
    assert not any(again)
    assert (len(seen), seen.is_full) == (room, False)
    assert seen.add("one more")
    assert seen.is_full
    assert len(seen) == room


def test_an_input_of_which_no_row_has_its_key_is_refused(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path
) -> None:
    """Exit code 2 at once, as a run would: what the check says would not come true."""
    done = llmbatch_here("check", "prompts.jsonl", "-m", "openai/gpt-5-mini")

    assert (done.returncode, done.stdout) == (2, "")
    assert "OPENAI_API_KEY is not set" in two_lines(done.stderr)[0]


def test_rows_of_one_provider_without_a_key_do_not_stop_a_check(llmbatch_here: Run, tmp_path: Path) -> None:
    """Some rows can be sent."""
    (tmp_path / "rows.jsonl").write_text('{"prompt":"a","model":"groq/x"}\n{"prompt":"b","model":"sim/steady"}\n')

    done = llmbatch_here("check", "rows.jsonl", "--json")

    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, 2)


def test_a_check_names_another_format_too(llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path) -> None:
    """As a run would."""
    (tmp_path / "p.jsonl").write_text("prompt,label\na,1\n")

    done = llmbatch_here("check", "p.jsonl", "-m", "sim/steady")

    assert done.returncode == 2
    assert two_lines(done.stderr)[0].startswith("p.jsonl: this is CSV")


def test_retry_failed_with_a_limit_counts_what_a_run_would_resend(llmbatch_here: Run, prompts: Path) -> None:
    """Failed rows beyond the limit are not left."""
    digests = [line_digest(line) for line in prompts.read_bytes().split(b"\n")]
    output = prompts.with_name("prompts.results.jsonl")
    output.write_text(result_line(1, digests[0], "failed") + result_line(3, digests[2], "failed"))

    done = llmbatch_here("check", "prompts.jsonl", "-m", "sim/steady", "--json", "--retry-failed", "-n", "2")

    assert json.loads(done.stdout)["rows_left"] == 2


def test_check_did_not_tell_of_columns_that_are_not_sent_and_settings_without_effect(
    llmbatch_here: Run, tmp_path: Path
) -> None:
    """As ``run`` does: the columns, a model that no row uses, and a circuit key that no row has."""
    rows = [{"prompt": "a", "label": "x", "model": "sim/steady"}, {"prompt": "b", "source": 1, "model": "sim/flash"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("check", "p.jsonl", "-m", "openai/gpt-5-mini", "--circuit-key", "metadata.tennant")

    told = json.loads(llmbatch_here(*command, "--json").stdout)["warnings"]
    done = llmbatch_here(*command)

    assert done.returncode == 0
    assert done.stderr == ""
    assert [line.removeprefix("warning").strip() for line in done.stdout.splitlines() if "warning" in line] == told
    assert told == [
        "not sent, as they are no parameters of the chat endpoint: label; they are echoed in metadata "
        "(to send one, name it: -P label=…)",
        "not sent, as they are no parameters of the chat endpoint: source; they are echoed in metadata "
        "(to send one, name it: -P source=…)",
        "2 rows name their own model; openai/gpt-5-mini (-m) is used for 0",
        "no row has the --circuit-key metadata.tennant: all share one circuit per route",
    ]


def test_check_warns_of_nothing_where_all_is_used(llmbatch_here: Run, tmp_path: Path) -> None:
    """A model that one row takes, and a circuit key that one row has."""
    rows = [{"prompt": "a", "metadata": {"tenant": "x"}}, {"prompt": "b", "model": "sim/flash"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = llmbatch_here("check", "p.jsonl", "-m", "sim/steady", "--circuit-key", "metadata.tenant", "--json")

    assert json.loads(done.stdout)["warnings"] == []


def test_a_key_that_later_rows_need_is_told(llmbatch_here: Run, tmp_path: Path) -> None:
    """A run fails them with the code ``no_key``; the first row alone was looked at."""
    lines = [f'{{"model":"{model}","prompt":"x"}}\n' for model in ("openai/a", "groq/b", "groq/b", "groq/c")]
    (tmp_path / "rows.jsonl").write_text("".join(lines))

    bare = llmbatch_here("check", "rows.jsonl", **KEY)
    whole = llmbatch_here("check", "rows.jsonl", **KEY, GROQ_API_KEY="gsk-0123456789")

    warning = "no API key: GROQ_API_KEY is not set; a run would fail its"
    told = [line for line in bare.stdout.splitlines() if line.startswith("warning")]
    assert [line.partition("warning")[2].strip() for line in told] == [
        f"groq/b: {warning} 2 rows with the code no_key",
        f"groq/c: {warning} 1 row with the code no_key",
    ]
    assert "warning" not in whole.stdout
