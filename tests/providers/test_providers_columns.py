"""Rows with columns of people's own: what is a request parameter is sent, the rest comes back in the metadata."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import MalformedRowError
from llmbatch.core.ports import first_request
from llmbatch.core.rows import Row
from llmbatch.inputs.rows import parse_line
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings


class Nowhere:
    async def post(self, request: Request, *, timeout: float) -> Reply:
        raise AssertionError("nothing is sent here")

    async def aclose(self) -> None:
        """Nothing is open."""


def row_of(members: object) -> Row:
    row = parse_line(1, json.dumps(members).encode())
    assert isinstance(row, Row)
    return row


def sent(row: Row, *, params: dict[str, str] | None = None, warnings: list[str] | None = None, **settings: Any) -> Any:
    """The body that *row* becomes, parsed."""
    told: list[str] = [] if warnings is None else warnings
    connection = ProviderSettings(
        model="openai/m", params=params or {}, environ={"OPENAI_API_KEY": "sk-test-0123456789"}, **settings
    )
    return json.loads(first_request(HttpProvider(connection, Nowhere(), warn=told.append), row).body)


def metadata(row: Row) -> object:
    text = row.fields.get("metadata")
    return None if text is None else json.loads(text)


def test_a_column_of_the_users_was_sent_as_a_request_parameter() -> None:
    """``label`` and ``source`` are no parameters: a strict server refused the row for them."""
    row = row_of({"prompt": "a", "label": "x", "source": {"n": 1}, "temperature": 0.5})
    warnings: list[str] = []

    body = sent(row, warnings=warnings)

    assert body == {"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": 0.5}
    assert metadata(row) == {"label": "x", "source": {"n": 1}}
    assert len(warnings) == 1
    assert "label, source" in warnings[0]
    assert "-P label=" in warnings[0]


def test_what_p_names_is_sent() -> None:
    """A parameter that is not known is one if ``-P`` names it; the row's own value wins."""
    row = row_of({"prompt": "a", "min_q": 3, "label": "x"})

    assert sent(row, params={"min_q": "1"})["min_q"] == 3
    assert metadata(row) == {"label": "x"}


@pytest.mark.parametrize(
    ("own", "echoed"),
    [
        ({"label": "mine", "t": 1}, {"label": "mine", "t": 1}),
        (None, {"label": "x"}),
        ("text", {"label": "x", "metadata": "text"}),
        ({}, {"label": "x"}),
    ],
)
def test_the_rows_own_metadata_stays_beside_the_columns(
    own: str | dict[str, Any] | None, echoed: dict[str, Any]
) -> None:
    """A member that the metadata has already wins; metadata that is no object becomes a member."""
    row = row_of({"prompt": "a", "label": "x", "metadata": own})

    first = sent(row)

    assert metadata(row) == echoed
    assert (sent(row), metadata(row)) == (first, echoed)  # made again after a wait


def test_columns_are_told_once() -> None:
    """One warning, however many rows have them."""
    warnings: list[str] = []
    connection = ProviderSettings(model="openai/m", environ={"OPENAI_API_KEY": "sk-test-0123456789"})
    provider = HttpProvider(connection, Nowhere(), warn=warnings.append)

    for number in range(5):
        first_request(provider, row_of({"prompt": f"{number}", "label": number}))

    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("fields", "endpoint"),
    [
        ({"prompt": "a", "tools": [], "reasoning_effort": "low", "max_completion_tokens": 9}, None),
        ({"messages": [{"role": "user", "content": "a"}], "logit_bias": {}, "chat_template_kwargs": {}}, None),
        ({"input": "a", "instructions": "b", "previous_response_id": "r", "text": {}}, None),
        ({"input": "a", "dimensions": 8, "encoding_format": "float"}, "embeddings"),
        ({"prompt": "a", "suffix": "b", "echo": True, "best_of": 2}, "completions"),
        ({"prompt": "a", "system": "s", "thinking": {}, "top_k": 3, "stop_sequences": []}, "messages"),
    ],
)
def test_parameters_of_the_endpoints_pass(fields: Any, endpoint: str | None) -> None:
    """What the providers document is sent, and nothing is told."""
    row = row_of(fields)
    warnings: list[str] = []

    body = sent(row, warnings=warnings, endpoint=endpoint)

    assert warnings == []
    assert fields.keys() - {"prompt"} <= body.keys()


def test_a_batch_rows_body_is_sent_whatever_it_holds() -> None:
    """Byte for byte."""
    row = row_of({"custom_id": "a", "body": {"model": "m", "messages": [], "label": 1}})
    warnings: list[str] = []

    assert sent(row, warnings=warnings) == {"model": "m", "messages": [], "label": 1}
    assert (warnings, metadata(row)) == ([], None)


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"instruction": "Say it", "input": 'this "x" \u00e9', "output": "gold"}, 'Say it\n\nthis "x" \u00e9'),
        ({"instruction": "Say it", "input": "", "output": "gold"}, "Say it"),
        ({"instruction": "Say it", "output": "gold"}, "Say it"),
    ],
)
def test_an_alpaca_row_lost_its_instruction_and_sent_its_gold_output(fields: dict[str, str], prompt: str) -> None:
    """Instruction and input become the prompt, the output comes back in the metadata and is never sent."""
    row = row_of(fields)
    warnings: list[str] = []

    body = sent(row, warnings=warnings)

    assert body == {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    assert metadata(row) == {"output": "gold"}
    assert any("instruction" in text for text in warnings)


def test_an_instruction_beside_a_prompt_is_a_column_like_any_other() -> None:
    """Who wrote a prompt has said what to send."""
    row = row_of({"prompt": "a", "instruction": "b"})

    assert sent(row)["messages"] == [{"role": "user", "content": "a"}]
    assert metadata(row) == {"instruction": "b"}


def test_an_instruction_with_an_input_that_is_no_string_is_refused() -> None:
    """There is no telling what it means."""
    with pytest.raises(MalformedRowError, match="must be a string"):
        sent(row_of({"instruction": "a", "input": [1]}))
