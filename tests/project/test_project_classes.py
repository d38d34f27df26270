"""Rules for classes that no linter knows: how large, who writes what, and whose private names are used."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # to parse all modules takes a second

ROOT = Path(__file__).resolve().parents[2] / "llmbatch"

MOST_ATTRIBUTES = 20

LARGER = {
    "BreakerPolicy": 21,  # the options of a circuit, immutable
    "Outcome": 25,  # what one answer said
    "Result": 30,  # the fields of an output line, and the row as it was given
    "_Keywords": 33,  # the keywords of BatchRunner, for type checkers: no object of it exists
}
"""Classes that have more, and how many; to be made smaller, never larger."""


@functools.cache
def modules() -> dict[Path, ast.Module]:
    """Each with its syntax tree."""
    return {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """The trees go with the module: the garbage collector of a later test would look at each of their million nodes."""
    yield
    modules.cache_clear()


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield path, node


def is_record(node: ast.ClassDef) -> bool:
    """A frozen dataclass, or a typed dictionary of options: facts with names, without a state to understand."""
    is_typed_dict = any(keyword.arg == "total" for keyword in node.keywords)
    return is_typed_dict or any("frozen=True" in ast.unparse(decorator) for decorator in node.decorator_list)


def own_attributes(node: ast.ClassDef) -> set[str]:
    fields = {
        part.target.id
        for part in node.body
        if isinstance(part, ast.AnnAssign)
        and isinstance(part.target, ast.Name)
        and "ClassVar" not in ast.unparse(part.annotation)
    }
    written = {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and isinstance(part.value, ast.Name)
        and part.value.id == "self"
    }
    return fields | written


def attributes(name: str, by_name: dict[str, ast.ClassDef]) -> set[str]:
    """With those of its base classes."""
    node = by_name.get(name)
    if node is None:
        return set()
    bases = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
    return own_attributes(node).union(*(attributes(base, by_name) for base in bases if base != name))


def test_no_class_with_a_state_has_more_than_20_attributes() -> None:
    """Facts that belong together get an owner of their own."""
    by_name = {node.name: node for _, node in classes()}

    large = {
        name: count
        for name, node in by_name.items()
        if not is_record(node) and (count := len(attributes(name, by_name))) > LARGER.get(name, MOST_ATTRIBUTES)
    }

    assert large == {}


def test_nothing_outside_the_route_writes_its_attributes() -> None:
    """Whoever asks why a row failed reads one package."""
    owned = {
        name
        for path, node in classes()
        if path.parent.name == "route" and not is_record(node)
        for name in own_attributes(node)
    }
    # Objects of a route, as the runner calls them.
    holders = ("state", "route.state", "trust", "outage", "throttle", "evidence", "record", "circuit", "call", "limit")

    written = [
        f"{path.relative_to(ROOT)}:{part.lineno}: {ast.unparse(part)}"
        for path, tree in modules().items()
        if path.parent.name in ("runner", "runs", "drill")
        for part in ast.walk(tree)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and part.attr in owned
        and ast.unparse(part.value).endswith(holders)
    ]

    assert written == []


def test_no_module_uses_the_private_names_of_another() -> None:
    """Neither imports nor attributes; what a named tuple calls ``_replace`` is public."""
    allowed = {"_replace", "_asdict", "_fields", "_is_owned", "_at_fork_reinit"}
    found = []
    for path, tree in modules().items():
        own = {part.name for part in ast.walk(tree) if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
        own |= {
            part.attr
            for part in ast.walk(tree)
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in ("self", "cls")
        }
        for part in ast.walk(tree):
            if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("llmbatch"):
                found += [
                    f"{path.relative_to(ROOT)}:{part.lineno}: {name.name}"
                    for name in part.names
                    if name.name.startswith("_") and name.name[1] != "_"
                ]
            elif (
                isinstance(part, ast.Attribute)
                and part.attr.startswith("_")
                and not part.attr.startswith("__")
                and part.attr not in own | allowed
            ):
                found.append(f"{path.relative_to(ROOT)}:{part.lineno}: {ast.unparse(part)}")

    assert found == []
