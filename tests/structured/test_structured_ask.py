"""How each provider and wire format is asked for a schema, and asked again: the bodies, member by member."""

from __future__ import annotations

import json
from typing import Any, Literal

import pydantic
import pytest

from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.core.errors import MalformedRowError, UsageError
from llmbatch.core.raw_json import dumps
from llmbatch.core.rows import Row
from llmbatch.providers.catalog import PROVIDERS, KnownProvider
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.providers.structured.ask import SchemaAsker
from llmbatch.providers.structured.forms import anthropic_form, is_strict, tightened
from llmbatch.providers.structured.load import load_schema
from llmbatch.providers.structured.repair import answer_text, repair_request
from llmbatch.providers.structured.schema import Misfit

LOOSE: dict[str, Any] = {"type": "object", "properties": {"label": {"type": "string"}}}
STRICT: dict[str, Any] = LOOSE | {"required": ["label"], "additionalProperties": False}
FREE: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "integer"}}
KEYS = {
    "OPENAI_API_KEY": "k",
    "ANTHROPIC_API_KEY": "k",
    "DEEPSEEK_API_KEY": "k",
    "PERPLEXITY_API_KEY": "k",
}


class Inner(pydantic.BaseModel):
    size: int = 3


class Model(pydantic.BaseModel):
    label: Literal["good", "bad"]
    inner: Inner = pydantic.Field(description="what is in it")
    either: Inner | None = None


class NeverSent:
    async def post(self, request: Request, *, timeout: float) -> Any:
        raise AssertionError

    async def aclose(self) -> None:
        pass


def provider(model: str, schema: object = STRICT, **settings: Any) -> HttpProvider:
    loaded = load_schema(schema)
    return HttpProvider(ProviderSettings(model=model, environ=KEYS, schema=loaded, **settings), NeverSent())


def sent(model: str, row: dict[str, Any], schema: object = STRICT, **settings: Any) -> dict[str, Any]:
    """The body that a row becomes."""
    item = Row(1, "0" * 16, '"a"', {name: dumps(value) for name, value in row.items()})
    of = provider(model, schema, **settings)
    body = json.loads(of.request(item, of.routes(item)[0]).body)
    assert isinstance(body, dict)
    return body


def test_chat_is_asked_by_response_format() -> None:
    """Strictly where the schema is one that the strict mode takes."""
    body = sent("openai/m", {"prompt": "hi"})

    form = {"name": "answer", "schema": STRICT, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": form}
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    loose = sent("openai/m", {"prompt": "hi"}, LOOSE)["response_format"]["json_schema"]
    assert loose == {"name": "answer", "schema": LOOSE}
    told = sent("openai/m", {"prompt": "hi"}, {"name": "n", "schema": LOOSE, "strict": False})
    assert told["response_format"]["json_schema"] == {"name": "n", "schema": LOOSE, "strict": False}


def test_a_server_without_a_name_and_vllm_are_asked_as_chat_is() -> None:
    """And their completions too, which OpenAI's are not."""
    for model, settings in (("m", {"base_url": "http://127.0.0.1:1/v1"}), ("vllm/m", {})):
        assert sent(model, {"prompt": "hi"}, **settings)["response_format"]["type"] == "json_schema"
        assert sent(model, {"prompt": "hi"}, endpoint="completions", **settings)["response_format"]
    assert "response_format" not in sent("openai/m", {"prompt": "hi"}, endpoint="completions")


def test_responses_are_asked_by_their_text_format() -> None:
    """Beside the row's own members of ``text``."""
    form = {"type": "json_schema", "name": "answer", "schema": STRICT, "strict": True}

    assert sent("openai/m", {"input": "hi"})["text"] == {"format": form}
    assert sent("openai/m", {"input": "hi", "text": {"verbosity": "low"}})["text"] == {
        "verbosity": "low",
        "format": form,
    }
    own = {"format": {"type": "text"}}
    assert sent("openai/m", {"input": "hi", "text": own})["text"] == own
    perplexity = sent("perplexity/m", {"input": "hi"})
    assert perplexity["response_format"]["type"] == "json_schema"
    assert "text" not in perplexity


def test_messages_are_asked_by_their_output_config() -> None:
    """Without a beta header; beside the row's own effort."""
    form = {"type": "json_schema", "schema": STRICT}

    assert sent("anthropic/m", {"prompt": "hi"})["output_config"] == {"format": form}
    body = sent("anthropic/m", {"prompt": "hi", "output_config": {"effort": "low"}})
    assert body["output_config"] == {"effort": "low", "format": form}


def test_what_anthropic_cannot_say_goes_into_the_system_prompt() -> None:
    """After the row's own, a text or blocks."""
    body = sent("anthropic/m", {"prompt": "hi"}, FREE)

    assert "output_config" not in body
    assert body["system"].endswith(dumps(FREE))
    assert sent("anthropic/m", {"prompt": "hi"}, FREE, system="Be brief.")["system"].startswith("Be brief.\n\nAnswer ")
    blocks = [{"type": "text", "text": "Be brief."}]
    extended = sent("anthropic/m", {"prompt": "hi", "system": blocks}, FREE)["system"]
    assert [extended[0], extended[1]["type"]] == [blocks[0], "text"]


def test_deepseek_knows_json_alone_and_gets_the_schema_in_the_system_prompt() -> None:
    """Its API refuses ``json_schema``, and wants the word JSON in the prompt."""
    body = sent("deepseek/m", {"prompt": "hi"})

    assert body["response_format"] == {"type": "json_object"}
    assert body["messages"][0]["role"] == "system"
    assert body["messages"][0]["content"].endswith(dumps(STRICT))
    assert body["messages"][1:] == [{"role": "user", "content": "hi"}]
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    messages = sent("deepseek/m", {"messages": own})["messages"]
    assert len(messages) == 2
    assert messages[0]["content"].startswith("Be brief.\n\nAnswer with JSON only")


@pytest.mark.parametrize(
    ("model", "own"),
    [
        *((name, {"response_format": {"type": "json_object"}}) for name in ("openai/m", "deepseek/m")),
        *((name, {"tools": [{"name": "f"}]}) for name in ("openai/m", "anthropic/m", "deepseek/m")),
        ("anthropic/m", {"output_format": {"type": "json_schema", "schema": {}}}),
        ("vllm/m", {"structured_outputs": {"json": {}}}),
        ("vllm/m", {"guided_json": {}}),
    ],
)
def test_what_a_row_asks_for_itself_wins(model: str, own: dict[str, Any]) -> None:
    """So does what ``-P`` sets for all rows."""
    body = sent(model, {"prompt": "hi", **own}, FREE)
    plain = {"model", "messages", "max_tokens", *own}

    assert set(body) <= plain
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    (name, value), *_ = own.items()
    assert set(sent(model, {"prompt": "hi"}, FREE, params={name: dumps(value)})) <= plain


def test_batch_rows_are_sent_as_they_are() -> None:
    """To the byte, as ever."""
    text = '{"model": "m",  "messages": [{"role":"user","content":"hi"}]}'
    row = Row(1, "0" * 16, '"a"', {"custom_id": '"a"', "url": '"/v1/chat/completions"', "body": text})
    of = provider("openai/m")

    assert of.request(row, of.routes(row)[0]).body == text.encode()


def test_the_schema_is_one_of_the_settings_that_an_output_is_compared_by() -> None:
    """Of batch rows too, as their answers are checked by it."""
    plain = Row(1, "0" * 16, '"a"', {"prompt": '"hi"'})
    batch = Row(1, "0" * 16, '"a"', {"url": '"/v1/chat/completions"', "body": '{"model":"m","messages":[]}'})
    for row in (plain, batch):
        found = {
            of.request(row, of.routes(row)[0]).settings
            for of in (provider("openai/m"), provider("openai/m", LOOSE), HttpProvider(_without(), NeverSent()))
        }
        assert len(found) == 3


def _without() -> ProviderSettings:
    return ProviderSettings(model="openai/m", environ=KEYS)


def test_rows_without_text_in_their_answers_are_refused() -> None:
    """By the endpoint that the run names before anything else, by their own one by one."""
    row = Row(1, "0" * 16, '"a"', {"url": '"/v1/embeddings"', "body": '{"model":"m","input":"hi"}'})
    of = provider("openai/m")

    with pytest.raises(MalformedRowError, match="embeddings has none") as caught:
        of.request(row, of.routes(row)[0])
    assert caught.value.code == "input_no_schema"
    with pytest.raises(UsageError, match="--schema checks texts, and answers of --endpoint embeddings have none"):
        provider("openai/m", endpoint="embeddings")


# Forms.


def test_a_model_is_asked_for_as_the_clients_of_the_providers_do() -> None:
    """Objects closed, all members required, no defaults, nothing beside a reference: then the strict mode takes it."""
    schema = load_schema(Model).schema
    tight = tightened(dict(schema))

    assert not is_strict(dict(schema))
    assert is_strict(tight)
    assert isinstance(tight, dict)
    assert tight["required"] == ["label", "inner", "either"]
    asked = SchemaAsker(load_schema(Model))
    assert '"strict":true' in asked._chat


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (STRICT, True),
        (LOOSE, False),
        (FREE, False),
        ({"type": "array", "items": STRICT}, False),
        ({"anyOf": [STRICT, STRICT]}, False),
        (STRICT | {"properties": {"label": {"type": "string", "minLength": 3}}}, False),
        (STRICT | {"properties": {"label": {"type": "string", "format": "uri"}}}, False),
        (STRICT | {"properties": {"label": {"type": "string", "format": "date"}}}, True),
        (STRICT | {"properties": {"label": {"type": "string", "default": "a"}}}, False),
        (STRICT | {"properties": {"label": {"anyOf": [{"type": "null"}, STRICT]}}}, True),
        (STRICT | {"properties": {"label": {"anyOf": [{"type": "null"}, LOOSE]}}}, False),
        (STRICT | {"properties": {"label": {"$ref": "#/$defs/a"}}, "$defs": {"a": LOOSE}}, False),
        (STRICT | {"properties": {"label": {"oneOf": [STRICT]}}}, False),
    ],
)
def test_the_strict_mode_takes_few_schemas(schema: dict[str, Any], strict: bool) -> None:
    """All others are asked for without it: it would refuse every request."""
    assert is_strict(schema) is strict


def test_anthropic_is_told_in_words_what_its_form_lacks() -> None:
    """Bounds; the answer is checked by the whole schema all the same."""
    schema = STRICT | {"properties": {"label": {"type": "string", "minLength": 3, "description": "A word."}}}

    form = anthropic_form(schema | {"$schema": "https://json-schema.org/draft/2020-12/schema"})
    label = {"type": "string", "description": 'A word. {"minLength":3}'}
    assert form == STRICT | {"properties": {"label": label}}
    assert anthropic_form(LOOSE) == LOOSE | {"additionalProperties": False}
    assert anthropic_form(load_schema(Model).schema)


@pytest.mark.parametrize(
    "schema",
    [
        FREE,
        {"type": "object"},
        STRICT | {"properties": {"label": {}}},
        STRICT | {"properties": {"label": True}},
        {"$ref": "#/$defs/a", "$defs": {"a": STRICT | {"properties": {"label": {"$ref": "#/$defs/a"}}}}},
        {
            "$ref": "#/$defs/a",
            "$defs": {
                "a": STRICT | {"properties": {"label": {"$ref": "#/$defs/b"}}},
                "b": STRICT | {"properties": {"label": {"$ref": "#/$defs/a"}}},
            },
        },
    ],
)
def test_what_anthropic_has_no_form_for_is_recognized(schema: dict[str, Any]) -> None:
    """Free objects and recursion: a form that is always refused, or says something else, would be worse."""
    assert anthropic_form(schema) is None


def test_every_provider_says_how_it_is_asked() -> None:
    """The default is that of the wire format; the exceptions are listed here."""
    others = {name: row.structured for name, row in PROVIDERS.items() if row.structured != "schema"}

    assert others == {"deepseek": "object", "perplexity": "response_format"}
    assert KnownProvider("", "", "").structured == "schema"


# Repair.

MISFIT = Misfit(("/label: is odd", "/size: is large"))
COMPLAINT = (
    "That answer does not fit the JSON schema:\n- /label: is odd\n- /size: is large\n"
    "Answer again with the whole corrected JSON and nothing else."
)


def again(endpoint: str, body: dict[str, Any], text: str | None, answer: object = None, *, schema: str = "") -> Any:
    request = Request(Route("r", "a"), "http://x/v1", {}, dumps(body).encode(), endpoint, 100, "0")
    outcome = Outcome("success", text=text, body=dumps(answer))
    found = repair_request(request, outcome, MISFIT, schema=schema)
    if found is None:
        return None
    assert (found.first, found.follow_ups, found.url) == (request, 1, request.url)
    assert found.tokens > request.tokens
    second = repair_request(found, outcome, MISFIT)
    assert second is not None
    assert (second.first, second.follow_ups) == (request, 2)
    return json.loads(found.body)


USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "no"}
AGAIN = {"role": "user", "content": COMPLAINT}


@pytest.mark.parametrize("endpoint", ["chat", "messages"])
def test_a_conversation_goes_on_with_the_answer_and_its_faults(endpoint: str) -> None:
    """All else is as it was."""
    body = {"model": "m", "messages": [USER], "temperature": 0.5}

    assert again(endpoint, body, "no") == body | {"messages": [USER, ASSISTANT, AGAIN]}
    assert again(endpoint, body, " ") == body | {"messages": [USER, AGAIN]}  # no provider takes an empty turn
    assert again(endpoint, {"model": "m", "messages": "hi"}, "no") is None


def test_a_model_that_was_not_told_the_schema_is_told() -> None:
    """A batch row's body need not have it."""
    turns = again("chat", {"messages": [USER]}, "no", schema=dumps(STRICT))["messages"]

    assert turns[-1]["content"] == f"{COMPLAINT}\nThe JSON Schema:\n{dumps(STRICT)}"


def test_the_input_of_responses_goes_on_too() -> None:
    """A text becomes a message; a stored prompt has no input yet; a conversation keeps what was said."""
    assert again("responses", {"input": "hi"}, "no") == {"input": [USER, ASSISTANT, AGAIN]}
    assert again("responses", {"input": [USER]}, "no") == {"input": [USER, ASSISTANT, AGAIN]}
    assert again("responses", {"prompt": {"id": "p"}}, "no") == {"prompt": {"id": "p"}, "input": [ASSISTANT, AGAIN]}
    body = {"input": "hi", "conversation": "conv_1"}
    assert again("responses", body, "no") == body | {"input": [AGAIN]}


def test_a_completion_goes_on_as_text() -> None:
    """It has no turns; tokens or several prompts cannot go on."""
    assert again("completions", {"prompt": "hi"}, "no") == {"prompt": f"hino\n\n{COMPLAINT}\n\n"}
    assert again("completions", {"prompt": ["hi"]}, "no") is None
    assert again("raw", {"prompt": "hi"}, "no") is None


def test_a_tool_call_is_an_answer_and_goes_on_as_its_result() -> None:
    """Its arguments are checked, if it is the only one; each wire format has its own form of results."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"label":1}'}}
    chat = {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [call]}}]}
    block = {"type": "tool_use", "id": "t1", "name": "f", "input": {"label": 1}}
    messages = {"content": [{"type": "thinking", "thinking": "…"}, block]}
    item = {"type": "function_call", "call_id": "f1", "name": "f", "arguments": '{"label":1}'}
    responses = {"output": [{"type": "reasoning", "id": "rs"}, item]}

    for endpoint, answer in (("chat", chat), ("messages", messages), ("responses", responses)):
        assert answer_text(Outcome("success", body=dumps(answer)), endpoint) == '{"label":1}'
    two = {"choices": [{"message": {"tool_calls": [call, call]}}]}
    assert answer_text(Outcome("success", body=dumps(two)), "chat") is None
    assert again("chat", {"messages": [USER]}, None, chat)["messages"] == [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": COMPLAINT},
    ]
    result = {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": COMPLAINT}
    assert again("messages", {"messages": [USER]}, None, messages)["messages"] == [
        USER,
        {"role": "assistant", "content": messages["content"]},
        {"role": "user", "content": [result]},
    ]
    output = {"type": "function_call_output", "call_id": "f1", "output": COMPLAINT}
    assert again("responses", {"input": "hi"}, None, responses)["input"] == [USER, *responses["output"], output]
    kept = again("responses", {"input": "hi", "conversation": "c"}, None, responses)["input"]
    assert kept == [output]
