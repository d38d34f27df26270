"""The actor that sends the rows of shards: each an ordinary run, whose messages the driver fetches.

It has the environment of its node: keys are read there, and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from llmbatch.core.errors import InUseError, LlmbatchError
from llmbatch.core.secrets import Mask
from llmbatch.core.shards import Shard
from llmbatch.report.fold import ProcessStats
from llmbatch.report.summary import Summary
from llmbatch.runner.earlier import NOTHING_EARLIER
from llmbatch.runs.event_loop import raise_file_limit, run_in_loop
from llmbatch.runs.split_run import SplitRunner
from llmbatch.workers.messages import Done, Failed, Message
from llmbatch.workers.relay import Relay

__all__ = ["Heard", "RowWorker", "ShardJob", "Sight", "own_version"]

_HEAR_S: Final = 0.5
"""Seconds that the driver waits for a message at most; then it knows that the actor lives."""

_LOCK_S: Final = 120.0
"""Seconds to wait for a part that is locked: a node that was cut off ends by itself, and NFS keeps the lock of a
machine that is gone for a minute and a half."""

_TRY_AGAIN_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class ShardJob:
    """What one actor runs: a shard. *keywords* are those of ``BatchRunner``, *files* those of its method ``run``."""

    input: str
    folder: str
    shard: Shard
    keywords: Mapping[str, Any]
    files: Mapping[str, Any]
    verbose: int = 0
    requests_today: tuple[int, float] = NOTHING_EARLIER.requests_today
    """Its part of those of earlier runs, as in :class:`~llmbatch.runner.earlier.EarlierRuns`."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What an actor sees before it is given work. ``problem`` is empty if it can do it."""

    node: str
    version: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """Messages of a run, and the clock of the machine that sent them, in seconds."""

    clock: float
    messages: list[Message]


@dataclass(slots=True)
class _Run:
    """One run, and what it has told that the driver does not have yet."""

    id: str
    messages: list[Message] = field(default_factory=list)
    taken: int = 0
    has_news: threading.Condition = field(default_factory=threading.Condition)
    runner: SplitRunner | None = None
    stopped: tuple[int | None, bool] | None = None

    def send(self, message: Message) -> None:
        """Keep *message* for the driver; from any thread."""
        with self.has_news:
            self.messages.append(message)
            self.has_news.notify_all()

    def after(self, taken: int) -> list[Message]:
        """The messages after the first *taken*, which the driver has; waits for some."""
        with self.has_news:
            del self.messages[: taken - self.taken]
            self.taken = taken
            if not self.messages:
                self.has_news.wait(_HEAR_S)
            return list(self.messages)

    def stop(self, signal: int | None, *, now: bool) -> None:
        """Stop the run, or keep it from beginning; from any thread."""
        self.stopped = (signal, now)
        if self.runner is not None:
            self.runner.stop(signal=signal, now=now)


class RowWorker:
    """The actor. Its methods are called from several threads. *folder*: the driver's, from which paths count."""

    def __init__(self, folder: str, concurrency: int) -> None:
        self._run: _Run | None = None
        self._thread: threading.Thread | None = None
        with contextlib.suppress(OSError):
            os.chdir(folder)
        raise_file_limit(concurrency)

    def look(self, input_path: str, size_bytes: int | None, token_path: str, token: str) -> Sight:
        """Say whether the input, and the file with the *token* among the parts, can be seen from here."""
        return Sight(
            socket.gethostname(), own_version(), _problem(Path(input_path), size_bytes, Path(token_path), token)
        )

    def start(self, run_id: str, job: ShardJob) -> bool:
        """Begin a run; True. Another one that goes on, of which the driver has lost track, is stopped first."""
        if self._run is not None and self._run.id == run_id:
            return True
        if self._run is not None and self._thread is not None:
            self._run.stop(None, now=True)
            self._thread.join()
        self._run = run = _Run(run_id)
        self._thread = threading.Thread(target=_send_rows, args=(run, job), name="llmbatch-run", daemon=True)
        self._thread.start()
        return True

    def hear(self, run_id: str, taken: int) -> Heard | None:
        """The messages of the run after the first *taken* of them; None if it does not run here."""
        run = self._run
        if run is None or run.id != run_id:
            return None
        messages = run.after(taken)
        return Heard(time.monotonic(), messages)

    def stop(self, signal: int | None, now: bool) -> None:
        """Let requests in flight finish; with *now*, stop at once."""
        if self._run is not None:
            self._run.stop(signal, now=now)


def own_version() -> str:
    """The version of llmbatch in this process."""
    return str(import_module("llmbatch").__version__)


def _problem(source: Path, size_bytes: int | None, token_path: Path, token: str) -> str:
    """What keeps this node from working on *source*; empty if nothing does."""
    try:
        if token_path.read_text() != token:
            return f"sees another folder as {token_path.parent}"
        if not os.access(token_path.parent, os.W_OK):
            return f"may not write into the folder {token_path.parent}"
    except OSError:
        return f"does not see the folder {token_path.parent}"
    try:
        if size_bytes is not None and source.stat().st_size != size_bytes:
            return f"sees another file as the input {source}"
        if not os.access(source, os.R_OK):
            return f"may not read the input {source}"
    except OSError:
        return f"does not see the input {source}"
    return ""


def _send_rows(run: _Run, job: ShardJob) -> None:
    """Run the shard, and tell how that ended."""
    try:
        until = time.monotonic() + _LOCK_S
        while True:
            try:
                run.send(Done(run_in_loop(_run_shard(run, job))))
                return
            except InUseError:
                if time.monotonic() > until or run.stopped is not None:
                    raise
            time.sleep(_TRY_AGAIN_S)
    except LlmbatchError as error:
        run.send(Failed(error.message, error.hint, error.exit_code))
    except BaseException as error:  # noqa: BLE001 - the driver says it, as the command does of its own
        mask = Mask(os.environ.values())
        run.send(Failed(f"internal error: {type(error).__name__}: {mask(str(error))}", "report it", 70))


async def _run_shard(run: _Run, job: ShardJob) -> Summary:
    stats = ProcessStats()
    relay = Relay(run.send, stats, verbose=job.verbose)
    runner = SplitRunner(**job.keywords, observers=[stats, relay], display=False)
    runner.share_dealt_cost()
    runner.count_for_rpd(job.requests_today)
    run.runner = runner
    if run.stopped is not None:
        signal, now = run.stopped
        runner.stop(signal=signal, now=now)
    async with relay.telling():
        return await runner.run(job.input, f"{job.folder}/", shard=job.shard, **job.files)
