"""A provider on loopback that keeps every request as it arrived, to the byte."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Arrival", "Recorder", "answer", "error"]


@dataclass(frozen=True)
class Arrival:
    """One request as it came: ``body`` is the raw bytes, header names are lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


Answer = tuple[int, bytes]
Respond = Callable[[Arrival], Answer]


def answer(arrival: Arrival) -> Answer:
    """A good answer in the shape that the path asks for."""
    if arrival.path.endswith("/messages"):
        body: object = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": "ok"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
    elif arrival.path.endswith("/embeddings"):
        body = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 1}}
    elif arrival.path.endswith("/responses"):
        body = {
            "id": "r",
            "status": "completed",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "ok"}]}],
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
    elif arrival.path.endswith("/chat/completions"):
        body = {
            "id": "c",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        }
    else:
        body = {
            "id": "t",
            "choices": [{"index": 0, "text": "ok", "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        }
    return 200, json.dumps(body).encode()


def error(status: int, code: str, message: str = "no") -> Answer:
    """An error in OpenAI's shape."""
    return status, json.dumps({"error": {"message": message, "type": code, "code": code}}).encode()


class Recorder:
    """Serves on a free port of loopback in a thread of its own until :meth:`close`.

    ``respond`` makes an answer of an arrival; ``delay`` seconds pass before it goes out.
    """

    def __init__(self, respond: Respond = answer, *, delay: float = 0.0) -> None:
        self.arrivals: list[Arrival] = []
        self.respond = respond
        self.delay = delay
        self.headers: dict[str, str] = {}
        self.keep = True
        self.count = 0
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.url = self.origin + "/v1"
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def bodies(self) -> list[bytes]:
        """The raw bodies in order of arrival."""
        return [arrival.body for arrival in self.arrivals]

    def close(self) -> None:
        """Stop serving; idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                arrival = Arrival(head[0].split(" ")[1], headers, body)
                self.count += 1
                if self.keep:
                    self.arrivals.append(arrival)
                if self.delay:
                    await asyncio.sleep(self.delay)
                status, reply = self.respond(arrival)
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nx-request-id: req-{self.count}\r\n"
                    f"{''.join(f'{name}: {value}' + chr(13) + chr(10) for name, value in self.headers.items())}"
                    f"Content-Length: {len(reply)}\r\n\r\n".encode()
                    + reply
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the server ends
        finally:
            writer.close()
