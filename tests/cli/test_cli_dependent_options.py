"""Options that do something only beside another: refused where typed alone, ignored where shared."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_parts import Run

ROWS = '{"prompt": "a"}\n{"prompt": "b"}\n'
SHARED = """
deadline = "6h"
on_interrupt = "cancel"
chunk_rows = 100
chunk_mb = 5
queue_tokens = 1000
keep_remote = true
dashboard_show_text = true
"""


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--deadline", "6h"), "add --via batch"),
        (("--detach",), "add --via batch"),
        (("--on-interrupt", "cancel"), "add --via batch"),
        (("--on-interrupt", "leave"), "add --via batch"),
        (("--chunk-rows", "10"), "add --via batch"),
        (("--chunk-mb", "10"), "add --via batch"),
        (("--queue-tokens", "10k"), "add --via batch"),
        (("--keep-remote",), "add --via batch"),
        (("--dashboard-show-text",), "add --dashboard 0"),
    ],
)
def test_an_option_without_the_one_it_needs_is_refused(
    llmbatch_here: Run, tmp_path: Path, command: str, words: tuple[str, ...], hint: str
) -> None:
    """Exit code 2 before anything is written, with what to add."""
    (tmp_path / "p.jsonl").write_text(ROWS)

    done = llmbatch_here(command, "p.jsonl", "-m", "sim/steady", *words)

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {words[0]} is for ")
    assert f"hint: {hint}" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["p.jsonl"]


@pytest.mark.parametrize("where", ["config", "local", "variables"])
def test_a_shared_setting_for_batches_does_not_stop_a_live_run(llmbatch_here: Run, tmp_path: Path, where: str) -> None:
    """From a named file, ``./llmbatch.toml`` or variables: without ``--via batch`` it is as if it were not there."""
    (tmp_path / "p.jsonl").write_text(ROWS)
    words: tuple[str, ...] = ()
    variables: dict[str, str] = {}
    if where == "config":
        (tmp_path / "shared.toml").write_text(SHARED)
        words = ("--config", "shared.toml")
    elif where == "local":
        (tmp_path / "llmbatch.toml").write_text(SHARED.replace("dashboard_show_text = true\n", ""))
    else:
        pairs = (line.split(" = ") for line in SHARED.split("\n") if line)
        variables = {f"LLMBATCH_{name.upper()}": value.strip('"') for name, value in pairs}

    checked = llmbatch_here("check", "p.jsonl", "-m", "sim/steady", *words, **variables)
    done = llmbatch_here("run", "p.jsonl", "-m", "sim/steady", *words, **variables)

    assert checked.returncode == done.returncode == 0, checked.stderr + done.stderr
    assert len((tmp_path / "p.results.jsonl").read_text().splitlines()) == 2


def test_a_shared_setting_for_batches_counts_with_them(llmbatch_here: Run, tmp_path: Path) -> None:
    """The same file with ``--via batch``: its chunks are as small as it says."""
    (tmp_path / "p.jsonl").write_text(ROWS * 50)
    (tmp_path / "shared.toml").write_text("chunk_rows = 40\n")

    done = llmbatch_here("check", "p.jsonl", "-m", "sim/steady", "--via", "batch", "--config", "shared.toml")

    assert done.returncode == 0
    assert "3 batches of at most 40 rows" in done.stdout + done.stderr
