"""Bills made by hand, from what six providers document: the usage of an answer, the prices, and what it costs."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from llmbatch.classify.classify import classify_reply
from llmbatch.core.calls import Reply
from llmbatch.money.price import ModelPrice, Price, bill
from llmbatch.money.prices import Prices

D = Decimal

GPT = Price(input=D("0.25"), cached_input=D("0.025"), output=D(2))
GPT_FLEX = Price(input=D("0.125"), cached_input=D("0.0125"), output=D(1))
GPT_AUDIO = Price(input=D("2.5"), output=D(10), input_audio=D(40), output_audio=D(80))
OPENAI_WRITES = Price(input=D(5), cached_input=D("0.5"), cache_write=D("6.25"), output=D(30))
CLAUDE = Price(
    input=D(3),
    cached_input=D("0.3"),
    cache_write=D("3.75"),
    cache_write_1h=D(6),
    output=D(15),
    per_1000_searches=D(10),
    above=(
        (
            200_000,
            Price(input=D(6), cached_input=D("0.6"), cache_write=D("7.5"), cache_write_1h=D(12), output=D("22.5")),
        ),
    ),
)
GEMINI = Price(
    input=D("1.25"), cached_input=D("0.125"), output=D(10), above=((200_000, Price(input=D("2.5"), output=D(15))),)
)
GROK = Price(input=D("0.2"), cached_input=D("0.05"), output=D("0.5"))
DEEPSEEK = Price(input=D("0.28"), cached_input=D("0.028"), output=D("0.42"))
SONAR = Price(input=D(1), output=D(1), per_1000_requests=D(5))
EMBEDDING = Price(input=D("0.02"))


def chat(usage: object) -> tuple[str, dict[str, object]]:
    message = {"role": "assistant", "content": "yes"}
    return "chat", {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


def responses(usage: object) -> tuple[str, dict[str, object]]:
    output = [{"type": "message", "content": [{"type": "output_text", "text": "yes"}]}]
    return "responses", {"object": "response", "status": "completed", "output": output, "usage": usage}


def messages(usage: object) -> tuple[str, dict[str, object]]:
    content = [{"type": "text", "text": "yes"}]
    return "messages", {"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage}


def embeddings(usage: object) -> tuple[str, dict[str, object]]:
    return "embeddings", {"object": "list", "data": [{"embedding": [0.1, 0.2]}], "usage": usage}


BILLS = {
    "openai: plain": (GPT, chat({"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}), "0.00125"),
    # 200 * 0.25 + 800 * 0.025 + 500 * 2
    "openai: cached input": (
        GPT,
        chat(
            {
                "prompt_tokens": 1000,
                "completion_tokens": 500,
                "total_tokens": 1500,
                "prompt_tokens_details": {"cached_tokens": 800, "audio_tokens": 0},
            }
        ),
        "0.00107",
    ),
    "openai: reasoning is part of the output": (
        GPT,
        chat(
            {
                "prompt_tokens": 100,
                "completion_tokens": 900,
                "total_tokens": 1000,
                "completion_tokens_details": {"reasoning_tokens": 832, "audio_tokens": 0},
            }
        ),
        "0.001825",
    ),
    "openai: flex": (
        GPT_FLEX,
        chat(
            {
                "prompt_tokens": 1000,
                "completion_tokens": 500,
                "total_tokens": 1500,
                "prompt_tokens_details": {"cached_tokens": 1000},
            }
        ),
        "0.0005125",
    ),
    # 20 * 2.5 + 100 * 40 + 30 * 10 + 200 * 80
    "openai: audio in and out": (
        GPT_AUDIO,
        chat(
            {
                "prompt_tokens": 120,
                "completion_tokens": 230,
                "total_tokens": 350,
                "prompt_tokens_details": {"audio_tokens": 100, "cached_tokens": 0},
                "completion_tokens_details": {"audio_tokens": 200, "reasoning_tokens": 0},
            }
        ),
        "0.02035",
    ),
    # 1000 * 5 + 3000 * 6.25 + 6000 * 0.5 + 100 * 30
    "openai: cache writes": (
        OPENAI_WRITES,
        responses(
            {
                "input_tokens": 10_000,
                "input_tokens_details": {"cached_tokens": 6000, "cache_write_tokens": 3000},
                "output_tokens": 100,
                "output_tokens_details": {"reasoning_tokens": 64},
                "total_tokens": 10_100,
            }
        ),
        "0.02975",
    ),
    "openai: embeddings": (EMBEDDING, embeddings({"prompt_tokens": 1234, "total_tokens": 1234}), "0.00002468"),
    "anthropic: plain": (CLAUDE, messages({"input_tokens": 1000, "output_tokens": 200}), "0.006"),
    # 100 * 3 + 2000 * 3.75 + 5000 * 0.3 + 50 * 15
    "anthropic: cached input is counted apart": (
        CLAUDE,
        messages(
            {
                "input_tokens": 100,
                "cache_creation_input_tokens": 2000,
                "cache_read_input_tokens": 5000,
                "output_tokens": 50,
            }
        ),
        "0.01005",
    ),
    # 10 * 3 + 500 * 3.75 + 1500 * 6 + 20 * 15
    "anthropic: cache of an hour": (
        CLAUDE,
        messages(
            {
                "input_tokens": 10,
                "cache_creation_input_tokens": 2000,
                "cache_read_input_tokens": 0,
                "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1500},
                "output_tokens": 20,
            }
        ),
        "0.011205",
    ),
    # 1000 * 3 + 100 * 15 + 2 searches
    "anthropic: web search": (
        CLAUDE,
        messages({"input_tokens": 1000, "output_tokens": 100, "server_tool_use": {"web_search_requests": 2}}),
        "0.0245",
    ),
    # 150,000 * 6 + 60,000 * 0.6 + 1000 * 22.5: cached input counts for the threshold
    "anthropic: a long prompt": (
        CLAUDE,
        messages({"input_tokens": 150_000, "cache_read_input_tokens": 60_000, "output_tokens": 1000}),
        "0.9585",
    ),
    "gemini: thoughts are in the total only": (
        GEMINI,
        chat({"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1600}),
        "0.00725",
    ),
    "gemini: a prompt at the threshold": (
        GEMINI,
        chat({"prompt_tokens": 200_000, "completion_tokens": 10, "total_tokens": 200_010}),
        "0.2501",
    ),
    "gemini: a prompt above it": (
        GEMINI,
        chat({"prompt_tokens": 200_001, "completion_tokens": 10, "total_tokens": 200_011}),
        "0.5001525",
    ),
    # 30 * 0.2 + 10 * 0.05 + 105 * 0.5
    "xai: reasoning beside the completion": (
        GROK,
        chat(
            {
                "prompt_tokens": 40,
                "completion_tokens": 5,
                "total_tokens": 145,
                "prompt_tokens_details": {"cached_tokens": 10},
                "completion_tokens_details": {"reasoning_tokens": 100},
            }
        ),
        "0.000059",
    ),
    "xai: the cost in ticks": (
        GROK,
        chat({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "cost_in_usd_ticks": 123_450}),
        "0.000012345",
    ),
    # 36 * 0.28 + 64 * 0.028 + 10 * 0.42
    "deepseek: cache hits": (
        DEEPSEEK,
        chat(
            {
                "prompt_tokens": 100,
                "completion_tokens": 10,
                "total_tokens": 110,
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 36,
            }
        ),
        "0.000016072",
    ),
    "perplexity: a fee for the request": (
        SONAR,
        chat({"prompt_tokens": 100, "completion_tokens": 400, "total_tokens": 500}),
        "0.0055",
    ),
    "perplexity: the cost that it reports": (
        SONAR,
        chat(
            {
                "prompt_tokens": 100,
                "completion_tokens": 400,
                "total_tokens": 500,
                "cost": {"input_tokens_cost": 0.0, "output_tokens_cost": 0.0, "total_cost": 0.006},
            }
        ),
        "0.006",
    ),
    "openrouter: the cost that it reports": (
        GPT,
        chat({"prompt_tokens": 100, "completion_tokens": 400, "total_tokens": 500, "cost": 0.00014}),
        "0.00014",
    ),
    "openrouter: with a key of one's own": (
        GPT,
        chat(
            {
                "prompt_tokens": 100,
                "completion_tokens": 400,
                "total_tokens": 500,
                "cost": 0.00001,
                "is_byok": True,
                "cost_details": {"upstream_inference_cost": 0.0002},
            }
        ),
        "0.00021",
    ),
}


@pytest.mark.parametrize("name", BILLS)
def test_a_cost_is_the_bill_made_by_hand(name: str) -> None:
    """To the last digit, from the bytes of the answer."""
    price, (endpoint, document), bill_by_hand = BILLS[name]
    reply = Reply(200, {"content-type": "application/json"}, json.dumps(document).encode())

    outcome = classify_reply(reply, endpoint=endpoint, mask=str)
    cost = Prices({"any/model": ModelPrice(price)}).cost("any/model", outcome.usage, None)

    assert outcome.verdict == "success"
    assert cost == D(bill_by_hand)


def test_the_cost_of_a_proxy_is_in_a_header() -> None:
    """LiteLLM's proxy tells the cost in a header; it wins over the list."""
    endpoint, document = chat({"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500})
    reply = Reply(200, {"x-litellm-response-cost": "0.0042"}, json.dumps(document).encode())

    outcome = classify_reply(reply, endpoint=endpoint, mask=str)

    assert Prices().cost("openai/gpt-5-mini", outcome.usage, None) == D("0.0042")


@pytest.mark.parametrize("cost", [-1, "x", True, None, [], 1e300, {"total_cost": "much"}, {"total_cost": -3}])
def test_a_reported_cost_that_makes_no_sense_is_ignored(cost: object) -> None:
    """The bill is made from the tokens then."""
    endpoint, document = chat({"prompt_tokens": 1000, "completion_tokens": 500, "cost": cost})
    reply = Reply(200, {}, json.dumps(document).encode())

    usage = classify_reply(reply, endpoint=endpoint, mask=str).usage

    assert usage is not None
    assert bill(GPT, usage) == D("0.00125")


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 999}},
        {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 999}},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"audio_tokens": 999}},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": [1], "completion_tokens_details": "x"},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -4}},
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 3},
    ],
)
def test_counts_that_contradict_each_other_never_cost_less_than_nothing_or_more_than_plain_tokens(
    usage: dict[str, object],
) -> None:
    """Parts are at most the whole."""
    endpoint, document = chat(usage)

    read = classify_reply(Reply(200, {}, json.dumps(document).encode()), endpoint=endpoint, mask=str).usage

    assert read is not None
    cost = bill(GPT, read)
    assert cost is not None
    assert 0 < cost <= (10 * D("0.25") + 5 * D(2)) / 1_000_000


def test_tokens_without_a_price_have_an_unknown_cost() -> None:
    """Never 0 for unknown: a chat answer at an embeddings price."""
    endpoint, document = chat({"prompt_tokens": 10, "completion_tokens": 5})

    usage = classify_reply(Reply(200, {}, json.dumps(document).encode()), endpoint=endpoint, mask=str).usage

    assert usage is not None
    assert bill(EMBEDDING, usage) is None
