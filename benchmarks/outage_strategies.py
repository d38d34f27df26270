"""One way to send a batch, in a process of its own: for ``outage_sim.py``, which starts it and watches it from outside.

Reads its settings as JSON from standard input, sends every prompt, writes a line a row to a file, and ends with what
came of the rows as JSON on standard output. Each way has the strongest settings that its authors recommend, and all of
them the same places, time-out and pool:

* ``threads``: a pool of threads with ``requests``, three attempts, 1 and 2 s of backoff with jitter.
* ``gather``: ``asyncio.gather`` under a semaphore, tenacity's ``wait_random_exponential(1, 60)`` and six attempts, as
  in OpenAI's cookbook.
* ``sdk``: OpenAI's own client with ``max_retries=5`` (its default is 2), gathered under a semaphore.
* ``llmbatch``: ``BatchRunner.run`` with the default policy; only the longest wait between probes is compressed as the
  outage is.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

MODEL = "bench"


@dataclass(frozen=True)
class Order:
    """What to send. Durations are seconds."""

    name: str
    url: str
    requests: int
    concurrency: int
    timeout: float
    recovery_timeout: float
    folder: str
    prompt: str

    def body(self, number: int) -> dict[str, Any]:
        return {"model": MODEL, "messages": [{"role": "user", "content": f"{number} {self.prompt}"}]}


@dataclass
class Came:
    """What came of it. ``circuit`` has (seconds since the first call, state)."""

    good: int = 0
    failed: int = 0
    circuit: list[tuple[float, str]] = field(default_factory=list)


def note(came: Came, out: TextIO, number: int, text: str | None) -> None:
    """Write the row's line at once, as people do who want to keep what they have."""
    came.good += text is not None
    came.failed += text is None
    out.write(json.dumps({"row": number, "text": text}) + "\n")


def threads(order: Order, out: TextIO) -> Came:
    import requests
    from requests.adapters import HTTPAdapter

    came = Came()
    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=order.concurrency))

    def ask(number: int) -> str | None:
        for attempt in range(3):
            if attempt:
                time.sleep(2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            try:
                reply = session.post(f"{order.url}/chat/completions", json=order.body(number), timeout=order.timeout)
                reply.raise_for_status()
                return str(reply.json()["choices"][0]["message"]["content"])
            except (requests.RequestException, KeyError, ValueError):
                continue
        return None

    with ThreadPoolExecutor(order.concurrency) as pool:
        for number, text in enumerate(pool.map(ask, range(order.requests))):
            note(came, out, number, text)
    return came


def gather(order: Order, out: TextIO) -> Came:
    import aiohttp
    from tenacity import RetryError, retry, stop_after_attempt, wait_random_exponential

    came = Came()

    async def main() -> None:
        places = asyncio.Semaphore(order.concurrency)
        timeout = aiohttp.ClientTimeout(total=order.timeout)
        connector = aiohttp.TCPConnector(limit=order.concurrency)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

            @retry(wait=wait_random_exponential(min=1, max=60), stop=stop_after_attempt(6))
            async def ask(number: int) -> str:
                async with session.post(f"{order.url}/chat/completions", json=order.body(number)) as reply:
                    reply.raise_for_status()
                    return str((await reply.json())["choices"][0]["message"]["content"])

            async def one(number: int) -> None:
                async with places:
                    try:
                        note(came, out, number, await ask(number))
                    except RetryError:
                        note(came, out, number, None)

            await asyncio.gather(*(one(number) for number in range(order.requests)))

    asyncio.run(main())
    return came


def sdk(order: Order, out: TextIO) -> Came:
    import openai

    came = Came()

    async def main() -> None:
        places = asyncio.Semaphore(order.concurrency)
        async with openai.AsyncOpenAI(
            base_url=order.url, api_key="none", max_retries=5, timeout=order.timeout
        ) as client:

            async def one(number: int) -> None:
                async with places:
                    try:
                        answer = await client.chat.completions.create(**order.body(number))
                        note(came, out, number, answer.choices[0].message.content)
                    except openai.OpenAIError:
                        note(came, out, number, None)

            await asyncio.gather(*(one(number) for number in range(order.requests)))

    asyncio.run(main())
    return came


def llmbatch(order: Order, out: TextIO) -> Came:
    from llmbatch import BatchRunner
    from llmbatch.core.events import CallSent, CircuitChanged, Event

    came = Came()
    first: list[float] = []

    class Watcher:
        def observe(self, event: Event) -> None:
            if isinstance(event, CallSent) and not first:
                first.append(event.at)
            elif isinstance(event, CircuitChanged):
                came.circuit.append((event.at - first[0], event.new))

    prompts = Path(order.folder, "llmbatch.jsonl")
    with prompts.open("w") as rows:
        for number in range(order.requests):
            rows.write(json.dumps(order.body(number)) + "\n")
    runner = BatchRunner(
        base_url=order.url,
        concurrency=order.concurrency,
        timeout=order.timeout,
        recovery_timeout=order.recovery_timeout,
        observers=[Watcher()],
        environ={},
    )
    summary = runner.run_sync(prompts, out.name + ".llmbatch")
    came.good, came.failed = summary.success, summary.failed
    return came


STRATEGIES: dict[str, Callable[[Order, TextIO], Came]] = {
    "threads": threads,
    "gather": gather,
    "sdk": sdk,
    "llmbatch": llmbatch,
}


def main() -> None:
    order = Order(**json.loads(sys.stdin.readline()))
    started = time.monotonic()
    with Path(order.folder, f"{order.name}.out").open("w") as out:
        came = STRATEGIES[order.name](order, out)
    print(json.dumps(asdict(came) | {"seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    main()
