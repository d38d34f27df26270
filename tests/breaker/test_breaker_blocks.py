"""``with breaker.acquire():`` and ``async with breaker.acquire():``: many blocks at once, each with its own permit.

When a block has ended, its own permit is settled and no other, whatever thread, task or context ends it.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager

import pytest
from breaker_clock import Clock
from breaker_provider import DownError, RefusedError, half_opened, opened, trip
from breaker_threads import PATIENCE, frequent_switches, run_threads, switches_inside

from llmbatch.breaker import BreakerEvent, CallEnded, CircuitBreaker, CircuitOpenError, Permit, locked


@pytest.fixture
def clock() -> Clock:
    return Clock()


def block(breaker: CircuitBreaker, error: BaseException | None = None) -> None:
    """One block that ends at once."""
    with breaker.acquire():
        if error is not None:
            raise error


async def async_block(breaker: CircuitBreaker, error: BaseException | None = None) -> None:
    """The same with an await in it."""
    async with breaker.acquire():
        await asyncio.sleep(0)
        if error is not None:
            raise error


def held(breaker: CircuitBreaker) -> Iterator[Permit]:
    """A block that lasts until the generator goes on."""
    with breaker.acquire() as permit:
        yield permit


def end(generator: Iterator[Permit]) -> None:
    """Let its block end well."""
    assert next(generator, None) is None


def elsewhere(generator: Iterator[Permit]) -> Permit:
    """Begin its block in a copy of this context, as frameworks run each half of a generator dependency."""
    return contextvars.copy_context().run(next, generator)


def end_elsewhere(generator: Iterator[Permit]) -> None:
    """Let its block end well in another copy."""
    contextvars.copy_context().run(end, generator)


# One block.


def test_a_block_counts_how_it_ends(clock: Clock) -> None:
    """An exception as the judge says, raised on; nothing as a success."""
    breaker = CircuitBreaker(5, clock=clock, count_error=DownError)

    with pytest.raises(DownError):
        block(breaker, DownError())
    assert breaker.failures == 1
    with pytest.raises(RefusedError):
        block(breaker, RefusedError())
    assert breaker.failures == 1
    block(breaker)

    assert breaker.failures == 0


async def test_an_async_block_counts_how_it_ends(clock: Clock) -> None:
    """The same on an event loop."""
    breaker = CircuitBreaker(5, clock=clock, count_error=DownError)

    with pytest.raises(DownError):
        await async_block(breaker, DownError())
    assert breaker.failures == 1
    with pytest.raises(RefusedError):
        await async_block(breaker, RefusedError())
    assert breaker.failures == 1
    await async_block(breaker)

    assert breaker.failures == 0


async def test_blocks_are_refused_while_open(clock: Clock) -> None:
    """The body does not run, of neither kind; and again while the probe is out."""
    breaker = opened(clock)
    ran: list[str] = []

    def body() -> None:
        with breaker.acquire():
            ran.append("sync")

    async def async_body() -> None:
        async with breaker.acquire():
            ran.append("async")

    for _ in range(2):
        with pytest.raises(CircuitOpenError):
            body()
        with pytest.raises(CircuitOpenError):
            await async_body()
        clock.advance(60.0)
        probe = breaker.acquire()
    probe.release()
    assert ran == []
    clock.advance(1e6)

    body()
    assert (ran, breaker.state) == (["sync"], "closed")


def test_a_block_hands_its_permit_over(clock: Clock) -> None:
    """With which it may be settled early; the end of the block counts nothing then."""
    breaker = half_opened(clock)

    with breaker.acquire() as permit:
        assert (permit.is_probe, permit.is_settled) == (True, False)
        permit.settle("failure")
        assert breaker.state == "open"

    assert breaker.state == "open"


@pytest.mark.parametrize("interruption", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_block_gives_its_permit_back(clock: Clock, interruption: type[BaseException]) -> None:
    """The circuit stays half-open, and the next block is the probe."""
    breaker = half_opened(clock)

    for _ in range(3):
        with pytest.raises(interruption):
            block(breaker, interruption())
    assert (breaker.state, breaker.is_open()) == ("half_open", False)
    block(breaker)

    assert breaker.state == "closed"


async def test_a_cancelled_async_block_gives_its_permit_back(clock: Clock) -> None:
    """A task that is cancelled inside the block."""
    breaker = half_opened(clock)
    inside = asyncio.Event()

    async def hang() -> None:
        async with breaker.acquire():
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (breaker.state, breaker.is_open()) == ("half_open", False)
    await async_block(breaker)
    assert breaker.state == "closed"


def test_the_breaker_itself_is_no_block(clock: Clock) -> None:
    """Only a permit is: Python says so before the body runs, and nothing is counted."""
    breaker = half_opened(clock)

    with pytest.raises(TypeError, match="context manager"), breaker:  # type: ignore[attr-defined]
        raise AssertionError

    assert breaker.acquire().is_probe


def test_a_settled_permit_begins_no_block(clock: Clock) -> None:
    """A permit kept for a second block: its call would be neither refused nor counted."""
    permit = CircuitBreaker(clock=clock).acquire()
    with permit:
        pass

    with pytest.raises(RuntimeError, match="settled or released before"), permit:
        raise AssertionError


async def test_a_settled_permit_begins_no_async_block(clock: Clock) -> None:
    """The same on an event loop."""
    permit = CircuitBreaker(clock=clock).acquire()
    permit.release()

    with pytest.raises(RuntimeError, match="settled or released before"):
        async with permit:
            raise AssertionError


# Many blocks at once: each its own permit.


def test_nested_blocks_settle_from_the_inside_out(clock: Clock) -> None:
    """Each one its own, also with a block of another breaker between."""
    breaker, other = CircuitBreaker(5, clock=clock), CircuitBreaker(5, clock=clock)

    with breaker.acquire() as outer:
        with other.acquire() as between:
            with breaker.acquire() as inner:
                pass
            assert (inner.is_settled, between.is_settled, outer.is_settled) == (True, False, False)
        assert (between.is_settled, outer.is_settled) == (True, False)

    assert outer.is_settled


def test_a_nested_failure_counts_for_the_block_that_lets_it_pass(clock: Clock) -> None:
    """Caught between the two, it is one failure; the outer block is a success after it."""
    breaker = CircuitBreaker(5, clock=clock)
    told: list[BreakerEvent] = []
    breaker.add_listener(told.append, calls=True)

    with breaker.acquire(), pytest.raises(DownError):
        block(breaker, DownError())
    with pytest.raises(DownError), breaker.acquire():
        block(breaker, DownError())

    assert [event.verdict for event in told if isinstance(event, CallEnded)] == [
        "failure",
        "success",
        "failure",
        "failure",
    ]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_overlapping_tasks_settle_their_own(clock: Clock, order: tuple[int, ...]) -> None:
    """Three blocks begin in order and end in every other one."""
    breaker = CircuitBreaker(clock=clock)
    gates = [asyncio.Event() for _ in order]
    permits: list[Permit] = []

    async def work(gate: asyncio.Event) -> None:
        async with breaker.acquire() as permit:
            permits.append(permit)
            await gate.wait()

    tasks = [asyncio.create_task(work(gate)) for gate in gates]
    await asyncio.sleep(0)
    ended: list[list[int]] = []
    for number in order:
        gates[number].set()
        await tasks[number]
        ended.append([n for n in range(3) if permits[n].is_settled])

    assert ended == [sorted(order[: n + 1]) for n in range(3)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_overlapping_threads_settle_their_own(clock: Clock, order: tuple[int, ...]) -> None:
    """Three blocks begin in order and end in every other one."""
    breaker = CircuitBreaker(clock=clock)
    inside, leave, left = ([threading.Event() for _ in order] for _ in range(3))
    permits: dict[int, Permit] = {}
    ended: list[list[int]] = []

    def work(number: int) -> None:
        with breaker.acquire() as permit:
            permits[number] = permit
            inside[number].set()
            assert leave[number].wait(PATIENCE)
        left[number].set()

    def conduct() -> None:
        for event in inside:
            assert event.wait(PATIENCE)
        for number in order:
            leave[number].set()
            assert left[number].wait(PATIENCE)
            ended.append([n for n in range(3) if permits[n].is_settled])

    run_threads(conduct, *[lambda number=number: work(number) for number in range(3)])

    assert ended == [sorted(order[: n + 1]) for n in range(3)]


async def test_two_probes_of_two_tasks_decide_each_for_itself(clock: Clock) -> None:
    """The one that began first fails and opens the circuit; the other one's success is stale by then."""
    breaker = half_opened(clock, probes=2)
    told: list[BreakerEvent] = []
    breaker.add_listener(told.append, calls=True)
    first, second = asyncio.Event(), asyncio.Event()

    async def work(gate: asyncio.Event, error: Exception | None) -> None:
        async with breaker.acquire():
            await gate.wait()
            if error is not None:
                raise error

    failing = asyncio.create_task(work(first, DownError()))
    await asyncio.sleep(0)
    clock.advance(7.0)
    good = asyncio.create_task(work(second, None))
    await asyncio.sleep(0)
    clock.advance(1.0)
    first.set()
    with pytest.raises(DownError):
        await failing
    second.set()
    await good

    ends = [(event.verdict, event.seconds, event.is_stale) for event in told if isinstance(event, CallEnded)]
    assert ends == [("failure", 8.0, False), ("success", 1.0, True)]
    assert breaker.state == "open"


async def test_a_stale_block_is_not_mistaken_for_the_probe(clock: Clock) -> None:
    """A block from before the outage ends well while a probe is out in another task: nothing closes."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    stale, probe = asyncio.Event(), asyncio.Event()

    async def work(gate: asyncio.Event) -> None:
        async with breaker.acquire():
            await gate.wait()

    old = asyncio.create_task(work(stale))
    await asyncio.sleep(0)
    trip(breaker)
    clock.advance(60.0)
    new = asyncio.create_task(work(probe))
    await asyncio.sleep(0)

    stale.set()
    await old
    assert (breaker.state, breaker.is_open()) == ("half_open", False)
    probe.set()
    await new
    assert breaker.state == "closed"


async def test_a_hundred_tasks_in_random_order_leave_nothing_open(clock: Clock) -> None:
    """Tasks with nested blocks, ending as chance has it: after each end its own permits are settled and no others."""
    breaker = CircuitBreaker(10**6, clock=clock)
    draw = random.Random(3)
    mistakes: list[str] = []

    async def work() -> None:
        try:
            async with breaker.acquire() as outer:
                await asyncio.sleep(draw.random() / 1000)
                async with breaker.acquire() as inner:
                    await asyncio.sleep(draw.random() / 1000)
                    if outer.is_settled or inner.is_settled:
                        mistakes.append("settled by another")
                if outer.is_settled or not inner.is_settled:
                    mistakes.append("the inner end settled the outer permit")
                await asyncio.sleep(draw.random() / 1000)
                if draw.random() < 0.5:
                    raise DownError
        except DownError:
            pass
        if not outer.is_settled:
            mistakes.append("left behind")

    await asyncio.gather(*(work() for _ in range(100)))

    assert mistakes == []


async def test_tasks_begun_inside_a_block_have_blocks_of_their_own(clock: Clock) -> None:
    """They inherit their parent's context, and settle none of its permits, also where the parent ends first."""
    breaker = CircuitBreaker(clock=clock)
    parent_left, child_may_leave = asyncio.Event(), asyncio.Event()

    async def child() -> Permit:
        async with breaker.acquire() as permit:
            await parent_left.wait()
            assert not permit.is_settled
            await child_may_leave.wait()
            assert not permit.is_settled
        return permit

    async with breaker.acquire() as outer:
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
        await async_block(breaker)
        assert not outer.is_settled
    parent_left.set()
    await asyncio.sleep(0)
    child_may_leave.set()

    assert (await task).is_settled
    assert outer.is_settled


async def test_a_thread_begun_inside_a_block_has_a_block_of_its_own(clock: Clock) -> None:
    """``asyncio.to_thread`` hands the context on."""
    breaker = CircuitBreaker(clock=clock)

    async with breaker.acquire() as outer:
        await asyncio.to_thread(block, breaker)
        assert not outer.is_settled

    assert outer.is_settled


# Generators.


def test_a_generator_that_is_used_up_counts_as_a_success(clock: Clock) -> None:
    """With the block inside it, its items are part of the call."""
    breaker = half_opened(clock)

    def stream() -> Iterator[int]:
        with breaker.acquire():
            yield from range(3)

    assert list(stream()) == [0, 1, 2]
    assert breaker.state == "closed"


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_generator_left_half_way_gives_its_permit_back(small_heap: None, clock: Clock, how: str) -> None:
    """Closed or collected."""
    breaker = half_opened(clock)
    generator = held(breaker)
    next(generator)

    if how == "close":
        generator.close()  # type: ignore[attr-defined]
    del generator
    gc.collect()

    assert breaker.state == "half_open"
    assert breaker.acquire().is_probe


def test_an_error_thrown_into_a_generator_is_judged(clock: Clock) -> None:
    """As ``contextlib.contextmanager`` does with what its block raises."""
    breaker = CircuitBreaker(2, clock=clock)

    @contextmanager
    def session() -> Iterator[None]:
        with breaker.acquire():
            yield

    def use() -> None:
        with session():
            raise DownError

    with pytest.raises(DownError):
        use()

    assert breaker.failures == 1


async def test_an_async_generators_block_ends_with_it(clock: Clock) -> None:
    """As ``contextlib.asynccontextmanager`` and streams use them."""
    breaker = half_opened(clock)

    @asynccontextmanager
    async def session() -> AsyncIterator[Permit]:
        async with breaker.acquire() as permit:
            yield permit

    async with session() as permit:
        assert not permit.is_settled

    assert (permit.is_settled, breaker.state) == (True, "closed")


def test_generators_within_each_other_settle_their_own(clock: Clock) -> None:
    """In one context, the later one ends first."""
    breaker = CircuitBreaker(clock=clock)
    outer, inner = held(breaker), held(breaker)
    permits = [next(outer), next(inner)]

    end(inner)
    assert [permit.is_settled for permit in permits] == [False, True]
    end(outer)

    assert [permit.is_settled for permit in permits] == [True, True]


def test_generators_that_overlap_settle_their_own(clock: Clock) -> None:
    """In one context, the one that began first ends first."""
    breaker = CircuitBreaker(clock=clock)
    first, second = held(breaker), held(breaker)
    permits = [next(first), next(second)]

    end(first)

    assert [permit.is_settled for permit in permits] == [True, False]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_generators_end_in_any_order(clock: Clock, order: tuple[int, ...]) -> None:
    """Each settles its own, whoever drives it: in this context, in copies of it, or closed by the collector."""
    breaker = CircuitBreaker(clock=clock)
    generators = [held(breaker) for _ in order]
    permits = [
        next(generators[0]),
        elsewhere(generators[1]),
        contextvars.Context().run(next, generators[2]),
        next(generators[3]),
    ]
    ends = [
        lambda: end(generators[0]),
        generators[1].close,  # type: ignore[attr-defined]
        lambda: contextvars.Context().run(end, generators[2]),
        lambda: end_elsewhere(generators[3]),
    ]

    for count, number in enumerate(order, 1):
        ends[number]()
        assert [permit.is_settled for permit in permits] == [n in order[:count] for n in range(4)]


def test_a_stale_generator_is_not_mistaken_for_the_probe(clock: Clock) -> None:
    """A stream from before the outage ends well while a probe's stream is out: nothing closes."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    stale = held(breaker)
    next(stale)
    trip(breaker)
    clock.advance(60.0)
    probe = held(breaker)
    next(probe)

    end(stale)

    assert breaker.state == "half_open"


# Exit stacks.


def test_an_exit_stack_ends_its_blocks(clock: Clock) -> None:
    """In the opposite order, and by what passes through it."""
    breaker = CircuitBreaker(5, clock=clock)

    def stacked() -> None:
        with ExitStack() as stack:
            permits.extend(stack.enter_context(breaker.acquire()) for _ in range(3))
            raise DownError

    permits: list[Permit] = []
    with pytest.raises(DownError):
        stacked()

    assert [permit.is_settled for permit in permits] == [True] * 3
    assert breaker.failures == 3


async def test_an_async_exit_stack_ends_its_blocks(clock: Clock) -> None:
    """Of both kinds, and permits as well."""
    breaker = CircuitBreaker(5, clock=clock)

    async with AsyncExitStack() as stack:
        permits = [
            await stack.enter_async_context(breaker.acquire()),
            stack.enter_context(breaker.acquire()),
            await stack.enter_async_context(breaker.acquire()),
        ]
        assert not any(permit.is_settled for permit in permits)

    assert all(permit.is_settled for permit in permits)


def test_an_exit_stack_that_is_closed_inside_a_block_leaves_it_alone(clock: Clock) -> None:
    """Each ends its own."""
    breaker = CircuitBreaker(5, clock=clock)

    with ExitStack() as stack:
        stacked = stack.enter_context(breaker.acquire())
        with breaker.acquire() as own:
            stack.close()
            settled = (stacked.is_settled, own.is_settled)

    assert settled == (True, False)


def test_overlapping_exit_stacks_settle_their_own(clock: Clock) -> None:
    """In one context, the one that began first ends first."""
    breaker = CircuitBreaker(5, clock=clock)
    first, second = ExitStack(), ExitStack()
    permits = [first.enter_context(breaker.acquire()), second.enter_context(breaker.acquire())]

    first.close()
    assert [permit.is_settled for permit in permits] == [True, False]
    second.close()

    assert all(permit.is_settled for permit in permits)


# Ends in another context or thread than the beginning.


def test_a_block_may_end_in_another_context(clock: Clock) -> None:
    """With its own permit, where it is the only one."""
    breaker = half_opened(clock)
    generator = held(breaker)

    permit = elsewhere(generator)
    end_elsewhere(generator)

    assert (permit.is_settled, breaker.state) == (True, "closed")


def test_a_block_may_end_in_another_thread(clock: Clock) -> None:
    """As a web framework with a pool of threads has it: one enters, another leaves."""
    breaker = half_opened(clock)
    generator = held(breaker)
    permits: list[Permit] = []

    run_threads(lambda: permits.append(next(generator)))
    assert not permits[0].is_settled
    run_threads(lambda: end(generator))

    assert (permits[0].is_settled, breaker.state) == (True, "closed")


async def test_a_failing_request_counts_through_a_generator_dependency(clock: Clock) -> None:
    """Entered in one pool thread and left in another by the request's exception, as FastAPI drives them."""
    breaker = CircuitBreaker(2, clock=clock)

    @contextmanager
    def dependency() -> Iterator[None]:
        with breaker.acquire():
            yield

    async def request(error: Exception | None) -> None:
        manager = dependency()
        await asyncio.to_thread(manager.__enter__)
        if error is None:
            await asyncio.to_thread(manager.__exit__, None, None, None)
        else:
            assert not await asyncio.to_thread(manager.__exit__, type(error), error, None)

    await request(DownError())
    assert breaker.failures == 1
    await request(None)
    assert breaker.failures == 0
    await asyncio.gather(request(DownError()), request(DownError()))

    assert breaker.state == "open"


def test_blocks_that_end_elsewhere_settle_their_own(clock: Clock) -> None:
    """A stream from before the outage is still out when the probe's stream ends well in another context."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)
    stale, probe = held(breaker), held(breaker)
    elsewhere(stale)
    trip(breaker)
    clock.advance(60.0)
    elsewhere(probe)

    end_elsewhere(probe)

    assert breaker.state == "closed"


def test_a_block_that_ends_elsewhere_leaves_those_in_place_alone(clock: Clock) -> None:
    """A generator that ends in an empty context, while another block is open here."""
    breaker = CircuitBreaker(clock=clock)
    generator = held(breaker)

    with breaker.acquire() as own:
        contextvars.Context().run(next, generator)
        contextvars.Context().run(end, generator)
        was_settled = own.is_settled

    assert not was_settled


def test_blocks_that_end_elsewhere_leave_none_behind(clock: Clock) -> None:
    """A hundred at once, ended in another order: every permit is settled."""
    breaker = CircuitBreaker(clock=clock)
    generators = [held(breaker) for _ in range(100)]
    permits = [elsewhere(generator) for generator in generators]
    random.Random(5).shuffle(generators)

    for count, generator in enumerate(generators, 1):
        end_elsewhere(generator)
        assert sum(permit.is_settled for permit in permits) == count


@pytest.mark.slow
def test_threads_that_end_foreign_blocks_never_take_the_same_permit(clock: Clock) -> None:
    """Every permit is settled, however the ends interleave. Slow, for it switches threads at any line."""
    breaker = CircuitBreaker(clock=clock)
    batches = [[held(breaker) for _ in range(40)] for _ in range(6)]
    permits = [elsewhere(generator) for batch in batches for generator in batch]

    def work(batch: list[Iterator[Permit]]) -> None:
        for generator in batch:
            end(generator)

    with frequent_switches(), switches_inside(locked.__file__):
        run_threads(*[lambda batch=batch: work(batch) for batch in batches])

    assert [permit for permit in permits if not permit.is_settled] == []


def test_blocks_that_end_elsewhere_are_forgotten(small_heap: None, clock: Clock) -> None:
    """A context that lives on, as a server's main one does, keeps no permits of blocks that have ended."""
    breaker = CircuitBreaker(clock=clock)

    def alive() -> int:
        gc.collect()
        return sum(isinstance(kept, Permit) for kept in gc.get_objects())

    def serve() -> int:
        for _ in range(500):
            generator = held(breaker)
            next(generator)
            contextvars.Context().run(end, generator)
        return alive()

    before = alive()
    after = contextvars.copy_context().run(serve)

    assert after - before < 10
