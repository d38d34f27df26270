"""How a record becomes a request: a template or columns for its prompt, its system prompt, its id and what is kept.

The records of CSV, TSV, Parquet and text are data: of their columns only those count that are named here, or are
called ``prompt``, ``messages``, ``system``, ``model`` or as an id. JSON rows are requests already, unless a template or
a prompt column makes one of their fields; then they are data too, but for :data:`PASSED`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmbatch.core.errors import InputError, MalformedRowError, UsageError
from llmbatch.core.raw_json import RawJsonError, dumps, one_line, parse, split_array, split_object
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.rows import NAMING_MEMBERS

if TYPE_CHECKING:
    from llmbatch.inputs.template import Template

__all__ = ["PASSED", "RowShape", "Shaper", "name_of"]

_PASSED: Final = (
    "model system metadata temperature top_p top_k max_tokens max_completion_tokens max_output_tokens stop seed tools "
    "tool_choice parallel_tool_calls response_format reasoning_effort service_tier"
)
PASSED: Final = frozenset(_PASSED.split())
"""Members of JSON rows that keep their meaning beside a template or a prompt column, unless the template has them."""

_EMPTY: Final = ("null", '""', "[]")
_MOST_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RowShape:
    """Which fields of a record are its prompt, system prompt and id, and which are kept in ``metadata``.

    ``template``: text, or ``@FILE``. None: as the record has it.
    """

    template: str | None = None
    prompt_column: str | None = None
    system_column: str | None = None
    id_column: str | None = None
    keep: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != RowShape()

    def load(self) -> RowShape:
        """The same with the template's text in place of its file.

        Raises:
            UsageError: the file cannot be read, the template has a syntax error, or both it and a prompt column are
                given.
        """
        if self.template is None:
            return self
        from llmbatch.inputs.template import Template, read_template

        if self.prompt_column is not None:
            raise UsageError(
                "a template and a prompt column are two ways to make the prompt",
                hint=f"give -t alone, with {{{{ {self.prompt_column} }}}} in it",
            )
        name, source = read_template(self.template)
        if not source.strip():
            raise UsageError(f"{name} is empty", hint="for example -t 'Sentiment of: {{ text }}'")
        Template(name, source)
        return _Loaded(
            template=source,
            prompt_column=None,
            system_column=self.system_column,
            id_column=self.id_column,
            keep=self.keep,
            name=name,
        )

    @property
    def settings(self) -> str:
        """What shapes the requests, as JSON text; empty if nothing does."""
        named = {
            "template": self.template,
            "prompt_column": self.prompt_column,
            "system_column": self.system_column,
            "id_column": self.id_column,
            "keep": list(self.keep) or None,
        }
        told = {name: value for name, value in named.items() if value is not None}
        return dumps(told) if told else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded(RowShape):
    """A shape whose template is its text; ``name`` is the template's in messages."""

    name: str = ""

    def load(self) -> RowShape:
        """Itself."""
        return self


class Shaper:
    """Makes rows of records. *is_data*: their columns are data; *is_whole*: rows hold every column, for a function.

    *prompt*: the column of the prompt if no other is named.

    Raises :class:`~llmbatch.core.errors.UsageError` as :meth:`RowShape.load`.
    """

    def __init__(self, shape: RowShape, *, is_data: bool, is_whole: bool = False, prompt: str = "prompt") -> None:
        shape = shape.load()
        self._shape = shape
        self._is_data = is_data
        self._is_whole = is_whole
        self._usual_prompt = prompt
        self._template: Template | None = None
        if shape.template is not None:
            from llmbatch.inputs.template import Template

            self._template = Template(shape.name if isinstance(shape, _Loaded) else "the template", shape.template)
        self._makes_prompt = shape.template is not None or shape.prompt_column is not None
        used = self._template.fields if self._template is not None else {shape.prompt_column}
        self._passed = PASSED - used if self._makes_prompt else PASSED

    def check_columns(self, columns: Sequence[str], name: str) -> None:
        """Check the names of the columns of the input *name*.

        Raises:
            InputError: one that is asked for is not there, or none is the prompt.
        """
        shape = self._shape
        there = ", ".join(columns[:_MOST_SHOWN]) + (", …" if len(columns) > _MOST_SHOWN else "")
        asked = [
            ("--prompt-column", shape.prompt_column),
            ("--system-column", shape.system_column),
            ("--id-column", shape.id_column),
            *(("--keep", column) for column in shape.keep),
        ]
        for flag, column in asked:
            if column is not None and column not in columns:
                raise InputError(f"{name}: has no column {column!r} ({flag})", hint=f"its columns are: {there}")
        if self._is_whole or self._makes_prompt or not {self._usual_prompt, "messages"}.isdisjoint(columns):
            return
        message = f"{name}: no column is called prompt or messages; its columns are: {there}"
        alike = next((column for column in columns if column.casefold() == self._usual_prompt), None)
        if alike is not None:
            raise InputError(message, hint=f"case matters: name it with --prompt-column {shlex.quote(alike)}")
        shown = next((column for column in columns if column not in NAMING_MEMBERS), "text")
        example = shown if shown.isidentifier() else f'row["{shown}"]'
        raise InputError(
            message, hint=f"name the prompt's (--prompt-column NAME), or write a template: -t '… {{{{ {example} }}}}'"
        )

    def row(self, number: int, digest: str, members: dict[str, str]) -> Row | Malformed:
        """The row of a record, whose *members* are JSON texts by name."""
        id_json = f'"row-{number}"'
        try:
            id_json = self._name(number, members)
            return Row(number, digest, id_json, self._fields(members))
        except MalformedRowError as error:
            return Malformed(number, digest, id_json, error.code, error.message)

    def _name(self, number: int, members: Mapping[str, str]) -> str:
        column = self._shape.id_column
        if column is not None:
            return name_of(number, {"id": _member(members, column)})
        return name_of(number, members)

    def _fields(self, members: dict[str, str]) -> dict[str, str]:
        if self._is_whole:
            fields = {name: text for name, text in members.items() if name not in NAMING_MEMBERS}
        elif self._makes_prompt:
            fields = {"prompt": self._prompt(members)}
            passed = ("model", "system") if self._is_data else tuple(members)
            for name in passed:
                text = members.get(name, "null")
                if name in self._passed and text not in ("null", '""'):
                    fields[name] = text
        elif self._is_data:
            fields = self._of_columns(members)
        else:
            fields = {name: text for name, text in members.items() if name not in NAMING_MEMBERS}
        shape = self._shape
        if shape.system_column is not None:
            system = _member(members, shape.system_column)
            fields.pop("system", None)
            if system not in _EMPTY:
                fields["system"] = system
        if shape.keep:
            self._keep(members, fields)
        return fields

    def _prompt(self, members: Mapping[str, str]) -> str:
        if self._template is not None:
            text = self._template.render(members)
            if not text.strip():
                raise MalformedRowError("input_no_prompt", "the template gives nothing for this row")
            return dumps(text)
        column = self._shape.prompt_column or ""
        prompt = _member(members, column)
        if prompt in _EMPTY:
            raise MalformedRowError("input_no_prompt", f"{column} is empty")
        return prompt if prompt[0] in '"[' else dumps(prompt)

    def _of_columns(self, members: Mapping[str, str]) -> dict[str, str]:
        """The fields of a record of data in which the usual names count."""
        fields: dict[str, str] = {}
        messages = members.get("messages", "null")
        if messages not in _EMPTY:
            fields["messages"] = _messages(messages)
        elif members.get(self._usual_prompt, "null") not in _EMPTY:
            fields["prompt"] = members[self._usual_prompt]
        else:
            column = self._usual_prompt if self._usual_prompt in members else "messages"
            raise MalformedRowError("input_no_prompt", f"{column} is empty")
        for name in ("model", "system"):
            if members.get(name, "null") not in _EMPTY:
                fields[name] = members[name]
        return fields

    def _keep(self, members: Mapping[str, str], fields: dict[str, str]) -> None:
        kept = {name: _member(members, name) for name in self._shape.keep}
        if not self._is_data and not self._makes_prompt:
            for name in kept.keys() - PASSED - _CONTENT:
                fields.pop(name, None)
        own = fields.get("metadata", "null")
        if own != "null":
            found = split_object(own) if own.startswith("{") else None
            kept = ({"metadata": own} if found is None else found) | kept
        fields["metadata"] = "{" + ",".join(f"{dumps(name)}:{text}" for name, text in kept.items()) + "}"


_CONTENT: Final = frozenset({"prompt", "messages", "input", "body", "params", "instruction", "url", "method"})


def name_of(number: int, members: Mapping[str, str]) -> str:
    """The id of a row as JSON text: of its first member that names it and is not empty, else its number."""
    other = ""
    for member in NAMING_MEMBERS:
        source = members.get(member, "null")
        if source in ("null", '""'):
            continue
        if source[0] == '"' or source.lstrip("-").isdigit():
            return source
        other = other or dumps(source)
    return other or f'"row-{number}"'


def _member(members: Mapping[str, str], name: str) -> str:
    try:
        return members[name]
    except KeyError:
        raise MalformedRowError("input_missing_field", f"the row has no {name}") from None


def _messages(text: str) -> str:
    """A list of messages, which a cell holds as JSON."""
    if text.startswith("["):
        return text
    inner = str(parse(text)) if text.startswith('"') else text
    try:
        if split_array(inner) is not None:
            return one_line(inner.strip())
    except RawJsonError:
        pass
    raise MalformedRowError("input_bad_messages", "messages is no JSON list of messages")
