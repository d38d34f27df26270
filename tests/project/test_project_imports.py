"""What is loaded, and what is not, by the interpreter's own list (`python -X importtime`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

AIOHTTP = {"aiohttp", "yarl", "multidict"}
HTTP = AIOHTTP | {"httptools", "llmbatch.http"}
TERMINAL = {"typer", "rich"}
LOOP = {"asyncio", "ssl", "anyio", "uvloop", "aiolimiter"}
NOT_YET = {"redis", "ray", "zstandard", "matplotlib", "numpy"}
OF_OPTIONS = {
    *("tomllib", "zoneinfo", "email.utils"),
    *("llmbatch.cli.dashboard", "llmbatch.dashboard", "llmbatch.cli.report", "llmbatch.report.html"),
    *("llmbatch.display.report_read", "llmbatch.display.status_read", "llmbatch.display.folder_status"),
    *("llmbatch.notify", "llmbatch.telemetry", "llmbatch.workers", "llmbatch.drill", "llmbatch.integrations"),
    *("llmbatch.peers.group", "llmbatch.peers.carrier", "llmbatch.peers.board", "llmbatch.runner.sharing"),
    *("llmbatch.runs.shared_channel", "llmbatch.runs.batches.board", "llmbatch.runs.batches.record"),
    *("llmbatch.runs.batches.start", "llmbatch.runs.streaming", "llmbatch.runs.ray"),
    *("llmbatch.providers.several", "llmbatch.providers.tiers", "llmbatch.providers.batches"),
    *("llmbatch.providers.structured", "llmbatch.inputs.csv_records", "llmbatch.inputs.json_array"),
    *("llmbatch.inputs.template", "llmbatch.outputs.other_parts", "llmbatch.money.price_file"),
}
"""What a run loads for an option, a format or a failure alone."""

pytestmark = pytest.mark.slow  # a process each


def loaded(*words: str, cwd: Path | None = None) -> set[str]:
    """Every module that an interpreter loads for *words*."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_importing_the_package_loads_nothing_but_its_own_few_names() -> None:
    """Neither a client, nor a terminal, nor an event loop; of ours the package alone."""
    modules = loaded("-c", "import llmbatch")

    assert not modules & (HTTP | TERMINAL | LOOP | NOT_YET)
    assert {name for name in modules if name.startswith("llmbatch")} == {"llmbatch"}


def test_the_breaker_alone_loads_no_other_part() -> None:
    """Nothing outside the standard library and nothing of the project but its own files and its parent."""
    modules = loaded("-c", "from llmbatch import CircuitBreaker")

    assert not modules & (HTTP | TERMINAL | NOT_YET | {"anyio", "uvloop", "aiolimiter", "dataclasses", "json"})
    ours = {name for name in modules if name.startswith("llmbatch.")}
    assert all(name.startswith("llmbatch.breaker") for name in ours), ours


def test_a_runner_loads_no_terminal_and_no_rate_limiter() -> None:
    """Typer and rich are the command line's; a limiter is for those who name a rate."""
    modules = loaded("-c", "from llmbatch import BatchRunner; BatchRunner('m', base_url='http://127.0.0.1:1/v1')")

    assert "httptools" in modules
    assert not modules & (TERMINAL | NOT_YET | AIOHTTP | {"aiolimiter"})
    assert not any(name.startswith(("llmbatch.display", "llmbatch.cli", "llmbatch.sim.")) for name in modules)


def test_a_function_in_place_of_a_provider_loads_no_client(tmp_path: Path) -> None:
    """Whoever brings a function needs no HTTP."""
    (tmp_path / "in.jsonl").write_text('{"prompt":"hi"}\n')
    script = "from llmbatch import BatchRunner\nasync def f(row): return 1\nBatchRunner(f).run_sync('in.jsonl')\n"

    modules = loaded("-c", script, cwd=tmp_path)

    assert (tmp_path / "in.results.jsonl").read_text().count("\n") == 1
    assert not modules & (HTTP | TERMINAL | NOT_YET)


def test_help_loads_neither_client_nor_loop() -> None:
    """What answers at once asks nobody."""
    modules = loaded("-m", "llmbatch", "--help")

    assert "typer" in modules
    assert not modules & (HTTP | LOOP | NOT_YET | {"rich"})


def test_a_quiet_run_loads_no_terminal_but_the_flags_parser(tmp_path: Path) -> None:
    """Rich is for pictures, and a server for those who simulate one."""
    (tmp_path / "in.jsonl").write_text("")

    modules = loaded(
        "-m", "llmbatch", "run", "in.jsonl", "-m", "m", "--base-url", "http://127.0.0.1:1/v1", "-q", cwd=tmp_path
    )

    assert not modules & ({"rich", "aiolimiter"} | AIOHTTP | NOT_YET)


def test_a_run_against_a_real_server_loads_what_it_needs_alone(tmp_path: Path) -> None:
    """No aiohttp, which serves the simulated provider elsewhere, and nothing that only an option needs."""
    (tmp_path / "in.jsonl").write_text('{"prompt":"hi"}\n' * 3)
    command = [sys.executable, "-m", "llmbatch", "sim", "serve", "--port", "0", "--latency", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            base = server.stdout.readline().strip()
            modules = loaded("-m", "llmbatch", "run", "in.jsonl", "-m", "m", "--base-url", base, "-q", cwd=tmp_path)
        finally:
            server.terminate()

    assert (tmp_path / "in.results.jsonl").read_text().count('"status":"success"') == 3
    assert "httptools" in modules
    assert not modules & AIOHTTP
    assert sorted(name for name in modules if _is_in(name, OF_OPTIONS)) == []


def _is_in(name: str, packages: set[str]) -> bool:
    """Whether the module *name* is one of *packages*, or in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)
