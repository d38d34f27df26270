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


def bound_at(most: int) -> LoadBound:
    """One that was just learned, from the first request beyond it."""
    bound = LoadBound()
    learn(bound, most)
    return bound


def learn(bound: LoadBound, most: int, sent: int = 0) -> None:
    """One more than *most* is refused, after *sent* requests, and all that were in flight beside it pass."""
    assert not bound.refused(sent + most + 1, most + 1, sent + most + 1, most)
    for load in range(1, most + 1):
        bound.succeeded(sent + load, 1)


def answers_until_trial(bound: LoadBound) -> int:
    """Good answers at the bound until one request more is tried."""
    answers, most = 0, int(bound.most)
    while bound.value == bound.most:
        bound.succeeded(1000, most)
        answers += 1
    assert bound.value == most + 1
    return answers


@pytest.mark.parametrize("most", [1, 2, 8, 30])
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


def test_each_refusal_doubles_the_answers_until_the_next_trial() -> None:
    """From 25 to 400; each such refusal is explained."""
    bound = bound_at(8)
    spans = []
    for serial in range(1001, 1007):
        spans.append(answers_until_trial(bound))
        assert bound.refused(serial, 9, serial, 8)

    assert spans == [25, 50, 100, 200, 400, 400]


def test_half_as_many_as_the_bound_have_to_pass_to_raise_it() -> None:
    """Three at least; then two more are tried, and four, without a wait."""
    bound = bound_at(8)
    answers_until_trial(bound)

    for more in (1, 2, 4):
        most = int(bound.most)
        assert bound.value == most + more
        for _ in range(most // 2 - 1):
            bound.succeeded(1000, most + more)
        assert bound.most == most
        bound.succeeded(1000, most + more)
        assert bound.most == most + more


def test_as_many_are_tried_as_the_bound_at_most() -> None:
    bound = bound_at(1)
    answers_until_trial(bound)

    for value in (2, 4, 8):
        assert bound.value == value
        for _ in range(max(3, value // 4)):
            bound.succeeded(1000, value)


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


def test_nine_in_ten_of_those_in_flight_have_to_pass() -> None:
    bound = LoadBound()
    bound.refused(11, 11, 11, 10)

    for serial in range(1, 9):
        bound.succeeded(serial, serial)
    assert bound.most == math.inf
    bound.succeeded(9, 9)
    assert bound.most == 10


def test_what_was_sent_until_the_refusal_came_counts_as_proof() -> None:
    """With the last of it; later ones do not, as they were perhaps sent beside fewer."""
    bound = LoadBound()
    bound.refused(2, 2, 3, 1)

    bound.succeeded(4, 1)
    assert bound.most == math.inf
    bound.succeeded(3, 1)
    assert bound.most == 1


def test_another_refusal_asks_for_no_less_proof() -> None:
    bound = LoadBound()
    bound.refused(9, 9, 10, 8)
    bound.refused(10, 9, 10, 8)

    for serial in range(1, 8):
        bound.succeeded(serial, serial)
    assert bound.most == math.inf
    bound.succeeded(8, 8)
    assert bound.most == 8


def test_what_passed_earlier_at_that_load_disproves_nothing() -> None:
    """The limit may have fallen since it was sent."""
    bound = LoadBound()
    bound.refused(9, 5, 9, 1)

    bound.succeeded(8, 6)

    assert bound.most == 4


def test_a_new_bound_is_idle() -> None:
    assert LoadBound().is_idle


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


def test_two_refusals_at_once_that_the_bound_does_not_explain_end_it() -> None:
    """Requests that were sent before the first of them came back count with it."""
    bound = bound_at(8)

    assert not bound.refused(20, 8, 21, 7)
    assert not bound.refused(21, 8, 21, 7)
    assert bound.most == 8
    assert not bound.refused(22, 8, 22, 7)
    assert bound.most == math.inf


@pytest.mark.parametrize(("answers", "most"), [(90, math.inf), (100, 8), (300, 8)])
def test_a_hundred_good_answers_make_up_for_a_refusal(answers: int, most: float) -> None:
    """Of three with good answers between them, the third ends the bound if the first is not made up for."""
    bound = bound_at(8)

    for serial, good in ((20, answers), (21, 1), (22, 0)):
        bound.refused(serial, 5, serial, 0)
        for _ in range(good):
            bound.succeeded(serial, 5)

    assert bound.most == most


def test_after_a_wrong_bound_none_is_learned_for_longer_each_time() -> None:
    """Two hundred good answers, then twice as many. The next one begins without a doubt."""
    bound = bound_at(8)
    rests = []
    sent = 100
    for _ in range(4):
        bound.refused(sent, 8, sent, 7)
        assert bound.most == 8
        bound.refused(sent + 1, 8, sent + 1, 7)
        assert bound.most == math.inf
        answers = 0
        while not bound.is_idle:
            bound.succeeded(sent, 1)
            answers += 1
        rests.append(answers)
        learn(bound, 8, sent + 1)
        sent += 100

    assert rests == [200, 400, 800, 1600]


def test_nothing_is_suspected_during_the_rest() -> None:
    bound = bound_at(8)
    for serial in (20, 21):
        bound.refused(serial, 8, serial, 7)

    learn(bound, 8, 30)

    assert bound.most == math.inf


def test_a_bound_that_is_forgotten_leaves_no_doubt() -> None:
    """What was refused below it does not count against the next one."""
    bound = bound_at(8)
    bound.refused(20, 5, 20, 0)
    bound.forget()
    learn(bound, 8, 20)

    for serial in (40, 41):
        bound.refused(serial, 5, serial, 0)
        bound.succeeded(serial, 5)

    assert bound.most == 8


def test_a_bound_that_is_forgotten_leaves_nothing() -> None:
    route = Route(lambda load: load <= 8)
    route.run(40)

    route.bound.forget()

    assert route.bound.is_idle
    assert route.bound.value == math.inf
