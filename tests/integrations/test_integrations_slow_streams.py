"""Streams that take long, in virtual time: what is slow, and how long a probe may take."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import httpx2
import pytest

from llmbatch import CircuitBreaker, CircuitOpenError
from llmbatch.integrations.circuits import Endpoint, ModelCircuits
from llmbatch.integrations.httpx2 import CircuitTransport

# Servers on loopback, without TLS.
pytestmark = pytest.mark.usefixtures("no_certificates")


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class SlowStream(httpx2.SyncByteStream):
    """Chunks that come after so many seconds each."""

    def __init__(self, clock: Clock, *gaps: float) -> None:
        self._clock = clock
        self._gaps = gaps

    def __iter__(self) -> Iterator[bytes]:
        for gap in self._gaps:
            self._clock.now += gap
            yield b"data: {}\n\n"


class Rig:
    """A client with a circuit in virtual time; each answer is made from the next of some gaps, or is a 503."""

    def __init__(self, circuits: ModelCircuits, clock: Clock) -> None:
        self.clock = clock
        self.circuits = circuits
        self.answers: list[tuple[float, tuple[float, ...]] | None] = []
        self.client = httpx2.Client(transport=CircuitTransport(httpx2.MockTransport(self._answer), circuits=circuits))

    def _answer(self, _: httpx2.Request) -> httpx2.Response:
        answer = self.answers.pop(0)
        if answer is None:
            return httpx2.Response(503)
        head, gaps = answer
        self.clock.now += head
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=SlowStream(self.clock, *gaps))

    def read(self, answer: tuple[float, tuple[float, ...]] | None, *, own_time: float = 0.0) -> None:
        """Read an answer whose head and chunks take so many seconds; the reader takes *own_time* for each chunk."""
        self.answers.append(answer)
        with self.client.stream("GET", "https://x.example/v1") as response:
            for _ in response.iter_bytes():
                self.clock.now += own_time

    @property
    def breaker(self) -> CircuitBreaker:
        return self.circuits[Endpoint("https://x.example")]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("head", "gaps", "own_time", "is_slow"),
    [
        (0.3, (1.0,) * 90, 0.0, False),
        (0.3, (1.0,) * 5, 60.0, False),
        (6.0, (5.0, 1.0), 0.0, True),
        (0.3, (1.0, 11.0, 1.0), 0.0, True),
    ],
    ids=["a long answer", "a slow reader", "a late first chunk", "a long gap"],
)
def test_what_makes_a_stream_slow(
    clock: Clock, head: float, gaps: tuple[float, ...], own_time: float, is_slow: bool
) -> None:
    """The time to the first chunk and the longest gap, without the reader's own time."""
    rig = Rig(
        ModelCircuits(slow_call_rate=1.0, slow_call_duration=10.0, minimum_calls=2, rate_window=2, clock=clock), clock
    )
    for _ in range(2):
        rig.read((head, gaps), own_time=own_time)
    assert rig.breaker.state == ("open" if is_slow else "closed")


def test_a_probe_that_streams_for_minutes_keeps_its_slot_and_closes(clock: Clock) -> None:
    """Each chunk renews its lease, so that no second probe goes before it has ended."""
    rig = Rig(ModelCircuits(1, 10.0, clock=clock), clock)
    rig.read(None)
    clock.now += 10
    rig.answers.append((1.0, (8.0,) * 20))
    with rig.client.stream("GET", "https://x.example/v1") as response:
        for _ in response.iter_bytes():
            if rig.breaker.state != "closed":
                with pytest.raises(CircuitOpenError):
                    rig.read((0.0, ()))
    assert rig.breaker.state == "closed"
    assert clock.now > 260


def test_a_probe_whose_stream_is_left_after_a_chunk_closes(clock: Clock) -> None:
    """An agent that has read enough has shown that the provider is back."""
    rig = Rig(ModelCircuits(1, 10.0, clock=clock), clock)
    rig.read(None)
    clock.now += 10
    rig.answers.append((1.0, (1.0,) * 20))
    with rig.client.stream("GET", "https://x.example/v1") as response:
        next(response.iter_bytes())
    assert rig.breaker.state == "closed"


def test_a_probe_without_an_answer_is_replaced(clock: Clock) -> None:
    """It was neither read nor closed, and holds nothing longer than its lease."""
    rig = Rig(ModelCircuits(1, 10.0, clock=clock), clock)
    rig.read(None)
    clock.now += 10
    rig.answers.append((1.0, (1.0,)))
    held = rig.client.send(rig.client.build_request("GET", "https://x.example/v1"), stream=True)
    with pytest.raises(CircuitOpenError):
        rig.read((0.0, ()))
    clock.now += 10
    rig.read((0.0, (1.0,)))
    assert rig.breaker.state == "closed"
    held.close()


def test_a_forgotten_probe_frees_its_slot(clock: Clock) -> None:
    """Nobody has read a byte of its answer, and nobody will."""
    rig = Rig(ModelCircuits(1, 10.0, clock=clock), clock)
    rig.read(None)
    clock.now += 10
    rig.answers.append((1.0, (1.0,)))
    rig.client.send(rig.client.build_request("GET", "https://x.example/v1"), stream=True)
    gc.collect()
    rig.read((0.0, (1.0,)))
    assert rig.breaker.state == "closed"
