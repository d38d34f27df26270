"""What starting costs: processor time, wall time and peak memory of short commands, each a whole process.

`llmbatch --help`, one row through the simulated provider, one over HTTP to a server in this process, and the
imports that a library's user feels, beside an empty interpreter, the HTTP client's own import, and what is
installed of the extra `clients`. In turns; medians.

Bias: files are in memory, bytecode is compiled: the first start after an installation takes longer.

    python benchmarks/startup.py [--rounds 7] [--json raw.json] [--imports]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROW = '{"prompt":"hi","model":"sim/steady"}\n'
LIBRARY = "from llmbatch import BatchRunner; BatchRunner('m', base_url='http://127.0.0.1:1/v1')"
COMMANDS = {
    "python": ["-c", "pass"],
    "import llmbatch": ["-c", "import llmbatch"],
    "import llmbatch.breaker": ["-c", "import llmbatch.breaker"],
    "a BatchRunner": ["-c", LIBRARY],
    "llmbatch --help": ["-m", "llmbatch", "--help"],
    "llmbatch run, one row": ["-m", "llmbatch", "run", "row.jsonl", "-o", "out.jsonl", "--overwrite", "-q"],
    "one row over HTTP": [*("-m", "llmbatch", "run", "plain.jsonl", "-o", "out.jsonl", "--overwrite", "-q", "-m", "m")],
    "import aiohttp": ["-c", "import aiohttp"],
    "import openai": ["-c", "import openai"],
    "import litellm": ["-c", "import litellm"],
}
SHOWN_IMPORTS = 25
ANSWER = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }
).encode()


class Answers(BaseHTTPRequestHandler):
    """Answers any request at once."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The base URL of a server on a thread of this process."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@dataclass(frozen=True)
class Measured:
    cpu_s: float
    seconds: float
    peak_mb: float


def commands() -> dict[str, list[str]]:
    """Those that can run here."""

    def is_there(words: list[str]) -> bool:
        package = words[1].removeprefix("import ") if words[1].startswith("import ") else "llmbatch"
        return importlib.util.find_spec(package.split(".")[0]) is not None

    return {name: list(words) for name, words in COMMANDS.items() if is_there(words)}


def run(words: list[str], folder: Path) -> Measured:
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # or its import asks the network
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], cwd=folder, env=os.environ | quiet, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: {' '.join(words)} ended with {process.returncode}")
    return Measured(usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss / 1024)


def show_imports(folder: Path) -> None:
    """The modules that take longest of their own in a run of one row."""
    words = ["-X", "importtime", *COMMANDS["llmbatch run, one row"]]
    done = subprocess.run([sys.executable, *words], cwd=folder, stderr=subprocess.PIPE, text=True, check=True)
    parts = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if line.count("|") == 2]
    own = sorted(((int(part[0]), part[2].strip()) for part in parts if part[0].strip().isdecimal()), reverse=True)
    for microseconds, name in own[:SHOWN_IMPORTS]:
        print(f"{microseconds / 1000:7.1f} ms  {name}")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where raw figures go")
    parser.add_argument("--imports", action="store_true", help="the slowest modules of a run of one row, instead")
    given = parser.parse_args(words)
    if not 1 <= given.rounds <= 1000:
        parser.error("--rounds must be 1 to 1000")
    chosen = commands()
    measured: dict[str, list[Measured]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory(prefix="startup-") as name, serving() as url:
        chosen["one row over HTTP"] += ["--base-url", url]
        folder = Path(name)
        (folder / "row.jsonl").write_text(ROW)
        (folder / "plain.jsonl").write_text('{"prompt":"hi"}\n')
        if given.imports:
            show_imports(folder)
            return 0
        for command, told in measured.items():
            run(chosen[command], folder)  # to have its bytecode
            told.clear()
        for _ in range(given.rounds):
            for command, told in measured.items():
                told.append(run(chosen[command], folder))
    if given.json:
        given.json.write_text(json.dumps({name: [asdict(one) for one in told] for name, told in measured.items()}))
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{given.rounds} rounds; Python {platform.python_version()}, {os.cpu_count()} cores")
    for title in ("", "CPU s", "spread", "seconds", "peak MB"):
        table.add_column(title, justify="right" if title else "left")
    for command, told in measured.items():
        cpus = sorted(one.cpu_s for one in told)
        table.add_row(
            command,
            f"{statistics.median(cpus):.2f}",
            f"{cpus[0]:.2f} to {cpus[-1]:.2f}",
            f"{statistics.median(one.seconds for one in told):.2f}",
            f"{max(one.peak_mb for one in told):.0f}",
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
