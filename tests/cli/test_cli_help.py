"""What the command says about itself, and what that costs."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from cli_parts import Run

FLAGS = [
    "-o, --output",
    "-n, --limit",
    "--retry-failed",
    "--overwrite",
    "--strict",
    "--dry-run",
    "-m, --model",
    "--base-url",
    "--api-key-env",
    "--endpoint",
    "-s, --system",
    "-P, --param",
    "-c, --concurrency",
    "--rpm",
    "--tpm",
    "--timeout",
    "--max-attempts",
    "--failure-threshold",
    "--recovery-timeout",
    "--success-threshold",
    "--on-outage",
    "--max-outage",
    "--circuit-key",
    "--max-answer-memory",
    "--progress",
    "-q, --quiet",
    "-v, --verbose",
    "--json",
    "--seed",
    "--config",
]
ALIASES = [
    "-i",
    "--input-file",
    "--output-file",
    "-j",
    "--max-concurrency",
    "--max-connections",
    "--max-requests-per-minute",
    "--max-tokens-per-minute",
]


def test_help_names_the_commands(llmbatch: Run) -> None:
    """``llmbatch --help`` lists every command on standard output and exits with 0."""
    done = llmbatch("--help")

    assert done.returncode == 0
    assert done.stderr == ""
    for command in ("run", "check", "status", "sim"):
        assert f"\n  {command} " in done.stdout


def test_no_command_shows_help_as_a_usage_error(llmbatch: Run) -> None:
    """A bare ``llmbatch`` shows the help on standard error and exits with 2."""
    done = llmbatch()

    assert done.returncode == 2
    assert done.stdout == ""
    assert "Commands:" in done.stderr


def test_help_of_run_lists_every_flag_and_alias_with_an_example(llmbatch: Run) -> None:
    """``llmbatch run --help`` names each flag with its short form, the aliases, the exit codes and an example."""
    done = llmbatch("run", "--help")

    assert done.returncode == 0
    for flag in FLAGS:
        assert f"\n  {flag}" in done.stdout
    aliases = done.stdout.partition("Aliases:")[2].partition("Exit codes:")[0]
    for alias in ALIASES:
        assert alias in aliases.replace(",", " ").replace(".", " ").split()
    assert "llmbatch run prompts.jsonl -m openai/gpt-5-mini" in done.stdout


def test_help_of_run_lists_every_exit_code(llmbatch: Run) -> None:
    text = llmbatch("run", "--help").stdout
    listed = " ".join(text[text.index("Exit codes:") :].split())

    for code in (
        "0 every",
        "1 some",
        "2 usage",
        "3 the provider",
        "4 stopped at --max-cost",
        "70 internal",
        "74 the output",
    ):
        assert code in listed
    for code in ("75 rows are deferred or batches still running", "129, 130 and 143 interrupted"):
        assert code in listed


@pytest.mark.parametrize("word", ["adopt", "ignore"])
def test_a_batch_command_without_a_batch_shows_how_it_is_typed(llmbatch: Run, word: str) -> None:
    done = llmbatch("batch", word, "out.jsonl")

    assert done.returncode == 2
    assert f"llmbatch batch {word} OUTPUT BATCH_ID…" in done.stderr


def test_help_fits_eighty_columns(llmbatch: Run) -> None:
    """The prose of the help is readable in a terminal of 80 columns."""
    done = llmbatch("run", "--help")

    prose = [line for line in done.stdout.splitlines() if not line.startswith("  llmbatch run")]
    assert max(map(len, prose)) <= 80


def test_version(llmbatch: Run) -> None:
    """``llmbatch --version`` prints the installed version."""
    done = llmbatch("--version")

    assert (done.returncode, done.stdout) == (0, f"llmbatch {version('llmbatch')}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_costs_little(tmp_path: Path, arguments: list[str]) -> None:
    """Help takes at most 0.3 s of CPU, and never loads the HTTP client, rich or pydantic."""
    script = (
        "import sys; from llmbatch.cli import main\n"
        "main()\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    after = os.times()

    cost = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    assert "Usage: llmbatch" in done.stdout
    loaded = set(done.stderr.split())
    assert loaded.isdisjoint({"aiohttp", "httptools", "rich", "pydantic", "zstandard", "uvloop", "anyio"})
    assert cost <= 0.3


COMPLETED = [
    ("llmbatch r", ["run", "report", "resume"]),
    ("llmbatch run --on-", ["--on-outage", "--on-interrupt"]),
    ("llmbatch run --on-outage ", ["wait", "defer", "fail"]),
    ("llmbatch run p.jsonl --progress p", ["plain"]),
    ("llmbatch check --endpoint me", ["messages"]),
    ("llmbatch run -m anthro", ["anthropic/claude-haiku-4-5"]),
    ("llmbatch run -m sim/ste", ["sim/steady"]),
    ("llmbatch sim d", ["drill"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "offered"), COMPLETED)
def test_a_shell_completes_commands_flags_and_choices(llmbatch_process: Run, typed: str, offered: list[str]) -> None:
    """As bash asks for it; choices were not offered. Slow: a process each."""
    words = len(typed.split(" ")) - 1

    done = llmbatch_process(_LLMBATCH_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(words))

    assert done.stdout.split() == offered


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "has"),
    [
        ("bash", "complete -o default -F"),
        ("zsh", "#compdef llmbatch"),
        ("fish", "complete --command llmbatch"),
        ("powershell", "Register-ArgumentCompleter"),
    ],
)
def test_the_completion_script_of_each_shell_is_shown(llmbatch_process: Run, shell: str, has: str) -> None:
    """For those who install it by hand, whichever shell they are in: that one's was shown. Slow: a process each."""
    done = llmbatch_process("--show-completion", shell)

    assert done.returncode == 0
    assert "LLMBATCH_COMPLETE" in done.stdout
    assert has in done.stdout


@pytest.mark.slow  # a process each
@pytest.mark.parametrize("words", [("--show-completion", "tcsh"), ("--show-completion=tcsh",)])
def test_the_completion_script_of_an_unknown_shell_is_an_error(llmbatch_process: Run, words: tuple[str, ...]) -> None:
    """That names those there are."""
    done = llmbatch_process(*words)

    assert done.returncode == 2
    assert "tcsh" in done.stderr
    assert "zsh" in done.stderr
