"""The tiers of the tests: what is left out of the fast one says why."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def unexplained(source: str) -> Iterator[int]:
    """Lines of marks ``slow`` that neither a comment beside them nor the docstring of the test explains."""
    if "mark.slow" not in source:  # parsing takes a hundred times as long
        return
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        marks: list[ast.expr] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if "slow" not in (ast.get_docstring(node) or "").lower():
                marks = node.decorator_list
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            marks = node.value.elts if isinstance(node.value, ast.List) else [node.value]
        for mark in marks:
            line = mark.lineno - 1
            if ast.unparse(mark) == "pytest.mark.slow" and "#" not in lines[line] + lines[line - 1][:1]:
                yield mark.lineno


@pytest.mark.parametrize("path", sorted(TESTS.glob("*/test_*.py")), ids=lambda path: path.stem)
def test_a_slow_test_says_why(path: Path) -> None:
    """The reason is in its docstring or behind the mark."""
    assert list(unexplained(path.read_text())) == []


def test_a_slow_mark_without_a_reason_is_found() -> None:
    """Of a function, of a module; a docstring, a comment behind the mark or before a module's are reasons."""
    assert list(unexplained("\n@pytest.mark.slow\ndef test() -> None:\n    '''It works.'''\n")) == [2]
    assert list(unexplained("\npytestmark = [pytest.mark.slow]\n")) == [2]
    assert list(unexplained("# Real runs.\npytestmark = [pytest.mark.slow]\n")) == []
    assert list(unexplained("@pytest.mark.slow  # a server\ndef test() -> None: ...\n")) == []
    assert list(unexplained("@pytest.mark.slow\ndef test() -> None:\n    '''It works. Slow: a server.'''\n")) == []


@pytest.mark.slow  # starts pytest
@pytest.mark.parametrize(
    ("words", "sizes"),
    [((), [2500]), (("-m", "not slow"), []), (("--long",), [2500, 10_000]), (("-m", "long"), [10_000])],
)
def test_long_tests_are_left_out_unless_asked_for(words: tuple[str, ...], sizes: list[int], tmp_path: Path) -> None:
    """Beside the user's own ``-m``; by the conftest.py of all tests."""
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow\n  long\n  no_cover\n  traced\n")
    (tmp_path / "test_sizes.py").write_text(
        "import pytest\n\n"
        "@pytest.mark.slow\n"
        "@pytest.mark.parametrize('size', [2500, pytest.param(10_000, marks=pytest.mark.long)])\n"
        "def test_all(size): ...\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *words]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == (0 if sizes else 5), done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if "::" in line] == [
        f"test_sizes.py::test_all[{size}]" for size in sizes
    ]
