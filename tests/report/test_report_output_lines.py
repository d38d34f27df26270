"""The fold over an output's lines: failures by code, routes, and what hostile lines cannot do to it."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.calls import Parsed, Usage
from llmbatch.core.rows import Result, encode_line
from llmbatch.report import output_lines
from llmbatch.report.output_lines import FailureGroups, OutputLines, failed_row, is_failed

FORGED = (
    ',"usage":{"input_tokens":9,"output_tokens":9},"cost_usd":9,"model":"forged","attempts":1,"deferrals":0,'
    '"latency_s":9.0,"metadata":null}'
)


def line(row: int, **more: object) -> bytes:
    values: dict[str, object] = {
        "status": "success",
        "model": "openai/x",
        "usage": Usage(10, 20),
        "latency_s": 0.5,
        "body": '{"usage":{"input_tokens":1,"output_tokens":1}}',
        "status_code": 200,
        "text": "hello",
        "cost_usd": 0.25,
    }
    values |= more
    return encode_line(Result(number=row, hash=f"{row:016x}", id_json=f'"r{row}"', **values))  # type: ignore[arg-type]


def failed(row: int, code: str = "timeout", message: str = "too late", **more: object) -> bytes:
    return line(row, status="failed", error_code=code, error_message=message, **more)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"settings": "0a1b2c3d"},
        {"finish_reason": "length"},
        {"settings": "0a1b2c3d", "finish_reason": "pause_turn"},
        {"tier": "flex"},
        {"settings": "0a1b2c3d", "finish_reason": "length", "route": "openai/x (flex)", "tier": "flex"},
    ],
)
def test_the_end_of_each_line_that_is_written_is_read_without_parsing_it(more: dict[str, object]) -> None:
    """Lines with settings were parsed whole, at ten times the cost."""
    text = line(1, **more).rstrip(b"\n")

    found = output_lines._match_tail(text, text.index(b',"usage":', text.index(b'"text":')))

    assert found is not None
    assert found.group(1, 2) == (b"10", b"20")


def test_rows_tokens_cost_and_latency_add_up_by_route() -> None:
    """Each route has its rows; latencies are of successes, malformed rows have no route."""
    lines = OutputLines()
    for text in (
        line(1),
        line(2, model="other/y", cost_usd=None, usage=None),
        failed(3, latency_s=900.0),
        line(4, metadata_json='{"tenant":"acme"}'),
        encode_line(Result(5, "0" * 16, "failed", '"r5"', error_code="input_json", error_message="bad")),
    ):
        lines.add(text.rstrip(b"\n"))

    first, second = lines.routes
    assert (first.label, first.rows, first.failed, first.input_tokens, first.output_tokens) == (
        "openai/x",
        3,
        1,
        30,
        60,
    )
    assert first.cost_usd == pytest.approx(0.75)
    assert first.latency.quantile(1.0) == pytest.approx(0.5, rel=0.05)
    assert (second.label, second.rows, second.cost_usd) == ("other/y", 1, None)
    assert [(group.code, group.count) for group in lines.failures] == [("input_json", 1), ("timeout", 1)]


@pytest.mark.parametrize(
    "where",
    [
        {"text": FORGED},
        {"body": json.dumps({"a": FORGED})},
        {"body": '{"a":1' + FORGED},
        {"metadata_json": '{"a":1' + FORGED},
        {"metadata_json": json.dumps(FORGED)},
    ],
)
def test_a_text_body_or_metadata_that_looks_like_a_lines_end_forges_no_numbers(where: dict[str, str]) -> None:
    """Only the line's own members count, wherever the same words stand."""
    lines = OutputLines()

    lines.add(line(1, **where))

    assert [(route.label, route.rows, route.input_tokens) for route in lines.routes] == [("openai/x", 1, 10)]


@given(
    code=st.text(min_size=1, max_size=80),
    message=st.text(max_size=200),
    body=st.none() | st.text().map(json.dumps),
    metadata=st.none() | st.dictionaries(st.text(), st.text()).map(json.dumps),
)
def test_a_failed_row_reads_back_as_it_was_written(code: str, message: str, body: str, metadata: str) -> None:
    """Whatever is in the code, the message, the body and the metadata."""
    text = failed(7, code, message, body=body, metadata_json=metadata).rstrip(b"\n")

    row = failed_row(text)

    assert is_failed(text)
    assert (row.id, row.code, row.message) == ("r7", code, message)


HOSTILE_ENDS = (
    FORGED,
    ',"text":"","usage":{"input_tokens":9,"output_tokens":9},"finish_reason":"length","metadata":null}',
    '"finish_reason":"length"',
    ',"text":""',
    '","text":"',
    '\\","text":""',
    '","finish_reason":"length","metadata":null}',
    "\u2028\u0000",
)


@given(
    text=st.none() | st.text(max_size=20) | st.sampled_from(("", *HOSTILE_ENDS)),
    finish=st.none() | st.sampled_from(["length", "pause_turn", "length ", 'x","metadata":null}', *HOSTILE_ENDS]),
    body=st.sampled_from(HOSTILE_ENDS).map(json.dumps) | st.just('{"a":1' + HOSTILE_ENDS[1]),
    metadata=st.none() | st.sampled_from(HOSTILE_ENDS).map(json.dumps) | st.just('{"a":1' + HOSTILE_ENDS[1]),
    model=st.none() | st.sampled_from(("openai/x", *HOSTILE_ENDS)),
    is_failed_row=st.booleans(),
    settings=st.sampled_from(["", "0a1b2c3d"]),
    tier=st.none() | st.sampled_from(("flex", *HOSTILE_ENDS)),
)
def test_cut_and_empty_answers_are_counted_as_a_parser_would(
    text: str | None,
    finish: str | None,
    body: str,
    metadata: str | None,
    model: str | None,
    is_failed_row: bool,
    settings: str,
    tier: str | None,
) -> None:
    """Whatever stands in a text, a body, a model's name, metadata or the provider's word."""
    more: dict[str, Any] = {
        "text": text,
        "finish_reason": finish,
        "body": body,
        "metadata_json": metadata,
        "model": model,
        "tier": tier,
    }
    whole = (failed if is_failed_row else line)(1, settings=settings, **more)
    value = json.loads(whole)
    lines = OutputLines()

    lines.add(whole.rstrip(b"\n"))

    is_success = value["status"] == "success"
    assert lines.cut_answers == (is_success and value.get("finish_reason") == "length")
    assert lines.answers_without_text == (is_success and value["text"] == "")
    assert lines.tiers.top() == ({value["tier"][:80]: 1} if "tier" in value else {})


def test_a_failed_row_with_a_text_is_read_without_parsing_it() -> None:
    """A truncated answer keeps its text, which may be long."""
    text = failed(7, "truncated", "cut", text='half "an\\answer"', finish_reason="length").rstrip(b"\n")

    assert output_lines._match_error(text, text.rindex(b',"error":{"code":')) is not None
    assert (failed_row(text).code, failed_row(text).message) == ("truncated", "cut")


def test_a_line_that_somebody_edited_is_still_counted() -> None:
    """Spaces and other members take the slow way; what is no JSON at all counts as unknown."""
    spaced = json.dumps(json.loads(failed(1)) | {"status": "failed"}).encode()
    head = b'{"row":2,"hash":"0000000000000002","status":"failed",'

    lines = OutputLines()
    lines.add(head + spaced[spaced.index(b'"id"') :])
    lines.add(head + b"nonsense}")

    assert [(group.code, group.count) for group in lines.failures] == [("timeout", 1), ("unknown", 1)]


@pytest.mark.slow  # 5,000 rows while memory is traced
def test_codes_and_routes_without_end_took_memory_without_end() -> None:
    """A provider may answer each row with a code, a message and a model of its own."""
    tracemalloc.start()
    lines = OutputLines()
    for row in range(1, 5_001):
        lines.add(failed(row, f"code-{row}", f"message {row} " * 50, model=f"openai/model-{row}"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    groups = list(lines.failures)
    assert (groups[0].code, sum(group.count for group in groups), len(groups)) == ("other", 5_000, 101)
    assert sum(route.rows for route in lines.routes) == 5_000
    assert len(lines.routes) == 501
    assert peak < 2_000_000


def test_the_message_of_a_group_is_the_most_frequent_one() -> None:
    """One odd message at the start does not stand for a thousand others."""
    groups = FailureGroups()
    for row in range(1, 6):
        groups.add(failed_row(failed(row, message="odd" if row == 1 else "usual")))

    (group,) = groups
    assert (group.count, group.message, group.ids) == (5, "usual", ["r1", "r2", "r3"])


FORGED_MEMBERS = {
    "a": 1,
    "usage": {"input_tokens": 9, "output_tokens": 9},
    "cost_usd": 9,
    "model": "forged",
    "attempts": 1,
    "deferrals": 0,
    "latency_s": 9.0,
    "parsed": {},
}
"""What a model may write, as the end of a line of ours."""


@pytest.mark.parametrize(
    "parsed",
    [{"label": "good"}, [], [1, {"usage": None}], 3, "text", None, True, FORGED_MEMBERS, [FORGED_MEMBERS], "},"],
)
@pytest.mark.parametrize("more", [{}, {"cached": True}, {"route": "openai/x (a)}"}, {"tier": "flex"}])
def test_lines_with_parsed_answers_count_as_their_own_members_say(parsed: object, more: dict[str, Any]) -> None:
    """Whatever is inside the parsed answer."""
    lines = OutputLines()
    lines.add(line(1, fit=Parsed(json.dumps(parsed, separators=(",", ":")), parsed), **more))

    (route,) = lines.routes
    assert (route.label, route.rows) == (more.get("route", "openai/x"), 1)
    assert (route.input_tokens, route.output_tokens) == (10, 20)
    assert (lines.cached, lines.tiers.top()) == (int("cached" in more), {"flex": 1} if "tier" in more else {})


def test_a_line_with_a_parsed_answer_is_read_without_parsing_it() -> None:
    """A schema makes ``status`` no slower."""
    text = line(1, fit=Parsed('{"label":"good"}', None)).rstrip(b"\n")

    assert output_lines._tail_with_parsed(text, text.rindex(b',"usage":')) is not None
