"""Every code block of docs/streaming.md runs, top to bottom, with the real clients against the simulated provider."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmbatch.sim.server import start

PAGE = Path(__file__).resolve().parents[2] / "docs" / "streaming.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def run_blocks(capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    """Run all blocks in one namespace and one event loop, as in a notebook; give what each one printed."""
    space: dict[str, object] = {"__name__": "streaming"}
    with asyncio.Runner() as runner:
        for block in BLOCKS:
            code = compile(block, "docs/streaming.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            awaited = eval(code, space)
            if inspect.iscoroutine(awaited):
                runner.run(awaited)
            yield capsys.readouterr().out.strip()
        for name in ("client", "claude"):
            runner.run(space[name].close())  # type: ignore[attr-defined]


@pytest.mark.slow
async def test_the_code_of_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And prints something. Slow, for each block makes real requests."""
    async with await start(latency=0, seed=4) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root_url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
        shown = await asyncio.to_thread(lambda: list(run_blocks(capsys)))

    assert len(shown) == 6
    assert all(shown)
    assert shown[-1] == "['data: 1', 'data: 2']"
    assert server.stats.by_status == {"200": 5}
