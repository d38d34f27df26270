"""Streams of the official clients through the breaker, over real sockets: what each fault of a provider counts as."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from openai.types.responses import ResponseErrorEvent, ResponseFailedEvent

from llmbatch import CircuitBreaker, CircuitOpenError, judge_llm_chunk, judge_llm_error
from llmbatch.breaker import UnguardedStreamWarning
from llmbatch.sim.scenario import Behavior, Phase, Scenario
from llmbatch.sim.server import SimServer, start

ERRORS: tuple[type[Exception], ...] = (
    openai.OpenAIError,
    anthropic.AnthropicError,
    *(sys.modules[name].HTTPError for name in ("httpx", "httpx2") if name in sys.modules),
)
"""What the clients raise; anthropic's lets a cut in the middle of a stream through as httpx's."""

ASK: Any = [{"role": "user", "content": "Explain how lighthouses guided ships before radar."}]


def breaker_of(**options: Any) -> CircuitBreaker:
    settings: dict[str, Any] = {"failure_threshold": 3, "judge_error": judge_llm_error, "name": "sim"}
    return CircuitBreaker(**settings | options)


async def serve(behavior: Behavior, **params: Any) -> SimServer:
    return await start(scenario=Scenario("always", (Phase(math.inf, behavior, **params),), "always"), latency=0, seed=4)


def openai_chat(client: openai.AsyncOpenAI, breaker: CircuitBreaker, **options: Any) -> Any:
    return breaker.stream(client.chat.completions.create, model="m", messages=ASK, stream=True, **options)


def openai_helper(client: openai.AsyncOpenAI, breaker: CircuitBreaker, **options: Any) -> Any:
    return breaker.stream(client.chat.completions.stream, model="m", messages=ASK, **options)


def openai_responses(client: openai.AsyncOpenAI, breaker: CircuitBreaker, **options: Any) -> Any:
    create = client.responses.create
    return breaker.stream(create, model="m", input="Explain.", stream=True, judge_chunk=judge_llm_chunk, **options)


def anthropic_create(client: anthropic.AsyncAnthropic, breaker: CircuitBreaker, **options: Any) -> Any:
    return breaker.stream(client.messages.create, model="m", max_tokens=50, messages=ASK, stream=True, **options)


def anthropic_helper(client: anthropic.AsyncAnthropic, breaker: CircuitBreaker, **options: Any) -> Any:
    return breaker.stream(client.messages.stream, model="m", max_tokens=50, messages=ASK, **options)


WAYS = [openai_chat, openai_helper, openai_responses, anthropic_create, anthropic_helper]
Way = Callable[..., Any]


def client_of(way: Way, server: SimServer) -> Any:
    if way in (anthropic_create, anthropic_helper):
        return anthropic.AsyncAnthropic(base_url=server.root_url, api_key="any", max_retries=0)
    return openai.AsyncOpenAI(base_url=server.url, api_key="any", max_retries=0)


async def consume(block: Any, leave_after: int | None = None) -> int:
    """Read a stream and return the number of chunks."""
    count = 0
    async with block as chunks:
        async for _ in chunks:
            count += 1
            if count == leave_after:
                break
    return count


@pytest.mark.parametrize("way", WAYS)
async def test_good_streams_count_as_successes(way: Way) -> None:
    """Read to the end, or left after the first chunk; no good chunk is taken for an error."""
    breaker = breaker_of()
    options = {} if way is openai_responses else {"judge_chunk": judge_llm_chunk}
    async with await serve("fine") as server, client_of(way, server) as client:
        for leave_after in (None, 1):
            breaker.acquire().settle("failure")
            assert await consume(way(client, breaker, **options), leave_after) > 0
            assert breaker.failures == 0


FAULTS: list[Any] = [
    ("cut", {}),
    ("stream_error", {}),
    ("down", {}),
    ("errors", {}),
    ("refuse", {}),
    ("html", {}),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("behavior", "params"), FAULTS)
async def test_faults_in_a_stream_open_the_circuit(way: Way, behavior: Behavior, params: dict[str, Any]) -> None:
    """Before the first chunk or in the middle; the fourth stream is refused without a request."""
    breaker = breaker_of()
    async with await serve(behavior, **params) as server, client_of(way, server) as client:
        for failures in (1, 2, 3):
            try:
                await consume(way(client, breaker))
            except ERRORS:
                pass
            else:
                assert (behavior, way) == ("stream_error", openai_responses)  # a chunk like any other
            assert breaker.failures == failures
        with pytest.raises(CircuitOpenError):
            await consume(way(client, breaker))

    assert breaker.state == "open"
    assert server.stats.calls == 3


@pytest.mark.slow  # waits between attempts in real time
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("behavior", ["stream_pause", "hang"])
async def test_an_idle_stream_opens_the_circuit(way: Way, behavior: Behavior) -> None:
    """A pause in the middle, or no first chunk at all."""
    breaker = breaker_of()
    first_timeout = 0.5 if behavior == "hang" else 60.0
    async with await serve(behavior, stall=3600.0) as server, client_of(way, server) as client:
        for failures in (1, 2, 3):
            with pytest.raises(TimeoutError, match=r"within 0\.5 s"):
                await consume(way(client, breaker, idle_timeout=0.5, first_timeout=first_timeout))
            assert breaker.failures == failures

    assert breaker.state == "open"


@pytest.mark.slow  # waits between attempts in real time
async def test_the_read_timeout_of_the_client_in_the_middle_of_a_stream_is_a_failure() -> None:
    """As the client reports it."""
    breaker = breaker_of()
    async with await serve("stream_pause", stall=3600.0) as server, client_of(openai_chat, server) as client:
        with pytest.raises(openai.APIConnectionError):
            await consume(openai_chat(client.with_options(timeout=1), breaker))

    assert breaker.failures == 1


def note_verdict(verdicts: list[Any], event: object) -> None:
    verdicts.append(getattr(event, "verdict", None))


async def test_a_request_that_is_refused_is_no_failure() -> None:
    """The errors before a stream are judged as those of any call: 400 is the request's own, 429 slows down."""
    refusals: list[tuple[Behavior, str]] = [("bad_request", "neutral"), ("throttle", "throttled")]
    for behavior, last in refusals:
        verdicts: list[Any] = []
        breaker = breaker_of()
        breaker.add_listener(functools.partial(note_verdict, verdicts), calls=True)
        async with await serve(behavior) as server, client_of(openai_chat, server) as client:
            with pytest.raises(openai.APIStatusError):
                await consume(openai_chat(client, breaker))
        assert verdicts == [last]


async def test_what_the_helpers_have_beside_the_chunks_is_at_hand() -> None:
    """The final message, once the chunks were read."""
    breaker = breaker_of()
    async with await serve("fine") as server:
        async with client_of(anthropic_helper, server) as client, anthropic_helper(client, breaker) as chunks:
            text = "".join([event.text async for event in chunks if event.type == "text"])
            message = await chunks.stream.get_final_message()
        async with client_of(openai_helper, server) as client, openai_helper(client, breaker) as chunks:
            parts = "".join([event.delta async for event in chunks if event.type == "content.delta"])
            completion = await chunks.stream.get_final_completion()

    assert message.content[0].text == text != ""
    assert completion.choices[0].message.content == parts != ""


async def test_a_stream_through_async_call_is_told(recwarn: pytest.WarningsRecorder) -> None:
    """It counts as a success, whatever comes."""
    breaker = breaker_of()
    async with await serve("cut") as server, client_of(openai_chat, server) as client:
        with pytest.warns(UnguardedStreamWarning, match=r"use `async with breaker\.stream"):
            stream = await breaker.async_call(client.chat.completions.create, model="m", messages=ASK, stream=True)
        with pytest.raises(openai.APIConnectionError):
            [chunk async for chunk in stream]

    assert breaker.failures == 0


FAILED_RESPONSE: Any = {
    "id": "r",
    "object": "response",
    "created_at": 1.0,
    "model": "m",
    "output": [],
    "status": "failed",
    "error": {"code": "server_error", "message": "broken"},
    "parallel_tool_calls": True,
    "tools": [],
    "tool_choice": "auto",
}


ERROR_EVENT = ResponseErrorEvent(type="error", code="server_error", message="broken", param=None, sequence_number=9)


@pytest.mark.parametrize(
    ("chunk", "verdict"),
    [
        ({"error": {"message": "broken", "type": "server_error", "code": None}}, "failure"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "failure"),
        ({"type": "error"}, "failure"),
        (
            ResponseErrorEvent(type="error", code="server_error", message="broken", param=None, sequence_number=9),
            "failure",
        ),
        (ResponseFailedEvent(type="response.failed", response=FAILED_RESPONSE, sequence_number=9), "failure"),
        ({"type": "response.failed", "response": FAILED_RESPONSE}, "failure"),
        ({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None}]}, None),
        ({"choices": [], "usage": {"total_tokens": 5}}, None),
        ({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "error"}}, None),
        ("data: text", None),
        (None, None),
    ],
)
def test_error_chunks_are_told_from_good_ones(chunk: object, verdict: str | None) -> None:
    """Dictionaries and the clients' objects; whatever has no error is good."""
    judgement = judge_llm_chunk(chunk)

    assert (judgement and judgement.verdict) == verdict


# Sync clients, against the command itself.


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[Behavior], str]]:
    """``serving(behavior)`` starts ``llmbatch sim serve`` and gives its base URL."""
    started: list[subprocess.Popen[str]] = []

    def begin(behavior: Behavior) -> str:
        scenario = tmp_path / f"{behavior}.toml"
        scenario.write_text(f'description = "always"\n[[phase]]\nseconds = inf\nbehavior = "{behavior}"\n')
        command = [sys.executable, "-m", "llmbatch", "sim", "serve", "--port", "0", "--latency", "0"]
        process = subprocess.Popen(
            [*command, "--scenario", str(scenario)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("behavior", ["fine", "cut", "stream_error"])
def test_sync_clients_stream_from_sim_serve(serving: Callable[[Behavior], str], behavior: Behavior) -> None:
    """Both clients, from several threads. Slow, for it starts the command."""
    url = serving(behavior)
    breaker = breaker_of(failure_threshold=6)
    errors: list[str] = []

    def ask_openai() -> None:
        with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
            create = client.chat.completions.create
            with breaker.stream(create, model="m", messages=ASK, stream=True) as chunks:
                for _ in chunks:
                    pass

    def ask_anthropic() -> None:
        with anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="any", max_retries=0) as client:
            stream = client.messages.stream
            with breaker.stream(stream, model="m", max_tokens=50, messages=ASK) as chunks:
                for _ in chunks:
                    pass

    def guarded(ask: Callable[[], None]) -> None:
        try:
            ask()
        except ERRORS as error:
            errors.append(type(error).__name__)

    threads = [threading.Thread(target=guarded, args=(ask,)) for ask in [ask_openai, ask_anthropic] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(errors) == (0 if behavior == "fine" else 6)
    assert breaker.state == ("closed" if behavior == "fine" else "open")


@pytest.mark.slow
async def test_a_hundred_streams_at_a_time_count_each_once() -> None:
    """Half of them cut. Slow, for they are a hundred real requests."""
    breaker = breaker_of(failure_threshold=None)
    ended: list[Any] = []
    breaker.add_listener(lambda event: ended.append(getattr(event, "verdict", None)), calls=True)
    async with await serve("cut", share=0.5) as server, client_of(openai_chat, server) as client:

        async def ask(number: int) -> None:
            question: Any = [{"role": "user", "content": f"Question {number}."}]
            create = client.chat.completions.create
            await consume(breaker.stream(create, model="m", messages=question, stream=True))

        done = await asyncio.gather(*map(ask, range(100)), return_exceptions=True)

    failed = sum(isinstance(one, openai.APIConnectionError) for one in done)
    assert 25 <= failed <= 75
    assert (ended.count("failure"), ended.count("success"), len(ended)) == (failed, 100 - failed, 100)
