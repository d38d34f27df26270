"""Answers of the field over real sockets: jobs of 20 rows, one or all of which meet them, end as the answer says."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_recorder import Answer, Arrival, Recorder, answer
from e2e_sick import GOOD_BODY, SickServer, whole

from llmbatch import BatchRunner
from llmbatch.display import make_display

ROWS = 20
BAD_ROW = 12
XAI = "The caller does not have permission to execute the specified operation"
CUT = GOOD_BODY.replace(b'"stop"', b'"insufficient_system_resource"')
EMPTY = (
    GOOD_BODY.replace(b'"pong"', b'""')
    .replace(b'"completion_tokens":1', b'"completion_tokens":0')
    .replace(b'"total_tokens":2', b'"total_tokens":1')
)
BLOCKED = {"choices": [], "promptFeedback": {"blockReason": "SAFETY"}}


def reply(status: int, body: object) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return whole(data, status=f"{status} X")


def error(message: str, **members: object) -> dict[str, object]:
    return {"error": {"message": message, **members}}


OF_THE_ROW = {
    "xAI's filter": (403, {"code": XAI, "error": "Content violates usage guidelines. SAFETY_CHECK_TYPE_BIO"}),
    "a prompt that Gemini blocks": (200, BLOCKED),
    "OpenRouter's moderation": (
        403,
        error('Your input was flagged for "hate". No credits were charged.', code=403),
    ),
    "Cohere's filter": (498, {"message": "blocked input: a potential violation of our terms of use"}),
}

OF_THE_ACCOUNT: dict[str, tuple[int, object]] = {
    "xAI, 429": (429, {"code": "x", "error": "Your team has used all available credits."}),
    "Fireworks": (412, error("Account acme is suspended, possibly due to a limit.", code="PRECONDITION_FAILED")),
    "Anthropic": (400, error("This organization has been disabled.")),
    "Groq": (400, error("no", code="organization_restricted")),
    "Zhipu": (429, error("您的账户已欠费，请充值后重试。", code="1113")),
    "litellm's proxy": (429, error("Budget has been exceeded!", type="budget_exceeded", code="429")),
    "Zhipu, in a 200": (200, {"code": 1113, "msg": "arrears", "success": False}),
    "LM Studio": (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
    "Cloudflare": (403, b"<!DOCTYPE html><title>Attention Required! | Cloudflare</title>"),
    "Vertex": (401, error("no", details=[{"@type": "x/google.rpc.ErrorInfo", "reason": "ACCESS_TOKEN_EXPIRED"}])),
}

OF_THE_ACCOUNT |= {
    "Azure's firewall": (403, error("Access denied due to Virtual Network/Firewall rules.", code="403")),
    "Bedrock, on demand": (400, {"message": "Invocation of model ID x with on-demand throughput isn't supported."}),
    "Novita": (403, {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "not enough balance"}),
    "Mistral": (401, {"detail": "Inactive subscription or usage limit reached."}),
    "Groq's terms": (400, error("The model requires terms acceptance.", code="model_terms_required")),
}

PASSING: dict[str, tuple[int, object]] = {
    "DashScope's tokens per minute": (429, error("See https://help.example/x#token-limit", code="insufficient_quota")),
    "DeepSeek, broken off": (200, CUT),
    "empty, of no tokens": (200, EMPTY),
    "Groq's random miss": (400, error("no", code="json_validate_failed", failed_generation="{")),
    "TGI's overload": (429, {"error": "Model is overloaded", "error_type": "overloaded"}),
    "Bedrock's throttling behind a gateway": (500, error("ThrottlingException: Too many tokens, please wait.")),
    "NVIDIA's degraded function": (400, {"title": "Bad Request", "detail": "Function id '1': DEGRADED function"}),
}


async def run(folder: Path, server: SickServer, *, sick_row: int = 0) -> tuple[int, str, list[dict[str, Any]]]:
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    rows = ({"prompt": "sick" if row == sick_row else f"row {row}"} for row in range(1, ROWS + 1))
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    async with server:
        runner = BatchRunner("m", base_url=server.url, concurrency=4, environ={}, recovery_timeout=0.3, seed=1)
        summary = await runner.run(source, output)
    lines = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    return summary.exit_code, summary.stopped_reason or "", lines


@pytest.mark.parametrize("name", OF_THE_ROW)
async def test_an_answer_about_the_content_fails_that_row_at_once(tmp_path: Path, name: str) -> None:
    """One attempt, with the code of a filter; the key and the others are well."""
    code, _, lines = await run(tmp_path, SickServer(reply(*OF_THE_ROW[name])), sick_row=BAD_ROW)

    failed = [line for line in lines if line["status"] == "failed"]
    assert (code, len(lines)) == (1, ROWS)
    assert [(line["row"], line["error"]["code"], line["attempts"]) for line in failed] == [
        (BAD_ROW, "content_filter", 1)
    ]


@pytest.mark.parametrize("name", OF_THE_ACCOUNT)
async def test_an_answer_about_the_account_stops_the_run_and_fails_nothing(tmp_path: Path, name: str) -> None:
    """Exit 3, with a reason; a few calls, not one for each row."""
    server = SickServer(reply(*OF_THE_ACCOUNT[name]), sick_calls=1000)

    code, reason, lines = await run(tmp_path, server)

    assert (code, lines) == (3, [])
    assert reason
    assert server.sick < ROWS


@pytest.mark.traced
@pytest.mark.slow  # waits between attempts in real time
@pytest.mark.parametrize("name", PASSING)
async def test_an_answer_that_may_pass_is_asked_for_again(tmp_path: Path, name: str) -> None:
    """The first call meets it, and every row succeeds."""
    server = SickServer(reply(*PASSING[name]), sick_calls=1)

    code, _, lines = await run(tmp_path, server)

    assert (code, len(lines), server.sick) == (0, ROWS, 1)
    assert {line["status"] for line in lines} == {"success"}
    assert all(line["text"] == "pong" for line in lines)


@pytest.fixture
def server() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


def prompts(folder: Path, count: int = ROWS, *, key: str = "prompt") -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps({key: f"row {row}"}) + "\n" for row in range(1, count + 1)))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def json_answer(status: int, body: object) -> Answer:
    return status, json.dumps(body).encode()


@pytest.mark.parametrize(
    "headers", [{"llm_provider-retry-after": "3700"}, {"RateLimit": '"burst";r=9;t=9000, "day";r=0;t=3700'}]
)
async def test_a_wait_that_only_a_gateway_or_the_ietf_header_names_is_obeyed(
    tmp_path: Path, server: Recorder, headers: dict[str, str]
) -> None:
    """The proxy of litellm passes the upstream's wait under a prefix: rows are deferred for as long as it says."""
    server.respond = lambda _: json_answer(429, error("slow down", code="rate_limit_exceeded"))
    server.headers = headers
    runner = BatchRunner("m", base_url=server.url, concurrency=2, environ={}, on_outage="defer", seed=1)

    summary = await runner.run(prompts(tmp_path), tmp_path / "o.jsonl")

    waits = [line["retry_after"] for line in lines_of(tmp_path / "o.deferred.jsonl")]
    assert (summary.exit_code, len(waits)) == (75, ROWS)
    assert all(3600 < wait <= 3700 for wait in waits)
    assert len(server.arrivals) <= 3


def event_stream(arrival: Arrival) -> Answer:
    """A server that streams unless it is told not to, as ``transformers serve`` does on ``/v1/responses``."""
    status, body = answer(arrival)
    if json.loads(arrival.body).get("stream") is False:
        return status, body
    event = {"type": "response.completed", "response": json.loads(body)}
    return 200, b"event: response.completed\ndata: " + json.dumps(event).encode() + b"\n\n"


async def test_a_server_that_streams_unasked_is_read_to_the_end_and_then_told_not_to(
    tmp_path: Path, server: Recorder
) -> None:
    """Every row succeeds, the first ones from the stream; the later requests say ``stream: false``."""
    server.respond = event_stream
    runner = BatchRunner("m", base_url=server.url, endpoint="responses", concurrency=2, environ={}, seed=1)

    summary = await runner.run(prompts(tmp_path, key="input"), tmp_path / "o.jsonl")

    told = [json.loads(body).get("stream") for body in server.bodies]
    assert (summary.success, len(told)) == (ROWS, ROWS)
    assert all(line["text"] == "ok" for line in lines_of(tmp_path / "o.jsonl"))
    assert told[0] is None
    assert told[4:] == [False] * (ROWS - 4)


@pytest.mark.traced
@pytest.mark.slow  # waits between attempts in real time
async def test_a_row_that_needs_more_than_the_credit_fails_alone(tmp_path: Path, server: Recorder) -> None:
    """OpenRouter's 402 for one prompt stopped the run, and each rerun of it; the others show that there is credit."""

    def respond(arrival: Arrival) -> Answer:
        if b"row 12" in arrival.body:
            return json_answer(402, error("Prompt tokens limit exceeded: 12000 > 8000.", code=402))
        return answer(arrival)

    server.respond = respond
    runner = BatchRunner("m", base_url=server.url, concurrency=4, environ={}, recovery_timeout=0.3, seed=1)

    summary = await runner.run(prompts(tmp_path), tmp_path / "o.jsonl")

    failed = [line for line in lines_of(tmp_path / "o.jsonl") if line["status"] == "failed"]
    assert (summary.exit_code, summary.success) == (1, ROWS - 1)
    assert [(line["row"], line["error"]["code"]) for line in failed] == [(12, "http_402")]
    assert "Prompt tokens limit exceeded" in failed[0]["error"]["message"]


@pytest.mark.traced
@pytest.mark.slow  # waits between attempts in real time
@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"code": "The_value_of_n_is_not_in_the_range"}, "http_400", "The value of n is not in the range"),
        ({"type": "about:blank", "title": "Bad Request", "detail": "n is 0"}, "http_400", "n is 0"),
        ({"type": "https://api.example/problems/range", "detail": "n is 0"}, "http_400", "n is 0"),
        (error("n is 0", code="None"), "http_400", "n is 0"),
        (error("n is 0", code=None, type="bad_request"), "bad_request", "n is 0"),
    ],
)
async def test_the_code_of_a_line_is_a_code_and_the_rest_its_message(
    tmp_path: Path, server: Recorder, body: object, code: str, message: str
) -> None:
    """Neither ``None``, nor a URL, nor a sentence with underscores."""
    server.respond = lambda arrival: json_answer(400, body) if b"row 12" in arrival.body else answer(arrival)
    runner = BatchRunner("m", base_url=server.url, concurrency=4, environ={}, seed=1)

    await runner.run(prompts(tmp_path), tmp_path / "o.jsonl")

    failed = [line for line in lines_of(tmp_path / "o.jsonl") if line["status"] == "failed"]
    assert [line["error"]["code"] for line in failed] == [code]
    assert message in failed[0]["error"]["message"]


@pytest.mark.traced
@pytest.mark.slow  # waits between attempts in real time
async def test_the_plain_display_shows_what_a_429_says_once(tmp_path: Path, server: Recorder) -> None:
    """Its code alone does not tell which limit it was."""

    def respond(arrival: Arrival) -> Answer:
        if server.count <= 3:
            return json_answer(429, error("Limit of 3 requests in a blue moon.", code="rate_limit_exceeded"))
        return answer(arrival)

    server.respond = respond
    screen = io.StringIO()
    with make_display("plain", stream=screen) as display:
        runner = BatchRunner("m", base_url=server.url, concurrency=1, environ={}, observers=[display], seed=1)
        summary = await runner.run(prompts(tmp_path, 4), tmp_path / "o.jsonl")

    assert summary.success == 4
    assert screen.getvalue().count("Limit of 3 requests in a blue moon.") == 1


async def test_a_gateway_that_wants_a_header_of_its_own_gets_it(tmp_path: Path, server: Recorder) -> None:
    """Portkey refuses a request without one; the key in it comes from the environment and is in no line."""

    def respond(arrival: Arrival) -> Answer:
        if arrival.headers.get("x-portkey-api-key") != "pk-0123456789":
            return json_answer(400, {"status": "failure", "message": "Either x-portkey-config or another is required"})
        return json_answer(200, {**json.loads(answer(arrival)[1]), "echo": arrival.headers["x-portkey-api-key"]})

    server.respond = respond
    path, environ = prompts(tmp_path), {"PORTKEY_API_KEY": "pk-0123456789"}
    headers = {"x-portkey-api-key": "$PORTKEY_API_KEY"}

    without = await BatchRunner("m", base_url=server.url, environ=environ, seed=1).run(path, tmp_path / "1.jsonl")
    with_it = await BatchRunner("m", base_url=server.url, environ=environ, headers=headers, seed=1).run(
        path, tmp_path / "2.jsonl"
    )

    assert (without.exit_code, with_it.exit_code, with_it.success) == (3, 0, ROWS)
    assert "x-portkey-config" in (without.stopped_reason or "")
    assert "pk-0123456789" not in (tmp_path / "2.jsonl").read_text()


async def test_a_server_without_embeddings_is_no_outage(tmp_path: Path, server: Recorder) -> None:
    """llama-cpp-python answers 500 with what it was not started for: the run stops, and says that."""
    words = "Llama model must be created with embedding=True to call this method"
    server.respond = lambda _: json_answer(500, error(words, type="internal_server_error"))
    runner = BatchRunner("m", base_url=server.url, endpoint="embeddings", environ={}, recovery_timeout=0.3, seed=1)

    summary = await runner.run(prompts(tmp_path, key="input"), tmp_path / "o.jsonl")

    assert summary.exit_code == 3
    assert words in (summary.stopped_reason or "")
    assert not (tmp_path / "o.jsonl").exists()
    assert len(server.arrivals) < 3 * ROWS


@pytest.mark.traced
@pytest.mark.slow  # waits between attempts in real time
async def test_a_row_that_asks_for_what_no_provider_of_the_model_offers_fails_alone(
    tmp_path: Path, server: Recorder
) -> None:
    """OpenRouter's 404 for a row with tools stopped the run, as if there were no such model."""
    refusal = error("No endpoints found that support tool use.", code=404)
    server.respond = lambda arrival: json_answer(404, refusal) if b"row 12" in arrival.body else answer(arrival)
    runner = BatchRunner("m", base_url=server.url, concurrency=4, environ={}, recovery_timeout=0.3, seed=1)

    summary = await runner.run(prompts(tmp_path), tmp_path / "o.jsonl")

    failed = [line for line in lines_of(tmp_path / "o.jsonl") if line["status"] == "failed"]
    assert (summary.exit_code, summary.success) == (1, ROWS - 1)
    assert [(line["row"], line["error"]["code"]) for line in failed] == [(12, "not_supported")]
