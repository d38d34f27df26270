"""Finds and kills the processes of a Ray cluster that a test has started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def raylet_of(node: Any) -> int:
    """The process of a node that starts its workers."""
    return int(node.all_processes["raylet"][0].process.pid)


def actors(kind: str, raylets: Iterable[int]) -> dict[int, int]:
    """The processes of actors whose class is called *kind*, each with the raylet that started it."""
    found: dict[int, int] = {}
    for raylet in raylets:
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                title = (folder / "cmdline").read_bytes()
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            if parent == raylet and title.startswith(f"ray::{kind}".encode()):
                found[int(folder.name)] = raylet
    return found


def kill(pid: int) -> None:
    """Kill one process, without any warning."""
    os.kill(pid, signal.SIGKILL)


def write_rows(path: Path, count: int) -> None:
    """An input of *count* rows."""
    path.write_text("".join(f'{{"prompt":"row {number}"}}\n' for number in range(1, count + 1)))


def rows_in(*paths: Path) -> Counter[int]:
    """How many lines each row has."""
    return Counter(json.loads(line)["row"] for path in paths for line in path.read_text().splitlines())


def lines_in_parts(folder: Path) -> int:
    """Lines that the actors of a run in *folder* have written so far."""
    parts = (folder / "out.jsonl.parts").glob("part-*-of-?????.jsonl")
    return sum(part.read_bytes().count(b"\n") for part in parts)


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a run."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out.decode(), err.decode()
