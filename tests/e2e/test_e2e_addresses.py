"""Wrong addresses and servers with habits of their own, over real sockets: what comes back says what to type."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from e2e_recorder import Arrival, Recorder, answer

from llmbatch import BatchRunner
from llmbatch.core.events import Event, Notice


@pytest.fixture
def server() -> Iterator[Recorder]:
    """A server on loopback."""
    recorder = Recorder()
    yield recorder
    recorder.close()


def inputs(tmp_path: Path, rows: int, member: str = "prompt") -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({member: f"row {number}"}) + "\n" for number in range(rows)))
    return path


async def test_https_to_a_port_without_tls_is_no_wrong_certificate(tmp_path: Path) -> None:
    """Exit code 3, and the other scheme."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)  # what any HTTP server makes of a TLS greeting
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as plain:
        url = f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}/v1"
        summary = await BatchRunner("m", base_url=url, environ={}).run(inputs(tmp_path, 3))

    assert summary.exit_code == 3
    assert summary.stopped_reason is not None
    assert "speaks no TLS" in summary.stopped_reason
    assert "this port speaks no TLS: try http://" in summary.advice
    assert "certificate" not in summary.stopped_reason + summary.advice
    assert summary.failed == 0


@pytest.mark.parametrize("end", ["/chat/completions", "/chat/completions/"])
async def test_the_url_of_an_endpoint_is_understood_as_the_base_url(tmp_path: Path, server: Recorder, end: str) -> None:
    """The path is not doubled."""
    summary = await BatchRunner("m", base_url=server.url + end, environ={}).run(inputs(tmp_path, 2))

    assert summary.exit_code == 0
    assert {arrival.path for arrival in server.arrivals} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, "Llama model must be created with embedding=True to call this method"),
        (500, "this model does not support embeddings"),
        (501, "This server does not support embeddings. Start it with `--embeddings`"),
    ],
)
async def test_a_model_without_embeddings_is_not_waited_for_as_an_outage(
    tmp_path: Path, server: Recorder, status: int, message: str
) -> None:
    """Of llama-cpp-python, Ollama and llama.cpp: never answered yet, so it stops, with the message."""
    server.respond = lambda _: (status, json.dumps({"error": {"message": message, "type": "server_error"}}).encode())
    runner = BatchRunner("m", base_url=server.url, endpoint="embeddings", environ={})

    summary = await runner.run(inputs(tmp_path, 20, "input"))

    assert (summary.exit_code, summary.failed) == (3, 0)
    assert message in (summary.stopped_reason or "")


def streaming(arrival: Arrival) -> tuple[int, bytes]:
    """As ``transformers serve``: an event stream, unless the request says that it wants none."""
    if json.loads(arrival.body).get("stream") is False:
        return answer(arrival)
    if arrival.path.endswith("/responses"):
        _, whole = answer(arrival)
        event = {"type": "response.completed", "response": json.loads(whole)}
        return 200, f"event: response.completed\ndata: {json.dumps(event)}\n\n".encode()
    chunk = {"id": "c", "object": "chat.completion.chunk"}
    first = chunk | {"choices": [{"index": 0, "delta": {"content": "ok"}}]}
    last = chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return 200, f"data: {json.dumps(first)}\n\ndata: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode()


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
async def test_a_server_that_streams_unasked_is_asked_not_to(
    tmp_path: Path, server: Recorder, endpoint: Literal["chat", "responses"]
) -> None:
    """Its first answer is read to its end; then requests say ``stream: false``."""
    server.respond = streaming
    runner = BatchRunner("m", base_url=server.url, endpoint=endpoint, environ={}, concurrency=1)

    summary = await runner.run(inputs(tmp_path, 12), tmp_path / "out.jsonl")

    assert (summary.exit_code, summary.success) == (0, 12)
    assert [json.loads(body).get("stream") for body in server.bodies] == [None] + [False] * 11
    lines = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert {line["text"] for line in lines} == {"ok"}


async def test_a_server_that_does_not_stream_is_told_nothing(tmp_path: Path, server: Recorder) -> None:
    """It may not know the parameter."""
    summary = await BatchRunner("m", base_url=server.url, environ={}, concurrency=1).run(inputs(tmp_path, 3))

    assert summary.exit_code == 0
    assert [json.loads(body).get("stream") for body in server.bodies] == [None] * 3


async def test_a_batch_row_keeps_its_bytes_where_the_server_streams(tmp_path: Path, server: Recorder) -> None:
    """It is sent as it stands; its streams are read."""
    server.respond = streaming
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    path = tmp_path / "batch.jsonl"
    path.write_text((json.dumps({"custom_id": "a", "url": "/v1/chat/completions", "body": body}) + "\n") * 4)

    summary = await BatchRunner(base_url=server.url, environ={}, concurrency=1).run(path)

    assert (summary.exit_code, summary.success) == (0, 4)
    assert [json.loads(sent) for sent in server.bodies] == [body] * 4


async def test_a_404_did_not_name_endpoint_where_rows_with_an_input_went_to_responses(
    tmp_path: Path, server: Recorder
) -> None:
    """``{"input": …}`` with a model whose name says nothing of embeddings: the wire format is the likely cause."""
    server.respond = lambda _: (404, b'{"detail":"Not Found"}')

    summary = await BatchRunner("bge-m3", base_url=server.url, environ={}).run(inputs(tmp_path, 20, "input"))

    assert {arrival.path for arrival in server.arrivals} == {"/v1/responses"}
    assert (summary.exit_code, summary.failed) == (3, 0)
    assert summary.advice.startswith(
        "rows with an input went to /v1/responses: for a model of embeddings add --endpoint embeddings; else check"
    )


@pytest.mark.parametrize(
    ("member", "body"),
    [
        ("prompt", {"detail": "Not Found"}),
        ("input", {"error": {"code": "model_not_found", "message": "The model `m` does not exist"}}),
    ],
)
async def test_a_404_whose_likely_cause_is_another_names_that_first(
    tmp_path: Path, server: Recorder, member: str, body: object
) -> None:
    """Rows of chats, and a server that says that it has no such model: the model and the base URL come first."""
    server.respond = lambda _: (404, json.dumps(body).encode())

    summary = await BatchRunner("m", base_url=server.url, environ={}).run(inputs(tmp_path, 20, member))

    assert (summary.exit_code, summary.failed) == (3, 0)
    assert summary.advice.startswith("check the model's name and access to it, and the base URL (a missing /v1?)")
    assert "--endpoint" in summary.advice


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({}, "no key was sent: name the environment variable that holds it (--api-key-env NAME)"),
        ({"api_key_env": "OPENAI_API_KEY"}, "check the API key: is it set, complete, not revoked"),
        ({"headers": {"X-Gateway-Key": "$OPENAI_API_KEY"}}, "check the API key: is it set, complete, not revoked"),
    ],
    ids=["none", "named", "in a header"],
)
async def test_a_key_that_was_not_sent_was_to_be_checked(
    tmp_path: Path, server: Recorder, settings: dict[str, Any], hint: str
) -> None:
    """A server of one's own gets no key unless its variable is named, also where one is set."""
    server.respond = lambda _: (401, b'{"error": {"message": "Missing API key", "code": "invalid_api_key"}}')
    environ = {"OPENAI_API_KEY": "sk-0123456789abcdef"}

    runner = BatchRunner("m", base_url=server.url, environ=environ, **settings)
    summary = await runner.run(inputs(tmp_path, 3))

    assert (summary.exit_code, summary.failed) == (3, 0)
    assert summary.advice.startswith(hint)


class Notices:
    """Keeps the notices of a run, and stops it at the first one."""

    def __init__(self) -> None:
        self.seen: list[Notice] = []
        self.runner: BatchRunner | None = None

    def observe(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.seen.append(event)
            assert self.runner is not None
            self.runner.stop(now=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "what"),
    [
        (b"<!doctype html><title>Open WebUI</title>", "web pages (HTML answer: Open WebUI)"),
        (b"", "empty answers"),
        (b'{"ok": true}', "JSON of another kind (a success status without choices)"),
        (b"pong", "something other than a JSON object (pong)"),
    ],
)
async def test_an_address_that_is_no_apis_was_told_as_an_outage_and_probed_for_ever(
    tmp_path: Path, server: Recorder, page: bytes, what: str
) -> None:
    """A login page or another server: told with its words, given up (exit 75). Slow: three attempts a row."""
    server.respond = lambda _: (200, page)
    notices: list[Notice] = []

    class Keep:
        def observe(self, event: Event) -> None:
            if isinstance(event, Notice):
                notices.append(event)

    runner = BatchRunner("m", base_url=server.url, environ={}, observers=[Keep()], max_outage=8.0)

    summary = await runner.run(inputs(tmp_path, 12))

    assert (summary.exit_code, summary.failed, summary.deferred) == (75, 0, 12)
    assert notices[0].message == f"m has never answered as an API does, but with {what}"
    assert notices[0].hint == "is the address right (--base-url)? still trying, for --max-outage 8 s at most"
    assert "is the address right?" in (summary.stopped_reason or "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("greeting", "what"),
    [(b"SSH-2.0-OpenSSH_8.9\r\n", "something other than HTTP"), (b"", "closed connections")],
    ids=["another protocol", "nothing"],
)
async def test_a_port_of_another_service_was_told_as_an_outage(tmp_path: Path, greeting: bytes, what: str) -> None:
    """SSH, mail, a database: told with a question about the address. Slow: three attempts a row."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(greeting)
        await writer.drain()
        writer.close()

    notices = Notices()
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as service:
        url = f"http://127.0.0.1:{service.sockets[0].getsockname()[1]}/v1"
        notices.runner = BatchRunner("m", base_url=url, environ={}, observers=[notices])
        summary = await notices.runner.run(inputs(tmp_path, 12))

    assert summary.failed == 0
    assert notices.seen[0].message.startswith(f"m has never answered as an API does, but with {what} (")
    assert notices.seen[0].hint == "is the address right (--base-url)? still trying, for 10 minutes at most"


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize(
    ("max_outage", "most"), [(None, "for 10 minutes at most"), (3600.0, "for --max-outage 3600 s at most")]
)
async def test_a_wrong_port_was_waited_for_as_in_an_outage(
    tmp_path: Path, rows: int, max_outage: float | None, most: str
) -> None:
    """It has never answered: the address may be wrong, and how long it is tried is told. Slow: three attempts a row."""
    notices = Notices()
    runner = BatchRunner("m", base_url="http://127.0.0.1:1/v1", environ={}, observers=[notices], max_outage=max_outage)
    notices.runner = runner

    summary = await runner.run(inputs(tmp_path, rows))

    assert summary.failed == 0
    assert [notice.message for notice in notices.seen] == ["m has never answered"]
    assert notices.seen[0].hint == f"is the address right, and is the server up? still trying, {most}"
