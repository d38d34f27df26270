"""What one line of a batch's results means for its row, and what refusals mean for the run. Pure."""

from __future__ import annotations

from typing import Literal

from llmbatch.core.calls import Outcome

__all__ = ["Meaning", "meaning_of", "whole_batch_refused"]

Meaning = Literal["success", "failed", "refused", "again", "stop"]
"""``refused``: the row fails if any row of the batch has succeeded. ``again``: an attempt failed, and may not the next
time. ``stop``: an operator must act; nothing is marked failed."""


def meaning_of(outcome: Outcome, *, truncated_fails: bool) -> Meaning:
    """What *outcome*, of one row in a batch, means for it. *truncated_fails*: as ``--require-finish`` has it."""
    match outcome.verdict:
        case "success":
            if outcome.follow_up is not None:
                return "again"
            is_cut = truncated_fails and outcome.finish_reason == "length"
            return "failed" if outcome.row_is_bad or is_cut else "success"
        case "rejected":
            return "failed" if outcome.row_is_bad else "refused"
        case "account_refused":
            return "stop" if outcome.certain else "refused"
        case _:
            return "again"


def whole_batch_refused(refused: int, *, has_success: bool, threshold: int) -> Literal["fail", "stop", "live"]:
    """What becomes of *refused* rows once their whole batch was read.

    Where others succeeded they are bad rows. A batch without any success is a refusal of the run, not of its rows;
    but a few rows prove nothing, and are sent live, where each is judged by itself.
    """
    if has_success:
        return "fail"
    return "stop" if refused >= threshold else "live"
