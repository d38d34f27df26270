"""CSV, JSON arrays, Parquet and text through the command and real HTTP: templates, kills, edits, outages."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_recorder import Answer, Arrival, Recorder, answer, error

pytestmark = pytest.mark.slow  # each test starts the command

ROOT = Path(__file__).resolve().parents[2]
Here = Callable[..., subprocess.CompletedProcess[str]]
KINDS = ["csv", "csv.gz", "tsv", "json", "parquet", "txt"]


def write(path: Path, texts: list[str]) -> None:
    """A file of records in the format of its ending: an id, a text and a label each; of text the text alone."""
    rows = [{"id": f"r{number}", "text": text, "label": number % 3} for number, text in enumerate(texts, 1)]
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=16)
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif kind == "txt":
        path.write_text("\n\n".join(texts) + "\n")
    else:
        mark = "\t" if kind == "tsv" else ","
        quoted = [mark.join((str(row["id"]), f'"{row["text"]}"', str(row["label"]))) for row in rows]
        text = "\r\n".join([mark.join(("id", "text", "label")), *quoted, ""])
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())


class Folder:
    """The command in a folder, and the server that it sends to."""

    def __init__(self, path: Path, here: Here) -> None:
        self.path = path
        self.here = here
        self.server = Recorder()
        kept = {
            name: os.environ[name]
            for name in ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_START", "COVERAGE_FILE")
            if name in os.environ
        }
        self.environ = kept | {
            "HOME": str(path),
            "LANG": "C.UTF-8",
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": self.server.url,
        }

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "llmbatch", *arguments]
        return subprocess.Popen(
            command, cwd=self.path, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *arguments: str, code: int = 0, stdin: bytes = b"") -> str:
        """What ``llmbatch`` says with these arguments; it must end with *code*.

        Within this process, which has no standard input to give.
        """
        if not stdin:
            here = self.here(self.path, self.environ, *arguments)
            assert here.returncode == code, here.stdout + here.stderr
            return here.stdout + here.stderr
        command = [sys.executable, "-m", "llmbatch", *arguments]
        done = subprocess.run(
            command, cwd=self.path, env=self.environ, input=stdin, capture_output=True, timeout=240, check=False
        )
        said = done.stdout.decode() + done.stderr.decode()
        assert done.returncode == code, said
        return said

    def lines(self, name: str = "p.results.jsonl") -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.path / name).read_text().splitlines()]
        return sorted(lines, key=lambda line: int(line["row"]))

    def prompts(self) -> Counter[str]:
        """What arrived, without canaries: the content of each request's only message."""
        bodies = [json.loads(body) for body in self.server.bodies]
        return Counter(body["messages"][0]["content"] for body in bodies)


@pytest.fixture
def folder(tmp_path: Path, command_here: Here) -> Iterator[Folder]:
    found = Folder(tmp_path, command_here)
    yield found
    found.server.close()


RUN = ("-m", "openai/gpt", "-t", "Sentiment of: {{ text }}", "-q")


@pytest.mark.parametrize("kind", KINDS)
def test_each_format_is_sent_by_a_template_and_resumes_after_a_kill(folder: Folder, kind: str) -> None:
    """Every record once, but for what was in flight; then nothing more, and status and check know it."""
    texts = [f"text {number}, with a comma" for number in range(1, 101)]
    write(folder.path / f"p.{kind}", texts)
    folder.server.delay = 0.05
    process = folder.start("run", f"p.{kind}", *RUN, "-c", "4")
    deadline = time.monotonic() + 120
    while folder.server.count < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder.server.delay = 0.0
    kept = len((folder.path / "p.results.jsonl").read_bytes().splitlines())

    folder.run("run", f"p.{kind}", *RUN)
    sent = folder.prompts()
    folder.run("run", f"p.{kind}", *RUN)

    assert 0 < kept < 100
    assert set(sent) == {f"Sentiment of: {text}" for text in texts}
    assert sum(sent.values()) <= 100 + 5
    assert folder.prompts() == sent
    lines = folder.lines()
    assert [line["row"] for line in lines] == list(range(1, 101))
    assert {line["status"] for line in lines} == {"success"}
    names = [f"row-{number}" if kind == "txt" else f"r{number}" for number in range(1, 101)]
    assert [line["id"] for line in lines] == names
    assert "100 rows: 100 success, 0 failed" in folder.run("status", f"p.{kind}")
    assert "100 success, 0 failed" in folder.run("check", f"p.{kind}", *RUN[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_record_is_refused_by_its_number_and_new_ones_are_sent(folder: Folder, kind: str) -> None:
    """Nothing is sent for the edit; records after the last are simply new."""
    path = folder.path / f"p.{kind}"
    write(path, ["a", "b", "c"])
    folder.run("run", path.name, *RUN)

    write(path, ["a", "B", "c", "d"])
    said = folder.run("run", path.name, *RUN, code=2)
    refused = folder.server.count
    write(path, ["a", "b", "c", "d"])
    folder.run("run", path.name, *RUN)

    assert f"error: p.{kind}:2: this row has changed since its result was written" in said
    assert refused == 3
    assert folder.prompts() == Counter(f"Sentiment of: {text}" for text in "abcd")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_parked_in_an_outage_are_read_again(folder: Folder, kind: str) -> None:
    """Far more rows than are kept in memory: the circuit opens, rows are skipped, and another pass sends them."""
    texts = [f"text {number} " + "x" * 3000 for number in range(1, 401)]
    write(folder.path / f"p.{kind}", texts)
    outage = iter(range(14))

    def respond(arrival: Arrival) -> Answer:
        down = folder.server.count > 20 and next(outage, None) is not None
        return error(503, "overloaded_error", "down") if down else answer(arrival)

    folder.server.respond = respond
    folder.run("run", f"p.{kind}", *RUN, "-c", "8", "--recovery-timeout", "1", "--failure-threshold", "3")

    lines = folder.lines()
    assert [line["row"] for line in lines] == list(range(1, 401))
    assert {line["status"] for line in lines} == {"success"}
    assert set(folder.prompts()) >= {f"Sentiment of: {text}" for text in texts}


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_rows_of_a_route_that_is_down_are_skipped_and_sent_in_another_pass(folder: Folder, kind: str) -> None:
    """A healthy route goes on: with ten times the rows that may wait in memory, both end whole."""
    rows = [{"id": f"r{number}", "prompt": f"p{number}", "model": f"m{number % 2}"} for number in range(1, 3001)]
    path = folder.path / f"p.{kind}"
    if kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("id,prompt,model\n" + "".join(f"{row['id']},{row['prompt']},{row['model']}\n" for row in rows))
    answered = Counter[str]()

    def respond(arrival: Arrival) -> Answer:
        model = json.loads(arrival.body)["model"]
        if model == "m1" and answered["m0"] < 1400:
            return error(503, "overloaded_error", "down")
        answered[model] += 1
        return answer(arrival)

    folder.server.respond = respond
    folder.run("run", path.name, "-m", "openai/gpt", "-q", "-c", "8", "--recovery-timeout", "1")

    lines = folder.lines()
    assert [line["row"] for line in lines] == list(range(1, 3001))
    assert Counter((line["status"], line["model"]) for line in lines) == {
        ("success", "openai/m0"): 1500,
        ("success", "openai/m1"): 1500,
    }


PARAMETERS: dict[str, Any] = {
    "temperature": 0.50,
    "top_p": 0.9,
    "max_tokens": 7,
    "stop": ["END"],
    "seed": 12345678901234567890,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_object"},
    "reasoning_effort": "low",
    "service_tier": "auto",
}


@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
@pytest.mark.parametrize(
    "by", [("-t", "Sentiment of: {{ text }}"), ("--prompt-column", "text")], ids=["template", "column"]
)
def test_the_parameters_of_a_json_row_are_sent_beside_its_template(
    folder: Folder, name: str, by: tuple[str, ...]
) -> None:
    """So are its system prompt and model; what else the row has, its own prompt included, is not, and -P comes last."""
    row = PARAMETERS | {"text": "fine", "prompt": "own", "n": 3, "logit_bias": {"1": 2}, "label": "x", "user": "me"}
    row |= {"system": "Be brief.", "model": "gpt-other", "id": "a", "metadata": {"k": 1}}
    (folder.path / name).write_text(json.dumps(row) if name == "p.jsonl" else json.dumps([row]))

    folder.run("run", name, "-m", "openai/gpt", *by, "-P", "presence_penalty=1", "--keep", "label", "-q")

    sent = json.loads(folder.server.bodies[0])
    prompt = "Sentiment of: fine" if by[0] == "-t" else "fine"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    assert sent == PARAMETERS | {"model": "gpt-other", "messages": messages, "presence_penalty": 1}
    assert folder.lines()[0]["metadata"] == {"k": 1, "label": "x"}


def test_a_parameter_that_the_template_has_is_not_sent(folder: Folder) -> None:
    """It is a word of the prompt then, as is that of a whole record."""
    (folder.path / "p.jsonl").write_text('{"seed": 7, "temperature": 0.1, "top_k": 3}\n')

    folder.run("run", "p.jsonl", "-m", "openai/gpt", "-t", "Plant {{ seed }}, {{ row.temperature }}", "-q")

    sent = json.loads(folder.server.bodies[0])
    assert sent["messages"][0]["content"] == "Plant 7, 0.1"
    assert "seed" not in sent
    assert sent["temperature"] == 0.1


def test_bad_records_fail_alone_and_are_sent_once_they_are_corrected(folder: Folder) -> None:
    """A ragged record, a NUL and bytes of another encoding; --strict refuses them all."""
    path = folder.path / "p.csv"
    path.write_bytes(b"id,prompt\na,one\nb\nc,t\0wo\nd,\xff\ne,\nf,six\n")

    strict = folder.run("run", "p.csv", "-m", "openai/gpt", "--strict", "-q", code=2)
    folder.run("run", "p.csv", "-m", "openai/gpt", "-q", code=1)
    codes = [(line["error"] or {}).get("code") for line in folder.lines()]
    path.write_bytes(b"id,prompt\na,one\nb,two\nc,three\nd,four\ne,five\nf,six\n")
    folder.run("run", "p.csv", "-m", "openai/gpt", "-q")

    assert "record 2: input_bad_csv: the record has 1 cell, and the header 2; record 3: input_bad_csv" in strict
    assert codes == [None, "input_bad_csv", "input_bad_csv", "input_bad_utf8", "input_no_prompt", None]
    assert folder.prompts() == Counter(["one", "two", "three", "four", "five", "six"])
    assert [line["id"] for line in folder.lines()] == list("abcdef")


def test_an_open_quote_takes_the_rest_of_the_file_and_is_told(folder: Folder) -> None:
    """Nobody can tell where that record ends, or whether more follows: it waits, and is sent once it is closed."""
    path = folder.path / "p.csv"
    path.write_bytes(b'id,prompt\na,one\nb,"two\nc,three\n')

    checked = folder.run("check", "p.csv", "-m", "openai/gpt", code=1)
    said = folder.run("run", "p.csv", "-m", "openai/gpt", "--progress", "plain", code=75)
    quiet = folder.run("run", "p.csv", "-m", "openai/gpt", "-q", code=75)
    path.write_bytes(b'id,prompt\na,one\nb,"two"\nc,three\n')
    folder.run("run", "p.csv", "-m", "openai/gpt", "-q")

    assert "record 2, the last one, has no end (is a quote not closed?)" in checked
    assert "p.csv:2: the last record is cut off, or has a quote that is not closed: it gets no result yet" in said
    assert "a quote that is not closed takes in all that follows it" in said
    assert "error: p.csv:2: the last record is cut off, or has a quote that is not closed\n" in quiet
    assert "hint: run the same command again once it is complete; a quote" in quiet
    assert folder.prompts() == Counter(["one", "two", "three"])


def test_kept_columns_are_in_the_lines_and_no_other_is_sent_or_told(folder: Folder) -> None:
    """A column called temperature is data."""
    path = folder.path / "p.csv"
    path.write_text("prompt,label,temperature\nhello,good,hot\n")

    said = folder.run("run", "p.csv", "-m", "openai/gpt", "--keep", "label", "--progress", "plain")

    assert json.loads(folder.server.bodies[0]) == {
        "model": "gpt",
        "messages": [{"role": "user", "content": "hello"}],
    }
    assert folder.lines()[0]["metadata"] == {"label": "good"}
    assert "not sent" not in said


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("-t", "A {{ text }}"), ("-t", "B {{ text }}")),
        (("-t", "{{ text }}"), ("--prompt-column", "text")),
        (("--prompt-column", "text"), ("--prompt-column", "text", "--keep", "label")),
        (("--prompt-column", "text"), ("--prompt-column", "text", "--system-column", "label")),
    ],
)
def test_another_template_on_the_same_output_is_refused_without_force(
    folder: Folder, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    """As another system prompt is; check says the same."""
    write(folder.path / "p.csv", ["a", "b"])
    folder.run("run", "p.csv", "-m", "openai/gpt", "-q", "-n", "1", *first)

    said = folder.run("run", "p.csv", "-m", "openai/gpt", "-q", *second, code=2)
    checked = folder.run("check", "p.csv", "-m", "openai/gpt", *second, code=2)
    folder.run("run", "p.csv", "-m", "openai/gpt", "-q", *second, "--force")

    assert "template or schema" in said
    assert "template or schema" in checked
    assert len(folder.lines()) == 2


@pytest.mark.parametrize("kind", ["csv", "json", "txt"])
def test_standard_input_has_a_format_too(folder: Folder, kind: str) -> None:
    """Rows wait in the spool through an outage."""
    write(folder.path / f"p.{kind}", [f"text {number}" for number in range(1, 101)])

    def respond(arrival: Arrival) -> Answer:
        return error(503, "overloaded_error", "down") if 20 < folder.server.count < 34 else answer(arrival)

    folder.server.respond = respond
    text = (folder.path / f"p.{kind}").read_bytes()
    arguments = ("run", "-", "--input-format", kind, "-o", "o.jsonl", *RUN, "--recovery-timeout", "1")
    folder.run(*arguments, stdin=text)
    folder.run(*arguments, stdin=text)

    assert [line["row"] for line in folder.lines("o.jsonl")] == list(range(1, 101))
    assert {line["status"] for line in folder.lines("o.jsonl")} == {"success"}
    assert set(folder.prompts()) >= {f"Sentiment of: text {number}" for number in range(1, 101)}


def test_a_file_that_is_cut_off_ends_the_run_after_its_records(folder: Folder) -> None:
    """Exit code 2 and what is wrong; the same command goes on with the whole file."""
    content = gzip.compress(b"prompt\n" + b"".join(b"p%d\n" % number for number in range(1, 301)))
    path = folder.path / "p.csv.gz"
    path.write_bytes(content[:-12])

    said = folder.run("run", "p.csv.gz", "-m", "openai/gpt", "-q", code=2)
    path.write_bytes(content)
    folder.run("run", "p.csv.gz", "-m", "openai/gpt", "-q")

    assert "p.csv.gz: the gzip data ends early" in said
    assert [line["row"] for line in folder.lines()] == list(range(1, 301))
    assert set(folder.prompts().values()) == {1}


REFUSED: list[tuple[str, bytes, tuple[str, ...], str]] = [
    ("p.csv", b"id,text\n1,a\n", (), "no column is called prompt or messages"),
    ("p.csv", b"id,text\n1,a\n", ("--prompt-column", "txt"), "has no column 'txt' (--prompt-column)"),
    ("p.csv", b"prompt\na\n", ("--keep", "label"), "has no column 'label' (--keep)"),
    ("p.csv", b"prompt\na\n", ("-t", "{{ prompt"), "the template: line 1: "),
    ("p.csv", b"prompt\na\n", ("-t", "@none.txt"), "none.txt: the template cannot be read"),
    ("p.csv", b"prompt\na\n", ("-t", "{{ x }}", "--prompt-column", "prompt"), "two ways to make the prompt"),
    ("p.csv", b"prompt\na\n", ("-t", "{{ text }}"), "the only row is malformed: record 1: input_missing_field"),
    ("p.csv", b"a,a\n1,2\n", (), "columns 1 and 2 are both named 'a'"),
    ("p.csv", "prompt\na\n".encode("utf-16"), (), "the text is UTF-16"),
    ("p.json", b'[{"prompt":"a"}', (), "the JSON array is cut off after record 0"),
    ("p.parquet", b"prompt\na\n", (), "cannot be read as Parquet"),
    ("p.txt", b"\0\1\2\n", (), "malformed: record 1: input_bad_text"),
    ("p.csv", b"prompt\na\n", ("--input-format", "xlsx"), "--input-format is 'xlsx', must be one of jsonl, json, csv"),
]


@pytest.mark.parametrize(("name", "content", "arguments", "said"), REFUSED, ids=[case[3] for case in REFUSED])
@pytest.mark.parametrize("command", ["run", "check"])
def test_what_cannot_be_read_is_exit_2_before_anything_is_sent(
    folder: Folder, name: str, content: bytes, arguments: tuple[str, ...], said: str, command: str
) -> None:
    """With the file, the column or record, and what to type."""
    (folder.path / name).write_bytes(content)

    err = folder.run(command, name, "-m", "openai/gpt", *arguments, code=2)

    assert said in err
    assert "\nhint: " in err
    assert not folder.server.count
    assert not (folder.path / "p.results.jsonl").exists()


def test_the_first_command_of_the_page_and_its_python_run(tmp_path: Path) -> None:
    """``docs/data.md`` begins with it; each row of the example is asked by the template."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    words = shlex.split(page.split("```sh\n")[1].split("\n")[0])
    shutil.copy(ROOT / "examples" / "reviews.csv", tmp_path)
    (tmp_path / "page.py").write_text(page.split("```python\n")[1].split("```")[0] + "print(summary.exit_code)\n")
    environ = os.environ | {"LLMBATCH_PROGRESS": "none", "HOME": str(tmp_path)}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        return done.stdout

    assert words[0] == "llmbatch"
    run("-m", *words)
    lines = [json.loads(line) for line in (tmp_path / "reviews.results.jsonl").read_text().splitlines()]
    (tmp_path / "reviews.results.jsonl").unlink()
    said = run("page.py").splitlines()

    assert sorted(line["id"] for line in lines) == [f"r{number}" for number in range(1, 9)]
    assert {line["status"] for line in lines} == {"success"}
    assert sorted(said) == ["0", 'success {"stars":1}', 'success {"stars":5}']
