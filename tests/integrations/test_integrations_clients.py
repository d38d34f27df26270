"""What each integration makes of an answer: over real sockets, with real clients, for all of them alike."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import pickle
import re
import zlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol

import pytest
from e2e_sick import GOOD_BODY, Script, SickServer, hang, whole
from integration_clients import CLIENTS, Client, Read, open_client

from llmbatch import CircuitOpenError
from llmbatch.integrations.circuits import Endpoint, ModelCircuits

# Servers on loopback, without TLS.
pytestmark = pytest.mark.usefixtures("no_certificates")


class Post(Protocol):
    """Send a body for a model to a server; a model called sick meets the server's script."""

    def __call__(self, server: SickServer, model: str = "sick", read: Read = "all") -> Awaitable[tuple[int, bytes]]: ...


@pytest.fixture
def circuits() -> ModelCircuits:
    return ModelCircuits(2, 30.0)


@pytest.fixture(params=CLIENTS)
async def client(request: pytest.FixtureRequest, circuits: ModelCircuits) -> AsyncIterator[Client]:
    opened = await open_client(request.param, circuits, timeout=1)
    yield opened
    await opened.aclose()


@pytest.fixture
def post(client: Client) -> Post:
    async def send(server: SickServer, model: str = "sick", read: Read = "all") -> tuple[int, bytes]:
        return await client.post(f"{server.url}/chat", json.dumps({"model": model}).encode(), read)

    return send


def of(circuits: ModelCircuits, server: SickServer, model: str = "sick") -> Any:
    """The circuit of *model* at *server*."""
    return circuits[Endpoint(f"http://127.0.0.1:{server.port}", model)]


def scripts(*answers: bytes | Script) -> Script:
    """One answer after the other; the connection is closed after each."""
    left = list(answers)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = left.pop(0)
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(reader, writer)

    return script


DOWN = whole(b'{"error":{"message":"overloaded"}}', status="503 Service Unavailable")
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


CUT = STREAM + chunk(b'data: {"choices":[]}\n\n')


@pytest.mark.parametrize("answer", [DOWN, whole(b'{"error":{"message":"overloaded"}}')])
async def test_the_log_named_a_private_class_as_what_failed(
    answer: bytes, client: Client, circuits: ModelCircuits, post: Post
) -> None:
    """A user can make nothing of ``_BadAnswer``; every exception that is named in a reason has a public name."""
    async with SickServer(scripts(answer, answer)) as server:
        await post(server)
        await post(server)

        failures = of(circuits, server).explain().last_failures

    assert [failure.error[:1].isalpha() for failure in failures] == [True, True]


async def test_an_outage_opens_the_circuit_and_the_next_request_is_refused(
    client: Client, post: Post, circuits: ModelCircuits
) -> None:
    """The refusal is also the client's own connection error, names the wait, and nothing is sent."""
    async with SickServer(DOWN) as server:
        for _ in range(2):
            assert (await post(server))[0] == 503
        with pytest.raises(client.connection_error) as caught:
            await post(server)

        assert len(server.bodies) == 2
        assert isinstance(caught.value, client.refusal)
        assert isinstance(caught.value, CircuitOpenError)
        assert 29 < caught.value.retry_after <= 30
        assert caught.value.name == f"http://127.0.0.1:{server.port} sick"
        assert str(caught.value).startswith(f"circuit {caught.value.name} is open (2 calls in a row failed), retry in")
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), again.args) == (client.refusal, caught.value.args)


async def test_an_error_answer_reaches_the_caller_whole(post: Post) -> None:
    """Its body was read to judge it, and is there all the same."""
    body = b'{"error":{"message":"' + b"x" * 100_000 + b'"}}'
    async with SickServer(whole(body, status="500 Oh")) as server:
        assert await post(server) == (500, body)


async def test_models_have_circuits_of_their_own(client: Client, post: Post, circuits: ModelCircuits) -> None:
    """One model is down, the other one at the same origin is not."""
    async with SickServer(DOWN) as server:
        for _ in range(2):
            await post(server)
        with pytest.raises(client.refusal):
            await post(server)

        assert await post(server, "well") == (200, GOOD_BODY)
        assert {endpoint.model for endpoint in circuits} == {"sick", "well"}


async def test_a_good_answer_ends_a_streak_of_failures(post: Post, circuits: ModelCircuits) -> None:
    """A whole answer is a success."""
    async with SickServer(scripts(DOWN, whole(), DOWN)) as server:
        await post(server)
        assert of(circuits, server).failures == 1
        assert await post(server) == (200, GOOD_BODY)
        assert of(circuits, server).failures == 0


async def test_a_stream_that_is_cut_is_a_failure(client: Client, post: Post, circuits: ModelCircuits) -> None:
    """The status was good, and the answer was not."""
    async with SickServer(CUT) as server:
        for _ in range(2):
            with pytest.raises(client.error):
                await post(server)
        assert of(circuits, server).state == "open"


@pytest.mark.slow  # two timeouts of 0.2 s
async def test_a_stream_that_falls_silent_is_a_failure(client: Client, post: Post, circuits: ModelCircuits) -> None:
    """The client's own read timeout ends it."""
    async with SickServer(hang(CUT)) as server:
        with pytest.raises(client.error):
            await post(server)
        assert of(circuits, server).failures == 1


async def test_a_server_that_is_not_there_is_a_failure(client: Client, post: Post, circuits: ModelCircuits) -> None:
    """A refused connection."""
    async with SickServer(b"") as server:
        pass
    for _ in range(2):
        with pytest.raises(client.connection_error) as caught:
            await post(server)
        assert not isinstance(caught.value, CircuitOpenError)
    assert of(circuits, server).state == "open"


async def test_a_stream_left_after_some_bytes_is_a_success(post: Post, circuits: ModelCircuits) -> None:
    """An agent that has read enough closes the stream."""
    async with SickServer(scripts(DOWN, hang(CUT))) as server:
        await post(server)
        assert (await post(server, read="some"))[1]
        assert of(circuits, server).failures == 0


async def test_a_stream_left_without_a_byte_says_nothing(post: Post, circuits: ModelCircuits) -> None:
    """Only its head came."""
    async with SickServer(scripts(DOWN, hang(STREAM))) as server:
        await post(server)
        assert (await post(server, read="none"))[0] == 200
        assert of(circuits, server).failures == 1


@pytest.mark.slow  # waits for the client's time limit
@pytest.mark.traced
async def test_a_forgotten_stream_counts_when_it_is_freed(post: Post, circuits: ModelCircuits) -> None:
    """Nothing stays held when an answer is never closed; aiohttp's connection holds its own until the time limit."""
    async with SickServer(scripts(DOWN, hang(CUT))) as server:
        await post(server)
        await post(server, read="forget")
        for _ in range(500):
            gc.collect()
            if not of(circuits, server).failures:
                break
            await asyncio.sleep(0.01)
        assert of(circuits, server).failures == 0


async def test_a_rate_limit_never_opens(post: Post, circuits: ModelCircuits) -> None:
    """429 with a wait, and not the words of an exhausted quota."""
    limited = whole(b"{}", status="429 Too Many Requests", headers=b"Retry-After: 20\r\n")
    async with SickServer(limited) as server:
        for _ in range(10):
            assert (await post(server))[0] == 429
        assert of(circuits, server).state == "closed"


@pytest.mark.parametrize("compressed", [False, True])
async def test_an_exhausted_quota_opens_at_once(
    client: Client, post: Post, circuits: ModelCircuits, compressed: bool
) -> None:
    """The body of a 429 tells it from a rate limit, also a compressed one."""
    body = b'{"error":{"code":"insufficient_quota","message":"You exceeded your current quota."}}'
    sent, headers = (gzip.compress(body), b"Content-Encoding: gzip\r\n") if compressed else (body, b"")
    async with SickServer(whole(sent, status="429 Too Many Requests", headers=headers)) as server:
        assert await post(server) == (429, body)
        assert of(circuits, server).state == "open"


async def test_a_key_that_a_server_repeats_is_not_logged(
    post: Post, circuits: ModelCircuits, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenAI's words for a wrong one."""
    key = "sk-proj-abcdef0123456789"
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {key}.", "code": "invalid_api_key"}})
    async with SickServer(whole(body.encode(), status="401 Unauthorized")) as server:
        for _ in range(2):
            await post(server)
        assert "Incorrect API key provided" in caplog.text
        assert key not in caplog.text + str(of(circuits, server).explain())


async def test_the_wait_that_a_server_names_is_kept(client: Client, post: Post, circuits: ModelCircuits) -> None:
    """An outage that names 90 s is not probed after 30."""
    async with SickServer(whole(b"", status="503 Down", headers=b"Retry-After: 90\r\n")) as server:
        for _ in range(2):
            await post(server)
        with pytest.raises(client.refusal) as caught:
            await post(server)
        assert isinstance(caught.value, CircuitOpenError)
        assert 89 < caught.value.retry_after <= 90


@pytest.mark.parametrize("status", ["400 Bad Request", "422 Unprocessable Entity"])
async def test_a_refused_request_is_no_outage(post: Post, circuits: ModelCircuits, status: str) -> None:
    """It is the caller's own fault."""
    async with SickServer(whole(b'{"error":{"message":"too long"}}', status=status)) as server:
        for _ in range(4):
            await post(server)
        assert of(circuits, server).state == "closed"


@pytest.mark.parametrize(
    "answer",
    [
        whole(b'{"error":{"message":"The engine failed.","type":"server_error"}}'),
        STREAM
        + chunk(b'event: message_start\ndata: {"type":"message_start"}\n\nevent: err')
        + chunk(b'or\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n')
        + chunk(b""),
        STREAM + chunk(b'data: {"error":{"message":"Boom","code":"never_seen"}}\n\n') + chunk(b""),
        STREAM
        + chunk(b'data: {"type":"response.failed","response":{"error":{"code":"server_error","message":"x"}}}\r\n\r\n')
        + chunk(b""),
    ],
    ids=["json", "event of anthropic", "chunk of openai", "failed response"],
)
async def test_an_error_inside_a_good_answer_is_a_failure(post: Post, circuits: ModelCircuits, answer: bytes) -> None:
    """The bytes reach the caller unchanged."""
    async with SickServer(answer) as server:
        for _ in range(2):
            assert b"rror" in (await post(server))[1]
        assert of(circuits, server).state == "open"


def compressed(answer: bytes, how: str) -> bytes:
    """The same answer with its body compressed, in three pieces of no meaning."""
    head, _, body = answer.partition(b"\r\n\r\n")
    packed = gzip.compress(body) if how == "gzip" else zlib.compress(body)
    kind = re.search(rb"Content-Type: [^\r]+", head)
    assert kind is not None
    pieces = [packed[:11], packed[11:40], packed[40:]]
    start = b"HTTP/1.1 200 OK\r\n%s\r\nContent-Encoding: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
    return start % (kind[0], how.encode()) + b"".join(map(chunk, pieces)) + chunk(b"")


@pytest.mark.parametrize("how", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "body",
    [
        b'Content-Type: application/json\r\n\r\n{"error":{"message":"The engine failed.","type":"server_error"}}',
        b"Content-Type: text/event-stream\r\n\r\n"
        + b'data: {"choices":[]}\n\n' * 10_000
        + b'data: {"error":{"message":"Boom","code":"never_seen"}}\n\n',
    ],
    ids=["json", "stream"],
)
async def test_an_error_in_a_compressed_answer_was_not_seen(
    post: Post, circuits: ModelCircuits, body: bytes, how: str
) -> None:
    """What the client asked for, and gets decompressed."""
    async with SickServer(compressed(body, how)) as server:
        for _ in range(2):
            assert b"rror" in (await post(server))[1]
        assert of(circuits, server).state == "open"


async def test_a_compressed_answer_that_is_broken_is_the_clients_error(
    client: Client, post: Post, circuits: ModelCircuits
) -> None:
    """As without a circuit."""
    answer = compressed(b"Content-Type: application/json\r\n\r\n" + GOOD_BODY, "gzip").replace(b"\x1f\x8b", b"xx")
    async with SickServer(answer) as server:
        with pytest.raises(client.error):
            await post(server)


TEXT = rb'"delta":{"content":"\"finish_reason\": \"stop\""}'
CHUNK = b'data: {"choices":[{"index":0,%s,"finish_reason":null}]}\n\n' % TEXT
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
START = b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'


def stream_of(*events: bytes) -> bytes:
    """A stream that is closed in an orderly way after *events*."""
    return STREAM + b"".join(map(chunk, events)) + chunk(b"")


@pytest.mark.parametrize(
    ("whole_stream", "cut_stream"),
    [
        ((CHUNK, FINISH, b"data: [DONE]\n\n"), (CHUNK, CHUNK)),
        ((CHUNK, FINISH), (CHUNK,)),
        ((CHUNK, b"data: [DO", b"NE]\n\n"), (CHUNK, b'data: {"choices":[{"in')),
        ((START, b'event: message_stop\ndata: {"type":"message_stop"}'), (START,)),
        ((b'data: {"type":"response.completed","response":{}}\r\n\r\n',), (b'data: {"type":"response.created"}\n\n',)),
        ((FINISH,), ()),
    ],
    ids=["done", "finish reason", "split", "message_stop", "responses", "empty"],
)
async def test_a_stream_that_ended_early_in_an_orderly_way_was_a_success(
    post: Post, circuits: ModelCircuits, whole_stream: tuple[bytes, ...], cut_stream: tuple[bytes, ...]
) -> None:
    """The caller sees what it always saw; a whole stream has shown that this provider marks its ends."""
    cut = stream_of(*cut_stream)
    async with SickServer(scripts(stream_of(*whole_stream), cut, stream_of(*whole_stream), cut, cut)) as server:
        assert await post(server) == (200, b"".join(whole_stream))
        assert of(circuits, server).failures == 0
        assert await post(server) == (200, b"".join(cut_stream))
        assert of(circuits, server).failures == 1
        await post(server)
        assert of(circuits, server).failures == 0
        for _ in range(2):
            await post(server)
        assert of(circuits, server).state == "open"
        assert "the event stream ended early" in str(of(circuits, server).explain())


async def test_a_server_that_never_marks_the_end_of_its_streams_is_no_outage(
    post: Post, circuits: ModelCircuits
) -> None:
    """Some compatible servers send neither ``[DONE]`` nor a finish reason."""
    async with SickServer(stream_of(CHUNK, CHUNK)) as server:
        for _ in range(5):
            await post(server)
        assert of(circuits, server).failures == 0


@pytest.mark.parametrize("kind", [kind for kind in CLIENTS if kind == "aiohttp" or kind.endswith("async")])
async def test_a_canceled_request_says_nothing(kind: str, circuits: ModelCircuits) -> None:
    """The caller gave up, for whatever reason: neither a success nor a failure."""
    client = await open_client(kind, circuits)
    async with SickServer(scripts(DOWN, hang())) as server:
        await client.post(server.url, b'{"model":"sick"}', "all")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.post(server.url, b'{"model":"sick"}', "all"), 0.1)
        assert len(server.bodies) == 2
        assert of(circuits, server).failures == 1
    await client.aclose()
