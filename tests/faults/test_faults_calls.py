"""Every call into the disk fails once: number N for N = 1, 2, 3 ... until a run meets no fault any more."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults_run import KILLED, STRACE, Here, Job, inject, was_injected

pytestmark = [
    pytest.mark.slow,  # some ten processes each
    pytest.mark.skipif(STRACE is None, reason="strace is not installed: apt-get install strace"),
]

MOST = 30

KILL = "signal=SIGKILL"
IN_A_RUN = [
    ("write", KILL, 3),
    ("fdatasync", "error=EIO", 1),
    *(pytest.param(*one, marks=pytest.mark.long) for one in (("write", "error=ENOSPC", 3), ("fdatasync", KILL, 1))),
]
IN_A_REWRITE = [
    *(("write", "error=ENOSPC"), ("fdatasync", KILL), ("fsync", "error=EIO"), ("rename", KILL), ("ftruncate", KILL)),
    *(
        pytest.param(*one, marks=pytest.mark.long)
        for one in (
            ("write", KILL),
            *((calls, "error=EIO") for calls in ("fdatasync", "rename", "ftruncate")),
            ("fsync", KILL),
        )
    ),
]
"""Each call meets a fault or a kill in every run, and the other one too in .ci/long.

A full disk shows in writes, a broken one in whatever makes them durable: both are the same OSError to us."""


def meets_a_fault(job: Job, fault: str, calls: str, number: int, *more: str) -> bool:
    log = job.folder / "strace"
    paths = (job.output, job.folder / f".{job.output.name}.llmbatch-new")
    finished = job.lines()

    ended = job.run(*more, before=inject(log, calls, fault, number, *paths))

    if not was_injected(log):
        assert ended.code == (1 if job.bad else 0), ended
        return False
    if fault == "signal=SIGKILL":
        assert ended.code == KILLED
    else:
        assert ended.code == 74, ended
        assert f"error: {job.output}: could not be written" in ended.stderr
        assert "hint: " in ended.stderr
        assert "run the same command again" in ended.stderr
    kept = job.lines()
    if "--retry-failed" in more:
        finished = {row: line for row, line in finished.items() if line["status"] == "success"}
    assert {row: kept.get(row) for row in finished} == finished
    return True


def faults_met(
    folder: Path, here: Here, fault: str, calls: str, *more: str, bad: int, before: bytes | None = None
) -> int:
    """Run after run, each with its fault one call later, and each mended by a run in peace; how many met theirs."""
    for number in range(1, MOST):
        job = Job(folder / str(number), rows=3, concurrency=1, bad=frozenset({bad}))
        if before is not None:
            job.output.write_bytes(before)
        try:
            met = meets_a_fault(job, fault, calls, number, *more)
            if met:
                job.finish_in_peace(here=here)
            job.check_complete()
        finally:
            job.close()
        if not met:
            return number - 1
    raise AssertionError(f"after {MOST} runs there still was a call to fail")


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An output of two rows, the second one failed, with a torn end."""
    model = Job(tmp_path_factory.mktemp("model"), rows=3, concurrency=1, bad=frozenset({2}))
    try:
        model.run("--limit", "2")
    finally:
        model.close()
    return model.output.read_bytes() + b'{"row":3,"hash":"12'


@pytest.mark.parametrize(("calls", "fault", "least"), IN_A_RUN)
def test_a_fault_in_any_call_of_a_run_loses_no_line_and_fails_no_row(
    tmp_path: Path, command_here: Here, calls: str, fault: str, least: int
) -> None:
    """Exit 74, or death; then the same command completes, and sends nothing that has its line."""
    assert faults_met(tmp_path, command_here, fault, calls, bad=3) >= least


@pytest.mark.parametrize(("calls", "fault"), IN_A_REWRITE)
def test_a_fault_in_any_call_of_a_rewrite_loses_no_line(
    tmp_path: Path, command_here: Here, torn: bytes, calls: str, fault: str
) -> None:
    """`--retry-failed` on a file with a torn end: the old file or the new one is there, never a part of either."""
    assert faults_met(tmp_path, command_here, fault, calls, "--retry-failed", bad=2, before=torn) >= 1
