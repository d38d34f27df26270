"""Every block of code in docs/integrations.md runs, against the simulated provider instead of the real ones."""

from __future__ import annotations

import ast
import inspect
import re
import types
from pathlib import Path
from typing import Any

import pytest

from llmbatch import CircuitOpenError
from llmbatch.sim.server import start

# Servers on loopback, without TLS.
pytestmark = pytest.mark.usefixtures("no_certificates")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


async def run(code: str) -> dict[str, Any]:
    """Run *code*, which may await; gives its names."""
    names: dict[str, Any] = {}
    compiled = compile(code, "docs/integrations.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = types.FunctionType(compiled, names)()
    if inspect.isawaitable(running):
        await running
    return names


async def close(names: dict[str, Any]) -> None:
    """Close the clients and transports of a block."""
    for value in names.values():
        if isinstance(value, type):
            continue
        closing = getattr(value, "aclose", None) or getattr(value, "close", None)
        if callable(closing) and inspect.isawaitable(done := closing()):
            await done


class Down:
    """A model of a framework that wraps what its client raises."""

    async def ainvoke(self, question: str) -> str:
        try:
            raise ConnectionError(question) from CircuitOpenError(9.0)
        except ConnectionError as error:
            raise RuntimeError("the model failed") from error


@pytest.mark.parametrize("number", range(len(BLOCKS)))
async def test_every_block_runs(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clients answer, too, once they are made."""
    code = BLOCKS[number]
    for package in re.findall(r"^(?:import|from) (openai|anthropic|httpx2?|aiohttp|requests|fastapi)\b", code, re.M):
        pytest.importorskip(package)
    async with await start(latency=0) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root_url)
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
        names = await run(code)
        client: Any = names.get("client")
        ask: Any = [{"role": "user", "content": "hi"}]
        if "AsyncOpenAI" in code:
            assert (await client.chat.completions.create(model="m", messages=ask)).choices
        elif "AsyncAnthropic" in code:
            assert (await client.messages.create(model="m", messages=ask, max_tokens=9)).content
        elif client is not None:
            assert (await client.get(f"{server.url}/models")).status_code == 200
        elif "aiohttp" in code:
            assert (await names["session"].get(f"{server.url}/models")).status == 200
        elif "find_refusal" in code:
            assert "try again in 9 s" in await names["ask"](Down(), "hi")
        await close(names)
    if "print(chunk" in code:
        assert len(capsys.readouterr().out) > 20


def test_there_are_blocks_and_few_lines_each() -> None:
    """To add a circuit takes three lines: two imports and the client."""
    assert len(BLOCKS) == 10
    first = [line for line in BLOCKS[0].splitlines() if line]
    assert len(first) == 3
