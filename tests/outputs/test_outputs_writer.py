"""Grouping, syncing and ending of the line writer."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pytest
from example_lines import result_line

from llmbatch.core.errors import WriteError
from llmbatch.outputs.file import Output
from llmbatch.outputs.open import open_output
from llmbatch.outputs.stream import open_stream_output
from llmbatch.outputs.writer import LineWriter
from llmbatch.storage.filesystem import Filesystem
from llmbatch.storage.finished_rows import FinishedRows


class Watched(Output):
    """A real output that remembers its writes and syncs, and has no room for ``big`` lines."""

    def __init__(self, path: Path, *, sync_takes: float = 0.0) -> None:
        super().__init__(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), str(path), FinishedRows())
        self.writes: list[bytes] = []
        self.syncs: list[float] = []
        self.threads: set[int] = set()
        self.running = 0
        self.overlapped = False
        self.sync_takes = sync_takes

    def write(self, data: bytes) -> None:
        if data.startswith(b"big"):
            raise WriteError("disk full")
        self.writes.append(data)
        super().write(data)

    def sync(self) -> None:
        self.overlapped = self.overlapped or self.running > 0
        self.running += 1
        self.threads.add(threading.get_ident())
        self.syncs.append(time.monotonic())
        time.sleep(self.sync_takes)
        super().sync()
        self.running -= 1


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    output = Watched(tmp_path / "out.jsonl")
    yield output
    output.close()


async def test_lines_are_written_at_once_for_who_cannot_wait_for_the_turn(watched: Watched) -> None:
    """What was put before is in the file when `flush` returns; what comes after is one write of the turn's end."""
    writer = LineWriter(watched)

    writer.put_line(b"one\n")
    writer.flush()
    written_now = list(watched.writes)
    writer.put_line(b"two\n")
    writer.put_line(b"three\n")
    writer.flush()
    writer.flush()
    writer.put_line(b"four\n")
    await asyncio.sleep(0)
    at_turns_end = list(watched.writes)
    await writer.aclose()

    assert written_now == [b"one\n"]
    assert at_turns_end == [b"one\n", b"two\nthree\n", b"four\n"]
    assert watched.writes == at_turns_end


async def test_all_lines_of_a_turn_of_the_loop_are_one_write(watched: Watched) -> None:
    """In order; the next turn's are the next write."""
    writer = LineWriter(watched)

    writer.put_line(b"1\n")
    writer.put_line(b"2\n")
    before = writer.lines_written
    await asyncio.sleep(0)
    writer.put_line(b"3\n")
    await writer.aclose()

    assert before == 0
    assert watched.writes == [b"1\n2\n", b"3\n"]
    assert writer.lines_written == 3


async def test_syncs_come_at_most_once_an_interval_in_a_thread_and_never_two_at_once(tmp_path: Path) -> None:
    """However many lines come, and though a sync takes longer than the interval."""
    output = Watched(tmp_path / "out.jsonl", sync_takes=0.03)
    writer = LineWriter(output, sync_interval=0.02)

    for number in range(60):
        writer.put_line(b"%d\n" % number)
        await asyncio.sleep(0.003)
    during = list(output.syncs)
    await writer.aclose()

    gaps = [later - earlier for earlier, later in pairwise(during)]
    assert len(during) >= 2
    assert min(gaps) >= 0.045
    assert not output.overlapped
    assert threading.get_ident() not in output.threads
    output.close()


async def test_nothing_is_synced_while_nothing_is_unsynced(watched: Watched) -> None:
    """One write, one sync, then rest; closing adds none."""
    writer = LineWriter(watched, sync_interval=0.01)

    writer.put_line(b"1\n")
    await asyncio.sleep(0.08)
    await writer.aclose()

    assert len(watched.syncs) == 1


async def test_closing_writes_and_syncs_what_is_left(watched: Watched) -> None:
    """At once, not at the end of the interval; closing again is nothing."""
    writer = LineWriter(watched, sync_interval=60)
    writer.put_line(b"1\n")

    await writer.aclose()
    await writer.aclose()

    assert watched.writes == [b"1\n"]
    assert len(watched.syncs) == 1


async def test_lines_after_closing_are_refused(watched: Watched) -> None:
    """Counted, not written."""
    writer = LineWriter(watched)
    await writer.aclose()

    writer.put_line(b"1\n")
    await asyncio.sleep(0)

    assert (writer.lines_refused, watched.writes) == (1, [])


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_a_cancelled_closing_still_writes_and_syncs(tmp_path: Path, cancellations: int) -> None:
    """The sync has ended when the cancellation comes out, so that the file can be closed."""
    output = Watched(tmp_path / "out.jsonl", sync_takes=0.15)
    writer = LineWriter(output, sync_interval=60)
    writer.put_line(b"1\n")
    closing = asyncio.create_task(writer.aclose())

    for _ in range(cancellations):
        await asyncio.sleep(0.005)
        closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert output.writes == [b"1\n"]
    assert (len(output.syncs), output.running) == (1, 0)
    output.close()


async def test_syncs_are_inline_where_threads_are_not_wanted(watched: Watched) -> None:
    """Under virtual time a thread's real time would mean nothing."""
    writer = LineWriter(watched, sync_interval=0.01, sync_in_thread=False)

    writer.put_line(b"1\n")
    await asyncio.sleep(0.03)
    writer.put_line(b"2\n")
    await writer.aclose()

    assert len(watched.syncs) == 2
    assert watched.threads == {threading.get_ident()}


class NoThreads(ThreadPoolExecutor):
    """As on a machine whose limit of processes is reached, or in a program that is shutting down."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why

    def submit(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(self.why)


@pytest.mark.parametrize("why", ["can't start new thread", "cannot schedule new futures after shutdown"])
async def test_syncs_are_inline_where_no_thread_can_be_started(watched: Watched, why: str) -> None:
    """The loop waits for the disk then; the lines are as safe as ever, and the run goes on."""
    asyncio.get_running_loop().set_default_executor(NoThreads(why))
    writer = LineWriter(watched, sync_interval=0.01)

    writer.put_line(b"1\n")
    await asyncio.sleep(0.03)
    writer.put_line(b"2\n")
    await writer.aclose()

    assert len(watched.syncs) == 2
    assert watched.threads == {threading.get_ident()}


async def test_the_first_write_error_is_told_once_and_raised_at_the_end() -> None:
    """Lines after it are refused and counted; nothing raises in between."""
    output = open_output("/dev/full")
    told: list[WriteError] = []
    writer = LineWriter(output, on_error=told.append)

    for _ in range(3):
        writer.put_line(result_line(1))
        await asyncio.sleep(0)
    with pytest.raises(WriteError) as caught:
        await writer.aclose()

    assert told == [caught.value]
    assert (writer.lines_written, writer.lines_refused) == (0, 2)
    output.close()


@pytest.mark.parametrize("in_thread", [True, False])
async def test_a_failed_sync_stops_the_writer(tmp_path: Path, in_thread: bool) -> None:
    """Told while running, not only at the end."""
    path = tmp_path / "out.jsonl"
    output = open_output(path)
    told = asyncio.Event()
    writer = LineWriter(output, sync_interval=0.01, on_error=lambda _: told.set(), sync_in_thread=in_thread)
    path.unlink()

    writer.put_line(b"1\n")
    await asyncio.wait_for(told.wait(), 60)
    writer.put_line(b"2\n")
    with pytest.raises(WriteError, match="was deleted"):
        await writer.aclose()

    assert (writer.lines_written, writer.lines_refused) == (1, 1)
    output.close()


class Dying(Filesystem):
    """A disk of which the second sync fails."""

    def __init__(self) -> None:
        self.syncs = 0

    def sync(self, fd: int) -> None:
        self.syncs += 1
        if self.syncs == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(fd)


@pytest.mark.parametrize("in_thread", [True, False])
async def test_lines_that_a_failed_sync_may_have_lost_are_taken_back(tmp_path: Path, in_thread: bool) -> None:
    """Else the next run reads them from memory, calls their rows finished, and they vanish with the machine."""
    path = tmp_path / "out.jsonl"
    disk = Dying()
    output = open_output(path, disk=disk)
    told = asyncio.Event()
    writer = LineWriter(output, sync_interval=0.01, on_error=lambda _: told.set(), sync_in_thread=in_thread)

    writer.put_line(result_line(1))
    while disk.syncs < 1:
        await asyncio.sleep(0.001)
    writer.put_line(result_line(2))
    await asyncio.wait_for(told.wait(), 60)
    with pytest.raises(WriteError, match="could not be written"):
        await writer.aclose()

    assert path.read_bytes() == result_line(1)
    assert writer.lines_written == 1
    output.close()


async def test_a_failed_write_waits_for_the_sync_that_runs(tmp_path: Path) -> None:
    """Closing must not close the file under it."""
    output = Watched(tmp_path / "out.jsonl", sync_takes=0.05)
    writer = LineWriter(output, sync_interval=0.0)
    writer.put_line(b"1\n")
    while not output.running:
        await asyncio.sleep(0.001)

    writer.put_line(b"big\n")
    with pytest.raises(WriteError, match="disk full"):
        await writer.aclose()

    assert output.running == 0
    output.close()


async def test_a_sync_that_fails_after_a_write_did_is_not_told_too(tmp_path: Path) -> None:
    """The first failure is the one that is told and raised."""

    class Failing(Watched):
        def sync(self) -> None:
            super().sync()
            raise WriteError("the sync failed")

    output = Failing(tmp_path / "out.jsonl", sync_takes=0.05)
    told: list[WriteError] = []
    writer = LineWriter(output, sync_interval=0.0, on_error=told.append)
    writer.put_line(b"1\n")
    while not output.running:
        await asyncio.sleep(0.001)

    writer.put_line(b"big\n")
    with pytest.raises(WriteError, match="disk full"):
        await writer.aclose()

    assert [error.message for error in told] == ["disk full"]
    output.close()


async def test_a_change_that_is_noticed_at_the_end_saves_the_lines(tmp_path: Path) -> None:
    """Nothing was unsynced any more; the file is looked at once more all the same."""
    path = tmp_path / "out.jsonl"
    output = open_output(path)
    writer = LineWriter(output, sync_interval=0.0)
    writer.put_line(result_line(1))
    await asyncio.sleep(0)
    while writer._syncing is not None or writer._unsynced:
        await asyncio.sleep(0.001)
    path.unlink()

    with pytest.raises(WriteError, match="its 1 lines were saved under the same name"):
        await writer.aclose()

    assert path.read_bytes() == result_line(1)
    output.close()


async def test_lines_that_no_longer_fit_when_the_others_are_saved_are_refused(tmp_path: Path) -> None:
    """The disk is full as well: the lines that are in the file are saved, the others counted."""
    path = tmp_path / "out.jsonl"
    output = Watched(path)
    output._path = str(path)
    told: list[WriteError] = []
    writer = LineWriter(output, sync_interval=0.0, on_error=told.append, sync_in_thread=False)
    writer.put_line(result_line(1))
    await asyncio.sleep(0)
    path.rename(path.with_name("moved.jsonl"))
    writer._lines.append(b"big\n")

    while not told:
        await asyncio.sleep(0.001)
    with pytest.raises(WriteError, match="was renamed"):
        await writer.aclose()

    assert (writer.lines_written, writer.lines_refused) == (1, 1)
    assert path.read_bytes() == result_line(1)
    output.close()


# Streams


async def test_a_slow_reader_of_a_stream_blocks_nothing_and_gets_everything() -> None:
    """The loop goes on while the pipe is full; the writer says when it is congested; closing waits for the reader."""
    reading, writing = os.pipe()
    output = open_stream_output(writing, "pipe")
    writer = LineWriter(output)
    line = b"x" * 99_999 + b"\n"
    start = time.monotonic()

    for _ in range(100):
        writer.put_line(line)
        await asyncio.sleep(0)
    put_took = time.monotonic() - start
    congested = writer.congested
    written_before = writer.lines_written
    got = bytearray()

    def read() -> None:
        while data := os.read(reading, 1_000_000):
            got.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    await writer.drained()
    drained = writer.congested
    writer.put_line(line)
    await writer.aclose()
    output.close()
    reader.join()

    assert put_took < 20  # nobody reads: a put that waits never returns
    assert (congested, drained) == (True, False)
    assert written_before == 0
    assert got == line * 101
    assert writer.lines_written == 101
    os.close(reading)


async def test_closing_on_a_reader_that_never_reads_can_be_cancelled() -> None:
    """A stuck pager must not keep a run from ending."""
    reading, writing = os.pipe()
    output = open_stream_output(writing, "pipe")
    writer = LineWriter(output)
    writer.put_line(b"x" * 1_000_000 + b"\n")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(writer.aclose(), 0.02)

    output.close()
    os.close(reading)


async def test_a_reader_that_goes_away_is_told() -> None:
    """Also while the rest of the lines waits for it."""
    reading, writing = os.pipe()
    output = open_stream_output(writing, "pipe")
    told: list[WriteError] = []
    writer = LineWriter(output, on_error=told.append)
    writer.put_line(b"x" * 1_000_000 + b"\n")
    await asyncio.sleep(0)

    os.close(reading)
    with pytest.raises(WriteError):
        await writer.aclose()

    assert len(told) == 1
    output.close()


async def test_a_stream_that_the_loop_cannot_watch_works() -> None:
    """The null device takes everything at once."""
    output = open_output("/dev/null")
    writer = LineWriter(output)

    writer.put_line(result_line(1))
    await writer.aclose()

    assert writer.lines_written == 1
    output.close()


async def test_lines_can_be_waited_for_until_they_are_on_the_disk(watched: Watched) -> None:
    """Whatever the interval; and the writer goes on."""
    writer = LineWriter(watched, sync_interval=3600)
    writer.put_line(b"one\n")

    await writer.synced()
    synced = len(watched.syncs)
    writer.put_line(b"two\n")
    await writer.aclose()

    assert synced == 1
    assert watched.writes == [b"one\n", b"two\n"]


async def test_lines_of_a_stream_can_be_waited_for_until_they_are_read() -> None:
    """A stream is never synced; a reader that goes away is the error."""
    reading, writing = os.pipe()
    output = open_stream_output(writing, "pipe")
    writer = LineWriter(output)
    writer.put_line(b"x" * 300_000 + b"\n")
    got = bytearray()

    def read() -> None:
        while len(got) < 300_001:
            got.extend(os.read(reading, 1_000_000))

    reader = threading.Thread(target=read)
    reader.start()
    await writer.synced()
    reader.join()
    assert len(got) == 300_001

    os.close(reading)
    writer.put_line(b"x" * 300_000 + b"\n")
    with pytest.raises(WriteError):
        await writer.synced()
    output.close()
