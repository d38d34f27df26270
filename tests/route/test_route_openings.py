"""When a circuit opens, what confirms an outage, and how it ends."""

from __future__ import annotations

import pytest
from route_states import (
    BAD_ROW,
    CONFLICT,
    EVERYTHING,
    FAILED,
    GOOD,
    KEY_REFUSED,
    NO_HANDLES,
    NO_MODEL,
    REFUSED,
    ROWS_ONLY,
    THROTTLED,
    TIMEOUT,
    TRY_AGAIN,
    Story,
    kinds,
    waiting,
)

from llmbatch.route.decisions import (
    CircuitMoved,
    Fail,
    GiveUpRoute,
    OutageConfirmed,
    OutageOver,
    ParkUntil,
    Requeue,
    RetryAt,
    StopRun,
    Succeed,
    Tell,
)
from llmbatch.route.outage import Candidates, Probe


def test_the_circuit_opens_when_as_many_fresh_rows_fail_as_the_threshold() -> None:
    """And chance would not explain it."""
    story = Story()
    for row in (1, 2, 3, 4):
        assert kinds(story.call(row, FAILED)) == ["RetryAt"]

    assert story.call(5, FAILED) == [CircuitMoved("closed", "open"), ParkUntil(5)]

    assert story.route.reason == "5 rows in a row failed: broken"
    assert not story.route.is_confirmed
    assert story.route.reason == "5 rows in a row failed: broken"
    assert story.route.explain() == "0.0% of attempts of good rows fail"


def test_one_row_that_fails_again_and_again_opens_nothing() -> None:
    """Different rows do."""
    story = Story()

    for _ in range(20):
        story.call(1, FAILED)

    assert story.route.is_closed


def test_a_good_answer_between_keeps_the_circuit_closed() -> None:
    """What failed before it was chance."""
    story = Story()
    for row in range(1, 5):
        story.call(row, FAILED)
    story.call(100, GOOD)

    story.call(5, FAILED)

    assert story.route.is_closed


def test_many_calls_in_flight_may_yet_disprove_an_opening() -> None:
    """Two failures of forty are chance, where the threshold would allow an opening."""
    story = Story(concurrency=40, failure_threshold=2)
    calls = [story.send(row) for row in range(1, 41)]

    story.come(calls[0], FAILED)
    story.come(calls[1], FAILED)
    assert story.route.is_closed
    for call in calls[2:8]:
        story.come(call, FAILED)

    assert not story.route.is_closed


@pytest.mark.parametrize(
    ("outcome", "cause", "reason"),
    [
        (FAILED, "failures", "5 rows in a row failed: broken"),
        (TIMEOUT, "timeouts", "5 rows in a row took longer than the time limit: no answer"),
        (REFUSED, "refusals", "5 rows in a row refused: bad parameter"),
        (KEY_REFUSED, "refusals", "5 rows in a row refused: invalid key"),
    ],
)
def test_an_opening_says_why(outcome: object, cause: str, reason: str) -> None:
    """By what the rows met, on a route that has worked before."""
    story = Story()

    story.open(outcome)  # type: ignore[arg-type]

    assert story.route.outage is not None
    assert story.route.outage.cause == cause
    assert story.route.reason == reason


def test_half_refusals_and_half_failures_are_refusals_and_fewer_are_failures() -> None:
    """What most of them met."""
    half, fewer = Story(failure_threshold=4), Story(failure_threshold=5)

    for story, rows in (
        (half, (REFUSED, REFUSED, FAILED, FAILED)),
        (fewer, (REFUSED, REFUSED, FAILED, FAILED, TIMEOUT)),
    ):
        for row, outcome in enumerate(rows, 1):
            story.call(row, outcome)

    assert half.route.outage is not None
    assert half.route.outage.cause == "refusals"
    assert fewer.route.outage is not None
    assert fewer.route.outage.cause == "failures"


def test_a_row_that_ended_meanwhile_does_not_say_why() -> None:
    """It failed as the others did, and then turned out to be bad."""
    story = Story()
    story.call(1, FAILED)
    story.call(1, BAD_ROW)

    for row in (2, 3, 4, 5):
        story.call(row, TIMEOUT)

    assert story.route.outage is not None
    assert story.route.outage.cause == "timeouts"


def test_what_comes_back_while_the_circuit_is_open_is_parked() -> None:
    """Failures and refusals alike; bad rows end all the same."""
    story = Story()
    calls = [story.send(row) for row in (101, 102, 103, 104, 105)]
    story.open()

    decisions = [
        story.come(call, outcome)
        for call, outcome in zip(calls, (FAILED, REFUSED, NO_HANDLES, BAD_ROW, TRY_AGAIN), strict=True)
    ]

    assert decisions == [[ParkUntil(101)], [ParkUntil(102)], [ParkUntil(103)], [Fail(104, BAD_ROW)], [ParkUntil(105)]]


def test_a_wait_that_the_failures_named_outlasts_the_opening() -> None:
    """The longest of them: nothing in flight could disprove it."""
    story = Story()

    story.open(waiting(FAILED, 30.0))

    assert story.route.next_change(story.now) == story.now + 30.0


def test_a_success_that_was_sent_after_all_failures_takes_an_opening_back() -> None:
    """It was a mistake: no outage is told, and traffic goes on with half of what ran."""
    story = Story()
    late = [story.send(row) for row in range(1, 7)]
    for call in late[:5]:
        story.come(call, FAILED)
    assert not story.route.is_closed

    decisions = story.come(late[5], GOOD)

    assert decisions[:2] == [CircuitMoved("open", "closed"), Succeed()]
    assert decisions[-1] == Requeue()
    assert story.route.outage is None
    assert story.route.trust.false_opening
    assert story.route.limit.value == 5
    assert story.route.evidence.records[1].proven == 1


def test_a_success_that_was_sent_before_some_failure_proves_what_it_can() -> None:
    """The circuit stays open: an outage may have begun between."""
    story = Story()
    calls = [story.send(row) for row in range(1, 8)]
    for call in (*calls[:3], *calls[4:6]):
        story.come(call, FAILED)
    assert not story.route.is_closed

    assert story.come(calls[3], GOOD) == [Succeed()]

    assert [story.route.evidence.records[row].proven for row in (1, 2, 3, 5, 6)] == [1, 1, 1, 0, 0]
    assert not story.route.is_closed


def test_a_success_of_before_proves_nothing_of_a_confirmed_outage() -> None:
    """It does not end it."""
    story = Story()
    calls = [story.send(row) for row in range(1, 7)]
    for call in calls[:5]:
        story.come(call, FAILED)
    story.confirm()

    assert story.come(calls[5], GOOD) == [Succeed()]
    assert not story.route.is_closed


def test_nobody_probes_a_closed_circuit_or_too_early() -> None:
    """A second after the opening at the earliest."""
    story = Story()
    assert story.route.next_probe(story.now, EVERYTHING) is None

    story.open()
    assert story.route.next_probe(story.now + 0.9, EVERYTHING) is None
    assert story.route.next_probe(story.now + 1.0, EVERYTHING) == Probe("fresh")


def test_nobody_probes_before_a_wait_that_was_named() -> None:
    """Even if the circuit would let it."""
    story = Story()
    story.open()
    story.route.throttle.pause(story.now + 5.0)

    assert story.route.next_probe(story.now + 4.0, EVERYTHING) is None
    assert story.route.next_change(story.now) == story.now + 5.0
    assert story.route.next_probe(story.now + 5.0, EVERYTHING) == Probe("fresh")


def test_where_nobody_can_probe_nobody_does() -> None:
    """And no fresh row is counted."""
    story = Story()
    story.open()
    story.go_to_probe()

    assert story.route.next_probe(story.now, Candidates(fresh=False, parked=False, ping=False, good=False)) is None
    assert story.route.trust.jumps == 0


def test_fresh_rows_probe_from_further_ahead_until_one_passes() -> None:
    """The count outlasts the opening; a good row starts it over."""
    story = Story()
    story.open()
    story.go_to_probe()

    jumps = []
    for _ in range(3):
        probe = story.route.next_probe(story.now, Candidates(fresh=True, parked=False, ping=False, good=False))
        assert probe is not None
        jumps.append(probe.jump)
    assert jumps == [0, 64, 1024]

    story.probe(100, GOOD)
    assert story.route.trust.jumps == 0


def test_the_smallest_request_that_misled_is_not_asked_while_a_finished_rows_can_be() -> None:
    """It failed in an outage that a finished row's request ended: it may always fail."""
    story = Story()
    story.open()
    story.probe(0, FAILED, "ping")
    story.probe(0, GOOD, "good")
    for row in range(11, 40):
        if story.route.is_closed:
            story.call(row, FAILED)
    story.go_to_probe()
    assert story.route.outage is not None
    story.route.outage.check_next = True

    assert story.route.next_probe(story.now, Candidates(fresh=False, parked=False, ping=True, good=True)) == Probe(
        "good"
    )
    assert story.route.next_probe(story.now, Candidates(fresh=False, parked=False, ping=True, good=False)) == Probe(
        "ping"
    )


def test_one_probe_goes_at_a_time_until_its_lease_is_over() -> None:
    """One that hangs is replaced."""
    story = Story()
    story.open()
    story.go_to_probe()
    probe = story.send(100)
    assert probe.probe

    assert story.route.next_probe(story.now, EVERYTHING) is None
    assert story.route.admit(101, story.now, timeout=60.0) is None
    assert story.route.next_change(story.now) == story.now + 65.0
    assert story.route.retry_after(story.now) == 65.0
    story.wait(65.0)
    assert story.route.next_probe(story.now, EVERYTHING) is not None
    assert story.send(101).probe


def test_a_failed_probe_parks_its_row_and_waits_for_the_next() -> None:
    """A second at first, then a tenth of the time that the outage has lasted."""
    story = Story(chance=0.0)
    story.open()
    began = story.now

    assert story.probe(100, FAILED) == [CircuitMoved("half_open", "open"), ParkUntil(100)]
    assert story.route.next_change(story.now) == story.now + 1.0
    story.now = began + 200.0
    story.probe(101, FAILED)

    assert story.route.next_change(story.now) == story.now + 20.0


def test_a_probe_that_names_a_wait_is_obeyed() -> None:
    """Even beyond ``--recovery-timeout``."""
    story = Story()
    story.open()

    story.probe(100, waiting(FAILED, 300.0))

    assert story.route.next_change(story.now) == story.now + 300.0


def test_probes_that_hang_get_more_time() -> None:
    """Each one twice as much."""
    story = Story()
    call = story.send(1)
    story.wait(2.0)
    story.come(call, GOOD)
    story.open()

    story.probe(100, TIMEOUT)
    assert story.route.probe_timeout() == 20.0
    story.probe(101, FAILED)
    assert story.route.probe_timeout() == 20.0


def test_failed_probes_confirm_an_outage_once() -> None:
    """It is told with its beginning."""
    story = Story()
    story.open()
    began = story.now

    decisions = [story.probe(0, FAILED, "ping") for _ in range(4)]

    told = [decision for some in decisions for decision in some if isinstance(decision, OutageConfirmed)]
    assert told == [OutageConfirmed(began, "5 rows in a row failed: broken")]


def test_four_rows_confirm_an_outage_where_nothing_else_can() -> None:
    """Fewer may be bad."""
    story = Story()
    story.open()

    confirmed = []
    for row in (100, 101, 102, 103):
        story.go_to_probe()
        story.route.next_probe(story.now, ROWS_ONLY)
        story.probe(row, FAILED)
        confirmed.append(story.route.is_confirmed)

    assert confirmed == [False, False, False, True]


def test_a_row_that_passes_ends_a_confirmed_outage() -> None:
    """What happened in it counts against nobody; traffic starts with two calls in flight."""
    story = Story()
    story.open()
    began = story.now
    story.confirm()

    decisions = story.probe(100, GOOD)

    assert decisions == [CircuitMoved("half_open", "closed"), Succeed(), OutageOver(began), Requeue()]
    assert not story.route.evidence.records
    assert not story.route.window.rows
    assert story.route.limit.value == 2
    assert story.route.reason == ""
    assert not story.route.throttle.ramp_due


def test_a_smallest_request_that_passes_ends_a_confirmed_outage() -> None:
    """As a row would."""
    story = Story()
    story.open()
    story.confirm()

    assert kinds(story.probe(0, GOOD, "ping")) == ["CircuitMoved", "OutageOver", "Requeue"]
    assert not story.route.evidence.records


def test_a_row_that_passes_proves_the_failures_of_an_opening_by_mistake() -> None:
    """The circuit closes, and what failed counts."""
    story = Story()
    story.open()

    decisions = story.probe(100, GOOD)

    assert kinds(decisions)[:2] == ["CircuitMoved", "Succeed"]
    assert decisions[-1] == Requeue()
    assert [record.proven for record in story.route.evidence.records.values()] == [1] * 5


def test_a_smallest_request_that_passes_closes_but_proves_nothing() -> None:
    """It may pass where rows fail; the next time a row is asked before it."""
    story = Story()
    story.open()

    assert kinds(story.probe(0, GOOD, "ping")) == ["CircuitMoved", "Requeue"]

    assert story.route.trust.pings == 1
    assert [record.proven for record in story.route.evidence.records.values()] == [0] * 5
    assert not story.route.window.rows


def test_several_good_probes_close_the_circuit_where_the_options_say_so() -> None:
    """``--success-threshold 2``: the first one ends its row, and a check is the second."""
    story = Story(success_threshold=2)
    story.open()

    assert story.probe(100, GOOD) == [Succeed()]
    assert story.route.circuit.phase == "half_open"
    assert story.route.next_probe(story.now, EVERYTHING) is not None
    assert story.route.outage is not None

    assert kinds(story.probe(0, GOOD, "good"))[0] == "CircuitMoved"
    assert story.route.is_closed


def test_a_good_check_asks_for_another_one_where_two_are_needed() -> None:
    """The smallest request's word is enough, if it stands."""
    story = Story(success_threshold=2)
    story.open()

    assert story.probe(0, GOOD, "ping") == []

    assert story.route.outage is not None
    assert story.route.outage.check_next
    assert story.route.next_probe(story.now, EVERYTHING) == Probe("ping")
    assert kinds(story.probe(0, GOOD, "ping")) == ["CircuitMoved", "Requeue"]


def test_a_smallest_request_of_before_the_opening_says_nothing() -> None:
    """It was sent before what failed."""
    story = Story()
    ping = story.send(0, "ping")
    story.open()

    assert story.come(ping, GOOD) == []
    assert not story.route.is_closed


def test_a_stale_probe_that_fails_only_parks_its_row() -> None:
    """Another has closed the circuit meanwhile."""
    story = Story()
    story.open()
    story.go_to_probe()
    hung = story.send(100)
    story.wait(65.0)
    story.probe(101, GOOD)
    assert story.route.is_closed

    assert story.come(hung, FAILED) == [ParkUntil(100)]
    assert story.route.is_closed


def test_a_stale_probe_that_is_refused_only_parks_its_row_or_ends_it() -> None:
    """As a call would that says nothing about a circuit which has closed meanwhile."""
    story = Story()
    story.open()
    hung = []
    for row in (100, 101):
        story.go_to_probe()
        hung.append(story.send(row))
        story.wait(300.0)
    story.probe(102, GOOD)

    assert story.come(hung[0], REFUSED) == [ParkUntil(100)]
    assert story.come(hung[1], BAD_ROW) == [Fail(101, BAD_ROW)]
    assert story.route.is_closed


def test_a_stale_check_that_is_refused_decides_nothing() -> None:
    """The circuit has closed meanwhile."""
    story = Story()
    story.open()
    story.go_to_probe()
    hung = story.send(0, "ping")
    story.wait(65.0)
    story.probe(100, GOOD)

    assert story.come(hung, REFUSED) == []


def test_a_bad_row_that_probes_a_surge_of_refusals_ends() -> None:
    """It is no sign of recovery, and confirms nothing."""
    story = Story()
    story.open(REFUSED)

    assert kinds(story.probe(100, BAD_ROW)) == ["CircuitMoved", "Fail"]
    assert story.route.outage is not None
    assert story.route.outage.failed_rows == 0


def test_a_bad_row_that_probes_ends_and_a_check_goes_next() -> None:
    """The provider answers."""
    story = Story()
    story.open()

    decisions = story.probe(100, BAD_ROW)

    assert decisions == [Fail(100, BAD_ROW)]
    assert story.route.outage is not None
    assert story.route.outage.check_next
    assert story.route.next_change(story.now) == story.now + 1.0


def test_three_refused_probes_close_a_circuit_that_failures_opened() -> None:
    """The provider is up."""
    story = Story()
    story.open()

    decisions = [kinds(story.probe(row, REFUSED)) for row in (100, 101, 102)]

    assert decisions == [["ParkUntil"], ["ParkUntil"], ["CircuitMoved", "ParkUntil", "Requeue"]]
    assert story.route.is_closed


def test_refused_probes_prove_nothing_where_refusals_opened() -> None:
    """They are the trouble itself."""
    story = Story()
    story.open(REFUSED)

    for row in range(100, 112):
        assert not story.route.is_confirmed
        story.go_to_probe()
        story.route.next_probe(story.now, EVERYTHING)
        story.probe(row, REFUSED)

    assert story.route.is_confirmed, "twelve, where a request could be asked that nothing speaks against"
    assert not story.route.is_closed


def test_a_key_that_is_refused_after_it_worked_is_an_outage_in_disguise() -> None:
    """Wait, probe, and say that it may have been revoked; once."""
    story = Story()
    story.open(KEY_REFUSED)

    decisions = [decision for _ in range(5) for decision in story.probe(0, KEY_REFUSED, "ping")]

    assert [decision for decision in decisions if isinstance(decision, Tell)] == [
        Tell(
            "warning",
            "m suddenly refuses the key (invalid key)",
            "the key may have been revoked; waiting and probing in case it is an outage",
        )
    ]
    assert not any(isinstance(decision, StopRun) for decision in decisions)


def test_a_model_that_is_gone_after_it_worked_is_waited_for() -> None:
    """Its refusals are probes that failed."""
    story = Story()
    story.open()

    assert kinds(story.probe(0, NO_MODEL, "ping")) == ["CircuitMoved"]
    assert not story.route.is_stopping


def test_a_fault_of_this_machine_leaves_the_probe_to_another() -> None:
    """At once."""
    story = Story()
    story.open()

    assert story.probe(100, NO_HANDLES) == [ParkUntil(100)]
    assert story.send(101).probe


def test_a_throttled_probe_waits() -> None:
    """As long as it was told to, and the circuit stays open."""
    story = Story()
    story.open()

    assert kinds(story.probe(100, waiting(THROTTLED, 20.0))) == ["CircuitMoved", "PauseRoute", "ParkUntil"]
    assert story.route.next_change(story.now) == story.now + 20.0


def test_an_opening_by_time_outs_asks_the_smallest_request_at_once_with_patience() -> None:
    """Twenty seconds, even where ``--timeout`` is shorter."""
    story = Story(timeout=5.0)
    story.open(TIMEOUT)
    story.go_to_probe()

    assert story.route.next_probe(story.now, EVERYTHING) == Probe("ping")
    assert story.route.probe_timeout("ping") == 20.0

    story.probe(0, TIMEOUT, "ping")
    assert story.route.probe_timeout() == 5.0
    assert story.route.probe_timeout("ping") == 20.0


def test_a_route_that_has_answered_gets_no_more_patience_in_an_opening_by_time_outs() -> None:
    """How long its answers take is known: an outage that hangs must not hold the run for twenty seconds."""
    story = Story(timeout=5.0)
    call = story.send(200)
    story.wait(2.0)
    story.come(call, GOOD)
    story.open(TIMEOUT)
    story.go_to_probe()

    assert story.route.next_probe(story.now, EVERYTHING) == Probe("ping")
    assert story.route.probe_timeout() == 5.0


def test_a_refused_probe_does_not_hurry_the_next_one_where_health_checks_fail() -> None:
    """Two probes went at each turn of an outage in which rows are refused and the smallest request fails."""
    story = Story(chance=0.0)
    story.open()
    story.probe(0, FAILED, "ping")
    story.wait(100.0)

    story.probe(100, REFUSED)

    due = story.route.next_change(story.now)
    assert due is not None
    assert due - story.now >= 9.0


def test_answers_that_take_longer_than_the_limit_stop_a_route_that_has_never_answered() -> None:
    """The smallest request passes: it names ``--timeout``, and nothing is failed."""
    story = Story(ever=False, timeout=5.0)
    story.open(TIMEOUT)

    decisions = story.probe(0, GOOD, "ping")

    message, hint = "m: answers take longer than --timeout (5 s)", "raise --timeout; nothing was marked as failed"
    assert story.route.dead is not None
    assert decisions == [CircuitMoved("half_open", "closed"), GiveUpRoute(story.route.dead, message, hint)]


def test_answers_that_take_longer_than_the_limit_are_told_where_others_came_in_time() -> None:
    """A warning; such rows fail as time-outs."""
    story = Story(timeout=5.0)
    story.open(TIMEOUT)

    decisions = story.probe(0, GOOD, "ping")

    message = "m: answers take longer than --timeout (5 s)"
    assert decisions[1] == Tell("warning", message, "raise --timeout, or such rows fail as timeout")


def test_checks_that_fail_while_rows_are_held_open_the_circuit() -> None:
    """Once chance does not explain it; that is an outage already."""
    story = Story(can_check=True)
    story.call(1, FAILED)
    decisions = []
    for _ in range(5):
        story.wait(1.0)
        decisions.append(kinds(story.call(0, FAILED, "ping")))

    assert decisions == [[]] * 4 + [["CircuitMoved", "OutageConfirmed"]]
    assert story.route.is_confirmed
    assert story.route.reason == "the last rows failed: broken"


def test_a_good_answer_between_failed_checks_starts_their_count_over() -> None:
    """They were chance."""
    story = Story(can_check=True)
    story.call(1, FAILED)
    for _ in range(4):
        story.call(0, FAILED, "ping")
    story.call(100, GOOD)

    story.call(0, FAILED, "ping")

    assert story.route.is_closed


def test_a_check_that_fails_while_the_circuit_is_open_decides_nothing() -> None:
    """It was sent before."""
    story = Story()
    check = story.send(0, "ping")
    story.open()

    assert story.come(check, FAILED) == []


def test_a_check_that_is_refused_while_rows_fail_defers_them() -> None:
    """It is an answer, but it proves nothing; not confirmed."""
    story = Story(can_check=True)
    story.call(1, FAILED)

    assert kinds(story.call(0, REFUSED, "ping")) == ["CircuitMoved"]
    assert not story.route.is_confirmed


def test_a_check_that_is_refused_as_rows_are_opens_the_circuit_where_it_worked_before() -> None:
    """Refusals all around; of a part of the calls the next probe may pass: that is no outage."""
    story = Story(can_check=True)
    story.call(1, REFUSED)

    assert kinds(story.call(0, REFUSED, "ping")) == ["CircuitMoved"]
    assert story.route.outage is not None
    assert story.route.outage.cause == "refusals"
    later = [decision for _ in range(5) for decision in story.probe(0, REFUSED, "ping")]
    assert kinds(later).count("OutageConfirmed") == 1


def test_a_key_that_a_check_finds_refused_was_not_told_as_perhaps_revoked() -> None:
    """Once a probe has confirmed the outage; and once."""
    story = Story(can_check=True)
    story.call(1, KEY_REFUSED)

    decisions = story.call(0, KEY_REFUSED, "ping")
    later = [decision for _ in range(5) for decision in story.probe(0, KEY_REFUSED, "ping")]

    assert kinds(decisions) == ["CircuitMoved"]
    assert [decision for decision in later if isinstance(decision, Tell)] == [
        Tell(
            "warning",
            "m suddenly refuses the key (invalid key)",
            "the key may have been revoked; waiting and probing in case it is an outage",
        )
    ]


def test_random_refusals_of_rows_and_of_checks_were_short_outages() -> None:
    """Groq answers 400 ``json_validate_failed`` at random, a finished row's request too: it has answered."""
    story = Story(can_check=True)
    for row in range(1, 4):
        story.call(row, CONFLICT)
        assert kinds(story.call(row, CONFLICT)) == ["HoldForEvidence"]

    assert story.call(0, CONFLICT, "good") == []

    assert story.route.is_closed
    assert story.route.outage is None


def test_checks_that_are_refused_more_often_than_chance_allows_are_an_outage() -> None:
    """At the highest rate that counts as usual: 66 in a row, a minute or more."""
    story = Story(can_check=True)
    story.quiet()
    for _ in range(2):
        story.call(1, CONFLICT)

    decided = [kinds(story.call(0, CONFLICT, "good")) for _ in range(66)]

    assert decided == [[]] * 65 + [["CircuitMoved", "OutageConfirmed"]]


def test_a_check_that_is_refused_where_nothing_ever_worked_still_stops_the_run() -> None:
    """There is nothing that it could be chance beside."""
    story = Story(ever=False, can_check=True)
    for _ in range(2):
        story.call(1, CONFLICT)

    assert "StopRun" in kinds(story.call(0, CONFLICT, "ping"))


def test_a_check_that_is_refused_while_the_circuit_is_open_decides_nothing() -> None:
    """It was sent before."""
    story = Story()
    check = story.send(0, "good")
    story.open()

    assert story.come(check, REFUSED) == []


def test_parked_rows_are_no_longer_held() -> None:
    """They wait for the circuit."""
    story = Story(can_check=True)
    story.open()

    assert not any(record.held for record in story.route.evidence.records.values())


def test_a_failure_after_a_success_that_closed_a_confirmed_outage_is_explained_by_it() -> None:
    """It was sent before the recovery: it opens nothing, and counts only once something later has passed."""
    story = Story()
    late = story.send(50)
    story.open()
    story.confirm()
    story.probe(100, GOOD)

    decisions = story.come(late, FAILED)

    assert decisions == [RetryAt(50, story.now + 1.0, "http_500")]
    assert not story.route.window.rows
    assert story.route.evidence.records[50].proven == 0


def test_a_wait_that_a_refusal_named_outlasts_the_opening() -> None:
    """As one that a failure named."""
    story = Story()

    story.open(waiting(REFUSED, 30.0))

    assert story.route.next_change(story.now) == story.now + 30.0


def test_a_route_that_answers_only_the_smallest_request_is_lost_in_the_end() -> None:
    """Counted from when this request first closed its circuit: a wait that was named before is no trial."""
    story = Story(ever=False)
    story.open(waiting(FAILED, 650.0))

    story.probe(0, GOOD, "ping")
    began = story.now
    assert story.route.lost_at == began + 600.0
    story.call(7, FAILED)

    assert story.route.lost_at == began + 600.0


def test_a_route_whose_held_rows_the_smallest_request_outlives_is_lost_in_the_end() -> None:
    """Counted from when it vouched for them no longer."""
    story = Story(ever=False, can_check=True, failure_threshold=2)
    for row in (1, 2):
        story.call(row, FAILED)
        story.call(0, GOOD, "ping")

    assert not story.route.is_closed
    assert story.route.lost_at == story.now + 600.0


def test_four_failures_of_forty_calls_in_flight_are_chance() -> None:
    """Each that is out may yet pass."""
    story = Story(concurrency=40, failure_threshold=4)
    calls = [story.send(row) for row in range(1, 41)]

    for call in calls[:4]:
        story.come(call, FAILED)

    assert story.route.is_closed


def test_a_failure_that_comes_late_keeps_an_opening_from_being_taken_back() -> None:
    """The success was sent before it."""
    story = Story()
    calls = [story.send(row) for row in range(1, 8)]
    for call in calls[:5]:
        story.come(call, FAILED)
    assert not story.route.is_closed
    story.come(calls[6], FAILED)

    assert story.come(calls[5], GOOD) == [Succeed()]
    assert not story.route.is_closed


def test_probes_take_turns() -> None:
    """A fresh row, the smallest request, a parked row; each that is let out is a turn."""
    story = Story()
    story.open()

    order = []
    for _ in range(4):
        story.go_to_probe()
        probe = story.route.next_probe(story.now, EVERYTHING)
        assert probe is not None
        order.append(probe.kind)
        story.probe(100, FAILED)

    assert order == ["fresh", "ping", "parked", "ping"]


def test_a_check_that_was_asked_for_goes_once() -> None:
    """Then the turns go on."""
    story = Story()
    story.open()
    story.probe(100, BAD_ROW)
    story.probe(0, FAILED, "ping")
    story.go_to_probe()

    assert story.route.next_probe(story.now, EVERYTHING) == Probe("parked")


def test_a_server_that_answers_not_even_the_smallest_request_is_named_once() -> None:
    """Where nothing was ever answered; the run goes on."""
    story = Story(ever=False, timeout=5.0)
    story.open(TIMEOUT)

    assert kinds(story.probe(0, TIMEOUT, "ping")) == ["CircuitMoved", "Tell"]
    assert "Tell" not in kinds(story.probe(0, TIMEOUT, "ping"))
