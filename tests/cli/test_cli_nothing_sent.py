"""Runs that could send nothing: what they leave behind, what ``status`` says of them, and how they go on."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_parts import Run
from e2e_recorder import Recorder, answer, error

# No name server is asked about a label of more than 63 characters.
NO_SUCH_HOST = f"http://{'a' * 64}.example/v1"


@pytest.fixture
def provider() -> Iterator[Recorder]:
    """A server whose ``respond`` each test sets."""
    server = Recorder()
    yield server
    server.close()


def files(folder: Path) -> set[str]:
    """Names of the files in *folder* but for the input and the home directory."""
    return {path.name for path in folder.iterdir()} - {"prompts.jsonl", "home"}


def test_a_host_that_does_not_exist_left_an_empty_output_and_deferred_rows(llmbatch_here: Run, prompts: Path) -> None:
    """A wrong command leaves nothing, and says why in one line."""
    done = llmbatch_here("run", "prompts.jsonl", "-m", "m", "--base-url", NO_SUCH_HOST)

    assert done.returncode == 2
    assert files(prompts.parent) == set()
    assert done.stderr.count("does not exist") == 1
    assert "deferred" not in done.stderr
    assert "no results yet; change what the error names" in done.stderr


def test_quiet_says_of_a_host_that_does_not_exist_one_error_and_one_hint(llmbatch_here: Run, prompts: Path) -> None:
    """As every other command that is wrong."""
    done = llmbatch_here("run", "prompts.jsonl", "-m", "m", "--base-url", NO_SUCH_HOST, "-q")

    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]


def test_a_refused_key_left_an_empty_output(llmbatch_here: Run, prompts: Path, provider: Recorder) -> None:
    """No output is there, ``status`` and ``failed`` still answer, and the same command goes on."""
    command = ("run", "prompts.jsonl", "-m", "m", "--base-url", provider.url)
    provider.respond = lambda _: error(401, "invalid_api_key", "Incorrect API key provided.")

    done = llmbatch_here(*command)
    left = files(prompts.parent)
    words = llmbatch_here("status", "prompts.jsonl")
    report = json.loads(llmbatch_here("status", "prompts.results.jsonl", "--json").stdout)
    failed = llmbatch_here("failed", "prompts.jsonl")
    provider.respond = answer
    again = llmbatch_here(*command)
    later = json.loads(llmbatch_here("status", "prompts.jsonl", "--json").stdout)

    assert (done.returncode, again.returncode) == (3, 0)
    assert "prompts.results.jsonl" not in left
    assert words.stdout.startswith("stopped     0 of 3 rows: 0 success, 0 failed\n")
    assert "Incorrect API key provided." in words.stdout
    assert words.stdout.splitlines()[-1].startswith("no results yet; correct what it stopped for")
    assert (report["rows"], report["deferred"]["rows"], report["exit_code"]) == (0, 3, 3)
    assert failed.stdout == "0 failed rows\n"
    assert (later["rows"], later["runs"], later["state"]) == (3, 2, "finished")


@pytest.mark.slow  # waits for the end of --max-outage
def test_a_server_that_is_not_there_left_an_empty_output(llmbatch_here: Run, prompts: Path) -> None:
    """Given up after ``--max-outage``: the rows are listed as deferred, and no output is there."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # it does not listen
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        done = llmbatch_here("run", "prompts.jsonl", "-m", "m", "--base-url", url, "--max-outage", "2")

    words = llmbatch_here("status", "prompts.jsonl").stdout
    assert done.returncode == 75
    assert "has never answered" in done.stderr
    assert files(prompts.parent) == {
        "prompts.results.deferred.jsonl",
        "prompts.results.events.jsonl",
        ".prompts.results.jsonl.status.json",
    }
    assert "deferred    3 rows, may be sent again" in words
    assert words.splitlines()[-1].startswith("no results yet; to go on, run the same command again")


def test_a_wrong_host_lost_what_an_earlier_run_had_deferred(
    llmbatch_here: Run, prompts: Path, provider: Recorder
) -> None:
    """Only what the wrong command itself would leave is left out: history and deferred rows stay."""
    provider.respond = lambda _: error(401, "invalid_api_key")
    llmbatch_here("run", "prompts.jsonl", "-m", "m", "--base-url", provider.url)

    llmbatch_here("run", "prompts.jsonl", "-m", "m", "--base-url", NO_SUCH_HOST)

    assert files(prompts.parent) == {"prompts.results.deferred.jsonl", ".prompts.results.jsonl.status.json"}
    assert json.loads(llmbatch_here("status", "prompts.jsonl", "--json").stdout)["runs"] == 2


def test_a_wrong_host_keeps_an_output_that_was_there(llmbatch_here: Run, prompts: Path, provider: Recorder) -> None:
    """An output that was there, also an empty one, is not the run's to remove."""
    output = prompts.parent / "prompts.results.jsonl"
    output.touch()

    done = llmbatch_here("run", "prompts.jsonl", "-m", "m", "--base-url", NO_SUCH_HOST)

    assert done.returncode == 2
    assert output.read_bytes() == b""


def test_an_empty_input_still_has_an_output(llmbatch_here: Run, prompts: Path) -> None:
    """A run that is complete has its output, for the next program, though no row was there."""
    prompts.write_bytes(b"")

    done = llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady")

    assert done.returncode == 0
    assert (prompts.parent / "prompts.results.jsonl").read_bytes() == b""


def test_an_output_that_was_deleted_after_a_run_is_missing(llmbatch_here: Run, prompts: Path) -> None:
    """The sidecar alone is no run: it is not believed where it tells of lines that are gone."""
    llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady")
    (prompts.parent / "prompts.results.jsonl").unlink()

    done = llmbatch_here("status", "prompts.jsonl")

    assert done.returncode == 2
    assert "there is no such file" in done.stderr


def test_another_file_that_took_the_name_of_an_empty_output_was_removed(
    llmbatch_here: Run, prompts: Path, provider: Recorder
) -> None:
    """A run that stopped without a line removes its own file only."""
    output = prompts.parent / "prompts.results.jsonl"
    swapped = threading.Event()

    def swap_and_refuse(_: object) -> tuple[int, bytes]:
        if not swapped.is_set():
            output.rename(prompts.parent / "moved.jsonl")
            output.write_text("somebody else's\n")
            swapped.set()
        return error(401, "invalid_api_key")

    provider.respond = swap_and_refuse

    llmbatch_here("run", "prompts.jsonl", "-m", "m", "--base-url", provider.url)

    assert swapped.is_set()
    assert output.read_text() == "somebody else's\n"
