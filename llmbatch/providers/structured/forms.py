"""The forms of JSON Schema that providers take: OpenAI's strict mode, and Anthropic's output format. Pure.

What is asked for may be narrower or wider than the schema that answers are checked with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmbatch.core.raw_json import JSON, dumps

__all__ = ["anthropic_form", "is_strict", "tightened"]

_MOST_LEVELS = 30

_STRICT_MEMBERS = frozenset(
    {
        *("$defs", "$id", "$ref", "$schema", "additionalProperties", "anyOf", "const", "definitions", "description"),
        *("enum", "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maximum", "minItems"),
        *("minimum", "multipleOf", "pattern", "properties", "required", "title", "type"),
    }
)
"""Members that OpenAI's strict mode takes (https://platform.openai.com/docs/guides/structured-outputs)."""

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
"""String formats of both."""

_ANTHROPIC_MEMBERS = frozenset(
    {"additionalProperties", "const", "default", "description", "enum", "properties", "required", "title", "type"}
)
"""Members that Anthropic's output format takes as they are (https://platform.claude.com/docs/en/build-with-claude)."""


def is_strict(schema: JSON, *, level: int = 0) -> bool:
    """Whether OpenAI's strict mode takes *schema*: each object closed, all of its members required, nothing else."""
    if not isinstance(schema, dict) or level > _MOST_LEVELS or not schema.keys() <= _STRICT_MEMBERS:
        return False
    if level == 0 and (schema.get("type") != "object" or "anyOf" in schema):
        return False
    if "$ref" in schema and len(schema) > 1 and level > 0:
        return False
    if schema.get("format", "date") not in _FORMATS:
        return False
    properties = schema.get("properties")
    if properties is not None or schema.get("type") == "object":
        members = properties if isinstance(properties, dict) else {}
        required = schema.get("required", [])
        is_closed = schema.get("additionalProperties", True) is False
        if not (is_closed and isinstance(required, list) and set(map(str, required)) == set(members)):
            return False
    return all(is_strict(inner, level=level + 1) for inner in _inner(schema))


def tightened(schema: JSON, *, level: int = 0) -> JSON:
    """*schema* as strict mode wants it: objects closed, all members required, without defaults; the rest as it is.

    Any answer that fits it fits *schema*, but for members beside a reference.
    """
    if not isinstance(schema, dict) or level > _MOST_LEVELS:
        return schema
    if "$ref" in schema and level > 0:
        return {"$ref": schema["$ref"]}
    found: dict[str, JSON] = {}
    for name, value in schema.items():
        if name in ("default", "discriminator"):
            continue
        if name in ("properties", "$defs", "definitions") and isinstance(value, dict):
            found[name] = {key: tightened(inner, level=level + 1) for key, inner in value.items()}
        elif name in ("anyOf", "oneOf") and isinstance(value, list):
            found["anyOf"] = [tightened(inner, level=level + 1) for inner in value]
        elif name == "allOf" and isinstance(value, list) and len(value) == 1:
            inner = tightened(value[0], level=level + 1)
            found |= inner if isinstance(inner, dict) else {}
        else:
            found[name] = tightened(value, level=level + 1) if name == "items" else value
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
        properties = schema.get("properties")
        found["required"] = [*properties] if isinstance(properties, dict) else []
    return found


def anthropic_form(schema: Mapping[str, JSON]) -> JSON:
    """*schema* as Anthropic's output format takes it; None if that cannot say it (free objects, recursion).

    Objects are closed. Bounds and patterns, which it does not take, are told in descriptions.
    """
    try:
        return _anthropic(dict(schema), schema, ())
    except _CannotSayError:
        return None


class _CannotSayError(Exception):
    """The form has no way to say this schema."""


def _anthropic(schema: JSON, root: Mapping[str, JSON], within: Sequence[str]) -> JSON:
    if not isinstance(schema, dict) or len(within) > _MOST_LEVELS:
        raise _CannotSayError
    found: dict[str, JSON] = {}
    for name in ("$defs", "definitions"):
        inner = schema.get(name)
        if isinstance(inner, dict):
            found[name] = {key: _anthropic(value, root, (*within, f"#/{name}/{key}")) for key, value in inner.items()}
    reference = schema.get("$ref")
    if reference is not None:
        if not isinstance(reference, str) or reference in within or _comes_back(reference, root):
            raise _CannotSayError
        return {**found, "$ref": reference}
    told: dict[str, JSON] = {}
    for name, value in schema.items():
        if name in ("$defs", "definitions", "$schema", "$id", "discriminator"):
            continue
        if name in ("anyOf", "oneOf") and isinstance(value, list):
            found["anyOf"] = [_anthropic(inner, root, (*within, name)) for inner in value]
        elif name == "allOf" and isinstance(value, list):
            found[name] = [_anthropic(inner, root, (*within, name)) for inner in value]
        elif name == "properties" and isinstance(value, dict):
            found[name] = {key: _anthropic(inner, root, (*within, name)) for key, inner in value.items()}
        elif name == "items":
            found[name] = _anthropic(value, root, (*within, name))
        elif name in _ANTHROPIC_MEMBERS or (name == "format" and value in _FORMATS) or _is_few(name, value):
            found[name] = value
        else:
            told[name] = value
    if found.get("type") == "object":
        if not found.get("properties") or found.get("additionalProperties", False) not in (False, True):
            raise _CannotSayError
        found["additionalProperties"] = False
    elif found.keys().isdisjoint(("type", "anyOf", "allOf", "enum", "const")):
        raise _CannotSayError
    if told:
        rest = dumps(told)
        found["description"] = f"{found['description']} {rest}" if found.get("description") else rest
    return found


def _is_few(name: str, value: JSON) -> bool:
    return name == "minItems" and value in (0, 1)


def _comes_back(reference: str, root: Mapping[str, JSON]) -> bool:
    """Whether the definition of *reference* leads back to itself."""
    seen: set[str] = set()
    ahead = [reference]
    while ahead:
        here: JSON = dict(root)
        for step in ahead.pop().removeprefix("#/").split("/"):
            here = here.get(step) if isinstance(here, dict) else None
        for inner in _references(here):
            if inner == reference:
                return True
            if inner not in seen:
                seen.add(inner)
                ahead.append(inner)
    return False


def _references(value: JSON) -> list[str]:
    if isinstance(value, dict):
        own = value.get("$ref")
        return [
            *([own] if isinstance(own, str) else []),
            *(one for inner in value.values() for one in _references(inner)),
        ]
    return [one for inner in value for one in _references(inner)] if isinstance(value, list) else []


def _inner(schema: Mapping[str, JSON]) -> list[JSON]:
    """The schemas directly inside *schema*."""
    found: list[JSON] = []
    for name in ("properties", "$defs", "definitions"):
        value = schema.get(name)
        found += list(value.values()) if isinstance(value, dict) else []
    any_of = schema.get("anyOf")
    found += any_of if isinstance(any_of, list) else []
    return [*found, schema["items"]] if "items" in schema else found
