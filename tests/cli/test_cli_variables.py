"""Variables that set nothing, and keys that cannot be keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_parts import Run


@pytest.fixture(autouse=True)
def prompts(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')


CHECK = ("check", "p.jsonl", "-m", "openai/x")
VALUE = "s3cret-value"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("LLMBATCH_CONCURENCY", "is not a setting and is ignored", "did you mean LLMBATCH_CONCURRENCY?"),
        ("LLMBATCH_REQUIRE_FINISHED", "is not a setting and is ignored", "did you mean LLMBATCH_REQUIRE_FINISH?"),
        ("LLMBATCH_CONFG", "is not a setting and is ignored", "did you mean LLMBATCH_CONFIG?"),
        ("LLMBATCH_NUM_WORKERS", "is not a setting and is ignored", "use -c N"),
        ("LLMBATCH_OVERWRITE", "is ignored: --overwrite can only be a flag", "give --overwrite when you mean it"),
    ],
)
def test_a_misspelled_variable_set_nothing_and_nobody_was_told(
    llmbatch_here: Run, name: str, message: str, hint: str
) -> None:
    """Once, with the nearest name and never its value; it is no error."""
    done = llmbatch_here(*CHECK, OPENAI_API_KEY="sk-0123456789", **{name: VALUE})

    assert done.returncode == 0
    assert done.stderr.count(f"note: {name} {message}\n") == 1
    assert f"hint: {hint}" in done.stderr
    assert VALUE not in done.stderr + done.stdout


def test_a_variable_like_no_option_is_named_without_a_guess(llmbatch_here: Run) -> None:
    """Another program may use the prefix; empty variables and those that are read say nothing."""
    done = llmbatch_here(*CHECK, OPENAI_API_KEY="sk-0123456789", LLMBATCH_XYZZY="1", LLMBATCH_CONCURENCY="")
    known = llmbatch_here(*CHECK, OPENAI_API_KEY="sk-0123456789", LLMBATCH_CONCURRENCY="7", LLMBATCH_DEBUG="1")

    assert done.stderr == "note: LLMBATCH_XYZZY is not a setting and is ignored\n"
    assert known.stderr == ""


def test_a_note_of_a_variable_is_a_line_of_json_or_muted(llmbatch_here: Run) -> None:
    """As all that a run says on standard error."""
    run = ("run", "p.jsonl", "-m", "sim/steady")

    as_json = llmbatch_here(*run, "--progress", "json", LLMBATCH_CONCURENCY="1")
    quiet = llmbatch_here(*run, "-q", LLMBATCH_CONCURENCY="1")

    notice = json.loads(as_json.stderr.splitlines()[0])
    assert (notice["event"], notice["hint"]) == ("notice", "did you mean LLMBATCH_CONCURRENCY?")
    assert quiet.stderr == ""


@pytest.mark.parametrize(
    "key", ["sk-0123 456789", "Bearer sk-0123456789", "sk-0123\t456789", "sk-0123\x07456789", "sk-0123…"]
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_key_with_a_space_or_control_character_inside_was_sent(llmbatch_here: Run, command: str, key: str) -> None:
    """It is refused before anything is sent; the variable is named, the value never."""
    done = llmbatch_here(command, "p.jsonl", "-m", "openai/x", OPENAI_API_KEY=key)

    assert done.returncode == 2
    assert "the key in OPENAI_API_KEY contains whitespace or invalid characters" in done.stderr
    assert "0123" not in done.stderr + done.stdout


def test_spaces_around_a_key_are_no_part_of_it(llmbatch_here: Run) -> None:
    """They come with copying."""
    assert llmbatch_here(*CHECK, OPENAI_API_KEY=" sk-0123456789 ").returncode == 0


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    ("flags", "is_told"),
    [
        (("-m", "openai/x"), True),
        (("-m", "x", "--base-url", "https://gateway.example/v1"), True),
        (("-m", "openai/x", "--proxy", "http://127.0.0.1:3128"), False),
        (("-m", "x", "--base-url", "http://127.0.0.1:8000/v1"), False),
        (("-m", "ollama/x"), False),
        (("-m", "sim/steady"), False),
        (("-m", "openai/x", "-q"), False),
    ],
)
def test_the_proxy_of_the_environment_was_passed_by_without_a_word(
    llmbatch_here: Run, name: str, flags: tuple[str, ...], is_told: bool
) -> None:
    """Other clients use it; it is told where requests leave the machine, never with its value."""
    done = llmbatch_here("check", "p.jsonl", *flags, OPENAI_API_KEY="sk-0123456789", **{name: f"http://u:{VALUE}@h:1"})

    assert done.returncode == 0
    note = f'note: {name} is set and is not used\nhint: to send requests through it: export LLMBATCH_PROXY="${name}"\n'
    assert (note in done.stderr) == is_told
    assert VALUE not in done.stderr + done.stdout
