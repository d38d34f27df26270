"""Which refusals mean that a model cannot be asked for a schema in the usual way, and what is learned from them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmbatch.classify.classify import classify_reply
from llmbatch.core.calls import Outcome, Reply, Request
from llmbatch.core.raw_json import dumps
from llmbatch.core.rows import Row
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.providers.structured.ask import SchemaAsker
from llmbatch.providers.structured.checked import CheckedProvider
from llmbatch.providers.structured.load import load_schema
from llmbatch.providers.structured.refused_forms import names_the_form

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}
NOT_THIS_MODEL = "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."


def outcome(status: int, body: object) -> Outcome:
    """What becomes of an answer."""
    reply = Reply(status, {"content-type": "application/json"}, json.dumps(body).encode())
    return classify_reply(reply, endpoint="chat", mask=lambda text: text)


def openai_error(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai_error(NOT_THIS_MODEL)),
        (400, openai_error("Invalid input", "response_format")),
        (400, openai_error("This model does not support response format `json_schema`. See supported models at …")),
        (400, openai_error("This response_format type is unavailable now")),
        (400, openai_error("Unsupported parameter: 'text.format' of type 'json_schema' is not supported.")),
        (400, openai_error("Invalid schema for response_format 'answer': 'additionalProperties' is required")),
        (400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}),
        (400, {"type": "error", "error": {"message": "'claude-3' does not support output format."}}),
        (400, {"type": "error", "error": {"message": "output_config: Extra inputs are not permitted"}}),
        (422, {"detail": [{"loc": ["body", "response_format"], "msg": "Extra inputs are not permitted"}]}),
        (400, {"object": "error", "message": "[{'loc': ('body', 'response_format', 'type'), 'msg': 'no'}]"}),
    ],
)
def test_what_providers_say_to_a_form_that_they_do_not_take(status: int, body: object) -> None:
    """In the words of the message, or by the name of the parameter."""
    assert names_the_form(outcome(status, body))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai_error("This model's maximum context length is 8192 tokens")),
        (400, {"error": {"message": "no", "param": "messages", "echo": {"response_format": 1}}}),
        (401, openai_error("Your key may not use response_format")),
        (429, openai_error("Too many requests with response_format")),
        (500, openai_error("response_format: internal error")),
        (200, {"choices": [{"message": {"content": "response_format is …"}, "finish_reason": "stop"}]}),
    ],
)
def test_what_says_nothing_about_the_form(status: int, body: object) -> None:
    """Other refusals, faults of the provider, and answers about it."""
    assert not names_the_form(outcome(status, body))


class Script:
    """A transport that answers with one reply after another, and keeps the requests."""

    def __init__(self, *replies: tuple[int, object]) -> None:
        self.replies = list(replies)
        self.sent: list[dict[str, Any]] = []

    async def post(self, request: Request, *, timeout: float) -> Reply:
        self.sent.append(json.loads(request.body))
        status, body = self.replies.pop(0)
        return Reply(status, {"content-type": "application/json"}, json.dumps(body).encode())

    async def aclose(self) -> None:
        pass


class Calls:
    """Calls a provider with a schema; *replies* are what the server answers."""

    def __init__(self, *replies: tuple[int, object]) -> None:
        self.transport = Script(*replies)
        self.told: list[str] = []
        schema = load_schema(SCHEMA)
        settings = ProviderSettings(model="openai/m", environ={"OPENAI_API_KEY": "k"}, schema=schema)
        inner = HttpProvider(settings, self.transport)
        self.provider = CheckedProvider(inner, schema, lenient=False, repair=1, warn=self.told.append)

    async def call(self, **members: Any) -> Outcome:
        row = Row(1, "0" * 16, '"a"', {name: dumps(value) for name, value in ({"prompt": "hi"} | members).items()})
        request = self.provider.request(row, self.provider.routes(row)[0])
        return await self.provider.call(request, row, timeout=60)


def answer(text: str) -> tuple[int, object]:
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


REFUSED = (400, openai_error(NOT_THIS_MODEL))
GOOD = answer('{"label": "x"}')


async def test_nothing_is_learned_until_another_way_is_taken() -> None:
    """An outage in between says nothing about it; then all requests go that way from the start."""
    calls = Calls(REFUSED, (503, {"error": "overloaded"}), REFUSED, GOOD, GOOD)

    verdicts = [(await calls.call()).verdict for _ in range(3)]

    forms = [body["response_format"]["type"] for body in calls.transport.sent]
    assert verdicts == ["failure", "success", "success"]
    assert forms == ["json_schema", "json_object", "json_schema", "json_object", "json_object"]
    assert len(calls.told) == 1


async def test_a_refusal_of_the_row_itself_is_passed_on() -> None:
    """Once the form is out of the way, the provider may find the row too long; the next one tries both ways again."""
    too_long = (400, openai_error("This model's maximum context length is 8192 tokens"))
    calls = Calls(REFUSED, too_long, REFUSED, GOOD)

    first, second = await calls.call(), await calls.call()

    assert (first.verdict, first.row_is_bad, second.verdict) == ("rejected", True, "success")
    assert len(calls.told) == 1


async def test_what_a_row_asks_for_itself_is_sent_once() -> None:
    """Its own form is refused, and so is the row; its own tools too, of which nothing is taken away."""
    for own in ({"response_format": {"type": "json_object"}}, {"tools": [], "messages": [{"role": "user"}]}):
        calls = Calls(REFUSED)

        outcome = await calls.call(**own)

        assert (outcome.verdict, outcome.message, len(calls.transport.sent)) == ("rejected", NOT_THIS_MODEL, 1)


async def test_a_second_refusal_goes_one_step_further() -> None:
    """For a server that is changed during the run."""
    no_object = (400, openai_error("Unknown parameter: 'response_format'.", "response_format"))
    calls = Calls(REFUSED, GOOD, no_object, GOOD, GOOD)

    verdicts = [(await calls.call()).verdict for _ in range(3)]

    assert verdicts == ["success"] * 3
    assert ["response_format" in body for body in calls.transport.sent] == [True, True, True, False, False]
    assert len(calls.told) == 2


async def test_a_health_check_is_sent_as_it_is() -> None:
    """It asks for no form, and what it is told about one is of no use."""
    calls = Calls(REFUSED)
    row = Row(1, "0" * 16, '"a"', {"prompt": '"hi"'})
    ping = calls.provider.ping(calls.provider.request(row, calls.provider.routes(row)[0]))
    assert ping is not None

    outcome = await calls.provider.call(ping, None, timeout=60)

    assert (outcome.verdict, len(calls.transport.sent)) == ("rejected", 1)


def test_other_parts_of_the_same_member_stay() -> None:
    """The verbosity of ``text``, the effort of ``output_config``; what is no form of the run's is left alone."""
    asker = SchemaAsker(load_schema(SCHEMA))

    def next_of(endpoint: str, members: dict[str, Any]) -> dict[str, Any] | None:
        body = asker.ask_otherwise(endpoint, json.dumps(members).encode())
        return None if body is None else json.loads(body)

    from llmbatch.providers.catalog import PROVIDERS

    asked = {"input": '"hi"', "text": '{"verbosity":"low"}'}
    asker.ask(PROVIDERS["openai"], "responses", asked)
    body = asker.ask_otherwise("responses", ("{" + ",".join(f'"{k}":{v}' for k, v in asked.items()) + "}").encode())
    assert body is not None
    assert json.loads(body)["text"] == {"verbosity": "low"}
    for endpoint, members in (
        ("responses", {"text": {"format": {"type": "text"}}}),
        ("responses", {"text": "no object"}),
        ("messages", {"output_config": {"effort": "low"}}),
        ("chat", {"messages": [], "response_format": {"type": "json_object"}}),
        ("embeddings", {"input": "x"}),
    ):
        assert next_of(endpoint, members) is None
