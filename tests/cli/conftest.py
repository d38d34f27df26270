"""The command in a folder of its own, with a clean environment: within this process, or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_parts import Run, Silence, TwoLines

from llmbatch.cli import main


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Nothing of the machine's: no keys, no settings, no user's config file."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {
        name: os.environ[name]
        for name in ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_START", "COVERAGE_FILE")
        if name in os.environ
    }  # which llmbatch is meant
    return kept | {"HOME": str(home), "LANG": "C.UTF-8"}


@pytest.fixture
def llmbatch(tmp_path: Path, environment: dict[str, str], llmbatch_process: Run, command_here: Run) -> Run:
    """``llmbatch(*arguments, stdin=…, **variables)`` runs the command in ``tmp_path`` to its end.

    Within this process, which takes a fifth of the time of an interpreter of its own, unless it gets a standard input.
    """

    def run(*arguments: str, stdin: str | bytes = b"", **variables: str) -> subprocess.CompletedProcess[str]:
        if stdin:
            return llmbatch_process(*arguments, stdin=stdin, **variables)
        return command_here(tmp_path, environment | variables, *arguments)

    return run


@pytest.fixture
def llmbatch_process(tmp_path: Path, environment: dict[str, str]) -> Run:
    """As ``llmbatch``, as people run it: always a process of its own."""

    def run(*arguments: str, stdin: str | bytes = b"", **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "llmbatch", *arguments],
            cwd=tmp_path,
            env=environment | variables,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=240,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def llmbatch_here(
    one_command_tree: None,
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """As ``llmbatch``, within this process: for the many commands that differ in one word."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(os, "environ", environment | variables)
        monkeypatch.setattr(sys, "argv", ["llmbatch", *arguments])
        code = main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, code, out, err)

    return run


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Three good rows in ``prompts.jsonl``."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id":"a","prompt":"one"}\n{"id":"b","prompt":"two"}\n{"id":"c","prompt":"three"}\n')
    return path


@pytest.fixture
def silence() -> Iterator[Silence]:
    """A server that proves by its silence that nothing was sent."""
    server = Silence()
    yield server
    server.close()


@pytest.fixture
def two_lines() -> TwoLines:
    """Asserts that standard error is an ``error:`` and a ``hint:`` line in the house style, and gives both."""

    def split(stderr: str) -> tuple[str, str]:
        lines = stderr.splitlines()
        assert [line.partition(" ")[0] for line in lines] == ["error:", "hint:"], stderr
        error, hint = (line.partition(" ")[2] for line in lines)
        assert error
        assert hint
        assert not error.endswith("."), stderr
        assert not hint.endswith("."), stderr
        return error, hint

    return split
