"""``--ray`` where it cannot work, without Ray: each refusal says why, and nothing is sent or left."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from cli_parts import Run

REFUSED = [
    (("in.jsonl", "--ray", "local"), "--ray needs a number of workers", "--workers 4"),
    (("-", "--ray", "local", "--workers", "2"), "standard input can be read once only", "save it to a file"),
    (("in.jsonl", "--ray", "local", "--workers", "2", "--shard", "1/2"), "exclude each other", "leave --shard out"),
    (("in.jsonl", "--ray", "local", "--workers", "2", "-o", "-"), "--ray needs an output file", "-o results.jsonl"),
    (("in.jsonl", "--ray", "local", "--workers", "2", "--via", "batch"), "does not go with --via", "leave --workers"),
]


@pytest.mark.parametrize(("typed", "error", "hint"), REFUSED)
def test_what_does_not_go_with_ray_is_refused(
    tmp_path: Path, llmbatch_here: Run, typed: tuple[str, ...], error: str, hint: str
) -> None:
    """Whether Ray is installed or not."""
    (tmp_path / "in.jsonl").write_text('"a"\n"b"\n')

    done = llmbatch_here("run", *typed, "-m", "sim/steady")

    assert done.returncode == 2
    assert error in done.stderr
    assert hint in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["in.jsonl"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
@pytest.mark.parametrize("address", ["local", "127.0.0.1:6379"])
def test_a_run_on_ray_without_ray_names_the_extra(tmp_path: Path, llmbatch_here: Run, address: str) -> None:
    """Before anything is opened."""
    (tmp_path / "in.jsonl").write_text('"a"\n"b"\n')

    done = llmbatch_here("run", "in.jsonl", "-m", "sim/steady", "--ray", address, "--workers", "2")

    assert done.returncode == 2
    assert "error: Ray is not installed\nhint: pip install 'llmbatch[ray]'" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["in.jsonl"]
