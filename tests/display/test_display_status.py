"""``llmbatch status`` on real files: finished, running (a real lock), stopped, killed, and without a sidecar."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest

from llmbatch.core.errors import OutputError
from llmbatch.core.events import CallSent, CircuitChanged, Event, Progress, RowFinished, RowParked, RunEnded, RunStarted
from llmbatch.core.raw_json import JSON
from llmbatch.core.rows import Result, encode_line
from llmbatch.display.moved_run import refuse_moved_run
from llmbatch.display.status import read_status, render
from llmbatch.display.status_file import StatusFile, status_path
from llmbatch.display.status_read import status_of
from llmbatch.outputs.deferred import stamp_retry_at, write_deferred
from llmbatch.report.iso_time import to_iso
from llmbatch.report.output_lines import OutputLines
from llmbatch.report.stats import RunStats

COMMAND = "llmbatch run prompts.jsonl"
WALL = 1_790_000_000.0


def line(row: int, status: str = "success") -> bytes:
    is_bad = status == "failed"
    return encode_line(
        Result(
            row, f"{row:016x}", "failed" if is_bad else "success", f'"r{row}"', error_code="timeout" if is_bad else None
        )
    )


def write_output(folder: Path, success: int, failed: int = 0, tail: bytes = b"") -> Path:
    path = folder / "prompts.results.jsonl"
    lines = [line(n + 1) for n in range(success)] + [line(success + n + 1, "failed") for n in range(failed)]
    path.write_bytes(b"".join(lines) + tail)
    return path


def write_sidecar(output: Path, *events: Event) -> None:
    status = StatusFile(output, command=COMMAND, clock=lambda: WALL)
    last = 0.0
    for event in (RunStarted(0.0, "prompts.jsonl", str(output), 40, 0, 0, 10), *events):
        status.observe(event)
        last = event.at
    status.write(last)


def finished(at: float, rows: int, failed: int = 0) -> list[Event]:
    good: list[Event] = [RowFinished(at, "openai/x", n, "success", "", 1) for n in range(rows)]
    return good + [RowFinished(at, "openai/x", rows + n, "failed", "timeout", 3) for n in range(failed)]


def test_a_finished_run_says_so_and_how_to_retry(tmp_path: Path) -> None:
    """All rows done, some failed: counts, how to see them and how to send them again."""
    output = write_output(tmp_path, 8, 2)
    write_sidecar(output, *finished(5.0, 8, 2), RunEnded(6.0, 1, "", 0))

    report = read_status(output)

    assert (report.state, report.rows, report.success, report.failed, report.exit_code) == ("finished", 10, 8, 2, 1)
    text = render(report, wall=WALL + 90)
    assert text.splitlines()[0] == "finished    10 rows: 8 success, 2 failed"
    assert "updated     1m30s ago" in text
    assert text.splitlines()[-1].endswith(f"(those that timed out need a longer --timeout): {COMMAND} --retry-failed")


def test_a_locked_output_is_a_running_run(tmp_path: Path) -> None:
    """While another process holds the lock the run is running; the sidecar tells its speed, and what waits until when.

    The parked rows of a running run were told as none.
    """
    output = write_output(tmp_path, 4)
    write_sidecar(
        output,
        Progress(1.0, 4, 0.4, False),
        *finished(2.0, 4),
        RowParked(2.0, "openai/x", 5, 9.0, "open", True),
        CircuitChanged(2.0, "openai/x", "closed", "open", "down", 3.2),
    )
    holder = os.open(output, os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)

    try:
        report = read_status(output)
    finally:
        os.close(holder)

    assert (report.state, report.pid, report.exit_code) == ("running", os.getpid(), None)
    text = render(report, wall=WALL + 3)
    assert "running     4 of 10 rows: 4 success, 0 failed" in text
    assert "1 parked" in text
    assert "deferred    1 row, may be sent again from " in text
    deferred = report.deferred
    assert (deferred.rows, deferred.reasons) == (1, {"down": 1})
    assert deferred.retry_at
    assert report.updated
    until = datetime.fromisoformat(deferred.retry_at) - datetime.fromisoformat(report.updated)
    assert until.total_seconds() == pytest.approx(3.2, abs=0.01)
    assert "waits for   openai/x to answer again, probe in 3.2 s" in text
    assert text.splitlines()[-1].startswith("still running; no action needed")


def test_a_pause_is_told_up_to_now(tmp_path: Path) -> None:
    """While nothing happens the sidecar is rarely written: it told the pause as it was some seconds ago."""
    sidecar: dict[str, JSON] = {"updated": to_iso(WALL), "run": {"pause_s": 1.4, "output": "o.jsonl"}}
    report = status_of(tmp_path / "o.jsonl", OutputLines(), 4, 0, is_running=True, sidecar=sidecar)

    assert "paused      for 10 s: no request begins" in render(report, wall=WALL + 8.6)


def test_a_sidecar_of_an_earlier_run_says_nothing_about_the_running_one(tmp_path: Path) -> None:
    """A sidecar that tells of an end cannot be the running run's, so its process and its numbers are not shown."""
    output = write_output(tmp_path, 4)
    write_sidecar(output, *finished(2.0, 4), RunEnded(3.0, 75, "", 6))
    holder = os.open(output, os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)

    try:
        report = read_status(output)
    finally:
        os.close(holder)

    assert (report.state, report.pid, report.run, report.rows) == ("running", None, None, 4)


def test_looking_leaves_the_lock_free(tmp_path: Path) -> None:
    """After ``read_status`` the next run can take the lock at once."""
    output = write_output(tmp_path, 1)

    read_status(output)

    with output.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_deferred_rows_are_counted_with_their_waits_and_reasons(tmp_path: Path) -> None:
    """A stopped run tells how many rows wait, the shortest and longest wait, and why."""
    output = write_output(tmp_path, 4)
    write_sidecar(output, *finished(2.0, 4), RunEnded(3.0, 75, "rows are deferred", 3))
    waits = [(3.0, "circuit open"), (42.0, "circuit open"), (7.5, "no money")]
    (tmp_path / "prompts.results.deferred.jsonl").write_bytes(
        b"".join(
            encode_line(Result(5 + n, "0" * 16, "deferred", f'"r{n}"', retry_after=wait, reason=reason))
            for n, (wait, reason) in enumerate(waits)
        )
    )

    report = read_status(output)

    assert (report.state, report.deferred.rows) == ("stopped", 3)
    assert (report.deferred.shortest_retry_after, report.deferred.longest_retry_after) == (3.0, 42.0)
    text = render(report)
    assert "deferred    3 rows, retry after 3.0 s to 42 s: circuit open 2, no money 1" in text
    assert text.splitlines()[-1].endswith(f"to go on, run the same command again: {COMMAND}")


def test_a_killed_run_is_stopped(tmp_path: Path) -> None:
    """No lock and no end in the sidecar: the run was killed, and the same command goes on."""
    output = write_output(tmp_path, 6)
    write_sidecar(output, *finished(2.0, 4))

    report = read_status(output)

    assert (report.state, report.rows, report.total_rows) == ("stopped", 6, 10)
    assert f"run the same command again: {COMMAND}" in render(report)


def test_status_said_that_no_row_waited_after_a_kill(tmp_path: Path) -> None:
    """A killed run could not write down which rows waited: their number is null, not 0, and people are told."""
    output = write_output(tmp_path, 4)
    write_sidecar(output, *finished(2.0, 4), RowParked(2.0, "openai/x", 5, 9.0, "open", True))

    report = read_status(output)

    assert (report.was_killed, report.deferred.rows) == (True, None)
    assert report.to_json()["deferred"]["rows"] is None  # type: ignore[index,call-overload]
    text = render(report)
    assert "which rows waited is not known; 1 row waited when it was last heard of" in text
    assert "every row without a line is sent again" in text


@pytest.mark.parametrize(("later", "words"), [(60, "may be sent again now"), (0, "may be sent again from 20")])
def test_when_deferred_rows_may_go_again_is_an_instant(tmp_path: Path, later: float, words: str) -> None:
    """The earliest of all, in UTC for programs; whatever time has passed since the run stopped."""
    output = write_output(tmp_path, 4)
    write_sidecar(output, *finished(2.0, 4), RunEnded(3.0, 75, "rows are deferred", 2))
    rows = [
        Result(5 + n, "0" * 16, "deferred", f'"r{n}"', retry_after=wait, reason="open")
        for n, wait in enumerate((42.5, 3.0))
    ]
    stamped = stamp_retry_at(rows, wall=WALL)
    write_deferred(output, map(encode_line, stamped))

    report = read_status(output)

    assert report.deferred.retry_at == "2026-09-21T14:13:23Z"
    assert stamped[0].retry_at == "2026-09-21T14:14:03Z"  # never a moment early
    assert words in render(report, wall=WALL + later)


def test_the_reason_of_deferred_rows_was_cut_in_mid_word_before_their_number(tmp_path: Path) -> None:
    """One reason of all is told whole, and the number of rows once."""
    reason = (
        "5 rows in a row failed: The server is currently overloaded. " + "Please try again later, or much later. " * 2
    )
    output = write_output(tmp_path, 4)
    write_sidecar(output, *finished(2.0, 4), RunEnded(3.0, 75, "rows are deferred", 2))
    result = Result(5, "0" * 16, "deferred", '"r5"', retry_after=3.0, reason=reason.strip())
    write_deferred(output, map(encode_line, stamp_retry_at([result], wall=WALL)))

    line = next(line for line in render(read_status(output), wall=WALL + 60).splitlines() if "deferred  " in line)

    assert line == f"deferred    1 row, may be sent again now: {reason.strip()}"


@pytest.mark.slow  # a process
@pytest.mark.parametrize("in_its_place", [None, b"", "locked"])
def test_a_second_run_began_afresh_beside_one_whose_file_was_renamed(tmp_path: Path, in_its_place: object) -> None:
    """The sidecar names a process that holds a lock, and the file at the path is not the one it has locked."""
    output = write_output(tmp_path, 4)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()",
            output,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    write_sidecar(output, *finished(2.0, 4))
    about = json.loads(status_path(output).read_text()) | {"pid": holder.pid}
    status_path(output).write_text(json.dumps(about))
    output.rename(tmp_path / "kept.jsonl")
    if isinstance(in_its_place, bytes):
        output.write_bytes(in_its_place)

    if in_its_place == "locked":  # as usual: opening the file says so
        (tmp_path / "kept.jsonl").rename(output)
        refuse_moved_run(output, wall=WALL + 30)
    else:
        with pytest.raises(OutputError, match=rf"another run \(pid {holder.pid}\) writes the file that had this name"):
            refuse_moved_run(output, wall=WALL + 30)
    refuse_moved_run(output, wall=WALL + 3600)  # long unheard of: the number may be another process's by now
    holder.communicate()
    refuse_moved_run(output, wall=WALL + 30)


def test_the_output_alone_is_enough(tmp_path: Path) -> None:
    """Without a sidecar the lines are counted, and nothing is claimed that they cannot tell."""
    output = write_output(tmp_path, 5, 1)

    report = read_status(output)

    assert (report.state, report.rows, report.failed, report.run, report.command) == ("unknown", 6, 1, None, "")
    last = render(report).splitlines()[-1]
    assert last.endswith("to go on, run the same command again (rows that have their line are not sent twice)")


def test_a_sidecar_that_does_not_fit_the_lines_is_not_believed(tmp_path: Path) -> None:
    """Lines are the truth: a sidecar that ended with other counts belongs to another state of the file."""
    output = write_output(tmp_path, 5)
    write_sidecar(output, *finished(2.0, 9), RunEnded(3.0, 0, "", 0))

    report = read_status(output)

    assert (report.state, report.rows, report.run) == ("unknown", 5, None)


def test_a_torn_tail_is_told(tmp_path: Path) -> None:
    """An unfinished last line is not a row; its length is told and the run counts as stopped."""
    tail = line(6)[:40]
    output = write_output(tmp_path, 5, tail=tail)

    report = read_status(output)

    assert (report.state, report.rows, report.torn_bytes) == ("stopped", 5, 40)
    assert "torn        40 bytes of an unfinished last line; its row is sent again" in render(report)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"run":[1]}', b'{"run":{"exit_code":"x","done_rows":{}}}', b"\xff"]
)
def test_a_broken_sidecar_changes_nothing(tmp_path: Path, content: bytes) -> None:
    """Whatever stands in the sidecar, the counts come from the lines."""
    output = write_output(tmp_path, 5)
    status_path(output).write_bytes(content)

    report = read_status(output)

    assert (report.rows, report.success) == (5, 5)
    render(report)


def test_hostile_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    """Escape sequences in a file's name, a reason or the sidecar come out as visible characters."""
    output = tmp_path / "\x1b[2J\n.jsonl"
    output.write_bytes(line(1))
    hostile = json.dumps("\x1b[31m\nforged")
    status_path(output).write_text(
        f'{{"command":{hostile},"started":{hostile},"updated":{hostile},"run":{{"input":{hostile},"exit_code":null}}}}'
    )

    text = render(read_status(output))

    assert all(part.isprintable() for part in text.split("\n"))
    assert not any(part.startswith("forged") for part in text.split("\n"))


def test_json_carries_the_same_and_how_to_go_on(tmp_path: Path) -> None:
    """The machine's form has every field and the next step."""
    output = write_output(tmp_path, 10)
    write_sidecar(output, *finished(5.0, 10), RunEnded(6.0, 0, "", 0))

    value = json.loads(json.dumps(read_status(output).to_json(), allow_nan=False))

    assert (value["state"], value["rows"], value["run"]["state"]) == ("finished", 10, "finished")
    assert value["next"] == f"results are in {output}"


@pytest.mark.parametrize("kind", ["missing", "directory", "foreign", "pipe"])
def test_what_is_no_output_is_refused_with_a_hint(tmp_path: Path, kind: str) -> None:
    """A path that is not there, a directory, a foreign file and a pipe are usage errors that say what to do."""
    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    elif kind == "foreign":
        path.write_text("hello\n")
    elif kind == "pipe":
        os.mkfifo(path)

    with pytest.raises(OutputError) as caught:
        read_status(path)

    assert str(path) in caught.value.message
    assert caught.value.hint


# -- the sidecar -------------------------------------------------------------------------------------------------------


def test_the_sidecar_is_private_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Mode 0600, replaced whole, and no part file remains."""
    output = write_output(tmp_path, 1)

    write_sidecar(output, RunEnded(1.0, 0, "", 0))
    write_sidecar(output, RunEnded(1.0, 0, "", 0))

    sidecar = tmp_path / ".prompts.results.jsonl.status.json"
    assert stat.S_IMODE(sidecar.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [sidecar.name, output.name]


def test_a_sidecar_that_cannot_be_written_never_matters(tmp_path: Path) -> None:
    """A folder that is gone or a name that is too long changes nothing for the run."""
    for output in (tmp_path / "gone" / "o.jsonl", tmp_path / ("x" * 250)):
        status = StatusFile(output)
        status.observe(RunStarted(0.0, "i", str(output), 1, 0, 0, None))
        status.observe(RunEnded(1.0, 0, "", 0))

    assert list(tmp_path.iterdir()) == []


def test_a_run_that_never_started_leaves_the_sidecar_alone(tmp_path: Path) -> None:
    """A second run that is refused must not speak over the one that has the lock."""
    output = write_output(tmp_path, 1)

    StatusFile(output).observe(RunEnded(1.0, 2, "output is in use", 0))

    assert not status_path(output).exists()


def test_a_link_planted_in_its_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """The sidecar and its part file never write through a symbolic link."""
    output, victim = write_output(tmp_path, 1), tmp_path / "victim"
    victim.write_text("precious")
    status_path(output).symlink_to(victim)
    (tmp_path / f"{status_path(output).name}.{os.getpid()}").symlink_to(victim)

    write_sidecar(output, RunEnded(1.0, 0, "", 0))

    assert victim.read_text() == "precious"
    assert not status_path(output).is_symlink()


def test_the_sidecar_is_written_at_most_once_a_second_and_rests_in_silence(tmp_path: Path) -> None:
    """A tick writes when an event came since, or after ten seconds of silence."""
    wall = [WALL]
    output = tmp_path / "o.jsonl"
    status = StatusFile(output, clock=lambda: wall[0])

    def updated() -> str | None:
        path = status_path(output)
        return json.loads(path.read_text())["updated"] if path.exists() else None

    status._tick()
    before_start = updated()
    status.observe(RunStarted(0.0, "i", "o", 1, 0, 0, None))
    status._tick()
    first = updated()
    wall[0] += 5
    status._tick()
    in_silence = updated()
    status.observe(CallSent(5.0, "openai/x", 1, 1, False))
    status._tick()
    after_event = updated()
    wall[0] += 11
    status._tick()

    assert before_start is None
    assert in_silence == first
    assert after_event != first
    assert updated() != after_event


def test_the_ticker_writes_while_the_loop_is_busy(tmp_path: Path) -> None:
    """The sidecar is kept by its own thread, which ends with the context."""
    output, stats = tmp_path / "o.jsonl", RunStats()
    stats.observe(RunStarted(0.0, "i", "o", 1, 0, 0, None))
    status = StatusFile(output, stats=stats)
    status._ticker._interval_s = 0.02

    with status:
        for _ in range(100):
            if status_path(output).exists():
                break
            threading.Event().wait(0.02)

    assert json.loads(status_path(output).read_text())["run"]["state"] == "running"
    assert not any(thread.name == "llmbatch-display" for thread in threading.enumerate())


def test_importing_status_loads_no_terminal_library() -> None:
    """``llmbatch status`` answers at once: rich is not among what it loads."""
    import subprocess
    import sys

    modules = "sys, llmbatch.display, llmbatch.display.status, llmbatch.display.summary"
    code = f"import {modules}; print({{'rich', 'aiohttp', 'httptools'}} & {{*sys.modules}})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
