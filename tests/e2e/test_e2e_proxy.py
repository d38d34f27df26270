"""An HTTP proxy, for those who ask for one."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_recorder import Recorder

from llmbatch import BatchRunner, UsageError

pytestmark = pytest.mark.slow  # a process each

TARGET = "http://provider.invalid/v1"
PASSWORD = "p%40ss-canary-7Zq"


@pytest.fixture
def proxy() -> Iterator[Recorder]:
    """Told an absolute URL, it answers in the target's place."""
    recorder = Recorder()
    yield recorder
    recorder.close()


def run(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    (folder / "in.jsonl").write_text('{"prompt":"hi"}\n')
    return subprocess.run(
        [sys.executable, "-m", "llmbatch", "run", "in.jsonl", "-o", "o.jsonl", "-m", "openai/m", *words, "-vv"],
        cwd=folder,
        env=os.environ | {"OPENAI_API_KEY": "sk-canary-7Zq9"} | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_every_request_goes_through_the_proxy_that_is_asked_for(tmp_path: Path, proxy: Recorder) -> None:
    """With its user and password in the header that is meant for it, and nowhere else."""
    url = proxy.origin.replace("http://", f"http://me:{PASSWORD}@")

    ended = run(tmp_path, "--base-url", TARGET, LLMBATCH_PROXY=url)

    assert ended.returncode == 0, ended.stderr
    [arrival] = proxy.arrivals
    assert arrival.path == TARGET + "/chat/completions"
    name, _, told = arrival.headers["proxy-authorization"].partition(" ")
    assert (name, base64.b64decode(told)) == ("Basic", b"me:p@ss-canary-7Zq")
    left = "".join(path.read_text() for path in tmp_path.iterdir()) + ended.stdout + ended.stderr
    assert "canary" not in left


def test_a_proxy_that_is_down_is_waited_for_and_named(tmp_path: Path, proxy: Recorder) -> None:
    """As any outage: no row fails by it."""
    proxy.close()

    ended = run(tmp_path, "--base-url", TARGET, "--proxy", proxy.origin, "--max-outage", "0.3")

    assert ended.returncode == 75, ended.stderr
    assert f"connection refused by the proxy {proxy.origin.removeprefix('http://')}" in ended.stderr
    assert not (tmp_path / "o.jsonl").exists()


def test_a_proxy_that_refuses_a_tunnel_is_named(tmp_path: Path, proxy: Recorder) -> None:
    """To an https provider it only passes bytes on, if it will."""
    proxy.respond = lambda arrival: (407, b"")

    ended = run(tmp_path, "--base-url", "https://provider.invalid/v1", "--proxy", proxy.origin, "--max-outage", "0.3")

    assert ended.returncode == 75, ended.stderr
    assert "the proxy refused a connection to provider.invalid:443 (status 407)" in ended.stderr


def test_a_password_on_the_command_line_is_refused_and_not_shown(tmp_path: Path, proxy: Recorder) -> None:
    """Everybody on the machine would see it."""
    ended = run(tmp_path, "--base-url", TARGET, "--proxy", f"http://me:{PASSWORD}@127.0.0.1:1")

    assert ended.returncode == 2
    assert "LLMBATCH_PROXY" in ended.stderr
    assert "canary" not in ended.stderr + ended.stdout


@pytest.mark.parametrize(
    "url", ["", "localhost:3128", "socks5://localhost:1", "http://", "http://me:secret@a b/", "http://x:99999"]
)
def test_what_is_no_proxy_is_refused(url: str) -> None:
    """At once, and without showing what may be a password."""
    with pytest.raises(UsageError, match="proxy") as caught:
        BatchRunner("openai/m", proxy=url)

    assert "secret" not in caught.value.message
