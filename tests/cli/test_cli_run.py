"""``llmbatch run`` from end to end, against servers on loopback.

Slow: each test starts the whole command, HTTP client included, some of them twice.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Run, Silence, TwoLines

pytestmark = [pytest.mark.slow, pytest.mark.traced]  # each starts interpreters

SIM = ("-m", "sim/steady")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The lines of an output, in order of their rows."""
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda line: line["row"])


class Recorder(ThreadingHTTPServer):
    """Answers every chat request, and keeps what it was sent."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recorder

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        message = {"role": "assistant", "content": "fine"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        answer = {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
        page = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A server that answers well and remembers."""
    with Recorder() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_run_writes_one_line_a_row_and_says_where(llmbatch: Run, prompts: Path) -> None:
    """Every row gets its line beside the input; standard output stays empty; the last line says where results are."""
    done = llmbatch("run", "prompts.jsonl", *SIM)

    assert (done.returncode, done.stdout) == (0, "")
    lines = rows_of(prompts.with_name("prompts.results.jsonl"))
    assert [(line["row"], line["id"], line["status"]) for line in lines] == [
        (1, "a", "success"),
        (2, "b", "success"),
        (3, "c", "success"),
    ]
    assert done.stderr.splitlines()[-1] == "results are in prompts.results.jsonl"


def test_the_same_command_again_sends_nothing(llmbatch: Run, prompts: Path, recorder: Recorder) -> None:
    """A finished output is left as it is, byte for byte, and nothing is sent."""
    command = ("run", "prompts.jsonl", "-m", "m", "--base-url", recorder.url)
    llmbatch(*command)
    before = prompts.with_name("prompts.results.jsonl").read_bytes()

    done = llmbatch(*command)

    assert done.returncode == 0
    assert prompts.with_name("prompts.results.jsonl").read_bytes() == before
    assert len(recorder.bodies) == 3


def test_flags_reach_the_provider(llmbatch: Run, prompts: Path, recorder: Recorder) -> None:
    """Model, system prompt, parameters and the key of ``--api-key-env`` arrive as they were given."""
    done = llmbatch(
        "run",
        "prompts.jsonl",
        *("-m", "some-lab/model", "--base-url", recorder.url, "--api-key-env", "MY_KEY", "-s", "be brief"),
        *("-P", "temperature=0.25", "-P", "user=me", "-P", "seed=123456789012345678901234567890"),
        MY_KEY="sk-test-0123456789",
    )

    assert done.returncode == 0
    assert len(recorder.bodies) == 3
    for body, headers in zip(recorder.bodies, recorder.headers, strict=True):
        assert body["model"] == "some-lab/model"
        assert body["messages"][0] == {"role": "system", "content": "be brief"}
        assert (body["temperature"], body["user"]) == (0.25, "me")
        assert body["seed"] == 123456789012345678901234567890
        assert headers["authorization"] == "Bearer sk-test-0123456789"
    assert "sk-test" not in done.stderr + prompts.with_name("prompts.results.jsonl").read_text()


def test_aliases_mean_the_same(llmbatch: Run, prompts: Path) -> None:
    """The names that other tools use for the same flags are taken."""
    done = llmbatch(
        "run",
        *("--input-file", "prompts.jsonl", "--output-file", "out.jsonl", *SIM, "--max-connections", "2"),
        *("--max-requests-per-minute", "60000", "--max-tokens-per-minute", "1e9"),
    )

    assert done.returncode == 0
    assert len(rows_of(prompts.with_name("out.jsonl"))) == 3


@pytest.mark.parametrize("name", ["-c", "--concurrency", "--max-concurrency", "--max-connections", "-j"])
def test_every_name_of_concurrency_sets_it(llmbatch_here: Run, prompts: Path, name: str) -> None:
    """Each alias of --concurrency changes the check's estimate in the same way."""
    done = llmbatch_here("check", "-i", "prompts.jsonl", *SIM, name, "1", "--json")

    assert json.loads(done.stdout)["estimate"]["seconds"] == 6.0


def test_the_summary_as_json_is_all_of_standard_output(llmbatch: Run, prompts: Path) -> None:
    """``--json`` prints one JSON object, and the words stay on standard error."""
    done = llmbatch("run", "prompts.jsonl", *SIM, "--json")

    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["success"], summary["failed"], summary["exit_code"]) == (3, 3, 0, 0)
    assert summary["output"] == "prompts.results.jsonl"


@pytest.mark.parametrize("output", [(), ("-o", "-")])
def test_standard_input_goes_to_standard_output(llmbatch: Run, output: tuple[str, ...]) -> None:
    """``-`` reads a pipe, and its lines go to standard output where no file is named."""
    done = llmbatch("run", "-", *SIM, *output, stdin='{"prompt":"one"}\n"two"\n')

    assert done.returncode == 0
    assert sorted(json.loads(line)["row"] for line in done.stdout.splitlines()) == [1, 2]


def test_a_malformed_row_is_one_failed_line(llmbatch: Run, tmp_path: Path) -> None:
    """A row that is no request becomes a failed line, the rest goes on, and the exit code is 1."""
    (tmp_path / "rows.jsonl").write_text('"one"\nnot json\n"three"\n')

    done = llmbatch("run", "rows.jsonl", *SIM)

    assert done.returncode == 1
    lines = rows_of(tmp_path / "rows.results.jsonl")
    assert [line["status"] for line in lines] == ["success", "failed", "success"]
    assert lines[1]["error"]["code"] == "input_bad_json"


def test_strict_refuses_the_whole_input_before_anything_is_sent(
    llmbatch: Run, two_lines: TwoLines, tmp_path: Path, silence: Silence
) -> None:
    """With --strict one malformed row exits with 2, names its line, sends nothing and leaves no output."""
    (tmp_path / "rows.jsonl").write_text('"one"\n"two"\nnot json\n')

    done = llmbatch("run", "rows.jsonl", "-m", "m", "--base-url", silence.url, "--strict")

    assert done.returncode == 2
    assert "line 3" in two_lines(done.stderr)[0]
    assert not silence.was_broken()
    assert not (tmp_path / "rows.results.jsonl").exists()


def test_a_refused_key_exits_with_3_and_fails_no_row(llmbatch: Run, two_lines: TwoLines, prompts: Path) -> None:
    """A provider that refuses the key stops the run, which even -q tells; no row is marked as failed."""
    done = llmbatch("run", "prompts.jsonl", "-m", "sim/bad-key", "-q")

    assert done.returncode == 3
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: sim/bad-key refused the first rows")
    assert hint.strip().startswith("hint: no key was sent: name the environment variable that holds it")
    assert not prompts.with_name("prompts.results.jsonl").exists()


def test_progress_as_json_is_nothing_but_json(llmbatch: Run, prompts: Path) -> None:
    """``--progress json`` puts one JSON object a line on standard error, and nothing else."""
    done = llmbatch("run", "prompts.jsonl", *SIM, "--progress", "json")

    assert done.returncode == 0
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(events) >= 2


def test_quiet_says_nothing_when_all_is_well(llmbatch: Run, prompts: Path) -> None:
    """``-q`` leaves both streams empty."""
    done = llmbatch("run", "prompts.jsonl", *SIM, "-q")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_starting_afresh_is_not_what_going_on_repeats(llmbatch: Run, prompts: Path) -> None:
    """After --overwrite, the last words, which --progress none shows too, leave --overwrite out."""
    prompts.write_text('"one"\nnot json\n')

    done = llmbatch("run", "prompts.jsonl", *SIM, "--overwrite", "--progress", "none")

    assert done.returncode == 1
    assert "llmbatch run prompts.jsonl -m sim/steady" in done.stderr.splitlines()[-1]
    assert "--overwrite" not in done.stderr


def test_a_local_file_that_redirects_requests_is_told(llmbatch: Run, prompts: Path, recorder: Recorder) -> None:
    """A ./llmbatch.toml that sets the base URL is named on standard error, as it decides where keys go."""
    prompts.with_name("llmbatch.toml").write_text(f'base-url = "{recorder.url}"\nmodel = "m"\n')

    done = llmbatch("run", "prompts.jsonl")

    assert done.returncode == 0
    assert "note: ./llmbatch.toml sets base_url" in done.stderr.splitlines()[0]


def test_concurrency_above_the_soft_limit_of_files_works(tmp_path: Path, environment: dict[str, str]) -> None:
    """The soft limit of open files is raised where the concurrency needs more."""
    (tmp_path / "rows.jsonl").write_text('"x"\n' * 120)

    done = subprocess.run(
        [sys.executable, "-m", "llmbatch", "run", "rows.jsonl", *SIM, "-c", "120", "--json", "-q"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        ),
    )

    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert summary["success"] == 120
    assert summary["errors_by_code"] == {}


def test_a_pipe_or_device_gets_no_sidecars_beside_it(llmbatch: Run, tmp_path: Path) -> None:
    """`-o /dev/null` left a status, a history and a socket in /dev; several processes would have left a folder."""
    (tmp_path / "in.jsonl").write_text('"x"\n' * 3)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    done = llmbatch("run", "in.jsonl", *SIM, "-o", "pipe", "--progress", "plain")
    split = llmbatch("run", "in.jsonl", *SIM, "-o", "pipe", "--workers", "2")

    lines = os.read(reader, 100_000)
    os.close(reader)
    assert (done.returncode, lines.count(b"\n")) == (0, 3)
    assert "warning" not in done.stderr
    assert (split.returncode, split.stderr.partition("\n")[0]) == (
        2,
        "error: --workers 2 needs an output file, and -o is 'pipe'",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "in.jsonl", "pipe"]  # a home is always there


def test_results_piped_into_a_reader_that_stops_end_without_a_traceback(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """``llmbatch run … -o - | head -1`` ends silently with 141, as any program in a pipe."""
    (tmp_path / "rows.jsonl").write_text('"x"\n' * 400)
    run = [sys.executable, "-m", "llmbatch", "run", "rows.jsonl", *SIM, "-c", "20", "-o", "-", "-q"]

    process = subprocess.Popen(
        run, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()

    assert (process.wait(timeout=120), errors) == (141, "")


def test_each_tenant_may_have_a_circuit_of_its_own(llmbatch: Run, tmp_path: Path) -> None:
    """The flag is taken, the rows end as ever, and progress names the tenants."""
    rows = [{"prompt": f"row {number}", "metadata": {"tenant": f"t{number % 3}"}} for number in range(9)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = llmbatch("run", "in.jsonl", "-m", "sim/steady", "--circuit-key", "metadata.tenant", "--json", "-q")

    assert done.returncode == 0
    assert json.loads(done.stdout)["success"] == 9
    assert {route["label"] for route in json.loads(done.stdout)["routes"]} == {
        f"sim/steady [tenant t{n}]" for n in range(3)
    }


def test_a_circuit_key_that_names_no_member_is_a_usage_error(llmbatch: Run, tmp_path: Path) -> None:
    """Exit code 2, with the value and an example."""
    (tmp_path / "in.jsonl").write_text('{"prompt":"x"}\n')

    done = llmbatch("run", "in.jsonl", "-m", "sim/steady", "--circuit-key", "metadata.")

    assert done.returncode == 2
    assert "'metadata.'" in done.stderr
    assert "metadata.tenant" in done.stderr


def test_rpd_counts_the_requests_of_earlier_runs_of_the_day(llmbatch: Run, prompts: Path) -> None:
    """A command that is run again sends what is left of the day's requests, and not its whole number anew."""
    command = ("run", "prompts.jsonl", *SIM, "--rpd", "2", "--progress", "plain", "--on-outage", "defer")
    first = llmbatch(*command, "-n", "1")
    second = llmbatch(*command)
    third = llmbatch(*command)
    unbound = llmbatch("run", "prompts.jsonl", *SIM, "--rpd", "9", "--progress", "plain")
    finished = llmbatch(*command)

    assert [done.returncode for done in (first, second, third, unbound, finished)] == [0, 75, 75, 0, 0]
    assert "earlier runs" not in first.stderr
    assert "earlier runs on prompts.results.jsonl have sent 1 request of --rpd 2, which count until " in second.stderr
    assert "have sent 2 requests of --rpd 2" in third.stderr
    assert "have sent 2 requests of --rpd 9" in unbound.stderr
    assert "earlier runs" not in finished.stderr
