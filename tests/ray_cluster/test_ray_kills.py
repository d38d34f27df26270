"""``--ray ADDRESS --workers K`` while a worker, the coordinator, a node and the driver are killed: every row one line.

Slow: a cluster of two nodes, and runs of several processes.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray_processes import actors, end, kill, lines_in_parts, raylet_of, rows_in, wait_until, write_rows
from workers_server import Provider

Start = Callable[..., "subprocess.Popen[bytes]"]

ROWS = 640

pytestmark = [pytest.mark.slow, pytest.mark.ray]  # a cluster, and runs of several processes


@pytest.fixture
def launch(tmp_path: Path, cluster: Any, provider: Provider, start: Start) -> Start:
    """Start a run of all rows by four actors on the cluster, two requests in flight each."""
    write_rows(tmp_path / "rows.jsonl", ROWS)
    provider.seconds = 0.15
    to = ("-m", "openai/m", "--base-url", provider.url, "--ray", cluster.address, "--workers", "4", "-c", "8")
    return lambda *arguments: start(*to, "--progress", "plain", "--json", *arguments)


def raylets(cluster: Any) -> list[int]:
    return [raylet_of(node) for node in cluster.list_all_nodes()]


def assert_all_rows(tmp_path: Path, provider: Provider, *, paid_twice: int) -> None:
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, ROWS + 1))
    assert ROWS <= provider.asked.total() <= ROWS + paid_twice
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_a_killed_worker_is_started_again(tmp_path: Path, cluster: Any, provider: Provider, launch: Start) -> None:
    """Its two requests in flight are resent, every other row is sent once; the numbers are right."""
    run = launch()
    wait_until(lambda: lines_in_parts(tmp_path) > 60)

    kill(next(iter(actors("RowWorker", raylets(cluster)))))
    code, out, err = end(run)

    summary = json.loads(out)
    assert code == 0, err
    assert_all_rows(tmp_path, provider, paid_twice=2)
    assert provider.most_at_once <= 8 + 2
    assert "was killed, and is started again" in err
    assert (summary["rows"], summary["success"], summary["total_rows"]) == (ROWS, ROWS, ROWS)


def test_a_killed_coordinator_costs_no_call(tmp_path: Path, cluster: Any, provider: Provider, launch: Start) -> None:
    """It forgets everything, and comes back by itself; runs do not wait for it."""
    run = launch()
    wait_until(lambda: lines_in_parts(tmp_path) > 60)
    before = list(actors("Coordinator", raylets(cluster)))

    kill(before[0])
    wait_until(lambda: set(actors("Coordinator", raylets(cluster))) - set(before))
    code, _, err = end(run)

    assert code == 0, err
    assert_all_rows(tmp_path, provider, paid_twice=0)


def test_no_actor_is_left_when_a_run_has_ended(tmp_path: Path, cluster: Any, provider: Provider, launch: Start) -> None:
    """Neither a worker nor the coordinator, though that is detached."""
    write_rows(tmp_path / "rows.jsonl", 20)
    code, _, err = end(launch())

    assert code == 0, err
    wait_until(lambda: not actors("RowWorker", raylets(cluster)), 20.0)
    wait_until(lambda: not actors("Coordinator", raylets(cluster)), 20.0)


def test_rows_of_a_killed_node_go_on_elsewhere(tmp_path: Path, cluster: Any, provider: Provider, launch: Start) -> None:
    """With all that runs on it: any node but the head that has a worker."""
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    run = launch()
    wait_until(lambda: lines_in_parts(tmp_path) > 60)
    others = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
    busy = {node: len(actors("RowWorker", [raylet_of(node)])) for node in others}
    node = max(others, key=lambda other: busy[other])

    assert busy[node], "all workers are on the head node"
    cluster.remove_node(node, allow_graceful=False)
    code, _, err = end(run)

    assert code == 0, err
    assert_all_rows(tmp_path, provider, paid_twice=2 * busy[node])


def test_an_outage_with_a_killed_coordinator_is_probed_by_one_again(
    tmp_path: Path, cluster: Any, provider: Provider, launch: Start
) -> None:
    """The circuits are shared before and after; while it is away each worker probes by itself. It is one outage."""
    run = launch("--recovery-timeout", "2")
    wait_until(lambda: lines_in_parts(tmp_path) > 60)
    provider.status, asked = 503, provider.asked.total()
    wait_until(lambda: provider.asked.total() >= asked + 5)
    time.sleep(1.5)
    provider.most_at_once, stopped = 0, provider.asked.total()
    before = list(actors("Coordinator", raylets(cluster)))

    kill(before[0])
    wait_until(lambda: set(actors("Coordinator", raylets(cluster))) - set(before))
    time.sleep(6.0)  # all have found the new one
    while_away, provider.most_at_once = provider.most_at_once, 0
    time.sleep(6.0)
    at_once, probes = provider.most_at_once, provider.asked.total() - stopped
    provider.status = 200
    code, out, err = end(run)

    assert code == 0, err
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, ROWS + 1))
    assert stopped - asked <= 8 + 5 + 8
    assert while_away <= 4
    assert at_once <= 1
    assert 1 <= probes <= 30
    assert json.loads(out)["outages"] == 1


def test_the_same_command_goes_on_after_the_driver_was_killed(
    tmp_path: Path, cluster: Any, provider: Provider, launch: Start
) -> None:
    """Its actors end with it; what they have written is neither lost nor sent again."""
    run = launch()
    wait_until(lambda: lines_in_parts(tmp_path) > 100)
    run.kill()
    run.wait()
    wait_until(lambda: not actors("RowWorker", raylets(cluster)), 60.0)
    done = rows_in(*(tmp_path / "out.jsonl.parts").glob("part-*-of-?????.jsonl"))
    before = provider.asked.copy()

    code, _, err = end(launch())

    assert code == 0, err
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, ROWS + 1))
    assert not [row for row in done if provider.asked[row] != before[row]]
