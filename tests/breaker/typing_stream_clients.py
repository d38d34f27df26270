"""What a type checker makes of the clients' streams through the breaker: checked by mypy, never run.

Apart from typing_breaker.py, which a test checks without a cache: the clients alone would take it minutes.
The first overload of the clients' methods is for whole answers; the chunks must have the type of the right one.
"""

from __future__ import annotations

from typing import Any, assert_type

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk

from llmbatch.breaker import CircuitBreaker

breaker = CircuitBreaker()


async def use_clients(client: AsyncOpenAI, claude: AsyncAnthropic, sync: OpenAI) -> None:
    create = client.chat.completions.create
    async with breaker.stream(create, model="m", messages=[], stream=True) as completions:
        async for completion in completions:
            assert_type(completion, ChatCompletionChunk)
    async with breaker.stream(claude.messages.stream, model="m", max_tokens=5, messages=[]) as events:
        async for event in events:
            assert event.type
    async with breaker.stream(create, model="m", messages=[], stream=True, idle_timeout=30.0) as completions:
        async for completion in completions:
            assert_type(completion, Any)
    with breaker.stream(sync.chat.completions.create, model="m", messages=[], stream=True) as sync_completions:
        for completion in sync_completions:
            assert_type(completion, ChatCompletionChunk)
