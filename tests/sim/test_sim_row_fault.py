"""Rows in trouble: chosen by their text, alike at each attempt, told where a file is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from llmbatch.core.errors import UsageError
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.row_fault import RowBehavior, RowFault, find_fault
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.scenario_file import find_scenario, read_scenario


def status_of(provider: SimulatedProvider, text: str) -> int:
    body = b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % text.encode()
    plan = provider.answer("POST", "/v1/chat/completions", {}, body, 0.0)
    provider.finish(plan)
    return plan.status


def test_a_share_of_rows_always_fails_and_the_smallest_request_never() -> None:
    """Each attempt of a row fares alike, and about the share asked for fails."""
    provider = SimulatedProvider(Scenario("x", (), "x", rows=(RowFault(share=0.2),)))

    first = [status_of(provider, f"row {number}") for number in range(1000)]
    again = [status_of(provider, f"row {number}") for number in range(1000)]

    assert first == again
    assert 150 <= first.count(500) <= 250
    assert first.count(200) == 1000 - first.count(500)
    assert status_of(SimulatedProvider(Scenario("x", (), "x", rows=(RowFault(share=1.0),))), "ping") == 200


def test_shares_do_not_overlap_and_blocks_are_exact() -> None:
    """Two halves cover all rows; a block has the rows it names."""
    halves = (RowFault(share=0.5), RowFault("throttle", share=0.5))

    assert all(find_fault(halves, f"row {number}") for number in range(200))
    assert [n for n in range(50) if find_fault((RowFault(numbers=(7, 9)),), f"row {n}")] == [7, 8, 9]


def test_m1_to_m8_are_found_by_their_number() -> None:
    """A number is name enough, and a number that is not there is unknown."""
    assert [find_scenario(f"m{number}").name.partition("-")[0] for number in range(1, 9)] == [
        f"m{number}" for number in range(1, 9)
    ]
    assert find_scenario("s1").name == "s1-flash"
    with pytest.raises(UsageError, match="unknown"):
        find_scenario("m9")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("share = 2", "share is 2"),
        ("", "either share or numbers"),
        ("numbers = [3]", "two whole numbers"),
        ("share = 0.1\nbehavior = 'hang'", "behavior is 'hang'"),
        ("share = 0.1\nwhen = 3", "'when' is unknown"),
        ("share = 0.1\nstatuses = [200]", "must be 400 to 599"),
    ],
)
def test_a_mistake_in_rows_is_told_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    """File, table and range."""
    file = tmp_path / "mine.toml"
    file.write_text(f"[[rows]]\n{line}\n")

    with pytest.raises(UsageError, match="mine.toml: rows 1.*" + message.replace("[", r"\[")):
        read_scenario(file)


@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        ("/v1/chat/completions", b'{"model":"m","messages":[{"role":"user","content":"row 2"}]}', '"length"'),
        ("/v1/completions", b'{"model":"m","prompt":"row 2","max_tokens":500}', '"length"'),
        ("/v1/responses", b'{"model":"m","input":"row 2"}', '"max_output_tokens"'),
        (
            "/v1/messages",
            b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"row 2"}]}',
            '"max_tokens"',
        ),
    ],
)
def test_the_answers_of_some_rows_are_cut_at_their_token_limit(path: str, body: bytes, end: str) -> None:
    """In each wire format, and only theirs; such a row is no bad one."""
    fault = RowFault("length", numbers=(2, 2))
    provider = SimulatedProvider(Scenario("x", (), "x", rows=(fault,)))
    plans = [provider.answer("POST", path, {}, sent, 0.0) for sent in (body, body.replace(b"row 2", b"row 3"))]

    assert [plan.status for plan in plans] == [200, 200]
    assert end.encode() in plans[0].body.replace(b" ", b"")
    assert plans[0].good
    assert len(plans[0].body) < len(plans[1].body)
    assert not fault.is_fatal(1.0)


CHAT = "/v1/chat/completions"
FORM: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}, "score": {"type": "integer"}},
    "required": ["label", "score"],
}


def answered(behavior: RowBehavior, path: str = CHAT, *, turns: int = 0) -> dict[str, Any]:
    """The body of an answer to a request for JSON, after *turns* answers that were asked for again."""
    provider = SimulatedProvider(Scenario("x", (), "x", rows=(RowFault(behavior, share=1.0),)))
    said: list[dict[str, str]] = [{"role": "user", "content": "rate this"}]
    said += [{"role": "assistant", "content": "{}"}, {"role": "user", "content": "again"}] * turns
    form = {"type": "json_schema", "name": "a", "schema": FORM, "json_schema": {"name": "a", "schema": FORM}}
    requests: dict[str, dict[str, Any]] = {
        CHAT: {"messages": said, "response_format": form},
        "/v1/responses": {"input": said, "text": {"format": form}},
        "/v1/messages": {"messages": said, "max_tokens": 500, "output_config": {"format": form}},
    }
    plan = provider.answer("POST", path, {}, json.dumps({"model": "m"} | requests[path]).encode(), 0.0)
    assert plan.status == 200
    body = json.loads(plan.body)
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize(("behavior", "turns"), [("misfit", 0), ("misfit", 2), ("misfit_once", 0)])
def test_a_misfit_lacks_a_member_until_it_is_asked_again(behavior: RowBehavior, turns: int) -> None:
    """Or for ever."""
    text = answered(behavior, turns=turns)["choices"][0]["message"]["content"]

    assert set(json.loads(text)) == {"score"}
    again = json.loads(answered("misfit_once", turns=1)["choices"][0]["message"]["content"])
    assert set(again) == {"label", "score"}


def test_a_fenced_answer_has_words_and_a_fence_around_its_json() -> None:
    """The JSON fits."""
    text = answered("fenced")["choices"][0]["message"]["content"]

    before, _, rest = text.partition("```json\n")
    assert before
    assert set(json.loads(rest.removesuffix("```"))) == {"label", "score"}


def test_refusals_and_filters_look_as_each_provider_has_them() -> None:
    """In all three wire formats."""
    message = answered("refusal")["choices"][0]["message"]
    assert (message["content"], bool(message["refusal"])) == (None, True)
    assert answered("refusal", "/v1/responses")["output"][0]["content"][0]["type"] == "refusal"
    assert answered("refusal", "/v1/messages")["stop_reason"] == "refusal"
    assert answered("content_filter")["choices"][0]["finish_reason"] == "content_filter"
    response = answered("content_filter", "/v1/responses")
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert answered("content_filter", "/v1/messages")["stop_reason"] == "refusal"


def test_only_rows_that_never_succeed_are_fatal() -> None:
    """For a policy that is tried without a schema."""
    fatal = [name for name in get_args(RowBehavior) if RowFault(name, share=1.0, stall=10.0).is_fatal(60.0)]

    assert fatal == ["errors", "throttle", "refusal", "content_filter"]
