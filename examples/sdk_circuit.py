"""A circuit under the OpenAI SDK: forty streams through an outage of three seconds. Needs no key, only the SDK."""

from __future__ import annotations

import asyncio
import logging
import sys

from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

from llmbatch import CircuitOpenError
from llmbatch.integrations.httpx2 import AsyncCircuitTransport
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.server import start

refused = 0


async def ask(client: AsyncOpenAI, question: str) -> str:
    """Stream one answer; wait and try again while the provider is down."""
    global refused
    while True:
        try:
            words = []
            stream = await client.chat.completions.create(
                model="gpt-5-mini", messages=[{"role": "user", "content": question}], stream=True
            )
            async with stream as chunks:
                async for chunk in chunks:
                    words.append(chunk.choices[0].delta.content or "")
            return "".join(words)
        except CircuitOpenError as error:  # nothing was sent
            refused += 1
            await asyncio.sleep(error.retry_after)
        except OpenAIError:  # the outage itself, until the circuit opens
            await asyncio.sleep(0.1)


async def main() -> None:
    """Serve a provider that is down for the first three seconds, and ask it forty questions at once."""
    logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("llmbatch").setLevel(logging.INFO)
    async with await start(scenario=Scenario("morning", (Phase(3.0, "down"),), ""), latency=0.05) as server:
        transport = AsyncCircuitTransport(recovery_timeout=1.0)
        http_client = DefaultAsyncHttpxClient(transport=transport)
        async with AsyncOpenAI(base_url=server.url, api_key="any", http_client=http_client, max_retries=0) as client:
            answers = await asyncio.gather(*(ask(client, f"What is {number} squared?") for number in range(40)))
        sent, down = server.stats.calls, server.stats.calls_while_down
    print(f"{len(answers)} answers, {sent} requests, {down} of them while it was down, {refused} refused at once")


asyncio.run(main())
