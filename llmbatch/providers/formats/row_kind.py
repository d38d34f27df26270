"""Detects the kind of a row: a batch row that is sent unchanged, or one whose body has to be built.

Three kinds: the OpenAI batch row (``body``), the Anthropic batch row (``params``), and everything else (``prompt``,
``messages``, ``input``, a raw request body). Values are read only as far as the kind depends on them; the model's name
stays raw JSON.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmbatch.core.calls import Endpoint
from llmbatch.core.errors import MalformedRowError
from llmbatch.core.raw_json import parse, split_object

__all__ = ["FORBIDDEN", "ParsedRow", "parse_kind"]

FORBIDDEN = frozenset({"base_url", "api_key", "headers", "extra_headers", "extra_query"})
"""Fields that would let a row choose the host or the key; they are refused."""

_PATHS: dict[str, Endpoint] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
    "/v1/completions": "completions",
    "/v1/messages": "messages",
}
_ALIASES: dict[str, Endpoint] = {path.removeprefix("/v1"): endpoint for path, endpoint in _PATHS.items()}
"""As in the batch files of Azure, whose base URL has the version."""

_is_raw_path = re.compile(r"/v1(?:/[A-Za-z0-9_-]+)+").fullmatch


@dataclass(slots=True)
class ParsedRow:
    """A parsed row. ``body`` is set only for batch rows: it is sent byte for byte.

    ``members`` are those of the request. ``model`` is the row's own model as JSON text. ``endpoint`` is what the row
    itself says, None where it leaves the choice to the provider. ``anthropic``: the row is in Anthropic's format.
    ``path``: below the base URL, for the endpoint ``raw``. ``is_alpaca``: an instruction became its prompt.
    """

    members: dict[str, str]
    body: str | None
    model: str | None
    endpoint: Endpoint | None
    anthropic: bool = False
    path: str = ""
    is_alpaca: bool = False


def parse_kind(fields: dict[str, str], *, model: str | None, raw: bool = False) -> ParsedRow:
    """Parse a row's *fields* (name to raw JSON). *model* is the run's model, for rows that name none.

    *raw*: a batch row's ``url`` may be any path below ``/v1/``.

    Raises:
        MalformedRowError: the row is not a valid request.
    """
    if not FORBIDDEN.isdisjoint(fields):
        name = next(name for name in fields if name in FORBIDDEN)
        raise MalformedRowError(
            "input_forbidden_member", f"a row may not set {name!r}: rows cannot choose where they are sent"
        )
    if "body" in fields:
        return _openai_batch(fields, model, raw=raw)
    if raw:
        raise MalformedRowError("input_bad_url", "--endpoint raw takes batch rows with a url and a body")
    if "params" in fields and fields.keys().isdisjoint(("messages", "prompt", "input")):
        members = _members_of(fields["params"], "params")
        return ParsedRow(members, fields["params"], _model_of(members), "messages", anthropic=True)
    own = _model_of(fields)
    if fields.get("instruction", "").startswith('"') and fields.keys().isdisjoint(("messages", "prompt")):
        composed = _alpaca(fields)
        return ParsedRow(composed, None, own, None, is_alpaca=True)
    return ParsedRow(fields, None, own, _guess(fields, own, model))


def _alpaca(fields: dict[str, str]) -> dict[str, str]:
    """A row of ``instruction`` and ``input``, as in Alpaca's data set, with both as its ``prompt``."""
    prompt, text = fields["instruction"], fields.get("input", "null")
    if text not in ("null", '""'):
        if not text.startswith('"'):
            raise MalformedRowError(
                "input_no_prompt", 'input beside an instruction must be a string; or write both as one "prompt"'
            )
        prompt = f"{prompt[:-1]}\\n\\n{text[1:]}"
    return {"prompt": prompt} | {name: value for name, value in fields.items() if name not in ("instruction", "input")}


def _openai_batch(fields: dict[str, str], model: str | None, *, raw: bool) -> ParsedRow:
    method = fields.get("method", "null")
    if method not in ("null", '"POST"') and str(parse(method)).upper() != "POST":
        raise MalformedRowError("input_bad_method", f"method is {_shown(method)}, must be POST")
    endpoint: Endpoint | None = None
    url = fields.get("url", "null")
    path = ""
    if url != "null":
        text = str(parse(url)) if url.startswith('"') else ""
        endpoint = _PATHS.get(text) or _ALIASES.get(text)
        if endpoint is None and raw and _is_raw_path(text):
            endpoint, path = "raw", text
    if endpoint is None and (url != "null" or raw):
        other = "a path such as /v1/rerank" if raw else "with --endpoint raw another path below /v1/"
        raise MalformedRowError(
            "input_bad_url", f"url is {_shown(url)}, must be one of {', '.join(_PATHS)}, or {other}"
        )
    members = _members_of(fields["body"], "body")
    own = _model_of(members)
    anthropic = endpoint == "messages"
    if endpoint is None:
        endpoint = _guess(members, own, model)
        if endpoint is None and "messages" not in members:
            endpoint = "completions"
    return ParsedRow(members, fields["body"], own, endpoint, anthropic, path)


def _members_of(text: str, name: str) -> dict[str, str]:
    members = split_object(text) if text.startswith("{") else None
    if members is None:
        raise MalformedRowError("input_bad_body", f"{name} is not an object")
    return members


def _model_of(members: dict[str, str]) -> str | None:
    if members.get("stream") == "true":
        raise MalformedRowError("input_stream", "stream is true: a result line cannot hold a stream, leave it out")
    model = members.get("model", "null")
    if model == "null":
        return None
    if not model.startswith('"') or model == '""':
        raise MalformedRowError("input_bad_model", f"model is {_shown(model)}, must be a name")
    return model


def _guess(members: dict[str, str], own: str | None, model: str | None) -> Endpoint | None:
    if "messages" in members:
        return None
    if "embed" in (own or model or "").lower():
        return "embeddings"
    if "prompt" in members and not (members["prompt"].startswith("{") and "input" in members):
        return None
    return "responses" if "input" in members else None


def _shown(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"
