"""A provider on loopback that misbehaves as told, and keeps when each request came and how it was met.

It knows nothing of the simulated provider, so that the two cannot share a mistake.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["GOOD", "Answer", "Call", "HostileServer", "Outage", "error"]


@dataclass(frozen=True)
class Answer:
    """A whole answer; ``length`` lies about the body's where it is given."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


Behavior = Answer | Literal["hang", "reset"]


@dataclass
class Call:
    """One request: ``at`` and ``ended`` are seconds since the first one, ``flying`` counts those out with it."""

    number: int
    at: float
    body: dict[str, Any]
    flying: int
    met: Behavior | None = None
    ended: float = 0.0

    @property
    def text(self) -> str:
        return str(self.body["messages"][-1]["content"])

    @property
    def row(self) -> int:
        """The row's number; 0 for a canary."""
        return int(self.text.split()[1]) if self.text.startswith("row ") else 0

    @property
    def is_good(self) -> bool:
        return self.met is GOOD


GOOD = Answer(
    200,
    json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "model": "test-model",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
        }
    ).encode(),
)


def error(status: int, code: str | None = None, **headers: str) -> Answer:
    """An error in OpenAI's shape; ``retry_after="3"`` becomes the header ``retry-after``."""
    body = json.dumps({"error": {"message": "no", "type": "error", "code": code}}).encode()
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class Outage:
    """Fine for *after* calls, then *what* for *seconds*, then fine again."""

    def __init__(self, what: Behavior, *, after: int = 60, seconds: float = 1.5) -> None:
        self.what = what
        self.after = after
        self.seconds = seconds
        self.began: float | None = None

    def __call__(self, call: Call) -> Behavior:
        if self.began is None and call.number > self.after:
            self.began = call.at
        return self.what if self.began is not None and call.at < self.ended else GOOD

    @property
    def ended(self) -> float:
        assert self.began is not None, "the outage never came"
        return self.began + self.seconds


class HostileServer:
    """Serves on loopback within ``async with``; belongs to one event loop. Every request is in ``calls``.

    It works on *workers* requests at a time for *latency* seconds each, the same for all calls or not; others wait in
    line.
    """

    def __init__(
        self,
        behave: Callable[[Call], Behavior],
        *,
        latency: float | Callable[[Call], float] = 0.05,
        port: int = 0,
        workers: int = 10_000,
    ) -> None:
        self.calls: list[Call] = []
        self.port = port
        self._behave = behave
        self._latency = latency
        self._workers = asyncio.Semaphore(workers)
        self._flying = 0
        self._start = 0.0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> HostileServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0.01)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer_one(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        body = json.loads(await reader.readexactly(int(fields[b"content-length"])))
        if not self.calls:
            self._start = time.monotonic()
        self._flying += 1
        call = Call(len(self.calls) + 1, time.monotonic() - self._start, body, self._flying)
        self.calls.append(call)
        try:
            met = call.met = self._behave(call)
            if met == "reset":
                writer.transport.abort()
                return False
            if met == "hang":
                await reader.read()
                return False
            assert isinstance(met, Answer)
            async with self._workers:
                latency = self._latency
                await asyncio.sleep(latency(call) if callable(latency) else latency)
            headers = {"content-type": "application/json"} | met.headers
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            length = len(met.body) if met.length is None else met.length
            writer.write(f"HTTP/1.1 {met.status} X\r\n{lines}content-length: {length}\r\n\r\n".encode() + met.body)
            await writer.drain()
            return met.length is None
        finally:
            self._flying -= 1
            call.ended = time.monotonic() - self._start


async def _serve_for_ever(port: int) -> None:
    async with HostileServer(lambda _: GOOD, port=port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve_for_ever(int(sys.argv[1])))
