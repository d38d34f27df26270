"""Every option is everywhere: the help, variables, configuration files, the drill and the docs follow the table."""

from __future__ import annotations

import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from cli_parts import Run

import llmbatch as package
from llmbatch.cli.option_docs import to_markdown
from llmbatch.cli.provider_docs import to_markdown as providers_to_markdown
from llmbatch.cli.settings import CommandLine, Settings, resolve
from llmbatch.core.errors import UsageError
from llmbatch.core.shards import Shard
from llmbatch.drill.policies import read_policy, read_range
from llmbatch.runner.command_options import OPTIONS
from llmbatch.runner.option import Option
from llmbatch.runner.options import RunOptions
from llmbatch.runner.quantities import Dollars, Duration, Number, Size, Whole
from llmbatch.runner.store_address import StoreAddress
from llmbatch.runner.value_types import (
    Address,
    Choice,
    FieldPath,
    HeaderLines,
    Names,
    ShardNumber,
    Switch,
    Text,
    Value,
)

SETTABLE = [option for option in OPTIONS.values() if option.settable]
VARIABLES = [(option, variable) for option in SETTABLE for variable in option.variables]
KEYS = [(option, key) for option in SETTABLE for key in option.keys]
SWEPT = [(option, key) for option in OPTIONS.values() if option.drill == "policy" for key in option.keys]


def sample(option: Option) -> tuple[str, str, Value]:
    """A value that is not the default: as text, in TOML, in Python."""
    match option.value:
        case Whole():
            return "7", "7", 7
        case Number():
            return "2.5k", '"2.5k"', 2500
        case Duration():
            return "1h30m", '"1h30m"', 5400.0
        case Dollars():
            return "$7.50", '"7.50"', Decimal("7.50")
        case Size():
            return "64MB", '"64MB"', 64_000_000
        case Choice(words):
            return words[-1], f'"{words[-1]}"', words[-1]
        case Switch():
            return "true", "true", True
        case HeaderLines():
            return "X-Test=1", '{X-Test = "1"}', (("X-Test", "1"),)
        case ShardNumber():
            return "3/64", '"3/64"', Shard(3, 64)
        case Names():
            return "ollama/a,ollama/b", '["ollama/a", "ollama/b"]', ("ollama/a", "ollama/b")
        case Address():
            return "9464", "9464", "127.0.0.1:9464"
        case StoreAddress():
            return "redis://localhost:6379/0", '"redis://localhost:6379/0"', "redis://localhost:6379/0"
        case Text() | FieldPath():
            return "TEXT", '"TEXT"', "TEXT"
    raise AssertionError(option.value)


def settle(tmp_path: Path, environ: dict[str, str] | None = None, **given: object) -> Settings:
    return resolve(CommandLine(input="x.jsonl", **given), environ or {}, tmp_path)  # type: ignore[arg-type]


def words_of(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("command", ["run", "check"])
def test_help_has_every_option_with_its_values_and_default(llmbatch_here: Run, command: str) -> None:
    """Flags, choices, help and default as in the table; aliases apart; ``check`` leaves out what only sending needs."""
    told = llmbatch_here(command, "--help").stdout

    for option in OPTIONS.values():
        shown = [flag for flag in option.flags if flag not in option.aliases]
        line = f"\n  {', '.join(shown)} {option.value.metavar}".rstrip()
        if command == "check" and (option.sends or option.name == "dry_run"):
            assert line not in told, option.name
            continue
        assert line in told, option.name
        assert words_of(option.help_text) in words_of(told), option.name
        if command == "run":
            aliases = told.partition("Aliases:")[2].replace(",", " ").replace(".", " ").split()
            assert set(option.aliases) <= set(aliases)


@pytest.mark.parametrize(("option", "variable"), VARIABLES, ids=[variable for _, variable in VARIABLES])
def test_every_variable_is_read(tmp_path: Path, option: Option, variable: str) -> None:
    """Under the option's own name and under each alias."""
    text, _, value = sample(option)

    settings = settle(tmp_path, {variable: text})

    assert getattr(settings, option.name) == value
    assert value != option.default
    assert settings.origin == {option.name: variable}


@pytest.mark.parametrize(("option", "key"), KEYS, ids=[key for _, key in KEYS])
def test_every_key_of_a_file_is_read(tmp_path: Path, option: Option, key: str) -> None:
    """With underscores or dashes, under the option's own name and under each alias; numbers as they are too."""
    _, toml, value = sample(option)
    path = tmp_path / "named.toml"
    for written in {key, key.replace("_", "-")}:
        path.write_text(f"{written} = {toml}\n")

        settings = settle(tmp_path, config=str(path))

        assert getattr(settings, option.name) == value
        assert settings.origin == {option.name: str(path)}


NEEDS = {
    ("schema_lenient", "repair"): ("--schema", "s.json"),
    ("deadline", "detach", "on_interrupt", "chunk_rows", "chunk_mb", "queue_tokens", "keep_remote"): ("--via", "batch"),
    ("dashboard_show_text",): ("--dashboard", "0"),
}
"""What else must be given with some options."""


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_every_flag_is_taken_by_both_commands(llmbatch_here: Run, prompts: Path, option: Option) -> None:
    """``check`` reads each spelling of each flag; one that is out of range is refused under the long name."""
    text, _, _ = sample(option)
    known = {
        "model": "openai/m",
        "base_url": "http://127.0.0.1:1/v1",
        "env_file": "empty.env",
        "api_key_env": "MY_KEY",
        "endpoint": "chat",
        "prices": "prices.toml",
        "allow_files": ".",
        **dict.fromkeys(("prompt_column", "system_column", "id_column", "keep"), "prompt"),
        "schema": "s.json",
    }
    needs = next((words for names, words in NEEDS.items() if option.name in names), ())
    prompts.with_name("s.json").write_text('{"type": "object"}')
    keys = dict.fromkeys(("OPENAI_API_KEY", "MY_KEY"), "sk-test-0123456789")
    prompts.with_name("empty.env").write_text("")
    prompts.with_name("prices.toml").write_text('["a/b"]\ninput = 1\n')

    command = "run" if option.name == "dry_run" else "check"
    for flag in option.flags:
        words = (*needs, flag) if option.is_switch else (*needs, flag, known.get(option.name, text))
        done = llmbatch_here(
            command, "prompts.jsonl", *(() if option.name == "model" else ("-m", "gpt-5-mini")), *words, **keys
        )
        assert done.returncode == 0, done.stderr
        if not isinstance(option.value, Switch | Text | Names):
            done = llmbatch_here("run", "prompts.jsonl", flag, "no..such")
            assert done.returncode == 2
            assert f"error: {option.flag} is 'no..such', must be {option.value.allowed}" in done.stderr


def test_two_variables_for_one_option_contradict_each_other(tmp_path: Path) -> None:
    """Neither wins unseen."""
    environ = {"LLMBATCH_CONCURRENCY": "3", "LLMBATCH_MAX_CONCURRENCY": "4"}

    with pytest.raises(UsageError, match="LLMBATCH_CONCURRENCY and LLMBATCH_MAX_CONCURRENCY are the same setting"):
        settle(tmp_path, environ)


def test_a_plain_number_in_quotes_is_refused_and_one_with_a_unit_is_not(tmp_path: Path) -> None:
    """Quotes in a file are for the unit."""
    path = tmp_path / "named.toml"
    path.write_text('tpm = "60"\n')
    with pytest.raises(UsageError, match=r"named\.toml: tpm is '60', must be a number of tokens per minute above 0"):
        settle(tmp_path, config=str(path))

    path.write_text('tpm = "60k"\nconcurrency = "1k"\ntimeout = 90\n')
    settings = settle(tmp_path, config=str(path))
    assert (settings.tpm, settings.concurrency, settings.timeout) == (60_000, 1000, 90)


def test_the_drill_takes_the_policys_flags(llmbatch_here: Run) -> None:
    """Those that the table marks, and no others."""
    told = llmbatch_here("sim", "drill", "--help").stdout

    for option in OPTIONS.values():
        is_there = f" {option.flag} {option.value.metavar}".rstrip() + " " in told
        assert is_there == (option.drill != "no" or option.name == "json"), option.name


@pytest.mark.parametrize(("option", "key"), SWEPT, ids=[key for _, key in SWEPT])
def test_a_policy_is_written_with_the_same_names_and_units(option: Option, key: str) -> None:
    """Aliases too, with dashes or underscores."""
    text, _, value = sample(option)

    policy = read_policy(f"{key.replace('_', '-')}={text}", RunOptions())

    assert getattr(policy.options, option.name) == value
    assert read_range(f"{key}={text},{text}") == (option.name, [value, value])


def test_the_docs_have_the_table() -> None:
    """``docs/options.md`` is what ``python -m llmbatch.cli.option_docs`` prints."""
    page = Path(package.__file__).parents[1] / "docs" / "options.md"

    assert page.read_text(encoding="utf-8") == to_markdown()


def test_the_docs_have_the_providers() -> None:
    """``docs/providers.md`` is what ``python -m llmbatch.cli.provider_docs`` prints."""
    page = Path(package.__file__).parents[1] / "docs" / "providers.md"

    assert page.read_text(encoding="utf-8") == providers_to_markdown()


ROW = """
    patience: float = option(
        7.0, Duration(), "--patience", "--max-patience", help="A new row.", group="Outages", drill="policy"
    )
"""

EVERYWHERE = """
import os, pathlib
from llmbatch import BatchRunner
from llmbatch.cli.option_docs import to_markdown
from llmbatch.cli.settings import CommandLine, resolve
from llmbatch.drill.policies import read_policy
from llmbatch.runner.options import RunOptions

here = pathlib.Path.cwd()
def settled(**given): return resolve(CommandLine(input="x", **given), {}, here).patience
assert RunOptions().patience == settled() == 7.0
assert settled(flags={"patience": "2m"}) == 120.0
assert resolve(CommandLine(input="x"), {"LLMBATCH_MAX_PATIENCE": "2m"}, here).run_options()["patience"] == 120.0
(here / "c.toml").write_text('max-patience = "3m"')
assert settled(config="c.toml") == 180.0
assert read_policy("patience=4m", RunOptions()).options.patience == 240.0
assert BatchRunner("m", patience=5.0).options.patience == 5.0
assert "| `--patience`, `--max-patience` ◆ | `patience` |" in to_markdown()
try:
    BatchRunner("m", patience=0)
except Exception as error:
    assert str(error).startswith("patience is 0, must be a duration above 0"), error
else:
    raise AssertionError
"""


@pytest.mark.slow  # processes of their own, with a copy of the package
def test_a_new_option_is_one_row(tmp_path: Path, environment: dict[str, str]) -> None:
    """A copy of the package with one more row has the option everywhere: nothing else is changed."""
    home = Path(package.__file__).parent
    copy = tmp_path / "copy" / "llmbatch"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("__pycache__"))
    table = copy / "runner" / "options.py"
    text = table.read_text(encoding="utf-8")
    assert text.count("\n    def __post_init__") == 1
    table.write_text(text.replace("\n    def __post_init__", f"{ROW}\n    def __post_init__"), encoding="utf-8")
    variables = environment | {"PYTHONPATH": str(copy.parent)}

    def python(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    python("-c", EVERYWHERE)
    for command in (("run",), ("sim", "drill")):
        told = python("-m", "llmbatch", *command, "--help")
        assert "  --patience DURATION " in told
        assert "A new row. Default: 7s." in told
    assert "--max-patience" in python("-m", "llmbatch", "run", "--help")
