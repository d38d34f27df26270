"""The official clients take the simulated batch APIs for the real ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import httpx
import openai
import pytest
from anthropic import AsyncAnthropic
from anthropic.types.messages import MessageBatch
from openai import AsyncOpenAI
from openai.types import Batch

from llmbatch.sim.batches.rules import BatchFault, BatchRules
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.server import SimServer, start

# Servers on loopback, without TLS.
pytestmark = pytest.mark.usefixtures("no_certificates")

ENDED = ("completed", "failed", "expired", "cancelled")


def openai_lines(count: int, url: str = "/v1/chat/completions") -> bytes:
    """An input file of *count* rows."""
    rows = (
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": url,
            "body": {"model": "sim/small", "messages": [{"role": "user", "content": f"Tell of row {number}"}]},
        }
        for number in range(1, count + 1)
    )
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def anthropic_requests(count: int) -> list[Any]:
    """The requests of a message batch."""
    return [
        {
            "custom_id": f"r{number}",
            "params": {
                "model": "sim/claude",
                "max_tokens": 100,
                "messages": [{"role": "user", "content": f"Tell of row {number}"}],
            },
        }
        for number in range(1, count + 1)
    ]


async def openai_batch(client: AsyncOpenAI, file_id: str) -> Batch:
    """A new batch of the rows in a file."""
    return await client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")


async def openai_ended(client: AsyncOpenAI, batch_id: str) -> Batch:
    """The batch once nothing changes any more."""
    while (batch := await client.batches.retrieve(batch_id)).status not in ENDED:
        await asyncio.sleep(0.01)
    return batch


async def anthropic_ended(claude: AsyncAnthropic, batch_id: str) -> MessageBatch:
    """The batch once nothing changes any more."""
    while (batch := await claude.messages.batches.retrieve(batch_id)).processing_status != "ended":
        await asyncio.sleep(0.01)
    return batch


def text_of(body: dict[str, Any]) -> str:
    """The text of a chat completion."""
    return str(body["choices"][0]["message"]["content"])


@pytest.fixture
async def server() -> AsyncIterator[SimServer]:
    rules = BatchRules(validate_s=0.05, finalize_s=0.01, cancel_s=0.01)
    scenario = Scenario("quick", (), "quick", batch=rules)
    async with await start(latency=0, seed=4, scenario=scenario, keep_ledger=True) as running:
        yield running


@pytest.fixture
async def client(server: SimServer) -> AsyncIterator[AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=server.url, api_key="any", max_retries=0) as opened:
        yield opened


@pytest.fixture
async def claude(server: SimServer) -> AsyncIterator[AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=server.root_url, api_key="any", max_retries=0) as opened:
        yield opened


async def test_openai_batch_from_upload_to_results(client: AsyncOpenAI, server: SimServer) -> None:
    """Upload, wait for processing, create, list, retrieve until it has ended, read the output, delete."""
    file = await client.files.create(file=("rows.jsonl", openai_lines(20)), purpose="batch")
    processed = await client.files.wait_for_processing(file.id, poll_interval=0.01)
    created = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"llmbatch": "01"}
    )
    listed = [each async for each in client.batches.list()]
    batch = await openai_ended(client, created.id)
    output = await client.files.content(batch.output_file_id or "")
    deleted = await client.files.delete(file.id)
    left = [each.filename async for each in client.files.list()]

    rows = [json.loads(line) for line in output.text.splitlines()]
    live = await client.chat.completions.create(
        model="sim/small", messages=[{"role": "user", "content": "Tell of row 7"}]
    )
    answer = next(row for row in rows if row["custom_id"] == "r7")["response"]
    assert (processed.status, processed.filename, processed.bytes) == ("processed", "rows.jsonl", len(openai_lines(20)))
    assert (created.status, listed[0].id, listed[0].metadata) == ("validating", created.id, {"llmbatch": "01"})
    assert (batch.status, batch.request_counts and batch.request_counts.completed) == ("completed", 20)
    assert (batch.error_file_id, batch.errors) == (None, None)
    assert sorted(row["custom_id"] for row in rows) == sorted(f"r{number}" for number in range(1, 21))
    assert [row["custom_id"] for row in rows] != [f"r{number}" for number in range(1, 21)], "results are unordered"
    assert (answer["status_code"], live.choices[0].message.content) == (200, text_of(answer["body"]))
    assert deleted.deleted
    assert left == [f"{batch.id}_output.jsonl"]
    assert server.provider.ledger is not None
    assert (server.provider.ledger.rows, server.provider.ledger.both) == (20, 1)


async def test_openai_pages_of_batches_follow_each_other(client: AsyncOpenAI) -> None:
    """The newest batch comes first, and no page repeats or loses one."""
    file = await client.files.create(file=("rows.jsonl", openai_lines(2)), purpose="batch")
    made = [await openai_batch(client, file.id) for _ in range(5)]

    listed = [each.id async for each in client.batches.list(limit=2)]

    assert listed == [batch.id for batch in reversed(made)]


@pytest.fixture
async def slow_server() -> AsyncIterator[SimServer]:
    """A server whose batches do not end by themselves."""
    scenario = Scenario("slow", (), "slow", batch=BatchRules(validate_s=3600, cancel_s=0.01))
    async with await start(latency=0, scenario=scenario) as running:
        yield running


async def test_openai_batch_is_cancelled(slow_server: SimServer) -> None:
    """A batch that is cancelled ends so, and what did not run says so in the error file."""
    client = openai.AsyncOpenAI(base_url=slow_server.url, api_key="any", max_retries=0)
    file = await client.files.create(file=("rows.jsonl", openai_lines(3)), purpose="batch")
    batch = await openai_batch(client, file.id)

    cancelling = await client.batches.cancel(batch.id)
    ended = await openai_ended(client, batch.id)
    errors = await client.files.content(ended.error_file_id or "")
    with pytest.raises(openai.ConflictError):
        await client.batches.cancel(batch.id)

    lines = [json.loads(line) for line in errors.text.splitlines()]
    assert (cancelling.status, ended.status, ended.output_file_id) == ("cancelling", "cancelled", None)
    assert {(line["response"], line["error"]["code"]) for line in lines} == {(None, "batch_cancelled")}
    assert len(lines) == 3


async def test_openai_errors_have_their_shape(client: AsyncOpenAI) -> None:
    """Unknown ids are 404, bad requests 400; each says what is wrong."""
    with pytest.raises(openai.NotFoundError, match="No batch found"):
        await client.batches.retrieve("batch_none")
    with pytest.raises(openai.NotFoundError, match="No such File"):
        await client.files.content("file-none")
    with pytest.raises(openai.BadRequestError, match="file-none") as refused:
        await openai_batch(client, "file-none")

    assert refused.value.param == "input_file_id"


async def test_anthropic_batch_from_creation_to_results(claude: AsyncAnthropic, server: SimServer) -> None:
    """Create, list, retrieve until it has ended, follow the results' address, delete."""
    created = await claude.messages.batches.create(requests=anthropic_requests(20))
    listed = [each.id async for each in claude.messages.batches.list()]
    batch = await anthropic_ended(claude, created.id)
    results = [each async for each in await claude.messages.batches.results(batch.id)]
    deleted = await claude.messages.batches.delete(batch.id)
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.batches.retrieve(batch.id)

    assert (created.processing_status, created.request_counts.processing, created.results_url) == (
        "in_progress",
        20,
        None,
    )
    assert listed == [batch.id]
    assert (batch.request_counts.succeeded, batch.request_counts.processing) == (20, 0)
    assert (batch.results_url or "").startswith(server.root_url)
    assert {each.custom_id for each in results} == {f"r{number}" for number in range(1, 21)}
    assert {each.result.type for each in results} == {"succeeded"}
    assert isinstance(results[0].result, anthropic.types.messages.MessageBatchSucceededResult)
    assert results[0].result.message.usage.service_tier == "batch"
    assert (deleted.id, deleted.type) == (batch.id, "message_batch_deleted")


async def test_anthropic_pages_of_batches_follow_each_other(claude: AsyncAnthropic) -> None:
    """The newest batch comes first, and no page repeats or loses one."""
    made = [(await claude.messages.batches.create(requests=anthropic_requests(1))).id for _ in range(5)]

    listed = [each.id async for each in claude.messages.batches.list(limit=2)]

    assert listed == made[::-1]


async def test_anthropic_batch_is_canceled(slow_server: SimServer) -> None:
    """A batch that is canceled ends, with a result for each row."""
    claude = anthropic.AsyncAnthropic(base_url=slow_server.root_url, api_key="any", max_retries=0)
    batch = await claude.messages.batches.create(requests=anthropic_requests(3))

    canceling = await claude.messages.batches.cancel(batch.id)
    ended = await anthropic_ended(claude, batch.id)
    results = [each.result.type async for each in await claude.messages.batches.results(batch.id)]

    assert (canceling.processing_status, canceling.request_counts.processing) == ("canceling", 3)
    assert (ended.request_counts.canceled, results) == (3, ["canceled"] * 3)


async def test_anthropic_errors_have_their_shape(claude: AsyncAnthropic) -> None:
    """Unknown ids are 404, bad requests 400 that name the request; each has a request id."""
    with pytest.raises(anthropic.NotFoundError) as unknown:
        await claude.messages.batches.retrieve("msgbatch_none")
    with pytest.raises(anthropic.BadRequestError, match=r"requests\.1\.custom_id"):
        await claude.messages.batches.create(requests=anthropic_requests(1) * 2)

    assert unknown.value.request_id is not None
    assert isinstance(unknown.value.body, dict)
    assert unknown.value.body["error"]["type"] == "not_found_error"


async def test_both_headers_carry_a_key(server: SimServer) -> None:
    """Bearer and ``x-api-key`` are both taken for the key; a wrong one is 401 in the provider's shape."""
    async with await start(latency=0, require_key="right") as guarded, aiohttp.ClientSession() as session:
        seen = []
        for headers in ({"Authorization": "Bearer right"}, {"x-api-key": "right"}, {"x-api-key": "wrong"}):
            for path in ("/v1/batches", "/v1/messages/batches"):
                response = await session.get(f"{guarded.root_url}{path}", headers=headers)
                seen.append((response.status, set(await response.json())))

    assert [status for status, _ in seen] == [200, 200, 200, 200, 401, 401]
    assert [members for _, members in seen[4:]] == [{"error"}, {"type", "error", "request_id"}]


async def test_the_faults_of_connections_are_real_ones() -> None:
    """A lost create closes the connection, a torn download ends before its length; the client sees an error."""
    faults = (BatchFault("create_lost", batches=(1,)), BatchFault("torn", batches=(1,)))
    scenario = Scenario("torn", (), "torn", batch=BatchRules(validate_s=0, finalize_s=0, faults=faults))
    async with (
        await start(latency=0, scenario=scenario) as server,
        openai.AsyncOpenAI(base_url=server.url, api_key="any", max_retries=0) as client,
    ):
        file = await client.files.create(file=("rows.jsonl", openai_lines(50)), purpose="batch")
        with pytest.raises(openai.APIConnectionError):
            await openai_batch(client, file.id)
        batch = (await client.batches.list()).data[0]
        batch = await openai_ended(client, batch.id)
        with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError)):
            await client.files.content(batch.output_file_id or "")
        whole = await client.files.content(batch.output_file_id or "")

    assert len(whole.text.splitlines()) == 50


async def test_batches_survive_a_restart_of_the_server(slow_server: SimServer) -> None:
    """The same address serves the same batches and files."""
    client = openai.AsyncOpenAI(base_url=slow_server.url, api_key="any", max_retries=0)
    file = await client.files.create(file=("rows.jsonl", openai_lines(3)), purpose="batch")
    batch = await openai_batch(client, file.id)
    url = slow_server.url

    await slow_server.restart()
    again = openai.AsyncOpenAI(base_url=slow_server.url, api_key="any", max_retries=0)
    found = [each.id async for each in again.batches.list()]

    assert (slow_server.url, found) == (url, [batch.id])
    assert (await again.files.content(file.id)).content == openai_lines(3)


@pytest.mark.slow
async def test_a_large_upload_passes_in_pieces(client: AsyncOpenAI, server: SimServer) -> None:
    """More bytes than a live request may have are stored, and come back unchanged. Slow: they have to travel."""
    content = openai_lines(1) * 3 + b'{"pad": "' + b"x" * 70_000_000 + b'"}\n'

    file = await client.files.create(file=("big.jsonl", content), purpose="batch")

    assert file.bytes == len(content)
    assert (await client.files.content(file.id)).content == content
