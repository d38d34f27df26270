"""Where a setting comes from, and what a file may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Run

from llmbatch.cli.settings import CommandLine, Settings, resolve
from llmbatch.core.errors import UsageError


def settle(tmp_path: Path, *, environ: dict[str, str] | None = None, **given: Any) -> Settings:
    """Resolve in ``tmp_path``, with the user's config folder in ``tmp_path/user``."""
    home = {"XDG_CONFIG_HOME": str(tmp_path / "user")}
    return resolve(CommandLine(**{"input": "x.jsonl"} | given), home | (environ or {}), tmp_path)


def write_user_config(tmp_path: Path, text: str) -> None:
    """The user's own file."""
    path = tmp_path / "user" / "llmbatch" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_flag_wins_then_the_variable_then_the_local_file_then_the_users(tmp_path: Path) -> None:
    """Flag, ``LLMBATCH_*`` variable, ``./llmbatch.toml``, user's config: each is used where the stronger is silent."""
    write_user_config(tmp_path, 'model = "user"\nconcurrency = 1\nrpm = 1\ntimeout = 1.5\n')
    (tmp_path / "llmbatch.toml").write_text('model = "local"\nconcurrency = 2\nrpm = 2\n')
    environ = {"LLMBATCH_MODEL": "variable", "LLMBATCH_CONCURRENCY": "3"}

    settings = settle(tmp_path, environ=environ, flags={"model": "flag"})

    assert (settings.model, settings.concurrency, settings.rpm, settings.timeout) == ("flag", 3, 2.0, 1.5)
    assert settings.tpm is None
    assert settings.max_attempts == 3
    assert settings.origin["model"] == "--model"
    assert settings.origin["concurrency"] == "LLMBATCH_CONCURRENCY"
    assert settings.origin["rpm"] == "llmbatch.toml"


def test_a_named_config_file_takes_the_place_of_the_local_one(tmp_path: Path) -> None:
    """``--config FILE`` or ``LLMBATCH_CONFIG`` is read, ``./llmbatch.toml`` is not."""
    (tmp_path / "llmbatch.toml").write_text("concurrency = 2\nrpm = 2\n")
    (tmp_path / "other.toml").write_text("concurrency = 7\n")

    by_flag = settle(tmp_path, config="other.toml")
    by_variable = settle(tmp_path, environ={"LLMBATCH_CONFIG": "other.toml"})

    assert (by_flag.concurrency, by_flag.rpm) == (7, None)
    assert (by_variable.concurrency, by_variable.rpm) == (7, None)


def test_the_users_file_is_found_in_home_too(tmp_path: Path) -> None:
    """Without XDG_CONFIG_HOME the user's file is ``~/.config/llmbatch/config.toml``."""
    (tmp_path / ".config" / "llmbatch").mkdir(parents=True)
    (tmp_path / ".config" / "llmbatch" / "config.toml").write_text("concurrency = 9\n")

    settings = resolve(CommandLine(input="x"), {"HOME": str(tmp_path)}, tmp_path)

    assert settings.concurrency == 9


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    """``LLMBATCH_CONCURRENCY=`` changes nothing."""
    assert settle(tmp_path, environ={"LLMBATCH_CONCURRENCY": ""}).concurrency == 40


def test_a_byte_order_mark_before_a_file_is_forgiven(tmp_path: Path) -> None:
    """Editors on Windows put one there."""
    (tmp_path / "llmbatch.toml").write_text("\ufeffmax_attempts = 4\n", encoding="utf-8")

    assert settle(tmp_path).max_attempts == 4


def test_keys_may_be_written_with_dashes(tmp_path: Path) -> None:
    """``max-attempts`` and ``max_attempts`` are the same setting."""
    (tmp_path / "llmbatch.toml").write_text("max-attempts = 4\n")

    assert settle(tmp_path).max_attempts == 4


def test_params_are_json_where_they_parse_and_merge_over_the_file(tmp_path: Path) -> None:
    """``-P`` values are JSON or text, and win over ``[params]``, key by key."""
    (tmp_path / "llmbatch.toml").write_text("[params]\ntemperature = 0.5\ntop_p = 0.9\nstop = ['a']\n")

    settings = settle(tmp_path, params=["temperature=0", 'response_format={"type":"json_object"}', "user=me=you"])

    assert settings.params == {
        "temperature": 0,
        "top_p": 0.9,
        "stop": ["a"],
        "response_format": {"type": "json_object"},
        "user": "me=you",
    }


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("concurency = 3", "llmbatch.toml: concurency is not a setting", "did you mean concurrency?"),
        ("zzz = 3", "llmbatch.toml: zzz is not a setting", "allowed are output, input_format"),
        ('concurrency = "3"', "llmbatch.toml: concurrency is '3', must be a whole number from 1", "--help"),
        ("concurrency = true", "llmbatch.toml: concurrency is true, must be a whole number", "--help"),
        ("concurrency = 0", "llmbatch.toml: concurrency is 0, must be a whole number", "--help"),
        ("rpm = nan", "llmbatch.toml: rpm is nan, must be a number", "--help"),
        ("model = 3", "llmbatch.toml: model is 3, must be text", "--help"),
        ('on-outage = "wat"', "llmbatch.toml: on-outage is 'wat', must be one of wait", "did you mean wait?"),
        ("strict = 1", "llmbatch.toml: strict is 1, must be true or false", "--help"),
        ("overwrite = true", "llmbatch.toml: overwrite can only be a flag", "--overwrite"),
        ("max-attempts = 1\nmax_attempts = 2", "llmbatch.toml: max_attempts is set twice", "one of the two"),
        ("model =", "llmbatch.toml is not TOML", "a line reads"),
        ("params = 3", "llmbatch.toml: params must be a table", "[params]"),
        ("[params]\nx = 2020-01-01", "llmbatch.toml: params.x is 2020-01-01, which JSON has no form for", "quotes"),
        ("[params]\nx = [inf]", "llmbatch.toml: params.x is not a number that JSON has", "finite"),
        ("[models]\nx = 1", "llmbatch.toml: models is not a setting", "did you mean model?"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_key(tmp_path: Path, text: str, error: str, hint: str) -> None:
    """An unknown key, a wrong type or a value out of range names file, key and what is allowed."""
    (tmp_path / "llmbatch.toml").write_text(text)

    with pytest.raises(UsageError) as caught:
        settle(tmp_path)

    assert caught.value.message.startswith(error)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["api_key", "api-key", "OPENAI_API_KEY", "token", "secret", "password"])
def test_a_key_in_a_file_is_refused_and_not_shown(tmp_path: Path, name: str) -> None:
    """Keys come from the environment: a file that holds one is refused without repeating it."""
    (tmp_path / "llmbatch.toml").write_text(f'{name} = "sk-live-0123456789"\n')

    with pytest.raises(UsageError, match="keys do not belong in files") as caught:
        settle(tmp_path)

    assert "sk-live" not in caught.value.message + caught.value.hint


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    """A variable out of range is refused under its own name."""
    with pytest.raises(UsageError, match="LLMBATCH_RPM is 'fast', must be a number of requests per minute above 0"):
        settle(tmp_path, environ={"LLMBATCH_RPM": "fast"})


def test_a_config_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, and a folder in a file's place, are named and refused."""
    (tmp_path / "user").mkdir()
    (tmp_path / "latin.toml").write_bytes(b'model = "caf\xe9"\n')

    with pytest.raises(UsageError, match=r"latin\.toml is not UTF-8"):
        settle(tmp_path, config="latin.toml")
    with pytest.raises(UsageError, match="user cannot be read: is a directory"):
        settle(tmp_path, config="user")


def test_the_variable_of_a_key_may_have_small_letters_when_it_is_set(tmp_path: Path) -> None:
    """``--api-key-env my_key`` is taken where there is such a variable."""
    settings = settle(tmp_path, environ={"my_key": "sk-1"}, flags={"api_key_env": "my_key"})

    assert settings.api_key_env == "my_key"


@pytest.mark.slow  # starts interpreters
def test_precedence_holds_through_the_command(llmbatch: Run, prompts: Path) -> None:
    """The command itself reads the local file, and a variable and a flag win over it."""
    (prompts.parent / "llmbatch.toml").write_text('model = "openai/from-file"\n')

    key = {"OPENAI_API_KEY": "sk-test-0123456789"}

    routes = [
        json.loads(llmbatch("check", "prompts.jsonl", "--json", *flags, **variables, **key).stdout)["routes"]
        for flags, variables in [
            ((), {}),
            ((), {"LLMBATCH_MODEL": "openai/from-variable"}),
            (("-m", "openai/from-flag"), {"LLMBATCH_MODEL": "openai/from-variable"}),
        ]
    ]

    assert routes == [{"openai/from-file": 3}, {"openai/from-variable": 3}, {"openai/from-flag": 3}]
