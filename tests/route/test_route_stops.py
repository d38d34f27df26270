"""When only the operator can help: the run stops, or the route is given up, and nothing is marked as failed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from route_states import (
    EMPTY_BODY,
    EVERYTHING,
    FAILED,
    GOOD,
    KEY_REFUSED,
    MAYBE_NO_MONEY,
    NO_MODEL,
    NO_MONEY,
    NO_NETWORK,
    RAISED,
    REFUSED,
    TIMEOUT,
    UNKNOWN_HOST,
    UNREACHABLE,
    WEB_PAGE,
    Story,
    kinds,
)

from llmbatch.core.calls import Outcome, Scope
from llmbatch.route.calls import CallKind
from llmbatch.route.decisions import CircuitMoved, Decision, GiveUpRoute, ParkUntil, Requeue, StopRun, Succeed, Tell
from llmbatch.route.history import RouteHistory
from llmbatch.route.outage import Candidates, Outage

BAD_REQUEST = replace(REFUSED, scope="row")
HINT = "check the model, the parameters and the rows; `llmbatch check` reads them all"


def test_an_account_without_money_stops_the_run_at_once() -> None:
    """On a route that has never answered; the row stays, the route is dead."""
    story = Story(ever=False)

    decisions = story.call(1, NO_MONEY)

    assert decisions == [
        CircuitMoved("closed", "open"),
        ParkUntil(1),
        StopRun(3, "m refuses the account: no money", "top up"),
    ]
    assert story.route.dead is NO_MONEY
    assert story.route.outage == Outage(story.now, "stop", 1)
    assert repr(story.route) == "<RouteState m dead, 0 in flight, limit 10>"
    assert story.route.next_change(story.now) is None
    assert story.route.next_probe(story.now + 100.0, EVERYTHING) is None
    assert not story.route.takes_calls(story.now + 100.0)


def test_one_row_without_money_stops_nothing_where_others_have_passed() -> None:
    """A quota's code on one row of thousands stopped the run, and every resume."""
    story = Story()
    story.quiet()
    assert kinds(story.call(1, NO_MONEY)) == ["RetryAt"]

    for _ in range(9):
        story.call(100, GOOD)
        story.wait(60.0)
        decisions = story.call(1, NO_MONEY)

    assert story.route.is_closed
    assert story.route.dead is None
    assert kinds(decisions) == ["RetryAt"] or 1 not in story.route.evidence.records


def test_an_account_that_runs_dry_stops_the_run_after_three_rows() -> None:
    """Each call that follows is refused; what was sent before and passes late does not take that back."""
    story = Story()
    early = story.send(50)
    story.wait(1.0)
    assert [kinds(story.call(row, NO_MONEY)) for row in (1, 2)] == [["RetryAt"]] * 2

    assert kinds(story.call(3, NO_MONEY)) == ["CircuitMoved", "ParkUntil"]
    assert kinds(story.come(early, GOOD)) == ["Succeed", "StopRun"]

    assert story.route.dead is NO_MONEY


def test_an_account_that_runs_dry_after_its_first_call_stops_the_run() -> None:
    """The first answer comes late, and was paid for; the rows that were sent since were not."""
    story = Story(ever=False)
    early = story.send(50)
    story.wait(1.0)
    for call in [story.send(row) for row in (1, 2, 3)]:
        story.come(call, NO_MONEY)

    assert kinds(story.come(early, GOOD)) == ["Succeed", "StopRun"]

    assert story.route.dead is NO_MONEY


def test_a_probe_that_was_paid_for_keeps_its_answer_where_the_account_has_run_dry_since() -> None:
    """Other tenants were refused meanwhile, and so was a call of before the opening: the run stops all the same."""
    story, other = Story(), Story()
    other.history = other.route.history = story.history
    late = story.send(50)
    story.open()
    story.go_to_probe()
    probe = story.send(100)
    other.now = story.now + 1.0
    for row in (101, 102, 103):
        other.call(row, NO_MONEY)
    story.come(late, NO_MONEY)
    assert story.route.is_stopping

    assert kinds(story.come(probe, GOOD)) == ["CircuitMoved", "Succeed", "Requeue", "StopRun"]

    assert not story.route.is_closed


def test_a_smallest_request_that_passes_shows_that_calls_of_before_say_nothing_of_the_money() -> None:
    """It was paid for: two rows were refused before it, and one since."""
    story = Story()
    late = [story.send(row) for row in (50, 51)]
    story.open()
    for call in late:
        story.come(call, NO_MONEY)
    story.probe(0, GOOD, "ping")
    assert story.route.is_closed
    story.wait(1.0)

    decisions = story.call(52, NO_MONEY)

    assert "StopRun" not in kinds(decisions)
    assert not story.route.is_stopping


def test_a_check_that_finds_no_money_too_stops_the_run() -> None:
    """The last row alone was told so, and then a request that nothing speaks against."""
    story = Story(can_check=True)
    assert kinds(story.call(1, NO_MONEY)) == ["HoldForEvidence"]

    assert kinds(story.call(0, NO_MONEY, "ping")) == ["CircuitMoved", "StopRun"]


def test_an_account_that_runs_dry_in_an_outage_stops_the_run() -> None:
    """A row probes and the smallest request; the outage keeps its beginning."""
    story = Story()
    story.open()
    outage = story.route.outage
    assert "StopRun" not in kinds(story.probe(100, NO_MONEY))

    decisions = story.probe(0, NO_MONEY, "ping")

    assert kinds(decisions)[-1] == "StopRun"
    assert story.route.outage is outage


def test_late_answers_about_money_stop_an_open_circuit_too() -> None:
    """They were sent before it opened."""
    story = Story()
    late = [story.send(row) for row in (50, 51, 52)]
    story.open()

    decisions = [kinds(story.come(call, NO_MONEY)) for call in late]

    assert decisions == [["ParkUntil"], ["ParkUntil"], ["ParkUntil", "StopRun"]]


def test_a_tenant_whose_only_rows_lack_money_stops_the_run() -> None:
    """Nothing else can be asked: nothing is marked as failed."""
    story = Story()
    story.call(1, NO_MONEY)
    story.wait(60.0)
    story.call(1, NO_MONEY)

    assert kinds(story.route.judge_alone(story.now, 1)) == ["CircuitMoved", "StopRun"]


def test_parked_rows_that_all_lack_money_stop_the_run() -> None:
    """They were all that was left to probe with; the outage keeps its beginning."""
    story = Story()
    story.open()
    story.route.evidence.void()
    outage = story.route.outage
    story.wait(600.0)

    assert kinds(story.route.judge_parked(story.now, [(1, NO_MONEY), (2, NO_MONEY)])) == ["StopRun"]

    assert story.route.outage is outage


def test_another_tenant_s_success_takes_a_stop_for_money_back() -> None:
    """The account is one: it was paid."""
    story = Story()
    last = story.send(50)
    for row in (1, 2, 3):
        story.call(row, NO_MONEY)
    assert story.route.is_stopping
    story.history.refusals.prove(story.now)

    assert kinds(story.come(last, FAILED)) == ["ParkUntil"]

    assert story.route.dead is None
    assert not story.route.is_stopping


def test_a_tenant_whose_first_row_names_no_model_waits_for_the_calls_of_others() -> None:
    """They go to the same model: one of them may succeed, and then it exists."""
    story, other = Story(ever=False), Story(ever=False)
    other.route.history = story.history
    theirs = other.send(1)

    assert kinds(story.call(2, NO_MODEL)) == ["CircuitMoved", "ParkUntil"]
    assert [story.route.dead, story.route.is_closed] == [None, False]
    other.come(theirs, GOOD)
    story.go_to_probe()

    assert kinds(story.probe(2, NO_MODEL)) == ["CircuitMoved", "ParkUntil"]
    assert story.route.dead is None
    story.go_to_probe()
    assert "Succeed" in kinds(story.probe(3, GOOD))


def test_a_tenant_is_given_up_once_nobody_is_in_flight() -> None:
    """The calls of others were refused too."""
    story, other = Story(ever=False), Story(ever=False)
    other.route.history = story.history
    theirs = other.send(1)
    story.call(2, NO_MODEL)

    assert kinds(other.come(theirs, NO_MODEL))[-1] == "GiveUpRoute"
    story.go_to_probe()
    assert kinds(story.probe(2, NO_MODEL)) == ["CircuitMoved", "ParkUntil", "GiveUpRoute"]


def test_a_success_that_takes_a_stop_for_money_back_closes_the_circuit_only_if_it_was_sent_last() -> None:
    """Others have failed since: a probe tells."""
    story = Story()
    broke = [story.send(row) for row in (1, 2, 3)]
    middle = story.send(50)
    story.wait(1.0)
    last = story.send(51)
    for call in broke:
        story.come(call, NO_MONEY)
    assert story.route.is_stopping
    story.come(last, FAILED)

    assert kinds(story.come(middle, GOOD)) == ["Succeed"]

    assert [story.route.is_stopping, story.route.is_closed] == [False, False]


def test_a_call_that_is_cut_off_may_be_the_last_that_a_stop_waits_for() -> None:
    """Nothing came back any more: the route was neither given up nor probed."""
    story = Story(ever=False)
    late = story.send(50)
    story.call(1, KEY_REFUSED)
    assert story.route.is_stopping

    assert kinds(story.route.cancelled(late)) == ["StopRun"]
    assert not story.route.is_stopping


def test_one_uncertain_answer_about_money_may_be_the_row_s() -> None:
    """Three rows mean the account, even where it worked before."""
    story = Story()

    decisions = [kinds(story.call(row, MAYBE_NO_MONEY)) for row in (1, 2, 3)]

    assert decisions == [["RetryAt"], ["RetryAt"], ["CircuitMoved", "ParkUntil", "StopRun"]]
    assert story.route.dead is MAYBE_NO_MONEY


def test_uncertain_answers_about_money_with_a_good_one_between_stop_nothing() -> None:
    """The good one was paid for."""
    story = Story()

    for row in (1, 2):
        story.call(row, MAYBE_NO_MONEY)
    story.call(100, GOOD)
    story.call(3, MAYBE_NO_MONEY)

    assert story.route.is_closed


def test_the_stop_for_money_names_the_account() -> None:
    """With the provider's words and what to do."""
    story = Story()

    decisions = [story.call(row, MAYBE_NO_MONEY) for row in (1, 2, 3)][-1]

    assert decisions[-1] == StopRun(3, "m refuses the account: no money", "top up")


def test_first_rows_that_are_refused_stop_the_run() -> None:
    """As many as the threshold, on a route that has never answered, with nothing in flight."""
    story = Story(ever=False)
    for row in (1, 2, 3, 4):
        assert kinds(story.call(row, BAD_REQUEST)) == ["RetryAt"]

    assert story.call(5, BAD_REQUEST) == [
        CircuitMoved("closed", "open"),
        ParkUntil(5),
        StopRun(3, "m refused the first rows: bad parameter", HINT),
    ]
    assert story.route.dead is not None


def test_a_stop_waits_for_what_is_in_flight() -> None:
    """Which may disprove it."""
    story = Story(ever=False)
    late = story.send(50)
    for row in (1, 2, 3, 4, 5):
        story.call(row, BAD_REQUEST)

    assert story.route.is_stopping
    assert story.route.dead is None
    assert story.route.next_change(story.now) is None
    assert story.route.next_probe(story.now + 100.0, EVERYTHING) is None

    assert kinds(story.come(late, FAILED)) == ["ParkUntil", "StopRun"]
    assert not story.route.is_stopping


def test_a_success_meanwhile_takes_the_stop_back() -> None:
    """The route works: the rows are judged one by one."""
    story = Story(ever=False)
    early = story.send(50)
    for row in (1, 2, 3, 4, 5):
        story.call(row, BAD_REQUEST)

    decisions = story.come(early, GOOD)

    assert decisions == [CircuitMoved("open", "closed"), Succeed(), Requeue()]
    assert not story.route.is_stopping
    assert story.route.dead is None
    assert story.route.takes_calls(story.now)


@pytest.mark.parametrize("scope", ["model", "provider"])
def test_a_route_is_given_up_where_its_model_or_provider_refuses(scope: Scope) -> None:
    """Others may go on."""
    story = Story(ever=False)
    refused = replace(REFUSED, scope=scope)
    for row in (1, 2, 3, 4):
        story.call(row, refused)

    decisions = story.call(5, refused)

    assert decisions[-1] == GiveUpRoute(refused, "m refused the first rows: bad parameter", HINT)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [(KEY_REFUSED, "StopRun"), (NO_MODEL, "GiveUpRoute"), (replace(NO_MODEL, scope="key"), "StopRun")],
)
def test_one_certain_refusal_stops_a_route_that_has_never_answered(outcome: Outcome, kind: str) -> None:
    """A key, a model, an account."""
    assert kinds(Story(ever=False).call(1, outcome)) == ["CircuitMoved", "ParkUntil", kind]


def test_a_refused_key_is_no_outage() -> None:
    """In no count."""
    story = Story(ever=False)

    decisions = story.call(1, KEY_REFUSED)

    assert decisions[-1] == StopRun(3, "m refused the first rows: invalid key", HINT)
    assert not story.route.is_confirmed


def test_an_uncertain_refusal_takes_as_many_rows_as_the_threshold() -> None:
    """It may be the row's."""
    story = Story(ever=False)
    uncertain = replace(KEY_REFUSED, certain=False)

    decisions = [kinds(story.call(row, uncertain)) for row in (1, 2, 3, 4, 5)]

    assert decisions == [["RetryAt"]] * 4 + [["CircuitMoved", "ParkUntil", "StopRun"]]


def test_advice_that_came_with_the_answer_is_the_hint() -> None:
    """In place of a general one."""
    story = Story(ever=False)

    decisions = story.call(1, replace(KEY_REFUSED, hint="set OPENAI_API_KEY"))

    assert decisions[-1] == StopRun(3, "m refused the first rows: invalid key", "set OPENAI_API_KEY")


def test_an_unknown_host_is_a_mistyped_address() -> None:
    """Exit code 2, on a route that has never answered; no outage."""
    story = Story(ever=False)

    assert story.call(1, UNKNOWN_HOST) == [
        CircuitMoved("closed", "open"),
        ParkUntil(1),
        StopRun(2, "m: no such host", "check the address (--base-url)"),
    ]
    assert story.route.dead is UNKNOWN_HOST


def test_an_unknown_host_that_was_known_is_an_outage() -> None:
    """Of the name service."""
    story = Story()

    assert kinds(story.call(1, UNKNOWN_HOST)) == ["RetryAt"]
    assert not story.route.is_stopping


def test_an_unknown_host_waits_for_what_is_in_flight() -> None:
    """One that passes takes it back."""
    story = Story(ever=False)
    early = story.send(50)

    assert kinds(story.call(1, UNKNOWN_HOST)) == ["CircuitMoved", "ParkUntil"]
    assert story.route.is_stopping
    assert kinds(story.come(early, GOOD)) == ["CircuitMoved", "Succeed", "Requeue"]
    assert not story.route.is_stopping


def test_a_probe_that_finds_no_host_stops_a_route_that_has_never_answered() -> None:
    """The first rows could not be sent at all."""
    story = Story(ever=False)
    story.open(UNREACHABLE)

    assert kinds(story.probe(100, UNKNOWN_HOST)) == ["CircuitMoved", "ParkUntil", "StopRun"]


def test_a_probe_whose_key_is_refused_stops_a_route_that_has_never_answered() -> None:
    """Nothing is confirmed, nothing failed."""
    story = Story(ever=False)
    story.open(UNREACHABLE)

    decisions = story.probe(0, KEY_REFUSED, "ping")

    assert decisions[-1] == StopRun(3, "m refused the first rows: invalid key", HINT)


def look_further(story: Story, row: int, outcome: Outcome) -> list[Decision]:
    """A row from further ahead probes, when it may."""
    story.now = max(story.now, story.route.next_change(story.now) or 0.0)
    assert story.route.next_probe(story.now, Candidates(fresh=True, parked=True, ping=False, good=False)) is not None
    return story.call(row, outcome)


def test_a_function_that_raises_for_all_first_rows_and_further_ahead_stops_the_run() -> None:
    """Where it has never returned: four more rows are tried, and then nothing is marked as failed."""
    story = Story(ever=False)
    for row in (1, 2, 3, 4):
        assert kinds(story.call(row, RAISED)) == ["RetryAt"]

    assert kinds(story.call(5, RAISED)) == ["CircuitMoved", "ParkUntil"]
    for row in (6, 70, 1):
        assert "StopRun" not in kinds(look_further(story, row, RAISED))

    assert kinds(look_further(story, 1100, RAISED))[-1] == "StopRun"


def test_a_stop_for_a_function_that_raises_names_the_exception() -> None:
    """And where it was raised, which comes with it."""
    story = Story(ever=False)
    raised = replace(RAISED, hint="KeyError: 'id' (answer.py, line 7)")
    for row in (1, 2, 3, 4, 5):
        story.call(row, raised)

    decisions = [look_further(story, row, raised) for row in (6, 70, 1, 1100)][-1]

    assert decisions[-1] == StopRun(
        3,
        "m raised an exception for each of the first rows: KeyError: 'id' (answer.py, line 7)",
        "correct the function, or take out the rows that it cannot handle",
    )


def test_a_block_of_rows_that_a_function_raises_for_first_stops_nothing() -> None:
    """A row from further ahead passes: the function is right, and what it raised was its rows' fault."""
    story = Story(ever=False)
    for row in (1, 2, 3, 4, 5):
        story.call(row, RAISED)

    look_further(story, 6, RAISED)
    decisions = kinds(look_further(story, 70, GOOD))

    assert (decisions[:2], decisions[-1]) == (["CircuitMoved", "Succeed"], "Requeue")
    assert (story.route.is_closed, story.route.is_stopping) == (True, False)


def test_a_function_that_raises_for_some_rows_only_stops_nothing() -> None:
    """Another row met something else."""
    story = Story(ever=False)
    story.call(100, FAILED)

    for row in (1, 2, 3, 4, 5, 6):
        story.call(row, RAISED)

    assert story.route.is_closed


def test_a_function_that_raises_in_an_open_circuit_is_parked() -> None:
    """It was called before."""
    story = Story()
    late = story.send(50)
    story.open()

    assert story.come(late, RAISED) == [ParkUntil(50)]


def test_a_check_that_is_refused_as_first_rows_are_stops_the_run() -> None:
    """Both say the same."""
    story = Story(ever=False, can_check=True)
    story.call(1, BAD_REQUEST)

    assert kinds(story.call(0, BAD_REQUEST, "ping")) == ["CircuitMoved", "StopRun"]


def test_a_route_that_cannot_be_reached_is_lost_after_ten_minutes() -> None:
    """Where it has never answered; counted from when the first such call was sent."""
    story = Story(ever=False)
    began = story.now
    call = story.send(1)
    story.wait(60.0)
    story.come(call, UNREACHABLE)

    assert story.route.lost_at == began + 600.0
    story.now = began + 599.9
    assert not story.route.is_lost(story.now)
    story.call(2, TIMEOUT)
    story.now = began + 600.0
    assert story.route.is_lost(story.now)


def test_a_route_that_is_lost_lets_its_rows_go_on_elsewhere() -> None:
    """Its circuit opens, though chance could explain the few failures: rows wait in a closed one."""
    story = Story(ever=False, can_check=True)
    story.call(1, TIMEOUT)
    story.wait(550.0)
    late = story.send(0, "ping")
    story.wait(60.0)

    assert kinds(story.come(late, TIMEOUT)) == ["CircuitMoved", "OutageConfirmed"]


@pytest.mark.parametrize(("seconds", "later"), [(65.0, 0.0), (65.5, 5.5)])
def test_a_call_that_ends_within_five_seconds_after_its_time_limit_was_not_held_up(
    seconds: float, later: float
) -> None:
    """After that this process was stopped meanwhile: only the time limit of the last call counts."""
    story = Story(ever=False)
    began = story.now
    story.call(1, UNREACHABLE)
    call = story.send(2)
    story.wait(seconds)

    story.come(call, UNREACHABLE)

    assert story.route.lost_at == began + later + 600.0


@pytest.mark.parametrize("outcome", [UNREACHABLE, NO_NETWORK])
def test_a_process_that_was_stopped_goes_on_counting_since_its_last_call(outcome: Outcome) -> None:
    """Also if the machine has no network when it wakes."""
    story = Story(ever=False)
    story.call(1, UNREACHABLE)
    call = story.send(2)
    story.wait(24_000.0)

    story.come(call, outcome)

    assert story.route.lost_at == story.now - 60.0 + 600.0


def test_a_process_that_was_stopped_has_not_tried_for_so_long() -> None:
    """A call lasts no longer than its time limit, however long the process slept."""
    story = Story(ever=False)
    call = story.send(1)
    story.wait(24_000.0)
    story.come(call, UNREACHABLE)

    assert not story.route.is_lost(story.now)
    assert story.route.lost_at == story.now - 60.0 + 600.0

    late = story.send(2)
    story.wait(24_000.0)
    story.come(late, UNREACHABLE)
    assert story.route.lost_at == story.now - 60.0 + 600.0


def test_tenants_need_not_each_find_out_that_a_route_answers_nobody() -> None:
    """Where as many rows as the threshold have failed, of all tenants, one silent check more is enough."""
    history = RouteHistory("m", answered_before=lambda: False)
    stories = [Story(ever=False, can_check=True, failure_threshold=3) for _ in range(4)]
    told: list[Decision] = []
    for number, story in enumerate(stories):
        story.route.history, story.route.is_tenant, story.route.label = history, True, f"m [tenant {number}]"
        story.call(number + 1, TIMEOUT)
        told += story.call(0, TIMEOUT, "ping")
        if not story.route.is_closed:
            story.go_to_probe()
            told += story.probe(0, TIMEOUT, "ping")

    assert [story.route.is_closed for story in stories] == [True, True, False, False]
    assert [one.message for one in told if isinstance(one, Tell)] == [
        "m has never answered, not even the smallest request within 60 s"
    ]


def confirmed_by(story: Story, outcome: Outcome) -> list[Decision]:
    """What is decided until rows and probes that end so are an outage."""
    story.open(outcome)
    decisions: list[Decision] = []
    for _ in range(9):
        if not story.route.is_confirmed:
            decisions += story.probe(0, outcome, "ping")
    assert story.route.is_confirmed
    return decisions


@pytest.mark.parametrize(
    ("outcome", "with_what"),
    [
        (WEB_PAGE, "web pages (HTML answer: Sign in)"),
        (EMPTY_BODY, "empty answers"),
        (replace(WEB_PAGE, code="invalid_body", message="a list"), "something other than a JSON object (a list)"),
        (replace(WEB_PAGE, code="no_choices", message="no choices"), "JSON of another kind (no choices)"),
        (replace(WEB_PAGE, code="no_content", message="no content"), "JSON of another kind (no content)"),
        (replace(WEB_PAGE, code="no_output", message="no output"), "JSON of another kind (no output)"),
        (replace(WEB_PAGE, code="no_data", message="no data"), "JSON of another kind (no data)"),
        (replace(WEB_PAGE, code="not_http", message="SSH-2.0"), "something other than HTTP (SSH-2.0)"),
        (replace(WEB_PAGE, code="connection_reset", message="reset"), "closed connections (reset)"),
    ],
)
def test_an_address_that_answers_with_pages_was_probed_for_ever(outcome: Outcome, with_what: str) -> None:
    """It is told with the outage, and the route is lost as one that is never reached."""
    story = Story(ever=False)
    began = story.now

    decisions = confirmed_by(story, outcome)

    told = [decision for decision in decisions if isinstance(decision, Tell)]
    assert [tell.message.partition(" has never")[2] for tell in told] == [
        f" answered as an API does, but with {with_what}"
    ]
    assert told[0].hint == "is the address right (--base-url)? still trying, for 10 minutes at most"
    assert story.route.lost_at == began + 600.0


def test_pages_of_a_route_that_has_answered_are_an_outage() -> None:
    """Of a proxy in front of it, or of a login that has expired."""
    story = Story(ever=True)

    decisions = confirmed_by(story, WEB_PAGE)

    assert not [decision for decision in decisions if isinstance(decision, Tell)]
    assert story.route.lost_at == math.inf


def test_the_longest_outage_is_the_longest_time_to_be_lost_too() -> None:
    """Where it is set."""
    story = Story(ever=False, max_outage=60.0)
    story.call(1, TIMEOUT)

    assert story.route.lost_at == story.now + 60.0
    story.wait(60.0)
    assert story.route.is_lost(story.now)


@pytest.mark.parametrize("outcome", [GOOD, FAILED, REFUSED])
def test_any_answer_of_the_provider_shows_that_it_is_reached(outcome: Outcome) -> None:
    """Good or not; the next failure to reach it begins anew."""
    story = Story(ever=False)
    story.call(1, UNREACHABLE)

    story.call(2, outcome)

    assert not story.route.is_lost(story.now + 10_000.0)


def test_a_fault_of_this_machine_is_no_answer_of_the_provider() -> None:
    """It goes on being counted since when the route was not reached."""
    story = Story(ever=False)
    began = story.now
    story.call(1, UNREACHABLE)
    story.wait(30.0)

    story.call(2, NO_NETWORK)

    assert story.route.lost_at == began + 600.0


@pytest.mark.parametrize(
    ("outcome", "kind", "is_lost"),
    [(TIMEOUT, "row", False), (UNREACHABLE, "row", True), (TIMEOUT, "ping", True), (UNREACHABLE, "ping", True)],
)
def test_a_route_that_has_answered_the_smallest_request_is_not_lost_by_rows_that_take_too_long(
    outcome: Outcome, kind: CallKind, is_lost: bool
) -> None:
    """It is by those that cannot reach it, and by the smallest request that takes too long now."""
    story = Story(ever=False, can_check=True)
    story.call(0, GOOD, "ping")
    story.wait(1.0)

    story.call(1 if kind == "row" else 0, outcome, kind)

    assert story.route.lost_at == (story.now + 600.0 if is_lost else math.inf)


def test_a_success_takes_back_a_stop_that_a_check_asked_for() -> None:
    """The name of the host was unknown to one request, and known to the next."""
    story = Story(ever=False, can_check=True)
    early = story.send(50)
    story.call(1, FAILED)
    story.call(0, UNKNOWN_HOST, "ping")
    assert story.route.is_stopping

    story.come(early, GOOD)

    assert [story.route.is_stopping] == [False]
    for row in range(2, 8):
        assert "StopRun" not in kinds(story.call(row, FAILED) if story.route.is_closed else [])


def test_a_check_that_finds_no_host_stops_a_route_that_has_never_answered() -> None:
    """At once: it is a mistyped address, and no outage."""
    story = Story(ever=False, can_check=True)
    story.call(1, FAILED)

    assert kinds(story.call(0, UNKNOWN_HOST, "ping")) == ["CircuitMoved", "StopRun"]
    assert not story.route.is_confirmed


def test_a_key_that_a_probe_finds_refused_confirms_no_outage() -> None:
    """However many probes have failed before it."""
    story = Story(ever=False)
    story.open(UNREACHABLE)
    story.probe(0, FAILED, "ping")
    story.probe(0, FAILED, "ping")

    decisions = story.probe(0, KEY_REFUSED, "ping")

    assert kinds(decisions) == ["CircuitMoved", "StopRun"]


def test_an_outage_that_a_stop_left_untold_does_not_end_either() -> None:
    """A probe found no host, then a call of before succeeded: the stop is taken back, and probes go on."""
    story = Story(ever=False)
    early = story.send(50)
    story.open(UNREACHABLE)
    for row in (100, 101, 102):
        story.probe(row, FAILED)
    assert kinds(story.probe(103, UNKNOWN_HOST)) == ["CircuitMoved", "ParkUntil"]

    assert "OutageOver" not in kinds(story.come(early, GOOD))
    assert [story.route.is_stopping, story.route.is_closed] == [False, False]
    story.probe(0, GOOD, "ping")
    assert story.route.is_closed


def test_a_stale_probe_stops_nothing_by_itself_while_the_route_may_answer() -> None:
    """The circuit has closed meanwhile, by the smallest request; its row goes again."""
    story = Story(ever=False)
    story.open(UNREACHABLE)
    story.go_to_probe()
    hung = story.send(100)
    story.wait(65.0)
    story.probe(0, GOOD, "ping")

    assert story.come(hung, KEY_REFUSED) == [ParkUntil(100)]
    assert not story.route.is_stopping


def test_a_smallest_request_that_probes_takes_a_stop_back() -> None:
    """It has reached the host that another call found unknown; the circuit closes, and stays so."""
    story = Story(ever=False)
    late = story.send(50)
    story.open(UNREACHABLE)
    story.go_to_probe()
    probe = story.send(0, "ping")
    assert story.come(late, UNKNOWN_HOST) == [ParkUntil(50)]
    assert story.route.is_stopping

    assert kinds(story.come(probe, GOOD)) == ["CircuitMoved", "Requeue"]

    assert [story.route.is_stopping, story.route.is_closed] == [False, True]


def test_rows_are_no_longer_held_once_the_account_has_no_money() -> None:
    """They are parked like all others, as at any opening."""
    story = Story(can_check=True)
    story.call(1, FAILED)

    for row in (2, 3, 4):
        story.call(row, NO_MONEY)

    assert not story.route.evidence.records[1].held


def test_a_route_without_money_is_not_probed_once_it_was_given_up() -> None:
    """The last call in flight was cut off: nothing goes any more."""
    story = Story()
    early = story.send(49)
    for call in [story.send(row) for row in (50, 51, 52)]:
        story.come(call, NO_MONEY)

    story.route.cancelled(early)

    assert story.route.dead is NO_MONEY
    assert story.route.next_change(story.now) is None
    assert not story.route.circuit.is_closed


def test_an_unknown_host_is_named_where_the_first_call_meets_it() -> None:
    """Nothing was refused."""
    story = Story(ever=False)
    story.send(2)

    story.call(1, UNKNOWN_HOST)

    assert story.route.reason == "the first row failed: no such host"


def test_a_single_row_is_not_said_to_be_in_a_row() -> None:
    """A threshold of one opens the circuit at its first failure, where such failures are rare enough."""
    story = Story(ever=False)
    story.send(2)

    story.call(1, KEY_REFUSED)

    assert story.route.reason == "the first row was refused: invalid key"


@pytest.mark.parametrize("outcome", [KEY_REFUSED, NO_MODEL], ids=["key", "model"])
def test_a_row_that_is_refused_after_the_smallest_request_passed_stops_no_run(outcome: Outcome) -> None:
    """That has the same key and model, so the refusal is the row's own; as many as the threshold still stop it."""
    story = Story(ever=False, can_check=True)
    story.call(0, GOOD, "ping")

    assert "StopRun" not in kinds(story.call(1, outcome))
    assert story.route.is_closed
    assert {"StopRun", "GiveUpRoute"} & set(kinds([one for row in range(2, 6) for one in story.call(row, outcome)]))


def test_a_late_success_reopens_no_route_that_was_given_up() -> None:
    """Answers were slower than the limit, and the smallest request passed: a row that had more time has its answer."""
    story = Story(ever=False, timeout=5.0)
    late = story.send(50)
    story.open(TIMEOUT)
    story.probe(0, GOOD, "ping")
    assert story.route.dead is not None

    assert kinds(story.come(late, GOOD)) == ["Succeed"]
    assert story.route.dead is not None


def test_a_late_success_of_a_route_that_was_given_up_in_an_outage_concerns_its_row_only() -> None:
    """Another route found the account empty. What the row met before is forgotten; the circuit stays open."""
    story = Story()
    story.call(50, FAILED)
    again = story.send(50)
    story.open()
    story.route.give_up(NO_MONEY)

    assert story.come(again, GOOD) == [Succeed()]
    assert 50 not in story.route.evidence.records
    assert not story.route.is_closed


def test_a_late_success_of_a_route_that_was_given_up_while_it_worked_proves_nothing() -> None:
    """A row that had failed is not judged by it: it is left for the next run, or for another route."""
    story = Story()
    story.call(1, FAILED)
    late = story.send(50)
    story.route.give_up(NO_MONEY)

    assert story.come(late, GOOD) == [Succeed()]
    assert story.route.evidence.records[1].proven == 0


def test_a_health_check_that_passes_after_the_end_changes_nothing() -> None:
    """The route stays dead: the operator was told what to do."""
    story = Story(ever=False, can_check=True)
    late = story.send(0, "good")
    story.open(TIMEOUT)
    assert kinds(story.probe(0, GOOD, "ping"))[-1] == "GiveUpRoute"
    dead = story.route.dead
    assert dead is not None

    assert story.come(late, GOOD) == []

    assert story.route.dead is dead
    assert story.route.in_flight == 0
    assert not story.route.history.ever
