"""How a user's command is run: through the shell, apart from the run, for a limited time, one at a time."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmbatch.core.events import CircuitChanged, Event, RunEnded, RunStarted
from llmbatch.notify.announce import Announcer
from llmbatch.notify.command import run_shell
from llmbatch.notify.notifier import Notifier
from llmbatch.report.stats import RunStats

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a POSIX shell")


ENVIRON = {"PATH": os.environ["PATH"], "NAME": "value"}


async def test_a_command_gets_json_variables_and_the_shell() -> None:
    """Its output of both streams comes back, and its exit code."""
    ran = await run_shell('cat; echo "$NAME" | tr a-z A-Z >&2; exit 7', b'{"a":1}\n', ENVIRON)

    assert ran.exit_code == 7
    assert sorted(ran.output.split()) == ["VALUE", '{"a":1}']


async def test_a_command_that_reads_nothing_or_prints_much_is_no_trouble() -> None:
    """Of a megabyte of output the beginning is kept, and the command does not wait for anybody to read it."""
    ran = await run_shell("head -c 1000000 /dev/zero | tr '\\0' x", b"x" * 1_000_000, ENVIRON)

    assert ran.exit_code == 0
    assert len(ran.output) == 64 * 1024


@pytest.mark.slow  # waits in real time
async def test_a_command_that_hangs_is_killed_with_all_it_has_started(tmp_path: Path) -> None:
    """At its time limit."""
    ran = await run_shell(f"sleep 1000 & echo $! > {tmp_path}/pid; sleep 1000", b"", ENVIRON, limit=0.5)

    assert ran.exit_code is None
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not is_alive(pid))


@pytest.mark.slow  # waits in real time
async def test_what_a_command_leaves_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    """Though it holds the pipe open; and it is not killed."""
    began = time.monotonic()
    ran = await run_shell(f"sleep 1000 & echo $! > {tmp_path}/pid; echo done", b"", ENVIRON)

    assert ran == type(ran)(0, "done\n")
    assert time.monotonic() - began < 20
    pid = int((tmp_path / "pid").read_text())
    assert is_alive(pid)
    os.kill(pid, 9)


async def test_a_cancelled_command_is_killed(tmp_path: Path) -> None:
    """The run was stopped at once."""
    task = asyncio.create_task(run_shell(f"echo $$ > {tmp_path}/pid; sleep 1000", b"", ENVIRON))
    await until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not is_alive(pid))


async def test_a_command_has_a_group_and_no_terminal_of_its_own() -> None:
    """Ctrl-C in the run's terminal does not reach it."""
    ran = await run_shell("ps -o pgid= -p $$; (: > /dev/tty) 2>/dev/null || echo none", b"", ENVIRON)

    group, terminal = ran.output.split()
    assert int(group) != os.getpgrp()
    assert terminal == "none"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


# The notifier.


def notifier(words: str, said: list[str], *, limit: float = 60.0) -> tuple[Notifier, RunStats]:
    stats = RunStats()
    announcer = Announcer(stats, command="again", go_on=lambda code: "next")
    return Notifier(words, announcer, ENVIRON, say=said.append, limit=limit), stats


async def test_commands_run_one_at_a_time_in_order(tmp_path: Path) -> None:
    """Leaving waits for all of them."""
    words = f'read line; echo "begin $NOTIFY_EVENT" >> {tmp_path}/log; sleep 0.05; echo "$line" >> {tmp_path}/log'
    said: list[str] = []
    made, stats = notifier(words, said)
    loop = asyncio.get_running_loop()

    async with made:
        now = loop.time()
        first: tuple[Event, ...] = (
            RunStarted(now, "in", "out", 4, 0, 0, 0),
            CircuitChanged(now - 70, "a", "closed", "open", "down", 1.0),
        )
        last: tuple[Event, ...] = (
            CircuitChanged(now, "a", "open", "closed", "", 0.0),
            RunEnded(now, 0, "finished", 0),
        )
        for event in first:
            stats.observe(event)
            made.observe(event)
        await until(lambda: (tmp_path / "log").exists())
        for event in last:
            stats.observe(event)
            made.observe(event)

    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0::2] == ["begin outage", "begin recovered", "begin finished"]
    assert [json.loads(line)["event"] for line in lines[1::2]] == ["outage", "recovered", "finished"]
    assert said == []


@pytest.mark.slow  # waits in real time
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("echo no route to host >&2; exit 3", "--notify failed with exit code 3: no route to host"),
        ("nonsense-that-is-no-command 2>/dev/null", "--notify failed with exit code 127"),
        ("echo waits; sleep 1000", "--notify was stopped, as it took longer than 0.5 s: waits"),
    ],
)
async def test_a_command_that_fails_is_a_note(words: str, told: str) -> None:
    """With the last line that it has printed."""
    said: list[str] = []
    made, stats = notifier(words, said, limit=0.5)

    async with made:
        made.observe(RunEnded(asyncio.get_running_loop().time(), 0, "finished", 0))

    assert said == [told]
    assert stats.success == 0
