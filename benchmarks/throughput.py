"""Rows a second and CPU a row: llmbatch beside a bare aiohttp loop as people write it, in one run.

Both read the same JSONL and write JSONL, at the same concurrency, against the same instant server in a process of its
own (a hand-made HTTP responder, so that it is not what one waits for). llmbatch runs with everything on: circuit, pace,
retries, time-outs, durable lines. Runs are interleaved; medians and ratios are printed, raw figures with --json.

Bias: loopback, two processes on however many cores there are, small bodies. Only the ratios travel.

    python benchmarks/throughput.py [--rows 10000] [--concurrency 40] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "word " * 70}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 80, "completion_tokens": 90, "total_tokens": 170},
    }
).encode()


class Responder(asyncio.Protocol):
    """Answers every POST with the same body after *delay* seconds; requests are told apart by Content-Length."""

    delay = 0.0
    reply = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.waiting = b""

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        while (head := self.waiting.find(b"\r\n\r\n")) >= 0:
            at = self.waiting.lower().find(b"content-length:", 0, head)
            length = int(self.waiting[at + 15 : self.waiting.find(b"\r\n", at)])
            if len(self.waiting) < head + 4 + length:
                return
            self.waiting = self.waiting[head + 4 + length :]
            if self.delay:
                asyncio.get_running_loop().call_later(self.delay, self.transport.write, self.reply)
            else:
                self.transport.write(self.reply)


def serve(pipe: Connection, delay: float) -> None:
    async def main() -> None:
        Responder.delay = delay
        server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def bare(rows: Path, out: Path, url: str, concurrency: int) -> None:
    import aiohttp

    source = rows.open()

    async def worker(session: aiohttp.ClientSession) -> None:
        for line in source:
            row = json.loads(line)
            body = {"model": "m", "messages": [{"role": "user", "content": row["prompt"]}]}
            async with session.post(url, json=body) as response:
                answer = await response.json()
            target.write(json.dumps({"id": row["id"], "response": answer}) + "\n")

    with out.open("w") as target:
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(worker(session) for _ in range(concurrency)))
    source.close()


async def ours(rows: Path, out: Path, url: str, concurrency: int) -> None:
    from llmbatch import BatchRunner

    runner = BatchRunner("m", base_url=url.removesuffix("/chat/completions"), concurrency=concurrency, environ={})
    summary = await runner.run(rows, out)
    assert summary.exit_code == 0, summary


def measure(pipe: Connection, job: str, rows: Path, out: Path, url: str, concurrency: int) -> None:
    """In a process of its own, so that CPU and peak memory are the job's alone."""
    main = {"bare aiohttp": bare, "llmbatch": ours}[job]
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    before = time.process_time()
    started = time.perf_counter()
    with asyncio.Runner(loop_factory=factory) as loop:
        loop.run(main(rows, out, url, concurrency))
    wall = time.perf_counter() - started
    pipe.send((wall, time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds the server waits before it answers")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs, options.delay), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{mine.recv()}/v1/chat/completions"
    jobs = ["bare aiohttp", "llmbatch"]
    figures: dict[str, list[tuple[float, float, float]]] = {job: [] for job in jobs}
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.jsonl"
            with rows.open("w") as file:
                for number in range(options.rows):
                    file.write(json.dumps({"id": f"r{number}", "prompt": f"{number} " + "words " * 90}) + "\n")
            for round_ in range(options.rounds):
                for job in jobs:
                    here, there = context.Pipe()
                    out = Path(folder) / f"{job}-{round_}.jsonl"
                    child = context.Process(target=measure, args=(there, job, rows, out, url, options.concurrency))
                    child.start()
                    figures[job].append(here.recv())
                    child.join()
                    assert sum(1 for _ in out.open()) == options.rows
    finally:
        server.terminate()
        server.join()
    print(
        f"{options.rows:,} rows, concurrency {options.concurrency}, {options.rounds} rounds, "
        f"Python {platform.python_version()}"
    )
    print(f"{'':14}{'rows/s':>10}{'spread':>16}{'CPU ms/row':>12}{'RSS MB':>8}")
    medians = {}
    for job in jobs:
        rates = sorted(options.rows / wall for wall, _, _ in figures[job])
        cpu = statistics.median(cpu for _, cpu, _ in figures[job]) / options.rows * 1000
        medians[job] = statistics.median(rates), cpu
        peak = max(peak for _, _, peak in figures[job])
        print(f"{job:14}{medians[job][0]:10,.0f}{rates[0]:8,.0f}–{rates[-1]:<7,.0f}{cpu:12.3f}{peak:8.0f}")
    rate, cpu = (medians["llmbatch"][i] / medians["bare aiohttp"][i] for i in (0, 1))
    print(f"llmbatch ÷ bare: rows/s {rate:.2f}, CPU a row {cpu:.2f}")
    if options.json:
        options.json.write_text(json.dumps({"figures": figures, "argv": sys.argv[1:]}))


if __name__ == "__main__":
    main()
