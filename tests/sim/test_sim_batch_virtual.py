"""The simulated batch APIs in virtual time: a day passes in a moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from llmbatch.sim.batches.rules import BatchRules
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual

ORIGIN = "https://api.example.test"
BOUNDARY = "a1b2c3"


def rows(count: int) -> AsyncIterator[bytes]:
    """A multipart upload of *count* rows, in small pieces."""

    async def pieces() -> AsyncIterator[bytes]:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{BOUNDARY}\r\n'
        head += 'Content-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
        yield head.encode()
        for number in range(1, count + 1):
            messages = [{"role": "user", "content": f"Tell of row {number}"}]
            row = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions"}
            yield json.dumps({**row, "body": {"model": "sim/small", "messages": messages}}).encode() + b"\n"
        yield f"\r\n--{BOUNDARY}--\r\n".encode()

    return pieces()


async def send(transport: VirtualTransport, method: str, path: str, body: Any = b"") -> Any:
    """The JSON answer to a call."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Authorization": "Bearer key"}
    sent = json.dumps(body).encode() if isinstance(body, dict) else body
    reply = await transport.send(method, ORIGIN + path, headers, sent, timeout=60)
    return json.loads(await reply.read())


async def submit(transport: VirtualTransport, count: int) -> Any:
    """A new batch of *count* rows."""
    file = await send(transport, "POST", "/v1/files", rows(count))
    order = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return await send(transport, "POST", "/v1/batches", order)


def test_a_batch_takes_the_time_of_its_scenario() -> None:
    """Validation, rows and finalizing take as long as the scenario says, to the second, in virtual time."""
    rules = BatchRules(validate_s=60, rows_per_s=0.1, finalize_s=600)
    provider = SimulatedProvider(Scenario("slow", (), "slow", batch=rules))

    async def main() -> tuple[Any, Any, Any]:
        transport = VirtualTransport(provider)
        batch = await submit(transport, 100)
        await asyncio.sleep(60 + 505)
        half = await send(transport, "GET", f"/v1/batches/{batch['id']}")
        await asyncio.sleep(2000)
        return batch, half, await send(transport, "GET", f"/v1/batches/{batch['id']}")

    batch, half, done = run_virtual(main)

    assert half["status"] == "in_progress"
    assert half["request_counts"] == {"total": 100, "completed": 50, "failed": 0}
    assert done["in_progress_at"] - batch["created_at"] == 60
    assert done["finalizing_at"] - done["in_progress_at"] == 1000
    assert done["completed_at"] - done["finalizing_at"] == 600
    assert done["created_at"] == batch["created_at"]


def test_an_expired_batch_keeps_what_it_did() -> None:
    """At the end of the window the rest is expired; the counts leave it out, as the provider's do."""
    rules = BatchRules(rows_per_s=10 / 86_399, window_s=86_400, validate_s=0)
    provider = SimulatedProvider(Scenario("slow", (), "slow", batch=rules), keep_ledger=True)

    async def main() -> tuple[Any, list[Any], list[Any]]:
        transport = VirtualTransport(provider)
        batch = await submit(transport, 27)
        await asyncio.sleep(86_500)
        ended = await send(transport, "GET", f"/v1/batches/{batch['id']}")
        lines = []
        for member in ("output_file_id", "error_file_id"):
            reply = await transport.send("GET", f"{ORIGIN}/v1/files/{ended[member]}/content", {}, timeout=60)
            lines.append([json.loads(line) for line in (await reply.read()).splitlines()])
        return ended, lines[0], lines[1]

    ended, output, errors = run_virtual(main)

    assert (ended["status"], ended["request_counts"]) == ("expired", {"total": 27, "completed": 10, "failed": 0})
    assert len(output) == 10
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}
    assert {line["custom_id"] for line in output + errors} == {f"r{number}" for number in range(1, 28)}
    assert provider.ledger is not None
    assert (provider.ledger.rows, provider.ledger.payments) == (10, 10)
