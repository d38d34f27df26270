"""What speaks against a row that is throttled while others pass, and for what excused throttling of others counts."""

from __future__ import annotations

import math

import pytest

from llmbatch.core.calls import Outcome
from llmbatch.route.evidence import Evidence, RowRecord

FAILED = Outcome("failure", retry=True, code="http_500")
THROTTLED = Outcome("throttled", retry=True, code="http_429")

ROW = 10_000
"""The row that is judged."""


def excused(evidence: Evidence, time: int = 0) -> int:
    """Throttled attempts of rows that have their answer, which count against none, in that time and later."""
    with_them = evidence.rate.since(time, (), with_excused=True)
    return with_them.failed - evidence.rate.since(time, ()).failed


def answered(evidence: Evidence, calls: range) -> None:
    """Each is the first of its row."""
    for serial in calls:
        evidence.succeeded(serial, serial)


def half_throttled(evidence: Evidence, calls: range) -> None:
    """As many rows as calls are throttled, which is excused, and then answered."""
    for serial in calls:
        evidence.throttled(serial, serial)
        evidence.succeeded(serial, serial)


def throttled_alone(evidence: Evidence, serial: int) -> RowRecord:
    """The row is throttled, and others are not."""
    evidence.throttled(ROW, serial)
    record = evidence.failed(ROW, serial, THROTTLED)
    record.note_throttled(0.0)
    return record


def test_excused_attempts_count_once_their_row_has_its_answer() -> None:
    """Each of them."""
    evidence = Evidence(3)
    for serial in (1, 2, 3):
        evidence.throttled(ROW, serial)
    assert excused(evidence) == 0

    evidence.succeeded(ROW, 4)
    assert excused(evidence) == 3

    evidence.succeeded(ROW + 1, 5)
    assert excused(evidence) == 3


@pytest.mark.parametrize("verdicts", ["tf", "ft", "ttff", "tfft", "fttf", "fftt"])
def test_attempts_that_count_against_the_row_are_not_excused(verdicts: str) -> None:
    """Failures before and after throttling that was: each attempt counts once."""
    evidence = Evidence(3)
    for serial, verdict in enumerate(verdicts, 1):
        if verdict == "t":
            evidence.throttled(ROW, serial)
        else:
            evidence.failed(ROW, serial, FAILED)

    evidence.succeeded(ROW, 10)

    assert evidence.rate.since(0, ()).failed == verdicts.count("f")
    assert excused(evidence) == verdicts.count("t")


@pytest.mark.parametrize(("failed", "later"), [(None, 3), (3, 0)])
def test_excused_attempts_belong_to_the_time_in_which_their_row_began_to_fail(failed: int | None, later: int) -> None:
    """With a throttled call after another row had failed, or with a failure before that."""
    evidence = Evidence(3)
    answered(evidence, range(1, 3))
    if failed is not None:
        evidence.failed(ROW, failed, FAILED)
    answered(evidence, range(4, 6))
    evidence.failed(ROW + 1, 100, FAILED)
    for serial in (101, 102, 103):
        evidence.throttled(ROW, serial)

    evidence.succeeded(ROW, 104)

    assert excused(evidence) == 3
    assert excused(evidence, len(evidence.rate._starts) - 1) == later


def test_an_outage_excuses_what_a_row_met_and_counts_for_nothing() -> None:
    """Also what was throttled."""
    evidence = Evidence(3)
    throttled_alone(evidence, 1)

    evidence.void()
    evidence.succeeded(ROW, 5)

    assert evidence.rate.since(0, (), with_excused=True).failed == 0


def test_checks_that_failed_or_were_throttled_count_once_another_has_passed() -> None:
    """And not again with the next one that passes."""
    evidence = Evidence(3)
    evidence.check_failed()
    for serial in (2, 3):
        evidence.throttled(0, serial)

    for serial in (4, 5):
        evidence.check_passed(serial)

    assert evidence.rate.since(0, ()).failed == 1
    assert excused(evidence) == 2


def test_a_row_that_is_throttled_is_judged_by_the_throttling_of_others() -> None:
    """Half of all attempts since; others that fail are not judged by it."""
    evidence = Evidence(3)
    record = throttled_alone(evidence, 1)
    other = evidence.failed(ROW + 1, 2, FAILED)
    half_throttled(evidence, range(3, 303))

    assert evidence.needed(record) == 17
    assert evidence.needed(other) == 3


def test_a_row_that_is_throttled_is_judged_by_throttling_before_its_last_attempt_too() -> None:
    """Though nothing has been throttled since."""
    evidence = Evidence(3)
    half_throttled(evidence, range(1, 301))
    record = throttled_alone(evidence, 1001)
    other = evidence.failed(ROW + 1, 1001, FAILED)
    answered(evidence, range(1002, 1302))

    assert evidence.needed(record) == 17
    assert evidence.needed(other) == 3


@pytest.mark.parametrize(("others", "given_up", "needed"), [(0, False, 8), (30, False, 75), (30, True, 8)])
def test_a_row_that_is_throttled_is_judged_by_others_that_still_are(
    others: int, needed: int, *, given_up: bool
) -> None:
    """Thirty of forty others have no answer yet; not by its own attempts, nor by rows that were given up."""
    evidence = Evidence(3)
    record = throttled_alone(evidence, 1)
    answered(evidence, range(2, 12))
    for row in range(100, 100 + others):
        evidence.throttled(row, row)
        if given_up:
            evidence.forget(row)

    assert evidence.needed(record) == needed


def test_two_rows_that_are_throttled_are_judged_by_one_another() -> None:
    """And by three others: that a row has been throttled nine times says less of them than that one has been once."""
    evidence = Evidence(3)
    records = []
    for row, attempts in ((ROW, 1), (ROW + 1, 9)):
        for serial in range(1, attempts + 1):
            evidence.throttled(row, 2 * serial)
            record = evidence.failed(row, 2 * serial, THROTTLED)
            evidence.prove(2 * serial + 1)
        record.note_throttled(0.0)
        records.append(record)
    for row in (101, 102, 103):
        evidence.throttled(row, 30)
    answered(evidence, range(1, 11))

    assert [evidence.needed(record) for record in records] == [13, 19]


def test_a_throttled_row_ends_61_seconds_after_others_were_seen_to_pass() -> None:
    """But for a thousandth of one, which rounding may cost; the time that is left is told once it would end."""
    evidence = Evidence(3)
    record = evidence.failed(ROW, 1, THROTTLED)
    answered(evidence, range(1000, 1100))
    record.note_throttled(1000.0)
    record.note_throttled(1010.0)

    record.proven = 2
    assert not evidence.may_end(record, 2000.0)
    assert evidence.time_left(record, 1040.0) == math.inf

    record.proven = 3
    assert not evidence.may_end(record, 1040.0)
    assert evidence.time_left(record, 1040.0) == 21.0
    assert evidence.time_left(record, 1060.9) == pytest.approx(0.1)
    assert evidence.may_end(record, 1060.9995)
    assert evidence.time_left(record, 1060.9995) == math.inf


def test_a_row_that_was_not_throttled_ends_at_once() -> None:
    """When it has failed often enough."""
    evidence = Evidence(3)
    record = evidence.failed(ROW, 1, FAILED)
    answered(evidence, range(1000, 1100))
    record.proven = 3

    assert evidence.may_end(record, 0.0)
    assert evidence.time_left(record, 0.0) == math.inf
