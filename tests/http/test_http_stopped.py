"""Processes that were stopped and loops that were blocked: answers that came meanwhile win over deadlines."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest
from e2e_sick import whole
from http_raw_server import Handler, RawServer, raw_server
from test_http_client import fault_of, request_to, until

from llmbatch.core.calls import Reply
from llmbatch.http import HttpTransport

CALLER = """
import asyncio, json, sys
from llmbatch.core.errors import TransportError
from llmbatch.http import HttpTransport
from llmbatch.core.calls import Request, Route

async def call(transport, url):
    request = Request(Route("m", "a"), url + "/chat/completions", {}, b"{}", "chat", 1)
    try:
        return str((await transport.post(request, timeout=2)).status)
    except TransportError as error:
        return error.fault

async def main():
    transport = HttpTransport()
    print(json.dumps(await asyncio.gather(*(call(transport, sys.argv[1]) for _ in range(40)))))
    await transport.aclose()

if sys.argv[2] == "uvloop":
    import uvloop as runner
else:
    runner = asyncio
runner.run(main())
"""


class Gate:
    """A server that holds its answers back until it is told to send them."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    def __call__(self, state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await state.read_request(reader)
                await self.opened.wait()
                writer.write(whole(b"x" * 100_000))
                await writer.drain()

        return handle


@pytest.mark.slow
@pytest.mark.parametrize(("answers", "expected"), [(True, "200"), (False, "local")], ids=["answered", "unanswered"])
async def test_answers_that_came_while_the_process_was_stopped_are_taken(
    tmp_path: Path, answers: bool, expected: str
) -> None:
    """Of 40 calls whose deadlines passed under SIGSTOP each has its answer, if there is one; else it is nobody's fault.

    Slow, as a process is stopped for real.
    """
    script = tmp_path / "caller.py"
    script.write_text(textwrap.dedent(CALLER))
    gate = Gate()
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]

    async with raw_server(gate) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, script, server.url, loop, stdout=asyncio.subprocess.PIPE
        )
        try:
            await until(lambda: len(server.requests) == 40, seconds=20)
            os.kill(process.pid, signal.SIGSTOP)
            if answers:
                gate.opened.set()
            await asyncio.sleep(3.0)
            os.kill(process.pid, signal.SIGCONT)
            output, _ = await asyncio.wait_for(process.communicate(), 120)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    assert json.loads(output) == [expected] * 40


@pytest.mark.slow
async def test_answers_that_came_while_the_loop_was_blocked_are_taken() -> None:
    """Whatever a user's code does in the loop for longer than the time-out.

    Slow, as on a busy machine ten connections take a while, which the time-out has to be longer than.
    """
    gate = Gate()
    transport = HttpTransport()

    async with raw_server(gate) as server:
        tasks = [asyncio.create_task(transport.post(request_to(server.url), timeout=2)) for _ in range(10)]
        await until(lambda: len(server.requests) == 10)
        gate.opened.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(2.2)
        replies = await asyncio.gather(*tasks)
        await transport.aclose()

    assert [len(reply.body) for reply in replies] == [100_000] * 10
    assert all(isinstance(reply, Reply) for reply in replies)


@pytest.mark.slow
async def test_request_whose_time_passed_before_it_could_leave_is_not_sent() -> None:
    """A stop between a call and its sending: the answer would be paid for, and nobody would wait for it.

    Slow, as the loop is blocked for more than what a late answer is granted.
    """
    gate = Gate()
    gate.opened.set()
    transport = HttpTransport()

    async with raw_server(gate) as server:
        await asyncio.gather(*(transport.post(request_to(server.url), timeout=5) for _ in range(3)))
        calls = [asyncio.create_task(fault_of(transport, server.url, timeout=0.5, body=b"late")) for _ in range(2)]
        asyncio.get_running_loop().call_soon(time.sleep, 0.9)
        done, _ = await asyncio.wait(calls)
        sent = [body for _, body in server.requests if body == b"late"]
        await transport.aclose()

    assert len(sent) == 1, "the first leaves at once, the second only after its time"
    assert {task.result().fault for task in done} <= {"local", "timeout"}  # by whichever notices first


async def test_flood_that_never_pauses_ends_a_moment_after_its_time() -> None:
    """There is always something in its socket, which prolongs the time once."""

    def make(state: RawServer) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await state.read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b"x" * 1000)
                await writer.drain()

        return handle

    transport = HttpTransport()
    async with raw_server(make) as server:
        start = time.monotonic()
        error = await fault_of(transport, server.url, timeout=0.15)
        seconds = time.monotonic() - start
        await transport.aclose()

    assert error.fault == "timeout"
    assert seconds < 20  # it would never end by itself
