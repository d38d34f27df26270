"""A key that only the environment and one header know: looked for in everything that a run leaves or shows."""

from __future__ import annotations

import functools
import html
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from e2e_recorder import Recorder, answer, error

pytestmark = pytest.mark.slow  # some hundreds of milliseconds each, and a process some of them

Here = Callable[..., "subprocess.CompletedProcess[str]"]

KEYS = ["sk-canary-7Zq9XwVu", 'sk-can"ary\\/+=7Zq9&<%41>', "AIzaCanary.with.dots$^(7Zq9)"]


def echo(text: str) -> tuple[int, bytes]:
    """A good answer whose content is *text*, as it stands in a JSON string."""
    choice = f'{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}'
    return 200, f'{{"id":"c","choices":[{choice}]}}'.encode()


def escaped(key: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in key)


def half_escaped(key: str) -> str:
    """Every other character as an escape, with upper-case digits."""
    return "".join(escaped(one).upper().replace("U", "u") if at % 2 else dumped(one) for at, one in enumerate(key))


def dumped(text: str) -> str:
    return json.dumps(text)[1:-1]


ECHOES: dict[str, Callable[[str], tuple[int, bytes]]] = {
    "answer": lambda key: echo(json.dumps(key)[1:-1]),
    "answer-slashes": lambda key: echo(json.dumps(key)[1:-1].replace("/", "\\/")),
    "answer-escaped": lambda key: echo(escaped(key)),
    "answer-half": lambda key: echo(half_escaped(key)),
    "answer-nested": lambda key: echo(json.dumps(json.dumps({"key": key}))[1:-1]),
    "answer-nested-escaped": lambda key: echo(escaped(key).replace("\\", "\\\\")),
    "member": lambda key: (200, json.dumps({**json.loads(echo("ok")[1]), "note": key}).encode()),
    "401": lambda key: error(401, "invalid_api_key", f"Incorrect API key provided: {key}"),
    "403": lambda key: (403, f'{{"error":{{"message":"{escaped(key)}"}}}}'.encode()),
    "400": lambda key: error(400, "invalid_request_error", f"bad header Bearer {key}"),
    "429": lambda key: error(429, "insufficient_quota", f"quota of {key}"),
    "500-html": lambda key: (500, f"<html><a href='?key={quote(key)}'>{html.escape(key)}</a></html>".encode()),
    "500-text": lambda key: (500, key.encode()),
    "200-error": lambda key: (200, json.dumps({"error": {"message": key, "code": key}}).encode()),
    "200-garbage": lambda key: (200, b'{"choices": ' + key.encode()),
    "307": lambda key: (307, b""),
}
IN_A_PROCESS = {"401", "answer-half"}
"""One that stops the run and one that does not: a process shows also its warnings, and the words that started it."""


@pytest.fixture
def server() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


def plain(text: str) -> str:
    """*text* without the layers that hide a key from a plain search."""
    for _ in range(3):
        text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        text = re.sub(r"\\(.)", r"\1", text)
    return html.unescape(unquote(text))


def assert_hidden(key: str, **places: str) -> None:
    for place, text in places.items():
        for seen in (text, plain(text)):
            assert key not in seen, f"the key is in {place}: {text[:2000]}"
            assert plain(key) not in seen, f"the key is in {place}: {text[:2000]}"


def run(folder: Path, key: str, *words: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    """A run that says all it can, with the command lines of all processes seen meanwhile in ``args``."""
    environ = os.environ | {"OPENAI_API_KEY": key, "PYTHONASYNCIODEBUG": "1", "PYTHONWARNINGS": "default"}
    command = [sys.executable, "-X", "dev", "-m", "llmbatch", *words]
    process = subprocess.Popen(
        command, env=environ, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(timeout, process.kill)
    watchdog.start()
    seen = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace")
    stdout, stderr = process.communicate()
    watchdog.cancel()
    return subprocess.CompletedProcess([seen], process.returncode, stdout, stderr)


def run_here(here: Here, folder: Path, key: str, *words: str) -> subprocess.CompletedProcess[str]:
    """As :func:`run`, within this process."""
    return here(folder, os.environ | {"OPENAI_API_KEY": key, "PYTHONASYNCIODEBUG": "1"}, *words)


@pytest.mark.parametrize(
    ("key", "name"), [*((KEYS[1], name) for name in ECHOES), (KEYS[0], "401"), (KEYS[2], "answer-half")]
)
def test_a_key_that_the_provider_echoes_appears_nowhere(
    tmp_path: Path, command_here: Here, server: Recorder, key: str, name: str
) -> None:
    """Lines, deferred rows, status, events, debug output, summary, process list: the key is in the request alone."""
    server.respond = lambda arrival: ECHOES[name](key)
    location = quote(key, safe="")
    server.headers = {
        "x-ratelimit-note": quote(key),
        "Location": f"http://127.0.0.1:9/?key={location}",
        "openai-organization": location,
    }
    (tmp_path / "in.jsonl").write_text('{"id":"a","prompt":"hi"}\n{"id":"b","prompt":"ho"}\n')
    flags = ("--max-outage", "0.2", "--recovery-timeout", "0.1", "--max-attempts", "1", "-vv", "--json")

    ended = (run if name in IN_A_PROCESS else functools.partial(run_here, command_here))(
        *(tmp_path, key, "run", "in.jsonl", "-o", "out.jsonl", "-m", "openai/m", "--base-url", server.url),
        *(*flags, "--progress", "json"),
    )

    assert server.arrivals
    assert all(arrival.headers["authorization"] == f"Bearer {key}" for arrival in server.arrivals)
    files = {path.name: path.read_text(errors="replace") for path in tmp_path.iterdir() if path.name != "in.jsonl"}
    lines = files.get("out.jsonl", "")  # none is left where no row has a line
    assert lines or ended.returncode in (3, 75)
    assert_hidden(key, stdout=ended.stdout, stderr=ended.stderr, arguments=ended.args[0], **files)
    assert "Traceback" not in ended.stderr
    for line in lines.splitlines():
        json.loads(line)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("url", "code"), [("http://127.0.0.1:1/v1", 75), ("http://no-such-host.invalid/v1", 2)])
def test_an_unreachable_provider_tells_no_key(
    tmp_path: Path, command_here: Here, key: str, url: str, code: int
) -> None:
    """What cannot be sent is told without what would have been sent; a host that does not exist is a wrong address."""
    (tmp_path / "in.jsonl").write_text('{"prompt":"hi"}\n')

    ended = (run if key == KEYS[0] else functools.partial(run_here, command_here))(
        *(tmp_path, key, "run", "in.jsonl", "-m", "openai/m", "--base-url", url, "--max-outage", "0.2", "-vv"),
        *("--progress", "plain"),
    )

    assert ended.returncode == code
    status = run_here(command_here, tmp_path, key, "status", "in.results.jsonl")
    files = {path.name: path.read_text(errors="replace") for path in tmp_path.iterdir()}
    assert_hidden(key, stdout=ended.stdout, stderr=ended.stderr, status=status.stdout + status.stderr, **files)


def test_nothing_goes_to_another_origin(tmp_path: Path, server: Recorder) -> None:
    """Neither by a redirect nor because a row says so: the key belongs to one provider."""
    other = Recorder()
    try:
        server.headers = {"Location": other.url + "/chat/completions"}
        server.respond = lambda arrival: (307, b"") if b"redirect" in arrival.body else answer(arrival)
        rows: list[Any] = [
            {"custom_id": "1", "method": "POST", "url": other.url + "/chat/completions", "body": {"messages": []}},
            {"custom_id": "2", "method": "POST", "url": f"//{other.origin[7:]}/v1/chat/completions", "body": {}},
            {"custom_id": "3", "method": "POST", "url": "/v1/../../chat/completions", "body": {"messages": []}},
            {"custom_id": "4", "method": "POST", "url": "/v1/chat/completions HTTP/1.1\r\nHost: evil", "body": {}},
            {"prompt": "x", "base_url": other.url, "api_base": other.url, "api_key": "k"},
            {"prompt": "x", "headers": {"Host": "evil", "X-Evil": "1"}, "extra_headers": {"X-Evil": "1"}},
            {"prompt": "x", "params": {"base_url": other.url, "extra_headers": {"X-Evil": "1"}}},
            {"prompt": "x", "model": "openai/m\r\nX-Evil: 1"},
            *({"prompt": f"redirect {number}"} for number in range(3)),
            {"prompt": "fine"},
        ]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

        ended = run(
            *(tmp_path, KEYS[0], "run", "in.jsonl", "-o", "out.jsonl", "-m", "openai/m", "--base-url", server.url),
            *("-c", "1", "--max-outage", "1", "--recovery-timeout", "0.1"),
        )

        assert not other.arrivals, other.arrivals
        assert "Traceback" not in ended.stderr
        assert server.arrivals
        for arrival in server.arrivals:
            assert arrival.path == "/v1/chat/completions"
            assert arrival.headers["host"] == server.origin.removeprefix("http://")
            assert "x-evil" not in arrival.headers
    finally:
        other.close()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_is_not_used(
    tmp_path: Path, command_here: Here, server: Recorder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked for it here, and it would see the key."""
    proxy = Recorder()
    monkeypatch.setenv(name, proxy.origin)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password netrc-canary\n")
    (tmp_path / "in.jsonl").write_text('{"prompt":"hi"}\n')
    try:
        ended = run_here(command_here, tmp_path, KEYS[0], "run", "in.jsonl", "-m", "openai/m", "--base-url", server.url)
    finally:
        proxy.close()

    assert ended.returncode == 0, ended.stderr
    assert not proxy.arrivals
    assert [arrival.headers["authorization"] for arrival in server.arrivals] == [f"Bearer {KEYS[0]}"]
