"""``--shared`` at the command line and in the library: what is refused before anything is sent, and what is told."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from e2e_hostile import HostileServer, Outage, error
from store_server import StoreServer

from llmbatch import BatchRunner
from llmbatch.core.errors import UsageError
from llmbatch.core.events import CallSent, CircuitChanged, Event, Notice

ROWS = "".join(json.dumps({"prompt": f"row {number}"}) + "\n" for number in range(1, 21))


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(command_here: Command) -> Command:
    """``run(folder, *options, **environ)`` runs the rows of a folder of its own, within this process."""

    def run_rows(folder: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
        (folder / "in.jsonl").write_text(ROWS)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("LLMBATCH_")}
        return command_here(folder, {**kept, **environ}, "run", "in.jsonl", "-m", "sim/steady", *options)

    return run_rows


@pytest.fixture
def check(run: Command) -> Command:
    """``llmbatch check`` with these options."""
    return functools.partial(_check, run)


def _check(run: Command, folder: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "--dry-run", *options, **environ)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("localhost:6379", "--shared is 'localhost:6379', must be redis://HOST:PORT/0"),
        ("http://me:geheim@localhost", "--shared is 'http://…@localhost', must be redis://HOST:PORT/0"),
        ("env:NO_SUCH", "the environment variable NO_SUCH holds no address"),
        ("redis://:$NO_SUCH@localhost", "the environment variable NO_SUCH is not set"),
    ],
)
def test_wrong_addresses_are_refused_before_anything_is_sent(
    tmp_path: Path, run: Command, address: str, words: str
) -> None:
    ended = run(tmp_path, "--shared", address)

    assert ended.returncode == 2
    assert words in ended.stderr
    assert "geheim" not in ended.stderr
    assert not (tmp_path / "in.results.jsonl").exists()


@pytest.mark.slow  # starts processes
def test_a_server_that_is_no_store_is_refused_before_anything_is_sent(
    tmp_path: Path, run: Command, check: Command
) -> None:
    """By the run and by its check, with what to do."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"redis://127.0.0.1:{server.server_address[1]}/0"

    ended, checked = run(tmp_path, "--shared", url), check(tmp_path, "--shared", url)
    server.shutdown()
    server.server_close()

    for done in (ended, checked):
        assert done.returncode == 2
        assert f"error: --shared: {url} is no Redis or Valkey server: it answers b'<!DOCTYPE HTML" in done.stderr
        assert "hint: check the host and the port" in done.stderr
    assert not (tmp_path / "in.results.jsonl").exists()


@pytest.mark.slow  # starts processes
def test_a_check_says_what_store_it_has_found(tmp_path: Path, check: Command) -> None:
    """Its name and version, and nothing is left in it; a run's refusals are the check's too."""
    with StoreServer(tmp_path) as server:
        found = check(tmp_path, "--shared", server.url)
        as_json = check(tmp_path, "--shared", server.url, "--json")
        keys = server.client().keys("*")
        version = server.client().info("server")
    with StoreServer(tmp_path, "--requirepass", "geheim") as server:
        url = f"redis://:$STORE_PASSWORD@127.0.0.1:{server.port}/0"
        wrong = check(tmp_path, "--shared", url, STORE_PASSWORD="falsch")
        right = check(tmp_path, "--shared", url, STORE_PASSWORD="geheim")

    name = f"Valkey {version['valkey_version']}" if "valkey_version" in version else f"Redis {version['redis_version']}"
    assert found.returncode == 0, found.stderr
    assert f"shared store  redis://127.0.0.1:{json.loads(as_json.stdout)['shared']['address'][18:-2]}" in found.stdout
    assert f"/0, {name}\n" in found.stdout
    assert json.loads(as_json.stdout)["shared"] | {"address": ""} == {"address": "", "server": name, "away": None}
    assert keys == []
    assert wrong.returncode == 2
    assert "refuses the password or the user" in wrong.stderr or "wants a password" in wrong.stderr
    assert right.returncode == 0
    assert "falsch" not in wrong.stderr + wrong.stdout
    assert "geheim" not in right.stderr + right.stdout


def test_a_check_says_that_a_store_is_away(tmp_path: Path, check: Command) -> None:
    """Which refuses nothing: a run goes on without it."""
    ended = check(tmp_path, "--shared", "redis://127.0.0.1:1")

    assert ended.returncode == 0, ended.stderr
    assert "shared store  redis://127.0.0.1:1 cannot be reached (" in ended.stdout


@pytest.mark.slow  # two starts of Python with the client of the store
def test_a_store_with_a_password_is_refused_without_it_and_used_with_it(tmp_path: Path, run: Command) -> None:
    with StoreServer(tmp_path, "--requirepass", "geheim") as server:
        refused = run(tmp_path, "--shared", server.url)
        sent_nothing = not (tmp_path / "in.results.jsonl").exists()
        done = run(
            tmp_path, "--shared", "env:STORE_URL", STORE_URL=f"redis://:geheim@127.0.0.1:{server.port}/0?name=job"
        )

    assert (refused.returncode, sent_nothing) == (2, True)
    assert "wants a password" in refused.stderr
    assert "--shared env:NAME" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert "geheim" not in done.stderr + done.stdout


@pytest.mark.slow  # a start of Python, and three seconds until the run begins without the store
def test_a_store_that_is_not_there_is_told_once_and_the_run_goes_on(tmp_path: Path, run: Command) -> None:
    ended = run(tmp_path, "--shared", "redis://127.0.0.1:1", "--progress", "plain")

    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("the shared store redis://127.0.0.1:1 is gone (") == 1
    assert len((tmp_path / "in.results.jsonl").read_text().splitlines()) == 20


@pytest.mark.slow  # an outage of two seconds, real ones
async def test_two_runners_of_the_library_share_an_outage(tmp_path: Path) -> None:
    """What one of them finds out, the other does not: together they send no more into it than one would, and probes."""
    events: list[list[Event]] = [[], []]
    outage = Outage(error(503), after=60, seconds=2.0)
    with StoreServer(tmp_path) as store:
        async with HostileServer(outage, latency=0.02) as server:
            runners = [
                BatchRunner(
                    "m", base_url=server.url, concurrency=4, shared=store.url, environ={}, observers=[told.append]
                )
                for told in events
            ]
            groups = await asyncio.gather(*(runner.map([f"row {n}" for n in range(200)]) for runner in runners))

    met = [call for call in server.calls if not call.is_good]
    probes = [event for told in events for event in told if isinstance(event, CallSent) and event.probe]
    assert {result.status for group in groups for result in group} == {"success"}
    assert len(met) <= 2 * 4 + 5 + len(probes) + 2
    for told in events:
        assert [event.level for event in told if isinstance(event, Notice)] == []
        moves = [event.new for event in told if isinstance(event, CircuitChanged) and event.new != "half_open"]
        assert moves[0] == "open"
        assert moves[-1] == "closed"


async def test_the_library_refuses_a_wrong_address() -> None:
    with pytest.raises(UsageError, match="shared is 'localhost', must be redis"):
        BatchRunner("m", shared="localhost")
    runner = BatchRunner("m", base_url="http://127.0.0.1:1/v1", shared="env:NO_SUCH", environ={})
    with pytest.raises(UsageError, match="NO_SUCH holds no address"):
        await runner.map(["hello"])
