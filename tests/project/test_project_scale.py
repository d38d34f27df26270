"""docs/scale.md: every command of the page, and every recipe with the variables that its scheduler sets."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from store_server import StoreServer

from llmbatch.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
RECIPES = ROOT / "examples" / "scale"
LINES = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("llmbatch ")]

pytestmark = pytest.mark.slow  # starts processes


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """``llmbatch`` is this one, and nothing of the machine's settings counts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "llmbatch"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m llmbatch "$@"\n')
    command.chmod(0o755)
    (tmp_path / "prompts.jsonl").write_text("".join(f'"say {n}"\n' for n in range(1, 25)))
    return {
        "PATH": f"{folder}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "PROMPTS": "prompts.jsonl",
        "MODEL": "sim/steady",
        "RESULTS": "results",
    }


def rows_in(folder: Path) -> Counter[int]:
    parts = folder.glob("part-*-of-?????.jsonl")
    return Counter(json.loads(line)["row"] for part in parts for line in part.read_text().splitlines())


def run(path: Path, environment: dict[str, str], *arguments: str, **variables: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    done = subprocess.run(
        [bash, str(path), *arguments],
        cwd=environment["HOME"],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_command_of_the_page_works(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In their order, in one folder, with a store of the test's: exit code 0, and one line per row in the end."""
    monkeypatch.chdir(tmp_path)
    [export] = [line for line in LINES if line not in COMMANDS]
    assert re.fullmatch(r"export STORE_URL='redis://\S+\?name=nightly'", export)
    with StoreServer(tmp_path) as store:
        monkeypatch.setattr(os, "environ", environment | {"STORE_URL": f"{store.url}?name=nightly"})
        run_all(COMMANDS, tmp_path, monkeypatch, capsys)
        assert "cmdstat_evalsha" in store.client().info("commandstats")

    merged = (tmp_path / "results.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["row"] for line in merged) == list(range(1, 25))
    assert rows_in(tmp_path / "shared") == Counter(range(1, 25))


def run_all(
    commands: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run each of *commands* in *folder*, which is the working directory; none may fail."""
    assert len(commands) == 8
    for command in commands:
        if "--workers" in command:
            (folder / "prompts.results.jsonl").unlink()
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        assert main() == 0, capsys.readouterr().err


def test_a_slurm_array_sends_every_row_once(tmp_path: Path, environment: dict[str, str]) -> None:
    """Its tasks count from 1."""
    for task in range(1, 4):
        run(RECIPES / "slurm.sh", environment, SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_COUNT="3")

    assert rows_in(tmp_path / "results") == Counter(range(1, 25))
    assert len(list((tmp_path / "results").glob("part-*-of-00003.jsonl"))) == 3


def test_an_indexed_job_sends_every_row_once(tmp_path: Path, environment: dict[str, str]) -> None:
    """Its indexes count from 0, and its manifest names as many shards as pods."""
    for index in range(3):
        run(RECIPES / "kubernetes.sh", environment, JOB_COMPLETION_INDEX=str(index), SHARDS="3")

    manifest = (RECIPES / "kubernetes.yaml").read_text()
    assert rows_in(tmp_path / "results") == Counter(range(1, 25))
    assert re.search(r"completions: (\d+)", manifest)[1] == re.search(r'SHARDS, value: "(\d+)"', manifest)[1]  # type: ignore[index]
    assert "/app/kubernetes.sh" in manifest


def test_parallel_jobs_send_every_row_once(tmp_path: Path, environment: dict[str, str]) -> None:
    """By GNU parallel where there is one, by the shell where there is none."""
    run(RECIPES / "parallel.sh", environment, N="3")

    assert rows_in(tmp_path / "results") == Counter(range(1, 25))


def test_the_page_lists_every_recipe() -> None:
    """And no other."""
    named = set(re.findall(r"\(\.\./examples/scale/([\w.]+)\)", PAGE))

    assert named == {path.name for path in RECIPES.iterdir()}
