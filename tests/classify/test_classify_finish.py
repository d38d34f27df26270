"""How answers end: cut at a token limit, filtered, refused, or without anything in them, in every wire format."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.classify.classify import classify_reply
from llmbatch.classify.finish_reasons import abnormal_end
from llmbatch.core.calls import Outcome, Reply
from llmbatch.core.raw_json import JSON


def judge(endpoint: str, body: JSON) -> Outcome:
    reply = Reply(200, {"content-type": "application/json"}, json.dumps(body).encode())
    return classify_reply(reply, endpoint=endpoint, mask=str)


def chat(finish: str | None, **message: JSON) -> JSON:
    return {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish}]}


def completion(finish: str | None, text: str = "some") -> JSON:
    return {"choices": [{"text": text, "finish_reason": finish}]}


def response(reason: str | None, *content: JSON) -> JSON:
    status = "completed" if reason is None else "incomplete"
    output: list[JSON] = [{"type": "reasoning", "summary": []}, {"type": "message", "content": list(content)}]
    return {"status": status, "incomplete_details": reason and {"reason": reason}, "output": output}


def message(finish: str | None, *content: JSON) -> JSON:
    return {"type": "message", "content": list(content), "stop_reason": finish}


OUTPUT_TEXT: JSON = {"type": "output_text", "text": "some"}
TEXT: JSON = {"type": "text", "text": "some"}
CHOICE: dict[str, JSON] = {"message": {"role": "assistant", "content": "half"}}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", chat("length", content="some")),
        ("completions", completion("length")),
        ("responses", response("max_output_tokens", OUTPUT_TEXT)),
        ("messages", message("max_tokens", TEXT)),
        ("messages", message("model_context_window_exceeded", TEXT)),
        ("chat", chat("MAX_TOKENS", content="some")),
        ("chat", chat("model_length", content="some")),
    ],
)
def test_an_answer_cut_at_its_token_limit_was_told_nowhere(endpoint: str, body: JSON) -> None:
    """It is a success whose finish reason is ``length``, whatever the provider calls it."""
    outcome = judge(endpoint, body)

    assert (outcome.verdict, outcome.finish_reason, outcome.text) == ("success", "length", "some")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", chat("stop", content="some")),
        ("chat", chat(None, content="some")),
        ("chat", chat("tool_calls", content="some", tool_calls=[{"id": "1"}])),
        ("chat", chat("eos", content="some")),
        ("chat", chat("COMPLETE", content="some")),
        ("completions", completion("stop")),
        ("responses", response(None, OUTPUT_TEXT)),
        ("messages", message("end_turn", TEXT)),
        ("messages", message("stop_sequence", TEXT)),
        ("messages", message("tool_use", TEXT, {"type": "tool_use"})),
    ],
)
def test_a_normal_stop_has_no_finish_reason(endpoint: str, body: JSON) -> None:
    """So that lines say only what is worth saying."""
    outcome = judge(endpoint, body)

    assert (outcome.verdict, outcome.finish_reason, outcome.text) == ("success", None, "some")


def test_any_other_end_keeps_the_word_of_the_provider() -> None:
    """Its letters at least: what a provider sends is not to be trusted."""
    assert judge("messages", message("pause_turn", TEXT)).finish_reason == "pause_turn"
    assert judge("chat", chat('x","metadata":null}\n', content="some")).finish_reason == "x_metadata_null"


@given(st.text())
def test_a_finish_reason_is_one_plain_word_whatever_was_sent(word: str) -> None:
    """At most 64 characters, of which none can end a JSON text."""
    end = abnormal_end(word)

    assert end is None or re.fullmatch("[A-Za-z0-9_.-]{1,64}", end)


@pytest.mark.parametrize(
    ("endpoint", "body", "text"),
    [
        ("chat", chat("content_filter", content=None), ""),
        ("chat", chat("content_filter", content="half"), "half"),
        ("completions", completion("content_filter", "half"), "half"),
        ("responses", response("content_filter", {"type": "output_text", "text": "half"}), "half"),
        ("messages", message("content_filter", {"type": "text", "text": "half"}), "half"),
    ],
)
def test_an_answer_that_was_filtered_half_way_was_a_plain_success(endpoint: str, body: JSON, text: str) -> None:
    """The row fails at once, paid once; what there is of the answer stays in its line."""
    outcome = judge(endpoint, body)

    assert (outcome.verdict, outcome.code, outcome.row_is_bad) == ("rejected", "content_filter", True)
    assert (outcome.finish_reason, outcome.text) == ("content_filter", text)
    assert outcome.body is not None


@pytest.mark.parametrize(
    ("endpoint", "body", "finish", "text"),
    [
        ("chat", chat("stop", content=None, refusal="I can't."), None, "I can't."),
        ("chat", chat("stop", content=[{"type": "refusal", "refusal": "No."}]), None, "No."),
        ("chat", chat("refusal", content=None), "refusal", ""),
        ("completions", completion("refusal", ""), "refusal", ""),
        ("responses", response(None, {"type": "refusal", "refusal": "No."}), None, "No."),
        ("messages", message("refusal"), "refusal", ""),
        ("messages", message("refusal", TEXT), "refusal", "some"),
    ],
)
def test_a_refusal_of_the_model_was_a_success_or_called_filtered(
    endpoint: str, body: JSON, finish: str | None, text: str
) -> None:
    """Its code is ``refusal`` in each format, and what the model said is kept."""
    outcome = judge(endpoint, body)

    assert (outcome.verdict, outcome.code, outcome.row_is_bad) == ("rejected", "refusal", True)
    assert (outcome.finish_reason, outcome.text) == (finish, text)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", chat("stop", content="some", refusal="Not all of it.")),
        ("chat", chat("stop", content="some", refusal=None)),
        ("chat", chat("stop", content=[{"type": "text", "text": "some"}, {"type": "refusal", "refusal": "x"}])),
        ("responses", response(None, OUTPUT_TEXT, {"type": "refusal", "refusal": ""})),
    ],
)
def test_an_answer_with_text_beside_a_refusal_is_an_answer(endpoint: str, body: JSON) -> None:
    """Only an answer that is nothing but a refusal fails its row."""
    assert judge(endpoint, body).verdict == "success"


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", chat("stop", content="")),
        ("chat", chat("stop", content=None)),
        ("chat", chat("length", content=None, reasoning="hm")),
        ("chat", {"choices": [{"finish_reason": "length", "index": 0}]}),
        ("chat", chat("stop", content=[])),
        ("completions", completion("stop", "")),
        ("responses", response("max_output_tokens")),
        ("responses", {"status": "completed", "output": [{"type": "reasoning"}]}),
        ("messages", message("end_turn")),
        ("messages", message("max_tokens", {"type": "thinking", "thinking": "hm"})),
    ],
)
def test_an_answer_without_text_could_not_be_told_from_one_that_has_none_to_have(endpoint: str, body: JSON) -> None:
    """Its text is empty; thoughts alone are no answer."""
    outcome = judge(endpoint, body)

    assert (outcome.verdict, outcome.text) == ("success", "")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", chat("tool_calls", content=None, tool_calls=[{"id": "1"}])),
        ("chat", chat("tool_calls", content="", tool_calls=[{"id": "1"}])),
        ("chat", chat("stop", content=None, audio={"id": "a"})),
        ("chat", chat("stop", content=[{"type": "image_url"}])),
        ("responses", {"status": "completed", "output": [{"type": "function_call", "name": "f"}]}),
        ("messages", message("tool_use", {"type": "tool_use", "name": "f"})),
        ("embeddings", {"data": [{"embedding": [0.5]}]}),
        ("raw", {"score": 1}),
    ],
)
def test_tool_calls_images_and_vectors_are_no_answers_without_text(endpoint: str, body: JSON) -> None:
    """They have no text to have: it is None."""
    outcome = judge(endpoint, body)

    assert (outcome.verdict, outcome.text) == ("success", None)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", chat("ERROR_TOXIC", content="half")),
        ("chat", chat("error_toxic", content=None)),
        ("chat", {"choices": [{**CHOICE, "finish_reason": "error", "native_finish_reason": "ERROR_TOXIC"}]}),
        ("completions", completion("ERROR_TOXIC", "half")),
        ("responses", response("error_toxic", OUTPUT_TEXT)),
        ("messages", message("ERROR_TOXIC", TEXT)),
    ],
)
def test_a_toxic_answer_was_resent_as_if_the_provider_had_broken_it_off(endpoint: str, body: JSON) -> None:
    """Cohere calls its filter an error; the row fails at once, paid once."""
    outcome = judge(endpoint, body)

    assert (outcome.verdict, outcome.code, outcome.row_is_bad) == ("rejected", "content_filter", True)
    assert outcome.retry is False


@pytest.mark.parametrize("finish", ["ERROR_LIMIT", "error_limit"])
def test_an_answer_that_filled_the_context_was_resent_as_if_the_provider_had_broken_it_off(finish: str) -> None:
    """Cohere calls the limit of the context an error; the answer is cut like any other."""
    outcome = judge("chat", chat(finish, content="some"))

    assert (outcome.verdict, outcome.finish_reason, outcome.text) == ("success", "length", "some")


def test_an_error_of_the_provider_is_still_no_end() -> None:
    """Cohere's plain ``ERROR`` is resent."""
    assert judge("chat", chat("ERROR", content="half")).verdict == "failure"
