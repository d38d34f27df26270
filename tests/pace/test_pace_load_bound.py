"""The bound of requests in flight: learned where the load alone is refused, and from nothing else."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from random import Random

import pytest

from llmbatch.pace.load_bound import LoadBound


class Route:
    """Requests in flight, in the order of sending, and what becomes of each. *takes*: whether one of *load* is."""

    def __init__(self, takes: Callable[[int], bool], most: int = 40) -> None:
        self.bound = LoadBound()
        self.takes, self.most = takes, most
        self.out: deque[tuple[int, int]] = deque()
        self.sent = self.refused = self.explained = 0

    def fill(self) -> None:
        """Send as many as are allowed; what is refused comes back at once, and is not sent again in this turn."""
        limit = min(self.most, self.bound.value)
        turned_away = 0
        while len(self.out) + turned_away < limit:
            self.sent += 1
            load = len(self.out) + turned_away + 1
            if self.takes(load):
                self.out.append((self.sent, load))
            else:
                turned_away += 1
                self.refused += 1
                if self.bound.refused(self.sent, load, self.sent, len(self.out)):
                    self.explained += 1
                limit = min(limit, self.bound.value)

    def answer(self) -> None:
        """The oldest request has a good answer."""
        if self.out:
            serial, load = self.out.popleft()
            if not self.bound.is_idle:
                self.bound.succeeded(serial, load)

    def run(self, answers: int) -> None:
        for _ in range(answers):
            self.fill()
            self.answer()


@pytest.mark.parametrize("most", [2, 8, 30])
def test_a_limit_of_requests_in_flight_is_learned_and_kept(most: int) -> None:
    """By the first burst, once all that were taken are answered. From then on few are refused, and all explained."""
    route = Route(lambda load: load <= most)
    route.run(most + 1)

    assert route.bound.most == most
    assert repr(route.bound) == f"<LoadBound {most}>"
    before = route.refused
    route.run(5_000)
    assert route.bound.most == most
    assert 1 <= route.refused - before == route.explained <= 5_000 / 100


def test_one_request_more_is_tried_ever_more_rarely() -> None:
    route = Route(lambda load: load <= 8)
    route.run(400)
    early = route.refused
    route.run(4_000)
    late = route.refused
    route.run(4_000)

    assert late - early <= 4_000 / 300
    assert 4_000 / 450 <= route.refused - late <= 4_000 / 390


def test_a_limit_that_rises_is_followed() -> None:
    """Within some round trips of the new limit, each trial twice as large."""
    limit = 4
    route = Route(lambda load: load <= limit)
    route.run(300)
    limit = 40
    route.run(900)

    assert route.bound.most >= 40


def test_a_limit_that_falls_is_followed() -> None:
    limit = 20
    route = Route(lambda load: load <= limit)
    route.run(300)
    limit = 5
    route.run(1_000)

    assert route.bound.most == 5


def test_requests_in_flight_that_fail_prove_nothing() -> None:
    """In an outage all are refused, or have no good answer."""
    bound = LoadBound()

    assert not bound.refused(9, 9, 9, 8)
    for serial in range(1, 8):
        bound.succeeded(serial, serial)
    assert bound.most == math.inf
    bound.succeeded(8, 8)
    assert bound.most == 8


def test_a_refusal_with_nothing_beside_it_has_another_reason() -> None:
    bound = LoadBound()

    assert not bound.refused(1, 1, 1, 0)
    assert bound.is_idle
    assert not bound.refused(2, 2, 2, 0)
    assert bound.is_idle


def test_what_was_refused_and_passes_at_once_was_chance() -> None:
    bound = LoadBound()
    bound.refused(9, 9, 9, 8)
    bound.succeeded(1, 1)

    bound.succeeded(10, 9)

    assert bound.is_idle
    for serial in range(2, 9):
        bound.succeeded(serial, serial)
    assert bound.most == math.inf


def test_a_single_request_above_the_bound_that_passes_does_not_raise_it() -> None:
    """The server knows before us that it has answered another one."""
    route = Route(lambda load: load <= 8)
    route.run(40)
    route.bound.succeeded(route.sent, 9)

    assert route.bound.most == 8


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
def test_random_refusals_bound_nothing_for_long(share: float) -> None:
    """Two that the bound does not explain end it, and another one is learned later and later."""
    rng = Random(1)
    route = Route(lambda _load: rng.random() >= share)
    bounded = 0
    for _ in range(20_000):
        route.run(1)
        bounded += route.bound.most < 36

    assert bounded / 20_000 < 0.05


def test_a_bound_that_is_forgotten_leaves_nothing() -> None:
    route = Route(lambda load: load <= 8)
    route.run(40)

    route.bound.forget()

    assert route.bound.is_idle
    assert route.bound.value == math.inf
