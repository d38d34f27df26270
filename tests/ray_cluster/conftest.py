"""A real Ray cluster of two nodes for a module, and runs on it as people start them. Skipped where Ray is missing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from workers_server import Provider

KEY = "sk-canary-0123456789abcdef"

STORE_BYTES = 80_000_000

collect_ignore_glob = [] if find_spec("ray") else ["test_ray_*.py"]


@pytest.fixture(scope="module")
def quiet_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of Ray's processes and of runs: a home of their own, no tokens, and no news to Ray's makers."""
    home = tmp_path_factory.mktemp("home")
    ours = {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "OPENAI_API_KEY": KEY,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ours.items():
            patch.setenv(name, value)
        yield {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ} | ours


@pytest.fixture(scope="module")
def cluster(quiet_ray: dict[str, str]) -> Iterator[Any]:
    """Two nodes of one processor each."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    started = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        started.add_node(**node)
        yield started
    finally:
        started.shutdown()


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Answers at once, nearly."""
    server = Provider()
    yield server
    server.close()


@pytest.fixture
def start(tmp_path: Path, quiet_ray: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """``start(*arguments)`` starts ``llmbatch run rows.jsonl … -o out.jsonl`` and gives the process."""
    started: list[subprocess.Popen[bytes]] = []

    def launch(*arguments: str, before: Sequence[str] = (), **variables: str) -> subprocess.Popen[bytes]:
        command = [*before, sys.executable, "-m", "llmbatch", "run", "rows.jsonl", "-o", "out.jsonl", *arguments]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=quiet_ray | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
