"""What speaks against each row, and which of it a later good answer has proven."""

from __future__ import annotations

import pytest

from llmbatch.core.calls import Outcome
from llmbatch.route.evidence import Evidence, RowRecord

FAILED = Outcome("failure", retry=True, code="http_500")
THROTTLED = Outcome("throttled", retry=True, code="http_429")
RAISED = Outcome("rejected", scope="row", retry=True, code="ValueError")


def quiet(evidence: Evidence) -> None:
    """A hundred rows that are sent from now on succeed at once."""
    for row in range(1000, 1100):
        evidence.succeeded(row, 10**9)


def test_a_failure_counts_only_after_a_later_call_succeeded() -> None:
    """A call that was sent before it proves nothing."""
    evidence = Evidence(3)
    record = evidence.failed(1, 5, FAILED)

    assert evidence.prove(4) == []
    assert (record.proven, record.pending) == (0, [5])

    assert evidence.prove(6) == [(1, record)]
    assert (record.proven, record.pending) == (1, [])
    assert evidence.unproven == {}


def test_a_failure_that_comes_back_after_a_later_success_counts_at_once() -> None:
    """The call that failed was slower than the one that passed."""
    evidence = Evidence(3)
    evidence.prove(6)

    record = evidence.failed(1, 5, FAILED)

    assert (record.proven, record.pending) == (1, [])
    assert evidence.unproven == {}


def test_a_call_never_proves_itself() -> None:
    """Only a higher number does."""
    evidence = Evidence(3)
    evidence.prove(5)

    record = evidence.failed(1, 5, FAILED)

    assert record.pending == [5]


def test_failures_with_no_good_answer_between_count_as_one() -> None:
    """They may have had one cause."""
    evidence = Evidence(3)
    evidence.failed(1, 1, FAILED)
    record = evidence.failed(1, 2, FAILED)

    evidence.prove(3)

    assert (record.proven, record.pending, record.failures) == (1, [], 1)


def test_failures_that_count_as_one_are_attempts_all_the_same() -> None:
    """Six calls failed: two count for the first five, and the last one is not proven yet."""
    evidence = Evidence(3)
    for failed, succeeded in (((1, 2), 3), ((4, 5, 6, 9), 8)):
        for serial in failed:
            record = evidence.failed(1, serial, FAILED)
        evidence.prove(succeeded)

    assert (record.proven, record.pending, record.attempts) == (2, [9], 6)


def test_a_success_between_two_failures_proves_the_first_alone() -> None:
    """The row stays unproven for the second."""
    evidence = Evidence(3)
    evidence.failed(1, 1, FAILED)
    record = evidence.failed(1, 3, FAILED)

    assert evidence.prove(2) == [(1, record)]

    assert (record.proven, record.pending, record.failures) == (1, [3], 2)
    assert evidence.unproven == {1: record}
    assert repr(record) == "<RowRecord 1 proven, 1 pending>"


def test_the_newest_success_never_goes_back() -> None:
    """Answers come in any order."""
    evidence = Evidence(3)
    evidence.prove(9)
    evidence.prove(4)

    assert evidence.newest_success == 9
    assert evidence.failed(1, 8, FAILED).proven == 1


def test_several_rows_are_proven_at_once_and_others_left() -> None:
    """In the order in which they failed first."""
    evidence = Evidence(3)
    for row, serial in ((3, 9), (4, 1), (2, 2)):
        evidence.failed(row, serial, FAILED)

    assert [row for row, _ in evidence.prove(5)] == [4, 2]
    assert list(evidence.unproven) == [3]
    assert repr(evidence) == "<Evidence 3 rows, 1 unproven, errors 0.00%>"


def test_the_newest_failure_that_is_not_proven_is_known_over_all_rows() -> None:
    """Of several of a row the last one; 0 where there is none."""
    evidence = Evidence(3)
    assert evidence.newest_unproven == 0

    for row, serial in ((1, 3), (2, 5), (1, 9), (3, 7)):
        evidence.failed(row, serial, FAILED)
    assert evidence.newest_unproven == 9

    evidence.prove(10)
    assert evidence.newest_unproven == 0


def test_a_new_record_knows_one_failure_and_nothing_else() -> None:
    """Neither held nor in flight, and free to go at once."""
    record = RowRecord(4, FAILED)

    assert (record.proven, record.pending, record.failures, record.attempts, record.began) == (0, [], 0, 0, 4)
    assert (record.throttled, record.held, record.in_flight, record.sent_alone) == (False,) * 4
    assert record.retry_at == 0.0
    assert record.last is FAILED
    assert Evidence(3).newest_success == 0


def test_a_record_says_where_its_row_is() -> None:
    """In flight goes before held."""
    record = RowRecord(0, FAILED)
    record.held = True
    assert repr(record) == "<RowRecord 0 proven, 0 pending held>"

    record.in_flight = True
    assert repr(record) == "<RowRecord 0 proven, 0 pending in flight>"


def test_a_failed_row_is_no_longer_in_flight() -> None:
    """And remembers the answer and the call by which it began to fail."""
    evidence = Evidence(3)
    record = evidence.failed(1, 1, FAILED)
    record.in_flight = True

    assert evidence.failed(1, 2, THROTTLED) is record

    assert record.in_flight is False
    assert record.last is THROTTLED
    assert record.began == 1


def test_a_row_that_goes_alone_needs_no_proof() -> None:
    """Nothing can bring any more."""
    evidence = Evidence(3)
    record = evidence.failed(1, 1, FAILED)
    evidence.prove(2)
    record.sent_alone = True

    evidence.failed(1, 3, FAILED)

    assert (record.proven, record.pending) == (2, [])


def test_an_outage_voids_what_is_unproven() -> None:
    """Proven failures stay; a row with none has nothing against it any more."""
    evidence = Evidence(3)
    evidence.failed(1, 1, FAILED)
    evidence.prove(2)
    evidence.failed(1, 3, FAILED)
    evidence.failed(2, 4, FAILED)

    evidence.void()

    assert list(evidence.records) == [1]
    assert evidence.records[1].proven == 1
    assert evidence.records[1].pending == []
    assert evidence.unproven == {}
    assert evidence.prove(5) == []


def test_throttling_of_the_route_is_excused() -> None:
    """Rows whose last answer was a 429 get it back; those that were held for it go again after their backoff."""
    evidence = Evidence(3)
    held = evidence.failed(1, 1, THROTTLED)
    held.held, held.retry_at = True, 8.0
    evidence.failed(2, 2, THROTTLED)
    evidence.failed(3, 3, FAILED)

    assert evidence.excuse_throttled() == [(1, 8.0)]

    assert held.held is False
    assert not held.pending
    assert list(evidence.records) == list(evidence.unproven) == [3]
    assert evidence.excuse_throttled() == []


def test_what_is_excused_leaves_no_record_unless_something_is_proven() -> None:
    """A row that was throttled alone with the route is as good as new."""
    evidence = Evidence(3)
    evidence.failed(1, 1, FAILED)
    evidence.prove(2)
    evidence.failed(1, 3, THROTTLED)
    evidence.failed(2, 4, THROTTLED)

    evidence.excuse_throttled()

    assert list(evidence.records) == [1]
    assert evidence.unproven == {}


def test_a_row_is_spent_after_as_many_proven_failures_as_the_law_asks() -> None:
    """Three where errors are known to be rare; pending ones do not count."""
    evidence = Evidence(2)
    record = evidence.failed(1, 1, FAILED)
    quiet(evidence)
    spent = []
    for serial in range(2, 10, 2):
        evidence.prove(serial)
        spent.append(evidence.is_spent(record))
        evidence.failed(1, serial + 1, FAILED)

    assert evidence.needed(record) == 3
    assert spent == [False, False, True, True]
    assert evidence.explain(1) == "failed 4 of 3 while 0.0% of other attempts failed, 1 more not proven yet"


@pytest.mark.parametrize(
    ("overcome", "rows", "needed"),
    [(0, 30, 3), (1, 30, 6), (10, 30, 11), (50, 950, 4), (2500, 7500, 9), (1, 1, 11), (1, 10, 11), (2, 2, 14)],
)
def test_an_exception_that_rows_overcame_asks_for_more_the_less_is_known_of_its_rate(
    overcome: int, rows: int, needed: int
) -> None:
    """``prod((overcome + 1 + i) / (overcome + rows + 2 + i))`` is how likely the next failures are, one after another.

    One in 31 of the first rows says little: at a rate of one in four, a good row fails four times in a row in 256. Of
    fewer than ten rows it would say next to nothing, and a bad row would be called hundreds of times.
    """
    evidence = Evidence(3)
    for row in range(1, overcome + 1):
        evidence.failed(row, row, RAISED)
        evidence.succeeded(row, 10**6 + row)
    for row in range(overcome + 1, rows + 1):
        evidence.succeeded(row, 10**6 + row)

    assert evidence.needed(evidence.failed(10**6, 10**7, RAISED)) == needed


@pytest.mark.parametrize("rows", [(1, 1, 1), (1, 2, 3)])
def test_each_exception_that_a_row_overcame_counts(rows: tuple[int, ...]) -> None:
    """Three of one row as much as one of each of three; another failure between them is none."""
    evidence = Evidence(3)
    for serial, row in enumerate(rows, 1):
        evidence.failed(row, serial, RAISED)
        evidence.failed(row, 10 + serial, FAILED)
    for row in range(1, 31):
        evidence.succeeded(row, 100 + row)

    assert evidence.needed(evidence.failed(100, 1000, RAISED)) == 7


def test_a_row_is_never_spent_before_the_least_attempts() -> None:
    """``--max-attempts``, whatever the rate allows."""
    evidence = Evidence(5)
    record = evidence.failed(1, 1, FAILED)
    quiet(evidence)

    record.proven = 4
    assert not evidence.is_spent(record)
    record.proven = 5
    assert evidence.is_spent(record)


def test_a_row_is_judged_by_the_errors_of_its_own_time() -> None:
    """In an hour of errors it takes more failures."""
    evidence = Evidence(3)
    record = evidence.failed(1, 1, FAILED)
    for row in range(2, 40):
        evidence.failed(row, row, FAILED)
        evidence.prove(row + 1)
        evidence.succeeded(row, row + 1)

    record.proven = 3

    assert evidence.needed(record) > 10
    assert not evidence.is_spent(record)
    assert evidence.backoff(record) < 3.0


def test_a_row_alone_is_judged_by_all_that_is_known_of_its_route() -> None:
    """And by ten good answers more: what nothing can prove ends within minutes, also where it is the first row."""
    evidence = Evidence(3)
    record = evidence.failed(1, 1, FAILED)
    assert evidence.needed(record) == 110

    record.sent_alone = True
    assert evidence.needed(record) == 8

    for _ in range(100):
        evidence.succeeded(2, 0)
    assert evidence.needed(record) == 3


def test_an_answer_to_a_probe_is_no_sample_of_the_rate() -> None:
    """Probes that fail are none either; what the row had met before is."""
    evidence = Evidence(3)
    evidence.failed(1, 1, FAILED)

    evidence.succeeded(1, 2, probe=True)
    evidence.succeeded(3, 3, probe=True)

    assert repr(evidence.rate) == "<ErrorRate 100.00% of 1 attempts>"
    assert evidence.rate.rows == 0


def test_checks_are_a_sample_of_the_rate() -> None:
    """Those that failed count once a later one passes; one does for all that an outage explains otherwise.

    With none of them, the rate was that of the good ones, 0 %, where each that failed began an outage.
    """
    evidence = Evidence(3)
    record = evidence.failed(1, 1, FAILED)
    evidence.check_failed()
    evidence.void()
    evidence.check_failed()
    evidence.check_failed()

    evidence.check_passed(4)

    sample = evidence.rate.since(0, [(record.began, 1)])
    assert (sample.rows, sample.checks, sample.failed, sample.unresolved) == (0, 1, 3, {1: 1})


def test_a_backoff_grows_with_failures_proven_or_not() -> None:
    """One doubling each, as long as failures are known to be rare."""
    evidence = Evidence(3)
    record = evidence.failed(1, 1, FAILED)
    quiet(evidence)
    assert evidence.backoff(record) == 1.0

    evidence.prove(2)
    evidence.failed(1, 3, FAILED)
    evidence.failed(1, 4, FAILED)

    assert evidence.backoff(record) == 3.0


def test_two_unproven_failures_wait_for_evidence() -> None:
    """A third would teach nothing."""
    evidence = Evidence(3)
    record = evidence.failed(1, 1, FAILED)
    assert not evidence.is_waiting(record)

    evidence.failed(1, 2, FAILED)
    assert evidence.is_waiting(record)


def test_a_row_that_succeeds_tells_the_error_rate() -> None:
    """Its failures, each of them, whatever they proved."""
    evidence = Evidence(3)
    evidence.failed(1, 1, FAILED)
    evidence.prove(2)
    evidence.failed(1, 3, FAILED)
    evidence.failed(1, 4, FAILED)

    evidence.succeeded(1, 5)
    assert repr(evidence.rate) == "<ErrorRate 75.00% of 4 attempts>"
    assert not evidence.records
    assert not evidence.unproven

    evidence.succeeded(2, 6)
    assert repr(evidence.rate) == "<ErrorRate 60.00% of 5 attempts>"


def test_a_bad_row_never_raises_the_rate() -> None:
    """It is forgotten when it ends, and has never succeeded."""
    evidence = Evidence(3)
    record = evidence.failed(1, 1, FAILED)

    assert evidence.forget(1) is record

    assert evidence.forget(1) is None
    assert evidence.forget(2) is None
    assert not evidence.unproven
    assert repr(evidence.rate) == "<ErrorRate 0.00% of 0 attempts>"


def test_nothing_is_explained_where_nothing_speaks_against_a_row() -> None:
    """An empty phrase."""
    assert Evidence(3).explain(1) == ""


def test_a_row_is_explained_by_its_failures_and_those_of_others() -> None:
    """What counts, what it takes, and the measured rate."""
    evidence = Evidence(3)
    evidence.failed(1, 1, FAILED)
    evidence.prove(2)
    quiet(evidence)

    assert evidence.explain(1) == "failed 1 of 3 while 0.0% of other attempts failed"


def test_the_end_of_a_row_that_never_failed_is_no_loss() -> None:
    """There are no failures to remember."""
    evidence = Evidence(3)
    evidence.succeeded(1, 1)

    evidence.ended(2)

    assert evidence.rate.since(0, ()).unresolved == {}
