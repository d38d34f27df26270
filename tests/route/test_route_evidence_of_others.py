"""By what other rows met a row is judged that fails."""

from __future__ import annotations

import pytest

from llmbatch.core.calls import Outcome
from llmbatch.route.evidence import Evidence, RowRecord

FAILED = Outcome("failure", retry=True, code="http_500")
RAISED = Outcome("rejected", scope="row", retry=True, code="ValueError")

ROW = 10_000
"""The row that is judged."""


def answered(evidence: Evidence, calls: range) -> None:
    """Each is the first of its row."""
    for serial in calls:
        evidence.succeeded(serial, serial)


def half_failed(evidence: Evidence, calls: range) -> None:
    """As many rows as calls fail, and are then answered."""
    for serial in calls:
        evidence.failed(serial, serial, FAILED)
    for serial in calls:
        evidence.succeeded(serial, calls.stop + serial - calls.start)


def failed_again(evidence: Evidence, *calls: int) -> RowRecord:
    """These calls of the row fail."""
    for serial in calls:
        record = evidence.failed(ROW, serial, FAILED)
    return record


def test_a_row_is_judged_by_the_errors_that_began_with_it() -> None:
    """Half of all attempts since, though a thousand rows passed before and the row has failed again since."""
    evidence = Evidence(3)
    answered(evidence, range(1, 1001))
    record = failed_again(evidence, 2001)
    half_failed(evidence, range(2002, 2302))
    assert evidence.needed(record) == 17

    failed_again(evidence, 4000)
    answered(evidence, range(4001, 4301))

    assert evidence.needed(record) == 11


def hour_before(in_flight: tuple[int, ...] = ()) -> Evidence:
    """Half of the attempts of 300 rows failed, then a call of another row failed, then 300 rows were answered."""
    evidence = Evidence(3, in_flight)
    half_failed(evidence, range(1, 301))
    evidence.failed(ROW + 1, 1001, FAILED)
    answered(evidence, range(1002, 1302))
    return evidence


def test_a_row_is_judged_by_the_errors_before_its_last_failed_call_too() -> None:
    """Good answers to later calls say nothing of what that one met."""
    evidence = hour_before()
    record = evidence.records[ROW + 1]

    assert evidence.needed(record) == 17
    record.proven = 16
    assert not evidence.is_spent(record)
    record.proven = 17
    assert evidence.is_spent(record)


@pytest.mark.parametrize(("in_flight", "needed"), [((), 3), ((1001, 3500), 17), ((3500,), 3)])
def test_a_row_is_judged_by_the_errors_before_the_oldest_call_in_flight(
    in_flight: tuple[int, ...], needed: int
) -> None:
    """Errors that take longer than good answers may not be in yet, of the calls sent since."""
    evidence = hour_before(in_flight)
    record = failed_again(evidence, 3001)
    answered(evidence, range(3002, 3302))

    assert evidence.needed(record) == needed


def test_a_row_that_goes_alone_is_judged_by_all_rows_only() -> None:
    """A third of all attempts failed; when they did does not matter."""
    evidence = hour_before()
    record = evidence.records[ROW + 1]

    record.sent_alone = True

    assert evidence.needed(record) == 11


def test_a_row_with_an_exception_of_its_own_is_not_judged_by_a_provider_s_errors() -> None:
    """It would most likely come again, whatever others met before."""
    evidence = hour_before()
    record = evidence.records[ROW + 1]
    assert evidence.needed(record) == 17

    record.last = RAISED

    assert evidence.needed(record) == 3


def test_two_rows_are_judged_by_one_another_and_not_by_themselves() -> None:
    """Beside ten answers: one that has failed nine times is bad, and one that has failed once may be unlucky."""
    evidence = Evidence(3)
    once = evidence.failed(20, 1, FAILED)
    for serial in range(2, 20, 2):
        often = evidence.failed(21, serial, FAILED)
        evidence.prove(serial + 1)
    answered(evidence, range(1, 11))

    assert (once.attempts, often.attempts) == (1, 9)
    assert [evidence.needed(record) for record in (once, often)] == [8, 11]


def test_rows_that_were_judged_alone_as_they_were_few_have_nothing_against_them_once_that_is_in_doubt() -> None:
    """Their failures count again only once a later call has succeeded; those of other rows stay."""
    evidence = Evidence(3)
    for row in (1, 2):
        record = evidence.failed(row, row, FAILED)
        evidence.prove(row + 2)
        record.sent_alone = True
    evidence.few = {1, 3}

    assert evidence.doubt_few()

    assert [(record.proven, record.sent_alone) for record in evidence.records.values()] == [(0, False), (1, True)]
    assert evidence.failed(1, 10, FAILED).pending == [10]
    assert not evidence.doubt_few()
