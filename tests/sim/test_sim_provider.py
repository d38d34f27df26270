"""The provider without a server: what it answers, and that nothing but seed and request decides it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.core.errors import UsageError
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.response_plan import ResponsePlan
from llmbatch.sim.scenario import Behavior, Phase, Scenario

CHAT = "/v1/chat/completions"


def chat_body(text: str = "Why is the sky blue?", model: str = "sim/small", **more: object) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **more}).encode()


def post(
    provider: SimulatedProvider,
    body: bytes,
    *,
    path: str = CHAT,
    at: float = 0.0,
    headers: Mapping[str, str] | None = None,
) -> ResponsePlan:
    plan = provider.answer("POST", path, headers or {}, body, at)
    provider.finish(plan)
    return plan


def always(behavior: Behavior, **params: Any) -> Scenario:
    return Scenario("always", (Phase(math.inf, behavior, **params),), "always")


def test_same_seed_gives_the_same_answers_in_any_order() -> None:
    """Shuffling the requests changes no byte, no status and no latency."""
    bodies = [chat_body(f"Question {number} about rivers") for number in range(60)]
    shuffled = bodies[:]
    Random(1).shuffle(shuffled)
    first, second = (SimulatedProvider(always("errors", share=0.4), seed=9) for _ in range(2))

    in_order = {body: post(first, body) for body in bodies}
    out_of_order = {body: post(second, body) for body in shuffled}

    assert in_order == out_of_order
    assert {plan.status for plan in in_order.values()} == {200, 500}


def test_another_seed_gives_another_answer() -> None:
    """The seed decides text, ids and latency."""
    one, two = (post(SimulatedProvider(seed=seed), chat_body()) for seed in (1, 2))

    assert one.body != two.body
    assert one.delay != two.delay


def test_a_retry_draws_again_but_the_text_stays() -> None:
    """A row that met a random error is not doomed, and its answer does not depend on the attempt."""
    provider = SimulatedProvider(always("errors", share=0.5), seed=3)

    plans = [post(provider, chat_body()) for _ in range(40)]

    assert {plan.status for plan in plans} == {200, 500}
    texts = {json.loads(plan.body)["choices"][0]["message"]["content"] for plan in plans if plan.status == 200}
    assert len(texts) == 1


def test_a_share_of_errors_is_that_share() -> None:
    """25 % errors hit about a quarter of a thousand different requests."""
    provider = SimulatedProvider(always("errors", share=0.25))

    failed = sum(post(provider, chat_body(str(number))).status == 500 for number in range(1000))

    assert 200 <= failed <= 300


def test_each_model_name_has_its_own_scenario_and_clock() -> None:
    """``sim/outage`` starts its outage with its first request, whatever other models do."""
    provider = SimulatedProvider("bad-key")

    answers = [
        post(provider, chat_body(model="sim/steady"), at=0).status,
        post(provider, chat_body(model="sim/outage"), at=100).status,
        post(provider, chat_body(model="outage"), at=104).status,
        post(provider, chat_body(model="sim/steady"), at=104).status,
        post(provider, chat_body(model="gpt-5-mini"), at=104).status,
    ]

    assert answers == [200, 200, 503, 200, 401]


def test_latency_follows_its_median_and_zero_is_at_once() -> None:
    """Half of the answers come before about the median; a latency of 0 delays nothing."""
    bodies = [chat_body(str(number), max_tokens=1) for number in range(400)]
    provider, instant = SimulatedProvider(latency=0.2), SimulatedProvider(latency=0)

    early = sum(post(provider, body).delay < 0.2 for body in bodies)

    assert 150 <= early <= 250
    assert not any(post(instant, body).delay for body in bodies)


def test_outage_has_a_latency_of_its_own_that_an_explicit_one_replaces() -> None:
    """Slower answers let the outage hit in the middle of a run; a given latency wins."""
    body = chat_body(model="sim/outage")

    own, given_one = SimulatedProvider(), SimulatedProvider(latency=0.01)

    assert post(own, body).delay > 0.1 > post(given_one, body).delay


def test_token_limit_cuts_and_says_so() -> None:
    """With max_tokens the text ends there, and the finish reason and the usage tell."""
    body = json.loads(post(SimulatedProvider(), chat_body(max_tokens=3)).body)

    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3
    assert len(body["choices"][0]["message"]["content"]) <= 12


def test_answer_speaks_of_the_prompt() -> None:
    """The filler takes up the prompt's own words."""
    body = json.loads(post(SimulatedProvider(), chat_body("volcanoes lighthouses tangerines")).body)

    text = body["choices"][0]["message"]["content"]
    assert any(word in text for word in ("volcanoes", "lighthouses", "tangerines"))


def test_usage_grows_with_the_prompt() -> None:
    """Tokens are about a quarter of the characters."""
    short, long = (json.loads(post(SimulatedProvider(), chat_body("word " * n)).body)["usage"] for n in (10, 1000))

    assert 10 <= short["prompt_tokens"] <= 20
    assert 1200 <= long["prompt_tokens"] <= 1300
    assert long["total_tokens"] == long["prompt_tokens"] + long["completion_tokens"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x"}]}, "model"),
        (CHAT, {"model": "m"}, "messages"),
        (CHAT, {"model": "m", "messages": []}, "messages"),
        (CHAT, {"model": "m", "messages": ["x"]}, "messages"),
        (CHAT, {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "max_tokens"),
        ("/v1/completions", {"model": "m"}, "prompt"),
        ("/v1/responses", {"model": "m"}, "input"),
        ("/v1/embeddings", {"model": "m", "input": []}, "input"),
        ("/v1/embeddings", {"model": "m", "input": [{}]}, "input"),
        ("/v1/embeddings", {"model": "m", "input": "x", "dimensions": 10**9}, "dimensions"),
    ],
)
def test_incomplete_requests_are_refused_in_openais_shape(path: str, fields: Any, param: str) -> None:
    """What a provider refuses is refused with 400 and the name of the parameter."""
    plan = post(SimulatedProvider(), json.dumps(fields).encode(), path=path)

    assert plan.status == 400
    assert json.loads(plan.body)["error"]["param"] == param


def test_messages_without_max_tokens_are_refused_in_anthropics_shape() -> None:
    """Anthropic's format demands max_tokens and answers with its own error object."""
    plan = post(SimulatedProvider(), chat_body(), path="/v1/messages")

    error = json.loads(plan.body)
    assert plan.status == 400
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    assert error["request_id"] == plan.headers["request-id"]


def test_a_prompt_beyond_the_context_is_refused_by_name() -> None:
    """A too long prompt has the code that says whose fault it is."""
    plan = post(SimulatedProvider(), chat_body("word " * 130_000))

    assert plan.status == 400
    assert json.loads(plan.body)["error"]["code"] == "context_length_exceeded"


def test_a_marked_prompt_fails_by_itself() -> None:
    """``[sim:500]`` in a prompt makes one poison row while all others are answered well."""
    provider = SimulatedProvider()

    statuses = [post(provider, chat_body(text)).status for text in ("fine", "bad [sim:500]", "bad [sim:422]", "fine 2")]

    assert statuses == [200, 500, 422, 200]


@pytest.mark.parametrize(
    ("behavior", "path", "status", "code"),
    [
        ("down", CHAT, 503, "overloaded"),
        ("throttle", CHAT, 429, "rate_limit_exceeded"),
        ("unauthorized", CHAT, 401, "invalid_api_key"),
        ("bad_request", CHAT, 400, "invalid_request"),
        ("quota", CHAT, 429, "insufficient_quota"),
        ("down", "/v1/messages", 529, "overloaded_error"),
        ("throttle", "/v1/messages", 429, "rate_limit_error"),
        ("unauthorized", "/v1/messages", 401, "authentication_error"),
        ("quota", "/v1/messages", 402, "billing_error"),
    ],
)
def test_each_behavior_has_its_error_in_each_providers_shape(
    behavior: Behavior, path: str, status: int, code: str
) -> None:
    """OpenAI's code and Anthropic's type name the trouble."""
    plan = post(SimulatedProvider(always(behavior)), chat_body(max_tokens=9), path=path)

    error = json.loads(plan.body)["error"]
    assert plan.status == status
    assert error["type" if path == "/v1/messages" else "code"] == code


def test_hints_are_sent_only_where_the_phase_has_one() -> None:
    """A throttling phase names a wait or none at all."""
    told = post(SimulatedProvider(always("throttle", retry_after=1.5)), chat_body()).headers
    untold = post(SimulatedProvider(always("throttle")), chat_body()).headers

    assert (told["retry-after"], told["retry-after-ms"]) == ("2", "1500")
    assert not any("retry" in name for name in untold)


def test_a_gateways_error_is_a_page() -> None:
    """Status 530 comes from in front of the provider, as HTML."""
    plan = post(SimulatedProvider(always("down", statuses=(530,))), chat_body())

    assert plan.headers["content-type"].startswith("text/html")
    assert plan.body.startswith(b"<html>")


def test_slow_answers_come_late_but_good() -> None:
    """A stall is added before the first byte."""
    plan = post(SimulatedProvider(always("slow", stall=8), latency=0.1), chat_body())

    assert plan.status == 200
    assert plan.delay > 8


def test_refusing_and_hanging_bring_no_answer() -> None:
    """Some refused connections fail before the request is sent, some after."""
    refusing, hanging = SimulatedProvider(always("refuse")), SimulatedProvider(always("hang"))

    refused = [post(refusing, chat_body(str(number))) for number in range(30)]

    assert {plan.kind for plan in refused} == {"close"}
    assert {plan.sent for plan in refused} == {True, False}
    assert post(hanging, chat_body()).kind == "hang"
    assert hanging.stats.by_status == {"hung": 1}


def test_capacity_refuses_what_is_above_it() -> None:
    """Two places: the third request at a time gets 429, and a finished one frees its place."""
    provider = SimulatedProvider(capacity=2)

    plans = [provider.answer("POST", CHAT, {}, chat_body(str(number)), 0) for number in range(3)]
    for plan in plans:
        provider.finish(plan)

    assert [plan.status for plan in plans] == [200, 200, 429]
    assert post(provider, chat_body("later")).status == 200


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
def test_a_required_key_is_required(header: str) -> None:
    """Only the right key gets an answer, in the header of either provider."""
    provider = SimulatedProvider(require_key="right")
    prefix = "Bearer " if header == "authorization" else ""

    statuses = [
        post(provider, chat_body(), headers=headers).status
        for headers in ({}, {header: f"{prefix}wrong"}, {header: f"{prefix}right"})
    ]

    assert statuses == [401, 401, 200]
    assert "right" not in repr(provider)


def test_numbers_count_calls_by_status_and_while_down() -> None:
    """Calls that reached a down provider are told apart from others; a reset forgets them and the clocks."""
    provider = SimulatedProvider("outage")
    for at in (0, 1, 4, 5, 6, 20):
        post(provider, chat_body(str(at)), at=at)

    stats = json.loads(provider.answer("GET", "/sim/stats", {}, b"", 20).body)
    provider.answer("POST", "/sim/reset", {}, b"", 20)

    assert stats["by_status"] == {"200": 3, "503": 3}
    assert (stats["calls"], stats["calls_while_down"], stats["in_flight"], stats["max_in_flight"]) == (6, 3, 0, 1)
    assert provider.stats.calls == 0
    assert post(provider, chat_body("again"), at=25).status == 200


def test_unknown_paths_and_methods_are_refused() -> None:
    """404 for a path that there is not, 405 for reading what is only posted."""
    provider = SimulatedProvider()

    assert post(provider, b"", path="/v1/nothing").status == 404
    assert provider.answer("GET", CHAT, {}, b"", 0).status == 405
    assert provider.stats.calls == 0


def test_embeddings_have_length_one_and_depend_on_the_text_alone() -> None:
    """The same text gets the same vector wherever it stands."""
    body = json.dumps({"model": "sim/embed", "input": ["one", "two", "one"], "dimensions": 48}).encode()

    vectors = [
        item["embedding"] for item in json.loads(post(SimulatedProvider(), body, path="/v1/embeddings").body)["data"]
    ]

    assert vectors[0] == vectors[2] != vectors[1]
    assert all(len(vector) == 48 for vector in vectors)
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-6) for vector in vectors)


def test_a_demanded_schema_is_kept_to() -> None:
    """Structured output has the demanded members, types, bounds and choices, through references too."""
    schema = {
        "type": "object",
        "properties": {
            "size": {"enum": ["s", "m"]},
            "count": {"type": "integer", "minimum": 3, "maximum": 5},
            "when": {"type": "string", "format": "date"},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 4},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        },
        "$defs": {
            "node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
        },
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    plan = post(SimulatedProvider(), chat_body(response_format=form))

    value = json.loads(json.loads(plan.body)["choices"][0]["message"]["content"])
    assert set(value) == {"size", "count", "when", "tags", "next"}
    assert value["size"] in ("s", "m")
    assert 3 <= value["count"] <= 5
    assert len(value["tags"]) == 4
    assert value["when"].startswith("2026-")
    assert set(value["next"]) == {"next"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
members = st.sampled_from(
    [
        *("model", "messages", "input", "prompt", "max_tokens", "stream", "tools"),
        *("tool_choice", "response_format", "text", "dimensions", "system"),
    ]
)
paths = st.sampled_from([CHAT, "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/messages"])


@given(
    paths,
    st.binary(max_size=40) | st.dictionaries(members, json_values, max_size=6).map(lambda v: json.dumps(v).encode()),
)
@settings(max_examples=60)
def test_no_body_can_break_the_provider(path: str, body: bytes) -> None:
    """Whatever is posted, the answer is 200 or a 400 in the provider's shape."""
    plan = post(SimulatedProvider(), body, path=path)

    assert plan.status in (200, 400)
    assert plan.chunks or isinstance(json.loads(plan.body), dict)


@pytest.mark.parametrize(
    "more",
    [
        '"temperature":1e999,"tools":[1e999]',
        '"metadata":' + "[" * 400 + "]" * 400,
        '"max_tokens":1e999',
        '"instructions":"\\ud800"',
    ],
)
def test_valid_json_beyond_reason_is_answered_or_refused(more: str) -> None:
    """Infinite numbers, deep nesting and lone surrogates end in an answer or a 400."""
    body = (
        '{"model":"m","input":[{"role":"user","content":' + "[" * 450 + '"x"' + "]" * 450 + "}]," + more + "}"
    ).encode()

    plan = post(SimulatedProvider(), body, path="/v1/responses")

    assert plan.status in (200, 400)


@pytest.mark.parametrize(
    "wrong", [{"latency": -1}, {"latency": math.inf}, {"capacity": 0}, {"speed": 0}, {"scenario": "no"}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    """A provider that makes no sense cannot be made."""
    with pytest.raises(UsageError):
        SimulatedProvider(**wrong)


@pytest.mark.parametrize(
    ("behavior", "kind", "status"), [("cut", "cut", 200), ("false_success", "answer", 200), ("html", "answer", 502)]
)
def test_answers_that_are_none(behavior: Behavior, kind: str, status: int) -> None:
    """Cut, an error dressed as success, a gateway's page: none counts as good, and the first is the half of one."""
    provider = SimulatedProvider(always(behavior))

    plan = post(provider, chat_body())

    assert (plan.kind, plan.status, plan.good, plan.down) == (kind, status, False, True)
    assert (b"<html>" in plan.body) == (behavior == "html")
    assert (b'"error"' in plan.body) == (behavior == "false_success")


def test_load_above_capacity_is_refused_with_the_phases_statuses() -> None:
    """10 % of 100 requests a second: of 50 at once ten are answered."""
    provider = SimulatedProvider(always("fine", capacity=0.1, statuses=(529,)), rate=100)

    statuses = Counter(post(provider, chat_body(str(number)), at=1.0).status for number in range(50))

    assert statuses == {200: 10, 529: 40}
    assert provider.stats.calls_while_down == 0
    assert provider.stats.timeline == {10: (50, 10)}


def test_the_neighbours_of_a_sick_model_are_fine() -> None:
    """A scenario for some models leaves the others alone."""
    scenario = Scenario("one", (Phase(math.inf, "down"),), "one", models=("big*",))
    provider = SimulatedProvider(scenario)

    statuses = {model: post(provider, chat_body(model=model)).status for model in ("big-1", "small")}

    assert statuses == {"big-1": 503, "small": 200}
