"""A server in virtual time, and a client that keeps as many requests in flight as an AdaptiveLimit allows.

Run as a program it prints the table of docs/pace.md.

``flat``: latency is fixed when a request is sent, flat up to the knee and then in proportion to what is in flight.
``queue``: as many requests as the knee are worked on, the others wait in line. ``shared``: all are worked on, and
beyond the knee they share its throughput. Time is in round trips: the mean latency below the knee is 1.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from llmbatch.pace.limit import AdaptiveLimit

Kind = Literal["flat", "queue", "shared"]
KINDS: tuple[Kind, ...] = ("flat", "queue", "shared")

NO_KNEE = 10**9


@dataclass
class Trace:
    """What happened, per round trip: answers so far, requests in flight summed over time so far, and now."""

    done: list[int] = field(default_factory=list)
    area: list[float] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def rate(self, start: int, end: int) -> float:
        """Answers per round trip."""
        return (self.done[end] - self.done[start]) / (end - start)

    def mean(self, start: int, end: int) -> float:
        """Mean requests in flight."""
        return (self.area[end] - self.area[start]) / (end - start)

    def most(self, start: int, end: int) -> int:
        """Most requests in flight at the end of any of the round trips."""
        return max(self.in_flight[start : end + 1])


class Server:
    """Serves requests; *work* draws the seconds that one takes below the knee. *knees* has changes of the knee."""

    def __init__(self, kind: Kind, knees: Sequence[tuple[float, int]], work: Callable[[], float]) -> None:
        self._kind = kind
        self._knees = deque(knees)
        self._knee = self._knees.popleft()[1]
        self._work = work
        self._ends: list[tuple[float, int]] = []
        self._line: deque[tuple[int, float]] = deque()
        self._busy = 0
        self._virtual = self._at = 0.0
        """For ``shared``: work that each request has got, as of a time."""

    @property
    def _speed(self) -> float:
        return min(1.0, self._knee / max(1, len(self._ends))) if self._kind == "shared" else 1.0

    def _advance(self, now: float) -> None:
        self._virtual += (now - self._at) * self._speed
        self._at = now
        if self._knees and now >= self._knees[0][0]:
            self._knee = self._knees.popleft()[1]

    def send(self, number: int, now: float, in_flight: int) -> None:
        """Begin a request."""
        self._advance(now)
        work = self._work()
        if self._kind == "queue" and self._busy >= self._knee:
            self._line.append((number, work))
            return
        self._busy += 1
        if self._kind == "flat":
            work *= max(1.0, in_flight / self._knee)
        heapq.heappush(self._ends, (self._virtual + work, number))

    @property
    def next_end(self) -> float:
        """When the next request ends; infinity if there is none."""
        return self._at + (self._ends[0][0] - self._virtual) / self._speed if self._ends else math.inf

    def end(self) -> tuple[float, int]:
        """End that request; return the time and its number."""
        now = self.next_end
        at, number = heapq.heappop(self._ends)
        # The number of requests counts until now.
        self._virtual, self._at = at, now
        if self._knees and now >= self._knees[0][0]:
            self._knee = self._knees.popleft()[1]
        self._busy -= 1
        while self._line and self._busy < self._knee:
            waiting, work = self._line.popleft()
            self._busy += 1
            heapq.heappush(self._ends, (self._virtual + work, waiting))
        return now, number


def drive(
    limit: AdaptiveLimit,
    round_trips: int,
    *,
    kind: Kind = "shared",
    knees: Sequence[tuple[float, int]] = ((0.0, NO_KNEE),),
    work: Callable[[Random, float], float] = lambda _rng, _now: 1.0,
    allows: Callable[[float], bool] | None = None,
    supply: Callable[[float, int], bool] | None = None,
    timeout: float = math.inf,
    seed: int = 1,
) -> Trace:
    """Keep *limit* requests in flight for so many round trips.

    *allows*: whether a request is not refused with 429. *supply*: whether there is another one to send, by the time and
    the number sent so far. *timeout*: a call is given up after so long.
    """
    rng, now, sent, trace = Random(seed), 0.0, 0, Trace()
    server = Server(kind, knees, lambda: work(rng, now))
    out: dict[int, tuple[float, int]] = {}
    refusals: deque[tuple[float, int]] = deque()
    deadlines: deque[tuple[float, int]] = deque()
    done = refused = 0
    area = last = 0.0
    while now < round_trips:
        while len(out) < limit.value and (supply is None or supply(now, sent)):
            sent += 1
            out[sent] = (now, len(out) + 1)
            if timeout < math.inf:
                deadlines.append((now + timeout, sent))
            if allows is not None and not allows(now):
                refusals.append((now + 0.05, sent))
            else:
                server.send(sent, now, len(out))
        while deadlines and deadlines[0][1] not in out:
            deadlines.popleft()
        times = {
            "answer": server.next_end,
            "refusal": refusals[0][0] if refusals else math.inf,
            "timeout": deadlines[0][0] if deadlines else math.inf,
            "idle": now + 0.01 if supply is not None else math.inf,
        }
        what = min(times, key=lambda name: times[name])
        then = times[what]
        while len(trace.done) <= then and len(trace.done) <= round_trips:
            at = float(len(trace.done))
            trace.done.append(done)
            trace.area.append(area + len(out) * (at - last))
            trace.in_flight.append(len(out))
            trace.refused.append(refused)
        area, last, now = area + len(out) * (then - last), then, then
        if what == "answer":
            number = server.end()[1]
            if number in out:
                since, load = out.pop(number)
                done += 1
                limit.on_success(number, newest=sent, seconds=now - since, load=load, now=now)
        elif what == "refusal":
            number = refusals.popleft()[1]
            del out[number]
            refused += 1
            limit.on_pushback(number, sent)
        elif what == "timeout":
            number = deadlines.popleft()[1]
            del out[number]
            limit.on_timeout(number, sent)
    return trace


def lognormal(sigma: float) -> Callable[[Random, float], float]:
    """Latencies with a mean of 1."""
    return lambda rng, _now: math.exp(sigma * rng.gauss(0.0, 1.0) - sigma * sigma / 2)


def main() -> None:
    """Print throughput and requests in flight, relative to the knee, for each model, knee and spread."""
    sys.stdout.write("| server | *K* | latencies | round trips 20 to 60 | 60 to 300 |\n|---|---|---|---|---|\n")
    for kind in KINDS:
        for knee in (8, 64, 512):
            for sigma in (0.0, 0.5, 1.0):
                traces = [
                    drive(
                        *(AdaptiveLimit(1000, is_auto=True), 300),
                        kind=kind,
                        knees=[(0.0, knee)],
                        work=lognormal(sigma),
                        seed=seed,
                    )
                    for seed in range(3)
                ]
                cells = []
                for begin, end in ((20, 60), (60, 300)):
                    rate = sum(trace.rate(begin, end) for trace in traces) / len(traces) / knee
                    mean = sum(trace.mean(begin, end) for trace in traces) / len(traces) / knee
                    cells.append(f"{rate:.0%}, {mean:.2f} *K*")
                spread = f"lognormal, sigma {sigma:g}" if sigma else "all alike"
                sys.stdout.write(f"| {kind} | {knee} | {spread} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
