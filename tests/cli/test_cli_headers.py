"""``--header``: one more header on every request, keys from the environment alone, and none of them shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_parts import Run, Silence, TwoLines
from e2e_recorder import Recorder

from llmbatch import BatchRunner
from llmbatch.core.errors import UsageError

KEY = "portkey-9f2c41d7e6"


@pytest.fixture
def server() -> Iterator[Recorder]:
    """A gateway on loopback."""
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.mark.slow  # a process, over real sockets
def test_a_gateway_that_wants_a_header_of_its_own_could_not_be_used(
    llmbatch: Run, prompts: Path, server: Recorder
) -> None:
    """Portkey's: flags add to the file's table and win over it; a variable's value is sent and shown nowhere."""
    prompts.with_name("mine.toml").write_text('[headers]\nx-portkey-provider = "openai"\nX-Trace = "file"\n')

    done = llmbatch(
        *("run", "prompts.jsonl", "-m", "m", "--base-url", server.url, "--config", "mine.toml", "-vv"),
        *("--header", "x-portkey-api-key=$PORTKEY", "--header", "x-trace=flag=1"),
        PORTKEY=KEY,
    )

    assert done.returncode == 0, done.stderr
    for arrival in server.arrivals:
        assert arrival.headers["x-portkey-api-key"] == KEY
        assert arrival.headers["x-portkey-provider"] == "openai"
        assert arrival.headers["x-trace"] == "flag=1"
    everything = (
        done.stdout
        + done.stderr
        + "".join(path.read_text(errors="replace") for path in prompts.parent.iterdir() if path.is_file())
    )
    assert KEY not in everything


@pytest.mark.slow  # a process, over real sockets
def test_a_header_that_the_answer_repeats_is_masked_like_a_key(llmbatch: Run, prompts: Path, server: Recorder) -> None:
    """In the line and on the screen, also where the value has a scheme before it."""
    server.respond = lambda arrival: (
        400,
        json.dumps({"error": {"message": f"bad header {arrival.headers['cf-aig-authorization']}"}}).encode(),
    )

    done = llmbatch(
        *("run", "prompts.jsonl", "-m", "m", "--base-url", server.url),
        *("--header", "cf-aig-authorization=Bearer ${CF_TOKEN}", "--progress", "plain", "-v"),
        CF_TOKEN=KEY,
    )

    assert server.arrivals[0].headers["cf-aig-authorization"] == f"Bearer {KEY}"
    assert KEY not in done.stderr
    assert "bad header" in done.stderr
    for path in prompts.parent.glob("prompts.*"):
        assert KEY not in path.read_text()


@pytest.mark.parametrize(
    "header",
    [
        "Host=evil.example",
        "authorization=$PORTKEY",
        "Content-Length=3",
        "x-api-key=abc",
        "x-portkey-api-key=portkey-9f2c41d7e6",
        "x-note=sk-0123456789abcdef0123",
        "X-Note=Bearer abcdef",
        "x note=1",
        "x-note",
        "x-note=",
        "x-note=\u00e9",
        "X-Note: portkey-9f2c41d7e6",
        "sk-0123456789abcdef0123",
    ],
)
def test_a_header_that_may_not_be_set_is_refused_and_its_value_not_shown(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path, header: str
) -> None:
    """Host and keys above all: a key is on no command line."""
    done = llmbatch_here("run", "prompts.jsonl", "-m", "m", "--base-url", "http://127.0.0.1:1", "--header", header)

    assert done.returncode == 2
    error, hint = two_lines(done.stderr)
    assert "--header is " in error
    assert "a key as 'NAME=$VARIABLE'" in error
    assert hint
    assert not any(secret in done.stderr for secret in ("portkey-9f2c", "sk-01234", "abcdef", "evil"))


def test_a_headers_variable_that_is_not_set_is_named_before_anything_is_sent(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path, silence: Silence
) -> None:
    """``check`` needs no key, and so none for headers."""
    command = ("prompts.jsonl", "-m", "m", "--base-url", silence.url, "--header", "x-k=$NOT_SET")

    done = llmbatch_here("run", *command)

    assert done.returncode == 2
    assert two_lines(done.stderr)[0] == "the header x-k needs NOT_SET, which is not set"
    assert llmbatch_here("check", *command).returncode == 0
    assert not silence.was_broken()
    assert not prompts.with_name("prompts.results.jsonl").exists()


@pytest.mark.slow  # a process, over real sockets
def test_a_local_file_may_not_send_what_the_environment_holds(llmbatch: Run, prompts: Path, server: Recorder) -> None:
    """A header with a variable in a ``./llmbatch.toml`` is ignored and told; a literal one counts."""
    file = prompts.with_name("llmbatch.toml")
    command = ("run", "prompts.jsonl", "-m", "m", "--base-url", server.url)

    file.write_text('[headers]\nx-stolen = "$PORTKEY"\n')
    told = llmbatch(*command, PORTKEY=KEY)
    file.write_text('[headers]\nx-team = "blue"\n')
    done = llmbatch(*command, "--overwrite", PORTKEY=KEY)

    assert (told.returncode, done.returncode) == (0, 0)
    assert "sets headers, which is ignored: it cannot send what your environment holds" in told.stderr
    assert [arrival.headers.get("x-stolen") for arrival in server.arrivals] == [None] * 6
    assert [arrival.headers.get("x-team") for arrival in server.arrivals] == [None] * 3 + ["blue"] * 3


async def test_headers_of_the_library_go_to_the_runs_provider_alone(tmp_path: Path, server: Recorder) -> None:
    """A row that names another provider does not take them there; keys in Python need no variable and are masked."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt":"a"}\n{"prompt":"b","model":"anthropic/claude-x"}\n')
    origin = server.url.removesuffix("/v1")
    environ = {
        "OPENAI_API_KEY": "sk-openai-1234",
        "OPENAI_BASE_URL": server.url,
        "ANTHROPIC_API_KEY": "sk-ant-1234567",
        "ANTHROPIC_BASE_URL": origin,
        "ORG": "org-12345678",
    }

    headers = {"OpenAI-Organization": "$ORG", "x-auth": KEY, "User-Agent": "mine"}
    await BatchRunner("openai/m", headers=headers, environ=environ).run(path)

    by_path = {arrival.path: arrival.headers for arrival in server.arrivals}
    openai, anthropic = by_path["/v1/chat/completions"], by_path["/v1/messages"]
    assert (openai["openai-organization"], openai["x-auth"], openai["user-agent"]) == ("org-12345678", KEY, "mine")
    assert openai["authorization"] == "Bearer sk-openai-1234"
    assert (anthropic.get("openai-organization"), anthropic.get("x-auth")) == (None, None)
    assert anthropic["user-agent"] == "llmbatch"


@pytest.mark.parametrize("headers", [{"Host": "x"}, {"a b": "x"}, {"x": 3}, {"x": "a\r\nHost: y"}, [("x",)], "x=y"])
def test_headers_of_the_library_are_checked_at_birth(headers: Any) -> None:
    """Before a run starts."""
    with pytest.raises(UsageError, match="headers is"):
        BatchRunner("openai/m", headers=headers, environ={"OPENAI_API_KEY": "sk-openai-1234"})
