"""The output of a whole run is renamed under it, and a run is killed: nothing is paid for twice, nothing untrue told.

Slow: each test starts the whole command.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_parts import Run
from e2e_recorder import Answer, Arrival, Recorder, answer, error

pytestmark = [pytest.mark.slow, pytest.mark.traced]  # runs that are stopped and killed

DEADLINE = 120.0


@pytest.fixture
def provider() -> Iterator[Recorder]:
    server = Recorder(delay=0.05)
    yield server
    server.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """Real time passes, as real processes are waited for."""
    until = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def start(folder: Path, environment: dict[str, str], provider: Recorder, *more: str) -> subprocess.Popen[str]:
    command = ("run", "rows.jsonl", "-m", "m", "--base-url", provider.url, "-c", "2", *more)
    return subprocess.Popen(
        [sys.executable, "-m", "llmbatch", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_after_a_rename_a_second_run_paid_for_everything_again(
    tmp_path: Path, environment: dict[str, str], provider: Recorder
) -> None:
    """A second run is refused while the first goes on; once that has given the file its name back, it resumes."""
    (tmp_path / "rows.jsonl").write_text("".join(f'"row {number}"\n' for number in range(150)))
    output = tmp_path / "rows.results.jsonl"
    sidecar = tmp_path / ".rows.results.jsonl.status.json"
    first = start(tmp_path, environment, provider, "--fsync", "off", "--progress", "none")
    wait_for(lambda: sidecar.exists() and json.loads(sidecar.read_text())["run"]["success"] > 5)

    output.rename(tmp_path / "kept.jsonl")
    second = start(tmp_path, environment, provider)
    _, told = second.communicate(timeout=DEADLINE)
    _, last = first.communicate(timeout=DEADLINE)
    third = start(tmp_path, environment, provider)
    third.communicate(timeout=DEADLINE)

    refusals = (f"another run (pid {first.pid}) writes the file that had this name", "is in use by another run")
    assert second.returncode == 0 or (second.returncode == 2 and any(words in told for words in refusals)), told
    assert first.returncode == 74
    assert "was renamed while the run was writing it" in last
    assert third.returncode == 0
    assert len(output.read_text().splitlines()) == 150
    assert len(provider.arrivals) <= 150 + 2 * 2  # what was in flight when a run stopped, and no more


def test_status_after_a_kill_tells_what_it_cannot_know(
    tmp_path: Path, environment: dict[str, str], llmbatch: Run, provider: Recorder
) -> None:
    """The deferred file of the run before is gone, and the number of waiting rows is null, not 0."""
    (tmp_path / "rows.jsonl").write_text('"one"\n"two"\n"three"\n')
    deferred = tmp_path / "rows.results.deferred.jsonl"
    deferred.write_text('{"id":"row-1","status":"deferred","retry_after":1.0,"reason":"old"}\n')

    def down(arrival: Arrival) -> Answer:
        return error(503, "down")

    provider.respond = down
    sidecar = tmp_path / ".rows.results.jsonl.status.json"
    run = start(tmp_path, environment, provider, "--failure-threshold", "2", "--progress", "none")
    wait_for(lambda: sidecar.exists() and json.loads(sidecar.read_text())["run"]["parked"] > 0)
    assert not deferred.exists()
    run.kill()
    run.communicate(timeout=DEADLINE)

    report = json.loads(llmbatch("status", "rows.results.jsonl", "--json").stdout)

    assert (report["state"], report["was_killed"], report["deferred"]["rows"]) == ("stopped", True, None)
    assert "which rows waited is not known" in llmbatch("status", "rows.results.jsonl").stdout
    provider.respond = answer
    assert start(tmp_path, environment, provider, "-q").wait(timeout=DEADLINE) == 0
    assert json.loads(llmbatch("status", "rows.results.jsonl", "--json").stdout)["deferred"]["rows"] == 0


def test_the_deferred_file_is_written_anew_when_a_run_stops(
    tmp_path: Path, environment: dict[str, str], provider: Recorder
) -> None:
    """Each line tells when its row may go again, as seconds and as an instant."""
    (tmp_path / "rows.jsonl").write_text('"one"\n"two"\n"three"\n')
    provider.respond = lambda arrival: error(503, "down")

    code = start(tmp_path, environment, provider, "-q", "--failure-threshold", "2", "--on-outage", "defer").wait(
        timeout=DEADLINE
    )

    assert code == 75
    lines = [json.loads(line) for line in (tmp_path / "rows.results.deferred.jsonl").read_text().splitlines()]
    assert {"row-1", "row-2"} <= {line["id"] for line in lines}
    for line in lines:
        assert list(line) == ["id", "status", "retry_after", "retry_at", "reason"]
        left = time.mktime(time.strptime(line["retry_at"], "%Y-%m-%dT%H:%M:%SZ")) - time.mktime(time.gmtime())
        assert line["retry_after"] - 20 <= left <= line["retry_after"] + 2
