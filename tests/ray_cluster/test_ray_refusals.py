"""What a run on Ray cannot do is refused with exit code 2, and nothing is sent.

Slow: a cluster, and a process per run.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_processes import actors, end, raylet_of, rows_in, wait_until, write_rows
from workers_server import Provider

Start = Callable[..., "subprocess.Popen[bytes]"]

pytestmark = [pytest.mark.slow, pytest.mark.ray]  # a cluster, and a process per run


@pytest.fixture
def run(tmp_path: Path, provider: Provider, start: Start) -> Iterator[Callable[..., str]]:
    """Start a run that must be refused; gives what it says."""
    write_rows(tmp_path / "rows.jsonl", 8)

    def refused(*arguments: str, before: tuple[str, ...] = (), **variables: str) -> str:
        process = start("-m", "openai/m", "--base-url", provider.url, *arguments, before=before, **variables)
        code, out, err = end(process)
        assert code == 2, err
        assert not out
        assert "Traceback" not in err
        return err

    yield refused
    assert not provider.asked
    assert not (tmp_path / "out.jsonl").exists()
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_where_nothing_listens_there_is_no_cluster(run: Callable[..., str]) -> None:
    """At once, where Ray would try for minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = run("--ray", f"127.0.0.1:{port}", "--workers", "2")

    assert f"--ray 127.0.0.1:{port}: no Ray cluster can be reached there (connection refused)" in said
    assert "ray status" in said


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "http://127.0.0.1:80"])
def test_what_is_no_address_is_refused(run: Callable[..., str], address: str) -> None:
    """With the forms that are."""
    assert f"--ray '{address}' is not the address of a Ray cluster" in run("--ray", address, "--workers", "2")


def test_auto_without_a_cluster_is_refused(run: Callable[..., str], tmp_path: Path) -> None:
    """It starts none by itself."""
    said = run("--ray", "auto", "--workers", "2", RAY_TMPDIR=str(tmp_path))

    assert "--ray auto: no Ray cluster can be reached" in said
    assert "local to start one here" in said


def test_a_cluster_of_another_version_is_refused(run: Callable[..., str], cluster: Any) -> None:
    """By the versions that the cluster has noted of itself; Ray compares them."""
    import ray
    from ray._private import gcs_utils  # noqa: F401 - the key-value store needs it
    from ray.experimental import internal_kv

    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    key, namespace = b"CLUSTER_METADATA", b"cluster"
    try:
        noted = internal_kv._internal_kv_get(key, namespace=namespace)
        assert noted is not None
        internal_kv._internal_kv_put(
            key, noted.replace(ray.__version__.encode(), b"2.1.0"), overwrite=True, namespace=namespace
        )
        try:
            said = run("--ray", cluster.address, "--workers", "2")
        finally:
            internal_kv._internal_kv_put(key, noted, overwrite=True, namespace=namespace)
    finally:
        ray.shutdown()

    assert "the cluster has Ray 2.1.0 on Python 3." in said
    assert "pip install 'ray==2.1.0'" in said


def test_an_output_that_the_actors_do_not_see_is_refused(tmp_path: Path, run: Callable[..., str], cluster: Any) -> None:
    """As on a disk of the driver's own: here a folder that its process alone has mounted."""
    own = tmp_path / "own"
    own.mkdir()
    mount = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none own && exec "$@"', "sh")
    if subprocess.run([*mount, "true"], cwd=tmp_path, check=False, capture_output=True).returncode:
        pytest.skip("a process may not have mounts of its own here")

    said = run("-o", str(own / "out.jsonl"), "--ray", cluster.address, "--workers", "2", before=mount)

    assert f"does not see the folder {own}/out.jsonl.parts" in said
    assert "a file system that all nodes see" in said


def test_a_key_that_the_nodes_lack_is_named(run: Callable[..., str], cluster: Any) -> None:
    """That this machine has it does not help: keys do not travel."""
    said = run(
        "--api-key-env", "ONLY_HERE_KEY", "--ray", cluster.address, "--workers", "2", ONLY_HERE_KEY="sk-here-1234567"
    )

    assert "no API key: ONLY_HERE_KEY is not set" in said
    assert "sk-here" not in said


def test_a_key_that_the_nodes_alone_have_is_enough(
    tmp_path: Path, cluster: Any, provider: Provider, start: Start
) -> None:
    """And it is in no file of Ray's."""
    write_rows(tmp_path / "rows.jsonl", 8)

    process = start(
        *("-m", "openai/m", "--base-url", provider.url, "--ray", cluster.address, "--workers", "2"), OPENAI_API_KEY=""
    )
    code, _, err = end(process)

    assert code == 0, err
    assert rows_in(tmp_path / "out.jsonl") == Counter(range(1, 9))
    session = Path(cluster.head_node.get_session_dir_path())
    texts = [path for path in session.rglob("*") if path.is_file() and not path.is_socket()]
    assert len(texts) > 5
    assert not [path for path in texts if b"sk-canary" in path.read_bytes()]
    raylets = [raylet_of(node) for node in cluster.list_all_nodes()]
    wait_until(lambda: not actors("RowWorker", raylets), 20.0)
    assert os.environ["OPENAI_API_KEY"].startswith("sk-canary")
