"""Templates: the prompt of a row from the fields of its record, in Jinja's syntax.

A template sees values of JSON only: no attributes, files or other templates. What it may do for a row is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeGuard

from llmbatch.core.errors import MalformedRowError, UsageError
from llmbatch.core.raw_json import RawJsonError, parse

if TYPE_CHECKING:
    from minijinja import TemplateError

__all__ = ["RECORD", "Template", "read_template"]

RECORD: Final = "row"
"""The name of the whole record in a template, unless a field has it: for fields whose names are no words."""

_FUEL: Final = 1_000_000
"""Steps of a template for one row: some tens of milliseconds."""

_MOST_FILE_BYTES: Final = 1024 * 1024
_NAME: Final = "prompt"
_PYTHON_FIELD: Final = re.compile(r"(?<!\{)\$?\{([A-Za-z_]\w*)\}(?!\})")
"""A field as Python's ``str.format`` and shells write it."""


def read_template(text: str) -> tuple[str, str]:
    """The name and the source of a template that is given as *text* or as ``@FILE``.

    Raises:
        UsageError: the file cannot be read.
    """
    if not text.startswith("@"):
        return "the template", text
    name = text[1:]
    hint = "name a text file: -t @prompt.txt"
    if not name:
        raise UsageError("the template's file has no name", hint=hint)
    try:
        with Path(name).open("rb") as file:
            data = file.read(_MOST_FILE_BYTES + 1)
        if len(data) > _MOST_FILE_BYTES:
            raise UsageError(f"{name}: is larger than 1 MiB, and should be a template", hint=hint)
        return name, data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: byte {error.start + 1} of the template is not UTF-8", hint=hint) from None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(f"{name}: the template cannot be read ({why})", hint=hint) from error


class Template:
    """A compiled template. *name* and *source*: see :func:`read_template`. Not thread-safe.

    Raises :class:`~llmbatch.core.errors.UsageError` for a syntax error.
    """

    def __init__(self, name: str, source: str) -> None:
        from minijinja import Environment, Markup, TemplateError  # loaded only if a run has a template

        self._name = name
        self._markup = Markup
        self._error = TemplateError
        self._digits: dict[float, str] = {}  # of the numbers of this record, as they are written there
        self._jinja = Environment(
            undefined_behavior="strict",
            fuel=_FUEL,
            finalizer=self._written,
            auto_escape_callback=lambda name: False,
        )
        try:
            self._jinja.add_template(_NAME, source)
            fields = self._jinja.undeclared_variables_in_template(_NAME)
        except TemplateError as error:
            raise UsageError(
                f"{name}: line {error.line or 1}: {error.detail or error.message}",
                hint="fields are written as {{ name }}, conditions as {% if name %} … {% endif %}",
            ) from None
        if not fields and "{%" not in source and (python := _PYTHON_FIELD.search(source)) is not None:
            raise UsageError(
                f"{name} has {python[0]}, which would be sent as it is",
                hint=f"a field is written with two braces: {{{{ {python[1]} }}}}; to send one: {{{{ '{{' }}}}",
            )
        self.fields = frozenset(fields)
        """Names that the template takes from the record."""

    def render(self, members: Mapping[str, str]) -> str:
        """The prompt for a record, of *members* as JSON text. Costs some microseconds.

        Raises:
            MalformedRowError: a field is missing, or the template fails for this record.
        """
        values = {name: parse(members[name]) for name in self.fields if name in members}
        taken = values
        if RECORD in self.fields and RECORD not in members:
            taken = {name: parse(text) for name, text in members.items()}
            values[RECORD] = taken
        self._digits = {float(value): members[name] for name, value in taken.items() if _loses_digits(value)}
        try:
            return self._jinja.render_template(_NAME, **values)
        except self._error as error:
            raise self._malformed(error) from None
        except _NullError:
            nulls = sorted(name for name in self.fields if values.get(name, "") is None)
            named = f"{nulls[0]} is null" if nulls else "a field is null"
            message = f"{named}, and the template writes it; to write nothing: {{{{ {nulls[0] if nulls else 'name'}"
            raise MalformedRowError("input_missing_field", message + " or '' }}") from None
        except Exception as error:  # noqa: BLE001 - a value that the template engine does not take
            message = f"{self._name} fails: {str(error) or type(error).__name__}"
            raise MalformedRowError("input_template_error", message) from None

    def _written(self, value: object) -> object:
        if value is None:
            raise _NullError
        if isinstance(value, self._markup):
            return _plain_json(str(value))
        return self._digits.get(value, value) if isinstance(value, float) else value

    def _malformed(self, error: TemplateError) -> MalformedRowError:
        where = f"line {error.line} of {self._name}" if error.line else self._name
        if error.kind == "UndefinedError":
            return MalformedRowError("input_missing_field", f"{where}: {error.detail or 'a field is undefined'}")
        if error.kind == "OutOfFuel":
            return MalformedRowError("input_template_error", f"{where}: takes too many steps; does a loop end?")
        return MalformedRowError("input_template_error", f"{where}: {error.detail or error.message}")


class _NullError(Exception):
    """The template writes a null."""


_escapes = re.compile(r"(\\\\)|\\u00(3c|3e|26|27)").sub
"""What the filter ``tojson`` writes for ``< > & '``, as for a page of HTML, and no escaped backslash before it."""


def _plain_json(text: str) -> str:
    """*text*, as a filter has it, without the escapes of ``tojson``."""
    if "\\u00" not in text:
        return text
    try:
        parse(text)
    except RawJsonError:
        return text
    return _escapes(lambda found: found[1] or chr(int(found[2], 16)), text)


def _loses_digits(value: object) -> TypeGuard[float]:
    """Whether the engine has a number of other digits for *value*: any fraction, and integers of more than 128 bits."""
    return isinstance(value, float) or (isinstance(value, int) and 127 < value.bit_length() < 1024)
