"""Every block of Python in docs/library.md runs, in order, as in a notebook."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


async def run_blocks(names: dict[str, Any]) -> None:
    for number, block in enumerate(BLOCKS, 1):
        code = compile(
            block, f"{PAGE.name}, block {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        done = eval(code, names)
        if inspect.isawaitable(done):
            await done


@pytest.mark.slow
def test_every_block_of_the_library_page_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And prints what its reader expects. Slow: simulated answers take 0.2 s each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])  # basicConfig() then does nothing
    names: dict[str, Any] = {"__name__": "__main__"}

    asyncio.run(run_blocks(names))

    lines = capsys.readouterr().out.splitlines()
    assert len(BLOCKS) == 8
    assert [line.split()[:2] for line in lines[:2]] == [["row-1", "success"], ["why", "success"]]
    assert "Why is the sky blue? 5" in lines
    assert "130 the stream was closed early" in lines
    assert [line.split()[0] for line in lines if line[:2] in ("1 ", "2 ", "3 ")] == ["1", "2", "3"]
    assert {"one success", "two success", "three success", "3"} <= set(lines)
    assert list(tmp_path.iterdir()) == []
