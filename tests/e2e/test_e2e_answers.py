"""Answers of the field over real sockets: jobs of 20 rows, one or all of which meet them, end as the answer says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from e2e_sick import GOOD_BODY, SickServer, whole

from llmbatch import BatchRunner

ROWS = 20
BAD_ROW = 12
XAI = "The caller does not have permission to execute the specified operation"
CUT = GOOD_BODY.replace(b'"stop"', b'"insufficient_system_resource"')
EMPTY = GOOD_BODY.replace(b'"pong"', b'""').replace(b'"completion_tokens":1', b'"completion_tokens":0')
BLOCKED = {"choices": [], "promptFeedback": {"blockReason": "SAFETY"}}


def reply(status: int, body: object) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return whole(data, status=f"{status} X")


def error(message: str, **members: object) -> dict[str, object]:
    return {"error": {"message": message, **members}}


OF_THE_ROW = {
    "xAI's filter": (403, {"code": XAI, "error": "Content violates usage guidelines. SAFETY_CHECK_TYPE_BIO"}),
    "a prompt that Gemini blocks": (200, BLOCKED),
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

PASSING: dict[str, tuple[int, object]] = {
    "DashScope's tokens per minute": (429, error("See https://help.example/x#token-limit", code="insufficient_quota")),
    "DeepSeek, broken off": (200, CUT),
    "empty, of no tokens": (200, EMPTY),
    "Groq's random miss": (400, error("no", code="json_validate_failed", failed_generation="{")),
    "TGI's overload": (429, {"error": "Model is overloaded", "error_type": "overloaded"}),
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


@pytest.mark.parametrize("name", PASSING)
async def test_an_answer_that_may_pass_is_asked_for_again(tmp_path: Path, name: str) -> None:
    """The first call meets it, and every row succeeds."""
    server = SickServer(reply(*PASSING[name]), sick_calls=1)

    code, _, lines = await run(tmp_path, server)

    assert (code, len(lines), server.sick) == (0, ROWS, 1)
    assert {line["status"] for line in lines} == {"success"}
    assert all(line["text"] == "pong" for line in lines)
