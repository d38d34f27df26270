"""The limit of requests in flight that a provider keeps: found by refusals, and given up where it is not the reason."""

from __future__ import annotations

import math
from random import Random

from llmbatch.pace.carried import FIRST_REST, FIRST_SPAN, LONGEST_SPAN, MOST_DOUBT, CarriedLoad


def pass_at(carried: CarriedLoad, load: int, serials: range) -> None:
    for serial in serials:
        carried.succeeded(serial, load)


def carrying(most: int) -> CarriedLoad:
    """One whose calls 1 to *most* + 2 were sent at once, and the last two refused."""
    carried = CarriedLoad()
    for load in (most + 1, most + 2):
        carried.refused(load, load, newest=most + 2)
    assert carried.most == most
    return carried


def test_nothing_is_limited_at_first() -> None:
    """Good answers change nothing."""
    carried = CarriedLoad()
    pass_at(carried, 40, range(1, 100))

    assert (carried.most, carried.trial) == (math.inf, 0)
    assert repr(carried) == "<CarriedLoad inf, 0 more on trial>"


def test_the_first_refused_of_a_burst_tells_how_many_are_carried() -> None:
    """Forty are sent at once, eight pass; the refusals come in any order."""
    carried = CarriedLoad()

    for load in (20, 9, 40, 10):
        carried.refused(load, load, newest=40)

    assert carried.most == 8
    pass_at(carried, 8, range(1, 9))
    assert carried.most == 8


def test_a_good_answer_beside_more_raises_it() -> None:
    """Of those that were in flight when the refusal came, too: then it was not for their number."""
    carried = CarriedLoad()
    carried.refused(3, 3, newest=40)
    carried.refused(4, 4, newest=40)
    assert carried.most == 2

    carried.succeeded(40, 40)

    assert carried.most == 40


def test_one_more_is_tried_rarely_and_ever_more_rarely_while_it_is_refused() -> None:
    """A request sent beside fewer than are carried is no trial."""
    carried = carrying(8)
    serial, spans = 10, []
    for _ in range(6):
        good = 0
        while not carried.trial:
            serial, good = serial + 1, good + 1
            carried.succeeded(serial, 8)
        spans.append(good)
        carried.sent(8)
        assert carried.trial == 1
        carried.sent(9)
        assert carried.trial == 0
        serial += 1
        carried.refused(serial, 9, newest=serial)
        assert carried.most == 8

    assert spans == [50, 100, 200, 200, 200, 200]
    assert (spans[0], spans[-1]) == (FIRST_SPAN, LONGEST_SPAN)


def test_one_refusal_among_good_answers_is_no_limit() -> None:
    """It may be chance; the next request beside as many passes."""
    carried = CarriedLoad()
    for serial in range(1, 100, 2):
        carried.refused(serial, 9, newest=serial)
        carried.succeeded(serial + 1, 8)

    assert carried.most == math.inf


def test_a_limit_that_is_new_is_found_below_what_passed_before() -> None:
    """Forty passed for long; then only eight do."""
    carried = CarriedLoad()
    pass_at(carried, 40, range(1, 1000))
    serial = 1000
    while carried.most == math.inf and serial < 1100:
        serial += 1
        carried.refused(serial, 9, newest=serial)

    assert carried.most == 8


def test_answers_beside_fewer_begin_no_trial() -> None:
    """A slow input, or ``--rpm``, says nothing about what is carried."""
    carried = carrying(8)

    pass_at(carried, 7, range(11, 1000))

    assert (carried.most, carried.trial) == (8, 0)


def test_a_higher_limit_is_reached_within_a_few_round_trips() -> None:
    """From 8 to 64: each trial that passes is followed by one of twice as many."""
    carried = carrying(8)
    serial, trips = 10, 0
    while carried.most < 64 and trips < 40:
        trips += 1
        most = int(carried.most) + carried.trial
        for load in (*range(int(carried.most) + 1, most + 1), *[int(carried.most)] * int(carried.most)):
            serial += 1
            if carried.trial:
                carried.sent(load)
            carried.succeeded(serial, load)

    assert trips <= 20


def test_a_lower_limit_is_followed() -> None:
    """From 8 to 4: a few refusals, and it is 4."""
    carried = carrying(8)
    pass_at(carried, 8, range(11, 20))
    carried.refused(21, 8, newest=25)
    for serial in range(22, 26):
        carried.refused(serial, 26 - serial + 4, newest=25)

    assert carried.most == 4


def test_a_refusal_with_nothing_else_in_flight_has_another_reason() -> None:
    """A limit of the rate refuses that too; it is not looked for again for a while."""
    carried = carrying(8)
    carried.refused(11, 1, newest=11)
    assert carried.most == math.inf

    for serial in (12, 13):
        carried.refused(serial, 9, newest=13)
    assert carried.most == math.inf
    pass_at(carried, 8, range(14, 14 + FIRST_REST))
    for serial in (1000, 1001):
        carried.refused(serial, 9, newest=1001)
    assert carried.most == 8


def test_refusals_at_random_limit_nothing_for_long() -> None:
    """Some are refused beside fewer than pass: a few of them, and it is given up."""
    draws = Random(1)
    for share in (0.02, 0.1, 0.5):
        carried = CarriedLoad()
        held = 0
        for serial in range(1, 20_000):
            load = int(min(40, carried.most + carried.trial))
            held += load < 36
            if draws.random() < share:
                carried.refused(serial, load, newest=serial)
            else:
                carried.succeeded(serial, load)
        assert held < 0.02 * 20_000


def test_a_few_refusals_that_it_does_not_explain_are_forgiven() -> None:
    """Another client may have used the route for a moment."""
    carried = carrying(40)
    serial = 42
    for _ in range(3 * int(MOST_DOUBT)):
        for _ in range(300):
            serial += 1
            carried.succeeded(serial, int(min(carried.most, 40)))
        serial += 1
        carried.refused(serial, int(min(carried.most, 40)), newest=serial)

    assert carried.most < math.inf
