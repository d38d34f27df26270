"""Drives the simulated batch APIs in virtual time, for the tests beside it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from llmbatch.core.errors import TransportError
from llmbatch.core.exchange import HttpCall
from llmbatch.sim.batches.rules import BatchFault, BatchRules
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual

ORIGIN = "https://api.example.test"
BOUNDARY = "a1b2c3"

_T = TypeVar("_T")


class Form:
    """A multipart upload of a file with *lines*, in pieces of a line."""

    def __init__(self, lines: list[bytes], **fields: str) -> None:
        self._pieces = [part(name, text) for name, text in {"purpose": "batch", **fields}.items()]
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
        self._pieces += [head.encode(), *(line + b"\n" for line in lines), f"\r\n--{BOUNDARY}--\r\n".encode()]
        self.size_bytes = sum(map(len, self._pieces))

    async def blocks(self) -> AsyncIterator[bytes]:
        """The upload."""
        for piece in self._pieces:
            yield piece


def part(name: str, text: str) -> bytes:
    """A field of the form."""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()


def openai_line(number: int, model: str = "sim/small", **more: object) -> bytes:
    """A line of an input file."""
    body = {"model": model, "messages": [{"role": "user", "content": f"Tell of row {number}"}], **more}
    line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode()


def anthropic_request(number: int, **more: object) -> dict[str, Any]:
    """One request of a message batch."""
    messages = [{"role": "user", "content": f"Tell of row {number}"}]
    return {
        "custom_id": f"r{number}",
        "params": {"model": "sim/claude", "max_tokens": 50, "messages": messages, **more},
    }


class Api:
    """Calls to one simulated provider."""

    def __init__(self, provider: SimulatedProvider) -> None:
        self.provider = provider
        self.transport = VirtualTransport(provider)

    async def call(self, method: str, path: str, body: Any = b"") -> tuple[int, bytes]:
        """Status and body of an answer; 0 and what came where there was no whole one."""
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Authorization": "Bearer key"}
        sent = json.dumps(body).encode() if isinstance(body, dict) else body
        pieces: list[bytes] = []
        try:
            async with self.transport.exchange(HttpCall(method, ORIGIN + path, headers, sent), timeout=60) as reply:
                async for piece in reply.blocks():
                    pieces.append(piece)
                return reply.status, b"".join(pieces)
        except TransportError:
            return 0, b"".join(pieces)

    async def json(self, method: str, path: str, body: Any = b"") -> Any:
        """The JSON of an answer, whatever its status."""
        return json.loads((await self.call(method, path, body))[1])

    async def upload(self, lines: list[bytes]) -> Any:
        """The file object of a new input file."""
        return await self.json("POST", "/v1/files", Form(lines))

    async def order(self, file_id: str) -> dict[str, Any]:
        """What a creation asks for."""
        return {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}

    async def create(self, lines: list[bytes] | int) -> tuple[int, Any]:
        """Status and answer of the creation of an OpenAI batch of these lines, or of so many rows."""
        if isinstance(lines, int):
            lines = [openai_line(number) for number in range(1, lines + 1)]
        file = await self.upload(lines)
        status, data = await self.call("POST", "/v1/batches", await self.order(file["id"]))
        return status, json.loads(data or b"null")

    async def create_messages(self, count: int, **more: object) -> tuple[int, Any]:
        """Status and answer of the creation of an Anthropic batch of so many rows."""
        requests = [anthropic_request(number, **more) for number in range(1, count + 1)]
        status, data = await self.call("POST", "/v1/messages/batches", {"requests": requests})
        return status, json.loads(data or b"null")

    async def retrieve(self, batch_id: str) -> Any:
        """A batch of either API."""
        base = "/v1/messages/batches" if batch_id.startswith("msg") else "/v1/batches"
        return await self.json("GET", f"{base}/{batch_id}")

    async def ended(self, batch_id: str) -> Any:
        """A batch of either API once nothing changes any more."""
        while True:
            batch = await self.retrieve(batch_id)
            if batch.get("status", batch.get("processing_status")) in (
                *("completed", "failed", "expired", "cancelled", "ended"),
            ):
                return batch
            await asyncio.sleep(3600)

    async def lines(self, batch: Any) -> list[Any]:
        """The lines of all results of a batch."""
        if batch["id"].startswith("msg"):
            paths = [batch["results_url"].removeprefix(ORIGIN)]
        else:
            ids = (batch["output_file_id"], batch["error_file_id"])
            paths = [f"/v1/files/{file_id}/content" for file_id in ids if file_id]
        data = b"".join([(await self.call("GET", path))[1] for path in paths])
        return [json.loads(line) for line in data.splitlines()]


def run(
    main: Callable[[Api], Awaitable[_T]], *faults: BatchFault, seed: int = 3, **rules: Any
) -> tuple[_T, SimulatedProvider]:
    """What *main* gives under these faults and rules, and the provider."""
    scenario = Scenario("tested", (), "tested", batch=BatchRules(faults=faults, **rules))
    provider = SimulatedProvider(scenario, seed=seed, keep_ledger=True)

    async def started() -> _T:
        return await main(Api(provider))

    return run_virtual(started), provider


def ids(lines: list[Any]) -> Counter[str]:
    """How often each id comes."""
    return Counter(line["custom_id"] for line in lines)
