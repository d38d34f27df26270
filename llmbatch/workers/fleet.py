"""The parent of the processes of ``--workers``: starts them, listens, passes stops on, and starts killed ones again."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import sys
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Generic, TypeVar

import anyio

from llmbatch.core.events import Event, Notice
from llmbatch.report.fold import FoldedStats
from llmbatch.workers.messages import LENGTH_BYTES, PAUSE, RESUME, Ending, Failed, Message, pack, stop_line
from llmbatch.workers.news import News, stops_all
from llmbatch.workers.split import Restarts

__all__ = ["Fleet"]

_BOOT: Final = "import sys; sys.path[:] = sys.argv[1:]; from llmbatch.cli.worker import main; raise SystemExit(main())"
_KILL_AFTER_S: Final = 15.0
_LAST_WORDS: Final = 20


Job = TypeVar("Job")


class Fleet(Generic[Job]):
    """Processes that each work on one job. *jobs* are what they are sent; *emit* gets the events of the whole run.

    *counted* makes the job of a process from the one that stands for all that take its place. It is given a function
    that adds what these have sent to the requests of earlier runs; see :meth:`~llmbatch.workers.news.News.sent_today`.

    Canceling :meth:`run` ends all of them. Whatever becomes of the parent, its processes notice and end.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        stats: FoldedStats,
        emit: Callable[[Event], None],
        *,
        counted: Callable[[Job, Callable[[tuple[int, float]], tuple[int, float]]], Job] = lambda job, sent: job,
    ) -> None:
        self._jobs = list(jobs)
        self._counted = counted
        self._news = News(stats, emit)
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._endings: dict[int, Ending] = {}
        self._stop: bytes | None = None
        self._is_paused = False
        self.signal: int | None = None
        """The signal that stopped the run; None while none did."""

    def __repr__(self) -> str:
        return f"<Fleet of {len(self._jobs)}, {len(self._processes)} running>"

    @property
    def pids(self) -> list[int]:
        """The processes that are running."""
        return [process.pid for process in self._processes.values()]

    @property
    def count(self) -> int:
        """How many processes there are, also those that have ended."""
        return len(self._jobs)

    def job(self, number: int) -> Job:
        """What process *number* works on, or will once it is started."""
        return self._jobs[number]

    def replace_job(self, number: int, job: Job, line: bytes = b"") -> None:
        """Give process *number* another job for its next start; to the one that is running, say *line*."""
        self._jobs[number] = job
        process = self._processes.get(number)
        if line and process is not None:
            self._command(process, line)

    def pause(self) -> None:
        """Let all processes begin no call before :meth:`resume`, also those that start meanwhile."""
        self._is_paused = True
        self._command_all(PAUSE)

    def resume(self) -> None:
        """Let all processes go on after a pause."""
        self._is_paused = False
        self._command_all(RESUME)

    async def run(self, numbers: Sequence[int]) -> list[Ending]:
        """Run the jobs with these *numbers* in a process each, until all have ended."""
        async with anyio.create_task_group() as group:
            for number in numbers:
                group.start_soon(self._keep, number)
        return [self._endings[number] for number in numbers]

    def stop(self, *, signal: int | None = None, now: bool = False) -> None:
        """Let all processes stop reading and finish what is in flight; with *now*, stop at once."""
        self.signal = signal if signal is not None else 2
        self._stop_all(signal, now=now)

    def _stop_all(self, signal: int | None, *, now: bool) -> None:
        self._stop = stop_line(signal, now=now)
        self._command_all(self._stop)
        if now:
            asyncio.get_running_loop().call_later(_KILL_AFTER_S, self._kill_all)

    def _kill_all(self) -> None:
        for process in list(self._processes.values()):
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def _command_all(self, line: bytes) -> None:
        for process in list(self._processes.values()):
            self._command(process, line)

    @staticmethod
    def _command(process: asyncio.subprocess.Process, line: bytes) -> None:
        if process.stdin is not None and not process.stdin.is_closing():
            with contextlib.suppress(OSError, RuntimeError):
                process.stdin.write(line)

    async def _keep(self, number: int) -> None:
        """Run process *number* until it has ended by itself."""
        restarts = Restarts()
        loop = asyncio.get_running_loop()
        while True:
            if self._stop is not None and not self._news.has_begun(number):
                self._endings[number] = Ending(number, 130)
                return
            ending, status, words = await self._once(number)
            self._news.gone(number, has_ended=ending is not None)
            if ending is not None:
                self._endings[number] = ending
                if stops_all(ending) and self._stop is None:
                    self._stop_all(None, now=False)
                return
            how = _how(status)
            if self._stop is not None:
                self._endings[number] = Ending(number, 130)
                return
            name = f"process {number + 1} of {len(self._jobs)}"
            if not restarts.allow(loop.time()):
                said = f": {words}" if words else ""
                failure = Failed(
                    f"{name} {how} again and again{said}",
                    "the system may be out of memory: start fewer processes (--workers); the same command resumes",
                    70,
                )
                self._endings[number] = Ending(number, 70, failure=failure)
                self._stop_all(None, now=False)
                return
            text = f"{name} {how}, and is started again: its rows in flight are resent"
            self._news.emit(Notice(loop.time(), "warning", text))

    async def _once(self, number: int) -> tuple[Ending | None, int, str]:
        """Start process *number* and listen to its end; how it ended, its status, and its last words.

        None if it was killed.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _BOOT, *sys.path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        self._processes[number] = process
        words: deque[str] = deque(maxlen=_LAST_WORDS)
        try:
            process.stdin.write(pack(self._counted(self._jobs[number], partial(self._news.sent_today, number))))
            if self._is_paused:
                process.stdin.write(PAUSE)
            if self._stop is not None:
                process.stdin.write(self._stop)
            async with anyio.create_task_group() as group:
                group.start_soon(_drain, process.stderr, words)
                ending = await self._listen(number, process.stdout)
            status = await process.wait()
        finally:
            process.stdin.close()  # which tells it to end
            if process.returncode is None:
                with anyio.CancelScope(shield=True):
                    await _end(process)
            del self._processes[number]
        return ending, status, words[-1] if words else ""

    async def _listen(self, number: int, stream: asyncio.StreamReader) -> Ending | None:
        ending: Ending | None = None
        while True:
            try:
                size = int.from_bytes(await stream.readexactly(LENGTH_BYTES), "big")
                message: Message = pickle.loads(await stream.readexactly(size))  # noqa: S301 - of our own process
            except asyncio.IncompleteReadError:
                return ending
            ending = self._news.take(number, message) or ending


async def _drain(stream: asyncio.StreamReader, words: deque[str]) -> None:
    """Read what a process writes on standard error, so that it is not held up; keep the last lines."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than the buffer
            continue
        if not line:
            return
        text = line.decode(errors="replace").strip()
        if text:
            words.append(text[:300])


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for a process that was told to end, and kill it if it does not."""
    with anyio.move_on_after(_KILL_AFTER_S):
        await process.wait()
        return
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _how(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"ended without a word (exit status {status})"
