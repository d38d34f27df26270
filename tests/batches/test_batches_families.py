"""Each provider that copies OpenAI's batch API, with its own paths, fields and words, in front of the simulated one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from batch_world import ORIGIN, LifeTransport, World

from llmbatch.core.calls import Reply, Request
from llmbatch.core.exchange import HttpCall
from llmbatch.sim.batches.rules import BatchFault, BatchRules
from llmbatch.sim.virtual import StreamedReply

KEY = "key-of-the-provider"


@dataclass(frozen=True)
class Provider:
    """How one provider differs. ``target``: keywords of the runner; ``start``: what its paths begin with."""

    name: str
    target: dict[str, Any]
    start: str
    upload: str = "/files"
    purpose: str = "batch"
    key_header: str = "authorization"
    has_metadata: bool = True
    has_pages: bool = True
    knows_expiry: bool = False
    is_together: bool = False
    faults: tuple[BatchFault, ...] = ()

    def __str__(self) -> str:
        return self.name


def key(name: str) -> dict[str, str]:
    """An environment with the provider's key."""
    return {name: KEY}


PROVIDERS = (
    Provider(
        "azure",
        {
            "model": "azure/m",
            "base_url": "https://mine.openai.azure.com/openai/v1",
            "environ": key("AZURE_OPENAI_API_KEY"),
        },
        "https://mine.openai.azure.com/openai/v1",
        key_header="api-key",
        knows_expiry=True,
        faults=(BatchFault("empty_error_file"),),
    ),
    Provider(
        "groq",
        {"model": "groq/m", "environ": key("GROQ_API_KEY")},
        "https://api.groq.com/openai/v1",
        has_pages=False,
    ),
    Provider(
        "together",
        {"model": "together/m", "environ": key("TOGETHER_API_KEY")},
        "https://api.together.xyz/v1",
        upload="/files/upload",
        purpose="batch-api",
        has_metadata=False,
        has_pages=False,
        is_together=True,
    ),
    Provider(
        "deepinfra",
        {"model": "deepinfra/m", "environ": key("DEEPINFRA_API_KEY")},
        "https://api.deepinfra.com/v1/openai",
        has_metadata=False,
        faults=(BatchFault("empty_error_id"),),
    ),
    Provider(
        "doubleword",
        {
            "model": "m",
            "base_url": "https://api.doubleword.ai/v1",
            "api_key_env": "DOUBLEWORD_API_KEY",
            "environ": key("DOUBLEWORD_API_KEY"),
        },
        "https://api.doubleword.ai/v1",
    ),
    Provider(
        "nebius",
        {"model": "nebius/m", "environ": key("NEBIUS_API_KEY")},
        "https://api.tokenfactory.nebius.com/v1",
        has_metadata=False,
    ),
)


class _Form:
    """An upload whose purpose is the one that the simulated provider knows."""

    def __init__(self, call: HttpCall, provider: Provider) -> None:
        assert not isinstance(call.body, bytes)
        self._blocks = call.body.blocks
        self._provider = provider
        self.size_bytes = call.body.size_bytes - len(provider.purpose) + len(b"batch")

    async def blocks(self) -> AsyncIterator[bytes]:
        """The form."""
        provider, is_head = self._provider, True
        async for block in self._blocks():
            if is_head:
                field = f'name="purpose"\r\n\r\n{provider.purpose}\r\n'.encode()
                assert field in block
                assert (b"expires_after" in block) == provider.knows_expiry
                assert (b'name="file_name"' in block) == provider.is_together
                block = block.replace(field, b'name="purpose"\r\n\r\nbatch\r\n')
            is_head = False
            yield block


class Dialect(LifeTransport):
    """Takes the calls that one provider takes, and no others, and answers as it does."""

    provider_of_test: ClassVar[Provider]

    async def post(self, request: Request, *, timeout: float) -> Reply:
        assert request.url.startswith(self.provider_of_test.start), request.url
        url = f"{ORIGIN}/v1{request.url.removeprefix(self.provider_of_test.start)}"
        return await super().post(replace(request, url=url), timeout=timeout)

    @contextlib.asynccontextmanager
    async def exchange(self, call: HttpCall, *, timeout: float) -> AsyncIterator[StreamedReply]:
        async with super().exchange(self._translated(call), timeout=timeout) as reply:
            path = urlsplit(call.url).path
            if "/batches" not in path or reply.status != 200:
                yield reply
                return
            answer = json.loads(b"".join([block async for block in reply.blocks()]))
            yield StreamedReply(reply.status, {}, _blocks(json.dumps(self._shown(answer, call.method)).encode()))

    def _translated(self, call: HttpCall) -> HttpCall:
        it = self.provider_of_test
        assert call.url.startswith(it.start), call.url
        headers = {name.lower(): text for name, text in call.headers.items()}
        assert KEY in headers[it.key_header]
        parts = urlsplit(call.url.removeprefix(it.start))
        path, query, body = parts.path, dict(parse_qsl(parts.query)), call.body
        if call.method == "POST" and "/files" in path:
            assert path == it.upload
            path, body = "/files", _Form(call, it)
        elif call.method == "POST" and path == "/batches":
            assert isinstance(body, bytes)
            asked = json.loads(body)
            assert ("metadata" in asked) == it.has_metadata
            assert set(asked) - {"metadata"} == {"input_file_id", "endpoint", "completion_window"}
        elif path == "/batches":
            assert it.has_pages or not query
            query = {"limit": "100", **query}
        elif path == "/files":
            assert query.pop("purpose") == it.purpose
        url = f"{ORIGIN}/v1{path}{'?' if query else ''}{urlencode(query)}"
        return replace(call, url=url, body=body)

    def _shown(self, answer: dict[str, Any], method: str) -> Any:
        it = self.provider_of_test
        if "data" in answer:
            page = [self._batch(one) for one in answer["data"]]
            return page if it.is_together else {**answer, "data": page}
        batch = self._batch(answer)
        return {"job": batch, "warning": ""} if it.is_together and method == "POST" else batch

    def _batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        it = self.provider_of_test
        shown = {name: value for name, value in batch.items() if it.has_metadata or name != "metadata"}
        if not it.is_together:
            return shown
        done = batch["request_counts"]["completed"]
        return {
            "id": batch["id"],
            "status": batch["status"].upper(),
            "progress": 100.0 * done / max(1, batch["request_counts"]["total"]),
            "input_file_id": batch["input_file_id"],
            "output_file_id": batch["output_file_id"],
            "error_file_id": batch["error_file_id"],
            "created_at": datetime.fromtimestamp(batch["created_at"], UTC).isoformat().replace("+00:00", "Z"),
            "error": None,
        }


async def _blocks(data: bytes) -> AsyncIterator[bytes]:
    await asyncio.sleep(0)
    yield data


@pytest.fixture(params=PROVIDERS, ids=str)
def world_of(request: pytest.FixtureRequest) -> Callable[..., World]:
    """Makes worlds of one of the providers."""
    provider: Provider = request.param
    network = type("DialectOfOne", (Dialect,), {"provider_of_test": provider})

    def make(*faults: BatchFault, rows: int = 90, **rules: Any) -> World:
        faults = (*provider.faults, *faults)
        return World(rows, target=provider.target, network=network, rules=BatchRules(faults=faults, **rules))

    return make


def test_each_row_has_one_line_and_is_paid_for_once(world_of: Callable[..., World]) -> None:
    """Uploaded, created, listed, collected and deleted in the provider's own form."""
    world = world_of()

    summary = world.live(chunk_rows=40)

    assert summary is not None
    assert summary.exit_code == 0
    world.check_whole()
    assert {line["via"] for line in world.lines} == {"batch"}
    assert world.paid == 90
    assert any(name.startswith("DELETE") for _, name in world.log)


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize(
    "is_deleted", [pytest.param(False, marks=pytest.mark.long), True], ids=["journal kept", "journal deleted"]
)
def test_a_killed_job_finds_its_batches(world_of: Callable[..., World], is_deleted: bool) -> None:
    """By label or by file name, through a lost create and an expiry; rows are paid for once."""
    faults = (BatchFault("create_lost", batches=(2,)), BatchFault("expire", batches=(1,), share=0.4))
    whole = world_of(*faults, rows=150)
    whole.live(chunk_rows=70)
    creates = [at for at, (_, name) in enumerate(whole.log, 1) if name == "POST /v1/batches"]

    for call in creates:
        world = world_of(*faults, rows=150)
        world.live(chunk_rows=70, kill_call=call)
        if is_deleted:
            world.delete_journal()
        world.live_on(chunk_rows=70)
        world.check_whole()
        assert world.paid == 150


def test_at_the_deadline_batches_are_canceled_and_the_rest_goes_live(world_of: Callable[..., World]) -> None:
    """In the provider's own form; no row is in both."""
    world = world_of(rows=200, rows_per_s=0.02)

    summary = world.live(deadline=7200.0)

    assert summary is not None
    world.check_whole()
    assert world.paid == 200
    assert any(name.endswith("/cancel") for _, name in world.log)
    assert world.provider.ledger is not None
    assert world.provider.ledger.both == 0
