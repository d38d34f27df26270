"""``--workers N``: one run by several processes, whatever becomes of any of them.

Slow: every run starts several interpreters.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from mixed_rows import check_first_run, check_second_run, hold_down, write_mixed
from workers_server import UNKNOWN_MODEL, Provider

Start = Callable[..., "subprocess.Popen[bytes]"]

pytestmark = [
    pytest.mark.traced,
    pytest.mark.slow,  # every run starts several interpreters
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a run in /proc"),
]


def write(path: Path, numbers: Iterable[int], *, bad: Iterable[int] = ()) -> None:
    wrong = set(bad)
    path.write_text("".join(f'{{"prompt":"row {n}{" bad" if n in wrong else ""}"}}\n' for n in numbers))


def rows_in(*paths: Path) -> Counter[int]:
    return Counter(json.loads(line)["row"] for path in paths for line in path.read_text().splitlines())


def end(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out.decode(), err.decode()


def children(process: subprocess.Popen[bytes]) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def lines_in_parts(folder: Path) -> int:
    parts = (folder / "out.jsonl.parts").glob("part-*-of-?????.jsonl")
    return sum(part.read_bytes().count(b"\n") for part in parts)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    write(path, range(1, 301))
    return path


def test_all_rows_are_in_one_output_with_one_summary(
    tmp_path: Path, rows: Path, start: Start, provider: Provider
) -> None:
    """Each is sent once, by one of three processes; the limit of requests in flight is that of all; no part is left."""
    write(rows, range(1, 301), bad=(7, 8))
    code, out, err = end(start("--workers", "3", "-c", "7", "--json", "--progress", "plain"))

    summary = json.loads(out)
    assert code == 1, err
    assert provider.asked == Counter(range(1, 301))
    assert provider.most_at_once <= 7
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, 301))
    assert {name: summary[name] for name in ("rows", "success", "failed", "total_rows", "calls", "exit_code")} == {
        "rows": 300, "success": 298, "failed": 2, "total_rows": 300, "calls": 300, "exit_code": 1
    }  # fmt: skip
    assert summary["input_tokens"] == 298 * 10
    assert summary["failures_by_code"] == {"context_length_exceeded": 2}
    assert [route["success"] for route in summary["routes"]] == [298]
    assert not (tmp_path / "out.jsonl.parts").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".out.jsonl.status.json", "home", "out.events.jsonl", "out.jsonl", "rows.jsonl"
    ]  # fmt: skip
    assert err.count("300 rows: 298 success, 2 failed") == 1
    assert "sk-secret" not in out + err


def test_a_killed_process_is_started_again(tmp_path: Path, rows: Path, start: Start, provider: Provider) -> None:
    """Its rows in flight are sent again, all others once; the display says so, and the numbers are right."""
    process = start("--workers", "3", "-c", "6", "--json", "--progress", "plain")
    wait_until(lambda: lines_in_parts(tmp_path) > 40)

    os.kill(children(process)[1], signal.SIGKILL)
    code, out, err = end(process)

    summary = json.loads(out)
    assert code == 0, err
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, 301))
    assert "was killed by signal 9, and is started again" in err
    assert 300 <= provider.asked.total() <= 302
    assert (summary["rows"], summary["success"], summary["total_rows"]) == (300, 300, 300)


def test_a_mixed_file_in_an_outage_has_one_line_for_each_row(tmp_path: Path, start: Start, provider: Provider) -> None:
    """Good rows, refused ones, malformed ones and an unknown model: each its own code, one probe at a time."""
    write_mixed(tmp_path / "rows.jsonl")
    flags = ("--workers", "3", "-c", "6", "--progress", "plain")
    process = start(*flags)
    wait_until(lambda: lines_in_parts(tmp_path) > 60)

    probes, most = hold_down(provider)
    code, _, err = end(process)
    check_first_run(tmp_path, provider, code, err)
    provider.unknown = ""
    code, _, err = end(start(*flags))

    check_second_run(tmp_path, provider, code, err)
    assert probes > 0
    assert most == 1


def test_a_model_that_is_refused_to_a_fast_process_stops_no_other(
    tmp_path: Path, start: Start, provider: Provider
) -> None:
    """Exit code 3, as of one process, and every row of the other model has its line."""
    prompts = [{"prompt": f"row {n}{'' if n % 3 == 1 else ' slow'}"} for n in range(1, 61)]
    prompts[0]["model"] = UNKNOWN_MODEL
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))

    code, _, err = end(start("--workers", "3", "-c", "3", "--progress", "plain"))

    assert code == 3, err
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(2, 61))


def test_rpd_counts_the_requests_of_all_processes_and_of_earlier_runs(
    tmp_path: Path, rows: Path, start: Start, provider: Provider
) -> None:
    """Ten were sent before, so three processes send the other thirty of the day; one is killed and sends no more."""
    flags = ("--rpd", "40", "-c", "3", "--progress", "plain", "--on-outage", "defer")
    first, _, _ = end(start(*flags, "-n", "10"))
    provider.seconds = 0.6
    process = start(*flags, "--workers", "3")
    wait_until(lambda: lines_in_parts(tmp_path) > 12)
    time.sleep(0.3)

    os.kill(children(process)[1], signal.SIGKILL)
    second, _, err = end(process)
    third, _, errors = end(start(*flags, "--workers", "2"))

    assert (first, second, third) == (0, 75, 75), err + errors
    assert "earlier runs on out.jsonl have sent 10 requests of --rpd 40, which count until " in err
    assert "is started again" in err
    assert 40 <= provider.asked.total() <= 41  # what was sent after the killed process last told
    assert "requests of --rpd 40" in errors


@pytest.mark.parametrize("again", [pytest.param(("--workers", "2"), marks=pytest.mark.long), ("--workers", "4"), ()])
def test_after_a_kill_of_all_any_number_of_processes_goes_on(
    tmp_path: Path, rows: Path, start: Start, provider: Provider, again: tuple[str, ...]
) -> None:
    """Of a killed parent the processes end by themselves; what they have finished is neither lost nor sent again."""
    process = start("--workers", "2", "-c", "6", "-q")
    wait_until(lambda: lines_in_parts(tmp_path) > 60)
    own = children(process)

    process.kill()
    process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in own))
    done = rows_in(*(tmp_path / "out.jsonl.parts").glob("part-*-of-?????.jsonl"))
    status = subprocess.run(
        [sys.executable, "-m", "llmbatch", "status", "out.jsonl", "--json"],
        cwd=tmp_path, capture_output=True, check=True,
    )  # fmt: skip
    before = provider.asked.copy()
    code, _, err = end(start(*again, "-c", "6", "-q"))

    assert code == 0, err
    assert json.loads(status.stdout)["rows"] == done.total() >= 60
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, 301))
    assert not [row for row in done if provider.asked[row] != before[row]]
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_an_output_that_is_deleted_while_processes_write_their_parts_loses_nothing(
    tmp_path: Path, rows: Path, start: Start, provider: Provider
) -> None:
    """It was an internal error; the parts are there, and the same command takes them in."""
    process = start("--workers", "2", "-c", "6", "-q")
    wait_until(lambda: lines_in_parts(tmp_path) > 20)

    (tmp_path / "out.jsonl").unlink()
    code, _, err = end(process)
    again, _, _ = end(start("--workers", "2", "-c", "6", "-q"))

    assert code == 74, err
    assert "out.jsonl: was deleted while the run was writing it" in err
    assert "internal error" not in err
    assert again == 0
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, 301))
    assert provider.asked == Counter(range(1, 301))


def test_one_signal_lets_requests_finish_in_all_processes(
    tmp_path: Path, rows: Path, start: Start, provider: Provider
) -> None:
    """Exit code 130, one message, every answer has its line, and the same command goes on."""
    process = start("--workers", "2", "-c", "6", "--progress", "plain", "--json")
    wait_until(lambda: lines_in_parts(tmp_path) > 40)

    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    first = rows_in(tmp_path / "out.jsonl")
    again, _, errors = end(start("--workers", "2", "-q"))

    assert code == 130, err
    assert err.count("requests in flight may finish (30 s at most)") == 1
    assert "Traceback" not in err
    assert first == provider.asked - (provider.asked - first)
    assert json.loads(out)["rows"] == first.total() < 300
    assert again == 0, errors
    assert rows_in(tmp_path / "out.jsonl") == provider.asked == Counter(range(1, 301))


def test_a_second_signal_stops_all_processes_at_once(
    tmp_path: Path, rows: Path, start: Start, provider: Provider
) -> None:
    """Though no request is answered."""
    process = start("--workers", "2", "-c", "4", "--progress", "plain")
    wait_until(lambda: lines_in_parts(tmp_path) > 20)
    provider.seconds = 600.0
    asked = provider.asked.total()
    wait_until(lambda: provider.asked.total() >= asked + 1)

    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    code, _, err = end(process)

    assert code == 143, err
    assert "stopping at once; the same command resumes" in err
    assert 20 <= rows_in(tmp_path / "out.jsonl").total() < 300
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_failed_rows_are_sent_again_by_several_processes(
    tmp_path: Path, rows: Path, start: Start, provider: Provider
) -> None:
    """And nothing else is; then nothing is left to do, and no process is started."""
    write(rows, range(1, 301), bad=(5, 6, 7, 8))
    end(start("-q"))
    provider.asked.clear()

    code, out, err = end(start("--workers", "2", "--retry-failed", "-q", "--json"))
    nothing = end(start("--workers", "2", "-q", "--json"))

    assert (code, provider.asked) == (1, Counter((5, 6, 7, 8))), err
    assert (json.loads(out)["rows"], json.loads(out)["failed"]) == (300, 4)
    assert nothing[0] == 1
    assert json.loads(nothing[1])["calls"] == 0


def test_starting_afresh_drops_all_lines(tmp_path: Path, rows: Path, start: Start, provider: Provider) -> None:
    """Those of the output and those of parts that a kill has left; a limit is that of all processes."""
    end(start("-q", "-n", "50"))
    parts = tmp_path / "out.jsonl.parts"
    parts.mkdir()
    (parts / "part-00001-of-00002.jsonl").write_text((tmp_path / "out.jsonl").read_text())

    code, _, err = end(start("--workers", "2", "--overwrite", "-n", "20", "-q"))

    assert code == 0, err
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, 21))
    assert not parts.exists()


def test_a_refused_key_stops_all_with_one_message(tmp_path: Path, rows: Path, start: Start, provider: Provider) -> None:
    """Exit code 3, as of one process; nothing is marked as failed."""
    provider.status = 401

    code, _, err = end(start("--workers", "2", "--progress", "plain"))

    assert code == 3, err
    assert err.count("reason ") + err.count("error:") <= 2
    assert not (tmp_path / "out.jsonl").exists() or not (tmp_path / "out.jsonl").read_text()
    assert "sk-secret" not in err


def test_an_outage_is_one_outage(tmp_path: Path, rows: Path, start: Start, provider: Provider) -> None:
    """Every process notices it; the summary, the status and the report tell of one."""
    process = start("--workers", "3", "-c", "9", "--json", "--progress", "plain", "--recovery-timeout", "1")
    wait_until(lambda: lines_in_parts(tmp_path) > 30)
    provider.status = 503
    asked = provider.asked.total()
    wait_until(lambda: provider.asked.total() > asked + 40)
    time.sleep(2.0)
    provider.status = 200
    code, out, err = end(process)

    summary = json.loads(out)
    assert code == 0, err
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, 301))
    assert summary["outages"] == 1
    assert 1.0 < summary["outage_seconds"] < 60.0
    status = subprocess.run(
        [sys.executable, "-m", "llmbatch", "status", "out.jsonl", "--json"],
        cwd=tmp_path, capture_output=True, check=True,
    )  # fmt: skip
    assert len(json.loads(status.stdout)["outages"]) == 1


def test_fewer_rows_than_processes_are_nothing_to_warn_of(tmp_path: Path, rows: Path, start: Start) -> None:
    """It was "no rows in rows.jsonl for shard 3/3", though nobody had asked for a shard."""
    code, _, err = end(start("--workers", "3", "-n", "2", "--progress", "plain"))

    assert code == 0, err
    assert rows_in(tmp_path / "out.jsonl") == Counter((1, 2))
    assert "warning" not in err
    assert "shard" not in err


def test_rows_of_a_table_become_prompts_in_every_process(tmp_path: Path, start: Start, provider: Provider) -> None:
    """With a template, and what is kept."""
    (tmp_path / "rows.csv").write_text("n,label\n" + "".join(f"{n},l{n}\n" for n in range(1, 41)))

    arguments = ("--workers", "2", "-t", "row {{ n }}", "--keep", "label", "-q")
    code, _, err = end(start(*arguments, rows="rows.csv"))

    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert code == 0, err
    assert provider.asked == Counter(range(1, 41))
    assert {line["row"]: line["metadata"]["label"] for line in lines} == {n: f"l{n}" for n in range(1, 41)}


def test_the_cap_of_the_cost_is_that_of_all_processes(
    tmp_path: Path, rows: Path, start: Start, provider: Provider
) -> None:
    """Never exceeded, used but for what one more row could cost, exit code 4; a higher cap goes on."""
    (tmp_path / "prices.toml").write_text('["openai/m"]\ninput = 100.0\noutput = 200.0\n')  # US$ 0.002 per row
    write(rows, range(1, 201))
    arguments = ("--workers", "2", "-c", "6", "-P", "max_tokens=5", "--prices", "prices.toml", "-q", "--json")

    code, out, err = end(start(*arguments, "--max-cost", "0.1"))
    first = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    again, _, errors = end(start(*arguments, "--max-cost", "5"))

    spent = sum(line["cost_usd"] for line in first)
    assert code == 4, err
    assert "--max-cost 0.1 is reached by the processes together: the next request could cost US$ 0.00" in err
    assert 0.07 < spent <= 0.1
    assert (json.loads(out)["rows"], json.loads(out)["calls"]) == (len(first), len(first))
    assert again == 0, errors
    assert rows_in(tmp_path / "out.jsonl") == provider.asked == Counter(range(1, 201))


def test_sigusr1_tells_the_status_of_all_processes_and_the_run_goes_on(
    tmp_path: Path, rows: Path, start: Start, provider: Provider
) -> None:
    """As of a run of one process; the signal ends nothing."""
    write(rows, range(1, 41))
    run = start("--workers", "2", "--rpm", "600", "--progress", "plain")
    wait_until(lambda: provider.asked)

    os.kill(run.pid, signal.SIGUSR1)
    code, _, err = end(run)

    assert code == 0, err
    assert "of 40 rows" in err
    assert f"process     {run.pid}" in err
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, 41))
