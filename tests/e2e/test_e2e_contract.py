"""The contract's sections on commands, rows, lines and exit codes, through the real command and real HTTP."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_recorder import Recorder, error

COMMAND = [sys.executable, "-m", "llmbatch"]
KEY = "sk-contract/SECRET+123"
GOOD = b'{"prompt":"good"}'

pytestmark = [
    pytest.mark.slow,  # each test starts the command at least once, which takes a third of a second
    pytest.mark.traced,
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "OPENAI_API_KEY": KEY}


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.close()


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str], recorder: Recorder, command_here: Callable[..., Any]) -> Run:
    """``run(rows, *arguments)`` writes ``in.jsonl`` and runs it into ``out.jsonl``, against the recorder."""

    def start(rows: bytes, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        (tmp_path / "in.jsonl").write_bytes(rows)
        environ = environment | {"OPENAI_BASE_URL": recorder.url, "ANTHROPIC_BASE_URL": recorder.origin} | variables
        done = command_here(tmp_path, environ, "run", "in.jsonl", "-o", "out.jsonl", "-m", "openai/gpt", *arguments)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.encode(), done.stderr.encode())

    return start


@pytest.fixture
def shell(tmp_path: Path, environment: dict[str, str], recorder: Recorder) -> Run:
    """``shell(text)`` runs *text*, in which ``$RUN`` is ``llmbatch run`` with a model, beside ``in.jsonl``."""
    (tmp_path / "in.jsonl").write_bytes((GOOD + b"\n") * 50)

    def start(text: str) -> subprocess.CompletedProcess[bytes]:
        command = f"{sys.executable} -m llmbatch run in.jsonl -m openai/gpt"
        return subprocess.run(
            ["/bin/sh", "-c", text],
            cwd=tmp_path,
            env=environment | {"OPENAI_BASE_URL": recorder.url, "RUN": command},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=240,
            check=False,
        )

    return start


def lines(path: Path) -> dict[int, dict[str, Any]]:
    raw = path.read_bytes()
    assert not raw or raw.endswith(b"\n")
    found = [json.loads(line) for line in raw.split(b"\n")[:-1]]
    assert len({line["row"] for line in found}) == len(found)
    return {line["row"]: line for line in found}


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


# What is sent.


def test_the_body_of_a_batch_row_arrives_byte_for_byte(run: Run, recorder: Recorder) -> None:
    """Odd spacing, long and huge numbers, escapes, repeated keys and metadata are sent as they stand."""
    body = (
        rb'{ "model" : "openai/x" ,"messages":[{"role":"user","content":"h\u00e9 \ud800 \/"}], "a":1,"a":2, '
        rb'"seed":123456789012345678901234567890,"t":1.10,"e":1e400 ,"metadata":{"k":"v"}, "u":"'
        + "日😀".encode()
        + b'" }'
    )
    params = (
        rb'{"model":"claude" , "max_tokens":5,"messages":[{"role":"user","content":"x"}],"metadata":{"user_id":"u"}}'
    )
    openai = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body": ' + body + b" }"
    anthropic = b'{"custom_id":"b","params":' + params + b"}"

    done = run(openai + b"\n" + anthropic, "-c", "1")

    assert done.returncode == 0, done.stderr
    assert recorder.bodies == [body, params]
    assert [arrival.path for arrival in recorder.arrivals] == ["/v1/chat/completions", "/v1/messages"]


def test_metadata_is_echoed_as_written_and_never_sent(run: Run, recorder: Recorder, tmp_path: Path) -> None:
    """Metadata beside a prompt comes back with every digit, and no request holds any of it."""
    run(b'{"prompt":"x","metadata":{"private":1.10,"big":123456789012345678901234567890}}')

    assert recorder.bodies == [b'{"model":"gpt","messages":[{"role":"user","content":"x"}]}']
    assert (
        b'"metadata":{"private":1.10,"big":123456789012345678901234567890}}\n' in (tmp_path / "out.jsonl").read_bytes()
    )


def test_a_parameter_of_the_command_line_is_sent_as_typed(run: Run, recorder: Recorder) -> None:
    """`-P` passes numbers through exactly; one beyond a float's range once ended in an internal error."""
    done = run(
        GOOD, "-P", "temperature=1.10", "-P", "seed=123456789012345678901234567890", "-P", "x=1e400", "-P", "y=on"
    )

    assert done.returncode == 0, done.stderr
    assert recorder.bodies[0].endswith(b'"temperature":1.10,"seed":123456789012345678901234567890,"x":1e400,"y":"on"}')


# Rows that are none.


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (b'{"prompt":"\xff"}', "input_bad_utf8"),
        (b'{"prompt":"x"', "input_bad_json"),
        (b'{"prompt":"x","t":NaN}', "input_bad_json"),
        (b'{"id":"mine","x":1}', "input_no_prompt"),
        (b"[" * 100_000 + b"]" * 100_000, "input_too_deep"),
        (b"12", "input_not_a_row"),
        (b"[1,2]", "input_not_a_row"),
        (b'["a","b"]', "input_not_a_row"),
        (b'{"prompt":"x","model":"openai/"}', "input_bad_model"),
        (b'{"prompt":"x","model":" "}', "input_bad_model"),
        (b'{"prompt":"x","model":"a\\ud800"}', "input_bad_model"),
        (b'{"custom_id":"u","url":"http://127.0.0.1/v1/chat/completions","body":{"messages":[]}}', "input_bad_url"),
    ],
)
def test_a_malformed_row_is_one_failed_line_and_the_run_goes_on(
    run: Run, recorder: Recorder, tmp_path: Path, row: bytes, code: str
) -> None:
    """Whatever is wrong with a row, its neighbours are answered; a strange model's name once ended the run."""
    done = run(b"\n".join([GOOD, row, GOOD]))

    assert done.returncode == 1, done.stderr
    out = lines(tmp_path / "out.jsonl")
    assert [out[number]["status"] for number in (1, 2, 3)] == ["success", "failed", "success"]
    assert out[2]["error"]["code"] == code
    assert out[2]["hash"] == digest(row)
    assert out[2]["response"] is None
    assert len(recorder.arrivals) == 2


def test_physical_lines_number_the_rows(run: Run, tmp_path: Path) -> None:
    """A byte order mark, CRLF, blank lines and a missing last line end are forgiven, and blank lines count."""
    done = run(b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n  \n" + GOOD)

    assert done.returncode == 0, done.stderr
    assert {number: line["hash"] for number, line in lines(tmp_path / "out.jsonl").items()} == {
        1: digest(GOOD),
        4: digest(GOOD),
    }


def test_a_line_above_64_mib_is_one_failed_row(run: Run, recorder: Recorder, tmp_path: Path) -> None:
    """The line is hashed, not held, and its neighbours are sent."""
    long = b'{"prompt":"' + b"a" * (64 << 20) + b'"}'

    done = run(b"\n".join([GOOD, long, GOOD]))

    out = lines(tmp_path / "out.jsonl")
    assert done.returncode == 1
    assert out[2]["error"]["code"] == "input_too_long"
    assert out[2]["hash"] == digest(long)
    assert len(recorder.arrivals) == 2


def test_a_truncated_archive_is_unreadable_input(run: Run, tmp_path: Path) -> None:
    """What could be read is answered, the rest is told as exit 2."""
    whole = gzip.compress(b"".join(b'{"prompt":"%d"}\n' % number for number in range(3000)))

    done = run(whole[: len(whole) // 2], "-q")

    assert done.returncode == 2
    assert b"ends early" in done.stderr
    assert all(line["status"] == "success" for line in lines(tmp_path / "out.jsonl").values())


# What is written.


def test_a_body_is_spliced_unchanged_into_one_line(run: Run, recorder: Recorder, tmp_path: Path) -> None:
    """Line breaks become spaces, the key is masked however it is escaped, and every other byte is the provider's."""
    escaped = KEY.replace("/", "\\/")
    pretty = (
        f'{{\r\n "big": 123456789012345678901234567890, "e": 1e400, "f": 1.10, "k": "{escaped}",\n'
        f' "choices": [{{"message": {{"content": "{KEY}"}}, "finish_reason": "stop"}}]}}'
    ).encode()
    recorder.respond = lambda _: (200, pretty)

    run(GOOD)

    raw = (tmp_path / "out.jsonl").read_bytes()
    clean = (
        pretty.replace(b"\r", b" ").replace(b"\n", b" ").replace(escaped.encode(), b"***").replace(KEY.encode(), b"***")
    )
    assert b'"response":{"status_code":200,"request_id":"req-1","body":' + clean + b'},"error":null,"text":"***"' in raw
    assert lines(tmp_path / "out.jsonl")[1]["error"] is None


@pytest.mark.parametrize("progress", ["plain", "json"])
def test_a_key_in_an_error_is_masked_wherever_it_is_told(
    run: Run, recorder: Recorder, tmp_path: Path, progress: str
) -> None:
    """Output, deferred file, status file and standard error at -vv never hold the key, nor raw terminal escapes."""
    recorder.respond = lambda _: error(500, f"boom {KEY}", f"{KEY} \x1b[2J\r\u202e [bold]x[/]")
    rows = b"".join(b'{"id":"\\u001b[2J%d","prompt":"x"}\n' % number for number in range(8))

    done = run(rows, "-vv", "--progress", progress, "--max-outage", "0.3")

    told = done.stdout + done.stderr
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert done.returncode == 75
    assert KEY.encode() not in told + kept
    assert b"\x1b" not in told
    if progress == "json":
        assert [json.loads(line) for line in done.stderr.splitlines()]


# Standard streams that are closed or full.


def test_a_closed_standard_output_is_refused_before_anything_is_sent(shell: Run, recorder: Recorder) -> None:
    """The event loop's own descriptor once took the place of standard output, and paid results went into it."""
    done = shell("exec $RUN -q -o - >&-")

    assert done.returncode == 2
    assert done.stderr.startswith(b"error: standard output is closed\nhint: ")
    assert recorder.arrivals == []


@pytest.mark.parametrize("closed", ["<&-", ">&- 2>&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_not_stop_a_run(shell: Run, tmp_path: Path, closed: str) -> None:
    """A run into a file needs none of them; once the process was aborted at its end, with code 134."""
    done = shell(f"exec $RUN -o out.jsonl {closed}")

    assert done.returncode == 0
    assert len(lines(tmp_path / "out.jsonl")) == 50


@pytest.mark.parametrize("broken", ["2>/dev/full", "2>&1 >/dev/null | true"])
def test_a_standard_error_that_takes_nothing_changes_no_exit_code(shell: Run, tmp_path: Path, broken: str) -> None:
    """The interpreter's flush at exit once made 120 of a good run's 0."""
    done = shell(f"{{ $RUN -o out.jsonl; echo $? >code; }} {broken}")

    assert done.stdout == b""
    assert (tmp_path / "code").read_text() == "0\n"
    assert len(lines(tmp_path / "out.jsonl")) == 50


@pytest.mark.parametrize("target", ["-o - >/dev/full", "-o /dev/full", "--json -o out.jsonl >/dev/full"])
def test_a_full_disk_is_exit_74(shell: Run, target: str) -> None:
    """One error line, one hint line, whichever stream the disk is full behind."""
    done = shell(f"exec $RUN -q {target}")

    assert done.returncode == 74
    assert [line.split()[0] for line in done.stderr.splitlines()] == [b"error:", b"hint:"]


def test_a_file_size_limit_is_exit_74_and_the_run_resumes(shell: Run, recorder: Recorder, tmp_path: Path) -> None:
    """The file ends in a whole line, and only rows without one are sent again."""
    limited = shell("ulimit -f 8; exec $RUN -q -c 1 -o out.jsonl")
    output = tmp_path / "out.jsonl"
    kept = len(lines(output)) if output.exists() else 0
    before = len(recorder.arrivals)

    resumed = shell("exec $RUN -q -o out.jsonl")

    assert (limited.returncode, resumed.returncode) == (74, 0)
    assert len(recorder.arrivals) - before == 50 - kept
    assert len(lines(tmp_path / "out.jsonl")) == 50


def test_a_second_signal_ends_a_run_whose_reader_never_reads(
    tmp_path: Path, environment: dict[str, str], recorder: Recorder
) -> None:
    """Lines wait for a slow reader only until the second signal; once nothing but a kill ended the process."""
    (tmp_path / "in.jsonl").write_bytes((GOOD + b"\n") * 2000)
    process = subprocess.Popen(
        [*COMMAND, "run", "in.jsonl", "-m", "openai/gpt", "-o", "-", "-q"],
        cwd=tmp_path,
        env=environment | {"OPENAI_BASE_URL": recorder.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 120
        while recorder.count < 300 and time.monotonic() < deadline:
            time.sleep(0.02)  # more than a pipe takes is waiting then

        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)  # the two must not be merged
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    finally:
        process.kill()
        process.communicate()

    assert code == 143
