"""What is announced of a run, and when: pure, by hand-made events."""

from __future__ import annotations

import json

import pytest

from llmbatch.core.events import CallEnded, CircuitChanged, CircuitState, Event, RowFinished, RunEnded, RunStarted
from llmbatch.notify.announce import Announcement, Announcer
from llmbatch.report.stats import RunStats

WALL = 1_000_000.0


class Story:
    """Feeds events; the wall clock is the events' clock and a million."""

    def __init__(self) -> None:
        self.stats = RunStats()
        self.announcer = Announcer(self.stats, command="llmbatch run in.jsonl", go_on=lambda code: f"next of {code}")
        self.found: list[Announcement] = []

    def feed(self, *events: Event) -> Story:
        for event in events:
            self.pass_time(event.at)
            self.stats.observe(event)
            self.found += self.announcer.observe(event, WALL + event.at)
        return self

    def pass_time(self, now: float) -> Story:
        while (due := self.announcer.due_at) is not None and due <= now:
            self.found += self.announcer.due(due, WALL + due)
        return self

    @property
    def kinds(self) -> list[str]:
        return [one.event for one in self.found]


def started(at: float = 0.0) -> RunStarted:
    return RunStarted(at, "in.jsonl", "out.jsonl", 40, 0, 0, 10)


def moved(at: float, old: CircuitState, new: CircuitState, route: str = "a/b") -> CircuitChanged:
    return CircuitChanged(at, route, old, new, "5 rows in a row failed" if new == "open" else "", 1.0)


def failed(at: float, route: str = "a/b") -> CallEnded:
    return CallEnded(at, route, 3, False, "failure", "overloaded", "too much\x1b[2J", 503, 0.1, 0, 0)


def test_an_outage_is_told_after_a_minute_and_when_it_is_over() -> None:
    """Once, however often it is probed; with the reason, safe to show."""
    story = Story().feed(started(), failed(9.0), moved(10.0, "closed", "open"))
    for at in (20.0, 40.0, 75.0, 100.0):
        story.feed(moved(at, "open", "half_open"), moved(at + 1, "half_open", "open"))
    story.feed(moved(200.0, "half_open", "closed"))

    assert story.kinds == ["outage", "recovered"]
    outage, back = story.found
    assert outage.text == "a/b has been down for 1m00s: overloaded (503): too much\\x1b[2J"
    assert outage.fields["seconds"] == 60.0
    assert outage.fields["since"] == "1970-01-12T13:46:50.000Z"
    assert outage.fields["next"] == "next of None"
    assert back.text == "a/b is back after 3m10s"
    assert back.fields["exit_code"] is None


def test_a_short_opening_is_not_told() -> None:
    """Nor is its end; the next one counts on its own."""
    story = Story().feed(started(), moved(10.0, "closed", "open"), moved(69.9, "open", "closed"))
    story.feed(moved(80.0, "closed", "open")).pass_time(139.9)

    assert story.kinds == []
    assert story.announcer.due_at == 140.0
    assert story.pass_time(140.0).kinds == ["outage"]
    assert story.announcer.due_at is None


def test_each_route_has_its_own_outages() -> None:
    """One that is told of again only after it has closed."""
    story = Story().feed(started(), moved(10.0, "closed", "open", "a"), moved(30.0, "closed", "open", "b"))
    story.feed(moved(75.0, "open", "closed", "b"))
    story.feed(moved(100.0, "closed", "open", "b"), moved(300.0, "open", "closed", "a"))

    assert [(one.event, one.fields["route"]) for one in story.found] == [
        ("outage", "a"),
        ("outage", "b"),
        ("recovered", "a"),
    ]


@pytest.mark.parametrize(
    ("code", "kind", "needs_action"),
    [
        *((0, "finished", False), (1, "finished", False), (3, "stopped", True), (4, "stopped", True)),
        *((74, "stopped", True), (75, "stopped", False), (130, "stopped", False)),
    ],
)
def test_the_end_is_told_however_it_came(code: int, kind: str, needs_action: bool) -> None:
    """With the counts, and whether somebody has to act."""
    rows: list[Event] = [RowFinished(float(row), "a/b", row, "success", "", 1) for row in range(1, 8)]
    rows.append(RowFinished(8.0, "a/b", 8, "failed", "too_long", 1))
    story = Story().feed(started(), *rows, RunEnded(9.0, code, "the key is refused", 2))

    (end,) = story.found
    value = json.loads(end.encoded())
    assert value["event"] == kind
    assert value["needs_action"] is needs_action
    assert value["exit_code"] == code
    assert value["counts"] == {"rows": 10, "done": 8, "success": 7, "failed": 1, "deferred": 2}
    assert value["next"] == f"next of {code}"
    assert value["command"] == "llmbatch run in.jsonl"
    assert ("the key is refused" in value["text"]) == (kind == "stopped")
    assert value["text"].endswith("10 rows: 7 answered, 1 failed, 2 not done yet")
    assert end.encoded().isascii()
    assert end.encoded().count(b"\n") == 1
