"""Asks for answers that fit a schema, as each provider and wire format knows it. Pure.

============  ===============================================================================================
chat          ``response_format`` with ``json_schema``, or ``json_object`` and the schema in the system prompt
responses     ``text.format``; Perplexity: ``response_format``
messages      ``output_config.format``; schemas that it cannot say go into the system prompt
completions   ``response_format``, on servers that have it there (vLLM, and others without a name)
============  ===============================================================================================

What a request sets itself is left alone: a format, tools, or guided decoding.
"""

from __future__ import annotations

from llmbatch.core.calls import Endpoint
from llmbatch.core.errors import MalformedRowError
from llmbatch.core.raw_json import dumps, split_array, split_object
from llmbatch.providers.catalog import KnownProvider
from llmbatch.providers.formats.bodies import to_bytes
from llmbatch.providers.structured.forms import anthropic_form, is_strict, tightened
from llmbatch.providers.structured.schema import AnswerSchema

__all__ = ["TEXTLESS", "SchemaAsker"]

TEXTLESS = frozenset({"embeddings", "raw"})
"""Endpoints whose answers have no text to check."""

_OWN = frozenset(
    {
        *("response_format", "output_format", "tools", "functions", "structured_outputs", "grammar", "json_schema"),
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
    }
)
"""Parameters with which a request says itself what its answer must look like."""

_COMPLETING = frozenset({"", "vllm", "sim"})
"""Providers whose completions take ``response_format``; the first one has no name."""

_OBJECT = '{"type":"json_object"}'


class SchemaAsker:
    """Writes the request for *schema* into the members of request bodies. Immutable."""

    def __init__(self, schema: AnswerSchema) -> None:
        document = dict(schema.schema)
        tight = tightened(document) if schema.may_tighten else document
        is_tight = is_strict(tight) if schema.strict is None else schema.strict
        asked = dumps(tight if is_tight else document)
        strict = "" if not is_tight and schema.strict is None else f',"strict":{dumps(is_tight)}'
        named = f'"name":{dumps(schema.name)},"schema":{asked}{strict}'
        own = anthropic_form(document)
        self.text = dumps(document)
        """The schema as JSON text."""
        self._chat = f'{{"type":"json_schema","json_schema":{{{named}}}}}'
        self._responses = f'{{"type":"json_schema",{named}}}'
        self._messages = None if own is None else f'{{"type":"json_schema","schema":{dumps(own)}}}'
        self._instruction = (
            "Answer with JSON only, without any other text, and without a code fence. The JSON must fit this JSON "
            f"Schema:\n{self.text}"
        )

    def refuse_textless(self, endpoint: Endpoint) -> None:
        """Refuse a row of an endpoint whose answers have no text.

        Raises:
            MalformedRowError: it is such a row.
        """
        if endpoint in TEXTLESS:
            raise MalformedRowError("input_no_schema", f"--schema checks texts, and {endpoint} has none")

    def ask(self, provider: KnownProvider, endpoint: Endpoint, members: dict[str, str]) -> None:
        """Add what asks for the schema to *members*, the request body of a row that is not sent as it is."""
        if not _OWN.isdisjoint(members):
            return
        match endpoint:
            case "chat" if provider.structured == "object":
                members["response_format"] = _OBJECT
                members["messages"] = _instructed(members["messages"], self._instruction)
            case "chat":
                members["response_format"] = self._chat
            case "responses" if provider.structured == "response_format":
                members["response_format"] = self._chat
            case "responses":
                _set_format(members, "text", self._responses)
            case "messages" if self._messages is not None:
                _set_format(members, "output_config", self._messages)
            case "messages":
                members["system"] = _extended(members.get("system"), self._instruction)
            case "completions" if provider.name in _COMPLETING:
                members["response_format"] = self._chat
            case _:
                pass

    def ask_otherwise(self, endpoint: str, body: bytes) -> bytes | None:
        """The request *body* asking in the next way, for a model that refuses this one; None if there is none.

        Chat: ``json_schema``, then ``json_object`` with the schema in the system prompt, then the system prompt alone;
        responses and messages: the latter; completions: no way, so that a repair is the first to tell the schema. A
        body that was not asked by :meth:`ask` has none.
        """
        members = split_object(body.decode()) or {}
        form = members.get("response_format")
        match endpoint:
            case "chat" if form == self._chat:
                members["response_format"] = _OBJECT
                members["messages"] = _instructed(members["messages"], self._instruction)
            case "chat" if form == _OBJECT and dumps(self._instruction)[1:-1] in members["messages"]:
                del members["response_format"]
            case "completions" if form == self._chat:
                del members["response_format"]
            case "responses" if form == self._chat:
                del members["response_format"]
                members["instructions"] = _extended(members.get("instructions"), self._instruction)
            case "responses" if _drop_format(members, "text", self._responses):
                members["instructions"] = _extended(members.get("instructions"), self._instruction)
            case "messages" if _drop_format(members, "output_config", self._messages):
                members["system"] = _extended(members.get("system"), self._instruction)
            case _:
                return None
        return to_bytes(members)

    def is_asked_in(self, body: bytes) -> bool:
        """Whether the request *body* tells the model the schema."""
        texts = (self._chat, self._responses, self._messages, dumps(self.text)[1:-1])
        return any(text is not None and text.encode() in body for text in texts)


def _set_format(members: dict[str, str], name: str, form: str) -> None:
    """Set the member ``format`` of the object *name*, unless that has one."""
    own = members.get(name)
    inner = {} if own is None or own == "null" else split_object(own) if own.startswith("{") else None
    if inner is not None and inner.get("format", "null") == "null":
        members[name] = to_bytes({**inner, "format": form}).decode()


def _drop_format(members: dict[str, str], name: str, form: str | None) -> bool:
    """Remove the member ``format`` of the object *name*; False if it is not *form*."""
    inner = split_object(members[name]) if name in members else None
    if form is None or inner is None or inner.pop("format", None) != form:
        return False
    if inner:
        members[name] = to_bytes(inner).decode()
    else:
        del members[name]
    return True


def _extended(system: str | None, instruction: str) -> str:
    """The JSON text of a system prompt, a string or a list of blocks, followed by *instruction*."""
    if system is not None and system.startswith('"') and system != '""':
        return f"{system[:-1]}\\n\\n{dumps(instruction)[1:]}"
    blocks = split_array(system) if system is not None and system.startswith("[") else None
    if blocks:
        return "[" + ",".join([*blocks, f'{{"type":"text","text":{dumps(instruction)}}}']) + "]"
    return dumps(instruction)


def _instructed(messages: str, instruction: str) -> str:
    """The JSON text of *messages* with *instruction* in the system prompt."""
    items = split_array(messages) or []
    first = split_object(items[0]) if items and items[0].startswith("{") else None
    if first is not None and first.get("role") == '"system"' and first.get("content", "")[:1] in ('"', "["):
        first["content"] = _extended(first["content"], instruction)
        return "[" + ",".join([to_bytes(first).decode(), *items[1:]]) + "]"
    return "[" + ",".join([f'{{"role":"system","content":{dumps(instruction)}}}', *items]) + "]"
