"""``llmbatch status`` on real runs: finished, stopped in an outage and resumed, and named by their input."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_parts import Run, TwoLines
from e2e_recorder import Recorder, answer, error

OVERLOADED = error(503, "overloaded_error", "Overloaded: try again later")


@pytest.mark.slow  # starts three interpreters
def test_a_finished_run_is_told_in_words_and_as_json(llmbatch: Run, prompts: Path) -> None:
    """Counts and the state of a finished run are on standard output; the exit code is 0."""
    llmbatch("run", "prompts.jsonl", "-m", "sim/steady")

    words = llmbatch("status", "prompts.results.jsonl")
    report = llmbatch("status", "prompts.results.jsonl", "--json")

    assert (words.returncode, words.stderr) == (0, "")
    assert "3 success, 0 failed" in words.stdout
    values = json.loads(report.stdout)
    assert (values["state"], values["rows"], values["success"], values["failed"]) == ("finished", 3, 3, 0)
    assert (values["failures"], values["outages"], values["deferred"]["rows"]) == ([], [], 0)
    assert [(route["route"], route["rows"]) for route in values["routes"]] == [("sim/steady", 3)]


def test_a_missing_output_is_refused(llmbatch_here: Run, two_lines: TwoLines) -> None:
    """An output that is not there exits with 2 in two lines."""
    done = llmbatch_here("status", "nowhere.jsonl")

    assert done.returncode == 2
    assert "nowhere.jsonl" in two_lines(done.stderr)[0]


def test_a_file_of_somebody_else_is_refused(llmbatch_here: Run, two_lines: TwoLines, prompts: Path) -> None:
    """A file that is no output of ours exits with 2 and is left alone."""
    before = prompts.read_bytes()

    done = llmbatch_here("status", "prompts.jsonl")

    assert done.returncode == 2
    message, hint = two_lines(done.stderr)
    assert "prompts.jsonl" in message
    assert "--overwrite" not in hint
    assert prompts.read_bytes() == before


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.results.jsonl"])
def test_an_input_was_taken_for_a_foreign_output(llmbatch_here: Run, prompts: Path, name: str) -> None:
    """An input means its default output, also once the input is gone."""
    llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", "-q")

    first = llmbatch_here("status", name)
    prompts.unlink()
    second = llmbatch_here("status", name)

    assert first.stdout.splitlines()[0] == second.stdout.splitlines()[0] == "finished    3 rows: 3 success, 0 failed"


@pytest.fixture
def provider() -> Iterator[Recorder]:
    """A server whose ``respond`` each test sets."""
    server = Recorder()
    yield server
    server.close()


@pytest.mark.slow  # two runs, the first of which waits for the end of --max-outage
def test_the_outage_of_the_first_run_was_forgotten_by_the_second(
    llmbatch_process: Run, tmp_path: Path, provider: Recorder
) -> None:
    """From, to, route and the provider's words survive the rerun; the run that stopped names the flag."""
    (tmp_path / "prompts.jsonl").write_text("".join(f'"row {number}"\n' for number in range(30)))
    command = ("run", "prompts.jsonl", "-m", "m", "--base-url", provider.url, "-c", "5", "--recovery-timeout", "1")
    provider.respond = lambda arrival: OVERLOADED

    stopped = llmbatch_process(*command, "--max-outage", "3")
    first = json.loads(llmbatch_process("status", "prompts.jsonl", "--json").stdout)
    words = llmbatch_process("status", "prompts.jsonl", TZ="Asia/Kolkata").stdout
    provider.respond = answer
    resumed = llmbatch_process(*command)
    second = json.loads(llmbatch_process("status", "prompts.jsonl", "--json").stdout)

    assert (stopped.returncode, resumed.returncode) == (75, 0)
    assert "--max-outage 3 reached" in stopped.stderr
    assert stopped.stderr.count("--max-outage 3 reached") == 1
    (outage,) = first["outages"]
    assert (outage["route"], outage["to"]) == ("m", None)
    assert "Overloaded: try again later" in outage["message"]
    assert re.search(r"began +20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\+05:30", words)
    assert re.search(r"deferred +\d+ rows, may be sent again", words)
    assert second["outages"][0]["from"] == outage["from"]
    assert second["outages"][0]["to"] is not None
    assert (second["began"], second["runs"], second["state"]) == (first["began"], 2, "finished")


@pytest.mark.slow  # starts two interpreters
def test_a_refused_key_was_told_four_times(llmbatch: Run, tmp_path: Path, provider: Recorder) -> None:
    """The provider's words and the hint stand once each, and there was no outage."""
    (tmp_path / "prompts.jsonl").write_text("".join(f'"row {number}"\n' for number in range(30)))
    provider.respond = lambda arrival: error(401, "invalid_api_key", "Incorrect API key provided.")

    done = llmbatch("run", "prompts.jsonl", "-m", "m", "--base-url", provider.url)
    report = json.loads(llmbatch("status", "prompts.jsonl", "--json").stdout)
    words = llmbatch("status", "prompts.jsonl").stdout

    assert done.returncode == 3
    assert done.stderr.count("Incorrect API key provided") == 1
    assert done.stderr.count("no key was sent") == 1
    assert "probe in" not in done.stderr
    assert report["outages"] == []
    assert "may be sent again" not in words


def test_quiet_said_nothing_of_failed_rows(llmbatch_here: Run, tmp_path: Path) -> None:
    """``-q`` says in one line that rows have failed and how to see them."""
    (tmp_path / "prompts.jsonl").write_text('"good"\n{"bad"\n')

    done = llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", "-q")

    assert done.returncode == 1
    assert done.stderr == "1 of 2 rows failed; to see them: llmbatch failed prompts.results.jsonl\n"


@pytest.mark.slow  # starts an interpreter
@pytest.mark.parametrize(
    ("typed", "expected"),
    [("llmbatch sta", "status"), ("llmbatch run --conc", "--concurrency"), ("llmbatch failed --i", "--ids")],
)
def test_the_shell_completes_commands_and_options(llmbatch_process: Run, typed: str, expected: str) -> None:
    """Also those of commands that are built only when they are called."""
    done = llmbatch_process(
        COMP_WORDS=typed, COMP_CWORD=str(len(typed.split()) - 1), _LLMBATCH_COMPLETE="complete_bash"
    )

    assert expected in done.stdout.split()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and cannot be read")
def test_an_output_whose_disk_fails_was_told_as_a_full_standard_output(llmbatch_here: Run, two_lines: TwoLines) -> None:
    """Reading it fails, and nothing was written."""
    done = llmbatch_here("status", "/proc/self/mem")

    assert done.returncode == 2
    assert two_lines(done.stderr) == (
        "/proc/self/mem: cannot be read (input/output error)",
        "check the file and its disk",
    )
