"""``llmbatch trust``: a local file counts whole, as long as it is the one that was looked at."""

from __future__ import annotations

import json
from pathlib import Path

from cli_parts import Run, TwoLines

FOREIGN = 'base_url = "https://example.test/v1"\napi_key_env = "MY_KEY"\nmodel = "openai/m"\n'


def is_ignored(llmbatch_here: Run) -> bool:
    done = llmbatch_here("check", "prompts.jsonl", "--json", MY_KEY="sk-1", OPENAI_API_KEY="sk-test-0123456789")
    assert json.loads(done.stdout)["rows"] == 3
    return "ignored" in done.stderr


def test_a_trusted_file_counts_until_it_changes(llmbatch_here: Run, prompts: Path) -> None:
    """By its content: one more byte, and it is looked at with suspicion again."""
    local = prompts.with_name("llmbatch.toml")
    local.write_text(FOREIGN)
    before = is_ignored(llmbatch_here)

    told = llmbatch_here("trust")
    trusted = is_ignored(llmbatch_here)
    local.write_text(FOREIGN + "\n")
    changed = is_ignored(llmbatch_here)

    assert (before, trusted, changed) == (True, False, True)
    assert (told.returncode, told.stdout) == (0, "llmbatch.toml is trusted until it changes\n")


def test_trust_is_revoked(llmbatch_here: Run, prompts: Path) -> None:
    """Twice does no harm."""
    prompts.with_name("llmbatch.toml").write_text(FOREIGN)
    llmbatch_here("trust", ".")

    codes = [llmbatch_here("trust", "--revoke").returncode for _ in range(2)]

    assert codes == [0, 0]
    assert is_ignored(llmbatch_here)


def test_the_same_file_elsewhere_is_not_trusted(llmbatch_here: Run, prompts: Path, tmp_path: Path) -> None:
    """Trust is in a file of a folder, not in a text."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "llmbatch.toml").write_text(FOREIGN)
    prompts.with_name("llmbatch.toml").write_text(FOREIGN)

    llmbatch_here("trust", "other")

    assert is_ignored(llmbatch_here)


def test_the_list_follows_xdg_and_is_private(llmbatch_here: Run, prompts: Path, tmp_path: Path) -> None:
    """``XDG_STATE_HOME``, or else ``~/.local/state``."""
    prompts.with_name("llmbatch.toml").write_text(FOREIGN)

    llmbatch_here("trust", XDG_STATE_HOME=str(tmp_path / "state"))
    llmbatch_here("trust")

    [by_xdg] = (tmp_path / "state" / "llmbatch" / "trusted").iterdir()
    [by_home] = (tmp_path / "home" / ".local" / "state" / "llmbatch" / "trusted").iterdir()
    assert by_xdg.name == by_home.name
    assert by_xdg.parent.stat().st_mode & 0o077 == 0


def test_a_folder_without_the_file_is_a_usage_error(llmbatch_here: Run, two_lines: TwoLines) -> None:
    """Nothing is trusted in advance."""
    done = llmbatch_here("trust")

    assert done.returncode == 2
    assert "no such file" in two_lines(done.stderr)[0]
