"""Generate a random value that fits a JSON schema, for requests that demand structured output.

Supports types, const, enum, properties, items, bounds, formats, choices and local references; not patterns, conditions
or merging of ``allOf`` (its first part is used).
"""

from __future__ import annotations

import math
from random import Random

from llmbatch.core.raw_json import JSON

__all__ = ["fit_schema"]

_WORDS = ("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "harbour")

_MANY = 100
"""Items or characters that a schema gets at most, whatever it demands."""


def fit_schema(schema: JSON, chance: Random) -> JSON:
    """A value that fits *schema*, drawn from *chance*."""
    return _fitting(schema, schema, chance, 0)


def _fitting(schema: JSON, root: JSON, chance: Random, depth: int) -> JSON:
    """A value that fits a JSON schema: types, const, enum, properties, items, bounds, choices and local references.

    A schema may refer to itself: from the fifth level on only what is required is filled in and the last choice taken
    (often null), and below twelve all is null.
    """
    if not isinstance(schema, dict) or depth > 12:
        return None
    is_deep = depth > 4
    if "const" in schema:
        return schema["const"]
    options = schema.get("enum")
    if isinstance(options, list) and options:
        return chance.choice(options)
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _fitting(_resolved(root, reference), root, chance, depth + 1)
    for member in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(member)
        if isinstance(choices, list) and choices:
            return _fitting(choices[-1 if is_deep else 0], root, chance, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    match kind:
        case "string":
            return _fitting_text(schema, chance)
        case "integer":
            low, high = _bounds(schema)
            return chance.randint(math.ceil(low), max(math.ceil(low), math.floor(high)))
        case "number":
            return round(chance.uniform(*_bounds(schema)), 3)
        case "boolean":
            return chance.random() < 0.5
        case "null":
            return None
        case "array":
            least = schema.get("minItems")
            most = schema.get("maxItems")
            count = max(least if isinstance(least, int) else 0, 0 if is_deep else 2)
            count = min(count, most if isinstance(most, int) else _MANY, _MANY)
            return [_fitting(schema.get("items", {"type": "string"}), root, chance, depth + 1) for _ in range(count)]
    properties = schema.get("properties")
    members = properties if isinstance(properties, dict) else {}
    required = schema.get("required") if is_deep else list(members)
    wanted = required if isinstance(required, list) else []
    return {name: _fitting(member, root, chance, depth + 1) for name, member in members.items() if name in wanted}


def _fitting_text(schema: dict[str, JSON], chance: Random) -> str:
    day = f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
    match schema.get("format"):
        case "date":
            return day
        case "date-time":
            return f"{day}T12:00:00Z"
        case "email":
            return f"{chance.choice(_WORDS)}@example.com"
        case "uri":
            return f"https://example.com/{chance.choice(_WORDS)}"
        case "uuid":
            digits = f"{chance.getrandbits(128):032x}"
            return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"
    least, most = schema.get("minLength"), schema.get("maxLength")
    text = chance.choice(_WORDS)
    if isinstance(least, int):
        text = text.ljust(min(least, _MANY), "x")
    return text[:most] if isinstance(most, int) else text


def _bounds(schema: dict[str, JSON]) -> tuple[float, float]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(low, int | float):
        return low, high if isinstance(high, int | float) else low + 100
    return (min(0, high), high) if isinstance(high, int | float) else (0, 100)


def _resolved(root: JSON, reference: str) -> JSON:
    """The target of a local reference such as ``#/$defs/Name``; None if it does not exist."""
    at = root
    for step in reference.removeprefix("#").split("/")[1:]:
        at = at.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(at, dict) else None
    return at
