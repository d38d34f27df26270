"""An open circuit: what confirms an outage, who probes next, and how long the wait is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llmbatch.route.outage import Candidates, Cause, Outage, Probe, Trust, probe_wait


def candidates(*kinds: str, untried: bool = True) -> Candidates:
    """What could probe."""
    flags: dict[str, Any] = {kind: kind in kinds for kind in ("fresh", "parked", "ping", "good")}
    return Candidates(**flags, untried=untried)


EVERYTHING = candidates("fresh", "parked", "ping", "good")


def outage(cause: Cause = "failures", **fields: Any) -> Outage:
    """One that has just begun."""
    return Outage(100.0, cause, 7, **fields)


def turns(count: int, trust: Trust, choice: Candidates = EVERYTHING, cause: Cause = "failures") -> list[str]:
    """Who probes, as long as nothing passes."""
    return [str(kind) for kind in (_next(outage(cause, turn=turn), trust, choice) for turn in range(count))]


def _next(subject: Outage, trust: Trust, choice: Candidates) -> str | None:
    probe = subject.next_probe(trust, choice)
    return None if probe is None else probe.kind


def test_checks_are_what_needs_no_waiting_row() -> None:
    """The smallest request, or a finished row's."""
    assert candidates("ping").checks
    assert candidates("good").checks
    assert not candidates("fresh", "parked").checks


def test_an_opening_is_no_outage_until_a_probe_shows_it() -> None:
    """Rows may be bad: it takes four of them; told once."""
    subject = outage()

    assert [subject.row_failed() for _ in range(6)] == [False, False, False, True, False, False]
    assert subject.confirmed


def test_rows_that_have_failed_before_confirm_nothing() -> None:
    """Blind: no probe can tell an outage from bad rows."""
    subject = outage(only_failed_rows=True)

    assert not any(subject.row_failed() for _ in range(20))
    assert not subject.confirmed


def test_checks_confirm_an_outage_by_how_unlikely_their_failure_is() -> None:
    """At a rate of one in ten, the second one; at one in a hundred the first; told once."""
    often, seldom = outage(), outage()

    assert [often.check_failed(0.1, is_good=False) for _ in range(3)] == [False, True, False]
    assert seldom.check_failed(0.01, is_good=False)
    assert not outage().check_failed(0.02, is_good=False)


def test_a_ping_confirms_nothing_before_a_finished_rows_request_has_failed() -> None:
    """Pings may always fail; it is asked next."""
    subject = outage()
    assert subject.next_probe(Trust(), candidates("parked", "ping", "good")) is not None

    assert not subject.check_failed(0.001, is_good=False)
    probe = subject.next_probe(Trust(), candidates("parked", "ping", "good"))
    assert probe is not None
    assert probe.kind == "good"
    assert subject.check_failed(0.001, is_good=True)
    assert not subject.check_next


def test_a_confirmed_outage_is_not_confirmed_again() -> None:
    """By neither kind of probe."""
    subject = outage(confirmed=True)

    assert not subject.check_failed(0.001, is_good=False)
    assert not any(subject.row_failed() for _ in range(6))
    assert subject.confirmed


def test_a_fresh_row_probes_first_then_the_smallest_request_then_a_parked_row() -> None:
    """In turn."""
    assert turns(9, Trust()) == ["fresh", "ping", "parked", "ping", "fresh", "ping", "parked", "ping", "fresh"]


def test_the_smallest_request_alone_does_not_close_the_circuit_again_and_again() -> None:
    """Once it has, a finished row's request is asked, and every fourth turn a row."""
    eight = ["fresh", "good", "parked", "fresh", "fresh", "good", "parked", "ping"]
    assert turns(16, Trust(pings=1)) == eight * 2
    assert turns(3, Trust(pings=1), candidates("ping", "good")) == ["good"] * 3


def test_the_smallest_request_is_asked_ever_more_seldom_once_it_has_closed_the_circuit() -> None:
    """It may be that only bad rows are left: in turn 8, 16, 32, and 64 from then on."""
    first = [turns(130, Trust(pings=pings)).index("ping") for pings in (1, 2, 3, 4, 5)]

    assert first == [7, 15, 31, 63, 63]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("fresh", "parked", "ping", "good"), "ping"),
        (("fresh", "parked", "good"), "good"),
        (("fresh", "parked"), "parked"),
        (("fresh",), "fresh"),
        ((), None),
    ],
)
def test_the_turn_of_the_smallest_request_passes_to_others(kinds: tuple[str, ...], expected: str | None) -> None:
    """Where it cannot be sent: perhaps only bad rows are left, so what was parked goes before fresh rows."""
    assert _next(outage(turn=7), Trust(pings=1), candidates(*kinds)) == expected


def test_pings_answer_since_the_first_of_those_that_were_all_answered() -> None:
    """One that is not, or another request, begins anew."""
    subject = outage()
    since = []
    for now, is_answer in [(101.0, True), (102.0, True), (103.0, False), (104.0, True), (105.0, True)]:
        subject.note_ping(now, is_answer=is_answer, is_good=False)
        since.append(subject.answered_since)
    assert since == [101.0, 101.0, math.inf, 104.0, 104.0]

    for now in (106.0, 107.0):
        subject.note_ping(now, is_answer=True, is_good=True)
        assert subject.answered_since == 106.0


def test_checks_take_turns_while_they_fail() -> None:
    """The smallest request, then a finished row's."""
    subject = outage(turn=1)
    order = []
    for _ in range(4):
        order.append(_next(subject, Trust(), EVERYTHING))
        subject.check_failed(0.9, is_good=False)

    assert order == ["ping", "good", "ping", "good"]


def test_without_a_finished_row_rows_probe_before_the_smallest_request_once_it_has_closed_the_circuit() -> None:
    """It is the last resort then."""
    choice = candidates("fresh", "parked", "ping")

    assert turns(4, Trust(pings=1), choice) == ["fresh", "fresh", "parked", "fresh"]
    assert turns(4, Trust(pings=1), candidates("ping")) == ["ping"] * 4


@pytest.mark.parametrize("cause", ["timeouts", "stop"])
def test_the_smallest_request_probes_at_once_where_an_opening_rests_on_time_outs_or_first_refusals(
    cause: Cause,
) -> None:
    """It tells a slow model, or a refusing one, from a route that is down; once."""
    assert turns(3, Trust(), cause=cause) == ["ping", "ping", "parked"]
    assert turns(2, Trust(pings=1), cause=cause) == ["fresh", "good"]
    assert turns(1, Trust(), candidates("fresh", "parked", "good"), cause) == ["good"]
    assert turns(1, Trust(), candidates("fresh", "parked"), cause) == ["fresh"]
    assert turns(1, Trust(), candidates("parked"), cause) == ["parked"]


def test_after_an_opening_by_mistake_a_finished_row_s_request_is_asked_first() -> None:
    """It told so; in the first turn only."""
    trust = Trust(false_opening=True)

    assert turns(3, trust) == ["good", "ping", "parked"]
    assert turns(1, trust, candidates("fresh", "parked", "ping")) == ["fresh"]
    assert turns(1, trust, candidates("parked", "ping")) == ["parked"]
    assert turns(1, trust, candidates("ping")) == ["ping"]


@pytest.mark.parametrize(
    ("turn", "kinds", "expected"),
    [
        (0, ("parked", "ping"), "parked"),
        (0, ("ping", "good"), "ping"),
        (0, ("good",), "good"),
        (1, ("fresh", "parked", "good"), "good"),
        (1, ("fresh", "parked"), "fresh"),
        (1, ("parked",), "parked"),
        (2, ("fresh", "ping"), "fresh"),
        (2, ("ping", "good"), "ping"),
        (2, ("good",), "good"),
        (0, (), None),
    ],
)
def test_who_cannot_probe_is_passed_over(turn: int, kinds: tuple[str, ...], expected: str | None) -> None:
    """The next in the order of that turn."""
    assert _next(outage(turn=turn), Trust(), candidates(*kinds)) == expected


def test_a_check_goes_next_where_one_is_asked_for() -> None:
    """A row's refusal said too little, or one more good probe is needed; rows if there is none."""
    subject = outage(check_next=True)

    assert _next(subject, Trust(), EVERYTHING) == "ping"
    assert _next(subject, Trust(pings=1), EVERYTHING) == "good"
    assert _next(subject, Trust(), candidates("fresh", "good")) == "good"
    assert _next(subject, Trust(pings=1), candidates("fresh", "ping")) == "ping"
    assert _next(subject, Trust(), candidates("fresh", "parked")) == "fresh"


def test_fresh_rows_come_from_further_and_further_ahead() -> None:
    """So that no block of bad rows holds a run up."""
    jumps = [outage().next_probe(Trust(jumps=jumps), EVERYTHING) for jumps in range(5)]

    assert jumps == [Probe("fresh", jump) for jump in (0, 64, 1024, 1024, 1024)]


def test_an_outage_is_blind_while_only_rows_that_have_failed_can_probe() -> None:
    """And sees again as soon as something else can."""
    subject = outage()

    subject.next_probe(Trust(), candidates("parked", untried=False))
    assert subject.only_failed_rows

    for choice in (
        candidates("parked"),
        candidates("parked", "fresh", untried=False),
        candidates("parked", "ping", untried=False),
        candidates("parked", "good", untried=False),
    ):
        subject.only_failed_rows = True
        subject.next_probe(Trust(), choice)
        assert not subject.only_failed_rows


@pytest.mark.parametrize(
    ("lasted", "longest", "wait"),
    [(0, 60, 1.0), (10, 60, 1.0), (50, 60, 5.0), (600, 60, 60.0), (6000, 60, 60.0), (0, 0.5, 0.5), (600, 0.5, 0.5)],
)
def test_the_wait_is_a_tenth_of_the_time_that_the_outage_has_lasted(lasted: float, longest: float, wait: float) -> None:
    """From one second to ``--recovery-timeout``, which may be shorter."""
    assert probe_wait(lasted, longest, 0.0) == wait


def test_processes_that_share_probes_wait_for_a_smaller_share() -> None:
    """From one second to the same longest wait."""
    assert probe_wait(80.0, 60.0, 0.0, 1 / 16) == 5.0
    assert probe_wait(8.0, 60.0, 0.0, 1 / 16) == 1.0
    assert probe_wait(6000.0, 60.0, 0.0, 1 / 16) == 60.0


def test_many_runs_do_not_probe_at_once() -> None:
    """Up to a tenth of a longer wait is left to chance; the shortest is not shortened."""
    assert probe_wait(100.0, 60.0, 1.0) == 9.0
    assert probe_wait(100.0, 60.0, 0.5) == 9.5
    assert probe_wait(5.0, 60.0, 1.0) == 1.0
