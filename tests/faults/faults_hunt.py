"""Real runs under drawn faults, one after the other, for as long as it is told to.

    python tests/faults/faults_hunt.py --minutes 20
    python tests/faults/faults_hunt.py --seed 7         one job again

A job is one input and the same command, run again and again: every life but the last meets something — a kill, a
failing call into the disk, a limit of the file's size, signals, a stop, an output that others delete, rename, replace,
truncate or append to — at a drawn moment, while all or a part of the calls fail with one status, up to twenty rows fail
whenever they are sent, and the smallest request passes or does not. After each life the output is checked, and the last
one, in peace, must complete it. The moments are real time, so that a job replayed meets the same faults, not at the
same instruction. The first seed is printed at once.

Exit code 1 where something did not hold; the files of such a job are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

if __package__ in (None, ""):
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "e2e")]

import faults_run
from e2e_recorder import Answer, Arrival, error
from faults_run import KILLED, STRACE, Ended, Job, finish, inject, respond, row_of, was_injected

STATUSES = (500, 502, 503, 529, 429, 400, 404, 409, 422)
REFUSALS = (400, 404, 422)
"""Statuses that stop a run (exit 3) whose route has never answered."""
BAD_ROWS = (500, 503, 429, 422, 402)
"""What a bad row may meet each time, besides a refusal that names its own content."""
CALLS = {"write": 40, "fdatasync": 4}
"""Calls that may meet a fault, and the last of them that does."""
OPTIONS = ("--recovery-timeout", "1", "--timeout", "5", "--max-attempts", "3")


class Sick:
    """A provider of whose calls a share fails in drawn spells of its own time, and that knows whom it has answered."""

    def __init__(self, rng: Random) -> None:
        self.began = time.monotonic()
        self.rng = Random(rng.random())
        self.status = rng.choice(STATUSES)
        self.share = rng.choice([1.0, 1.0, 0.5, 0.2])
        self.bad_status = rng.choice([None, None, None, *BAD_ROWS])
        self.answers_ping = rng.random() < 0.7
        self.spells: list[tuple[float, float]] = []
        at = 0.0
        for _ in range(rng.randint(0, 3)):
            at += rng.uniform(0.2, 6.0)
            self.spells.append((at, at + rng.uniform(0.05, 1.5)))
            at = self.spells[-1][1]
        self.good = Counter[int]()

    @property
    def finished(self) -> tuple[int, ...]:
        """The exit codes of a run that nothing cut short."""
        return (0, 1, 3) if self.status in REFUSALS else (0, 1)

    def respond(self, arrival: Arrival) -> Answer:
        now, row = time.monotonic() - self.began, row_of(arrival)
        if any(since <= now < until for since, until in self.spells) and self.rng.random() < self.share:
            return error(self.status, "sick", "try later")
        if row == 0:
            return respond(arrival) if self.answers_ping else error(422, "too_small")
        if self.bad_status is not None and b" bad" in arrival.body:
            return error(self.bad_status, "bad_row")
        self.good[row] += 1
        return respond(arrival)


@dataclass
class RunStats:
    """What was run and met."""

    jobs: int = 0
    lives: int = 0
    calls: int = 0
    met: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        met = ", ".join(f"{count} {kind}" for kind, count in sorted(self.met.items()))
        return f"{self.jobs} jobs, {self.lives} lives, {self.calls:,} calls; {met}; {len(self.broken)} broken"


def by_kill(job: Job, rng: Random, sick: Sick) -> tuple[str, Ended]:
    """SIGKILL."""
    ended = _signalled(job, rng.uniform(0.2, 2.0), signal.SIGKILL)
    assert ended.code in (*sick.finished, KILLED), ended
    return ("kills" if ended.code == KILLED else "lives that were done before"), ended


def by_signal(job: Job, rng: Random, sick: Sick) -> tuple[str, Ended]:
    """INT, TERM or HUP, once or twice."""
    name = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    ended = _signalled(job, rng.uniform(0.2, 2.0), *[name] * rng.randint(1, 2))
    assert ended.code in (*sick.finished, 128 + name), ended
    return ("signals" if ended.code >= 128 else "lives that were done before"), ended


def by_stop(job: Job, rng: Random, sick: Sick) -> tuple[str, Ended]:
    """STOP, some time, CONT: the run goes on, for some more time or to its end."""
    then = rng.choice([(), (signal.SIGKILL,)])
    gap = rng.choice([0.1, 0.5, 1.0, 6.0])
    ended = _signalled(job, rng.uniform(0.3, 1.5), signal.SIGSTOP, signal.SIGCONT, *then, gap=gap)
    assert ended.code in ((*sick.finished, KILLED) if then else sick.finished), ended
    return "stops", ended


def by_fault(job: Job, rng: Random, sick: Sick) -> tuple[str, Ended]:
    """The N-th write or sync fails, or is the last thing that happens."""
    fault = rng.choice(["error=ENOSPC", "error=EIO", "signal=SIGKILL"])
    log = job.folder / "strace"
    call = rng.choice(list(CALLS))
    ended = job.run(before=inject(log, call, fault, rng.randint(1, CALLS[call]), job.output))
    if not was_injected(log):
        assert ended.code in sick.finished, ended
        return "lives that were done before", ended
    assert ended.code == (KILLED if fault == "signal=SIGKILL" else 74), ended
    return fault.partition("=")[2], ended


def by_size(job: Job, rng: Random, sick: Sick) -> tuple[str, Ended]:
    """The file may not grow beyond a limit somewhere in a line."""
    size = job.output.stat().st_size if job.output.exists() else 0
    ended = job.run(before=["prlimit", f"--fsize={size + rng.randint(0, 20_000)}"])
    assert ended.code in (*sick.finished, 74), ended
    return ("size limits" if ended.code == 74 else "lives that were done before"), ended


def by_tampering(job: Job, rng: Random, sick: Sick) -> tuple[str, Ended]:
    """Another program deletes, renames, replaces, truncates or appends to the output, and mends it afterwards."""
    act = rng.choice(["delete", "rename", "replace", "truncate", "append"])
    moved, size = job.folder / "moved", rng.random()
    process, file = job.start(), None
    time.sleep(rng.uniform(0.2, 3.0))
    with contextlib.suppress(FileNotFoundError):
        file = job.output.open("r+b")
    if file is not None and process.poll() is None:
        match act:
            case "delete":
                job.output.unlink()
            case "rename":
                job.output.rename(moved)
            case "replace":
                moved.write_bytes(b"something else\n")
                moved.rename(job.output)
            case "truncate":
                os.truncate(job.output, int(size * job.output.stat().st_size))
            case "append":
                with job.output.open("ab") as other:
                    other.write(b"something else\n")
    else:
        act = ""
    ended = finish(process)
    assert ended.code in (*sick.finished, 74), ended
    if file is not None:
        with file:
            _mend(job, act, file.read(), noticed=ended.code == 74)
    moved.unlink(missing_ok=True)
    return (f"noticed {act}" if ended.code == 74 else "lives that were done before"), ended


def _mend(job: Job, act: str, lines: bytes, *, noticed: bool) -> None:
    """Do what the run has said, or, where it had ended before, put its *lines* back."""
    recovered = job.folder / "out.recovered.jsonl"
    if act == "replace" and noticed:
        assert job.output.read_bytes() == b"something else\n", "the other file was not left alone"
        if lines:
            recovered.rename(job.output)
        else:
            job.output.unlink()
    elif act == "append":
        job.output.write_bytes(b"".join(line for line in lines.splitlines(True) if line != b"something else\n"))
    elif act in ("delete", "rename", "replace"):
        if noticed and lines:
            assert job.output.read_bytes() == lines, f"after {act} the file's lines are not there"
        else:
            job.output.unlink(missing_ok=True)
            job.output.write_bytes(lines)


def _signalled(job: Job, seconds: float, *signals: signal.Signals, gap: float = 0.05) -> Ended:
    process = job.start()

    def send() -> None:
        time.sleep(seconds)
        for number in signals:
            if process.poll() is None:
                process.send_signal(number)
            time.sleep(gap)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        return finish(process)
    finally:
        sender.join()


def run_job(seed: int, folder: Path, stats: RunStats) -> None:
    """All lives of one job.

    Raises:
        AssertionError: a guarantee did not hold.
    """
    rng = Random(seed)
    rows = rng.choice([rng.randint(1, 40), rng.randint(100, 800)])
    bad = frozenset(rng.sample(range(1, rows + 1), min(rows // 2, rng.choice([0, 1, 3, 20]))))
    sick = Sick(rng)
    concurrency = rng.randint(1, 12)
    delay = min(0.5, rng.uniform(3.0, 10.0) * concurrency / rows)  # all rows at once would take so many seconds
    job = Job(folder, rows, concurrency, bad, delay, OPTIONS)
    job.server.respond = sick.respond
    ways = [*[by_kill] * 4, by_signal, by_signal, by_stop, by_size, *[by_tampering] * 2]
    ways += [by_fault] * 3 if STRACE else []
    kept: dict[int, dict[str, Any]] = {}
    try:
        for _ in range(rng.randint(2, 8)):
            if len(kept) == rows:
                break
            sick.good.clear()
            began, sent = time.monotonic(), len(job.server.arrivals)
            kind, ended = rng.choice(ways)(job, rng, sick)
            time.sleep(job.delay + 0.05)  # the last answers to a killed run are still on their way
            stats.lives += 1
            stats.met[kind] += 1
            lines = job.lines()
            if kind == "noticed truncate":
                kept, lines = lines, lines
                continue
            assert {row: lines.get(row) for row in kept} == kept, "a line that was there is gone or another"
            again = [row for arrival in job.server.arrivals[sent:] if (row := row_of(arrival)) in kept]
            most_again = 1 + int(time.monotonic() - began) if bad or sick.spells else 0
            assert len(again) <= most_again, f"rows {sorted(again)} had their lines and were sent again"
            lost = sum(count - (row in lines) for row, count in sick.good.items() if row not in kept)
            # What is in flight is lost by a kill, and times out in a stop; a stop may be followed by a kill. A request
            # of a row that has finished may be sent once more, once a second, where only failing rows are left.
            most = {"kills": concurrency, "stops": 2 * concurrency, "lives that were done before": 0}.get(kind)
            most = concurrency if kind.startswith("noticed") else most
            assert most is None or lost <= most + most_again, f"{kind}: {lost} answers have no line: {ended}"
            kept = lines
        sick.spells.clear()
        job.finish_in_peace()
    finally:
        job.close()
        stats.calls += len(job.server.arrivals)


def hunt(seeds: list[int] | None, minutes: float, stats: RunStats) -> None:
    """Job after job; those that hold leave nothing behind."""
    deadline = time.monotonic() + 60.0 * minutes
    first = time.time_ns() % 10**9
    print(f"seeds {seeds}" if seeds is not None else f"from seed {first} on", flush=True)
    while stats.jobs < len(seeds) if seeds is not None else time.monotonic() < deadline:
        seed = seeds[stats.jobs] if seeds is not None else first + stats.jobs
        folder = Path(tempfile.mkdtemp(prefix=f"llmbatch-faults-{seed}-"))
        stats.jobs += 1
        try:
            run_job(seed, folder, stats)
        except Exception as error:
            stats.broken.append((seed, repr(error)))
            print(
                f"{error!r}\n  files: {folder}\n  replay: python tests/faults/faults_hunt.py --seed {seed}", flush=True
            )
        else:
            shutil.rmtree(folder)
        if sys.stderr.isatty():
            print(f"\r{stats}", end="", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--seed", type=int, action="append")
    how.add_argument("--minutes", type=float)
    arguments = parser.parse_args()
    faults_run.PATIENCE = 240.0  # a busy machine is no finding
    stats = RunStats()
    try:
        hunt(arguments.seed, arguments.minutes or 0.0, stats)
    except KeyboardInterrupt:
        print("interrupted")
    print(stats)
    return 1 if stats.broken else 0


if __name__ == "__main__":
    sys.exit(main())
