"""Servers for ``throughput.py``, each in a process of its own: nginx where it is installed, else one made by hand.

All answer every POST with the same chat completion; where an answer is to take its time, the hand-made one waits, as
nginx cannot. A server is stopped with its block, and by the kernel should the benchmark be killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, cast

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "word " * 70}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 80, "completion_tokens": 90, "total_tokens": 170},
    }
)

NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port} backlog=16384;
    location / {{ default_type application/json; return 200 '{answer}'; }}
  }}
}}
"""


SPIN_SECONDS = 0.002
"""Before an answer is due the loop does not sleep: its timers are a millisecond coarse, which would count as work."""


class Responder(asyncio.Protocol):
    """Answers every POST with the same body after *delay* seconds; requests are told apart by Content-Length."""

    delay = 0.0
    due: ClassVar[deque[tuple[float, asyncio.WriteTransport]]] = deque()
    reply = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(ANSWER),
        ANSWER.encode(),
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)
        self.waiting = b""

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        while (head := self.waiting.find(b"\r\n\r\n")) >= 0:
            at = self.waiting.lower().find(b"content-length:", 0, head)
            length = int(self.waiting[at + 15 : self.waiting.find(b"\r\n", at)])
            if len(self.waiting) < head + 4 + length:
                return
            self.waiting = self.waiting[head + 4 + length :]
            if not self.delay:
                self.transport.write(self.reply)
                continue
            self.due.append((time.perf_counter() + self.delay, self.transport))
            if len(self.due) == 1:
                self.answer_what_is_due()

    @classmethod
    def answer_what_is_due(cls) -> None:
        """Answer, and come again for the next: all wait equally long, so that they are due in order."""
        while cls.due and cls.due[0][0] <= time.perf_counter():
            _, transport = cls.due.popleft()
            if not transport.is_closing():  # whoever asked may have gone
                transport.write(cls.reply)
        if cls.due:
            wait = cls.due[0][0] - time.perf_counter() - SPIN_SECONDS
            loop = asyncio.get_running_loop()
            if wait > 0:
                loop.call_later(wait, cls.answer_what_is_due)
            else:
                loop.call_soon(cls.answer_what_is_due)


def pin(cpu: int) -> None:
    """Keep this process on one processor, where there are two at least."""
    if len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {cpu})


def end_with_parent(cpu: int) -> None:
    """For a child before it becomes another program: pinned, and killed with its parent."""
    pin(cpu)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def kinds() -> list[str]:
    return ["nginx", "responder", "sim"] if shutil.which("nginx") else ["responder", "sim"]


@contextmanager
def serving(kind: str, delay: float) -> Iterator[str]:
    """The base URL of a server of *kind* that answers after *delay* seconds, on the second processor."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="throughput-") as name:
        command = [sys.executable, __file__, str(port), str(delay)]
        if kind == "nginx":
            config = Path(name) / "nginx.conf"
            config.write_text(NGINX.format(folder=name, port=port, answer=ANSWER))
            command = ["nginx", "-c", str(config)]
        elif kind == "sim":
            words = ["sim", "serve", "--port", str(port), "--latency", str(delay)]
            command = [sys.executable, "-m", "llmbatch", *words]
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere, preexec_fn=lambda: end_with_parent(1))
        try:
            wait_for(port, process, command[0])
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    """Until the port is open."""
    for _ in range(500):
        if process.poll() is not None:
            raise SystemExit(f"error: {name} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit(f"error: {name} did not start")


async def respond(port: int, delay: float) -> None:
    Responder.delay = delay
    server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", port, backlog=16384)
    await server.serve_forever()


def fastest_loop() -> asyncio.AbstractEventLoop:
    """The one of uvloop where that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fastest_loop) as runner:
        runner.run(respond(int(sys.argv[1]), float(sys.argv[2])))
