"""Fallbacks, pools and the cache over real sockets and in real processes, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RUN = [sys.executable, "-m", "llmbatch", "run"]
Here = Callable[..., subprocess.CompletedProcess[str]]


def write(folder: Path, rows: int) -> None:
    (folder / "in.jsonl").write_text("".join(f'{{"prompt":"row {number}"}}\n' for number in range(1, rows + 1)))


def run(folder: Path, *words: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [*RUN, "in.jsonl", *words],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    return ended


def lines(folder: Path) -> list[dict[str, object]]:
    found = [json.loads(line) for line in (folder / "in.results.jsonl").read_text().splitlines()]
    assert max(Counter(line["row"] for line in found).values()) == 1
    return found


@pytest.mark.slow  # an outage of twelve seconds
def test_the_second_example_of_the_readme_goes_through_its_outage(tmp_path: Path) -> None:
    """``-c auto --fallback``: every row succeeds, the rows of the outage at the fallback, within its length."""
    shown = re.search(
        r"^\.venv/bin/llmbatch (run examples/outage\.jsonl .*--fallback.*)$", (ROOT / "README.md").read_text(), re.M
    )
    assert shown is not None
    words = shlex.split(shown[1].replace('"$(mktemp -d)/results.jsonl"', str(tmp_path / "results.jsonl")))
    assert "-c auto" in shown[1]

    begun = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "llmbatch", *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    assert ended.returncode == 0, ended.stderr
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert Counter(line["status"] for line in results) == {"success": 600}
    routes = Counter(line["model"] for line in results)
    assert min(routes["sim/outage"], routes["sim/steady"]) > 50
    assert time.monotonic() - begun < 60


@pytest.mark.slow  # a process is killed and another one goes on
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_run_with_a_fallback_goes_on_with_the_same_command(tmp_path: Path) -> None:
    """Lines of both routes are accepted, no row has two."""
    write(tmp_path, 400)
    words = ("-m", "sim/outage", "--fallback", "sim/steady", "-c", "10", "--progress", "none")
    output = tmp_path / "in.results.jsonl"
    with subprocess.Popen([*RUN, "in.jsonl", *words], cwd=tmp_path, stderr=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (output.exists() and b'"route"' in output.read_bytes()):
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)

    run(tmp_path, *words)

    results = lines(tmp_path)
    assert Counter(line["status"] for line in results) == {"success": 400}
    assert {line.get("route") for line in results} == {None, "sim/steady"}


@pytest.mark.slow  # processes
def test_a_refused_key_is_told_once_and_its_rows_go_to_the_fallback(tmp_path: Path) -> None:
    """Exit 0; the warning names the fallback."""
    write(tmp_path, 100)

    ended = run(tmp_path, "-m", "sim/bad-key", "--fallback", "sim/steady", "--progress", "plain")

    assert ended.stderr.count("its rows go to sim/steady") == 1
    assert {line["model"] for line in lines(tmp_path)} == {"sim/steady"}


@pytest.mark.slow  # processes
def test_a_pool_of_a_configuration_file_answers_by_weight(tmp_path: Path) -> None:
    """Its lines name the routes; ``status`` has them; resuming accepts them."""
    write(tmp_path, 200)
    (tmp_path / "llmbatch.toml").write_text(
        'model = "pool/cheap"\n[pools.cheap]\nroutes = [{model = "sim/small", weight = 3}, {model = "sim/large"}]\n'
    )

    run(tmp_path)
    run(tmp_path)

    routes = Counter(line["route"] for line in lines(tmp_path))
    assert routes == {"sim/small": 150, "sim/large": 50}
    status = subprocess.run(
        [sys.executable, "-m", "llmbatch", "status", "in.results.jsonl", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {route["route"]: route["rows"] for route in json.loads(status.stdout)["routes"]} == routes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-m", "sim/steady", "--fallback", "sim/steady"), "is the model itself"),
        (("-m", "sim/steady", "--fallback", "gpt-5"), "names no known provider"),
        (("-m", "sim/steady", "--fallback", "openai/gpt-5"), "OPENAI_API_KEY is not set"),
        (("-m", "sim/steady", "--fallback", "pool/x"), "there is no such pool"),
        (("-m", "sim/steady", "--fallback", "sim/large", "--fallback", "sim/large"), "given twice"),
        (("-m", "pool/x"), "there is no such pool"),
        (("-m", "pool/p", "--base-url", "http://127.0.0.1:1/v1"), "contradict each other"),
        (("-m", "pool/keyless"), "NO_SUCH_KEY is not set"),
        (("-m", "sim/steady", "--cache", "in.jsonl"), "--cache in.jsonl is the input too"),
        (("-m", "sim/steady", "--cache", "c.toml"), "the cache cannot be used"),
        (("-m", "sim/steady", "--rpd", "0"), "--rpd is '0', must be"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_meant_is_refused_before_anything_is_sent(
    tmp_path: Path, command_here: Here, words: tuple[str, ...], said: str
) -> None:
    """Exit 2, with what is wrong; there is no output."""
    write(tmp_path, 5)
    (tmp_path / "c.toml").write_text(
        '[pools.p]\nroutes = [{model = "sim/small"}]\n'
        '[pools.keyless]\nroutes = [{model = "openai/m", api_key_env = "NO_SUCH_KEY"}]\n'
    )

    environ = {**os.environ, "OPENAI_API_KEY": ""}
    ended = command_here(tmp_path, environ, "run", "in.jsonl", *words, "--config", "c.toml")

    assert ended.returncode == 2
    assert said in ended.stderr
    assert "hint: " in ended.stderr
    assert not (tmp_path / "in.results.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pools.p]\nroutes = []", "has no routes"),
        ("[pools.p]\nroutes = [{weight = 1}]", "names no model"),
        ('[pools.p]\nroutes = [{model = "sim/small", weight = 0}]', "must be a number above 0"),
        ('[pools.p]\nroutes = [{model = "sim/small", wieght = 1}]', "did you mean weight?"),
        ('[pools.p]\nroutes = [{model = "sim/small", rpm = "many"}]', "must be a number above 0"),
        ("[pools.p]\nmembers = []", "a pool has routes alone"),
        ('pools = "p"', "is not a table of pools"),
        ('[pools.p]\nroutes = ["sim/small"]', "is not a table"),
    ],
)
def test_a_pool_that_is_none_is_refused_with_its_place(
    tmp_path: Path, command_here: Here, text: str, said: str
) -> None:
    """File and key are named."""
    write(tmp_path, 5)
    (tmp_path / "c.toml").write_text(text)

    ended = command_here(tmp_path, os.environ, "run", "in.jsonl", "-m", "pool/p", "--config", "c.toml")

    assert ended.returncode == 2
    assert said in ended.stderr
    assert "c.toml: pools" in ended.stderr


@pytest.mark.slow  # starts processes
def test_a_configuration_that_came_with_a_folder_leads_no_key_elsewhere(tmp_path: Path) -> None:
    """Its pools with another host or key do not count, and that is said; one on this machine does."""
    write(tmp_path, 5)
    (tmp_path / "llmbatch.toml").write_text(
        '[pools.far]\nroutes = [{model = "m", base_url = "https://elsewhere.example/v1"}]\n'
        '[pools.key]\nroutes = [{model = "openai/m", api_key_env = "AWS_SECRET_ACCESS_KEY"}]\n'
    )

    for pool in ("far", "key"):
        ended = run(tmp_path, "-m", f"pool/{pool}", code=2, AWS_SECRET_ACCESS_KEY="secret-value")
        assert "pools.far, pools.key, which is ignored" in ended.stderr
        assert "secret-value" not in ended.stderr


@pytest.mark.slow  # processes
def test_two_runs_at_once_share_a_cache(tmp_path: Path) -> None:
    """Both end well, and a third one sends nothing."""
    write(tmp_path, 200)
    words = ("-m", "sim/steady", "--cache", "c.db", "--progress", "none")
    both = [
        subprocess.Popen([*RUN, "in.jsonl", *words, "-o", name], cwd=tmp_path, stderr=subprocess.DEVNULL)
        for name in ("a.jsonl", "b.jsonl")
    ]

    assert [one.wait(60) for one in both] == [0, 0]
    run(tmp_path, *words)
    assert all(line["cached"] is True and line["attempts"] == 0 for line in lines(tmp_path))
