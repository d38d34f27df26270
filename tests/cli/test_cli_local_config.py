"""A ``./llmbatch.toml`` that came with somebody else's folder: it chooses no host for keys and writes nowhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Run, Silence
from e2e_recorder import Recorder

from llmbatch.cli.local_config import is_loopback
from llmbatch.cli.settings import CommandLine, Settings, resolve
from llmbatch.runner.command_options import OPTIONS

KEY = "sk-local-config-1"


@pytest.fixture
def thief() -> Iterator[Recorder]:
    """A server that is reached by an address that is not literally loopback."""
    server = Recorder()
    yield server
    server.close()


@pytest.fixture
def provider() -> Iterator[Recorder]:
    """Stands for OpenAI, by ``OPENAI_BASE_URL``."""
    server = Recorder()
    yield server
    server.close()


def foreign(server: Recorder) -> str:
    return server.url.replace("127.0.0.1", "0.0.0.0")


def settle(tmp_path: Path, text: str, *, environ: dict[str, str] | None = None, **flags: str | bool) -> Settings:
    """The settings of a command that starts where ``llmbatch.toml`` has *text*."""
    (tmp_path / "llmbatch.toml").write_text(text)
    home = {"XDG_CONFIG_HOME": str(tmp_path / "user")}
    return resolve(CommandLine(input="x.jsonl", flags=flags), home | (environ or {}), tmp_path)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow  # a process each
@pytest.mark.parametrize("setting", ["base_url", "proxy"])
def test_a_local_file_sent_the_key_to_any_host_without_a_word(
    llmbatch: Run, prompts: Path, thief: Recorder, provider: Recorder, setting: str
) -> None:
    """A foreign ``base_url`` or ``proxy`` is ignored and told, whatever the same file says about being quiet."""
    url = foreign(thief) if setting == "base_url" else foreign(thief).removesuffix("/v1")
    prompts.with_name("llmbatch.toml").write_text(
        f'{setting} = "{url}"\nquiet = true\nprogress = "none"\nmodel = "openai/gpt-5-mini"\n'
    )

    done = llmbatch("run", "prompts.jsonl", OPENAI_API_KEY=KEY, OPENAI_BASE_URL=provider.url)

    assert done.returncode == 0
    assert thief.arrivals == []
    assert len(provider.arrivals) == 3
    told = done.stderr.splitlines()
    assert told[0].startswith(f"note: ./llmbatch.toml sets {setting}, which is ignored")
    assert "--config llmbatch.toml" in told[1]
    assert KEY not in done.stderr


@pytest.mark.slow  # a process
def test_a_named_config_file_may_choose_the_host(llmbatch: Run, prompts: Path, thief: Recorder) -> None:
    """With ``--config llmbatch.toml``, which the hint says to type, the same file counts."""
    prompts.with_name("llmbatch.toml").write_text(f'base_url = "{foreign(thief)}"\nmodel = "openai/m"\n')

    done = llmbatch("run", "prompts.jsonl", "--config", "llmbatch.toml", OPENAI_API_KEY=KEY)

    assert done.returncode == 0
    assert len(thief.arrivals) == 3
    assert "ignored" not in done.stderr


@pytest.mark.slow  # a process
def test_what_is_ignored_is_one_json_line_where_progress_is_json(
    llmbatch_here: Run, prompts: Path, silence: Silence
) -> None:
    """``--progress json`` keeps standard error readable for programs."""
    text = f'base_url = "{silence.url.replace("127.0.0.1", "0.0.0.0")}"\nmodel = "sim/steady"\n'
    prompts.with_name("llmbatch.toml").write_text(text)

    done = llmbatch_here("run", "prompts.jsonl", "--progress", "json")

    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert events[0]["event"] == "notice"
    assert "base_url" in events[0]["message"]


def test_the_users_own_quiet_still_mutes_the_note(llmbatch_here: Run, prompts: Path) -> None:
    """``-q`` is the user's word; ``quiet`` in the file that is ignored is not."""
    prompts.with_name("llmbatch.toml").write_text('base_url = "https://example.test/v1"\nquiet = true\nmodel = "m"\n')

    muted = llmbatch_here("check", "prompts.jsonl", "-q", OPENAI_API_KEY="sk-test-0123456789")
    told = llmbatch_here("check", "prompts.jsonl", OPENAI_API_KEY="sk-test-0123456789")

    assert (muted.returncode, muted.stderr) == (0, "")
    assert "ignored" in told.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://LOCALHOST:1/v1", True),
        ("http://[::1]:8000/v1", True),
        (" http://localhost ", True),
        ("https://api.example.test/v1", False),
        ("http://0.0.0.0:8000", False),
        ("http://localhost.example.test", False),
        ("http://127.0.0.1.example.test", False),
        ("http://127.0.0.1@example.test/", False),
        ("http://localhost\\@example.test/", False),
        ("http://127.0.0.1\t.example.test/", False),
        ("http://[::ffff:127.0.0.1]/", False),
        ("http://[::1%eth0]/", False),
        ("http://2130706433/", False),
        ("http://0x7f.1/", False),
        ("localhost:8000", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_only_literal_addresses_of_this_machine_are_loopback(url: str, expected: bool) -> None:
    """``localhost``, 127.0.0.0/8 and ``::1``, spelled out: nothing is looked up."""
    assert is_loopback(url) is expected


def test_a_server_on_this_machine_counts(tmp_path: Path) -> None:
    """A local server is what such a file is for, its key included."""
    settings = settle(tmp_path, 'base_url = "http://localhost:8000/v1"\napi_key_env = "VLLM_KEY"\n')

    assert (settings.base_url, settings.api_key_env) == ("http://localhost:8000/v1", "VLLM_KEY")
    assert settings.ignored == ()
    assert settings.from_local == {"base_url", "api_key_env"}


@pytest.mark.parametrize(
    "text",
    [
        'api_key_env = "AWS_SECRET_ACCESS_KEY"',
        'api_key_env = "AWS_SECRET_ACCESS_KEY"\nbase_url = "https://example.test/v1"',
        'api_key_env = "AWS_SECRET_ACCESS_KEY"\nproxy = "http://127.0.0.1:3128"',
    ],
)
def test_a_local_file_sent_any_variable_as_the_key(tmp_path: Path, text: str) -> None:
    """The name of the key's variable counts only where every request stays on this machine."""
    settings = settle(tmp_path, text, environ={"AWS_SECRET_ACCESS_KEY": "x"})

    assert settings.api_key_env is None
    assert "api_key_env" in {option.name for option in settings.ignored}


@pytest.mark.parametrize(
    "flags",
    [{"base_url": "https://example.test/v1"}, {"proxy": "http://example.test:3128"}],
)
def test_the_key_of_a_local_file_does_not_follow_the_users_host(tmp_path: Path, flags: dict[str, Any]) -> None:
    """The user's own ``--base-url`` or ``--proxy`` is a foreign host for a key that the file chose."""
    text = 'base_url = "http://127.0.0.1:8000/v1"\napi_key_env = "AWS_SECRET_ACCESS_KEY"\n'

    settings = settle(tmp_path, text, **flags)

    assert settings.api_key_env is None


def test_what_is_ignored_leaves_the_users_own_setting(tmp_path: Path) -> None:
    """An ignored setting does not replace the weaker one of the user's own file."""
    own = tmp_path / "user" / "llmbatch" / "config.toml"
    own.parent.mkdir(parents=True)
    own.write_text('base_url = "https://mine.test/v1"\napi_key_env = "MY_KEY"\n')

    settings = settle(tmp_path, 'base_url = "https://example.test/v1"\napi_key_env = "OTHER"\n')

    assert (settings.base_url, settings.api_key_env) == ("https://mine.test/v1", "MY_KEY")


def test_what_a_flag_says_anyway_is_not_told_as_ignored(tmp_path: Path) -> None:
    """A setting that the user gives needs no note."""
    settings = settle(tmp_path, 'base_url = "https://example.test/v1"\n', base_url="https://mine.test/v1")

    assert settings.ignored == ()


@pytest.mark.parametrize("path", ["../x.jsonl", "/etc/x.jsonl", "sub/../../x.jsonl", "link/x.jsonl", "link.jsonl", "."])
def test_a_local_file_wrote_outside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """An ``output`` that leaves the folder, by ``..``, from the root or through a link, is ignored."""
    folder = tmp_path / "clone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "link.jsonl").symlink_to(tmp_path / "elsewhere" / "new.jsonl")

    settings = settle(folder, f'output = "{path}"\n')

    assert settings.output is None
    assert [option.name for option in settings.ignored] == ["output"]


def test_an_alias_is_restricted_as_the_option_is(tmp_path: Path) -> None:
    """``output-file`` in place of ``output`` leads nowhere else, by a file; by a variable it is the user's own word."""
    text = 'output-file = "/etc/x.jsonl"\n'

    by_file = settle(tmp_path, text)
    by_variable = settle(tmp_path, text, environ={"LLMBATCH_OUTPUT_FILE": "/elsewhere/x.jsonl"})

    assert (by_file.output, [option.name for option in by_file.ignored]) == (None, ["output"])
    assert (by_variable.output, by_variable.ignored) == ("/elsewhere/x.jsonl", ())


@pytest.mark.parametrize("path", ["x.jsonl", "sub/x.jsonl", "sub/../x.jsonl", "-"])
def test_an_output_within_the_folder_counts(tmp_path: Path, path: str) -> None:
    """Paths that stay inside are what the file is for."""
    assert settle(tmp_path, f'output = "{path}"\n').output == path


def test_a_pipe_in_place_of_the_local_file_does_not_hang(tmp_path: Path) -> None:
    """A FIFO named ``llmbatch.toml`` is not read."""
    os.mkfifo(tmp_path / "llmbatch.toml")

    settings = resolve(CommandLine(input="x.jsonl"), {}, tmp_path)

    assert settings.origin == {}


def test_every_flag_that_names_a_host_a_file_or_a_command_is_restricted() -> None:
    """A new flag that takes a URL, a path, a command or a variable's name says what a local file may do with it."""
    risky = {"URL", "PATH", "FILE", "CMD", "DIR", "FOLDER"}

    for option in OPTIONS.values():
        if option.settable and risky & set(option.value.metavar.split("|")):
            assert option.local != "any", option.flag


@pytest.mark.slow  # runs
def test_a_local_file_named_the_users_notes_as_the_output_and_overwrite_emptied_them(
    llmbatch_here: Run, prompts: Path
) -> None:
    """``--overwrite`` empties what an earlier run has written, or what the user names, and nothing else."""
    notes = prompts.with_name("notes.txt")
    notes.write_text("years of work\n")
    prompts.with_name("llmbatch.toml").write_text('output = "notes.txt"\nmodel = "sim/steady"\n')

    refused = llmbatch_here("run", "prompts.jsonl", "--overwrite", "-q")

    assert refused.returncode == 2
    assert "name it yourself (-o)" in refused.stderr
    assert notes.read_text() == "years of work\n"
    assert llmbatch_here("run", "prompts.jsonl", "--overwrite", "-q", "-o", "notes.txt").returncode == 0
    assert llmbatch_here("run", "prompts.jsonl", "--overwrite", "-q").returncode == 0, "it is one of ours now"


@pytest.mark.parametrize(
    ("folder", "counts"), [("images", True), ("images/..", False), ("..", False), ("/etc", False), ("link", False)]
)
def test_a_local_file_has_files_sent_only_from_below_its_own_folder(
    tmp_path: Path, folder: str, *, counts: bool
) -> None:
    """Rows and ``llmbatch.toml`` may come from the same stranger."""
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to("/etc")

    settings = settle(tmp_path, f'allow_files = "{folder}"\nmodel = "m"\n')

    assert settings.allow_files == (folder if counts else None)
    assert [option.name for option in settings.ignored] == ([] if counts else ["allow_files"])
