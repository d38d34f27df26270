"""What people met when they typed commands for the first time, in places that were not thought of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_parts import Run, TwoLines


@pytest.mark.slow  # starts an interpreter
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_help_to_a_full_disk_was_an_internal_error(environment: dict[str, str]) -> None:
    """74, and what to do, as with everything else that is written."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llmbatch", "run", "--help"],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=240,
            check=False,
        )

    assert done.returncode == 74
    assert done.stderr.decode().startswith("error: standard output could not be written: No space left on device\nhint")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="who may read everything sees no difference")
def test_the_home_of_another_user_was_an_internal_error(llmbatch_here: Run, prompts: Path, tmp_path: Path) -> None:
    """``sudo -u`` leaves HOME as it was: a configuration file that cannot be looked for is not there."""
    closed = tmp_path / "closed"
    (closed / ".config" / "llmbatch").mkdir(parents=True)
    (closed / ".config").chmod(0)
    try:
        done = llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", HOME=str(closed))
    finally:
        (closed / ".config").chmod(0o700)

    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="who may read everything sees no difference")
@pytest.mark.parametrize("arguments", [("run", "prompts.jsonl", "-o", "closed/o.jsonl"), ("status", "closed/o.jsonl")])
def test_a_folder_that_may_not_be_searched_was_an_internal_error(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path, arguments: tuple[str, ...]
) -> None:
    """It is named, with what to look at."""
    closed = prompts.parent / "closed"
    closed.mkdir(mode=0)
    try:
        done = llmbatch_here(*arguments, LLMBATCH_MODEL="sim/steady")
    finally:
        closed.chmod(0o700)

    assert done.returncode == 2
    assert "closed/o.jsonl" in two_lines(done.stderr)[0]


@pytest.mark.parametrize("command", ["run", "status", "check", "failed"])
def test_a_name_longer_than_names_can_be_was_an_internal_error(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path, command: str
) -> None:
    """It is refused as any other path that cannot be."""
    name = f"{'a' * 300}.jsonl"

    done = llmbatch_here(command, name)

    assert done.returncode == 2
    assert name[:200] in two_lines(done.stderr)[0]


def test_a_name_too_long_for_a_file_beside_it_left_an_empty_output(llmbatch_here: Run, prompts: Path) -> None:
    """Nothing is sent, and nothing is left."""
    name = f"{'a' * 245}.jsonl"

    done = llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", "-o", name)

    assert done.returncode == 2
    assert not (prompts.parent / name).exists()


@pytest.mark.parametrize("name", ["answers.csv", "answers.TSV", "answers.xlsx", "my answers.parquet"])
def test_an_output_named_like_a_table_got_json_lines(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path, name: str
) -> None:
    """It is refused before anything is sent, with how to make the table afterwards."""
    done = llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", "-o", name)

    error, hint = two_lines(done.stderr)
    assert done.returncode == 2
    assert f"{name}: results are written as JSON Lines" in error
    assert "answers.jsonl" in hint
    assert not (prompts.parent / name).exists()


@pytest.mark.slow  # whole runs
def test_an_output_that_was_there_under_such_a_name_is_resumed(llmbatch_here: Run, prompts: Path) -> None:
    """Its lines tell what it is."""
    llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", "-n", "2")
    (prompts.parent / "prompts.results.jsonl").rename(prompts.parent / "answers.csv")

    done = llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", "-o", "answers.csv")

    assert done.returncode == 0
    assert len((prompts.parent / "answers.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--endpoint", "chat/completions"), "did you mean chat?"),
        (("--endpoint", "/v1/chat/completions"), "did you mean chat?"),
        (("-P", "stream=true"), "leave it out: answers are read whole"),
        (("--version",), "use llmbatch --version"),
        (("--resume-from", "x"), "the same command"),
    ],
)
def test_a_hint_named_something_else_than_what_was_meant(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path, arguments: tuple[str, ...], hint: str
) -> None:
    """A path is an endpoint; a stream, a version and a resume are no nearest spelling."""
    done = llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", *arguments)

    assert done.returncode == 2
    assert hint in two_lines(done.stderr)[1]
