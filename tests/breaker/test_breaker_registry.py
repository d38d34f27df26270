"""BreakerRegistry: one circuit a key, with options of its own, and never more than there is room for."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, down, down_later, fine, fine_later, trip
from breaker_threads import frequent_switches, run_threads

from llmbatch.breaker import BreakerEvent, BreakerMetrics, BreakerRegistry, CircuitBreaker, CircuitOpenError


@pytest.fixture
def clock() -> Clock:
    return Clock()


# One circuit a key.


async def test_each_key_has_a_circuit_of_its_own() -> None:
    """One tenant's outage is no other's; the same key gives the same breaker."""
    breakers: BreakerRegistry[str] = BreakerRegistry()

    for _ in range(5):
        with pytest.raises(DownError):
            await breakers["a"].async_call(down_later)

    with pytest.raises(CircuitOpenError, match="circuit a is open"):
        await breakers["a"].async_call(fine_later)
    assert await breakers["b"].async_call(fine_later) == "fine"
    assert breakers["a"] is breakers["a"]
    assert [breakers[key].name for key in ("a", "b")] == ["a", "b"]


def test_each_key_has_options_of_its_own(clock: Clock) -> None:
    """What ``make`` gives it; called once a key."""
    made: list[str] = []

    def make(model: str) -> CircuitBreaker:
        made.append(model)
        return CircuitBreaker(1 if model == "small" else 3, 60.0, name=f"sim/{model}", clock=clock)

    breakers = BreakerRegistry(make)
    for model in ("small", "large", "small", "large"):
        with pytest.raises((DownError, CircuitOpenError)):
            breakers[model].call(down)

    assert (breakers["small"].state, breakers["large"].state) == ("open", "closed")
    assert breakers["small"].name == "sim/small"
    assert made == ["small", "large"]


def test_any_hashable_key_will_do() -> None:
    """Tuples, numbers, None; a key that is not hashable is a TypeError and leaves nothing."""
    breakers: BreakerRegistry[object] = BreakerRegistry()
    keys: list[object] = [("openai", "o3"), 7, None, frozenset({1})]

    assert len({breakers[key] for key in keys}) == 4
    with pytest.raises(TypeError):
        breakers[["openai"]]

    assert list(breakers) == keys


def test_a_make_that_raises_leaves_nothing(clock: Clock) -> None:
    """Its error reaches whoever asked; the next to ask may have more luck."""
    luck = iter([False, True])

    def make(key: str) -> CircuitBreaker:
        if not next(luck):
            raise LookupError(key)
        return CircuitBreaker(name=key)

    breakers = BreakerRegistry(make)

    with pytest.raises(LookupError):
        breakers["a"]
    assert len(breakers) == 0
    assert breakers["a"].name == "a"


def test_making_one_may_ask_for_another() -> None:
    """A default that others are made from; the room is kept all the same."""
    breakers: BreakerRegistry[str]

    def make(key: str) -> CircuitBreaker:
        return CircuitBreaker(name=key if key == "default" else f"{key} like {breakers['default'].name}")

    breakers = BreakerRegistry(make, capacity=2)

    assert [breakers[key].name for key in ("a", "b", "c")] == ["a like default", "b like default", "c like default"]
    assert len(breakers) == 2


@pytest.mark.parametrize("capacity", [0, -1, 1.5, "10", True, None])
def test_a_capacity_out_of_range_is_told(capacity: object) -> None:
    """With the value and the range."""
    with pytest.raises(ValueError, match=r"capacity is .*, must be a whole number of at least 1"):
        BreakerRegistry(capacity=capacity)  # type: ignore[arg-type]


# Looking.


def test_looking_makes_and_uses_nothing() -> None:
    """``in``, ``len``, iteration, ``items`` and the repr; in the order of use."""
    breakers: BreakerRegistry[str] = BreakerRegistry(capacity=3)
    for key in ("a", "b", "c", "a"):
        breakers[key]

    assert ("a" in breakers, "z" in breakers, len(breakers)) == (True, False, 3)
    assert list(breakers) == [key for key, _ in breakers.items()] == ["b", "c", "a"]
    assert dict(breakers.items())["a"] is breakers["a"]
    assert "b" in breakers
    breakers["d"]

    assert list(breakers) == ["c", "a", "d"]


def test_iterating_while_others_use_it_is_safe() -> None:
    """The keys are those of the moment."""
    breakers: BreakerRegistry[str] = BreakerRegistry()
    for key in "abc":
        breakers[key]

    for key in breakers:
        breakers[key + key]

    assert len(breakers) == 6


def test_the_repr_counts() -> None:
    """How many of how many, and how many are in trouble."""
    breakers: BreakerRegistry[str] = BreakerRegistry(capacity=10)
    for key in "abc":
        breakers[key]
    breakers["a"].force_open()

    assert repr(breakers) == "<BreakerRegistry 3 of at most 10, 1 not closed>"


def test_a_discarded_key_starts_afresh() -> None:
    """Also while somebody still holds its breaker; an unknown key is no error."""
    breakers: BreakerRegistry[str] = BreakerRegistry()
    old = breakers["a"]
    old.force_open()

    breakers.discard("a")
    breakers.discard("a")
    breakers.discard("unknown")

    assert "a" not in breakers
    assert breakers["a"] is not old
    assert breakers["a"].state == "closed"


# Bounded.


def test_the_longest_unused_goes_first() -> None:
    """Of those with nothing to remember."""
    breakers: BreakerRegistry[int] = BreakerRegistry(capacity=3)
    for key in (1, 2, 3, 1, 4, 5):
        breakers[key]

    assert list(breakers) == [1, 4, 5]


def test_circuits_with_something_to_remember_outlive_idle_ones(clock: Clock) -> None:
    """Open, half-open, forced and failing ones stay, however long unused, while an idle one can go."""
    breakers: BreakerRegistry[str] = BreakerRegistry(
        lambda key: CircuitBreaker(2, 60.0, name=key, clock=clock), capacity=6
    )
    trip(breakers["half-open"])
    clock.advance(60.0)
    trip(breakers["open"])
    breakers["forced"].force_open()
    with pytest.raises(DownError):
        breakers["failing"].call(down)

    for number in range(50):
        breakers[f"idle-{number}"]
        states = {key: breaker.state for key, breaker in breakers.items()}
        assert len(states) <= 6

    assert states == {
        "half-open": "half_open",
        "open": "open",
        "forced": "open",
        "failing": "closed",
        "idle-48": "closed",
        "idle-49": "closed",
    }


def test_a_disabled_circuit_outlives_idle_ones() -> None:
    """What an operator has switched off stays off."""
    breakers: BreakerRegistry[str] = BreakerRegistry(lambda key: CircuitBreaker(1, name=key), capacity=2)
    breakers["a"].disable()

    for key in ("b", "c", "d"):
        breakers[key]
    with pytest.raises(DownError):
        breakers["a"].call(down)

    assert breakers["a"].state == "closed"


def test_when_all_have_something_to_remember_the_longest_unused_goes() -> None:
    """The bound holds whatever happens."""
    breakers: BreakerRegistry[int] = BreakerRegistry(capacity=5)

    for key in range(20):
        breakers[key].force_open()
        assert len(breakers) <= 5

    assert list(breakers) == [15, 16, 17, 18, 19]


@pytest.mark.parametrize(
    ("others", "idle", "goes"), [("open", 99, 99), ("open", 119, 119), ("failing", 99, 99), ("failing", 100, 0)]
)
def test_a_hundred_failing_ones_are_passed_over_and_any_number_of_open_ones(others: str, idle: int, goes: int) -> None:
    """In search of an idle one: a new key stays cheap, and no open circuit goes for one without failures."""
    breakers: BreakerRegistry[int] = BreakerRegistry(capacity=120)
    for key in range(120):
        breaker = breakers[key]
        if key != idle:
            with pytest.raises(DownError):
                breaker.call(down)
            if others == "open":
                breaker.hold(60.0)

    breakers[120]

    assert [key for key in range(120) if key not in breakers] == [goes]


@pytest.mark.slow
@pytest.mark.no_cover
def test_twenty_thousand_keys_take_the_room_of_a_hundred(small_heap: None) -> None:
    """However many tenants come by. Slow, for it makes every one of them."""
    alive: weakref.WeakSet[CircuitBreaker] = weakref.WeakSet()

    def make(key: int) -> CircuitBreaker:
        breaker = CircuitBreaker(1)
        alive.add(breaker)
        return breaker

    breakers = BreakerRegistry(make, capacity=100)
    breakers[-1].force_open()
    for key in range(20_000):
        breakers[key]
        if key % 1000 == 0:
            assert len(breakers) <= 100

    gc.collect()
    assert (len(breakers), len(alive), len(breakers._alive)) == (100, 100, 100)
    assert breakers[-1].is_open()


def test_a_breaker_that_is_held_is_found_again(small_heap: None) -> None:
    """Its place went to another, but a call is still out: no second circuit of one key beside it."""
    breakers: BreakerRegistry[str] = BreakerRegistry(lambda key: CircuitBreaker(1, name=key), capacity=1)
    seen: list[bool] = []

    def ask() -> None:
        mine = weakref.ref(breakers["a"])
        breakers["b"]
        breakers["c"]
        gc.collect()
        seen.append("a" in breakers)
        seen.append(breakers["a"] is mine())
        raise DownError

    with pytest.raises(DownError):
        breakers["a"].call(ask)

    assert seen == [False, True]
    assert breakers["a"].is_open()


async def test_a_permit_and_a_waiter_hold_their_breaker(small_heap: None) -> None:
    """As every call that is out does."""
    breakers: BreakerRegistry[str] = BreakerRegistry(lambda key: CircuitBreaker(1, name=key), capacity=1)
    permit = breakers["permit"].acquire()
    breakers["waiter"].force_open()
    task = asyncio.create_task(breakers["waiter"].wait_ready())
    await asyncio.sleep(0)
    breakers["other"].force_open()
    gc.collect()

    permit.settle("failure")
    assert breakers["permit"].is_open()
    breakers["waiter"].reset()
    async with asyncio.timeout(60.0):
        await task


def test_a_breaker_that_nobody_holds_is_forgotten(small_heap: None) -> None:
    """It starts afresh when its key comes back."""
    breakers: BreakerRegistry[str] = BreakerRegistry(capacity=1)
    first = weakref.ref(breakers["a"])

    breakers["b"]
    gc.collect()

    assert first() is None
    assert len(breakers._alive) == 1


# Threads.


def test_threads_that_ask_for_one_key_get_one_breaker() -> None:
    """However they interleave, and while others make new keys."""
    made: list[str] = []

    def make(key: str) -> CircuitBreaker:
        made.append(key)
        return CircuitBreaker(name=key)

    breakers = BreakerRegistry(make, capacity=1000)
    found: list[dict[str, CircuitBreaker]] = []

    def work() -> None:
        found.append({str(number % 100): breakers[str(number % 100)] for number in range(500)})

    with frequent_switches():
        run_threads(*[work] * 6)

    assert len(made) == 100
    assert all(each == found[0] for each in found)


def test_threads_never_pass_the_bound() -> None:
    """Nor does a call get lost: who holds a breaker counts on the one that is found again."""
    breakers: BreakerRegistry[int] = BreakerRegistry(lambda key: CircuitBreaker(10**6, name=str(key)), capacity=5)
    held = [breakers[key] for key in range(20)]
    sizes: set[int] = set()

    def work(seed: int) -> None:
        for number in range(400):
            with pytest.raises(DownError):
                breakers[(number * 7 + seed) % 20].call(down)
            sizes.add(len(breakers))

    with frequent_switches():
        run_threads(*[lambda seed=seed: work(seed) for seed in range(4)])

    assert max(sizes) <= 5
    assert sum(breaker.failures for breaker in held) == 1600


# Listeners.


def test_a_listener_hears_all_there_are_and_will_be() -> None:
    """Those made before and after, and one that is only held; with calls or without."""
    breakers: BreakerRegistry[str] = BreakerRegistry(capacity=2)
    held = breakers["held"]
    breakers["before"]
    breakers["b"]
    states: list[BreakerEvent] = []
    metrics = BreakerMetrics()

    breakers.add_listener(states.append)
    breakers.add_listener(metrics, calls=True)
    for breaker in (held, breakers["b"], breakers["after"]):
        breaker.call(fine)
        breaker.force_open()

    assert [event.name for event in states] == ["held", "b", "after"]
    assert [metrics.numbers(name).ended["success"] for name in ("held", "b", "after")] == [1, 1, 1]
    assert [metrics.numbers(name).openings for name in ("held", "b", "after")] == [1, 1, 1]


def test_a_breaker_that_is_found_again_is_listened_to_once() -> None:
    """Coming back into its place adds no listener twice."""
    breakers: BreakerRegistry[str] = BreakerRegistry(capacity=1)
    told: list[BreakerEvent] = []
    breakers.add_listener(told.append)
    held = breakers["a"]

    for key in itertools.islice(itertools.cycle("ab"), 10):
        breakers[key]
    held.force_open()

    assert len(told) == 1


def test_a_listener_may_use_the_registry() -> None:
    """It runs outside every lock of the breaker."""
    breakers: BreakerRegistry[str] = BreakerRegistry(capacity=2)
    seen: list[str] = []

    def listener(event: BreakerEvent) -> None:
        if event.name != "other":
            seen.append(breakers["other"].state)
            breakers["other"].force_open()

    breakers.add_listener(listener)
    breakers["a"].force_open()

    assert (seen, breakers["other"].state) == (["closed"], "open")
