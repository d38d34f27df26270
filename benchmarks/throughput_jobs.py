"""The jobs of ``throughput.py``: JSONL in, requests, JSONL out. Each runs in a process of its own.

    python throughput_jobs.py JOB ROWS OUT BASE_URL CONCURRENCY

prints the seconds and the processor seconds of the job itself, imports left out. They are written as people write
them: none retries, resumes, or survives anything, and what they print of speed is the best they have.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughput_servers import fastest_loop

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionUserMessageParam

Job = Callable[[Path, Path, str, int], Coroutine[Any, Any, None]]

MOST_TASKS = 1000
"""Rows that :func:`asyncio.gather` gets at once where it gets one each."""


def messages(row: dict[str, str]) -> list[ChatCompletionUserMessageParam]:
    return [{"role": "user", "content": row["prompt"]}]


async def bare(rows: Path, out: Path, base: str, concurrency: int) -> None:
    """As many workers as places, each a loop over one file: aiohttp at its best in plain sight."""
    import aiohttp

    source = rows.open()

    async def worker(session: aiohttp.ClientSession) -> None:
        for line in source:
            row = json.loads(line)
            body = {"model": "m", "messages": messages(row)}
            async with session.post(f"{base}/chat/completions", json=body) as response:
                answer = await response.json()
            target.write(json.dumps({"id": row["id"], "response": answer}) + "\n")

    with out.open("w") as target:
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(worker(session) for _ in range(concurrency)))
    source.close()


async def script(rows: Path, out: Path, base: str, concurrency: int) -> None:
    """In the manner of the well-known example script: a loop that starts one task, then sleeps for a millisecond."""
    import aiohttp

    running: set[asyncio.Task[None]] = set()

    async def send(session: aiohttp.ClientSession, row: dict[str, str]) -> None:
        body = {"model": "m", "messages": messages(row)}
        async with session.post(f"{base}/chat/completions", json=body) as response:
            answer = await response.json()
        with out.open("a") as target:
            target.write(json.dumps([row, answer]) + "\n")

    async with aiohttp.ClientSession() as session:
        with rows.open() as source:
            for line in source:
                if len(running) >= concurrency:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                task = asyncio.create_task(send(session, json.loads(line)))
                running.add(task)
                task.add_done_callback(running.discard)
                await asyncio.sleep(0.001)
        if running:
            await asyncio.wait(running)


async def openai_client(rows: Path, out: Path, base: str, concurrency: int) -> None:
    """OpenAI's client, a semaphore and gather."""
    import openai

    await ask_openai(openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0), rows, out, concurrency)


async def openai_on_aiohttp(rows: Path, out: Path, base: str, concurrency: int) -> None:
    """The same over aiohttp, as OpenAI advises for many requests at once."""
    import openai

    http = openai.DefaultAioHttpClient()
    client = openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0, http_client=http)
    await ask_openai(client, rows, out, concurrency)


async def ask_openai(client: openai.AsyncOpenAI, rows: Path, out: Path, concurrency: int) -> None:
    gate = asyncio.Semaphore(concurrency)
    async with client:

        async def send(row: dict[str, str]) -> str:
            async with gate:
                answer = await client.chat.completions.create(model="m", messages=messages(row))
            return json.dumps({"id": row["id"], "response": answer.model_dump()})

        await in_lots(rows, out, send)


async def litellm(rows: Path, out: Path, base: str, concurrency: int) -> None:
    """Litellm's function, a semaphore and gather."""
    import litellm

    gate = asyncio.Semaphore(concurrency)

    async def send(row: dict[str, str]) -> str:
        async with gate:
            answer = await litellm.acompletion(
                model="openai/m", messages=messages(row), api_base=base, api_key="none", num_retries=0
            )
        return json.dumps({"id": row["id"], "response": answer.model_dump()})

    await in_lots(rows, out, send)


async def in_lots(rows: Path, out: Path, send: Callable[[dict[str, str]], Awaitable[str]]) -> None:
    def lots(source: Iterator[str]) -> Iterator[list[str]]:
        while lot := list(islice(source, MOST_TASKS)):
            yield lot

    with rows.open() as source, out.open("w") as target:
        for lot in lots(source):
            for line in await asyncio.gather(*(send(json.loads(line)) for line in lot)):
                target.write(line + "\n")


JOBS: dict[str, tuple[Job, str]] = {
    "bare aiohttp": (bare, "aiohttp"),
    "script": (script, "aiohttp"),
    "openai": (openai_client, "openai"),
    "openai on aiohttp": (openai_on_aiohttp, "openai"),
    "litellm": (litellm, "litellm"),
}
"""What each is and which package it needs."""


def main(name: str, rows: str, out: str, base: str, concurrency: str) -> None:
    job, package = JOBS[name]
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or its import asks the network
    __import__(package)
    with asyncio.Runner(loop_factory=fastest_loop) as runner:
        began, busy = time.perf_counter(), time.process_time()
        runner.run(job(Path(rows), Path(out), base, int(concurrency)))
        print(json.dumps([time.perf_counter() - began, time.process_time() - busy]))


if __name__ == "__main__":
    main(*sys.argv[1:])
