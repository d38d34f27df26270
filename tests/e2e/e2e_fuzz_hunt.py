"""A provider of random bytes: any answer, torn anywhere, with any pauses and any end, against the real HTTP client.

    python tests/e2e/e2e_fuzz_hunt.py --connections 10000
    python tests/e2e/e2e_fuzz_hunt.py --seed 7 --loop uvloop

It holds if every call ends within its time-out and a second, none raises, no success has the text of another row or a
part of its own, and memory stays under 200 MB with --max-answer-memory 32MB. The seed is printed first. What a
connection does depends on the seed and its number only; which calls meet it does not.

Exit code 1 where something did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import math
import multiprocessing
import resource
import secrets
import socket
import sys
import time
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

if __package__ in (None, ""):
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from e2e_sick import hard_reset, whole

from llmbatch.core.ports import first_request
from llmbatch.core.rows import Row
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings

CONCURRENCY = 40
TIMEOUT = 0.5
MOST_SECONDS = TIMEOUT + 1.0
MOST_MEGABYTES = 200
ANSWER_MEMORY = 32_000_000
FLOOD = 30_000_000
"""The bytes of an answer that is as good as endless."""


def text_of(row: int) -> str:
    """The one right answer to *row*."""
    return f"answer {row} " + "x" * (row % 500) + f" {row}"


def good_body(row: int) -> bytes:
    answer = {
        "id": f"chatcmpl-{row}",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text_of(row)}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    return json.dumps(answer).encode()


def framed(rng: Random, body: bytes) -> bytes:
    """*body* in one of the ways that HTTP has; its text stays in one piece."""
    how = rng.randrange(5)
    if how == 0:
        return b"HTTP/1.1 200 OK\r\n\r\n" + body
    if how == 1:
        ends = (*range(body.find(b'"content"')), *range(body.find(b'"},') + 1, len(body)))
        cuts = sorted(rng.choice(ends) for _ in range(rng.randrange(4)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    if how == 2:
        return whole(gzip.compress(body), headers=b"Content-Encoding: gzip\r\n")
    return whole(body, headers=rng.choice([b"", b"Connection: close\r\n", b"X-Request-Id: r%d\r\n" % rng.randrange(9)]))


BITS = (
    *(b"\r\n", b"\r\n\r\n", b"\0", b"\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n", b"-1\r\n", b"<html>sorry"),
    *(b"data: [DONE]\n\n", b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{}", b"\x1f\x8b\x08\0"),
)


def torn(rng: Random, answer: bytes, text: bytes) -> bytes:
    """*answer* with something cut out, put in, changed or said twice, but not within *text*, which nobody could see."""
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        at = rng.randrange(len(answer) + 1)
        inside = answer.find(text)
        if inside >= 0 and inside <= at <= inside + len(text):
            at = inside - 1  # between two members
        change = rng.randrange(6)
        if change == 0:
            answer = answer[:at]
        elif change == 1:
            answer = answer[:at] + rng.choice(BITS) + answer[at:]
        elif change == 2:
            answer = answer[:at] + rng.randbytes(rng.choice([1, 1, 5, 200])) + answer[at:]
        elif change == 3:
            answer = answer[:at] + rng.randbytes(1) + answer[at + 1 :]
        elif change == 4:
            answer += answer[at:]
        elif change == 5:
            answer = answer[at:] if rng.random() < 0.3 else answer
    return answer


def bomb() -> bytes:
    """A small answer that inflates to ten floods."""
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(FLOOD // 100_000))
    return whole(packed + packer.flush(), headers=b"Content-Encoding: gzip\r\n")


class FuzzServer:
    """Serves in a process of its own, so that memory and delays are the client's."""

    def __init__(self, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._accepted, self._port = context.Value("i", 0), context.Value("i", 0)
        self._process = context.Process(target=_Fuzz, args=(seed, self._accepted, self._port), daemon=True)

    def __enter__(self) -> FuzzServer:
        self._process.start()
        for _ in range(3000):
            if self.port:
                return self
            time.sleep(0.01)
        raise TimeoutError("the server did not start")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(10)

    @property
    def accepted(self) -> int:
        """How many connections there were."""
        return int(self._accepted.value)

    @property
    def port(self) -> int:
        return int(self._port.value)


class _Fuzz:
    """The server's process; serves until it is terminated."""

    def __init__(self, seed: int, accepted: Any, port: Any) -> None:
        self._seed, self._accepted, self._port = seed, accepted, port
        self._bomb = bomb()
        asyncio.run(self._main())

    async def _main(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self._port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted.value += 1
        rng = Random(f"{self._seed}:{self._accepted.value}")
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if rng.random() < 0.02:
                await self._say(writer, rng, rng.randbytes(rng.randrange(200)))
            else:
                while await self._answer(reader, writer, rng):
                    pass
            end = rng.randrange(4)
            if end == 0:
                hard_reset(writer)
            elif end == 1:
                await asyncio.wait_for(reader.read(), 2 * TIMEOUT)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: Random) -> bool:
        """Read one request and say something; whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        row = int(json.loads(await reader.readexactly(length))["messages"][0]["content"])
        kind = rng.random()
        if kind < 0.3:
            await self._say(writer, rng, framed(rng, good_body(row)))
            return rng.random() < 0.6
        if kind < 0.31:
            writer.write(
                rng.choice([b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
            )
            for _ in range(FLOOD // 50_000):
                writer.write(b"c350\r\n" + b"x" * 50_000 + b"\r\n")
                await writer.drain()
        elif kind < 0.315:
            await self._say(writer, rng, self._bomb)
        elif kind < 0.4:
            await self._say(writer, rng, rng.randbytes(rng.choice([1, 50, 5_000])))
        else:
            await self._say(
                writer, rng, torn(rng, framed(rng, good_body(row)), b'"content": "%s"' % text_of(row).encode())
            )
            return rng.random() < 0.3
        return False

    async def _say(self, writer: asyncio.StreamWriter, rng: Random, answer: bytes) -> None:
        """Send *answer* in pieces of any size with any pauses; one that is cut at its head is the commonest."""
        cuts = [rng.randrange(len(answer) + 1) for _ in range(rng.choice([0, 0, 1, 2, 5]))]
        if rng.random() < 0.5:
            cuts.append(answer.find(b"\r\n\r\n") + 4)
        edges = [0, *sorted(cuts), len(answer)]
        for start, stop in pairwise(edges):
            writer.write(answer[start:stop])
            await writer.drain()
            await asyncio.sleep(
                rng.choice([0, 0, 0, 0.001, 0.01, 0.03, rng.random() * 0.1, TIMEOUT * rng.random() * 1.2])
            )


class Findings:
    """What did not hold, and what was seen."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.outcomes = Counter[str]()
        self.longest = 0.0
        self._stalled = 0.0
        self._due = math.inf
        self._used = 0.0

    @property
    def stalled(self) -> float:
        """Seconds in which this process did not run, as the machine had other work; no call answers for them.

        What the process itself computed in its own loop's way is not among them.
        """
        return self._stalled + self._now_stalled()

    def _now_stalled(self) -> float:
        own = time.process_time() - self._used
        return max(0.0, time.monotonic() - self._due - own - 0.02)

    async def watch(self) -> None:
        """Measure until it is cancelled."""
        while True:
            self._used, self._due = time.process_time(), time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            self._stalled += self._now_stalled()

    @property
    def peak_megabytes(self) -> float:
        try:
            status = Path("/proc/self/status").read_text()
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        # Of this program alone: ru_maxrss also knows the process that it was forked from.
        return int(status.partition("VmHWM:")[2].split()[0]) / 1000


async def attack(server: FuzzServer, connections: int, seed: int) -> Findings:
    """Keep 40 calls in flight until the server has accepted so many *connections*."""
    findings, rows = Findings(), iter(range(1, 10**9))
    connection = ProviderSettings(model="m", base_url=f"http://127.0.0.1:{server.port}/v1", environ={})
    provider = HttpProvider.over_http(connection, max_answer_memory=ANSWER_MEMORY)
    loop = asyncio.get_running_loop()

    async def work() -> None:
        while server.accepted < connections and len(findings.wrong) < 20:
            number = next(rows)
            row = Row(number, "", f'"{number}"', {"prompt": f'"{number}"'})
            start, stalled = loop.time(), findings.stalled
            try:
                outcome = await asyncio.wait_for(provider.call(first_request(provider, row), row, timeout=TIMEOUT), 20)
            except Exception as error:
                findings.wrong.append(f"row {number}: {error!r} after {loop.time() - start:.2f} s")
                continue
            seconds = loop.time() - start - (findings.stalled - stalled)
            findings.longest = max(findings.longest, seconds)
            findings.outcomes[outcome.code or outcome.verdict] += 1
            if seconds > MOST_SECONDS:
                findings.wrong.append(f"row {number}: {outcome.code} took {seconds:.2f} s")
            if outcome.verdict == "success" and outcome.text != text_of(number):
                findings.wrong.append(f"row {number}: a success with the text {outcome.text!r}: {outcome.body!r:.700}")

    watcher = asyncio.create_task(findings.watch())
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    watcher.cancel()
    await asyncio.wait_for(provider.aclose(), 5)
    if findings.peak_megabytes > MOST_MEGABYTES:
        findings.wrong.append(f"peak memory {findings.peak_megabytes:.0f} MB")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}, {options.connections} connections, {options.loop}", flush=True)
    factory = None
    if options.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    began = time.monotonic()
    with FuzzServer(seed) as server:
        with asyncio.Runner(loop_factory=factory) as runner:
            findings = runner.run(attack(server, options.connections, seed))
        accepted = server.accepted
    calls = findings.outcomes.total()
    print(f"{accepted} connections, {calls} calls in {time.monotonic() - began:.0f} s")
    print(f"longest call {findings.longest:.2f} s of {MOST_SECONDS} s, peak memory {findings.peak_megabytes:.0f} MB")
    print(f"this process was kept from running for {findings.stalled:.2f} s in all, which no call answers for")
    print(", ".join(f"{name} {count}" for name, count in findings.outcomes.most_common()))
    for wrong in findings.wrong:
        print("WRONG", wrong)
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
