"""What people get wrong in their first minutes with the command: each answer says what, where and what to try."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_parts import Run, TwoLines

SIM = ("-m", "sim/steady")
ROW = '{"prompt":"a","label":"x"}\n'

MISTAKES = [
    # (what is typed, the input, part of the error, part of the hint)
    (("check", "in", *SIM), '{"question":"a","label":1}\n', "the row has no prompt", "--prompt-column question"),
    (("check", "in", *SIM, "--id-column", "nr"), ROW, "the row has no nr", "the fields of line 1 are: prompt, label"),
    (("check", "in", *SIM, "--keep", "lable"), ROW, "the row has no lable", "the fields of line 1 are: prompt, label"),
    (("check", "in", *SIM, "-t", "{{ text }}"), ROW, "`text` is undefined", "the fields of line 1 are: prompt, label"),
    (("check", "in", *SIM, "-t", "Translate {label}"), ROW, "{label}, which would be sent as it is", "{{ label }}"),
    (("check", "in", *SIM, "-t", "Translate ${label}"), ROW, "${label}, which would be sent as it is", "{{ label }}"),
    (("run", "in", *SIM, "-P", "messages=[]"), ROW, "messages is not a parameter", "-t TEXT"),
    (("run", "in", *SIM, "-P", "prompt=other"), ROW, "prompt is not a parameter", "-s TEXT is the system prompt"),
    (("run", "in", *SIM, "--timeout", "2", "minutes"), ROW, "(minutes)", "in one word: --timeout 2m"),
    (("run", "in", *SIM, "-o", "-q"), ROW, "--output is followed by -q", "is a variable of the shell empty?"),
    (("run", "in", *SIM, "--base-url", "-c", "20"), ROW, "extra argument(s) (20)", "is a variable of the shell empty?"),
    (
        ("run", "in", "-m", "x", "--base-url", "localhost:8000/v1"),
        ROW,
        "not an http(s) URL",
        "mean http://localhost:8000/v1?",
    ),
    (("run", "in", "-m", "x", "--base-url", "http://127.0.0.1:/v1"), ROW, "no port after it", "shell empty?"),
    (("check", "in", *SIM, "-s", "@in"), ROW, "--system is @in, which would be sent as it is", '-s "$(cat in)"'),
    (
        ("check", "in", *SIM, "-P", "response_format=@in"),
        ROW,
        "@in, which would be sent",
        '-P response_format="$(cat in)"',
    ),
    (("check", "in", *SIM, "--schema", '{"type": "object"}'), ROW, "no such file", "write the schema to a file"),
    (("check", "in", *SIM, "-s", "be", "brief"), ROW, "(brief)", "a value with spaces needs quotes"),
    (("export", "in", "out.csv"), ROW, "(out.csv)", "-o out.csv"),
    (("report", "in", "out.html"), ROW, "(out.html)", "-o out.html"),
    (("run", "https://example.com/in.jsonl", *SIM), ROW, "no such file", "download it first"),
    (("set", "concurrency=5"), ROW, "no output is named", "llmbatch set concurrency=5 prompts.results.jsonl"),
    (("run", "in", *SIM, "--no-cache"), ROW, "no such option: --no-cache", "unless --cache PATH is given"),
    (("check", "in", *SIM, "--strict=yes"), ROW, "does not take a value", "llmbatch check --help"),
    (("run", "in", *SIM, "--config", "own.toml"), ROW, "own.toml: run is not a setting", "leave out the line [run]"),
    (("status", "."), ROW, "is a folder, and not one of the parts", "llmbatch view "),
    (
        ("view", "--port", "web"),
        ROW,
        "--port is 'web', must be a whole number from 0 to 65,535",
        "llmbatch view --help",
    ),
    (
        ("sim", "serve", "--port", "-1"),
        ROW,
        "--port is '-1', must be a whole number from 0 to 65,535",
        "sim serve --help",
    ),
    (("sim", "serve", "--latency", "2 x"), ROW, "--latency is '2 x', must be a duration above 0", "sim serve --help"),
    (("sim", "serve", "--rate", "none"), ROW, "--rate is 'none', must be a number of requests per second", "--help"),
    (("sim", "drill", "--rows", "many"), ROW, "--rows is 'many', must be a whole number from 1", "sim drill --help"),
    (("sim", "drill", "--fleet=0"), ROW, "--fleet is '0', must be a whole number from 1 to 2,000", "sim drill --help"),
]


@pytest.mark.parametrize(("typed", "text", "error", "hint"), MISTAKES, ids=[" ".join(typed) for typed, *_ in MISTAKES])
def test_a_first_mistake_was_answered_beside_the_point(
    llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path, typed: tuple[str, ...], text: str, error: str, hint: str
) -> None:
    """Exit 2, one error and one hint that fits it; nothing is written."""
    (tmp_path / "in").write_text(text)
    (tmp_path / "own.toml").write_text('[run]\nmodel = "sim/steady"\n')
    before = sorted(path.name for path in tmp_path.iterdir())

    done = llmbatch_here(*typed)

    assert done.returncode == 2
    said, advice = two_lines(done.stderr)
    assert error in said
    assert hint in advice
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder in which nobody can make a file: Linux")
def test_a_folder_that_takes_no_files_was_said_not_to_be_there(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path
) -> None:
    """No advice to create what exists."""
    done = llmbatch_here("run", prompts.name, *SIM, "-o", "/proc/out.jsonl")

    assert done.returncode == 2
    assert two_lines(done.stderr) == (
        "/proc/out.jsonl: no file can be made in /proc",
        "write to another file (-o)",
    )


def test_check_called_an_empty_input_fine(llmbatch_here: Run, tmp_path: Path) -> None:
    """It says that there are no rows."""
    (tmp_path / "in.jsonl").write_text("")

    done = llmbatch_here("check", "in.jsonl", *SIM)

    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "nothing was sent; the input has no rows"


@pytest.mark.parametrize("typed", [(), ("sim",), ("batch",)])
def test_the_list_of_commands_broke_off_sentences(llmbatch_here: Run, typed: tuple[str, ...]) -> None:
    """At 80 columns each command has its whole line."""
    done = llmbatch_here(*typed, "--help", COLUMNS="80")

    commands = done.stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(commands) > 2
    assert [line for line in commands if not line.endswith(".") or line.endswith("...")] == []


def test_units_count_in_the_simulated_provider_too(llmbatch_here: Run) -> None:
    """``--rows 0.2k --latency 500ms``."""
    done = llmbatch_here("sim", "drill", "--scenario", "steady", "--rows", "0.2k", "--latency", "500ms", "--json")

    assert done.returncode == 0
    assert '"rows": 200, "latency": 0.5' in done.stdout
