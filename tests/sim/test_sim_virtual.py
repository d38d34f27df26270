"""Virtual time: hours in a moment, nothing hangs, and a seed replays."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from llmbatch.core.calls import Request, Route
from llmbatch.core.errors import TransportError
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Behavior, Phase, Scenario
from llmbatch.sim.virtual import VirtualTimeError, VirtualTransport, run_virtual


def now() -> float:
    return asyncio.get_running_loop().time()


def request_for(text: str = "Why is the sky blue?", model: str = "sim/small", **more: object) -> Request:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **more}).encode()
    url = "http://127.0.0.1/v1/chat/completions"
    return Request(Route(model, "sim"), url, {"Authorization": "Bearer key"}, body, "chat", 10)


def transport_for(behavior: Behavior, **params: Any) -> VirtualTransport:
    scenario = Scenario("always", (Phase(math.inf, behavior, **params),), "always")
    return VirtualTransport(SimulatedProvider(scenario, latency=0.2))


def test_an_hour_of_sleeping_takes_no_time() -> None:
    """With something to do every ten virtual seconds; a minute is what the busiest machine may take."""

    async def main() -> float:
        for _ in range(360):
            await asyncio.sleep(10)
        return now()

    started = time.perf_counter()
    elapsed = run_virtual(main)
    took = time.perf_counter() - started

    assert elapsed == pytest.approx(3600)
    assert took < 60


def test_timers_fire_in_order_at_their_time() -> None:
    """Tasks wake at exactly the times they asked for, in order."""

    async def main() -> list[tuple[str, float]]:
        woken: list[tuple[str, float]] = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append((name, now()))

        await asyncio.gather(sleeper("c", 86_400.0 * 3), sleeper("a", 0.001), sleeper("b", 7.5))
        return woken

    assert run_virtual(main()) == [("a", 0.001), ("b", 7.5), ("c", 259_200.0)]


def test_a_timeout_passes_in_virtual_time() -> None:
    """Asyncio's own timeouts work on the loop's clock."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(120):
                await asyncio.Event().wait()
        return now()

    assert run_virtual(main) == 120


def test_a_deadlock_raises_instead_of_hanging() -> None:
    """No timer and nothing ready: an error says so, and the waiting task is cancelled."""
    cancelled = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(VirtualTimeError, match="deadlock"):
        run_virtual(main)

    assert cancelled == [True]


def test_the_limit_ends_what_never_ends() -> None:
    """A run that goes on beyond its limit is stopped there, and may still clean up in virtual time."""
    cleaned: list[float] = []

    async def main() -> None:
        try:
            while True:
                await asyncio.sleep(7)
        finally:
            await asyncio.sleep(5)
            cleaned.append(now())

    with pytest.raises(VirtualTimeError, match="after 100 s"):
        run_virtual(main, limit=100)

    assert cleaned == [105]


def test_time_stands_still_while_an_executor_job_runs() -> None:
    """A thread's work takes no virtual time, so a timer cannot overtake it."""

    async def main() -> tuple[float, bool, float]:
        timer = asyncio.create_task(asyncio.sleep(1000))
        await asyncio.to_thread(time.sleep, 0.05)
        at, overtaken = now(), timer.done()
        await timer
        return at, overtaken, now()

    assert run_virtual(main) == (0, False, 1000)


def test_executor_jobs_fail_like_anywhere() -> None:
    """An exception in a thread reaches the task that waits for it, and time goes on afterwards."""

    async def main() -> float:
        with pytest.raises(ZeroDivisionError):
            await asyncio.get_running_loop().run_in_executor(None, lambda: 1 / 0)
        await asyncio.sleep(1)
        return now()

    assert run_virtual(main) == 1


def test_sockets_work_under_virtual_time() -> None:
    """A real connection over loopback carries bytes while the clock jumps."""

    async def main() -> tuple[bytes, float]:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = await reader.readline()
            await asyncio.sleep(600)
            writer.write(line.upper())
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return answer, now()

    answer, elapsed = run_virtual(main)

    assert answer == b"HELLO\n"
    assert elapsed >= 600


def test_a_thread_may_wake_the_loop() -> None:
    """call_soon_threadsafe from a foreign thread reaches a loop that has only a socket left to wait for."""

    async def main() -> str:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        thread = threading.Timer(0.05, lambda: loop.call_soon_threadsafe(future.set_result, "woken"))
        thread.start()
        try:
            return await future
        finally:
            thread.join()
            server.close()

    assert run_virtual(main) == "woken"


async def drive(transport: VirtualTransport, rows: int, workers: int) -> list[tuple[float, str]]:
    """Send rows once each from some workers, and note when each ended, and how."""
    waiting, seen = list(range(rows)), []

    async def work() -> None:
        while waiting:
            number = waiting.pop()
            try:
                status = str((await transport.post(request_for(str(number), "sim/outage"), timeout=5)).status)
            except TransportError as error:
                status = error.fault
            seen.append((now(), status))

    await asyncio.gather(*(work() for _ in range(workers)))
    return seen


def test_a_seed_replays_exactly() -> None:
    """Two runs of the same seed agree in every instant and status; another seed differs."""
    runs = [
        run_virtual(drive(VirtualTransport(SimulatedProvider(seed=seed)), 300, 10), limit=3600) for seed in (5, 5, 6)
    ]

    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert {status for _, status in runs[0]} == {"200", "503"}


def test_the_transport_keeps_the_numbers_and_the_log() -> None:
    """Calls, calls while down, most in flight and the log agree with what the scenario did."""
    transport = VirtualTransport(SimulatedProvider("outage"), keep_log=True)

    run_virtual(drive(transport, 300, 10))

    stats = transport.stats
    down = [at for at, status in transport.log if status == 503]
    assert stats.calls == len(transport.log) == 300
    assert stats.calls_while_down == len(down) > 0
    assert (stats.in_flight, stats.max_in_flight) == (0, 10)
    assert all(3 <= at < 15 for at in down)
    assert transport.log[0] == (0.0, 200)


def test_the_transports_clock_starts_at_its_first_request() -> None:
    """An outage that begins after three seconds begins three seconds after the first request."""

    async def main() -> list[int]:
        transport = VirtualTransport(SimulatedProvider("outage", latency=0))
        await asyncio.sleep(1000)
        before = await transport.post(request_for(model="sim/outage"), timeout=5)
        await asyncio.sleep(3.5)
        during = await transport.post(request_for(model="sim/outage"), timeout=5)
        await transport.aclose()
        return [before.status, during.status]

    assert run_virtual(main) == [200, 503]


@pytest.mark.parametrize("behavior", ["hang", "slow"])
def test_a_transport_times_out_exactly(behavior: Behavior) -> None:
    """A provider that is too slow or hangs costs exactly the timeout, and may have been paid for."""

    async def main() -> float:
        transport = transport_for(behavior)
        with pytest.raises(TransportError) as caught:
            await transport.post(request_for(), timeout=12.5)
        assert (caught.value.fault, caught.value.sent) == ("timeout", True)
        assert transport.stats.in_flight == 0
        return now()

    assert run_virtual(main) == 12.5


def test_a_slow_answer_within_the_timeout_arrives() -> None:
    """A stall shorter than the timeout only delays."""

    async def main() -> float:
        reply = await transport_for("slow", stall=30).post(request_for(), timeout=60)
        assert reply.status == 200
        return now()

    assert 30 < run_virtual(main) < 35


def test_refused_connections_are_faults_before_or_after_sending() -> None:
    """Refusing brings connect faults that were not sent, and resets that were."""

    async def main() -> set[tuple[str, bool]]:
        transport = transport_for("refuse")
        faults: set[tuple[str, bool]] = set()
        for number in range(30):
            with pytest.raises(TransportError) as caught:
                await transport.post(request_for(str(number)), timeout=5)
            faults.add((caught.value.fault, caught.value.sent))
        return faults

    assert run_virtual(main) == {("connect", False), ("reset", True)}


def test_a_cancelled_call_is_no_longer_in_flight() -> None:
    """Cancelling a hanging call gives its place back."""

    async def main() -> tuple[int, int]:
        transport = transport_for("hang")
        task = asyncio.create_task(transport.post(request_for(), timeout=1e6))
        await asyncio.sleep(1)
        during = transport.stats.in_flight
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return during, transport.stats.in_flight

    assert run_virtual(main) == (1, 0)


def test_a_streamed_answer_arrives_whole() -> None:
    """A request that asks for a stream gets all its events as one body."""
    reply = run_virtual(transport_for("fine").post(request_for(stream=True), timeout=60))

    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_virtual_time_loads_no_http_library() -> None:
    """The simulation of a run is light: no aiohttp."""
    code = "import sys, llmbatch.sim.virtual; print('aiohttp' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
