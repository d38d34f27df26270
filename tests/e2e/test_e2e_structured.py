"""``--schema`` over real sockets: each wire format, repairs, refusals, resuming, and what is refused at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from e2e_recorder import Answer, Arrival, Recorder, error

from llmbatch import BatchRunner
from llmbatch.core.errors import UsageError

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}},
    "required": ["label"],
    "additionalProperties": False,
}
Run = Callable[..., subprocess.CompletedProcess[str]]
FIT, MISFIT = '{"label": "good"}', '{"label": "happy"}'


class Review(pydantic.BaseModel):
    """As a program has it."""

    label: Literal["good", "bad"]


def turns(body: dict[str, Any]) -> list[dict[str, Any]]:
    source = body.get("messages", body.get("input"))
    return source if isinstance(source, list) else [{"role": "user", "content": source}]


class Model:
    """Answers by what the first turn of the user says, in the wire format of the path."""

    def __init__(self) -> None:
        self.outage = (0, 0)
        """After how many good answers calls are answered with 503, and how many of them."""
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, arrival: Arrival) -> Answer:
        body = json.loads(arrival.body)
        begin, calls = self.outage
        if calls and len(self.bodies) >= begin:
            self.outage = (begin, calls - 1)
            return error(503, "overloaded")
        self.bodies.append(body)
        said = turns(body)
        asked = next(turn["content"] for turn in said if turn["role"] == "user")
        is_again = any(turn["role"] == "assistant" for turn in said)
        kind = asked.split()[0]
        text = {
            "fenced": f"Here:\n```json\n{FIT}\n```",
            "never": MISFIT,
            "once": FIT if is_again else MISFIT,
            "cut": '{"label": "go',
            "refused": "I cannot help with that.",
            "filtered": "",
        }.get(kind, FIT)
        shape = {"messages": _message, "responses": _response}.get(arrival.path.rpartition("/")[2], _chat)
        return 200, json.dumps(shape(kind, text)).encode()


def _chat(kind: str, text: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if kind == "refused":
        message = {"role": "assistant", "content": None, "refusal": text}
    finish = {"cut": "length", "filtered": "content_filter"}.get(kind, "stop")
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


def _response(kind: str, text: str) -> dict[str, Any]:
    part = {"type": "refusal", "refusal": text} if kind == "refused" else {"type": "output_text", "text": text}
    reason = {"cut": "max_output_tokens", "filtered": "content_filter"}.get(kind)
    return {
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "output": [{"type": "message", "role": "assistant", "content": [part]}],
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }


def _message(kind: str, text: str) -> dict[str, Any]:
    reasons = {"cut": "max_tokens", "refused": "refusal", "filtered": "refusal"}
    return {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "stop_reason": reasons.get(kind, "end_turn"),
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def server(model: Model) -> Iterator[Recorder]:
    recorder = Recorder(model)
    yield recorder
    recorder.close()


KINDS = ("fits", "once", "never", "fenced", "cut", "refused", "filtered")
ENDS = {
    "fits": (None, 1),
    "once": (None, 2),
    "never": ("schema_mismatch", 2),
    "fenced": ("schema_mismatch", 2),
    "cut": ("truncated", 1),
    "refused": ("refusal", 1),
    "filtered": ("content_filter", 1),
}
"""Code and attempts of each kind of row."""


WireFormat = Literal["chat", "responses", "messages"]


def runner(server: Recorder, endpoint: WireFormat, **options: Any) -> BatchRunner[Any, None]:
    name, base = ("anthropic/m", server.origin) if endpoint == "messages" else ("openai/m", server.url)
    environ = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "OPENAI_BASE_URL": base, "ANTHROPIC_BASE_URL": base}
    return BatchRunner(name, endpoint=endpoint, environ=environ, **options)


def rows(count: int = 5) -> list[dict[str, str]]:
    return [{"id": f"{kind}-{at}", "prompt": f"{kind} {at}"} for at in range(count) for kind in KINDS]


@pytest.mark.parametrize("endpoint", ["chat", "responses", "messages"])
def test_each_kind_of_answer_ends_as_it_should(
    tmp_path: Path, server: Recorder, model: Model, endpoint: WireFormat
) -> None:
    """Codes, attempts, tokens and ``parsed`` of every line; nothing is sent more often than that."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    summary = runner(server, endpoint, schema=SCHEMA, concurrency=4).run_sync(path)

    lines = [json.loads(line) for line in (tmp_path / "in.results.jsonl").read_text().splitlines()]
    assert len(lines) == 35
    for line in lines:
        kind = line["id"].partition("-")[0]
        code, attempts = ENDS[kind]
        if endpoint == "messages" and kind == "filtered":
            code = "refusal"
        assert ((line["error"] or {}).get("code"), line["attempts"]) == (code, attempts), line
        assert line.get("parsed") == (None if code else {"label": "good"})
        if kind not in ("refused", "filtered"):
            assert line["usage"] == {"input_tokens": 10 * attempts, "output_tokens": 5 * attempts}
    never = next(line for line in lines if line["id"] == "never-0")
    assert (never["error"]["message"], never["text"]) == ('/label: "happy" is not one of "good" or "bad"', MISFIT)
    assert summary.failures_by_code["schema_mismatch"] == 10
    assert (summary.repaired, summary.repairs, summary.outages, summary.exit_code) == (5, 15, 0, 1)
    assert len(model.bodies) == sum(attempts for _, attempts in ENDS.values()) * 5
    again = next(body for body in model.bodies if len(turns(body)) > 1)
    assert [turn["role"] for turn in turns(again)] == ["user", "assistant", "user"]
    assert '/label: "happy" is not one of' in turns(again)[2]["content"]


@pytest.mark.parametrize("endpoint", ["chat", "responses", "messages"])
def test_a_library_gets_models(server: Recorder, endpoint: WireFormat) -> None:
    """Of the class that it gave; JSON in fences too, if it says so."""
    given = [{"prompt": f"{kind} {at}"} for at in range(3) for kind in ("fits", "once", "fenced", "never")]
    results = list(runner(server, endpoint, schema=Review, schema_lenient=True).stream_sync(given))

    good = [result for result in results if result.ok]
    assert len(good) == 9
    assert all(isinstance(result.parsed, Review) and result.parsed.label == "good" for result in good)
    failed = {(result.error_code, result.error_message, result.parsed) for result in results if not result.ok}
    assert failed == {("schema_mismatch", "/label: Input should be 'good' or 'bad'", None)}


def test_a_schema_may_be_a_path_or_a_dictionary(tmp_path: Path, server: Recorder) -> None:
    """Values are what JSON has."""
    path = tmp_path / "review.json"
    path.write_text(json.dumps(SCHEMA))
    for schema in (path, str(path), SCHEMA):
        (result,) = runner(server, "chat", schema=schema).stream_sync([{"prompt": "fits"}])
        assert result.parsed == {"label": "good"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schema": {"type": "strng"}}, "schema: is no valid JSON Schema"),
        ({"schema": "nothing.json"}, "schema nothing.json: no such file or directory"),
        ({"schema": int}, "schema: int is no pydantic model"),
        ({"schema": SCHEMA, "repair": -1}, "repair is -1"),
        ({"schema": SCHEMA, "endpoint": "embeddings"}, "--schema checks texts"),
        ({"model": lambda row: row, "schema": SCHEMA}, "schema is for models of providers"),
    ],
)
def test_a_library_is_told_at_once_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    """When the runner is created."""
    with pytest.raises(UsageError, match=message):
        BatchRunner(**{"model": "openai/m", "environ": {"OPENAI_API_KEY": "k"}} | arguments)


class Here:
    """Runs the command in a folder, with OpenAI's and Anthropic's addresses at the recorder."""

    def __init__(self, folder: Path, server: Recorder, command: Run) -> None:
        self.folder = folder
        self.command = command
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "OPENAI_BASE_URL": server.url,
            "OPENAI_API_KEY": "sk-x",
            "ANTHROPIC_API_KEY": "sk-y",
            "ANTHROPIC_BASE_URL": server.origin,
        }
        if "PYTHONPATH" in os.environ:
            self.environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
        (folder / "s.json").write_text(json.dumps(SCHEMA))
        (folder / "models.py").write_text(
            "import pydantic\nfrom typing import Literal\n\n"
            "class Review(pydantic.BaseModel):\n    label: Literal['good', 'bad']\n"
        )
        self.write(rows())

    def write(self, given: list[dict[str, str]]) -> None:
        (self.folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.command(self.folder, self.environ, *arguments)

    def lines(self) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (self.folder / "p.results.jsonl").read_text().splitlines()]
        assert max(Counter(line["row"] for line in found).values()) == 1
        return found


@pytest.fixture
def here(tmp_path: Path, server: Recorder, command_here: Run) -> Here:
    return Here(tmp_path, server, command_here)


RUN = ("run", "p.jsonl", "-m", "openai/m", "--progress", "plain")


@pytest.mark.slow  # processes
def test_the_summary_and_the_status_count_what_was_repaired_and_what_does_not_fit(here: Here) -> None:
    """Also of several runs together; a pydantic model is found in the working directory."""
    done = here(*RUN, "--schema", "models:Review", "--json")

    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["repaired"], summary["repairs"], summary["failed"]) == (5, 15, 25)
    assert "repaired      5 rows asked again until the answer fit the schema" in done.stderr
    assert "schema_mismatch 10" in done.stderr
    assert "15 repairs" in done.stderr
    again = here(*RUN, "--schema", "models:Review", "--retry-failed", "--schema-lenient")
    assert again.returncode == 1
    status = json.loads(here("status", "p.jsonl", "--json").stdout)
    assert {group["code"]: group["count"] for group in status["failures"]}["schema_mismatch"] == 5
    assert status["repaired"] == 5
    assert "5 rows asked again" in here("status", "p.jsonl").stdout


@pytest.mark.slow  # processes
def test_an_output_is_not_continued_with_another_schema(here: Here, model: Model) -> None:
    """Unless --force says so; the same one resumes."""
    here.write([{"prompt": "fits"}])
    assert here(*RUN, "--schema", "s.json").returncode == 0
    here.write([{"prompt": "fits"}, {"prompt": "fits 2"}])
    (here.folder / "other.json").write_text(json.dumps(SCHEMA | {"title": "Another"}))

    for words in (("--schema", "other.json"), ()):
        refused = here(*RUN, *words)
        assert refused.returncode == 2
        assert "template or schema" in refused.stderr
        assert "template or schema" in here("check", *RUN[1:], *words).stderr
    assert len(model.bodies) == 1
    assert here(*RUN, "--schema", "s.json").returncode == 0
    assert len(model.bodies) == 2


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--schema", "none.json"), "--schema none.json: no such file or directory"),
        (("--schema", "p.jsonl"), "--schema p.jsonl: is not JSON"),
        (("--schema", "nowhere:Review"), "--schema nowhere:Review: nowhere cannot be imported"),
        (("--schema", "models:Literal"), "--schema models:Literal: Literal is no pydantic model"),
        (("--schema", "models:Reviews"), "--schema models:Reviews: models has no Reviews"),
        (("--schema", "s.json", "--endpoint", "embeddings"), "answers of --endpoint embeddings have none"),
        (("--repair", "2"), "--repair needs a schema"),
        (("--schema-lenient",), "--schema-lenient needs a schema"),
        (("--schema", "s.json", "--repair", "many"), "--repair is 'many'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    here: Here, server: Recorder, command: str, words: tuple[str, ...], message: str
) -> None:
    """Exit 2, with what is wrong, where, and what to type."""
    done = here(command, *RUN[1:], *words)

    assert done.returncode == 2
    error_line, hint_line = done.stderr.splitlines()
    assert message in error_line
    assert hint_line.startswith("hint: ")
    assert server.count == 0
    assert not (here.folder / "p.results.jsonl").exists()


@pytest.mark.slow  # processes
def test_a_config_file_of_the_folder_imports_no_code(here: Here, model: Model) -> None:
    """It may have come with somebody else's repository; a schema file in its folder is fine."""
    (here.folder / "models.py").write_text("open('imported', 'w')\n")
    (here.folder / "llmbatch.toml").write_text('schema = "models:Review"\n')
    here.write([{"prompt": "never"}])

    done = here(*RUN)

    assert done.returncode == 0, done.stderr
    assert "sets schema, which is ignored" in done.stderr
    assert not (here.folder / "imported").exists()
    (here.folder / "llmbatch.toml").write_text('schema = "s.json"\nrepair = 0\n')
    assert here(*RUN, "--overwrite").returncode == 1
    assert len(model.bodies) == 2


@pytest.mark.slow  # a process is killed and another one goes on
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_run_goes_on_with_the_same_command(tmp_path: Path, server: Recorder, here: Here) -> None:
    """No row has two lines, and all that succeeded fit."""
    here.write([{"prompt": f"{kind} {at}"} for at in range(300) for kind in ("fits", "once")])
    server.delay = 0.01
    words = (*RUN, "-c", "4", "--schema", "s.json")
    output = tmp_path / "p.results.jsonl"
    with subprocess.Popen(
        [sys.executable, "-m", "llmbatch", *words], cwd=tmp_path, env=here.environ, stderr=subprocess.DEVNULL
    ) as first:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (output.exists() and output.stat().st_size > 20_000):
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)

    assert here(*words).returncode == 0

    lines = here.lines()
    assert len(lines) == 600
    assert all(line["parsed"] == {"label": "good"} for line in lines)
    assert Counter(line["attempts"] for line in lines) == {1: 300, 2: 300}


@pytest.mark.slow  # an outage of some seconds
@pytest.mark.parametrize("endpoint", ["chat", "responses", "messages"])
def test_repairs_outlive_an_outage(tmp_path: Path, server: Recorder, model: Model, endpoint: WireFormat) -> None:
    """They are parked, and sent once the server is back; no answer is asked for twice."""
    model.outage = (30, 20)
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"prompt":"once {at}"}}\n' for at in range(60)))
    summary = runner(server, endpoint, schema=SCHEMA, concurrency=10, recovery_timeout=1.0).run_sync(path)

    assert (summary.success, summary.failed, summary.deferred, summary.outages) == (60, 0, 0, 1)
    assert summary.repaired == 60
    asked = Counter(json.dumps(turns(body)) for body in model.bodies)
    assert len(asked) == 120
    assert [text for text, times in asked.items() if times > 1 and '"ping"' not in text] == []


def test_a_row_on_another_wire_format_is_repaired_there(server: Recorder, model: Model) -> None:
    """The first route is refused its key, and the fallback speaks Anthropic's format."""
    refused = Recorder(lambda arrival: error(401, "invalid_api_key"))
    environ = {
        "OPENAI_API_KEY": "k",
        "ANTHROPIC_API_KEY": "k",
        "OPENAI_BASE_URL": refused.url,
        "ANTHROPIC_BASE_URL": server.origin,
    }
    try:
        one = BatchRunner("openai/m", fallback=["anthropic/a"], environ=environ, schema=SCHEMA)
        results = list(one.stream_sync([{"prompt": f"once {at}"} for at in range(20)]))
    finally:
        refused.close()

    assert [result.error for result in results if not result.ok] == []
    assert {(result.model, result.route) for result in results} == {("anthropic/a", "anthropic/a")}
    assert {"output_config" in body for body in model.bodies} == {True}
    assert len(model.bodies) == 40
