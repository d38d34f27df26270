"""Rows that are objects, over real HTTP: what the server gets, and what fails alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import anthropic.types
import pydantic
import pytest
from aiohttp import web
from openai.types.chat import ChatCompletionMessage

from llmbatch import BatchRunner, Result


class Question(pydantic.BaseModel):
    prompt: str
    temperature: float = 0.5
    id: str | None = None
    stop: list[str] | None = None


class Role(StrEnum):
    USER = "user"


@dataclass
class Message:
    content: str
    role: Role = Role.USER


@dataclass
class Talk:
    messages: list[Message]
    id: UUID = field(default_factory=lambda: UUID(int=5))
    metadata: dict[str, object] = field(default_factory=dict)


class Server:
    """Answers chat requests, and keeps their bodies."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        message = {"role": "assistant", "content": "fine"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield server
    await runner.cleanup()


async def sent(server: Server, *rows: object) -> list[Result]:
    runner = BatchRunner("m", base_url=server.url, environ={}, concurrency=1)
    return await runner.map(list(rows))


async def test_models_and_dataclasses_as_rows_were_input_bad_json(server: Server) -> None:
    """Defaults that the author of the model chose are sent; None that nobody set is not."""
    talk = Talk([Message("hello")], metadata={"when": datetime(2026, 11, 27, tzinfo=UTC), "file": Path("a/b")})

    results = await sent(server, Question(prompt="why?", id="q1"), talk)

    assert [result.status for result in results] == ["success", "success"]
    assert [result.id for result in results] == ["q1", str(UUID(int=5))]
    assert isinstance(results[0].row, Question)
    assert json.loads(results[1].metadata_json or "") == {"when": "2026-11-27T00:00:00+00:00", "file": "a/b"}
    assert server.bodies[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "why?"}],
        "temperature": 0.5,
    }
    assert server.bodies[1] == {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


async def test_messages_of_sdks_in_a_conversation_were_input_bad_json(server: Server) -> None:
    """An agent appends what the SDK returned to its messages, and sends them again."""
    reply = ChatCompletionMessage(role="assistant", content="hi")
    block = anthropic.types.TextBlock(type="text", text="and now?")
    messages = [{"role": "user", "content": "hello"}, reply, {"role": "user", "content": [block]}]

    results = await sent(server, {"messages": messages, "temperature": Decimal("0.2")}, messages)

    assert [result.error_message for result in results] == [None, None]
    expected = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": [{"type": "text", "text": "and now?"}]},
    ]
    assert [body["messages"] for body in server.bodies] == [expected, expected]
    assert server.bodies[0]["temperature"] == 0.2


class Record(NamedTuple):
    """As of ``DataFrame.itertuples()``."""

    prompt: str
    id: str


async def test_a_named_tuple_as_a_row_was_a_list_of_no_messages(server: Server) -> None:
    results = await sent(server, Record("why?", "r1"))

    assert [(result.id, result.status) for result in results] == [("r1", "success")]
    assert results[0].row == Record("why?", "r1")
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "why?"}]


class Broken(pydantic.BaseModel):
    prompt: str = "p"

    @pydantic.model_serializer
    def dump(self) -> dict[str, object]:
        raise RuntimeError("no form today")


async def test_a_row_without_a_json_form_fails_alone_and_says_where(server: Server) -> None:
    """The rows around it are sent."""
    rows = [
        {"id": "a", "messages": [{"role": "user", "content": b"\xff"}]},
        {"id": "b", "prompt": object()},
        Broken(),
        {"id": "d", "prompt": "p", "metadata": {"n": 10**5000}},
        {"id": "e", "prompt": "fine"},
    ]

    results = await sent(server, *rows)

    assert [result.error_code for result in results] == ["input_bad_json"] * 4 + [None]
    assert [result.id for result in results] == ["a", "b", "row-3", "d", "e"]
    assert "messages[0].content: bytes has no JSON form" in (results[0].error_message or "")
    assert "prompt: object has no JSON form" in (results[1].error_message or "")
    assert "no form today" in (results[2].error_message or "")
    assert "metadata.n: an integer of more than 4,300 digits" in (results[3].error_message or "")
    assert [result.row for result in results] == rows


async def test_objects_reach_a_function_as_they_are_and_keep_their_id() -> None:
    """Nothing is converted; the id is found in a member of the name."""

    async def call(row: object) -> str:
        return type(row).__name__

    rows = [Question(prompt="p", id="q7"), Talk([]), {"id": "x", "image": b"\xff"}]

    results = await BatchRunner(call).map(rows)

    assert [result.value for result in results] == ["Question", "Talk", "dict"]
    assert [result.id for result in results] == ["q7", "row-2", "x"]
    assert all(result.row is row for result, row in zip(results, rows, strict=True))
