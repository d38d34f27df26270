"""``--env-file``: keys from a file that is named, never one that happens to be there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_parts import Run
from e2e_recorder import Recorder

from llmbatch.cli.env_file import load_env_file, parse_env
from llmbatch.core.errors import UsageError


@pytest.fixture
def provider() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("K=v", "v"),
        ("  export K = v  ", "v"),
        ("K='a b # c'", "a b # c"),
        ('K="a b"  # why', "a b"),
        ("K=v # why", "v"),
        ("K=a#b", "a#b"),
        ("K=", ""),
        ("K= # nothing", ""),
        ("K=sk-a=b==", "sk-a=b=="),
        ("K=$HOME", "$HOME"),
        ("\ufeffK=v", "v"),
    ],
)
def test_a_line_is_read_as_people_write_it(line: str, value: str) -> None:
    """Quotes and comments go, nothing is expanded."""
    assert parse_env(f"{line}\r\n\n# a comment\nL=2\n", "x") == {"K": value, "L": "2"}


@pytest.mark.parametrize("line", ["sk-live-123", "K", "1K=v", "K='sk-live-123", 'K="a\\n"', "K=a b", "=v", "K=a'b c"])
def test_a_line_that_is_not_understood_is_named_and_not_shown(line: str) -> None:
    """By its number: it may hold a key."""
    with pytest.raises(UsageError, match="x:2: the line is not NAME=VALUE") as caught:
        parse_env(f"A=1\n{line}\n", "x")

    assert "sk-live" not in caught.value.message + caught.value.hint


def test_the_environment_wins_unless_it_is_empty(tmp_path: Path) -> None:
    """As with other tools that read such files."""
    (tmp_path / "keys").write_text("A=file\nB=file\nC=file\n")
    environ = {"A": "own", "B": ""}

    load_env_file(str(tmp_path / "keys"), environ)

    assert environ == {"A": "own", "B": "file", "C": "file"}


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Missing, a folder, or no text."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")

    for name, why in (("no", "no such file"), (".", "is a directory"), ("bytes", "not UTF-8")):
        with pytest.raises(UsageError, match=why):
            load_env_file(str(tmp_path / name), {})


@pytest.mark.slow  # a process each
def test_a_key_comes_from_the_file_that_is_named_and_from_no_other(
    llmbatch: Run, prompts: Path, provider: Recorder
) -> None:
    """A ``.env`` in the folder is not read; ``--env-file`` sets keys and settings, and no key is shown."""
    prompts.with_name(".env").write_text("OPENAI_API_KEY=sk-unasked-1\n")
    prompts.with_name("keys").write_text(
        f"OPENAI_API_KEY=sk-asked-22\nOPENAI_BASE_URL={provider.url}\nLLMBATCH_MODEL=openai/m\n"
    )

    unasked = llmbatch("run", "prompts.jsonl", "-m", "openai/m", OPENAI_BASE_URL=provider.url)
    asked = llmbatch("run", "prompts.jsonl", "--env-file", "keys", "--overwrite")

    assert (unasked.returncode, asked.returncode) == (0, 0)
    keys = [arrival.headers.get("authorization") for arrival in provider.arrivals]
    assert keys == [None] * 3 + ["Bearer sk-asked-22"] * 3
    assert "sk-asked" not in asked.stderr + asked.stdout + prompts.with_name("prompts.results.jsonl").read_text()


@pytest.mark.slow  # a process
def test_a_local_config_file_names_no_env_file(llmbatch: Run, prompts: Path, provider: Recorder) -> None:
    """A cloned folder would choose which keys are used."""
    prompts.with_name("keys").write_text("OPENAI_API_KEY=sk-theirs-1\n")
    prompts.with_name("llmbatch.toml").write_text('env_file = "keys"\nmodel = "openai/m"\n')

    done = llmbatch("run", "prompts.jsonl", OPENAI_BASE_URL=provider.url)

    assert "sets env_file, which is ignored" in done.stderr
    assert [arrival.headers.get("authorization") for arrival in provider.arrivals] == [None] * 3


@pytest.mark.slow  # a process each
@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "GOOGLE_API_KEY"])
def test_gemini_takes_either_key(llmbatch: Run, prompts: Path, provider: Recorder, name: str) -> None:
    """Google's own tools use both names; with ``--base-url`` too, and no key is shown."""
    done = llmbatch("run", "prompts.jsonl", "-m", "gemini/g", "--base-url", provider.url, **{name: "AIza-either-1"})

    assert done.returncode == 0
    assert {arrival.headers["authorization"] for arrival in provider.arrivals} == {"Bearer AIza-either-1"}
