"""Rows into bodies: what is sent, byte for byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.core.calls import Endpoint
from llmbatch.core.errors import MalformedRowError
from llmbatch.core.raw_json import dumps, split_array, split_object
from llmbatch.providers.formats.bodies import compose_body, to_bytes
from llmbatch.providers.formats.ping import ping_body
from llmbatch.providers.formats.row_kind import parse_kind

BIG = "123456789012345678901234567890"
ODD = '{ "a" :  1.10 ,\t"b":[ 1,2 ] , "n": ' + BIG + ', "e":1E+2 , "\\u00e9":"\\/" }'


def fields_of(text: str) -> dict[str, str]:
    fields = split_object(text)
    assert fields is not None
    return fields


def body_of(row: str, endpoint: Endpoint, *, system: str | None = None, params: dict[str, str] | None = None) -> str:
    fields = fields_of(row)
    return to_bytes(
        compose_body(endpoint, fields, model='"m"', system=system and dumps(system), params=params or {})
    ).decode()


COMPOSED = [
    ("chat", '{"prompt":"hi"}', '{"model":"m","messages":[{"role":"user","content":"hi"}]}'),
    ("chat", '{"messages":[ {"role":"user"} ]}', '{"model":"m","messages":[ {"role":"user"} ]}'),
    ("chat", '{"input":"hi"}', '{"model":"m","messages":[{"role":"user","content":"hi"}]}'),
    ("chat", '{"prompt":[{"role":"user","content":"a"}]}', '{"model":"m","messages":[{"role":"user","content":"a"}]}'),
    (
        "chat",
        '{"prompt":[{"type":"text","text":"a"}]}',
        '{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}',
    ),
    ("responses", '{"prompt":"hi"}', '{"model":"m","input":"hi"}'),
    ("responses", '{"input":"hi"}', '{"model":"m","input":"hi"}'),
    ("responses", '{"input":[{"role":"user"}]}', '{"model":"m","input":[{"role":"user"}]}'),
    ("responses", '{"messages":[{"role":"user"}]}', '{"model":"m","input":[{"role":"user"}]}'),
    (
        "responses",
        '{"prompt":[{"type":"input_text","text":"a"}]}',
        '{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"a"}]}]}',
    ),
    ("responses", '{"prompt":{"id":"p1"},"input":"hi"}', '{"model":"m","prompt":{"id":"p1"},"input":"hi"}'),
    ("responses", '{"prompt":{"id":"p1"}}', '{"model":"m","prompt":{"id":"p1"}}'),
    ("embeddings", '{"input":["a","b"]}', '{"model":"m","input":["a","b"]}'),
    ("embeddings", '{"prompt":"hi"}', '{"model":"m","input":"hi"}'),
    ("completions", '{"prompt":"hi"}', '{"model":"m","prompt":"hi"}'),
    ("completions", '{"prompt":["a","b"]}', '{"model":"m","prompt":["a","b"]}'),
    ("messages", '{"prompt":"hi"}', '{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":4096}'),
    (
        "messages",
        '{"max_tokens":5,"messages":[{"role":"user"}],"system":"s"}',
        '{"model":"m","max_tokens":5,"messages":[{"role":"user"}],"system":"s"}',
    ),
]


@pytest.mark.parametrize(("endpoint", "row", "body"), COMPOSED)
def test_content_takes_the_form_of_the_endpoint(endpoint: Endpoint, row: str, body: str) -> None:
    """Prompt, messages and input become what the endpoint calls its content."""
    assert body_of(row, endpoint) == body


def test_other_members_pass_through_in_order_and_unchanged() -> None:
    """Numbers, spacing and escapes inside values stay as they are; only the content is wrapped."""
    row = (
        '{"temperature": 0.10, "prompt" : "h\\u0069", "tools":'
        + ODD
        + ', "seed":'
        + BIG
        + ', "model": "x", "top_p":1E0}'
    )

    body = body_of(row, "chat")

    assert body == (
        '{"temperature":0.10,"messages":[{"role":"user","content":"h\\u0069"}],"tools":'
        + ODD
        + ',"seed":'
        + BIG
        + ',"model":"m","top_p":1E0}'
    )


def test_the_rows_own_affairs_are_not_sent() -> None:
    """Metadata, further names, and what only batch rows mean stay here."""
    row = '{"prompt":"hi","metadata":{"a":1},"url":"/x","method":"GET","custom_id":"c","key":1,"row_id":2,"user":"u"}'

    assert body_of(row, "chat") == '{"model":"m","messages":[{"role":"user","content":"hi"}],"user":"u"}'


@pytest.mark.parametrize(
    ("endpoint", "row"),
    [
        ("chat", '{"temperature":1}'),
        ("chat", '{"prompt":5}'),
        ("chat", '{"prompt":null}'),
        ("chat", '{"prompt":true}'),
        ("chat", '{"prompt":{"a":1}}'),
        ("chat", '{"prompt":[]}'),
        ("chat", '{"prompt":["a","b"]}'),
        ("chat", '{"prompt":[{"x":1}]}'),
        ("chat", '{"messages":"hi"}'),
        ("chat", '{"messages":[ ]}'),
        ("chat", '{"input":["a"]}'),
        ("messages", '{"input":{"a":1}}'),
        ("messages", '{"messages":[{"role":"system","content":"s"}]}'),
        ("responses", '{"input":5}'),
        ("responses", '{"prompt":["a"]}'),
        ("embeddings", '{"messages":[{"role":"user"}]}'),
        ("embeddings", '{"input":null}'),
        ("completions", '{"messages":[{"role":"user"}]}'),
        ("completions", '{"input":"hi"}'),
    ],
)
def test_row_without_content_for_the_endpoint_is_malformed(endpoint: Endpoint, row: str) -> None:
    """What is no prompt of the endpoint's kind is the row's own fault, told before anything is sent."""
    with pytest.raises(MalformedRowError) as caught:
        body_of(row, endpoint)

    assert caught.value.code == "input_no_prompt"


SYSTEM = [
    (
        "chat",
        '{"prompt":"hi"}',
        '{"model":"m","messages":[{"role":"system","content":"be \\"brief\\""},{"role":"user","content":"hi"}]}',
    ),
    (
        "chat",
        '{"messages":[{"role":"user","content":"a \\"system\\" b"}]}',
        '{"model":"m","messages":[{"role":"system","content":"be \\"brief\\""},'
        '{"role":"user","content":"a \\"system\\" b"}]}',
    ),
    ("chat", '{"messages":[{"role":"system","content":"own"}]}', None),
    ("chat", '{"messages":[{"role":"user"},{"role":"developer","content":"own"}]}', None),
    ("chat", '{"messages":[{"role":"s\\u0079stem","content":"own"}]}', None),
    (
        "chat",
        '{"system":"own","prompt":"hi"}',
        '{"model":"m","messages":[{"role":"system","content":"own"},{"role":"user","content":"hi"}]}',
    ),
    ("responses", '{"input":"hi"}', '{"model":"m","input":"hi","instructions":"be \\"brief\\""}'),
    ("responses", '{"input":"hi","instructions":"own"}', None),
    ("responses", '{"system":"own","input":"hi"}', '{"model":"m","input":"hi","instructions":"own"}'),
    (
        "responses",
        '{"messages":[{"role":"system","content":"own"}]}',
        '{"model":"m","input":[{"role":"system","content":"own"}]}',
    ),
    (
        "messages",
        '{"prompt":"hi"}',
        '{"model":"m","messages":[{"role":"user","content":"hi"}],"system":"be \\"brief\\"","max_tokens":4096}',
    ),
    (
        "messages",
        '{"prompt":"hi","system":"own"}',
        '{"model":"m","messages":[{"role":"user","content":"hi"}],"system":"own","max_tokens":4096}',
    ),
    ("embeddings", '{"input":"hi"}', None),
    ("completions", '{"prompt":"hi"}', None),
]


@pytest.mark.parametrize(("endpoint", "row", "body"), SYSTEM)
def test_system_prompt_is_added_where_the_row_has_none(endpoint: Endpoint, row: str, body: str | None) -> None:
    """Each format has its own place for it, and the row's own word wins."""
    expected = body if body is not None else body_of(row, endpoint)

    assert body_of(row, endpoint, system='be "brief"') == expected


LEADING = [
    ('[{"role":"system","content":"a"},{"role":"user"}]', '"a"', '[{"role":"user"}]'),
    (
        '[{"role":"system","content":"a"}, {"role":"developer","content":[ {"type":"text","text":"b"} ]},'
        '{"role":"user"}]',
        '[{"type":"text","text":"a"},{"type":"text","text":"b"}]',
        '[{"role":"user"}]',
    ),
    (
        '[{"role":"system","content":"a"},{"role":"user"},{"role":"system","content":"later"}]',
        '"a"',
        '[{"role":"user"},{"role":"system","content":"later"}]',
    ),
]


@pytest.mark.parametrize(("messages", "system", "rest"), LEADING)
def test_leading_system_messages_move_to_the_top_for_anthropic(messages: str, system: str, rest: str) -> None:
    """They become the top-level system prompt; what comes later stays where it is."""
    body = body_of(f'{{"messages":{messages}}}', "messages", system="unused")

    assert body == f'{{"model":"m","messages":{rest},"system":{system},"max_tokens":4096}}'


def test_leading_system_messages_join_the_rows_own_system() -> None:
    """Nothing that the row says is lost."""
    row = '{"system":"own","messages":[{"role":"system","content":"a"},{"role":"user"}]}'

    members = fields_of(body_of(row, "messages"))

    assert members["system"] == '[{"type":"text","text":"own"},{"type":"text","text":"a"}]'


def test_parameters_fill_gaps_and_never_override_the_row() -> None:
    """A run's parameter goes where the row has none, as the text it was given as."""
    body = body_of('{"prompt":"hi","seed":1}', "chat", params={"seed": "2", "top_p": "0.50"})

    assert body == '{"model":"m","messages":[{"role":"user","content":"hi"}],"seed":1,"top_p":0.50}'


def test_given_max_tokens_beats_the_default_for_anthropic() -> None:
    """4096 is what nobody chose."""
    assert '"max_tokens":7' in body_of('{"prompt":"hi"}', "messages", params={"max_tokens": "7"})
    assert body_of('{"prompt":"hi"}', "messages", params={"max_tokens": "7"}).count("max_tokens") == 1


ENDPOINT_OF_ROW = [
    ('{"prompt":"hi"}', None, None, False),
    ('{"messages":[]}', None, None, False),
    ('{"input":"hi"}', None, "responses", False),
    ('{"input":"hi"}', "text-embedding-3-small", "embeddings", False),
    ('{"input":"hi","model":"text-embedding-3-small"}', "gpt", "embeddings", False),
    ('{"input":"hi","model":"gpt"}', "text-embedding-3-small", "responses", False),
    ('{"prompt":"hi"}', "nomic-Embed-text", "embeddings", False),
    ('{"prompt":{"id":"p"},"input":"hi"}', None, "responses", False),
    ('{"params":{"messages":[]}}', None, "messages", True),
    ('{"body":{},"url":"/v1/chat/completions"}', None, "chat", False),
    ('{"body":{},"url":"\\/v1\\/responses"}', None, "responses", False),
    ('{"body":{},"url":"/v1/embeddings","method":"POST"}', None, "embeddings", False),
    ('{"body":{},"url":"/v1/completions"}', None, "completions", False),
    ('{"body":{},"url":"/v1/messages"}', None, "messages", True),
    ('{"body":{"messages":[]}}', None, None, False),
    ('{"body":{"input":"x"}}', None, "responses", False),
    ('{"body":{"input":"x","model":"embed-1"}}', None, "embeddings", False),
    ('{"body":{"prompt":"x"}}', None, "completions", False),
]


@pytest.mark.parametrize(("row", "model", "endpoint", "anthropic"), ENDPOINT_OF_ROW)
def test_row_says_its_endpoint_or_leaves_it_to_the_provider(
    row: str, model: str | None, endpoint: str | None, anthropic: bool
) -> None:
    """The batch row's url, else the kind of content and the model's name; prompts and messages fit many."""
    shape = parse_kind(fields_of(row), model=model)

    assert (shape.endpoint, shape.anthropic) == (endpoint, anthropic)


@pytest.mark.parametrize(
    "wrap", ['{{"custom_id":"c","method":"POST","url":"/v1/responses","body":{}}}', '{{"params":{}}}']
)
def test_batch_row_is_sent_byte_for_byte(wrap: str) -> None:
    """Spacing, digits and escapes of body or params stay as they are."""
    shape = parse_kind(fields_of(wrap.format(ODD)), model=None)

    assert shape.body == ODD


REFUSED = [
    ('{"body":{},"url":"https://elsewhere.example/v1/chat/completions"}', "input_bad_url"),
    ('{"body":{},"url":"/v1/files"}', "input_bad_url"),
    ('{"body":{},"url":5}', "input_bad_url"),
    ('{"body":{},"method":"GET"}', "input_bad_method"),
    ('{"body":{},"method":5}', "input_bad_method"),
    ('{"body":[]}', "input_bad_body"),
    ('{"body":"{}"}', "input_bad_body"),
    ('{"body":null}', "input_bad_body"),
    ('{"params":[1]}', "input_bad_body"),
    ('{"prompt":"hi","stream":true}', "input_stream"),
    ('{"body":{"stream" : true}}', "input_stream"),
    ('{"params":{"stream":true}}', "input_stream"),
    ('{"prompt":"hi","model":5}', "input_bad_model"),
    ('{"prompt":"hi","model":""}', "input_bad_model"),
    ('{"prompt":"hi","base_url":"http://x"}', "input_forbidden_member"),
    ('{"prompt":"hi","api_key":"x"}', "input_forbidden_member"),
    ('{"prompt":"hi","headers":{}}', "input_forbidden_member"),
    ('{"prompt":"hi","extra_headers":{}}', "input_forbidden_member"),
    ('{"prompt":"hi","extra_query":{}}', "input_forbidden_member"),
    ('{"body":{},"headers":{}}', "input_forbidden_member"),
]


@pytest.mark.parametrize(("row", "code"), REFUSED)
def test_row_that_can_be_no_request_is_refused_with_its_code(row: str, code: str) -> None:
    """Rows choose neither URL nor headers nor key, and no result line holds a stream."""
    with pytest.raises(MalformedRowError) as caught:
        parse_kind(fields_of(row), model=None)

    assert caught.value.code == code


def test_null_model_and_stream_false_are_no_trouble() -> None:
    """Exported tables have nulls where nothing was said."""
    shape = parse_kind(fields_of('{"prompt":"hi","model":null,"stream":false}'), model="m")

    assert shape.model is None
    assert (
        body_of('{"prompt":"hi","model":null}', "chat") == '{"messages":[{"role":"user","content":"hi"}],"model":"m"}'
    )


CANARIES = [
    ("chat", '{"model":"m"}', '{"model":"m","messages":[{"role":"user","content":"ping"}]}'),
    (
        "chat",
        '{"model":"m","max_tokens":900}',
        '{"model":"m","messages":[{"role":"user","content":"ping"}],"max_tokens":1}',
    ),
    (
        "chat",
        '{"max_completion_tokens":900,"model":"m"}',
        '{"model":"m","messages":[{"role":"user","content":"ping"}],"max_completion_tokens":16}',
    ),
    (
        "chat",
        '{"model":"m","messages":[],"service_tier":"flex"}',
        '{"model":"m","service_tier":"flex","messages":[{"role":"user","content":"ping"}]}',
    ),
    ("responses", '{"model":"m","input":"long"}', '{"model":"m","input":"ping","max_output_tokens":16}'),
    ("embeddings", '{"model":"m","input":"long"}', '{"model":"m","input":"ping"}'),
    ("completions", '{"model":"m"}', '{"model":"m","prompt":"ping","max_tokens":1}'),
    ("messages", '{"model":"m"}', '{"model":"m","messages":[{"role":"user","content":"ping"}],"max_tokens":1}'),
    ("messages", "{}", '{"messages":[{"role":"user","content":"ping"}],"max_tokens":1}'),
]


@pytest.mark.parametrize(("endpoint", "like", "body"), CANARIES)
def test_canary_is_the_smallest_request_with_the_same_model_and_spelling(
    endpoint: Endpoint, like: str, body: str
) -> None:
    """It asks for one word, and limits it as the row's request did."""
    assert ping_body(endpoint, like.encode()).decode() == body


@settings(max_examples=40)
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers() | st.text() | st.none(), max_size=6))
def test_any_parameters_survive_the_splice(extra: dict[str, int | str | None]) -> None:
    """Whatever members a row has beside its prompt, the body is valid JSON and holds them."""
    reserved = {"prompt", "messages", "input", "model", "system", "metadata", "url", "method"}
    extra = {k: v for k, v in extra.items() if k not in reserved | {"id", "custom_id", "key", "row_id"}}

    body = body_of(dumps({**extra, "prompt": "hi"}), "chat")

    assert json.loads(body) == {**extra, "model": "m", "messages": [{"role": "user", "content": "hi"}]}


JSON_VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8)


@settings(max_examples=40)
@given(st.lists(JSON_VALUES, max_size=5), st.sampled_from(["", " ", "\n\t "]))
def test_array_splits_into_the_source_of_its_items(items: list[object], space: str) -> None:
    """Each item comes back as it was written, whatever the spacing between."""
    sources = [dumps(item) for item in items]
    text = f"{space}[{space}" + f"{space},{space}".join(sources) + f"{space}]{space}"

    assert split_array(text) == sources


@pytest.mark.parametrize("text", ["{}", '"[]"', "1"])
def test_what_is_no_array_is_not_split(text: str) -> None:
    """Other values are told apart from an empty array."""
    assert split_array(text) is None
