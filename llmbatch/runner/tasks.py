"""The tasks of a run, and whether a cancellation is the run's or one that a user's function asked for itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from types import TracebackType
from typing import Self

from llmbatch.core.errors import LlmbatchError

__all__ = ["Tasks", "forget_cancellation"]


class Tasks:
    """A group of tasks, used as ``async with`` once: leaving it cancels those that still run, and waits for them.

    Each is canceled once, as by :class:`asyncio.TaskGroup`, so that what it awaits while it cleans up is awaited; and
    not before it has begun, so that it can release what it was given. If one fails, the others are canceled, and its
    exception is raised by itself instead of in a group: of several one that ends the program, else one of
    :class:`~llmbatch.core.errors.LlmbatchError`, else the first. The block itself has to end once :attr:`is_cut`.
    """

    def __init__(self) -> None:
        self.is_cut = False
        """Whether all tasks were canceled, and no others should be started."""
        self._running: set[asyncio.Task[None]] = set()
        self._begun: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._host: asyncio.Task[object] | None = None

    def __repr__(self) -> str:
        return f"<Tasks {len(self._running)} running{', canceled' if self.is_cut else ''}>"

    @property
    def is_cancelled(self) -> bool:
        """Whether a task that is being canceled is so because of the group, or of the task that has entered it."""
        return self.is_cut or (self._host is not None and self._host.cancelling() > 0)

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Run *work* in a task of its own."""
        task = asyncio.get_running_loop().create_task(self._run(work))
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def _run(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        self._begun.add(task)
        if self.is_cut:
            task.cancel()
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._errors.append(error)
            self.cancel()
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise  # it ends the event loop

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._begun.discard(task)

    def cancel(self) -> None:
        """Cancel all tasks; also before the group was entered."""
        if not self.is_cut:
            self.is_cut = True
            for task in list(self._begun):
                if task is not asyncio.current_task():
                    task.cancel()

    async def __aenter__(self) -> Self:
        self._host = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
        cancellation: asyncio.CancelledError | None = None
        while self._running:
            try:
                await asyncio.wait(self._running)
            except asyncio.CancelledError as error_of_host:
                cancellation = error_of_host
        if error is not None and not isinstance(error, asyncio.CancelledError):
            return  # raised by the block itself
        if self._errors:
            raise _most_telling(self._errors)
        if cancellation is not None and error is None:
            raise cancellation


def _most_telling(errors: list[BaseException]) -> BaseException:
    for kinds in (KeyboardInterrupt, SystemExit), LlmbatchError:
        for error in errors:
            if isinstance(error, kinds):
                return error
    return errors[0]


async def forget_cancellation(task: asyncio.Task[object]) -> None:
    """Undo a cancellation that the task requested itself, and let one that is still pending be raised here."""
    while task.uncancel():
        pass
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
