"""Parse the JSON body of a request to any endpoint into one :class:`SimRequest`.

Reads only parameters that change the answer, and rejects only what real providers reject too; other parameters are not
validated.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmbatch.core.raw_json import JSON, dumps
from llmbatch.sim.protocol import Endpoint, ErrorResponse
from llmbatch.sim.row_fault import Content

__all__ = ["SimRequest", "count_tokens", "read_request"]

_CONTEXT_TOKENS = 128_000


@dataclass(frozen=True, slots=True)
class SimRequest:
    """One valid request.

    ``prompt`` is all text of the input, ``opening`` that before the first of the ``turns`` of the assistant in it;
    ``content`` says what is wrong with the answer. ``tool`` and ``arguments`` name a function that must be called and
    the schema of its arguments. ``schema`` is the form of a JSON answer; ``{}`` means any object. ``inputs`` are what
    to embed.
    """

    endpoint: Endpoint
    document: dict[str, JSON]
    model: str
    prompt: str
    input_tokens: int
    max_tokens: int | None = None
    stream: bool = False
    include_usage: bool = False
    tool: str | None = None
    arguments: JSON = None
    schema: JSON = None
    inputs: tuple[str, ...] = ()
    opening: str = ""
    turns: int = 0
    content: Content | None = None


def count_tokens(text: str) -> int:
    """Estimate the number of tokens in *text*: about four characters each."""
    return max(1, round(len(text) / 4))


def read_request(endpoint: Endpoint, document: dict[str, JSON]) -> SimRequest | ErrorResponse:
    """Parse a request's JSON object, or return the error to answer with."""
    model = document.get("model")
    if not isinstance(model, str) or not model:
        return _missing("model", "you must provide a model parameter")
    match endpoint:
        case "chat":
            request = _read_messages(endpoint, document, model)
        case "messages" | "count_tokens":
            if endpoint == "messages" and "max_tokens" not in document:
                return _missing("max_tokens", "max_tokens: Field required")
            request = _read_messages(endpoint, document, model)
        case "completions":
            request = _read_text(endpoint, document, model, "prompt")
        case "responses":
            request = _read_text(endpoint, document, model, "input")
        case "embeddings":
            request = _read_inputs(document, model)
    if isinstance(request, SimRequest) and request.input_tokens > _CONTEXT_TOKENS:
        return _too_long(endpoint, request.input_tokens)
    return request


def _missing(param: str, message: str) -> ErrorResponse:
    return ErrorResponse(400, message, code="missing_required_parameter", param=param)


def _too_long(endpoint: Endpoint, tokens: int) -> ErrorResponse:
    if endpoint == "messages":
        return ErrorResponse(400, f"prompt is too long: {tokens} tokens > {_CONTEXT_TOKENS} maximum")
    message = (
        f"This model's maximum context length is {_CONTEXT_TOKENS} tokens. However, your input has {tokens} tokens."
    )
    return ErrorResponse(
        400, message, code="context_length_exceeded", param="messages" if endpoint == "chat" else "input"
    )


def _read_messages(endpoint: Endpoint, document: dict[str, JSON], model: str) -> SimRequest | ErrorResponse:
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        return _missing("messages", "messages must be a list with at least one message")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return ErrorResponse(400, "every message needs a role", code="invalid_type", param="messages")
    return _answerable(endpoint, document, model, document.get("system"), messages)


def _read_text(endpoint: Endpoint, document: dict[str, JSON], model: str, member: str) -> SimRequest | ErrorResponse:
    source = document.get(member)
    if not isinstance(source, str | list) or source == []:
        return _missing(member, f"{member} must be a text or a list")
    return _answerable(endpoint, document, model, document.get("instructions"), source)


def _read_inputs(document: dict[str, JSON], model: str) -> SimRequest | ErrorResponse:
    source = document.get("input")
    if not isinstance(source, str | list) or not source:
        return _missing("input", "input must be a text or a list")
    # A list of numbers is one input, given as tokens.
    items: list[JSON] = source if isinstance(source, list) and not isinstance(source[0], int) else [source]
    inputs, tokens = [], 0
    for item in items:
        if not isinstance(item, str | list) or not item:
            return ErrorResponse(
                400, "every input must be a text or a list of tokens", code="invalid_type", param="input"
            )
        inputs.append(item if isinstance(item, str) else dumps(item))
        tokens += count_tokens(item) if isinstance(item, str) else len(item)
    dimensions = document.get("dimensions")
    if dimensions is not None and (not isinstance(dimensions, int) or not 1 <= dimensions <= 4096):
        return ErrorResponse(
            400, "dimensions must be a whole number from 1 to 4096", code="invalid_value", param="dimensions"
        )
    return SimRequest("embeddings", document, model, "\n".join(inputs), tokens, inputs=tuple(inputs))


def _answerable(
    endpoint: Endpoint, document: dict[str, JSON], model: str, system: JSON, source: JSON
) -> SimRequest | ErrorResponse:
    prompt = _text_of([system, source])
    answered = [at for at, item in enumerate(source) if _is_answer(item)] if isinstance(source, list) else []
    opening = _text_of([system, source[: answered[0]]]) if answered and isinstance(source, list) else prompt
    most: int | None = None
    for member in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        given = document.get(member)
        if given is None:
            continue
        if not isinstance(given, int) or given < 1:
            return ErrorResponse(
                400, f"{member} must be a whole number of at least 1", code="invalid_value", param=member
            )
        most = given
        break
    tool, arguments = _demanded_tool(document)
    return SimRequest(
        endpoint,
        document,
        model,
        prompt,
        # A few tokens frame the messages.
        count_tokens(prompt) + 3,
        max_tokens=most if most is not None or endpoint != "completions" else 16,
        stream=document.get("stream") is True,
        include_usage=_get(document.get("stream_options"), "include_usage") is True,
        tool=tool,
        arguments=arguments,
        schema=_demanded_schema(document),
        opening=opening,
        turns=len(answered),
    )


def _is_answer(item: JSON) -> bool:
    """Whether an item of the conversation is the assistant's."""
    return _get(item, "role") == "assistant" or _get(item, "type") == "function_call"


def _text_of(value: JSON) -> str:
    """All text in messages, content parts and input items, in order."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(text for item in value if (text := _text_of(item)))
    if isinstance(value, dict):
        return _text_of([value.get("content"), value.get("text"), value.get("output")])
    return ""


def _get(value: JSON, member: str) -> JSON:
    return value.get(member) if isinstance(value, dict) else None


def _demanded_tool(document: dict[str, JSON]) -> tuple[str | None, JSON]:
    """The function that must be called, and the schema of its arguments; (None, None) if the model may choose.

    ``"required"`` and Anthropic's ``any`` take the first tool; the other forms name one.
    """
    tools, choice = document.get("tools"), document.get("tool_choice")
    if not isinstance(tools, list) or not tools or choice in (None, "auto", "none"):
        return None, None
    kind = _get(choice, "type")
    if kind in ("auto", "none"):
        return None, None
    wanted = _get(choice, "name") or _get(_get(choice, "function"), "name")
    for tool in tools:
        function = _get(tool, "function") or tool
        name = _get(function, "name")
        if isinstance(name, str) and wanted in (None, name):
            return name, _get(function, "parameters") or _get(function, "input_schema") or {}
    return None, None


def _demanded_schema(document: dict[str, JSON]) -> JSON:
    """The schema of a JSON answer, where chat, responses and messages have it; ``{}`` for any object."""
    for form in (
        document.get("response_format"),
        _get(document.get("text"), "format"),
        _get(document.get("output_config"), "format"),
    ):
        if _get(form, "type") == "json_schema":
            return _get(_get(form, "json_schema"), "schema") or _get(form, "schema") or {}
        if _get(form, "type") == "json_object":
            return {}
    return None
