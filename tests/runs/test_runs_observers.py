"""Observers of a run: what is taken, what is refused, and what is logged of circuits."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmbatch import BatchRunner, Event, UsageError, run_job
from llmbatch.core.call_details import CallDetails
from llmbatch.core.events import ROW_EVENTS, CallEnded, Notice, RunEnded, RunStarted
from llmbatch.sim.virtual import run_virtual


async def echo(row: int) -> int:
    return row


class Watcher:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event) -> None:
        self.events.append(event)


class AsyncWatcher:
    async def observe(self, event: Event) -> None:
        raise AssertionError


class Callable:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)


async def test_a_plain_function_as_observer_was_accepted_and_useless() -> None:
    """It gets every event, as an object with a method `observe` does; what it returns is ignored."""
    events: list[Event] = []
    watcher, caller = Watcher(), Callable()

    def observe(event: Event) -> bool:
        events.append(event)
        return False

    await BatchRunner(echo, observers=[observe, watcher, caller]).map(range(3))

    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunEnded)
    assert events == watcher.events == caller.events


async def async_function(event: Event) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    ("observer", "words"),
    [
        (None, "neither a function nor an object with a method observe"),
        (5, "neither a function nor"),
        (Watcher, "is a class"),
        (async_function, "is async"),
        (AsyncWatcher(), "is async"),
    ],
)
def test_an_observer_that_cannot_be_called_was_accepted(observer: Any, words: str) -> None:
    """It is refused when the runner is made, with what to do."""
    with pytest.raises(UsageError, match=words) as caught:
        BatchRunner(echo, observers=[observer])

    assert caught.value.hint


@pytest.mark.parametrize("observers", [Watcher(), print, None, "print"])
def test_an_observer_in_place_of_a_list_is_refused(observers: Any) -> None:
    """A string would otherwise go letter by letter."""
    with pytest.raises(UsageError, match="not a list"):
        BatchRunner(echo, observers=observers)


async def test_run_job_checks_its_observers_too() -> None:
    """Before anything is read."""
    anything: Any = None
    with pytest.raises(UsageError, match="neither a function"):
        await run_job(anything, anything, anything, observers=[anything])


async def test_an_observer_is_not_called_for_the_events_that_it_skips() -> None:
    """Also not once another observer has raised, and the list of observers is another."""

    class Skipping(Watcher):
        skips = ROW_EVENTS

    class Clumsy(Watcher):
        def observe(self, event: Event) -> None:
            if isinstance(event, RunStarted):
                raise RuntimeError("oops")

    watcher, skipping = Watcher(), Skipping()

    await BatchRunner(echo, observers=[skipping, watcher, Clumsy()]).map(range(3))

    assert [event for event in watcher.events if type(event) not in ROW_EVENTS] == skipping.events
    assert sum(type(event) in ROW_EVENTS for event in watcher.events) == 9


@pytest.mark.parametrize("own", [0, None, "CallSent", lambda event: True], ids=lambda own: type(own).__name__)
async def test_an_attribute_skips_that_is_no_set_of_kinds_is_the_observers_own(own: object) -> None:
    """Such as a number of rows that were skipped: that ended the run."""
    watcher: Any = Watcher()
    watcher.skips = own

    results = await BatchRunner(echo, observers=[watcher]).map(range(3))

    assert all(result.ok for result in results)
    assert sum(type(event) in ROW_EVENTS for event in watcher.events) == 9


async def test_an_observer_that_raises_was_muted_unheard(caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is logged with the traceback, once; the run and the others go on."""
    watcher = Watcher()
    heard = 0

    def clumsy(event: Event) -> None:
        nonlocal heard
        heard += 1
        raise RuntimeError("oops")

    with caplog.at_level(logging.WARNING, logger="llmbatch"):
        results = await BatchRunner(echo, observers=[clumsy, watcher]).map(range(20))

    assert heard == 1
    assert all(result.ok for result in results)
    [record] = [record for record in caplog.records if record.name == "llmbatch.observers"]
    assert "the observer clumsy raised" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "oops"
    assert isinstance(watcher.events[-1], RunEnded)


async def test_an_observer_that_raises_was_logged_twice(caplog: pytest.LogCaptureFixture) -> None:
    """Once with its traceback, and no second time as the notice that other observers get."""
    watcher = Watcher()

    def clumsy(event: Event) -> None:
        raise RuntimeError("oops")

    with caplog.at_level(logging.DEBUG, logger="llmbatch"):
        await BatchRunner(echo, observers=[clumsy, watcher]).map(range(3))

    assert [record.name for record in caplog.records if "clumsy" in record.getMessage()] == ["llmbatch.observers"]
    notices = [event.message for event in watcher.events if isinstance(event, Notice)]
    assert notices == ["the observer clumsy failed and is ignored: RuntimeError('oops')"]


async def test_an_observer_that_raises_as_it_is_told_of_another_was_logged_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is logged once, although the second is removed while the first event still goes round."""

    def first(event: Event) -> None:
        raise RuntimeError("oops")

    def second(event: Event) -> None:
        raise ValueError("oops too")

    with caplog.at_level(logging.DEBUG, logger="llmbatch"):
        await BatchRunner(echo, observers=[first, second]).map(range(3))

    told = [record.getMessage().split()[2] for record in caplog.records]
    assert sorted(told) == ["first", "second"]


def test_openings_of_circuits_were_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Why a circuit opened and when it will probe is a warning, that it closed an info; both name the route."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()

        async def ask(row: int) -> int:
            await asyncio.sleep(0.2)
            if 2 <= loop.time() - started < 32:
                raise ConnectionError("the service\nis down")
            return row

        await BatchRunner(ask, seed=1, concurrency=4).map(range(200))

    with caplog.at_level(logging.INFO, logger="llmbatch"):
        run_virtual(main, limit=10_000.0)

    records = [record for record in caplog.records if record.name == "llmbatch"]
    opened, closed, over = (record.getMessage() for record in records)
    assert opened.startswith("circuit ask opened: ")
    assert "the service is down" in opened
    assert opened.endswith("first probe in 1.0 s")
    assert closed == "circuit ask closed: calls are sent again"
    assert over.startswith("outage of ask is over after 29.8 s")
    assert [record.levelname for record in records] == ["WARNING", "INFO", "INFO"]
    assert [getattr(record, "route", None) for record in records] == ["ask"] * 3
    assert getattr(records[0], "retry_after", None) == 1.0


def test_failed_probes_are_logged_at_level_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Each with the time of the next one."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()

        async def ask(row: int) -> int:
            await asyncio.sleep(0.2)
            if 2 <= loop.time() - started < 12:
                raise ConnectionError("down")
            return row

        await BatchRunner(ask, seed=1, concurrency=4).map(range(200))

    with caplog.at_level(logging.DEBUG, logger="llmbatch"):
        run_virtual(main, limit=10_000.0)

    texts = [record.getMessage() for record in caplog.records if record.name == "llmbatch"]
    probes = [text for text in texts if text.startswith("circuit ask stays open: ")]
    assert len(probes) >= 3
    assert all("; next probe in " in text for text in probes)


SCRIPT = """
import logging, sys
from llmbatch import BatchRunner
{setup}
calls = 0
def ask(row):
    global calls
    calls += 1
    if 20 <= calls < 30:
        raise ConnectionError("down")
    return row
list(BatchRunner(ask, concurrency=1, recovery_timeout=0.05).stream_sync(range(40)))
print([type(handler).__name__ for handler in logging.getLogger("llmbatch").handlers])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("setup", "lines"), [("", 0), ("logging.basicConfig(level=logging.WARNING)", 1)])
def test_the_library_installs_no_handler_of_its_own(setup: str, lines: int) -> None:
    """Nothing is printed where logging is not set up, and everything once where it is. Slow: a process each."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(setup=setup)], capture_output=True, text=True, timeout=240, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "['NullHandler']\n"
    assert done.stderr.count("circuit ask opened: ") == lines
    assert len(done.stderr.splitlines()) == lines


COMMAND = """
import atexit, logging, sys
from llmbatch.cli import main
loggers = (logging.getLogger(), logging.getLogger("llmbatch"))
atexit.register(lambda: print([type(handler).__name__ for logger in loggers for handler in logger.handlers]))
sys.argv = ["llmbatch", "run", "in.jsonl", "-q"]
main()
"""


@pytest.mark.slow
def test_the_command_line_logs_nothing_beside_its_displays(tmp_path: Path) -> None:
    """It has no handler either, so no opening of a circuit is told twice. Slow: a process of its own."""
    (tmp_path / "in.jsonl").write_text('{"prompt":"p","model":"sim/steady"}\n')

    done = subprocess.run(
        [sys.executable, "-c", COMMAND], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "['NullHandler']\n", "")


async def test_a_lambda_around_an_async_observer_was_called_and_never_awaited(caplog: pytest.LogCaptureFixture) -> None:
    results = await BatchRunner(echo, observers=[lambda event: async_function(event)]).map(range(2))

    assert [result.ok for result in results] == [True, True]
    assert [record.name for record in caplog.records].count("llmbatch.observers") == 1
    assert "is async" in caplog.text


class Closer(Watcher):
    """Also asks for what is known of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[CallDetails] = []

    def observe_call(self, details: CallDetails) -> None:
        self.calls.append(details)


async def test_an_observer_can_ask_for_more_of_each_call() -> None:
    """Before the event that says that it has ended, with the outcome; in the same order."""
    closer = Closer()
    await BatchRunner(echo, observers=[closer], concurrency=3).map(range(10))

    ended = [event for event in closer.events if isinstance(event, CallEnded)]
    assert len(closer.calls) == 10
    assert [(call.label, call.call, call.row) for call in closer.calls] == [
        (event.route, event.call, event.row) for event in ended
    ]
    assert {call.outcome.value for call in closer.calls if call.outcome is not None} == set(range(10))


async def test_an_observer_that_fails_over_a_call_is_ignored_from_then_on() -> None:
    """It cannot fail a run, and the others go on."""

    class Failing(Closer):
        def observe_call(self, details: CallDetails) -> None:
            super().observe_call(details)
            raise RuntimeError("broken")

    failing, closer = Failing(), Closer()
    results = await BatchRunner(echo, observers=[failing, closer]).map(range(10))

    assert all(result.ok for result in results)
    assert len(failing.calls) == 1
    assert len(closer.calls) == 10
    assert any(isinstance(event, Notice) and "Failing failed" in event.message for event in closer.events)


@pytest.mark.slow  # waits in real time
async def test_what_is_known_of_a_call_holds_no_key(tmp_path: Path) -> None:
    """Neither headers nor the request's body."""
    closer = Closer()
    key = "sk-live-0123456789abcdefghij"
    environ = {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    runner = BatchRunner("openai/m", observers=[closer], environ=environ, on_outage="defer", max_outage=1)
    await runner.map(["a secret prompt"])

    assert closer.calls
    assert key not in repr(closer.calls)
    assert "secret prompt" not in repr(closer.calls)
