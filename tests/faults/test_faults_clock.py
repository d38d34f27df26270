"""A wall clock that is wrong: waits and outages are measured by another one."""

from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path

import pytest
from e2e_recorder import Arrival
from faults_run import Job, respond

LIBRARY = next(
    (str(path) for path in sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))),
    None,
)

pytestmark = [
    pytest.mark.slow,  # names a wait of two seconds
    pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed: apt-get install libfaketime"),
]


@pytest.mark.parametrize("shift", ["+1d", "-1d"])
def test_a_wall_clock_a_day_off_changes_no_wait(tmp_path: Path, shift: str) -> None:
    """A wait named as a date counts from the provider's own clock: two seconds, not a day, and not none."""
    moments: list[float] = []

    def throttle(arrival: Arrival) -> tuple[int, bytes]:
        moments.append(time.monotonic())
        return (429, b'{"error":{"message":"slow down"}}') if len(moments) == 1 else respond(arrival)

    job = Job(tmp_path / "a", rows=3, concurrency=1)
    job.server.respond = throttle
    now = time.time()
    job.server.headers = {"Date": formatdate(now, usegmt=True), "Retry-After": formatdate(now + 2, usegmt=True)}
    try:
        ended = job.run(environ={"LD_PRELOAD": LIBRARY or "", "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
    finally:
        job.close()

    assert ended.code == 0, ended
    job.check_complete()
    assert 1.99 <= moments[1] - moments[0] < 30
