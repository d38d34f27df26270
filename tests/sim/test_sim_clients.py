"""The official clients take the simulated provider for the real one."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from openai.types.responses import ResponseFunctionToolCall

from llmbatch.sim.scenario import Behavior, Phase, Scenario
from llmbatch.sim.server import SimServer, start

# Servers on loopback, without TLS.
pytestmark = pytest.mark.usefixtures("no_certificates")

ASK: Any = [{"role": "user", "content": "Explain how lighthouses guided ships before radar."}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def text_of(message: anthropic.types.Message) -> str:
    """The text of its first block."""
    block = message.content[0]
    assert isinstance(block, anthropic.types.TextBlock)
    return block.text


@pytest.fixture
async def server() -> AsyncIterator[SimServer]:
    async with await start(latency=0, seed=4) as running:
        yield running


@pytest.fixture
async def client(server: SimServer) -> AsyncIterator[AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=server.url, api_key="any", max_retries=0) as opened:
        yield opened


@pytest.fixture
async def claude(server: SimServer) -> AsyncIterator[AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=server.root_url, api_key="any", max_retries=0) as opened:
        yield opened


async def test_openai_chat(client: AsyncOpenAI) -> None:
    """A chat completion is typed, has usage and a request id."""
    answer = await client.chat.completions.create(model="sim/small", messages=ASK)

    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert (answer._request_id or "").startswith("req_")
    assert answer.model == "sim/small"


async def test_openai_chat_stream_says_what_the_whole_answer_says(client: AsyncOpenAI) -> None:
    """The streamed pieces add up to the unstreamed text, and the last chunk has the usage."""
    whole = await client.chat.completions.create(model="sim/small", messages=ASK)
    stream = await client.chat.completions.create(
        model="sim/small", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage


async def test_openai_chat_calls_a_required_tool(client: AsyncOpenAI) -> None:
    """With tool_choice required, whole and streamed answers call it with arguments that fit."""
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
    asked: dict[str, Any] = {"model": "sim/small", "messages": ASK, "tools": tools, "tool_choice": "required"}

    whole = await client.chat.completions.create(**asked)
    pieces = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]

    call = whole.choices[0].message.tool_calls[0].function
    streamed = [delta.tool_calls[0].function for chunk in pieces if (delta := chunk.choices[0].delta).tool_calls]
    assert whole.choices[0].finish_reason == pieces[-1].choices[0].finish_reason == "tool_calls"
    assert (call.name, set(json.loads(call.arguments))) == ("weather", {"city"})
    assert streamed[0].name == "weather"
    assert "".join(function.arguments for function in streamed) == call.arguments


async def test_openai_json_object(client: AsyncOpenAI) -> None:
    """response_format json_object brings valid JSON."""
    answer = await client.chat.completions.create(
        model="sim/small", messages=ASK, response_format={"type": "json_object"}
    )

    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


async def test_openai_completions(client: AsyncOpenAI) -> None:
    """The old completions endpoint answers, whole and streamed, and keeps to its default of 16 tokens."""
    whole = await client.completions.create(model="sim/small", prompt="Once upon a time")
    stream = await client.completions.create(model="sim/small", prompt="Once upon a time", stream=True)

    text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 16


async def test_openai_responses(client: AsyncOpenAI) -> None:
    """A response has output text and usage; a token limit leaves it incomplete."""
    whole = await client.responses.create(model="sim/small", input="Why do volcanoes erupt?")
    short = await client.responses.create(model="sim/small", input="Why do volcanoes erupt?", max_output_tokens=2)

    assert whole.status == "completed"
    assert whole.usage is not None
    assert whole.usage.output_tokens > 0
    assert short.incomplete_details is not None
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert whole.output_text.startswith(short.output_text)


async def test_openai_responses_stream(client: AsyncOpenAI) -> None:
    """The event stream runs from created to completed, numbered, and adds up to the unstreamed response."""
    whole = await client.responses.create(model="sim/small", input="Why do volcanoes erupt?")
    async with client.responses.stream(model="sim/small", input="Why do volcanoes erupt?") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()

    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == whole.output_text


async def test_openai_responses_stream_a_tool_call(client: AsyncOpenAI) -> None:
    """A demanded function arrives as argument deltas and as an output item."""
    tools: Any = [{"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}]
    async with client.responses.stream(
        model="sim/small", input="Weather?", tools=tools, tool_choice="required"
    ) as stream:
        types = {event.type async for event in stream}
        final = await stream.get_final_response()

    assert "response.function_call_arguments.delta" in types
    call = final.output[0]
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, set(json.loads(call.arguments))) == ("weather", {"city"})


async def test_openai_embeddings_in_both_encodings(client: AsyncOpenAI) -> None:
    """Base64, which the client asks for by itself, and plain numbers are the same vector of length 1."""
    encoded = await client.embeddings.create(model="sim/embed", input=["one", "two"], dimensions=16)
    plain = await client.embeddings.create(model="sim/embed", input="one", dimensions=16, encoding_format="float")

    vector = plain.data[0].embedding
    assert len(encoded.data) == 2
    assert encoded.data[0].embedding == pytest.approx(vector, abs=1e-6)
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-6)


async def test_openai_models(client: AsyncOpenAI) -> None:
    """Scenarios are listed as models."""
    names = [model.id async for model in client.models.list()]

    assert "sim/outage" in names


async def test_anthropic_messages(claude: AsyncAnthropic) -> None:
    """A message is typed, has usage and a request id; a token limit is the stop reason."""
    whole = await claude.messages.create(model="sim/claude", max_tokens=1000, messages=ASK)
    short = await claude.messages.create(model="sim/claude", max_tokens=3, messages=ASK)

    assert text_of(whole).startswith(text_of(short))
    assert (whole.stop_reason, short.stop_reason) == ("end_turn", "max_tokens")
    assert short.usage.output_tokens == 3
    assert (whole._request_id or "").startswith("req_")


async def test_anthropic_stream(claude: AsyncAnthropic) -> None:
    """The streamed message is the unstreamed one, and its events come in Anthropic's order."""
    whole = await claude.messages.create(model="sim/claude", max_tokens=1000, messages=ASK)
    async with claude.messages.stream(model="sim/claude", max_tokens=1000, messages=ASK) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    raw = await claude.messages.create(model="sim/claude", max_tokens=1000, messages=ASK, stream=True)
    types = [event.type async for event in raw]

    assert text == text_of(whole) == text_of(final)
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert types[:2] == ["message_start", "content_block_start"]
    assert types[-3:] == ["content_block_stop", "message_delta", "message_stop"]


async def test_anthropic_calls_a_required_tool(claude: AsyncAnthropic) -> None:
    """A demanded tool is used with arguments that fit, whole and streamed."""
    asked: dict[str, Any] = {
        "model": "sim/claude",
        "max_tokens": 100,
        "messages": ASK,
        "tools": [{"name": "weather", "input_schema": WEATHER}],
        "tool_choice": {"type": "tool", "name": "weather"},
    }

    whole = await claude.messages.create(**asked)
    async with claude.messages.stream(**asked) as stream:
        final = await stream.get_final_message()

    assert whole.stop_reason == final.stop_reason == "tool_use"
    assert whole.content[0].name == "weather"
    assert set(whole.content[0].input) == {"city"}
    used = final.content[0]
    assert isinstance(used, anthropic.types.ToolUseBlock)
    assert used.input == whole.content[0].input


async def test_anthropic_counts_tokens(claude: AsyncAnthropic) -> None:
    """count_tokens agrees with the usage of the message itself."""
    counted = await claude.messages.count_tokens(model="sim/claude", messages=ASK)
    message = await claude.messages.create(model="sim/claude", max_tokens=5, messages=ASK)

    assert counted.input_tokens == message.usage.input_tokens


FAULTS = [
    ("down", openai.InternalServerError, anthropic.InternalServerError),
    ("errors", openai.InternalServerError, anthropic.InternalServerError),
    ("throttle", openai.RateLimitError, anthropic.RateLimitError),
    ("unauthorized", openai.AuthenticationError, anthropic.AuthenticationError),
    ("bad_request", openai.BadRequestError, anthropic.BadRequestError),
    ("quota", openai.RateLimitError, anthropic.APIStatusError),
    ("refuse", openai.APIConnectionError, anthropic.APIConnectionError),
]


@pytest.mark.parametrize(("behavior", "from_openai", "from_anthropic"), FAULTS)
async def test_clients_raise_their_own_errors(
    behavior: Behavior, from_openai: type[Exception], from_anthropic: type[Exception]
) -> None:
    """Each behavior is the exception that users of either client know, and a refused key is never repeated."""
    scenario = Scenario("always", (Phase(math.inf, behavior, retry_after=3),), "always")
    async with await start(scenario=scenario, latency=0) as server:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="sk-secret", max_retries=0) as client:
            with pytest.raises(from_openai) as ours:
                await client.chat.completions.create(model="any", messages=ASK)
        async with anthropic.AsyncAnthropic(base_url=server.root_url, api_key="sk-secret", max_retries=0) as claude:
            with pytest.raises(from_anthropic) as theirs:
                await claude.messages.create(model="any", max_tokens=5, messages=ASK)

    assert "sk-secret" not in f"{ours.value} {theirs.value}"
    if isinstance(ours.value, openai.APIStatusError):
        assert isinstance(theirs.value, anthropic.APIStatusError)
        assert (ours.value.request_id or "").startswith("req_")
        assert (theirs.value.request_id or "").startswith("req_")
    if behavior == "throttle":
        assert isinstance(ours.value, openai.APIStatusError)
        assert isinstance(theirs.value, anthropic.APIStatusError)
        assert ours.value.response.headers["retry-after"] == theirs.value.response.headers["retry-after"] == "3"


async def test_a_required_key_lets_only_its_owner_in() -> None:
    """A server started with a key answers both clients with it and refuses another."""
    async with await start(require_key="right", latency=0) as server:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="right", max_retries=0) as client:
            answer = await client.chat.completions.create(model="any", messages=ASK)
        async with anthropic.AsyncAnthropic(base_url=server.root_url, api_key="right", max_retries=0) as claude:
            message = await claude.messages.create(model="any", max_tokens=5, messages=ASK)
        async with openai.AsyncOpenAI(base_url=server.url, api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(model="any", messages=ASK)

    assert answer.choices[0].message.content
    assert text_of(message)


def test_the_synchronous_openai_client_works_too() -> None:
    """The server also answers a client that blocks, in another thread than the server's."""
    import asyncio

    async def main() -> str | None:
        async with await start(latency=0) as server:

            def ask() -> str | None:
                with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as client:
                    return client.chat.completions.create(model="any", messages=ASK).choices[0].message.content

            return await asyncio.to_thread(ask)

    assert asyncio.run(main())
