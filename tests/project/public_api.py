"""The library's public API as text: every exported name with its signature, fields and public members.

    python tests/project/public_api.py            print it
    python tests/project/public_api.py --write    write tests/project/public_api.txt, which a test compares

Names of modules inside the package are left out: what users import comes from ``llmbatch`` and ``llmbatch.breaker``.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

GOLDEN = Path(__file__).with_suffix(".txt")
PACKAGES = ("llmbatch", "llmbatch.breaker")
_FORWARD = re.compile(r"ForwardRef\('(.*?)'.*?\)")
_INSIDE = re.compile(r"llmbatch\.[\w.]*\.")


def describe() -> str:
    """One line per exported name and one indented line per public member, sorted."""
    lines = []
    for package in PACKAGES:
        module = import_module(package)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            lines.append(f"{package}.{name}{_heading(value)}")
            lines += [f"    {line}" for line in sorted(_members(value))]
    return "\n".join([*lines, ""])


def _heading(value: object) -> str:
    if inspect.isclass(value):
        if getattr(value, "_is_protocol", False):
            return ": Protocol"
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        return f": class({bases}){_signature(value)}"
    if inspect.isfunction(value):
        return f": {_signature(value)}"
    return f": {_INSIDE.sub('', repr(value))}"


def _signature(value: object) -> str:
    try:
        signature = inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    text = re.sub(r" at 0x[0-9a-f]+", "", _FORWARD.sub(r"\1", str(signature)))
    text = _INSIDE.sub("", text)
    # Annotations are strings, which inspect shows in quotes; those of literals use the other kind of quotes.
    return re.sub(r"(: |-> )(['\"])(.*?)\2(?=,| =|\)|$)", r"\1\3", text)


def _members(value: object) -> Iterator[str]:
    if not inspect.isclass(value):
        return
    if dataclasses.is_dataclass(value):
        yield from (f"{field.name}: {field.type}" for field in dataclasses.fields(value) if field.name[0] != "_")
    seen: set[str] = set()
    for owner in value.__mro__:
        if owner.__module__.partition(".")[0] != "llmbatch":
            continue
        for name, member in vars(owner).items():
            entered = name in ("__enter__", "__exit__", "__aenter__", "__aexit__", "__call__", "__iter__", "__aiter__")
            if name in seen or (name.startswith("_") and not entered):
                continue
            seen.add(name)
            if isinstance(member, property):
                yield f"{name}: property{_signature(member.fget).removeprefix('(self)')}"
            elif isinstance(member, classmethod | staticmethod):
                yield f"{name}: {type(member).__name__}{_signature(member.__func__)}"
            elif inspect.isfunction(member):
                kind = "async " if inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member) else ""
                yield f"{name}: {kind}{_signature(member)}"
    for name, annotation in vars(value).get("__annotations__", {}).items():
        if name[0] != "_" and not dataclasses.is_dataclass(value):
            yield f"{name}: " + _FORWARD.sub(r"\1", str(annotation))


if __name__ == "__main__":
    if "--write" in sys.argv:
        GOLDEN.write_text(describe())
    else:
        sys.stdout.write(describe())
