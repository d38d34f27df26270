"""Runs on another event loop than asyncio's, as trio's: refused, saying what to do."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from llmbatch import BatchRunner, UsageError


async def double(row: int) -> int:
    return 2 * row


def step(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run *coroutine* as another event loop does, up to where it waits."""
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


def test_a_run_without_asyncio_ended_with_no_running_event_loop(tmp_path: Path) -> None:
    """The words of asyncio, and none of what to do."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "hi"}\n')
    runner = BatchRunner(double)

    with pytest.raises(UsageError, match="needs a running asyncio loop"):
        step(BatchRunner("sim/steady").run(tmp_path / "in.jsonl"))
    with pytest.raises(UsageError, match="needs a running asyncio loop") as refused:
        step(runner.map([1, 2]))

    assert "trio.to_thread.run_sync" in refused.value.hint
