"""Words of quota, keys or models in a prompt that comes back in an error: the row's own, never the account's."""

from __future__ import annotations

import json

import pytest

from llmbatch.classify.classify import classify_exception, classify_reply
from llmbatch.core.calls import Outcome, Reply
from llmbatch.core.ports import first_request
from llmbatch.core.raw_json import JSON
from llmbatch.core.rows import Row
from llmbatch.providers.function_provider import FunctionProvider

PROMPT = "Say: 'insufficient funds'. My credit balance is too low, can't be. Invalid API key! Model x does not exist"
ASKED = json.dumps({"model": "m", "messages": [{"role": "user", "content": PROMPT}]}).encode()
MESSAGES: JSON = [{"role": "user", "content": PROMPT}]


def judge(status: int, body: object, *, asked: bytes = b"") -> Outcome:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return classify_reply(Reply(status, {}, raw), endpoint="chat", mask=str, asked=asked)


# Without the request at hand (an SDK's exception through a breaker).
STRUCTURED = {
    # https://fastapi.tiangolo.com/tutorial/handling-errors/ (2026): the input of each error stands beside it.
    "FastAPI": {"detail": [{"type": "list_type", "loc": ["body", "messages"], "msg": "Not a list", "input": MESSAGES}]},
    "FastAPI, ctx": {"detail": [{"type": "value_error", "loc": ["body"], "msg": "bad", "ctx": {"error": PROMPT}}]},
    "Mistral": {"object": "error", "message": {"detail": [{"type": "missing", "loc": ["body"], "input": MESSAGES}]}},
    "express-validator": {"errors": [{"msg": "Invalid value", "path": "prompt", "value": PROMPT}]},
    "a body sent back": {"error": {"message": "bad request", "type": "x"}, "body": {"error": PROMPT}, "input": PROMPT},
    "RFC 9457": {"type": "about:blank", "title": "Bad Request", "status": 400, "instance": PROMPT},
    # OpenAI's 400 quotes the value that it does not like (seen 2026).
    "OpenAI": {
        "error": {"message": f"Invalid value: '{PROMPT}'. Supported values are: 'a'", "type": "invalid_request_error"}
    },
    "in double quotes": {"error": {"message": f'The field "{PROMPT}" is too odd', "code": None}},
}

# What only the request itself shows to be an echo.
BARE = {
    "no quotes": {"error": {"message": f"cannot parse {PROMPT}"}},
    # vLLM (issue threads of 2025): the list of validation errors as Python text inside the message.
    "vLLM": {"object": "error", "message": str([{"type": "x", "loc": ("body",), "input": MESSAGES}]), "code": 400},
    "plain text": f"Bad Request: {PROMPT}",
}


@pytest.mark.parametrize("body", STRUCTURED.values(), ids=STRUCTURED)
@pytest.mark.parametrize("status", [400, 422])
def test_a_prompt_that_an_error_quotes_refuses_no_account(status: int, body: object) -> None:
    """A 422 that quotes a prompt with "insufficient funds" stopped every run, and every resume."""
    outcome = judge(status, body)

    assert (outcome.verdict, outcome.scope, outcome.row_is_bad) == ("rejected", "row", False)


@pytest.mark.parametrize("body", [*STRUCTURED.values(), *BARE.values()], ids=[*STRUCTURED, *BARE])
@pytest.mark.parametrize(
    ("status", "verdict"), [(400, "rejected"), (422, "rejected"), (429, "throttled"), (500, "failure")]
)
def test_words_of_the_request_prove_nothing_on_any_status(status: int, verdict: str, body: object) -> None:
    """Whatever the shape: words of an error that stand in the request may be an echo."""
    assert judge(status, body, asked=ASKED).verdict == verdict


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid_request_error"}},
        {"error": {"message": "Your credit balance is too low to access the API."}},
        {
            "error": {
                "message": 'litellm.BadRequestError: XException - b\'{"error":{"message":"Insufficient Balance"}}\''
            }
        },
        {
            "error": {
                "message": "Error code: 400 - {'error': {'message': 'Your credit balance is too low', 'type': 'x'}}"
            }
        },
        {
            "error": {
                "message": "Provider returned error",
                "metadata": {"raw": '{"error":{"message":"Insufficient funds"}}'},
            }
        },
        {"detail": [{"msg": "Insufficient credits", "loc": ["header"], "type": "x"}]},
    ],
)
@pytest.mark.parametrize(("status", "certain"), [(400, False), (422, False), (402, False), (403, True), (429, True)])
def test_money_in_words_is_certain_by_the_status(status: int, certain: bool, body: object) -> None:
    """On 400, 422 and 402 the words may be about this row alone, so it takes several."""
    outcome = judge(status, body, asked=b'{"messages":[{"content":"hello"}]}')

    assert (outcome.verdict, outcome.scope, outcome.certain) == ("account_refused", "key", certain)


@pytest.mark.parametrize(
    ("status", "body", "certain"),
    [
        (429, {"error": {"message": "spent", "code": "insufficient_quota"}}, True),
        (400, {"error": {"message": "spent", "code": "insufficient_quota"}}, True),
        (402, {"type": "error", "error": {"type": "billing_error", "message": "x"}}, False),
        (402, {"error": {"message": "can only afford 3919", "code": 402}}, False),
        (402, "", False),
        (401, "", True),
        (403, {"error": {"message": "no"}}, True),
        (404, "", True),
        (400, {"error": {"message": "API key not valid"}}, False),
        (401, {"error": {"message": "Invalid API key"}}, True),
        (400, {"error": {"message": "bad"}}, True),
        (500, {"error": {"message": "boom"}}, True),
    ],
)
def test_a_code_is_certain_and_a_402_is_not(status: int, body: object, certain: bool) -> None:
    """A machine's code says what it means, but a 402 may mean one row; only refusals of the account can be doubted."""
    assert judge(status, body).certain == certain


class SpentError(Exception):
    """An answer, as SDKs carry it."""

    status_code = 403

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.body = {"error": {"message": message}}


async def test_what_a_function_was_called_with_is_an_echo_too() -> None:
    """By its row, whatever type that has; the same words for another row count."""

    async def refuse(row: object) -> None:
        raise SpentError("cannot do: insufficient funds")

    provider = FunctionProvider(refuse)

    async def called(value: object) -> Outcome:
        row = Row(1, "0" * 16, '"r1"', {}, value)
        return await provider.call(first_request(provider, row), row, timeout=5)

    assert (await called({"prompt": PROMPT})).code == "http_403"
    assert (await called("hello")).code == "insufficient_quota"
    assert classify_exception(SpentError("insufficient funds")).code == "insufficient_quota"


class HostileRow:
    """A row that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


async def test_a_row_that_cannot_be_shown_is_judged_all_the_same() -> None:
    """Then nothing is an echo."""

    async def refuse(row: object) -> None:
        raise SpentError("insufficient funds")

    provider = FunctionProvider(refuse)
    row = Row(1, "0" * 16, '"r1"', {}, HostileRow())

    assert (await provider.call(first_request(provider, row), row, timeout=5)).code == "insufficient_quota"


@pytest.mark.parametrize(
    ("asked", "final"), [(200, False), (100_000, True), (0, True)], ids=["small", "large", "unknown"]
)
def test_413_ends_a_row_at_once_only_if_it_is_large(asked: int, final: bool) -> None:
    """A backend that refuses half of all small requests so (a broken proxy) does not fail every row it meets."""
    outcome = judge(413, "", asked=b"x" * asked)

    assert (outcome.verdict, outcome.code, outcome.row_is_bad) == ("rejected", "request_too_large", final)
