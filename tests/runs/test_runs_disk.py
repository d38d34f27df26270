"""A run whose disk fails under it: what is finished stays, what waits is told, and the same call goes on later."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmbatch import BatchRunner, InputError, WriteError
from llmbatch.storage.filesystem import Filesystem

ROWS = 4_000


async def answer(row: dict[str, object]) -> str:
    await asyncio.sleep(0)
    return "fine"


class Failing(Filesystem):
    """The real disk, of which every *call* fails from number *first* on."""

    def __init__(self, call: str, first: int) -> None:
        real = getattr(Filesystem, call)
        left = first

        def fail(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(self, *args, **kwargs)

        setattr(self, call, fail)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(f'{{"prompt":"{number} {"x" * 400}"}}\n' for number in range(ROWS)))
    return path


def rows_of(path: Path) -> list[int]:
    if not path.exists():  # a run that stopped without a line leaves no output
        return []
    return [json.loads(line)["row"] for line in path.read_text().splitlines()]


@pytest.mark.slow  # several blocks of input
async def test_an_input_that_cannot_be_read_on_stops_the_run_and_keeps_what_is_done(prompts: Path) -> None:
    """No row is called failed for it, and the error names the file and says what to try."""
    out = prompts.with_name("o.jsonl")

    with pytest.raises(InputError, match=r"cannot be read \(Input/output error\)") as caught:
        await BatchRunner(answer, filesystem=Failing("read", 40)).run(prompts, out)  # once counted
    done = rows_of(out)
    again = await BatchRunner(answer).run(prompts, out)

    assert "same command again" in caught.value.hint
    assert 0 < len(done) == len(set(done)) < ROWS
    assert again.already_done == len(done)
    assert (again.exit_code, again.success) == (0, ROWS)
    assert sorted(rows_of(out)) == list(range(1, ROWS + 1))


@pytest.mark.slow  # as above
@pytest.mark.parametrize("call", ["write", "sync"])
async def test_an_output_that_cannot_be_written_stops_the_run(prompts: Path, call: str) -> None:
    """The file ends in a whole line; the same call goes on from there."""
    out = prompts.with_name("o.jsonl")

    with pytest.raises(WriteError, match=r"could not be written \(Input/output error\)") as caught:
        await BatchRunner(answer, filesystem=Failing(call, 1 if call == "sync" else 4)).run(prompts, out)
    done = rows_of(out)
    again = await BatchRunner(answer).run(prompts, out)

    assert "check the disk" in caught.value.hint
    assert (again.exit_code, again.already_done) == (0, len(done))
    assert sorted(rows_of(out)) == list(range(1, ROWS + 1))


async def test_a_run_cancelled_while_it_ends_leaves_no_stale_file_of_deferred_rows(tmp_path: Path) -> None:
    """Nothing waits any more, so nothing may be told to wait."""
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt":"a"}\n{"prompt":"b"}\n')
    deferred = tmp_path / "o.deferred.jsonl"
    deferred.write_text('{"row":2,"status":"deferred"}\n')
    syncing = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Slow(Filesystem):
        def sync(self, fd: int) -> None:
            loop.call_soon_threadsafe(syncing.set)
            super().sync(fd)

    run = asyncio.ensure_future(BatchRunner(answer, filesystem=Slow()).run(prompts, tmp_path / "o.jsonl"))
    await syncing.wait()
    run.cancel()
    await asyncio.wait([run])

    assert sorted(rows_of(tmp_path / "o.jsonl")) == [1, 2]
    assert not deferred.exists()
