"""``--schema`` over real sockets on models that refuse to be asked in the usual way: no row is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from e2e_recorder import Answer, Arrival, Recorder

from llmbatch import BatchRunner
from llmbatch.core.events import Event, Notice

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}},
    "required": ["label"],
    "additionalProperties": False,
}
FIT, MISFIT = '{"label": "good"}', '{"label": "happy"}'
REFUSAL = "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."

WireFormat = Literal["chat", "responses", "messages", "completions"]


class OldModel:
    """Refuses forms of these kinds with what providers say; a row that begins with ``once`` fits the second time."""

    def __init__(self, *refused: str, status: int = 400, message: str = REFUSAL, param: str | None = None) -> None:
        self.refused = refused
        self.status = status
        self.error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
        self.answered: list[dict[str, Any]] = []
        self.refusals = 0

    def __call__(self, arrival: Arrival) -> Answer:
        body = json.loads(arrival.body)
        if form_of(body) in self.refused:
            self.refusals += 1
            return self.status, json.dumps({"error": self.error}).encode()
        self.answered.append(body)
        said = json.dumps(body)
        text = MISFIT if "once" in said and "does not fit" not in said else FIT
        usage = {"input_tokens": 10, "output_tokens": 5}
        match arrival.path.rpartition("/")[2]:
            case "messages":
                made: dict[str, Any] = {"type": "message", "content": [{"type": "text", "text": text}]}
            case "responses":
                message = {"type": "message", "content": [{"type": "output_text", "text": text}]}
                made = {"status": "completed", "output": [message]}
            case _:
                usage = {"prompt_tokens": 10, "completion_tokens": 5}
                choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                made = {"choices": [choice if "messages" in body else {"index": 0, "text": text}]}
        return 200, json.dumps({**made, "usage": usage}).encode()


def form_of(body: dict[str, Any]) -> str:
    """The kind of form that the request asks for."""
    form = body.get("response_format") or body.get("text", {}).get("format") or body.get("output_config", {})
    return str(form.get("format", form).get("type", ""))


@pytest.fixture
def server() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


def run(
    server: Recorder, model: OldModel, path: Path, *, endpoint: WireFormat = "chat", name: str = "", **options: Any
) -> tuple[list[dict[str, Any]], list[Notice], int]:
    """Send the rows of *path*; gives their lines, what was told, and the exit code."""
    server.respond = model
    told: list[Notice] = []

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event)

    environ = {f"{of}_API_KEY": "k" for of in ("OPENAI", "ANTHROPIC", "DEEPSEEK")}
    environ |= {"OPENAI_BASE_URL": server.url, "ANTHROPIC_BASE_URL": server.origin}
    known = name or ("anthropic/m" if endpoint == "messages" else "openai/m")
    runner = BatchRunner(known, endpoint=endpoint, environ=environ, observers=[observe], schema=SCHEMA, **options)
    summary = runner.run_sync(path)
    output = path.with_name(f"{path.stem}.results.jsonl")
    lines = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    return lines, told, summary.exit_code


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [{"id": f"r{number}", "prompt": f"row {number}"} for number in range(60)]


@pytest.mark.parametrize(
    ("refused", "form"), [(("json_schema",), "json_object"), (("json_schema", "json_object"), "")], ids=["one", "all"]
)
def test_a_chat_model_is_told_the_schema_in_the_prompt(
    tmp_path: Path, server: Recorder, refused: tuple[str, ...], form: str
) -> None:
    """With ``json_object`` if it takes that. All rows are answered at the first attempt, and it is told once."""
    model = OldModel(*refused)

    lines, told, code = run(server, model, write(tmp_path, *ROWS), concurrency=4)

    assert (code, len(lines)) == (0, 60)
    assert all((line["attempts"], line["parsed"]) == (1, {"label": "good"}) for line in lines)
    assert [notice.level for notice in told] == ["warning"]
    assert told[0].message.startswith("openai/m refuses")
    assert REFUSAL in told[0].message
    assert len(model.answered) == 60
    assert model.refusals <= 4 * len(refused)
    for body in model.answered:
        system, user = body["messages"]
        assert form_of(body) == form
        assert (system["role"], user["role"]) == ("system", "user")
        assert json.dumps(SCHEMA, separators=(",", ":")) in system["content"]


@pytest.mark.parametrize(("endpoint", "member"), [("responses", "instructions"), ("messages", "system")])
def test_other_formats_tell_the_schema_in_their_system_prompt(
    tmp_path: Path, server: Recorder, endpoint: WireFormat, member: str
) -> None:
    """Behind the one that there is."""
    message = "output_config: Extra inputs are not permitted" if endpoint == "messages" else "Invalid input"
    model = OldModel("json_schema", message=message, param="text.format")

    lines, told, code = run(server, model, write(tmp_path, *ROWS), endpoint=endpoint, system="Be brief.", concurrency=2)

    assert (code, len(lines), len(told)) == (0, 60, 1)
    assert all(line["parsed"] == {"label": "good"} for line in lines)
    for body in model.answered:
        assert body[member].startswith("Be brief.\n\nAnswer with JSON only")
        assert not {"text", "output_config"} & body.keys()


def test_completions_do_without_the_parameter(tmp_path: Path, server: Recorder) -> None:
    """The schema is told with the fault, to an answer that does not fit."""
    model = OldModel("json_schema", status=422)
    path = write(tmp_path, {"prompt": "row"}, {"prompt": "once"})

    lines, _, code = run(server, model, path, endpoint="completions", name="m", base_url=server.url, concurrency=1)

    assert (code, [line["attempts"] for line in lines]) == (0, [1, 2])
    assert [body["prompt"].count('"additionalProperties"') for body in model.answered] == [0, 0, 1]


def test_repairs_go_on_in_the_way_that_the_model_takes(tmp_path: Path, server: Recorder) -> None:
    """The same system prompt, the answer, and what is wrong with it; a repair is counted, the refusal is not."""
    model = OldModel("json_schema")

    lines, _, code = run(server, model, write(tmp_path, {"prompt": "once"}), concurrency=1)

    first, second = model.answered
    assert (code, lines[0]["attempts"], lines[0]["parsed"]) == (0, 2, {"label": "good"})
    assert lines[0]["usage"] == {"input_tokens": 20, "output_tokens": 10}
    assert second["messages"][:2] == first["messages"]
    assert [turn["role"] for turn in second["messages"][2:]] == ["assistant", "user"]
    assert (form_of(second), model.refusals) == ("json_object", 1)


def test_the_cache_knows_rows_however_they_were_asked(tmp_path: Path, server: Recorder) -> None:
    """A second run finds all of them, without a call."""
    model = OldModel("json_schema")
    cache = str(tmp_path / "cache.db")
    run(server, model, write(tmp_path, *ROWS), cache=cache, concurrency=4)
    before = server.count
    (tmp_path / "in.results.jsonl").unlink()

    lines, told, code = run(server, model, tmp_path / "in.jsonl", cache=cache)

    assert (code, len(lines), told, server.count) == (0, 60, [], before)
    assert all(line["cached"] for line in lines)


def test_deepseek_without_json_mode_is_told_in_the_prompt_alone(tmp_path: Path, server: Recorder) -> None:
    """The first way of each provider is that of the table; the next ones follow from there."""
    model = OldModel("json_object", message="This response_format type is unavailable now")

    lines, told, code = run(
        server, model, write(tmp_path, *ROWS[:5]), name="deepseek/m", base_url=server.url, concurrency=1
    )

    assert (code, len(lines), len(told), model.refusals) == (0, 5, 1, 1)
    assert all("response_format" not in body for body in model.answered)


def test_a_model_that_refuses_every_way_stops_the_run_with_the_first_refusal(tmp_path: Path, server: Recorder) -> None:
    """No row is failed for it, and nothing was learned."""
    model = OldModel("json_schema", "json_object", "")

    lines, told, code = run(server, model, write(tmp_path, *ROWS), concurrency=2)

    assert (code, lines, model.answered) == (3, [], [])
    assert all("asked" not in notice.message for notice in told)
