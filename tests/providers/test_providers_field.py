"""Answers that were misread in the field: each kind, with answers of the kind that nobody has seen yet."""

from __future__ import annotations

import json

import pytest
from providers_field_answers import FIELD, Answer

from llmbatch.providers.outcome import judge_reply
from llmbatch.records import Outcome, Reply


def judge(status: int, body: object, headers: dict[str, str] | None = None, endpoint: str = "chat") -> Outcome:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return judge_reply(Reply(status, headers or {}, raw), endpoint=endpoint, mask=str)


@pytest.mark.parametrize("answer", FIELD, ids=[answer.name for answer in FIELD])
def test_answers_of_the_field_mean_what_they_say(answer: Answer) -> None:
    """Whose it is, whether it may pass, and whether one answer is enough to believe it."""
    outcome = judge(answer.status, answer.body, answer.headers, answer.endpoint)

    assert (outcome.verdict, outcome.scope, outcome.code) == (answer.verdict, answer.scope, answer.code)
    assert (outcome.retry, outcome.final, outcome.certain) == (answer.retry, answer.final, answer.certain)
    assert outcome.pause == answer.pause
    assert answer.says in outcome.message
    assert bool(outcome.advice) == (answer.verdict == "exhausted")
