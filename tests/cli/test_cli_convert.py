"""``llmbatch convert``: whole commands on real files, with results in the shapes of OpenAI, Anthropic and vLLM."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from cli_parts import Run, TwoLines

Line = dict[str, Any]

OPENAI = ("-m", "openai/gpt-5-mini")
CLAUDE = ("-m", "anthropic/claude-haiku-4-5", "-P", "max_tokens=100")
NO_CREDIT = "Your credit balance is too low to access the Anthropic API."


def lines_of(path: Path) -> list[Line]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(path: Path) -> dict[int, Line]:
    """The lines of an output by row."""
    lines = lines_of(path)
    assert len({line["row"] for line in lines}) == len(lines), "one line a row"
    return {line["row"]: line for line in lines}


def write(path: Path, lines: list[Any]) -> Path:
    """A file with these lines."""
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def answer(custom_id: str, text: str = "fine") -> Line:
    """A good line of OpenAI's."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-5-mini", "choices": [choice], "usage": usage}
    response = {"status_code": 200, "request_id": "req_1", "body": body}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": None}


def refusal(custom_id: str, status: int = 400, code: str = "context_length_exceeded", text: str = "too long") -> Line:
    """A bad line of OpenAI's."""
    body = {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": code}}
    response = {"status_code": status, "request_id": "req_1", "body": body}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": None}


def expired(custom_id: str) -> Line:
    """The line of a row that did not run."""
    error = {"code": "batch_expired", "message": "expired"}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": None, "error": error}


def message(custom_id: str, text: str = "fine") -> Line:
    """A good line of Anthropic's."""
    content = [{"type": "text", "text": text}]
    usage = {"input_tokens": 10, "output_tokens": 10, "service_tier": "batch"}
    body: Line = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": content,
    }
    body |= {"stop_reason": "end_turn", "stop_sequence": None, "usage": usage}
    return {"custom_id": custom_id, "result": {"type": "succeeded", "message": body}}


def errored(custom_id: str, kind: str = "invalid_request_error", text: str = "prompt is too long") -> Line:
    """A bad line of Anthropic's."""
    error = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}
    return {"custom_id": custom_id, "result": {"type": "errored", "error": error}}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Six rows with ids and metadata of their own."""
    return write(
        tmp_path / "p.jsonl",
        [{"id": f"r{number}", "prompt": f"Tell of row {number}", "metadata": {"n": number}} for number in range(1, 7)],
    )


@pytest.fixture
def ids(llmbatch_here: Run, prompts: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The ids of a batch file of the prompts, converted with these flags."""

    def convert(*flags: str, to: str = "openai") -> list[str]:
        flags = flags or (OPENAI if to == "openai" else CLAUDE)
        done = llmbatch_here("convert", prompts.name, "--to", to, *flags, "-o", "b.jsonl", "--overwrite")
        assert done.returncode == 0, done.stderr
        return [line["custom_id"] for line in lines_of(tmp_path / "b.jsonl")]

    return convert


@pytest.fixture
def back(llmbatch_here: Run, prompts: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Convert these lines, in one file, back into ``out.jsonl``."""

    def convert(lines: list[Any], *flags: str, form: str = "openai") -> subprocess.CompletedProcess[str]:
        flags = flags or (CLAUDE if form == "anthropic" else OPENAI)
        write(tmp_path / "results.jsonl", lines)
        return llmbatch_here("convert", "--from", form, "results.jsonl", "-i", prompts.name, "-o", "out.jsonl", *flags)

    return convert


Back = Callable[..., subprocess.CompletedProcess[str]]
Ids = Callable[..., list[str]]


# Rows into batch files.


def test_an_openai_file_has_one_request_per_row(llmbatch_here: Run, prompts: Path, tmp_path: Path) -> None:
    """The request is the one that a run sends; ids and metadata of the user stay at home."""
    done = llmbatch_here("convert", "p.jsonl", "--to", "openai", *OPENAI, "-s", "Be brief", "-o", "b.jsonl")

    lines = lines_of(tmp_path / "b.jsonl")
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Tell of row 1"}]
    assert done.returncode == 0
    assert "6 rows in b.jsonl" in done.stderr
    assert "llmbatch convert --from openai RESULTS -i p.jsonl -m openai/gpt-5-mini -s 'Be brief'" in done.stderr
    assert [set(line) for line in lines] == [{"custom_id", "method", "url", "body"}] * 6
    assert lines[0]["body"] == {"model": "gpt-5-mini", "messages": messages}
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
    assert [line["custom_id"].split("-")[2] for line in lines] == ["1", "2", "3", "4", "5", "6"]
    assert all(len(line["custom_id"]) <= 64 and line["custom_id"].startswith("lb-") for line in lines)
    assert "metadata" not in (tmp_path / "b.jsonl").read_text()


def test_an_anthropic_file_is_lines_or_the_body_to_post(llmbatch_here: Run, prompts: Path, tmp_path: Path) -> None:
    """``.jsonl`` has a request per line, ``.json`` is what the API takes; a Claude needs no prefix."""
    flags = ("-m", "claude-haiku-4-5", "-P", "max_tokens=100")
    for name in ("b.jsonl", "b.json"):
        assert llmbatch_here("convert", "p.jsonl", "--to", "anthropic", *flags, "-o", name).returncode == 0

    whole = json.loads((tmp_path / "b.json").read_text())
    messages = [{"role": "user", "content": "Tell of row 1"}]
    assert whole == {"requests": lines_of(tmp_path / "b.jsonl")}
    assert whole["requests"][0]["params"] == {"model": "claude-haiku-4-5", "messages": messages, "max_tokens": 100}
    assert len(whole["requests"]) == 6


def test_any_input_is_converted_by_template_and_columns(llmbatch_here: Run, tmp_path: Path) -> None:
    """A CSV file, compressed, with a template and another column as the id."""
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"key,text\nx,good\ny,bad\n"))
    flags = ("-t", "Sentiment of: {{ text }}", "--id-column", "key")

    done = llmbatch_here("convert", "t.csv.gz", "--to", "openai", *OPENAI, *flags, "-o", "b.jsonl")

    assert done.returncode == 0, done.stderr
    assert [line["body"]["messages"][0]["content"] for line in lines_of(tmp_path / "b.jsonl")] == [
        "Sentiment of: good",
        "Sentiment of: bad",
    ]


def test_rows_of_a_batch_file_keep_their_bodies(llmbatch_here: Run, tmp_path: Path) -> None:
    """A row that is a batch row already gets an id of ours; its body stays as it is, byte for byte."""
    body = '{"model": "gpt-5-mini", "input": "x", "n": 1.10}'
    write(
        tmp_path / "b0.jsonl", [f'{{"custom_id": "mine", "method": "POST", "url": "/v1/embeddings", "body": {body}}}']
    )

    llmbatch_here("convert", "b0.jsonl", "--to", "openai", "-o", "b.jsonl")

    text = (tmp_path / "b.jsonl").read_text()
    assert f'"url":"/v1/embeddings","body":{body}}}' in text
    assert "mine" not in text


def test_large_inputs_make_numbered_files(llmbatch_here: Run, prompts: Path, tmp_path: Path) -> None:
    """``--chunk-rows`` and ``--chunk-mb`` bound each; no row is in two, none is missing."""
    flags = (("--chunk-rows", "4"), ("--chunk-mb", "0.0005"))
    for number, chunk in enumerate(flags):
        done = llmbatch_here("convert", "p.jsonl", "--to", "openai", *OPENAI, *chunk, "-o", f"b{number}.jsonl")
        assert done.returncode == 0, done.stderr

    by_rows = sorted(tmp_path.glob("b0*"))
    by_size = sorted(tmp_path.glob("b1*"))
    assert [(path.name, len(lines_of(path))) for path in by_rows] == [("b0-00001.jsonl", 4), ("b0-00002.jsonl", 2)]
    assert all(path.stat().st_size <= 500 for path in by_size)
    for paths in (by_rows, by_size):
        lines = [line for path in paths for line in lines_of(path)]
        assert [line["custom_id"].split("-")[2] for line in lines] == ["1", "2", "3", "4", "5", "6"]


def test_each_model_has_files_of_its_own(llmbatch_here: Run, tmp_path: Path) -> None:
    """OpenAI refuses a file with two models: rows are parted by model, in order."""
    models = ["openai/a", "openai/b", "openai/a", "openai/b", "openai/a"]
    write(tmp_path / "m.jsonl", [{"prompt": f"row {at}", "model": model} for at, model in enumerate(models)])

    done = llmbatch_here("convert", "m.jsonl", "--to", "openai", "-o", "b.jsonl")

    files = [lines_of(tmp_path / f"b-0000{number}.jsonl") for number in (1, 2)]
    assert done.returncode == 0, done.stderr
    assert [[line["body"]["model"] for line in lines] for lines in files] == [["a"] * 3, ["b"] * 2]


def test_rows_that_cannot_be_requests_are_left_out_and_told(llmbatch_here: Run, tmp_path: Path) -> None:
    """Exit code 1; the other rows are written."""
    write(tmp_path / "m.jsonl", [{"prompt": "one"}, "{", {"prompt": "three"}])

    done = llmbatch_here("convert", "m.jsonl", "--to", "openai", *OPENAI, "-o", "b.jsonl")

    assert done.returncode == 1
    assert "left out: 1 row with input_bad_json (2)" in done.stderr
    assert [line["custom_id"].split("-")[2] for line in lines_of(tmp_path / "b.jsonl")] == ["1", "3"]


def test_a_row_that_is_too_large_is_left_out(llmbatch_here: Run, tmp_path: Path) -> None:
    """A file that it alone would overfill is not written."""
    write(tmp_path / "m.jsonl", [{"prompt": "one"}, {"prompt": "x" * 2000}])

    done = llmbatch_here("convert", "m.jsonl", "--to", "openai", *OPENAI, "--chunk-mb", "0.001", "-o", "b.jsonl")

    assert done.returncode == 1
    assert "too_large (2)" in done.stderr
    assert len(lines_of(tmp_path / "b.jsonl")) == 1


@pytest.mark.slow  # starts two commands, to see their standard output
def test_standard_output_takes_one_file(llmbatch_process: Run, prompts: Path) -> None:
    """Its lines only; several files are refused."""
    one = llmbatch_process("convert", "p.jsonl", "--to", "openai", *OPENAI, "-o", "-")
    two = llmbatch_process("convert", "p.jsonl", "--to", "openai", *OPENAI, "--chunk-rows", "3", "-o", "-")

    assert one.returncode == 0
    assert len(one.stdout.splitlines()) == 6
    assert (two.returncode, two.stdout) == (2, "")
    assert "the rows make 2 files" in two.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("p.jsonl",), "neither --to nor --from"),
        (("p.jsonl", "--to", "openai", "--from", "openai"), "contradict each other"),
        (("p.jsonl", "--to", "gemini", "-o", "b.jsonl"), "--to gemini: there is no such form"),
        (("p.jsonl", "--from", "gemini"), "--from gemini: there is no such form"),
        (("--to", "openai", "-o", "b.jsonl"), "no input to convert"),
        (("p.jsonl", "q.jsonl", "--to", "openai", "-o", "b.jsonl"), "one input, and 2 are given"),
        (("p.jsonl", "--to", "openai"), "no file to write to"),
        (("--from", "openai", "-i", "p.jsonl"), "no results to convert"),
        (("r.jsonl", "--from", "openai"), "the input that the results belong to is not named"),
        (("-", "--to", "openai", "-o", "b.jsonl"), "standard input can be read once"),
        (("p.jsonl", "--to", "openai", *OPENAI, "-o", "p.jsonl"), "is the input itself"),
        (("p.jsonl", "--to", "openai", *OPENAI, "-o", "b.jsonl.gz"), "are not compressed"),
        (("p.jsonl", "--to", "openai", *OPENAI, "-o", "b.json"), "are JSON Lines"),
        (("p.jsonl", "--to", "openai", "-m", "pool/x", "-o", "b.jsonl"), "is a pool"),
        (("p.jsonl", "--to", "openai", *CLAUDE, "-o", "b.jsonl"), "p.jsonl:1: the row is for the endpoint messages"),
        (("p.jsonl", "--to", "openai", "-o", "b.jsonl"), "no model"),
        (("none.jsonl", "--to", "openai", *OPENAI, "-o", "b.jsonl"), "none.jsonl"),
        (("none.jsonl", "--from", "openai", "-i", "p.jsonl", *OPENAI), "none.jsonl: cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    llmbatch_here: Run, prompts: Path, tmp_path: Path, two_lines: TwoLines, words: tuple[str, ...], error: str
) -> None:
    """Exit code 2, what is wrong and what to type; nothing is written."""
    done = llmbatch_here("convert", *words)

    assert done.returncode == 2, done.stderr
    assert error in two_lines(done.stderr)[0]
    assert [path.name for path in tmp_path.glob("*.json*")] == ["p.jsonl"]


@pytest.mark.parametrize("to", ["openai", "anthropic"])
def test_a_row_that_asks_for_a_stream_is_left_out(llmbatch_here: Run, tmp_path: Path, to: str) -> None:
    """No batch can give one."""
    body = {
        "model": "gpt-5-mini" if to == "openai" else "claude-x",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "x"}],
    }
    rows: list[Line] = [{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}]
    rows.append({**rows[0], "body": body | {"stream": True}})
    if to == "anthropic":
        rows = [{"custom_id": "a", "params": row["body"]} for row in rows]
    write(tmp_path / "p.jsonl", rows)

    done = llmbatch_here("convert", "p.jsonl", "--to", to, "-m", f"{to}/x", "-o", "b.jsonl")

    assert done.returncode == 1, done.stderr
    assert "left out: 1 row with" in done.stderr
    assert "stream" in done.stderr
    assert len(lines_of(tmp_path / "b.jsonl")) == 1


def test_existing_files_are_not_replaced_unless_asked(llmbatch_here: Run, prompts: Path, tmp_path: Path) -> None:
    """Also where only one of several exists: then none is written."""
    write(tmp_path / "b-00002.jsonl", ["mine"])
    words = ("convert", "p.jsonl", "--to", "openai", *OPENAI, "--chunk-rows", "3", "-o", "b.jsonl")

    refused = llmbatch_here(*words)
    left = sorted(path.name for path in tmp_path.glob("b-*"))
    done = llmbatch_here(*words, "--overwrite")

    assert (refused.returncode, left, done.returncode) == (2, ["b-00002.jsonl"], 0)
    assert "b-00002.jsonl: exists already" in refused.stderr
    assert len(lines_of(tmp_path / "b-00002.jsonl")) == 3


# Results into the lines of a run.


def test_results_become_lines_with_the_rows_own_names(ids: Ids, back: Back, tmp_path: Path) -> None:
    """In any order: id, metadata, answer, usage, and the price of a batch."""
    names = ids()

    done = back([answer(name, f"text of {name}") for name in reversed(names)])

    lines = rows_of(tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert "6 new lines in out.jsonl: 6 success, 0 failed" in done.stderr
    assert [lines[number]["id"] for number in range(1, 7)] == [f"r{number}" for number in range(1, 7)]
    assert lines[3]["text"] == f"text of {names[2]}"
    assert lines[3]["metadata"] == {"n": 3}
    assert (lines[3]["model"], lines[3]["status"], lines[3]["attempts"]) == ("openai/gpt-5-mini", "success", 1)
    assert lines[3]["response"]["request_id"] == "req_1"
    assert lines[3]["via"] == "batch"
    assert lines[3]["cost_usd"] == pytest.approx(0.5 * (0.25 + 2.0) / 1000)


def test_failed_rows_have_their_error_and_rows_that_did_not_run_have_none(ids: Ids, back: Back, tmp_path: Path) -> None:
    """Of rows that expired, are missing, or may succeed when sent again, the next run is told; exit code 75."""
    names = ids()
    lines = [answer(names[0]), refusal(names[1]), expired(names[2]), refusal(names[3], 503, "overloaded", "busy")]

    done = back(lines)

    found = rows_of(tmp_path / "out.jsonl")
    assert done.returncode == 75
    assert set(found) == {1, 2}
    assert (found[2]["status"], found[2]["error"]["code"]) == ("failed", "context_length_exceeded")
    assert "4 of 6 rows have no line yet: 1 batch_expired, 1 overloaded, 2 without a result" in done.stderr
    assert "hint: llmbatch run p.jsonl -o out.jsonl -m openai/gpt-5-mini sends them" in done.stderr


def test_all_rows_with_lines_but_one_failed_is_exit_code_1(ids: Ids, back: Back) -> None:
    """As for a run."""
    names = ids()

    done = back([*map(answer, names[:5]), refusal(names[5])])

    assert done.returncode == 1


def test_bad_lines_are_dropped_and_told(ids: Ids, back: Back, prompts: Path, tmp_path: Path) -> None:
    """Duplicates: the first counts. Foreign, torn and edited lines change nothing."""
    names = ids()
    other = names[0].replace("-1-", "-99-")
    torn = json.dumps(answer(names[4]))[:40]
    lines = [answer(names[0], "first"), answer(names[0], "second"), answer("mine"), answer(other)]
    edited = prompts.read_text().replace("Tell of row 2", "Tell of another row")
    prompts.write_text(edited)

    done = back([*lines, answer(names[1]), answer(names[2]), torn])

    found = rows_of(tmp_path / "out.jsonl")
    assert done.returncode == 75
    assert set(found) == {1, 3}
    assert found[1]["text"] == "first"
    assert "dropped: 1 line no results, such as the end of a torn download" in done.stderr
    assert "dropped: 2 lines of no row of the input" in done.stderr
    assert "dropped: 1 line of rows that were edited" in done.stderr


def test_an_answer_of_any_file_wins_over_a_failure(ids: Ids, llmbatch_here: Run, prompts: Path, tmp_path: Path) -> None:
    """A failed row that was submitted once more by hand keeps its answer, whichever file comes first."""
    names = ids()
    write(tmp_path / "one.jsonl", [refusal(names[0], 400, "invalid_value", "no"), *map(answer, names[1:3])])
    with gzip.open(tmp_path / "two.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(answer(name)) + "\n" for name in [names[0], *names[3:]])

    done = llmbatch_here(
        "convert", "--from", "openai", "one.jsonl", "two.jsonl.gz", "-i", "p.jsonl", *OPENAI, "-o", "out.jsonl"
    )

    assert done.returncode == 0, done.stderr
    assert {line["status"] for line in rows_of(tmp_path / "out.jsonl").values()} == {"success"}


def test_converting_again_adds_what_is_new(ids: Ids, back: Back, tmp_path: Path) -> None:
    """Lines that are there stay as they are; the same results add nothing."""
    names = ids()

    back([answer(names[0], "first")])
    again = back([answer(names[0], "second"), answer(names[1])])
    nothing = back([answer(names[1])])

    found = rows_of(tmp_path / "out.jsonl")
    assert (set(found), found[1]["text"]) == ({1, 2}, "first")
    assert "1 new line" in again.stderr
    assert "1 row had a line already" in again.stderr
    assert "0 new lines" in nothing.stderr


def test_results_of_other_settings_or_another_input_are_refused(
    ids: Ids, back: Back, two_lines: TwoLines, tmp_path: Path
) -> None:
    """Exit code 2 that says to type the same flags; no output is made."""
    names = ids()
    for flags in (("-m", "openai/other"), (*OPENAI, "-s", "Be brief"), (*OPENAI, "-P", "temperature=0")):
        done = back([answer(names[0])], *flags)

        assert done.returncode == 2
        assert "of another input, or of another model" in two_lines(done.stderr)[0]
    foreign = back([answer("mine")])
    wrong = back([message(names[0])])
    empty = back([])

    assert "no custom_id in it is llmbatch's" in foreign.stderr
    assert "no line is a result in the form of --from openai" in wrong.stderr
    assert "there are no results in it" in empty.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_no_row_is_marked_failed_where_all_were_refused(ids: Ids, back: Back, tmp_path: Path) -> None:
    """No credit looks like bad rows: exit code 3, no line, and the reason."""
    openai_names, names = ids(), ids(to="anthropic")

    done = back([errored(name, text=NO_CREDIT) for name in names], form="anthropic")
    other = back([refusal(name, 400, "invalid_request", "bad") for name in openai_names])

    assert (done.returncode, other.returncode) == (3, 3)
    assert f"every row was refused, so none is marked failed: {NO_CREDIT}" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_a_row_that_is_refused_beside_others_that_succeeded_has_failed(ids: Ids, back: Back, tmp_path: Path) -> None:
    """Its error is in its line."""
    names = ids(to="anthropic")
    lines = [*map(message, names[:3]), errored(names[3])]
    lines += [{"custom_id": names[4], "result": {"type": "expired"}}]
    lines += [errored(names[5], "overloaded_error", "Overloaded")]

    done = back(lines, form="anthropic")

    found = rows_of(tmp_path / "out.jsonl")
    assert done.returncode == 75
    assert {number: line["status"] for number, line in found.items()} == {
        **dict.fromkeys((1, 2, 3), "success"),
        4: "failed",
    }
    assert found[4]["error"]["message"] == "prompt is too long"
    assert found[1]["text"] == "fine"
    assert "1 expired" in done.stderr


def test_results_of_vllm_are_read(llmbatch_here: Run, prompts: Path, tmp_path: Path) -> None:
    """As ``vllm run-batch`` writes them; an error may be a text. No batch API was used, so no line says so."""
    flags = ("-m", "vllm/my-model")
    llmbatch_here("convert", "p.jsonl", "--to", "openai", *flags, "-o", "b.jsonl")
    names = [line["custom_id"] for line in lines_of(tmp_path / "b.jsonl")]
    bad = {"id": "vllm-1", "custom_id": names[5], "error": "This model's maximum context length is 5 tokens"}
    bad["response"] = {"status_code": 400, "request_id": "vllm-batch-1", "body": None}
    write(tmp_path / "v.jsonl", [*map(answer, names[:5]), bad])

    done = llmbatch_here("convert", "--from", "vllm", "v.jsonl", "-i", "p.jsonl", *flags, "-o", "out.jsonl")

    found = rows_of(tmp_path / "out.jsonl")
    assert done.returncode == 1, done.stderr
    assert (found[6]["status"], found[6]["error"]["code"]) == ("failed", "context_length_exceeded")
    assert "maximum context length" in found[6]["error"]["message"]
    assert "via" not in found[1]


def test_answers_are_checked_against_the_schema(ids: Ids, back: Back, tmp_path: Path) -> None:
    """Good lines have ``parsed``; a misfit may fit when the run asks again, so it has no line yet."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    (tmp_path / "s.json").write_text(json.dumps(schema))
    flags = (*OPENAI, "--schema", "s.json")
    names = ids(*flags)

    done = back([answer(names[0], '{"n": 1}'), answer(names[1], "no")], *flags)

    found = rows_of(tmp_path / "out.jsonl")
    assert done.returncode == 75
    assert found[1]["parsed"] == {"n": 1}
    assert 2 not in found or found[2]["error"]["code"] == "schema_mismatch"


def test_an_output_that_is_not_ours_is_left_alone(ids: Ids, back: Back, tmp_path: Path) -> None:
    """Exit code 2, unchanged."""
    names = ids()
    write(tmp_path / "out.jsonl", ["mine"])

    done = back([answer(names[0])])

    assert done.returncode == 2
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"


def test_status_reads_a_converted_output(ids: Ids, back: Back, llmbatch_here: Run) -> None:
    """Though no run has written it."""
    names = ids()
    back([*map(answer, names[:5]), refusal(names[5])])

    done = llmbatch_here("status", "out.jsonl", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failures"][0]["code"] == "context_length_exceeded"


def test_a_converted_output_knows_its_input_its_rows_and_its_command(
    ids: Ids, back: Back, llmbatch_here: Run, tmp_path: Path
) -> None:
    """As one that a run has written; `export --join` did not know which input it was made from."""
    names = ids()
    back([*map(answer, names[:4]), refusal(names[4])])

    status = json.loads(llmbatch_here("status", "out.jsonl", "--json").stdout)
    joined = llmbatch_here("export", "out.jsonl", "--join", "-o", "x.jsonl")
    back([answer(names[5])])
    again = json.loads(llmbatch_here("status", "out.jsonl", "--json").stdout)

    assert (status["rows"], status["success"], status["failed"], status["total_rows"]) == (5, 4, 1, 6)
    assert status["command"] == "llmbatch run p.jsonl -o out.jsonl -m openai/gpt-5-mini"
    assert status["exit_code"] == 75
    assert joined.returncode == 0, joined.stderr
    assert "exported 5 of 6 rows (1 not finished)" in joined.stderr
    assert lines_of(tmp_path / "x.jsonl")[0]["prompt"] == "Tell of row 1"
    assert (again["rows"], again["total_rows"], again["exit_code"]) == (6, 6, 1)
    assert again["began"] == status["began"] < again["ended"]


@pytest.mark.slow  # starts a server and four commands
def test_a_batch_by_hand_is_continued_by_a_run(llmbatch: Run, tmp_path: Path, environment: dict[str, str]) -> None:
    """Converted, submitted with the official client, expired half way, converted back, and the rest sent live."""
    write(tmp_path / "p.jsonl", [{"id": f"r{number}", "prompt": f"Tell of row {number}"} for number in range(1, 41)])
    faults = '[[batch.faults]]\nkind = "expire"\nshare = 0.5'
    (tmp_path / "half.toml").write_text(f"[batch]\nwindow_s = 2\nvalidate_s = 0\n{faults}\n")
    serve = [sys.executable, "-m", "llmbatch", "sim", "serve", "--port", "0", "--scenario", "half.toml"]
    model = ("-m", "sim/small")
    with subprocess.Popen(serve, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            made = llmbatch("convert", "p.jsonl", "--to", "openai", *model, "-o", "b.jsonl")
            client = openai.OpenAI(base_url=url, api_key="any")
            file = client.files.create(file=(tmp_path / "b.jsonl").open("rb"), purpose="batch")
            batch = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            while (batch := client.batches.retrieve(batch.id)).status != "expired":
                pass
            for name, file_id in (("out", batch.output_file_id), ("err", batch.error_file_id)):
                (tmp_path / f"{name}-results.jsonl").write_bytes(client.files.content(file_id or "").content)
        finally:
            server.terminate()
    results = ("out-results.jsonl", "err-results.jsonl")

    converted = llmbatch("convert", "--from", "openai", *results, "-i", "p.jsonl", "-o", "o.jsonl", *model)
    half = len(rows_of(tmp_path / "o.jsonl"))
    run = llmbatch("run", "p.jsonl", "-o", "o.jsonl", *model)

    assert made.returncode == 0, made.stderr
    assert (converted.returncode, half) == (75, 20)
    assert "20 batch_expired" in converted.stderr
    assert run.returncode == 0, run.stderr
    lines = rows_of(tmp_path / "o.jsonl")
    assert sorted(line["id"] for line in lines.values()) == sorted(f"r{number}" for number in range(1, 41))
    assert [line.get("via") for line in lines.values()].count("batch") == 20


@pytest.mark.slow  # 120,000 rows both ways take some 20 s of CPU
@pytest.mark.timeout(600)
@pytest.mark.parametrize("few_rows", [4_000, pytest.param(20_000, marks=pytest.mark.long)])
@pytest.mark.skipif(sys.platform == "win32", reason="needs os.wait4 to read a process's peak")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, environment: dict[str, str], few_rows: int) -> None:
    """Five times the rows, in five times the files, take at most a tenth more, in both directions."""
    peaks = {}
    for count in (few_rows, 5 * few_rows):
        folder = tmp_path / str(count)
        folder.mkdir()
        write(folder / "p.jsonl", [{"prompt": f"Tell of row {number}"} for number in range(count)])
        words = ["p.jsonl", "--to", "openai", *OPENAI, "-o", "b.jsonl", "--chunk-rows", str(few_rows)]
        to = _peak(["convert", *words], folder, environment)
        results = []
        for path in sorted(folder.glob("b*.jsonl")):
            results.append(f"results-{path.name}")
            with path.open() as requests, (folder / results[-1]).open("w") as file:
                file.writelines(json.dumps(answer(json.loads(line)["custom_id"])) + "\n" for line in requests)
        words = ["--from", "openai", *results, "-i", "p.jsonl", "-o", "o.jsonl", *OPENAI]
        peaks[count] = to, _peak(["convert", *words], folder, environment)

    for few, many in zip(peaks[few_rows], peaks[5 * few_rows], strict=True):
        assert many <= 1.1 * few, peaks


_MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _peak(words: list[str], folder: Path, environment: dict[str, str]) -> int:
    """The most memory that a command takes, in bytes; started by a small process, whose own memory it has at first."""
    words = [sys.executable, "-c", _MEASURE, sys.executable, "-m", "llmbatch", *words]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
