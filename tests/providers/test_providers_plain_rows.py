"""Plain rows are composed from what the first of their kind came to; it must be what any row comes to."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import LlmbatchError
from llmbatch.core.rows import Row
from llmbatch.inputs.rows import parse_line
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.plain_rows import PlainRows
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.providers.structured.load import load_schema


class NoTransport:
    async def post(self, request: Request, *, timeout: float) -> Reply:
        body = b'data: {"choices":[{"delta":{"content":"yes"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        return Reply(200, {"content-type": "text/event-stream"}, body)

    async def aclose(self) -> None:
        pass


def provider(**options: Any) -> HttpProvider:
    environ = {"OPENAI_API_KEY": "sk-none", "ANTHROPIC_API_KEY": "sk-none"}
    return HttpProvider(ProviderSettings(**{"model": "openai/m", "environ": environ} | options), NoTransport())


def row_of(value: object, number: int = 1) -> Row:
    row = parse_line(number, json.dumps(value).encode())
    assert isinstance(row, Row), row
    return row


def composed(of: HttpProvider, row: Row) -> tuple[object, object]:
    """The route and request of *row*, or the code and words of its error."""
    try:
        route = of.routes(row)[0]
        return route, of.request(row, route)
    except LlmbatchError as error:
        return type(error), str(error)


TEXTS = st.sampled_from(["user", "m", "is it?", 'a "quote"', "file:a.png", "ö", "\n", "{}", "0"]) | st.text(min_size=1)
PARTS = st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}) | st.just(
    {"type": "image_url", "image_url": {"url": "file:missing.png"}}
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": TEXTS | st.lists(PARTS)}), max_size=3
)
PLAIN = st.fixed_dictionaries({"prompt": TEXTS}) | st.fixed_dictionaries({"messages": MESSAGES})
ANY = st.fixed_dictionaries(
    {},
    optional={
        "id": TEXTS,
        "prompt": TEXTS | MESSAGES | st.just({"id": "stored"}),
        "messages": MESSAGES | TEXTS,
        "input": TEXTS,
        "model": st.sampled_from(["m", "openai/n", "other", "ollama/x", "", "text-embed"]) | st.none(),
        "metadata": st.dictionaries(TEXTS, TEXTS, max_size=2),
        "system": TEXTS,
        "max_tokens": st.integers(1, 9),
        "n": st.integers(1, 3),
        "topic": TEXTS,
        "stream": st.booleans(),
        "instruction": TEXTS,
    },
)
ROWS = PLAIN | PLAIN | ANY
OPTIONS: Sequence[dict[str, Any]] = (
    {},
    {"system": "Be brief."},
    {"params": {"temperature": "0", "max_tokens": "7"}},
    {"params": {"n": "2"}},
    {"model": "anthropic/claude"},
    {"model": "anthropic/claude", "system": "Be brief."},
    {"endpoint": "responses"},
    {"endpoint": "responses", "system": "Be brief."},
    {"endpoint": "embeddings"},
    {"endpoint": "completions"},
    {"model": "openai/text-embedding-3-small"},
    {"server_files": True},
    {"schema": load_schema({"type": "object"})},
    {"tiers": ("flex", "standard")},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@settings(max_examples=20)
@given(values=st.lists(ROWS, min_size=2, max_size=8))
def test_a_row_becomes_the_same_request_whatever_rows_came_before(
    options: dict[str, Any], values: list[dict[str, Any]]
) -> None:
    """One provider sees all rows, each of the others a single one: all requests are equal, down to the byte."""
    seen = provider(**options)
    lines = [json.dumps(value).encode() for value in values]

    for line in [*lines, *lines]:
        row, again = parse_line(1, line), parse_line(1, line)
        if isinstance(row, Row) and isinstance(again, Row):
            assert composed(seen, row) == composed(provider(**options), again)
            assert row.fields == again.fields


@pytest.mark.parametrize(
    "options", [{}, {"model": "anthropic/claude"}, {"endpoint": "responses", "system": "Be brief."}]
)
def test_a_system_message_has_the_same_place_after_rows_without_one(options: dict[str, Any]) -> None:
    """Anthropic's format takes it out of the messages, and a system message of the row replaces that of the run."""
    of = provider(**options)
    system, user = {"role": "system", "content": "S"}, {"role": "user", "content": "U"}
    composed(of, row_of({"messages": [user]}))

    later = composed(of, row_of({"messages": [system, user]}))

    assert later == composed(provider(**options), row_of({"messages": [system, user]}))


@pytest.mark.parametrize(
    "values",
    [
        [{"prompt": "first"}, {"prompt": "second"}],
        [{"id": "a", "prompt": "first", "metadata": {"k": 1}}, {"id": "b", "prompt": "second", "metadata": {"k": 2}}],
        [{"messages": [{"role": "user", "content": "first"}]}, {"messages": [{"role": "system", "content": "2"}]}],
        [{"prompt": "first", "model": "n"}, {"prompt": "second", "model": "n"}],
    ],
)
def test_the_second_row_of_a_kind_is_known(values: list[dict[str, Any]]) -> None:
    """Else the shorter way would never be taken, and the test above would show nothing."""
    first, second = (row_of(value) for value in values)
    of = provider()
    plain = of._plain
    assert isinstance(plain, PlainRows)

    composed(of, first)

    assert plain.find(second.fields) is not None


def test_a_prompt_that_is_found_in_the_request_elsewhere_is_not_learned_from() -> None:
    """The prompt `user` is also the role: where the content stands cannot be told from it."""
    of = provider()
    composed(of, row_of({"prompt": "user"}))

    _, request = composed(of, row_of({"prompt": "hello"}))

    assert isinstance(request, Request)
    assert json.loads(request.body)["messages"] == [{"role": "user", "content": "hello"}]


async def test_rows_are_composed_anew_once_their_server_is_known_to_stream() -> None:
    """A server that streams unasked gets ``stream: false`` with all later requests, also of rows of a known kind."""
    of = provider()
    route = of.routes(row_of({"prompt": "zero"}))[0]
    of.request(row_of({"prompt": "zero"}), route)
    request = of.request(row_of({"prompt": "one"}), route)
    await of.call(request, None, timeout=1.0)

    later = of.request(row_of({"prompt": "two"}), route)

    assert json.loads(later.body)["stream"] is False


def test_rows_are_counted_by_whose_model_they_take() -> None:
    """Also those of a known kind: the warning about an unused -m rests on it."""
    of = provider()
    for number, value in enumerate([{"prompt": "a"}, {"prompt": "b", "model": "n"}] * 3, 1):
        of.routes(row := row_of(value, number))
        of.request(row, of.routes(row)[0])

    assert (of.models.own, of.models.run) == (3, 3)


def test_what_is_known_of_a_kind_does_not_hold_the_content_of_its_first_row() -> None:
    """A prompt may have 64 MB, and a run 64 kinds of rows."""
    of = provider()
    size = 1_000_000
    tracemalloc.start()
    try:
        for number in range(5):
            composed(of, row_of({"prompt": "x" * size, "model": f"m{number}"}))
            composed(of, row_of({"prompt": "y", "model": f"m{number}"}))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < size
