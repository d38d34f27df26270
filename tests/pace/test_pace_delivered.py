"""The rate that is delivered: followed where it is the reason for refusals, and given up where it is not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from llmbatch.pace.budget_wait import NO_WAIT
from llmbatch.pace.delivered import FIRST_REST, DeliveredRate

Refuse = Callable[[float, int], bool]
"""Whether a request that is sent then, as one of so many in flight, is refused."""


class Client:
    """Sends to one route, *wanted* requests per second if nothing else limits it; answers come at once."""

    def __init__(self, refuse: Refuse, wanted: float = 4.0, *, load: Callable[[], int] = lambda: 1) -> None:
        self.rate = DeliveredRate()
        self.now = 0.0
        self.sent = 0
        self.refused = 0
        self.told: list[float] = []
        self.refuse, self.load, self._wanted = refuse, load, wanted

    def run(self, seconds: float, *, is_repeat: bool = False) -> float:
        """Send for so long; return the share that was refused."""
        end, sent, refused = self.now + seconds, self.sent, self.refused
        while self.now < end:
            self.send(is_repeat=is_repeat)
        return (self.refused - refused) / max(1, self.sent - sent)

    def send(self, *, is_repeat: bool) -> None:
        """Send a request as soon as it may be."""
        self.now += max(1.0 / self._wanted, self.rate.wait(self.now).seconds)
        self.sent += 1
        number, load = self.sent if self.rate.is_active else 0, self.load()
        if number:
            self.rate.send(number, self.now)
        if self.refuse(self.now, load):
            self.refused += 1
            self.rate.refused(number, load, self.now, self.now, is_repeat=is_repeat)
        elif number:
            told = self.rate.succeeded(number, load, self.now, is_repeat=is_repeat)
            self.told += [] if told is None else [told]


def bucket(per_second: float, most: float = 10.0) -> Refuse:
    """A provider's token bucket, full at first."""
    level, at = most, 0.0

    def refuse(now: float, load: int) -> bool:
        nonlocal level, at
        level, at = min(most, level + (now - at) * per_second), now
        if level < 1.0:
            return True
        level -= 1.0
        return False

    return refuse


def at_random(share: float, seed: int = 1) -> Refuse:
    draw = Random(seed)
    return lambda now, load: draw.random() < share


def is_following(client: Client) -> bool:
    return "a minute" in repr(client.rate)


class Watched:
    """A rate after its first refusal. Requests are answered as they are sent, at a time that only the test moves."""

    def __init__(self) -> None:
        self.rate = DeliveredRate()
        self.now = 0.0
        self.number = 0
        self.rate.refused(0, 1, self.now, self.now, is_repeat=False)

    def good(self, answers: int = 1, *, load: int = 1, is_repeat: bool = False) -> None:
        for _ in range(answers):
            self._send()
            self.rate.succeeded(self.number, load, self.now, is_repeat=is_repeat)

    def refused(self, answers: int = 1, *, load: int = 1) -> None:
        for _ in range(answers):
            self._send()
            self.rate.refused(self.number, load, self.now, self.now, is_repeat=False)

    def _send(self) -> None:
        self.number += 1
        self.rate.send(self.number, self.now)

    def begin_window(self) -> None:
        """All of a window but its last answer, which comes just in time to be the last."""
        self.good(18)
        self.refused()
        self.now += 10.0

    def follow(self) -> None:
        """Two windows, and so many good answers that the rate is no longer on trial."""
        for _ in range(2):
            self.begin_window()
            self.good()
        self.good(100)

    @property
    def is_following(self) -> bool:
        return "a minute" in repr(self.rate)


def test_two_windows_of_ten_seconds_and_twenty_answers_begin_it() -> None:
    watched = Watched()
    watched.begin_window()
    watched.good()

    watched.begin_window()

    assert repr(watched.rate) == "<DeliveredRate watching>"
    watched.good()
    assert watched.is_following


def test_answers_to_rows_that_were_refused_before_fill_no_window() -> None:
    watched = Watched()
    watched.begin_window()
    watched.good()
    watched.begin_window()

    watched.good(is_repeat=True)

    assert not watched.is_following


def test_a_long_pause_ends_the_watch() -> None:
    watched = Watched()

    watched.rate.refused(1, 1, 0.0, 0.0, is_repeat=False, pause=10.0)

    assert repr(watched.rate) == "<DeliveredRate idle>"


def test_a_wait_names_the_rate_that_is_followed() -> None:
    """As a limit that the provider has set, though it is only estimated: 19 requests succeeded in ten seconds."""
    watched = Watched()
    watched.follow()

    wait = watched.rate.wait(watched.now)

    assert wait.limit == "about 114 requests a minute, which no answer states"
    assert wait.is_reported


def test_eight_refusals_in_a_row_end_it() -> None:
    """Where those before are made up for, and the limit of requests in flight is not the reason."""
    watched = Watched()
    watched.follow()
    watched.good(400)

    watched.refused(7)
    assert watched.is_following
    watched.refused()
    assert not watched.is_following


@pytest.mark.parametrize(("first", "second", "ends"), [(40, 40, True), (39, 40, False), (40, 39, False)])
def test_two_refusals_above_all_good_loads_end_it(first: int, second: int, ends: bool) -> None:
    """If at least forty good answers came before each: then the limit is one of requests in flight."""
    watched = Watched()
    watched.follow()
    watched.refused()

    for good in (first, second):
        watched.good(good, load=5)
        watched.refused(load=9)

    assert watched.is_following is not ends


@pytest.mark.parametrize("load", [9, 10])
def test_what_passes_at_the_load_of_a_refusal_disproves_that(load: int) -> None:
    watched = Watched()
    watched.follow()
    watched.good(40, load=5)
    watched.refused(load=9)

    watched.good(40, load=load)
    watched.refused(load=12)

    assert watched.is_following


def test_a_rate_that_is_followed_again_is_told_again() -> None:
    client = Client(bucket(1.0))
    client.run(300.0)
    client.rate.stop(client.now)
    client.run(600.0)

    assert client.told == pytest.approx([60.0, 60.0], rel=0.1)


def test_nothing_waits_while_few_are_refused() -> None:
    """One in a hundred is no rate limit."""
    client = Client(at_random(0.01))
    client.run(3600.0)

    assert client.sent >= 3600 * 4 - 1
    assert client.rate.wait(client.now) == NO_WAIT
    assert not client.told


@pytest.mark.parametrize("limit", [0.5, 1.0, 3.0])
def test_a_limit_that_nothing_states_is_followed(limit: float) -> None:
    """At least 95 % of it, and at most 2 % of the requests are refused."""
    client = Client(bucket(limit))
    client.run(150.0 / limit)
    before = client.sent - client.refused
    share = client.run(3600.0)

    assert share <= 0.02
    assert client.sent - client.refused - before >= 0.95 * 3600.0 * limit
    assert client.told == [pytest.approx(60.0 * limit, rel=0.1)]
    assert "requests a minute, which no answer states" in str(client.rate.wait(client.now))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_limit_that_changes_is_followed_and_told(factor: float) -> None:
    """Within a minute or two."""
    first, second = bucket(2.0), bucket(2.0 * factor)
    client = Client(lambda now, load: (first if now < 600.0 else second)(now, load), wanted=8.0)
    client.run(690.0)
    before = client.sent - client.refused
    share = client.run(600.0)

    assert share <= 0.02
    assert client.sent - client.refused - before >= 0.95 * 600.0 * 2.0 * factor
    assert client.told[-1] == pytest.approx(120.0 * factor, rel=0.1)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_refusals_at_random_slow_nothing(share: float, seed: int) -> None:
    """A lower rate spares none: it is given up, again and again, for longer each time."""
    client = Client(at_random(share, seed))
    client.run(3600.0)

    assert client.sent >= 0.97 * 3600 * 4


def test_one_row_that_is_always_refused_slows_nothing() -> None:
    """Only its first refusal counts."""
    client = Client(lambda now, load: False)
    for _ in range(20):
        client.run(5.0)
        client.refuse = lambda now, load: True
        client.send(is_repeat=client.refused > 0)
        client.refuse = lambda now, load: False

    assert client.sent >= 400
    assert not client.rate.is_active


def test_a_limit_of_requests_in_flight_is_left_to_the_limit_in_flight() -> None:
    """What is refused was sent beside more than anything that succeeded."""
    draw = Random(1)
    client = Client(lambda now, load: load > 10, load=lambda: draw.choice([7, 8, 9, 9, 10, 10, 10, 10, 10, 10, 11]))
    client.run(25.0)
    assert is_following(client)
    draw.seed(2)
    client.load = lambda: 11 if draw.random() < 0.01 else draw.randrange(5, 11)
    client.run(600.0)

    assert not is_following(client)


def test_a_rate_is_not_tried_again_until_a_rest_is_over() -> None:
    """Which is twice as long each time."""
    rests: list[float] = []
    client = Client(at_random(0.5))
    stopped = 0.0
    for _ in range(4):
        while not is_following(client):
            client.run(1.0)
        rests.append(client.now - stopped)
        while is_following(client):
            client.run(1.0)
        stopped = client.now

    assert rests[1:] == pytest.approx([FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST], abs=30.0)


def test_where_refusals_name_long_pauses_nothing_is_followed() -> None:
    """To try for more would cost a minute each time."""
    client = Client(bucket(1.0))
    client.run(300.0)
    assert is_following(client)

    client.rate.refused(client.sent, 1, client.now, client.now, is_repeat=False, pause=60.0)

    assert not is_following(client)
    assert repr(client.rate) == "<DeliveredRate idle>"


def test_a_limit_that_fell_far_is_not_followed() -> None:
    """Others take most of it for some time. To grow back from six requests a minute would take half an hour."""

    def limit(now: float) -> float:
        return max(0.1, 1.0 - (now - 600.0) / 1000.0) if 600.0 <= now < 2400.0 else 1.0

    level, at = 10.0, 0.0

    def refuse(now: float, load: int) -> bool:
        nonlocal level, at
        level, at = min(10.0, level + (now - at) * limit(now)), now
        is_refused = level < 1.0
        level -= not is_refused
        return is_refused

    client = Client(refuse)
    client.run(2400.0)
    before = client.sent - client.refused
    client.run(600.0)

    assert client.sent - client.refused - before >= 0.9 * 600.0


def test_a_limit_that_becomes_known_is_not_estimated_any_more() -> None:
    """Headers or refusals state it now."""
    client = Client(bucket(1.0))
    client.run(300.0)
    assert client.rate.wait(client.now).seconds > 0

    client.rate.stop(client.now)

    assert client.rate.wait(client.now) == NO_WAIT
    assert not client.rate.is_active
    assert repr(client.rate) == "<DeliveredRate idle>"
