"""Runs of several processes, as people start them: a folder of their own, and a provider that notes calls."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from workers_server import Provider

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Answers at once, nearly."""
    server = Provider()
    yield server
    server.close()


@pytest.fixture
def start(tmp_path: Path, provider: Provider) -> Iterator[Start]:
    """``start(*arguments)`` starts ``llmbatch run rows.jsonl … -o out.jsonl`` and gives the process."""
    started: list[subprocess.Popen[bytes]] = []
    (tmp_path / "home").mkdir()
    kept = {
        name: os.environ[name]
        for name in ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_START", "COVERAGE_FILE")
        if name in os.environ
    }
    environment = kept | {"HOME": str(tmp_path / "home"), "LANG": "C.UTF-8", "OPENAI_API_KEY": "sk-secret-0123456789"}

    def launch(*arguments: str, rows: str = "rows.jsonl", **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "llmbatch", "run", rows, "-m", "openai/m", "--base-url", provider.url]
        process = subprocess.Popen(
            [*command, "-o", "out.jsonl", *arguments],
            cwd=tmp_path,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
