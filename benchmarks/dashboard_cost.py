"""CPU that `run --dashboard` adds to a run: with nobody who looks, and with open pages.

The same run without a dashboard, with one that nobody looks at, and with clients that read its events as open pages
do, in turns against one server on loopback. The ratio is within one run: the CPU of the dashboard's threads to that of
all others of the process, as the kernel counts it (Linux), so that other load on the machine does not matter much; the
first seconds, in which the server is loaded, and the time after the last row, in which the rest of the lines is read,
are told apart.
Whole runs are compared too, which such load disturbs. The CPU of clients is not in it. At full speed the run has a
processor for itself; with ``--delay`` it does little, and the same milliseconds of each second are a larger share.

    python benchmarks/dashboard_cost.py [--rows 60000] [--rounds 3] [--delay 0] [--clients 3] [--json raw.json]

Limits: threads are looked at twice a second, so up to half a second of the end is missing; that main threads wait for
the interpreter's lock meanwhile is no CPU, and not in it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

from throughput_servers import kinds, serving

CONCURRENCY = 40
# The command, and beside it a thread that notes what each thread has used so far.
COMMAND = """
import json, os, sys, threading, time
from pathlib import Path
used, looks = {}, []
def look():
    for thread in threading.enumerate():
        try:
            nanoseconds = int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0])
        except OSError:
            continue
        used[f"{thread.name} {thread.native_id}"] = nanoseconds / 1e9
    ours = sum(seconds for name, seconds in used.items() if name.startswith(("llmbatch-dashboard", "asyncio_")))
    size = os.path.getsize("o.jsonl") if os.path.exists("o.jsonl") else 0
    looks.append([time.monotonic(), ours, time.process_time() - ours, size])
def watch():
    while True:
        look()
        time.sleep(0.5)
threading.Thread(target=watch, daemon=True, name="benchmark").start()
from llmbatch.cli import main
code = main()
look()
Path("looks.json").write_text(json.dumps(looks))
sys.exit(code)
"""


class Client(threading.Thread):
    """Reads the page and then its events until the run ends."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.messages = 0
        self.saw_end = False

    def run(self) -> None:
        while not self.saw_end:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
                for path in ("/", "/static/page.js", "/events"):
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    if path != "/events":
                        answer.read()
                while line := answer.readline():
                    self.messages += line.startswith(b"data: ")
                    self.saw_end = self.saw_end or b'"final":true' in line
                return
            except OSError:
                time.sleep(0.05)  # the run has not begun yet


def measure(folder: Path, url: str, rows: int, *, clients: int | None, first_s: float) -> dict[str, float]:
    """CPU seconds and seconds of one run; *clients* None: without a dashboard."""
    output = folder / "o.jsonl"
    for file in folder.glob("*o.*json*"):
        file.unlink()
    words = [sys.executable, "-c", COMMAND, "run", "in.jsonl", "-o", output.name, "--base-url", url, "-m", "m"]
    words += ["-c", str(CONCURRENCY), "--progress", "none", "-q"]
    watching: list[Client] = []
    if clients is not None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        words += ["--dashboard", str(port)]
        watching = [Client(port) for _ in range(clients)]
    began = time.monotonic()
    environment = os.environ | {"OPENAI_API_KEY": "any"}
    process = subprocess.Popen(words, cwd=folder, env=environment)
    for client in watching:
        client.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    if os.waitstatus_to_exitcode(status):
        raise SystemExit("error: the run failed")
    for client in watching:
        client.join(10)
        if not client.messages or not client.saw_end:
            raise SystemExit("error: a client has not seen the run")
    written = output.read_bytes().count(b"\n")
    if written != rows:
        raise SystemExit(f"error: {written} of {rows} rows have a line")
    looks = json.loads((folder / "looks.json").read_text())
    began_at = next((at for at, ours, _, _ in looks if ours > 0.01), looks[0][0])
    first = next((look for look in looks if look[0] >= began_at + first_s), looks[-1])
    size = looks[-1][3]
    last = next((look for look, after in pairwise(looks) if after[3] == size), looks[-1])
    if last[0] - first[0] < first_s:
        raise SystemExit("error: the run is too short; more --rows are needed")
    at, ours, others = (last[n] - first[n] for n in range(3))
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "cpu_s": cpu,
        "first_s": first[1],
        "last_s": looks[-1][1] - last[1],
        "ratio": ours / others,
        "ms_per_s": 1000 * ours / at,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each answer takes")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--first", type=float, default=4.0, help="seconds in which the server is loaded")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    ways: dict[str, int | None] = {"none": None, "unwatched": 0, "watched": given.clients}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    kind = "responder" if given.delay else kinds()[0]
    with tempfile.TemporaryDirectory(prefix="dashboard-") as name, serving(kind, given.delay) as url:
        folder = Path(name)
        lines = (f'{{"id":"r{n}","prompt":"Say {n} in words"}}\n' for n in range(given.rows))
        (folder / "in.jsonl").write_text("".join(lines))
        for number in range(given.rounds):
            order = list(ways) if number % 2 == 0 else list(reversed(ways))
            for way in order:
                found[way].append(measure(folder, url, given.rows, clients=ways[way], first_s=given.first))
    head = f"{platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} processors, server {kind}, "
    print(head + f"{given.rows:,} rows, {given.rounds} rounds, answers after {given.delay} s")
    for way, runs in found.items():
        cpu = [one["cpu_s"] for one in runs]
        first, ratio, each, last, seconds = (
            statistics.median(one[name] for one in runs)
            for name in ("first_s", "ratio", "ms_per_s", "last_s", "seconds")
        )
        print(
            f"{way:10} dashboard: {first:.2f} s CPU at first, then {each:5.2f} ms of each second, ratio {ratio:.4f}, "
            f"{last:.2f} s at the end; "
            f"whole run {statistics.median(cpu):6.2f} s CPU ({min(cpu):.2f} to {max(cpu):.2f}), "
            f"{given.rows / seconds:,.0f} rows/s"
        )
    if given.json:
        given.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
