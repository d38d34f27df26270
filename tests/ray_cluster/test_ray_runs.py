"""``--ray`` through an outage, a limit of cost and of requests, and Ctrl-C; and the same from Python.

Slow: a cluster, and runs of several processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from mixed_rows import check_first_run, check_second_run, hold_down, write_mixed
from ray_processes import actors, end, lines_in_parts, raylet_of, rows_in, wait_until, write_rows
from workers_server import Provider

Start = Callable[..., "subprocess.Popen[bytes]"]

pytestmark = [pytest.mark.slow, pytest.mark.ray]  # a cluster, and runs of several processes


@pytest.fixture
def simulator(quiet_ray: dict[str, str]) -> Iterator[str]:
    """The simulated provider behind a socket: fine for 3 s, down for 12 s, then fine; the first call begins it."""
    command = [sys.executable, "-m", "llmbatch", "sim", "serve", "--port", "0", "--scenario", "outage"]
    with subprocess.Popen(
        command, env=quiet_ray, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()


def to(provider: Provider, cluster: Any, workers: int = 2) -> tuple[str, ...]:
    """The flags of a run of *provider* on *cluster*."""
    at = ("-m", "openai/m", "--base-url", provider.url, "--progress", "plain")
    return (*at, "--ray", cluster.address, "--workers", str(workers))


def test_an_outage_of_the_provider_costs_no_row(tmp_path: Path, cluster: Any, start: Start, simulator: str) -> None:
    """One outage in the summary, though four actors notice it."""
    write_rows(tmp_path / "rows.jsonl", 400)
    flags = ("-m", "openai/m", "--base-url", simulator, "--ray", cluster.address, "--workers", "4", "-c", "16")

    code, out, err = end(start(*flags, "--recovery-timeout", "3", "--json"))

    summary = json.loads(out)
    assert code == 0, err
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, 401))
    assert summary["outages"] == 1
    assert 5.0 < summary["outage_seconds"] < 30.0
    assert [summary["success"], summary["failed"], summary["deferred"]] == [400, 0, 0]


def test_rows_that_an_outage_defers_are_listed_and_sent_later(
    tmp_path: Path, cluster: Any, provider: Provider, start: Start
) -> None:
    """Exit code 75; the shards that were not begun wait too, and the same command sends what is left."""
    write_rows(tmp_path / "rows.jsonl", 400)
    run = start(*to(provider, cluster), "-c", "4", "--on-outage", "defer")
    wait_until(lambda: lines_in_parts(tmp_path) > 20)
    provider.status, before = 503, provider.asked.total()

    code, _, err = end(run)
    asked = provider.asked.total() - before
    done = rows_in(tmp_path / "out.jsonl")
    provider.status = 200
    again, _, errors = end(start(*to(provider, cluster), "-c", "4", "--on-outage", "defer"))

    assert code == 75, err
    assert asked < 40
    assert 20 < done.total() < 400
    assert again == 0, errors
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, 401))


def test_one_signal_lets_requests_finish_in_all_actors(
    tmp_path: Path, cluster: Any, provider: Provider, start: Start
) -> None:
    """Exit code 130; every answer has its line, no actor is left, and the same command goes on."""
    write_rows(tmp_path / "rows.jsonl", 400)
    provider.seconds = 0.2
    run = start(*to(provider, cluster), "-c", "4")
    wait_until(lambda: lines_in_parts(tmp_path) > 20)

    run.send_signal(signal.SIGINT)
    code, _, err = end(run)
    done = rows_in(tmp_path / "out.jsonl")
    asked = provider.asked.copy()
    again, _, errors = end(start(*to(provider, cluster), "-c", "40"))

    assert code == 130, err
    assert "stopping: requests in flight may finish" in err
    assert asked == done
    assert 20 < done.total() < 400
    assert again == 0, errors
    assert provider.asked == rows_in(tmp_path / "out.jsonl") == Counter(range(1, 401))
    raylets = [raylet_of(node) for node in cluster.list_all_nodes()]
    wait_until(lambda: not actors("RowWorker", raylets), 20.0)


def test_a_run_is_stopped_by_drain_and_refuses_to_be_changed(
    tmp_path: Path, cluster: Any, provider: Provider, start: Start
) -> None:
    """Exit code 2, with what to do instead, for what its actors do not take."""

    def say(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "llmbatch", *words, "out.jsonl"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    write_rows(tmp_path / "rows.jsonl", 400)
    run = start(*to(provider, cluster), "-c", "4")
    wait_until(lambda: lines_in_parts(tmp_path) > 20)
    refused = [say("pause"), say("resume"), say("set", "rpm=60")]
    drained = say("drain")
    code, _, err = end(run)

    assert [code for code, _ in refused] == [2, 2, 2]
    assert "a run on Ray takes no pause" in refused[0][1]
    assert all("llmbatch drain stops it, and its command resumes it" in said for _, said in refused)
    assert drained[0] == 0, drained[1]
    assert code == 130, err
    assert provider.asked == rows_in(tmp_path / "out.jsonl")
    assert not (tmp_path / "out.control").exists()


def test_a_mixed_file_in_an_outage_has_one_line_for_each_row(tmp_path: Path, provider: Provider, start: Start) -> None:
    """Good rows, refused ones, malformed ones and an unknown model: each its own code, one probe at a time."""
    write_mixed(tmp_path / "rows.jsonl")
    flags = ("-m", "openai/m", "--base-url", provider.url, "--ray", "local", "--workers", "2", "-c", "6")
    run = start(*flags, "--progress", "plain")
    wait_until(lambda: lines_in_parts(tmp_path) > 60)

    probes, most = hold_down(provider)
    code, _, err = end(run)
    check_first_run(tmp_path, provider, code, err)
    provider.unknown = ""
    code, _, err = end(start(*flags, "--progress", "plain"))

    check_second_run(tmp_path, provider, code, err)
    assert probes > 0
    assert most == 1


def test_rpd_counts_the_requests_of_all_actors_and_of_earlier_runs(
    tmp_path: Path, cluster: Any, provider: Provider, start: Start
) -> None:
    """Ten were sent before, so two actors send the other thirty of the day, and the next run none."""
    write_rows(tmp_path / "rows.jsonl", 100)
    flags = ("--rpd", "40", "-c", "4", "--on-outage", "defer")
    first, _, errors = end(start(*to(provider, cluster), *flags, "-n", "10"))

    second, _, err = end(start(*to(provider, cluster), *flags))
    third, _, said = end(start(*to(provider, cluster), *flags))

    assert (first, second, third) == (0, 75, 75), errors + err + said
    assert "earlier runs on out.jsonl have sent 10 requests of --rpd 40, which count until " in err
    assert "have sent 40 requests of --rpd 40" in said
    assert provider.asked.total() == 40
    assert provider.asked == rows_in(tmp_path / "out.jsonl")


def test_a_signal_while_a_cluster_starts_ends_the_run_at_once(tmp_path: Path, provider: Provider, start: Start) -> None:
    """Nothing was sent, and nothing is left behind."""
    write_rows(tmp_path / "rows.jsonl", 8)
    run = start("-m", "openai/m", "--base-url", provider.url, "--ray", "local", "--workers", "2")
    wait_until(lambda: (tmp_path / "out.jsonl").exists())
    time.sleep(1.0)

    run.send_signal(signal.SIGTERM)
    code, _, err = end(run)

    assert code == 143, err
    assert not provider.asked
    assert not (tmp_path / "out.jsonl").exists()


def test_a_local_cluster_ends_with_its_run(tmp_path: Path, provider: Provider, start: Start) -> None:
    """Also if Ctrl-C comes to all processes of the terminal, Ray's too; its actors have the keys of this process."""
    write_rows(tmp_path / "rows.jsonl", 400)
    provider.seconds = 0.2
    flags = ("-m", "openai/m", "--base-url", provider.url, "--ray", "local", "--workers", "2", "-c", "4")
    run = start(*flags)
    wait_until(lambda: lines_in_parts(tmp_path) > 20)

    os.killpg(run.pid, signal.SIGINT)
    code, _, err = end(run)

    assert code == 130, err
    assert provider.asked == rows_in(tmp_path / "out.jsonl")
    wait_until(lambda: not in_session(run.pid), 30.0)


def in_session(session: int) -> list[str]:
    """What runs in a session: a run starts one, and all that it starts are in it."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, *numbers = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(numbers[2]) == session and state != "Z":
                    found.append((folder / "cmdline").read_bytes().decode(errors="replace"))
            except (OSError, ValueError):
                continue
    return found


def test_the_cap_of_the_cost_is_that_of_all_actors(
    tmp_path: Path, cluster: Any, provider: Provider, start: Start
) -> None:
    """Never exceeded, used but for a little, exit code 4; a higher cap goes on."""
    (tmp_path / "prices.toml").write_text('["openai/m"]\ninput = 100.0\noutput = 200.0\n')  # US$ 0.002 per row
    write_rows(tmp_path / "rows.jsonl", 200)
    flags = (*to(provider, cluster), "-c", "4", "-P", "max_tokens=5", "--prices", "prices.toml", "--json")

    code, _, err = end(start(*flags, "--max-cost", "0.1"))
    spent = sum(
        Decimal(str(json.loads(line)["cost_usd"])) for line in (tmp_path / "out.jsonl").read_text().splitlines()
    )
    again, _, errors = end(start(*flags, "--max-cost", "5"))

    assert code == 4, err
    assert Decimal("0.07") < spent <= Decimal("0.1")
    assert again == 0, errors
    assert rows_in(tmp_path / "out.jsonl") == provider.asked == Counter(range(1, 201))


def test_the_limit_of_requests_is_that_of_all_actors(
    tmp_path: Path, cluster: Any, provider: Provider, start: Start
) -> None:
    """It is booked at the coordinator, whoever sends."""
    write_rows(tmp_path / "rows.jsonl", 100)

    code, out, err = end(start(*to(provider, cluster), "-c", "20", "--rpm", "600", "--json"))

    assert code == 0, err
    assert 8.5 <= json.loads(out)["duration_s"] <= 16.0  # 100 requests at ten per second


def test_a_run_from_python_uses_the_connection_that_is_there(
    tmp_path: Path, cluster: Any, provider: Provider, quiet_ray: dict[str, str]
) -> None:
    """And leaves it; observers get events of the whole run, one that raises is told, what cannot travel is refused."""
    write_rows(tmp_path / "rows.jsonl", 60)
    script = f"""
import asyncio, collections, logging, ray
import llmbatch.runs.ray
from llmbatch import UsageError

def clumsy(event):
    raise RuntimeError("oops")

async def main():
    logging.basicConfig(level=logging.WARNING)
    seen = collections.Counter()
    ray.init({cluster.address!r}, logging_level="ERROR", log_to_driver=False)
    summary = await llmbatch.runs.ray.run("rows.jsonl", "out.jsonl", "openai/m", workers=2, concurrency=4,
        base_url={provider.url!r}, observers=[clumsy, lambda event: seen.update([type(event).__name__])])
    assert summary.exit_code == 0 and summary.success == 60, summary
    assert seen["RunStarted"] == seen["RunEnded"] == 1, seen
    assert ray.is_initialized()
    for wrong in ({{"environ": {{}}}}, {{"model": print}}):
        try:
            await llmbatch.runs.ray.run("rows.jsonl", "other.jsonl", **{{"model": "openai/m", "workers": 2, **wrong}})
        except UsageError as error:
            print(error)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=quiet_ray,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the observer clumsy raised") == 1
    assert "environ belongs to one process" in done.stdout
    assert "needs the name of a model" in done.stdout
    assert rows_in(tmp_path / "out.jsonl") == provider.asked == Counter(range(1, 61))
