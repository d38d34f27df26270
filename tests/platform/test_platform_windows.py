"""`run`, `check`, `status` and `sim` in processes that look like ones on Windows, as far as Linux can.

On Windows itself the same tests run undisguised.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

IS_WINDOWS = sys.platform == "win32"
DISGUISE = str(Path(__file__).with_name("windows_disguise.py"))
COMMAND = [sys.executable, "-m", "llmbatch"] if IS_WINDOWS else [sys.executable, DISGUISE]

pytestmark = [
    pytest.mark.slow,  # processes of their own
    pytest.mark.skipif(sys.platform == "darwin", reason="reads open files from /proc"),
]

Start = Callable[..., "subprocess.Popen[bytes]"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(*arguments, stdin=…)`` starts the command in ``tmp_path``."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "SYSTEMROOT", "TEMP") if name in os.environ}
    started: list[subprocess.Popen[bytes]] = []

    def launch(*arguments: str, stdin: int = subprocess.DEVNULL, **variables: str) -> subprocess.Popen[bytes]:
        environment = kept | {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "LLMBATCH_DEBUG": "1"} | variables
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Start) -> Run:
    """``run(*arguments)`` runs the command to its end; gives exit code, standard output and standard error."""

    def finish(*arguments: str, stdin: bytes | None = None, **variables: str) -> tuple[int, str, str]:
        process = start(*arguments, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE, **variables)
        out, err = process.communicate(stdin, timeout=240)
        return process.returncode, out.decode().replace("\r\n", "\n"), err.decode().replace("\r\n", "\n")

    return finish


def write_rows(path: Path, count: int) -> None:
    path.write_bytes(b"".join(b'{"id":"%d","prompt":"say %d"}\n' % (n, n) for n in range(1, count + 1)))


def rows_of(path: Path) -> list[int]:
    """The rows that have a line, each line read as JSON."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    assert b"\r" not in data
    return sorted(json.loads(line)["row"] for line in data.splitlines())


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_writes_one_line_per_row_and_status_and_check_read_them(tmp_path: Path, run: Run) -> None:
    """Nothing that Windows lacks is needed; the lines end in a line feed alone."""
    write_rows(tmp_path / "in.jsonl", 30)

    done = run("run", "in.jsonl", "-m", "sim/steady", "-o", "out.jsonl", "-c", "10")
    status = run("status", "out.jsonl", "--json")
    check = run("check", "in.jsonl", "-m", "sim/steady", "-o", "out.jsonl", "--json")

    assert done[0] == 0, done[2]
    assert rows_of(tmp_path / "out.jsonl") == list(range(1, 31))
    assert status[0] == 0, status[2]
    told = json.loads(status[1])
    assert (told["state"], told["success"], told["failed"]) == ("finished", 30, 0)
    assert check[0] == 0, check[2]
    assert json.loads(check[1])["rows_left"] == 0


def test_a_second_run_is_refused_and_status_says_that_one_is_running(tmp_path: Path, start: Start, run: Run) -> None:
    """The lock of one process is seen by others, which may read the file all the same."""
    write_rows(tmp_path / "in.jsonl", 2000)
    first = start("run", "in.jsonl", "-m", "sim/steady", "-o", "out.jsonl", "-c", "4", "--progress", "none")
    wait_for_lines(tmp_path / "out.jsonl", 1, first)

    second = run("run", "in.jsonl", "-m", "sim/steady", "-o", "out.jsonl")
    status = run("status", "out.jsonl", "--json")

    assert second[0] == 2
    assert "is in use by another run" in second[2]
    assert json.loads(status[1])["state"] == "running"


def test_after_a_kill_the_same_command_goes_on(tmp_path: Path, start: Start, run: Run) -> None:
    """The lock goes with the process, a torn line is cut off, and no row has two lines."""
    write_rows(tmp_path / "in.jsonl", 60)
    command = ("run", "in.jsonl", "-m", "sim/steady", "-o", "out.jsonl", "-c", "4", "--progress", "none")
    first = start(*command)
    wait_for_lines(tmp_path / "out.jsonl", 5, first)

    first.kill()
    first.communicate()
    with (tmp_path / "out.jsonl").open("ab") as file:
        file.write(b'{"row":60,"ha')
    status = run("status", "out.jsonl", "--json")
    again = run(*command)

    assert json.loads(status[1])["state"] == "stopped"
    assert again[0] == 0, again[2]
    assert rows_of(tmp_path / "out.jsonl") == list(range(1, 61))


@pytest.mark.skipif(IS_WINDOWS, reason="a console's Ctrl-C goes to the tests too")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_run_and_the_same_command_goes_on(
    tmp_path: Path, start: Start, run: Run, number: signal.Signals, code: int
) -> None:
    """Where the event loop knows no signals, the interpreter's handlers stop the run as well."""
    write_rows(tmp_path / "in.jsonl", 60)
    command = ("run", "in.jsonl", "-m", "sim/steady", "-o", "out.jsonl", "-c", "4", "--progress", "none")
    first = start(*command)
    wait_for_lines(tmp_path / "out.jsonl", 5, first)

    first.send_signal(number)
    _, err = first.communicate(timeout=240)
    again = run(*command)

    assert first.returncode == code, err.decode()
    assert b"requests in flight may finish" in err
    assert again[0] == 0, again[2]
    assert rows_of(tmp_path / "out.jsonl") == list(range(1, 61))


def test_retry_failed_replaces_an_output_that_is_open(tmp_path: Path, run: Run) -> None:
    """The old file and the new one are closed before the new one gets the name, and locked again after."""
    good, bad = b'{"id":"1","prompt":"say 1"}\n', b'{"id":"2"}\n'
    (tmp_path / "in.jsonl").write_bytes(good + bad)
    command = ("run", "in.jsonl", "-m", "sim/steady", "-o", "out.jsonl", "--progress", "none")
    first = run(*command)

    again = run(*command, "--retry-failed")

    assert (first[0], again[0]) == (1, 1), first[2] + again[2]
    assert rows_of(tmp_path / "out.jsonl") == [1, 2]
    assert not list(tmp_path.glob(".*llmbatch-new"))


def test_rows_come_from_a_pipe_and_lines_go_into_one(run: Run) -> None:
    """An event loop that cannot watch pipes leaves them to threads."""
    rows = b"".join(b'{"prompt":"say %d"}\n' % n for n in range(200))

    code, out, err = run("run", "-", "-m", "sim/steady", "-o", "-", "-c", "100", "--progress", "none", stdin=rows)

    assert code == 0, err
    assert sorted(json.loads(line)["row"] for line in out.splitlines()) == list(range(1, 201))


def test_rows_are_sent_while_the_pipe_they_come_from_stays_open(tmp_path: Path, start: Start) -> None:
    """The thread waits for rows; the event loop does not."""
    process = start("run", "-", "-m", "sim/steady", "-o", "out.jsonl", "--progress", "none", stdin=subprocess.PIPE)
    assert process.stdin is not None

    process.stdin.write(b'{"prompt":"one"}\n')
    process.stdin.flush()
    wait_for_lines(tmp_path / "out.jsonl", 1, process)
    _, err = process.communicate(b'{"prompt":"two"}\n', timeout=240)

    assert process.returncode == 0, err.decode()
    assert rows_of(tmp_path / "out.jsonl") == [1, 2]


def test_a_reader_that_has_gone_ends_the_run(start: Start, tmp_path: Path) -> None:
    """Silently, as ``| head`` does: what the thread meets as it writes reaches the run."""
    write_rows(tmp_path / "in.jsonl", 50)
    process = start("run", "in.jsonl", "-m", "sim/steady", "-o", "-", "--progress", "none")
    assert process.stdout is not None
    process.stdout.close()

    assert process.stderr is not None
    err = process.stderr.read()
    process.wait(timeout=240)

    assert (process.returncode, err) == (141, b"")


def test_rows_of_a_pipe_wait_in_a_file_that_goes_with_the_process(tmp_path: Path, run: Run) -> None:
    """In an outage, rows of standard input are spooled; a file that is open cannot be unlinked at once."""
    rows = b"".join(b'{"prompt":"say %d"}\n' % n for n in range(3000))

    code, _, err = run(
        *("run", "-", "-m", "sim/outage", "-o", "out.jsonl", "-c", "200", "--max-outage", "1s", "--progress", "none"),
        stdin=rows,
    )

    assert code in (0, 75), err
    assert not list(tmp_path.glob("*spool*")) + list(tmp_path.glob(".*spool*"))


@pytest.mark.skipif(IS_WINDOWS, reason="a console's Ctrl-C goes to the tests too")
def test_the_simulated_provider_serves_until_a_signal(start: Start) -> None:
    """As for a run."""
    process = start("sim", "serve", "--port", "0")
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"http://127.0.0.1:")

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)

    assert process.returncode == 0, err.decode()


def test_text_that_a_code_page_lacks_is_written_as_an_escape(tmp_path: Path, run: Run) -> None:
    """Redirected output of Windows is not UTF-8: no name of a file or a model may end the command for that."""
    write_rows(tmp_path / "行.jsonl", 2)

    code, out, err = run("check", "行.jsonl", "-m", "sim/steady", PYTHONIOENCODING="cp1252:strict")

    assert code == 0, err
    assert "\\u884c.jsonl" in out
