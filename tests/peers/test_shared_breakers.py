"""Circuit breakers of several processes are one circuit: what each may do, and what it costs."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_server import StoreServer

from llmbatch import BreakerRegistry, CircuitBreaker, CircuitOpenError, LocalBoard, RedisBoard
from llmbatch.core.errors import UsageError
from llmbatch.peers.local import Hub

Make = Callable[[], Any]
"""Makes a board, as each process has one of its own."""


@pytest.fixture(params=["local", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    boards: list[Any] = []
    if request.param == "local":
        hub = Hub()

        def new() -> Any:
            boards.append(LocalBoard(hub))
            boards[-1].wait_connected()
            return boards[-1]

        yield new
    else:
        with StoreServer(tmp_path) as server:

            def new() -> Any:
                boards.append(RedisBoard(server.url))
                boards[-1].wait_connected()
                return boards[-1]

            yield new
            for board in boards:
                board.close()
        return
    for board in boards:
        board.close()


def breaker(board: Any, **options: Any) -> CircuitBreaker:
    return CircuitBreaker(2, 0.2, name="openai", shared=board, **options)


def fail(one: CircuitBreaker) -> None:
    with pytest.raises(ZeroDivisionError):
        one.call(lambda: 1 / 0)


def works(one: CircuitBreaker) -> bool:
    try:
        return one.call(lambda: True)
    except CircuitOpenError:
        return False


def wait_until(check: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def test_an_opening_opens_the_others_and_a_probe_closes_all(make: Make) -> None:
    one, other, third = breaker(make()), breaker(make()), breaker(make())
    fail(one)
    fail(one)
    wait_until(lambda: other.state != "closed" and third.state != "closed")
    assert "in another process, 2 calls in a row failed" in other.explain().reason

    wait_until(lambda: works(other))  # the second opinion

    assert other.state == "closed"
    wait_until(lambda: third.state == "closed")


@pytest.mark.slow  # time-outs of a store
@pytest.mark.traced
def test_the_opener_is_alone_after_a_second_opinion(make: Make) -> None:
    """Its trouble is its own: it stays open by itself, and its next openings do not concern the others."""
    sick, well = breaker(make()), breaker(make())
    fail(sick)
    fail(sick)
    wait_until(lambda: well.state != "closed")
    wait_until(lambda: works(well))
    time.sleep(0.3)

    assert sick.state == "half_open"
    fail(sick)  # its own probe, without anybody's lease
    time.sleep(0.3)
    assert well.state == "closed"
    wait_until(lambda: works(sick))
    assert not sick.retry_after


@pytest.mark.traced
@pytest.mark.slow  # seconds of real waits
def test_one_probe_at_a_time_for_all(make: Make) -> None:
    breakers = [breaker(make()) for _ in range(4)]
    fail(breakers[0])
    fail(breakers[0])
    wait_until(lambda: all(one.state != "closed" for one in breakers))
    probing, most, lock = 0, 0, threading.Lock()
    ended = threading.Event()

    def probe() -> None:
        nonlocal probing, most
        with lock:
            probing += 1
            most = max(most, probing)
        time.sleep(0.02)
        with lock:
            probing -= 1
        raise ZeroDivisionError

    def insist(one: CircuitBreaker) -> None:
        while not ended.is_set():
            try:
                one.call(probe)
            except (CircuitOpenError, ZeroDivisionError):
                time.sleep(0.002)

    threads = [threading.Thread(target=insist, args=(one,)) for one in breakers for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(2.0)
    ended.set()
    for thread in threads:
        thread.join()

    assert most == 1


@pytest.mark.slow  # time-outs of a store
@pytest.mark.traced
async def test_async_calls_wait_a_moment_for_the_lease(make: Make) -> None:
    one, other = await asyncio.to_thread(lambda: (breaker(make()), breaker(make())))

    async def broken() -> None:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await one.async_call(broken)
    while other.state == "closed":
        await asyncio.sleep(0.005)

    async def fine() -> bool:
        return True

    assert await other.async_call(fine)
    assert other.retry_after is None


def test_a_newcomer_finds_the_circuit_open(make: Make) -> None:
    """The state outlives a restart of the process."""
    one = breaker(make(), first_recovery_timeout=0.2)
    fail(one)
    fail(one)
    time.sleep(0.1)

    late = breaker(make())

    wait_until(lambda: late.state != "closed")


def test_an_unused_lease_is_given_back(make: Make) -> None:
    """A call that gave up before its lease came leaves it to the others after some seconds at most."""
    one, other = breaker(make()), breaker(make())
    fail(one)
    fail(one)
    wait_until(lambda: other.state != "closed")
    other._circuit.gate.prepare()  # type: ignore[union-attr]  # as a call does that is cut off then

    wait_until(lambda: works(one) or works(other))


def test_what_an_operator_does_concerns_one_process(make: Make) -> None:
    one, other = breaker(make()), breaker(make())

    one.force_open("maintenance")
    time.sleep(0.2)

    assert other.state == "closed"
    fail(other)
    fail(other)
    time.sleep(0.2)
    assert one.explain().reason == "maintenance"
    one.reset()
    other.reset()
    wait_until(lambda: works(one))


def test_a_cancelled_probe_gives_its_lease_back(make: Make) -> None:
    one, other = breaker(make()), breaker(make())
    fail(one)
    fail(one)
    wait_until(lambda: other.state != "closed")
    with pytest.raises(KeyboardInterrupt):
        wait_until(lambda: other.call(interrupt) if other.state == "half_open" else False)

    wait_until(lambda: works(one) or works(other), 4.0)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_closed_calls_send_nothing(make: Make) -> None:
    """A thousand good calls, and some bad ones: not one message."""
    one = breaker(make())
    sent: list[object] = []
    member = one._circuit.gate._member  # type: ignore[union-attr]
    member.send = sent.append
    for _ in range(300):
        one.call(lambda: True)
        fail(one)
        one.call(lambda: True)

    assert sent == []


def test_a_closed_breaker_costs_what_one_without_a_board_costs() -> None:
    """The fast path is the same: no permit and no lock."""
    shared = breaker(LocalBoard())
    alone = CircuitBreaker(2, 0.2)

    for one in (shared, alone):
        one.call(lambda: True)

    assert shared._circuit.fast_generation is not None
    assert shared._circuit.fast_generation == alone._circuit.fast_generation


@pytest.mark.traced
@pytest.mark.slow  # seconds of real waits
def test_without_the_store_each_has_its_own_circuit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with StoreServer(tmp_path) as server:
        boards = [RedisBoard(server.url) for _ in range(2)]
        for board in boards:
            board.wait_connected()
        one, other = map(breaker, boards)
        with caplog.at_level(logging.INFO, "llmbatch.peers"):
            server.kill()
            wait_until(lambda: len(caplog.records) == 2)
            fail(one)
            fail(one)
            wait_until(lambda: works(one))
            assert other.state == "closed"
            server.start()
            wait_until(lambda: len(caplog.records) == 4)
        for board in boards:
            board.close()

    texts = sorted(record.getMessage().split(" (")[0].split("/0 ")[1] for record in caplog.records)
    assert texts == ["is back", "is back", "is gone", "is gone"]


def test_registries_share_the_circuits_of_their_keys(make: Make) -> None:
    here, there = (BreakerRegistry[str](shared=make()) for _ in range(2))
    there["b"], there["a"]
    for _ in range(5):
        fail(here["a"])

    wait_until(lambda: there["a"].state != "closed")
    assert there["b"].state == "closed"


def test_two_breakers_of_one_name_in_one_process_are_one_circuit(make: Make) -> None:
    board = make()
    one, other = breaker(board), breaker(board)

    fail(one)
    fail(one)

    wait_until(lambda: other.state != "closed")
    wait_until(lambda: works(other))


@pytest.mark.slow  # time-outs of a store
@pytest.mark.traced
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_connects_anew(make: Make) -> None:
    """As a server does that loads its application before it forks: the child hears and is heard."""
    one = breaker(make())
    context = multiprocessing.get_context("fork")
    heard = context.Event()

    def child() -> None:
        deadline = time.monotonic() + 20
        while one.state == "closed" and time.monotonic() < deadline:
            time.sleep(0.01)
        if one.state != "closed":
            heard.set()
        os._exit(0)

    if not isinstance(make(), RedisBoard):
        pytest.skip("a board in this process is copied by a fork")
    process = context.Process(target=child)
    process.start()
    time.sleep(0.5)
    fail(one)
    fail(one)

    process.join(30)
    assert heard.is_set()


def test_a_board_needs_names_and_an_address() -> None:
    with pytest.raises(ValueError, match="needs a name"):
        CircuitBreaker(shared=LocalBoard())
    with pytest.raises(UsageError, match="url: 'localhost' is no address"):
        RedisBoard("localhost")
    with pytest.raises(TypeError, match="give shared to the CircuitBreaker"):
        BreakerRegistry[str](lambda key: CircuitBreaker(name=key), shared=LocalBoard())


def test_a_store_that_is_not_there_can_be_asked_for() -> None:
    board = RedisBoard("redis://127.0.0.1:1")

    with pytest.raises(ConnectionError, match=r"redis://127\.0\.0\.1:1 does not answer"):
        board.wait_connected(3.0)

    board.close()


def test_the_breaker_alone_loads_neither_boards_nor_the_client() -> None:
    code = "import llmbatch.breaker, sys; print([m for m in sys.modules if 'peers' in m or 'redis' in m])"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert run.stdout == "[]\n"
