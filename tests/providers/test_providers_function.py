"""A user's own coroutine function in place of a provider."""

from __future__ import annotations

import asyncio
import enum
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import pytest

from llmbatch.core.calls import Outcome, Usage
from llmbatch.core.errors import UsageError
from llmbatch.core.ports import first_request
from llmbatch.core.rows import Row
from llmbatch.core.secrets import Mask
from llmbatch.providers.function_provider import FunctionProvider


def a_row(value: object = None, **fields: str) -> Row:
    return Row(7, "0" * 16, '"seven"', fields, value)


async def called(
    fn: Callable[[Any], Awaitable[object]], row: Row | None = None, *, timeout: float = 5.0, **settings: Any
) -> Outcome:
    provider = FunctionProvider(fn, **settings)
    row = row or a_row(1)
    return await provider.call(first_request(provider, row), row, timeout=timeout)


async def echo(row: object) -> object:
    return row


async def test_function_gets_the_callers_own_object() -> None:
    """A row that came from Python reaches the function as it was handed in."""
    thing = object()

    outcome = await called(echo, a_row(thing))

    assert outcome.value is thing
    assert outcome.verdict == "success"


async def test_function_gets_a_dictionary_for_a_row_of_a_file() -> None:
    """Members parsed, with the row's name as id."""
    outcome = await called(echo, a_row(prompt='"hi"', n="[1, 2.5]"))

    assert outcome.value == {"id": "seven", "prompt": "hi", "n": [1, 2.5]}


class Model:
    """Looks like a pydantic model."""

    def model_dump(self, *, mode: str) -> dict[str, str]:
        return {"mode": mode}

    def __str__(self) -> str:
        return "a model"


@pytest.mark.parametrize(
    ("value", "body", "text"),
    [
        ("hé\ud800", "hé\ud800", "hé\ud800"),
        ({"a": [1, None]}, {"a": [1, None]}, None),
        (None, None, None),
        (5, 5, None),
        (Model(), {"mode": "json"}, None),
        ([Model()], [{"mode": "json"}], None),
        ({1}, [1], None),
        (float("nan"), "NaN", None),
    ],
)
async def test_what_it_returns_is_the_body(
    value: Any, body: int | list[dict[str, str]] | str | dict[str, Any] | None, text: str | None
) -> None:
    """JSON where there is a form, else its text, so that no result is lost; a string is also the text."""

    async def fn(row: object) -> object:
        return value

    outcome = await called(fn)

    assert (outcome.verdict, outcome.status, outcome.text) == ("success", 200, text)
    assert outcome.body is not None
    assert json.loads(outcome.body) == body
    assert "\n" not in outcome.body
    outcome.body.encode()


async def test_what_it_raises_is_judged() -> None:
    """An exception is an outcome; one with a status is judged by it."""

    class RateLimitedError(Exception):
        status_code = 429

    async def limited(row: object) -> NoReturn:
        raise RateLimitedError("slow down")

    async def broken(row: object) -> NoReturn:
        raise ConnectionError("gone")

    assert (await called(limited)).verdict == "throttled"
    assert (await called(broken)).verdict == "failure"


async def test_timeout_ends_the_call_and_is_a_failure() -> None:
    """Our deadline cancels the function; a timeout of its own is a failure as well."""
    ended = asyncio.Event()

    async def slow(row: object) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def own(row: object) -> NoReturn:
        raise TimeoutError("mine")

    outcome = await called(slow, timeout=0.02)

    assert (outcome.verdict, outcome.retry) == ("failure", True)
    assert "0.02 s" in outcome.message
    assert ended.is_set()
    assert (await called(own)).verdict == "failure"


async def test_cancellation_passes_through() -> None:
    """Who cancels the call sees it cancelled, and so does the function."""
    seen = []

    async def slow(row: object) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(called(slow))
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


class UnboundProxy:
    """As Flask's and Django's: without its object every question about it raises, its class included."""

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError("working outside of a context")

    def __iter__(self) -> object:
        raise RuntimeError("working outside of a context")

    def __str__(self) -> str:
        raise RuntimeError("working outside of a context")

    __repr__ = __str__


async def test_a_result_that_raises_when_asked_for_its_class_is_an_answer() -> None:
    """The function was called and has returned: another call would be paid for again. The rest of it is kept."""
    whole, part = await called(echo, a_row(UnboundProxy())), await called(echo, a_row([1, UnboundProxy()]))

    assert (whole.verdict, part.verdict) == ("success", "success")
    assert json.loads(whole.body or "") == "<UnboundProxy>"
    assert json.loads(part.body or "") == [1, "<UnboundProxy>"]


async def test_cancellation_from_within_is_an_outcome() -> None:
    """A function that awaits something cancelled has failed; nobody cancelled the call."""

    async def fn(row: object) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    assert (await called(fn)).verdict == "failure"


class Asker:
    async def __call__(self, row: object) -> object:
        return row


@pytest.mark.parametrize("fn", [functools.partial(echo), functools.partial(functools.partial(echo)), Asker(), echo])
async def test_partials_and_callable_objects_are_fine(fn: Callable[[Any], Awaitable[object]]) -> None:
    """Whatever awaits when called."""
    assert (await called(fn, a_row(3))).value == 3


async def generator(row: object) -> AsyncIterator[object]:
    yield row


@pytest.mark.parametrize("fn", [Asker, generator, functools.partial(generator), 5, None])
def test_what_is_no_function_is_refused_at_construction(fn: Any) -> None:
    """A class, a generator or a number: told at once, with what to do."""
    with pytest.raises(UsageError, match=r", not a function|is not a function") as caught:
        FunctionProvider(fn)

    assert caught.value.hint


async def test_canary_calls_the_function_with_the_canarys_row() -> None:
    """With a row to try there is a canary, without one there is none."""
    seen = []

    async def fn(row: object) -> None:
        seen.append(row)

    without = FunctionProvider(fn)
    provider = FunctionProvider(fn, ping_row="ping")
    canary = provider.ping(first_request(provider, a_row(1)))
    assert canary is not None

    outcome = await provider.call(canary, None, timeout=5)

    assert without.ping(first_request(without, a_row(1))) is None
    assert (seen, outcome.verdict) == (["ping"], "success")


def test_route_is_named_after_the_function() -> None:
    """What people see in reports is the function's name, or the one they chose."""
    assert first_request(FunctionProvider(echo), a_row()).route.label == "echo"
    assert first_request(FunctionProvider(functools.partial(echo)), a_row()).route.label == "echo"
    assert first_request(FunctionProvider(Asker()), a_row()).route.label == "Asker"
    assert first_request(FunctionProvider(echo, name="mine"), a_row()).route.label == "mine"


class SdkObject:
    """What OpenAI's and Anthropic's SDKs return: an object that dumps itself."""

    def __init__(self, document: dict[str, object]) -> None:
        self._document = document

    def model_dump(self, **_: object) -> dict[str, object]:
        return self._document


class GoogleResponse:
    """What google-genai returns, as far as it matters: properties, and counts by other names."""

    text = "from google"

    class usage_metadata:  # noqa: N801
        prompt_token_count = 3
        candidates_token_count = 4


class LangchainMessage:
    """An AIMessage."""

    content = "from langchain"
    usage_metadata = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}  # noqa: RUF012


class Hostile:
    """Every property raises."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(name)


class HubOutput(dict[str, object]):
    """What huggingface_hub returns: a dict of a class of its own."""


class Part:
    """An object without a dump, with whatever members it is given."""

    def __init__(self, **members: object) -> None:
        self.__dict__.update(members)


CHAT: dict[str, object] = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "from chat"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
}
MESSAGE: dict[str, object] = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "from claude"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 4},
}


@pytest.mark.parametrize(
    ("value", "text", "usage"),
    [
        (SdkObject(CHAT), "from chat", Usage(3, 4)),
        (SdkObject(MESSAGE), "from claude", Usage(3, 4)),
        (GoogleResponse(), "from google", Usage(3, 4)),
        (LangchainMessage(), "from langchain", Usage(3, 4)),
        (HubOutput(CHAT), "from chat", Usage(3, 4)),
        (Part(choices=[Part(message=Part(content="an object"))]), "an object", None),
        (
            Part(choices=[Part(text="completed")], usage=Part(prompt_tokens=3, completion_tokens=4)),
            "completed",
            Usage(3, 4),
        ),
        (Part(content=[Part(type="thinking"), Part(text="in "), Part(text="parts")]), "in parts", None),
        (Part(message=Part(content="from ollama"), prompt_eval_count=3, eval_count=4), "from ollama", Usage(3, 4)),
        (Part(choices=[]), None, None),
        (Part(choices=3, content=[]), None, None),
        (SdkObject({"anything": 1}), None, None),
        (SdkObject({"choices": [{"message": None}]}), None, None),
        (CHAT, None, None),
        (Hostile(), None, None),
    ],
)
async def test_text_and_usage_of_an_sdk_object_were_null(
    value: GoogleResponse
    | Hostile
    | LangchainMessage
    | SdkObject
    | dict[str, dict[str, int] | list[dict[str, dict[str, str] | int | str]] | str],
    text: str | None,
    usage: Usage | None,
) -> None:
    """They are read from what the objects of SDKs have; plain values are the author's own."""

    async def answer(row: object) -> object:
        return value

    outcome = await called(answer)

    assert (outcome.verdict, outcome.text, outcome.usage) == ("success", text, usage)
    assert outcome.value is value


class Enum(enum.Enum):
    """As google-genai's and proto-plus' finish reasons."""

    STOP = 1
    MAX_TOKENS = 2


class TextEnum(str, enum.Enum):  # noqa: UP042 - as google-genai has it
    STOP = "STOP"
    MAX_TOKENS = "MAX_TOKENS"


def chat_ending(finish: str | None) -> dict[str, object]:
    message = {"role": "assistant", "content": "from chat"}
    return {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


RESPONSE: dict[str, object] = {
    "object": "response",
    "status": "incomplete",
    "incomplete_details": {"reason": "max_output_tokens"},
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "some"}]}],
}


@pytest.mark.parametrize(
    ("value", "finish"),
    [
        (SdkObject(chat_ending("length")), "length"),
        (SdkObject(chat_ending("stop")), None),
        (SdkObject(chat_ending("content_filter")), "content_filter"),
        (SdkObject(MESSAGE | {"stop_reason": "max_tokens"}), "length"),
        (SdkObject(MESSAGE | {"stop_reason": "pause_turn"}), "pause_turn"),
        (SdkObject(RESPONSE), "length"),
        (HubOutput(chat_ending("length")), "length"),
        (Part(choices=[Part(finish_reason="length", message=Part(content="x"))]), "length"),
        (Part(choices=[Part(finish_reason="stop", message=Part(content="x"))]), None),
        (Part(content=[Part(text="x")], stop_reason="max_tokens"), "length"),
        (Part(text="x", candidates=[Part(finish_reason=TextEnum.MAX_TOKENS)]), "length"),
        (Part(text="x", candidates=[Part(finish_reason=Enum.MAX_TOKENS)]), "length"),
        (Part(text="x", candidates=[Part(finish_reason=Enum.STOP)]), None),
        (Part(content="x", response_metadata={"finish_reason": "length"}), "length"),
        (Part(content="x", response_metadata={"stop_reason": "end_turn"}), None),
        (Part(message=Part(content="x"), done_reason="length"), "length"),
        (Part(output_text="x", incomplete_details=Part(reason="max_output_tokens")), "length"),
        (Part(finish_reason=3, choices=7), None),
        (chat_ending("length"), None),
        ("length", None),
        (Hostile(), None),
    ],
)
async def test_why_an_sdk_object_ended_was_told_nowhere(value: object, finish: str | None) -> None:
    """Its finish reason is read where SDKs have it; what a program returns of its own has none."""

    async def answer(row: object) -> object:
        return value

    outcome = await called(answer)

    assert (outcome.verdict, outcome.finish_reason) == ("success", finish)


async def test_an_sdk_object_without_text_has_an_empty_one() -> None:
    """Unless it has a tool call, which needs no text."""

    def answering(**message: object) -> Callable[[object], Awaitable[object]]:
        async def answer(row: object) -> object:
            return SdkObject({"choices": [{"message": message, "finish_reason": "stop"}]})

        return answer

    empty = await called(answering(content=None))
    tool = await called(answering(content=None, tool_calls=[{}]))

    assert (empty.text, tool.text) == ("", None)


async def test_a_key_in_the_words_of_a_lost_connection_is_masked() -> None:
    """Such words are those of the client below, and may hold its headers."""

    async def lose(row: object) -> NoReturn:
        raise RuntimeError("wrapped") from ConnectionResetError("lost after Authorization: Bearer sk-secret-key")

    outcome = await called(lose, mask=Mask(["sk-secret-key"]))

    assert (outcome.verdict, outcome.message) == ("failure", "lost after Authorization: Bearer ***")
