"""A run that is paused, resumed and changed while it goes on, under virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from decimal import Decimal

import pytest
from runner_story import Prompts, Simulate, Story

from llmbatch.core.errors import UsageError
from llmbatch.core.events import (
    CallEnded,
    CallSent,
    CircuitChanged,
    LimitChanged,
    OptionChanged,
    RunPaused,
    RunResumed,
    RunStopping,
)
from llmbatch.runner.concurrency import Auto
from llmbatch.runner.control import Change, Command, Pause, Resume, changed, parse_setting
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.sim.scenario import Phase

STEADY = Phase(math.inf)


def at(*commands: tuple[float, Command | Callable[[Engine], None]]) -> Callable[[Engine], None]:
    """Give each command so many seconds after the start."""

    def during(engine: Engine) -> None:
        for seconds, command in commands:
            if isinstance(command, Pause | Resume | Change):
                asyncio.get_running_loop().call_later(seconds, engine.control, command)
            else:
                asyncio.get_running_loop().call_later(seconds, command, engine)

    return during


def options(**values: object) -> RunOptions:
    return RunOptions(**({"seed": 1} | values))  # type: ignore[arg-type]


def pauses(story: Story) -> list[tuple[float, float]]:
    begins = [event.at for event in story.of(RunPaused)]
    ends = [event.at for event in story.of(RunResumed)]
    return list(zip(begins, [*ends, math.inf], strict=False))


def sent_while_paused(story: Story) -> list[CallSent]:
    return [event for event in story.of(CallSent) for first, last in pauses(story) if first < event.at < last]


def in_flight(story: Story, first: float, last: float) -> int:
    """The most calls in flight between two times after the first event."""
    zero = story.events[0].at
    most = now = 0
    for event in story.events:
        if isinstance(event, CallSent):
            now += 1
        elif isinstance(event, CallEnded):
            now -= 1
        if first <= event.at - zero < last and isinstance(event, CallSent):
            most = max(most, now)
    return most


def test_a_paused_run_sends_nothing_and_goes_on_with_a_ramp(simulate: Simulate, prompts: Prompts) -> None:
    """Calls in flight end and are written; after the pause traffic does not stampede."""
    story = simulate(prompts(400), STEADY, latency=1.0, concurrency=20, during=at((5.2, Pause()), (65.2, Resume())))

    (first, last), *_ = pauses(story)
    assert last - first == 60
    assert story.of(RunResumed)[0].seconds == 60
    assert not sent_while_paused(story)
    ended = [event for event in story.of(CallEnded) if first < event.at < last]
    assert 10 <= len(ended) <= 20
    assert all(event.verdict == "success" for event in ended)
    after = last - story.events[0].at
    assert in_flight(story, after, after + 0.5) <= 3
    assert in_flight(story, after + 20, math.inf) == 20
    assert story.statuses == {"success": 400}
    assert story.ending.exit_code == 0


@pytest.mark.slow  # many calls in virtual time
def test_probes_wait_for_the_end_of_a_pause(simulate: Simulate, prompts: Prompts) -> None:
    """A pause in the middle of an outage: nothing asks the provider, and the outage ends by a probe afterwards."""
    story = simulate(
        prompts(600),
        Phase(5),
        Phase(100, "down"),
        STEADY,
        concurrency=10,
        during=at((30.0, Pause()), (300.0, Resume())),
    )

    assert not sent_while_paused(story)
    probes = [event for event in story.of(CallSent) if event.probe]
    (_, last), *_ = pauses(story)
    assert any(event.at < last for event in probes)
    assert min(event.at for event in probes if event.at >= last) - last < 1
    closed = [event.at for event in story.of(CircuitChanged) if event.new == "closed"]
    assert closed
    assert closed[-1] > last
    assert story.statuses == {"success": 600}


@pytest.mark.slow  # many calls in virtual time
def test_a_pause_during_a_ramp_holds_it(simulate: Simulate, prompts: Prompts) -> None:
    """Just after an outage: what the ramp had regained is regained again."""
    story = simulate(
        prompts(600),
        Phase(5),
        Phase(30, "down"),
        STEADY,
        latency=1.0,
        concurrency=32,
        during=lambda engine: [at((seconds, Pause()), (seconds + 20, Resume()))(engine) for seconds in (38.0, 90.0)],
    )

    assert not sent_while_paused(story)
    assert story.statuses == {"success": 600}


def test_a_bound_on_outages_ends_a_paused_run(simulate: Simulate, prompts: Prompts) -> None:
    """``--max-outage`` is a promise about time, and goes on: the rest is deferred."""
    story = simulate(
        prompts(600), Phase(5), Phase(math.inf, "down"), concurrency=10, max_outage=60.0, during=at((20.0, Pause()))
    )

    assert story.ending.exit_code == 75
    assert 60 <= story.seconds <= 80
    assert story.deferred


def test_without_a_bound_a_pause_is_not_given_up(simulate: Simulate, prompts: Prompts) -> None:
    """A provider that was never reached is given up after ten minutes; those of a pause do not count."""
    story = simulate(
        prompts(20),
        Phase(4000, "refuse"),
        STEADY,
        concurrency=4,
        during=at((60.0, Pause()), (4100.0, Resume())),
    )

    assert story.ending.exit_code == 0
    assert story.statuses == {"success": 20}


def test_a_paused_run_stops_as_any_other(simulate: Simulate, prompts: Prompts) -> None:
    """Ctrl-C, or q: rows that were not sent wait for the next run, which is not paused."""
    story = simulate(
        prompts(200),
        STEADY,
        latency=1.0,
        concurrency=10,
        during=at((3.5, Pause()), (10.0, lambda engine: engine.stop(130, "interrupted"))),
    )

    assert story.ending.exit_code == 130
    assert 9 < story.seconds < 11
    assert story.of(RunStopping)
    assert story.statuses == {"success": len(story.results)}


def test_a_run_paused_before_its_first_call_waits(simulate: Simulate, prompts: Prompts) -> None:
    """Nothing at all is sent until it is resumed; further commands of the same kind change nothing."""
    commands = at((0.0, Pause()), (1.0, Pause()), (50.0, Resume()), (51.0, Resume()))

    story = simulate(prompts(30), STEADY, concurrency=4, during=lambda e: (e.control(Pause()), commands(e)))

    assert len(story.of(RunPaused)) == len(story.of(RunResumed)) == 1
    assert story.of(CallSent)[0].at - story.events[0].at == 50
    assert story.statuses == {"success": 30}


@pytest.mark.slow  # many calls in virtual time
def test_a_lower_concurrency_counts_for_the_next_call(simulate: Simulate, prompts: Prompts) -> None:
    """Calls in flight are not cut off, and none begins before there are fewer than the new limit."""
    lower = Change(options(concurrency=5))

    story = simulate(prompts(800), STEADY, latency=1.0, concurrency=40, during=at((5.0, lower)))

    assert in_flight(story, 0, 5.0) == 40
    assert in_flight(story, 5.0, math.inf) == 5
    (event,) = story.of(OptionChanged)
    assert (event.name, event.old, event.new) == ("concurrency", "40", "5")
    assert next(change.limit for change in story.of(LimitChanged)) == 5
    assert story.statuses == {"success": 800}


def test_a_lower_concurrency_holds_over_all_routes(simulate: Simulate, prompts: Prompts) -> None:
    """Two models share what is in flight, and neither takes what the other has left."""
    rows = [row for number in range(300) for row in prompts(1, model=f"m{number % 2}")]

    story = simulate(rows, STEADY, latency=1.0, concurrency=40, during=at((2.0, Change(options(concurrency=6)))))

    assert in_flight(story, 3.0, math.inf) == 6
    assert story.statuses == {"success": 300}


@pytest.mark.slow  # many calls in virtual time
def test_a_higher_concurrency_is_reached_by_a_ramp(simulate: Simulate, prompts: Prompts) -> None:
    """From 8 to 80: not at once, and within some round trips."""
    higher = Change(options(concurrency=80))

    story = simulate(prompts(2000), STEADY, latency=1.0, concurrency=8, during=at((5.1, higher)))

    assert in_flight(story, 0, 5.1) == 8
    assert in_flight(story, 5.1, 6.0) <= 20
    assert in_flight(story, 15.0, math.inf) == 80
    assert story.statuses == {"success": 2000}


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
def test_auto_gets_another_ceiling(simulate: Simulate, prompts: Prompts) -> None:
    """Down at once, and up again by its search."""
    story = simulate(
        prompts(3000),
        STEADY,
        latency=1.0,
        concurrency="auto:100",
        during=at((20.0, Change(options(concurrency=Auto(10)))), (60.0, Change(options(concurrency=Auto(50))))),
    )

    assert in_flight(story, 15.0, 20.0) > 50
    assert in_flight(story, 22.0, 60.0) <= 10
    assert 40 <= in_flight(story, 80.0, math.inf) <= 50
    assert story.statuses == {"success": 3000}


def test_a_request_rate_can_be_set_raised_and_taken_away(simulate: Simulate, prompts: Prompts) -> None:
    """Each new rate begins without a burst, so that setting it often sends no more."""
    story = simulate(
        prompts(400),
        STEADY,
        latency=0.1,
        concurrency=4,
        during=at(
            (2.0, Change(options(concurrency=4, rpm=60.0))),
            (32.0, Change(options(concurrency=4, rpm=120.0))),
            (62.0, Change(options(concurrency=4))),
        ),
    )

    zero = story.events[0].at
    sent = [event.at - zero for event in story.of(CallSent)]
    assert 28 <= sum(2.0 < second <= 32.0 for second in sent) <= 31
    assert 55 <= sum(32.0 < second < 61.9 for second in sent) <= 61
    assert max(sent) < 75
    assert story.of(OptionChanged)[0].own_limits == "--rpm 60"
    assert story.of(OptionChanged)[2].own_limits == ""
    assert story.statuses == {"success": 400}


def test_a_token_rate_can_be_set_and_taken_away(simulate: Simulate, prompts: Prompts) -> None:
    """As the rate of requests."""
    story = simulate(
        prompts(200),
        STEADY,
        latency=0.1,
        concurrency=4,
        during=at(
            (1.0, Change(options(concurrency=4, tpm=600.0))),
            (40.0, Change(options(concurrency=4))),
        ),
    )

    zero = story.events[0].at
    sent = [event.at - zero for event in story.of(CallSent)]
    slow = sum(8.0 < second <= 40.0 for second in sent) / 32
    fast = sum(second < 1.0 for second in sent)
    assert slow < fast / 4
    assert max(sent) < 60
    assert story.statuses == {"success": 200}


# What may be changed.


def test_settings_are_parsed_as_flags_are() -> None:
    """With dashes or underscores, and units."""
    assert parse_setting("concurrency", "80") == ("concurrency", 80)
    assert parse_setting("max-cost", "12.50") == ("max_cost", Decimal("12.50"))
    assert parse_setting("TPM", "60k") == ("tpm", 60_000)
    assert parse_setting("rpm", "none") == ("rpm", None)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("temperature", "1", "no option that can be changed"),
        ("timeout", "5", "timeout cannot be changed while a run goes on"),
        ("concurrency", "0", "concurrency is '0', must be"),
        ("concurrency", "none", "concurrency is 'none'"),
        ("rpm", "many", "rpm is 'many'"),
    ],
)
def test_a_bad_setting_is_refused_with_what_can_be_set(name: str, text: str, words: str) -> None:
    """The message says what is wrong, and for a wrong name the hint lists the right ones."""
    with pytest.raises(UsageError) as caught:
        parse_setting(name, text)

    assert words in caught.value.message
    if text in ("1", "5"):
        assert "concurrency, rpm, tpm, max-cost" in caught.value.hint


def test_changed_options_keep_all_others() -> None:
    """Also whether the concurrency is found by itself."""
    before = options(concurrency="auto:200", rpm=5.0, timeout=7.0)

    after = changed(before, {"concurrency": 50, "rpm": None})

    assert after.adapts
    assert (after.concurrency, after.rpm, after.timeout) == (50, None, 7.0)
    assert (before.concurrency, before.rpm) == (200, 5.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"concurrency": "auto"}, "fixed number"),
        ({"concurrency": None}, "concurrency is none"),
        ({"max_cost": 5}, "no --max-cost"),
        ({"seed": 5}, "seed cannot be changed"),
        ({"rpm": -1.0}, "rpm is -1"),
    ],
)
def test_what_cannot_be_kept_is_refused(values: dict[str, object], words: str) -> None:
    """A cap that nothing was reserved for, or a law of the limit that the run does not have."""
    with pytest.raises(UsageError, match=words):
        changed(options(concurrency=40), values)
