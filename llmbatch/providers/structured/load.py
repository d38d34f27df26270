"""Makes the schema of a run from what the user names: a file, ``MODULE:CLASS``, a dictionary, or a pydantic model.

jsonschema-rs and the user's module are imported here, and only if a run has a schema.
"""

from __future__ import annotations

import difflib
import importlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from llmbatch.core.errors import UsageError
from llmbatch.core.raw_json import JSON, RawJsonError, dumps, parse
from llmbatch.providers.structured.schema import AnswerSchema, check_with_model, check_with_schema

__all__ = ["load_schema"]

_is_class_name = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)").fullmatch
_MOST_BYTES = 16_000_000

_KEYWORDS = frozenset(
    {
        *("$defs", "$dynamicRef", "$ref", "$schema", "additionalProperties", "allOf", "anyOf", "const", "contains"),
        *("definitions", "enum", "exclusiveMaximum", "exclusiveMinimum", "if", "items", "maxItems", "maxLength"),
        *("maximum", "minItems", "minLength", "minimum", "multipleOf", "not", "oneOf", "pattern"),
        *("patternProperties", "prefixItems", "properties", "required", "type"),
    }
)
"""Keywords that constrain a value: an object without any of them is no schema, but takes everything."""


def load_schema(given: object, *, what: str = "schema") -> AnswerSchema:
    """Make the schema from *given*; *what* names the option in messages.

    Raises:
        UsageError: it is none, cannot be read or imported, or jsonschema-rs is not installed.
    """
    if isinstance(given, AnswerSchema):
        return given
    if isinstance(given, Mapping):
        return _of_document(_as_json(given, what), what, "answer")
    if isinstance(given, type):
        return _of_model(given, what)
    if not isinstance(given, str | Path):
        raise UsageError(
            f"{what} is {given!r:.80}, must be a pydantic model, a JSON Schema, or the path of one",
            hint="pass a class that derives from pydantic.BaseModel, a dictionary, or a path",
        )
    named = _is_class_name(str(given))
    if named is not None and not Path(given).exists():
        return _of_model(_imported(named[1], named[2], f"{what} {given}"), f"{what} {given}")
    return _of_file(Path(given), what)


# A JSON Schema.


def _of_file(path: Path, what: str) -> AnswerSchema:
    what = f"{what} {path}"
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        hint = "name a JSON Schema file, or a pydantic model as MODULE:CLASS"
        raise UsageError(
            f"{what}: {why}", hint="write the schema to a file, and name that" if "{" in str(path) else hint
        ) from error
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{what}: is larger than {_MOST_BYTES:,} bytes", hint="name the file of a JSON Schema")
    try:
        document = parse(content.decode("utf-8-sig"))
    except (RawJsonError, UnicodeDecodeError) as error:
        fault = str(error) if isinstance(error, RawJsonError) else "it is not UTF-8"
        raise UsageError(f"{what}: is not JSON: {fault}", hint="it must hold one JSON Schema, an object") from None
    return _of_document(document, what, path.name.partition(".")[0])


def _as_json(given: Mapping[Any, Any], what: str) -> JSON:
    try:
        return parse(json.dumps(dict(given), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} cannot be JSON: {error}", hint="pass a JSON Schema as a dictionary") from None


def _of_document(document: JSON, what: str, name: str) -> AnswerSchema:
    if not isinstance(document, dict):
        kind = "a list" if isinstance(document, list) else "no object"
        raise UsageError(f"{what}: a JSON Schema is an object, and this is {kind}", hint=_EXAMPLE)
    schema, strict = document, None
    # As in a request: {"type": "json_schema", "json_schema": {"name": …, "schema": {…}, "strict": …}}, or inside it.
    form = document.get("json_schema") if document.get("type") == "json_schema" else None
    outer = form if isinstance(form, dict) else document
    inner = outer.get("schema")
    if isinstance(inner, dict) and (document.get("type") == "json_schema" or _KEYWORDS.isdisjoint(outer)):
        schema = inner
        given_name, given_strict = outer.get("name"), outer.get("strict")
        name = given_name if isinstance(given_name, str) else name
        strict = given_strict if isinstance(given_strict, bool) else None
    if _KEYWORDS.isdisjoint(schema):
        raise UsageError(
            f"{what}: is no JSON Schema: it has none of its keywords (type, properties, enum, …)", hint=_EXAMPLE
        )
    validator = _validator(schema, what)
    if _is_endless(schema):
        raise UsageError(f"{what}: is no JSON Schema: it refers to itself without end", hint=_EXAMPLE)
    return AnswerSchema(_name(name), schema, check_with_schema(validator), strict=strict)


_EXAMPLE = 'a schema looks like {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}'


def _validator(schema: dict[str, JSON], what: str) -> Any:
    try:
        import jsonschema_rs
    except ImportError:
        raise UsageError(f"{what} needs jsonschema-rs", hint="pip install 'llmbatch[schema]'") from None
    try:
        return jsonschema_rs.validator_for(schema, retriever=_refuse)
    except Exception as error:  # noqa: BLE001 - whatever it says of a schema
        message = str(getattr(error, "message", "") or error)
        path = "".join(f"/{step}" for step in getattr(error, "instance_path", ()))
        other = _other_document(message)
        if other:
            raise UsageError(
                f"{what}: refers to {other}, and other documents are not loaded",
                hint="put what it refers to under $defs of the schema",
            ) from None
        raise UsageError(
            f"{what}: is no valid JSON Schema: {f'at {path}: ' if path else ''}{message:.300}",
            hint="correct the schema",
        ) from None


def _is_endless(schema: dict[str, JSON]) -> bool:
    """Whether to check a value against *schema* is to check the same value against it again.

    Members and items that refer to the whole are no such loop: they are smaller values.
    """
    ended: set[int] = set()

    def loops(part: JSON, above: tuple[int, ...]) -> bool:
        if not isinstance(part, dict) or id(part) in ended:
            return False
        if id(part) in above:
            return True
        every = part.get("allOf")
        same_value = [_at(schema, part.get("$ref")), *(every if isinstance(every, list) else ())]
        if any(loops(other, (*above, id(part))) for other in same_value):
            return True
        ended.add(id(part))
        return False

    return loops(schema, ())


def _at(schema: JSON, reference: JSON) -> JSON:
    """The part of *schema* that a local *reference* (``#/$defs/a``) names; None if it names none."""
    if not isinstance(reference, str) or (reference != "#" and not reference.startswith("#/")):
        return None
    found = schema
    for step in unquote(reference).split("/")[1:]:
        if not isinstance(found, dict):
            return None
        found = found.get(step.replace("~1", "/").replace("~0", "~"))
    return found


_NOT_LOADED = "not loaded: "
_relative = re.compile(r"Resource '([^']*)' is not present in a registry").match


def _other_document(message: str) -> str:
    """The document that the validator did not find, by what it says; empty if that is not the fault."""
    relative = _relative(message)
    return relative[1].partition("#")[0] if relative is not None else message.partition(_NOT_LOADED)[2]


def _refuse(uri: str) -> JSON:
    raise ValueError(f"{_NOT_LOADED}{uri}")


# A pydantic model.


def _imported(module_name: str, class_name: str, what: str) -> object:
    """The class, imported with the working directory before other places."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found: object = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}"
        hint = f"is there a {module_name.replace('.', '/')}.py in this folder, or is it installed?"
        if isinstance(error, ModuleNotFoundError) and error.name == "pydantic":
            hint = "pip install pydantic"
        raise UsageError(f"{what}: {module_name} cannot be imported: {why:.300}", hint=hint) from error
    finally:
        # What the module itself imports later is found too, after what is installed.
        sys.path.remove(folder)
        if folder not in sys.path and "" not in sys.path:
            sys.path.append(folder)
    for step in class_name.split("."):
        if not hasattr(found, step):
            close = difflib.get_close_matches(step, [name for name in dir(found) if name[0] != "_"], n=1)
            hint = f"did you mean {close[0]}?" if close else f"define it in {module_name}"
            raise UsageError(f"{what}: {module_name} has no {class_name}", hint=hint)
        found = getattr(found, step)
    return found


def _of_model(model: object, what: str) -> AnswerSchema:
    is_model = isinstance(model, type) and all(
        callable(getattr(model, name, None)) for name in ("model_validate_json", "model_json_schema", "model_dump_json")
    )
    if not is_model:
        raise UsageError(
            f"{what}: {getattr(model, '__name__', repr(model))!s:.80} is no pydantic model",
            hint="name a class that derives from pydantic.BaseModel (version 2)",
        )
    cls: Any = model
    try:
        document = parse(dumps(cls.model_json_schema()))
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"{what}: {cls.__name__} has no JSON Schema: {why:.300}", hint="use types that JSON has"
        ) from error
    if not isinstance(document, dict):
        raise UsageError(f"{what}: the JSON Schema of {cls.__name__} is no object", hint=_EXAMPLE)
    return AnswerSchema(_name(cls.__name__), document, check_with_model(cls), may_tighten=True)


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:64] or "answer"
