"""What counts as a success, and what is read out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.classify.error_bodies import ErrorBody, plain_message, read_error_body
from llmbatch.classify.event_stream import read_stream
from llmbatch.classify.responses import BadBody, ParsedAnswer, read_success
from llmbatch.core.calls import Usage, UsageDetails
from llmbatch.core.raw_json import JSON, dumps

ENDPOINTS = ["chat", "completions", "responses", "embeddings", "messages"]


def chat(message: JSON, finish: JSON = "stop", **more: JSON) -> JSON:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


@pytest.mark.parametrize(
    ("endpoint", "document", "text", "usage", "finish"),
    [
        (
            "chat",
            chat(
                {"role": "assistant", "content": "hi"},
                usage={"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
            ),
            "hi",
            Usage(9, 2),
            "stop",
        ),
        ("chat", chat({"content": "hi"}, None), "hi", None, None),  # llama.cpp of old: no usage, no reason
        ("chat", chat({"content": ""}, "length"), "", None, "length"),
        (
            "chat",
            chat({"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}),
            "ab",
            None,
            "stop",
        ),
        ("chat", chat({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls"), None, None, "tool_calls"),
        ("chat", chat({"content": "", "tool_calls": [{"id": "1"}]}, "tool_calls"), None, None, "tool_calls"),
        ("chat", chat({"content": None, "refusal": "I can't."}), "I can't.", None, "stop"),
        ("chat", chat({"role": "assistant"}, "content_filter"), None, None, "content_filter"),
        (
            "chat",
            {"choices": [{"finish_reason": "length", "index": 0}]},
            None,
            None,
            "length",
        ),  # Gemini, all spent on thought
        ("chat", chat({"content": "hi"}, error=None), "hi", None, "stop"),
        (
            "completions",
            {
                "choices": [{"text": " world", "finish_reason": "length"}],
                "usage": {"input_tokens": 1, "output_tokens": 2},
            },
            " world",
            Usage(1, 2),
            "length",
        ),
        (
            "responses",
            {
                "status": "completed",
                "error": None,
                "incomplete_details": None,
                "output": [
                    {"type": "reasoning", "summary": []},
                    {
                        "type": "message",
                        "content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}],
                    },
                    {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]},
                ],
                "usage": {"input_tokens": 3, "output_tokens": 4},
            },
            "abno",
            Usage(3, 4),
            "completed",
        ),
        ("responses", {"output": [{"type": "function_call", "name": "f"}]}, None, None, None),
        (
            "responses",
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []},
            None,
            None,
            "max_output_tokens",
        ),
        (
            "embeddings",
            {"data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 5, "total_tokens": 5}},
            None,
            Usage(5, 0),
            None,
        ),
        ("embeddings", {"data": [{"embedding": "base64"}]}, None, None, None),
        (
            "messages",
            {
                "type": "message",
                "content": [
                    {"type": "thinking", "thinking": "…"},
                    {"type": "text", "text": "a"},
                    {"type": "tool_use"},
                    {"type": "text", "text": "b"},
                ],
                "stop_reason": "end_turn",
                "usage": {
                    "input_tokens": 3,
                    "output_tokens": 4,
                    "cache_creation_input_tokens": 100,
                    "cache_read_input_tokens": 20,
                },
            },
            "ab",
            Usage(123, 4, UsageDetails(cached_tokens=20, cache_write_tokens=100)),
            "end_turn",
        ),
        (
            "messages",
            {"type": "message", "content": [{"type": "tool_use"}], "stop_reason": "tool_use"},
            None,
            None,
            "tool_use",
        ),
        ("messages", {"type": "message", "content": [], "stop_reason": "end_turn"}, None, None, "end_turn"),
    ],
)
def test_a_success_is_read(
    endpoint: str, document: JSON, text: str | None, usage: Usage | None, finish: str | None
) -> None:
    """Text, tokens and the reason for the end, also where a server leaves fields out."""
    read = read_success(endpoint, document)

    assert isinstance(read, ParsedAnswer)
    assert (read.text, read.usage, read.finish_reason) == (text, usage, finish)


@pytest.mark.parametrize(
    ("endpoint", "document", "code"),
    [
        ("chat", {"choices": None}, "no_choices"),
        ("chat", {"choices": []}, "no_choices"),
        ("chat", {"choices": {}}, "no_choices"),
        ("chat", {"choices": [None]}, "no_choices"),
        ("chat", {}, "no_choices"),
        ("chat", {"choices": [{}]}, "no_message"),
        ("chat", {"choices": [{"message": "hi", "finish_reason": "stop"}]}, "no_message"),
        ("chat", {"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}, "finish_reason_error"),
        ("chat", {"choices": [{"error": {"code": 502, "message": "down"}}]}, "error_in_200"),
        ("chat", chat({"content": "half an ans"}, error={"message": "boom"}), "error_in_200"),
        ("chat", {"error": "context overflow"}, "error_in_200"),
        ("chat", {"object": "error", "message": "boom", "code": 50001}, "error_in_200"),
        ("completions", {"choices": []}, "no_choices"),
        ("completions", {"choices": [{"index": 0}]}, "no_text"),
        ("responses", {"status": "completed"}, "no_output"),
        ("responses", {"status": "failed", "error": {"code": "server_error"}, "output": []}, "error_in_200"),
        ("responses", {"status": "failed", "error": None, "output": []}, "response_failed"),
        ("responses", {"status": "cancelled", "output": []}, "response_cancelled"),
        ("responses", {"status": "queued", "output": []}, "response_queued"),
        ("responses", {"status": "in_progress", "output": []}, "response_in_progress"),
        ("embeddings", {"object": "list"}, "no_data"),
        ("embeddings", {"data": []}, "no_data"),
        ("messages", {"type": "message", "content": None}, "no_content"),
        ("messages", {"type": "error", "error": {"type": "overloaded_error"}}, "error_in_200"),
        ("messages", {"type": "error"}, "error_in_200"),
    ],
)
def test_a_sick_body_is_no_success(endpoint: str, document: JSON, code: str) -> None:
    """An error beside the answer, or nothing where the answer should be."""
    read = read_success(endpoint, document)

    assert isinstance(read, BadBody)
    assert read.code == code


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("document", [None, True, 1, 1.5, "", "ok", [], [1], [{"choices": []}]])
def test_no_endpoint_answers_with_anything_but_an_object(endpoint: str, document: JSON) -> None:
    """Strings, numbers, lists and null are no success anywhere."""
    assert isinstance(read_success(endpoint, document), BadBody)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "x",
        {},
        {"prompt_tokens": 1},
        {"completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 1.0, "completion_tokens": 1},
        {"prompt_tokens": "1", "completion_tokens": 1},
    ],
)
def test_tokens_that_are_no_counts_are_unknown(usage: JSON) -> None:
    """Half a usage, negative or of another type: None rather than a wrong bill."""
    read = read_success("chat", chat({"content": "hi"}, usage=usage))

    assert read == ParsedAnswer("hi", None, "stop")


@pytest.mark.parametrize(
    ("body", "codes", "message", "status"),
    [
        # OpenAI
        (
            {"error": {"message": "m", "type": "invalid_request_error", "param": None, "code": "model_not_found"}},
            ("model_not_found", "invalid_request_error"),
            "m",
            None,
        ),
        # Anthropic, with details
        (
            {
                "type": "error",
                "error": {
                    "type": "rate_limit_error",
                    "message": "m",
                    "details": {"error_code": "enforced_spend_limit_reached"},
                },
            },
            ("enforced_spend_limit_reached", "rate_limit_error"),
            "m",
            None,
        ),
        # Gemini, inside a list
        (
            [
                {
                    "error": {
                        "code": 400,
                        "message": "m",
                        "status": "INVALID_ARGUMENT",
                        "details": [{"reason": "API_KEY_INVALID"}],
                    }
                }
            ],
            ("API_KEY_INVALID", "INVALID_ARGUMENT"),
            "m",
            400,
        ),
        # Azure
        (
            {
                "error": {
                    "message": "m",
                    "type": None,
                    "code": "content_filter",
                    "status": 400,
                    "innererror": {"code": "ResponsibleAIPolicyViolation"},
                }
            },
            ("content_filter", "ResponsibleAIPolicyViolation"),
            "m",
            400,
        ),
        ({"statusCode": 401, "message": "m"}, (), "m", 401),
        # OpenRouter
        (
            {
                "error": {
                    "message": "Provider returned error",
                    "code": 429,
                    "metadata": {"raw": "slow", "provider_name": "X"},
                }
            },
            (),
            "Provider returned error: slow",
            429,
        ),
        # Mistral, flat
        (
            {
                "object": "error",
                "message": "m",
                "type": "rate_limited",
                "param": None,
                "code": "1300",
                "raw_status_code": 429,
            },
            ("rate_limited",),
            "m",
            429,
        ),
        # vLLM, flat as it was
        (
            {"object": "error", "message": "m", "type": "BadRequestError", "param": None, "code": 400},
            ("BadRequestError",),
            "m",
            400,
        ),
        # Hugging Face TGI, Ollama, FastAPI
        ({"error": "m", "error_type": "validation"}, ("validation",), "m", None),
        ({"error": "m"}, (), "m", None),
        ({"detail": "Not Found"}, (), "Not Found", None),
        (
            {"detail": [{"loc": ["body"], "msg": "field required"}]},
            (),
            "body: field required",
            None,
        ),
        ("plain", (), "plain", None),
        (None, (), "", None),
        ([], (), "", None),
        ({"error": {}}, (), "", None),
    ],
)
def test_an_error_body_is_boiled_down(body: JSON, codes: tuple[str, ...], message: str, status: int | None) -> None:
    """The codes, the most telling first; the message; the status that the body itself names."""
    assert read_error_body(body) == ErrorBody(codes, message, status)


@pytest.mark.slow  # deeply nested JSON
def test_a_message_nested_beyond_what_can_be_shown_is_left_out() -> None:
    """It is only shown; the codes beside it still count."""
    deep: JSON = "x"
    for _ in range(100_000):
        deep = [deep]

    assert read_error_body({"message": deep, "type": "odd"}) == ErrorBody(("odd",), "", None)


def test_an_error_event_in_a_stream_is_found() -> None:
    """Anthropic's named event, and the unnamed one of OpenAI-compatible servers."""
    error: JSON = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    head = 'event: message_start\r\ndata: {"type": "message_start"}\r\n\r\n'

    anthropic = read_stream(
        head
        + "event: error\r\n"
        + 'data: {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}\r\n\r\n'
    )
    openai = read_stream('data: {"choices": []}\n\ndata: {"error": {"code": 502}}\n\n')
    garbled = read_stream("event: error\ndata: upstream died\n\n")

    assert anthropic == error
    assert openai == {"error": {"code": 502}}
    assert garbled == {"error": "upstream died"}


def test_a_stream_without_error_is_whole_or_cut() -> None:
    """A whole one was asked for by the row; a cut one is the provider's failure."""
    whole = read_stream('data: {"choices": [{"delta": {"content": "the word \\"error\\""}}]}\n\ndata: [DONE]\n\n')
    cut = read_stream('data: {"choices": [{"del')

    assert isinstance(whole, BadBody)
    assert whole.code == "unexpected_stream"
    assert isinstance(cut, BadBody)
    assert cut.code == "truncated_stream"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>\r\n<head><title>502 Bad Gateway</title></head></html>", "HTML answer: 502 Bad Gateway"),
        ("  <!DOCTYPE html><body>x</body>", "HTML answer"),
        ("error code: 1015", "error code: 1015"),
        (
            "upstream connect error or disconnect/reset before headers",
            "upstream connect error or disconnect/reset before headers",
        ),
        ("", ""),
    ],
)
def test_a_body_that_is_no_json_still_says_something(text: str, message: str) -> None:
    """The title of a proxy's page, or the text."""
    assert plain_message(text) == message


members = st.sampled_from(
    [
        "choices",
        "message",
        "content",
        "text",
        "type",
        "error",
        "output",
        "data",
        "usage",
        "finish_reason",
        "status",
        "code",
        "prompt_tokens",
        "completion_tokens",
        "stop_reason",
        "details",
        "metadata",
        "raw",
        "innererror",
        "incomplete_details",
        "object",
    ]
)
words = st.text(max_size=8) | st.sampled_from(
    ["text", "message", "stop", "incomplete", "completed", "output_text", "error"]
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(members, inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.slow  # a hundred random documents
@given(st.sampled_from([*ENDPOINTS, "unknown"]), documents)
def test_any_document_is_either_an_answer_or_sick(endpoint: str, document: JSON) -> None:
    """Whatever is in the body, reading raises nothing and gives the types it promises."""
    read = read_success(endpoint, document)
    complaint = read_error_body(document)

    if isinstance(read, ParsedAnswer):
        assert read.text is None or isinstance(read.text, str)
        assert read.usage is None or (read.usage.input_tokens >= 0 and read.usage.output_tokens >= 0)
    else:
        assert read.code
    assert isinstance(complaint.message, str)
    assert complaint.status is None or 400 <= complaint.status <= 599


@pytest.mark.parametrize(
    "hollow",
    [
        {"code": 0, "message": ""},
        {"code": None, "message": None},
        {"code": "", "message": "", "details": [], "retry": False},
        {},
    ],
    ids=str,
)
def test_an_error_without_content_beside_an_answer_failed_the_answer(hollow: JSON) -> None:
    """Gateways fill in a member for the error that there is not; the answer is whole and was paid for."""
    beside = read_success("chat", chat({"content": "hi"}, error=hollow))
    within = read_success("chat", {"choices": [{"message": {"content": "hi"}, "error": hollow}]})
    event = {"choices": [{"delta": {"content": "hi"}}], "error": hollow}

    assert isinstance(beside, ParsedAnswer)
    assert isinstance(within, ParsedAnswer)
    assert (beside.text, within.text) == ("hi", "hi")
    streamed = read_stream(f"data: {dumps(event)}\n\ndata: [DONE]\n\n")
    assert isinstance(streamed, BadBody)
    assert streamed.code == "unexpected_stream"


@pytest.mark.parametrize("error", [{"code": 0, "message": "x"}, {"code": 7}, "x", True, ["x"]], ids=str)
def test_an_error_that_says_anything_fails_the_answer(error: JSON) -> None:
    """A number or a word is enough."""
    assert isinstance(read_success("chat", chat({"content": "hi"}, error=error)), BadBody)


def test_an_error_without_content_is_no_answer_either() -> None:
    """Without an answer beside it nothing is there to keep."""
    assert isinstance(read_success("chat", {"error": {"code": 0, "message": ""}}), BadBody)
