"""Which calls without tokens may be billed."""

from __future__ import annotations

import pytest

from llmbatch.core.calls import Outcome, Verdict
from llmbatch.runner.costs import _may_be_billed


@pytest.mark.parametrize(
    ("verdict", "status", "is_billed"),
    [
        ("success", 200, True),
        ("failure", 200, True),
        ("rejected", 200, True),
        ("failure", None, True),
        ("account_refused", 200, False),
        ("throttled", 200, False),
        ("throttled", None, False),
        ("local", None, False),
        ("failure", 500, False),
        ("rejected", 400, False),
    ],
)
def test_refusals_are_not_billed_whatever_their_status(verdict: Verdict, status: int | None, is_billed: bool) -> None:
    """A refused key inside a 200 was told as an answer that may be billed."""
    assert _may_be_billed(Outcome(verdict, status=status)) is is_billed
