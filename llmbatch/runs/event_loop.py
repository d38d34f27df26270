"""What a run needs from the process: an event loop, the fastest there is, enough file handles, and few interruptions.

Signals are handled in :mod:`llmbatch.cli.signals`.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from typing import TypeVar

__all__ = ["raise_file_limit", "run_in_loop"]

_T = TypeVar("_T")

_SPARE_FILES = 256
"""Handles for the input, the output, connections that are closing, and whatever the interpreter holds."""

_COLLECTIONS = (10_000, 20, 50)
"""Thresholds of the garbage collector. Rows leave no cycles behind, and 2,000 in flight make so many objects in a turn
of the loop that the usual 700 interrupt it all the time: a tenth of the processor time of such a run."""


def run_in_loop(main: Coroutine[object, object, _T]) -> _T:
    """Run *main* to its end on uvloop where it is installed, on asyncio's own loop otherwise.

    Only for a process of our own: meanwhile it collects garbage more rarely.
    """
    usual = gc.get_threshold()
    gc.set_threshold(*_COLLECTIONS)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(main)
    finally:
        main.close()  # which was not awaited if there is no loop for it
        gc.set_threshold(*usual)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def raise_file_limit(concurrency: int) -> None:
    """Raise this process's soft limit of open files, as far as it may go, where *concurrency* needs more.

    Windows has no such limit for sockets.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = concurrency + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
