"""Tell a cancellation of the run from one that a user's function asked for itself."""

from __future__ import annotations

import asyncio
import contextlib
import math

import anyio

__all__ = ["forget_cancellation", "is_cancelled"]


def is_cancelled() -> bool:
    """Whether a cancel scope around this task was canceled."""
    return anyio.current_effective_deadline() == -math.inf


async def forget_cancellation(task: asyncio.Task[object]) -> None:
    """Undo a cancellation that the task requested itself, and let one that is still pending be raised here."""
    while task.uncancel():
        pass
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
