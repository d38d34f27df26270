"""The columns of an export: the fields of the input, if they are joined, then those of the results. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmbatch.core.raw_json import dumps, parse
from llmbatch.outputs.export_fields import Line

__all__ = ["Column", "NestedFields", "columns_of", "free_name", "plain_text"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: ``name`` in the file, and where its value is: in the input under ``joined``, else in ``path``."""

    name: str
    joined: str | None = None
    path: tuple[str, ...] = ()


def cells_of(columns: Sequence[Column]) -> Callable[[Line, Mapping[str, str]], list[str | None]]:
    """A function that gives the JSON texts of the values of a row, joined ones first; None where there is none.

    *columns*: as :func:`columns_of` makes them. One call per row, as one per value takes twice as long.
    """
    names = [column.joined for column in columns if column.joined is not None]
    own = [(column.path[0] if len(column.path) == 1 else None, column.path) for column in columns[len(names) :]]

    def cells(line: Line, joined: Mapping[str, str]) -> list[str | None]:
        get, find = line.members.get, line.find
        return [*map(joined.get, names), *[find(path) if name is None else get(name) for name, path in own]]

    return cells


def columns_of(fields: Sequence[str], joined: Sequence[str]) -> list[Column]:
    """The flat columns: *joined* fields under their own names, then *fields*, renamed where one has that name."""
    columns = [Column(name, joined=name) for name in joined]
    taken = set(joined) | set(fields)
    for name in fields:
        free = free_name(name, taken) if name in joined else name
        taken.add(free)
        columns.append(Column(free, path=tuple(name.split("."))))
    return columns


def free_name(name: str, taken: Iterable[str]) -> str:
    """*name* with ``result_`` before it, as often as is needed to be none of *taken*."""
    name = f"result_{name}"
    while name in taken:
        name = f"result_{name}"
    return name


def plain_text(text: str) -> str:
    """The text that JSON *text*, a string, stands for; lone surrogates, which no encoding has, become U+FFFD."""
    if "\\" not in text:
        return text[1:-1]
    plain = str(parse(text))
    try:
        plain.encode()
    except UnicodeEncodeError:
        return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return plain


class NestedFields:
    """Writes fields as members of a JSON object, nested as their names are: ``usage.input_tokens`` inside ``usage``.

    A field that has no value is null. *taken*: names of the input's fields, at the top level.
    """

    def __init__(self, fields: Sequence[str], taken: Sequence[str] = ()) -> None:
        tree: dict[str, object] = {}
        for name in fields:
            _insert(tree, tuple(name.split(".")))
        names = set(taken) | set(tree)
        self._parts: list[tuple[str, tuple[str, ...]]] = []
        self._literal = ""
        for position, (name, node) in enumerate(tree.items()):
            shown = name
            if name in taken:
                shown = free_name(name, names)
                names.add(shown)
            self._literal += "," if position else ""
            self._add(shown, node)
        self._tail = self._literal

    def text(self, line: Line) -> str:
        """The members, without the braces around them."""
        found: list[str] = []
        for literal, path in self._parts:
            found.append(literal)
            found.append(line.find(path) or "null")
        found.append(self._tail)
        return "".join(found)

    def _add(self, name: str, node: object) -> None:
        self._literal += f"{dumps(name)}:"
        if isinstance(node, dict):
            for position, (key, child) in enumerate(node.items()):
                self._literal += "," if position else "{"
                self._add(key, child)
            self._literal += "}"
        else:
            self._parts.append((self._literal, node))  # type: ignore[arg-type]  # a leaf is its path
            self._literal = ""


def _insert(tree: dict[str, object], path: tuple[str, ...]) -> None:
    """Insert *path* as a leaf. One inside a field that is there as a whole says nothing more, and is left out."""
    node = tree
    for name in path[:-1]:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            return
        node = child
    node[path[-1]] = path
