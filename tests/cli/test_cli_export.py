"""``llmbatch export``: whole commands on real files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
from cli_parts import Run, TwoLines

from llmbatch.core.calls import Usage
from llmbatch.core.rows import Result, encode_line
from llmbatch.inputs.rows import line_digest
from llmbatch.outputs.lock import open_locked
from llmbatch.storage.filesystem import FILESYSTEM

INPUTS = [
    b'{"id":"a","prompt":"one","label":"x","n":1.10}',
    b'{"id":"b","prompt":"two, \\"quoted\\"","label":"y","tags":["s","t"]}',
    b'{"id":"a","prompt":"three","text":"mine"}',
    b'{"id":4,"prompt":"four"}',
]


def result(number: int, **fields: object) -> Result:
    """The result of a row of ``INPUTS``, a success unless it says otherwise."""
    values: dict[str, object] = {
        "status": "success",
        "attempts": 1,
        "status_code": 200,
        "body": f'{{"id":"c{number}","big":123456789012345678901234567890,"price":1.10}}',
        "text": f"answer {number}",
        "usage": Usage(10 + number, 20),
        "model": "sim/steady",
        "metadata_json": f'{{"x":{number}}}',
    }
    raw = INPUTS[number - 1]
    name = json.dumps(json.loads(raw)["id"])
    return Result(number, line_digest(raw), id_json=name, **(values | fields))  # type: ignore[arg-type]


FAILED = {"status": "failed", "error_code": "timeout", "error_message": "no answer", "text": None, "usage": None}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """The input."""
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in INPUTS))
    return path


@pytest.fixture
def output(tmp_path: Path, prompts: Path) -> Path:
    """Its output, in another order than its rows; the second one has failed."""
    path = tmp_path / "p.results.jsonl"
    results = [result(3), result(1, text='line\nbreak, "q"'), result(4), result(2, **FAILED)]
    path.write_bytes(b"".join(map(encode_line, results)))
    return path


def records(path: Path) -> list[dict[str, str]]:
    """The records of a CSV file."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def lines(path: Path) -> list[dict[str, object]]:
    """The objects of a file of JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_is_exported_in_the_order_of_its_input(llmbatch_here: Run, tmp_path: Path, output: Path) -> None:
    """The default fields, all rows, by row number; the message says how many and where."""
    done = llmbatch_here("export", output.name, "-o", "x.csv")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "exported 4 rows to x.csv\n")
    assert (tmp_path / "x.csv").read_text() == (
        "id,status,text,error.code\n"
        'a,success,"line\nbreak, ""q""",\n'
        "b,failed,,timeout\n"
        "a,success,answer 3,\n"
        "4,success,answer 4,\n"
    )


def test_the_input_names_its_output_too(llmbatch_here: Run, tmp_path: Path, output: Path) -> None:
    """As for ``status``."""
    done = llmbatch_here("export", "p.jsonl", "-o", "x.jsonl")

    assert done.returncode == 0
    assert lines(tmp_path / "x.jsonl")[1] == {"id": "b", "status": "failed", "text": None, "error": {"code": "timeout"}}


def test_fields_reach_into_metadata_and_the_body(llmbatch_here: Run, tmp_path: Path, output: Path) -> None:
    """JSONL nests them again; CSV has their dotted names; numbers keep every digit."""
    fields = "id,usage.input_tokens,metadata.x,response.body.big,response.body.price"
    for name in ("x.jsonl", "x.csv"):
        assert llmbatch_here("export", output.name, "--fields", fields, "-o", name).returncode == 0

    assert (tmp_path / "x.jsonl").read_text().splitlines()[0] == (
        '{"id":"a","usage":{"input_tokens":11},"metadata":{"x":1},'
        '"response":{"body":{"big":123456789012345678901234567890,"price":1.10}}}'
    )
    assert records(tmp_path / "x.csv")[0] == {
        "id": "a",
        "usage.input_tokens": "11",
        "metadata.x": "1",
        "response.body.big": "123456789012345678901234567890",
        "response.body.price": "1.10",
    }


def test_rows_of_one_status(llmbatch_here: Run, tmp_path: Path, output: Path) -> None:
    """And how many of the others there are."""
    told = [llmbatch_here("export", output.name, "--status", s, "-o", f"{s}.csv") for s in ("success", "failed")]

    assert told[0].stderr == "exported 3 of 4 rows (1 failed) to success.csv\n"
    assert told[1].stderr == "exported 1 of 4 rows (3 succeeded) to failed.csv\n"
    assert [row["status"] for row in records(tmp_path / "failed.csv")] == ["failed"]
    assert [row["id"] for row in records(tmp_path / "success.csv")] == ["a", "a", "4"]


def test_openai_files_have_their_members_only(llmbatch_here: Run, tmp_path: Path, output: Path) -> None:
    """Both ids are text; the answer is as the provider sent it."""
    done = llmbatch_here("export", output.name, "--format", "openai", "-o", "batch.jsonl")

    assert done.returncode == 0
    found = lines(tmp_path / "batch.jsonl")
    assert [line["custom_id"] for line in found] == ["a", "b", "a", "4"]
    assert {tuple(line) for line in found} == {("id", "custom_id", "response", "error")}
    assert '"big":123456789012345678901234567890' in (tmp_path / "batch.jsonl").read_text()
    assert found[1]["error"] == {"code": "timeout", "message": "no answer"}


def test_join_adds_the_fields_of_the_input(llmbatch_here: Run, tmp_path: Path, output: Path) -> None:
    """They keep their names; results of the same name get a prefix; nested values are JSON text in CSV."""
    for name in ("x.csv", "x.jsonl"):
        done = llmbatch_here("export", "p.jsonl", "--join", "-o", name)
        assert (done.returncode, done.stderr) == (0, f"exported 4 rows to {name}\n")

    table = records(tmp_path / "x.csv")
    assert list(table[0]) == [
        "id",
        "prompt",
        "label",
        "n",
        "tags",
        "text",
        "result_id",
        "status",
        "result_text",
        "error.code",
    ]
    assert (table[0]["n"], table[1]["tags"], table[2]["text"]) == ("1.10", '["s","t"]', "mine")
    assert [row["result_text"] for row in table] == ['line\nbreak, "q"', "", "answer 3", "answer 4"]
    nested = lines(tmp_path / "x.jsonl")
    assert list(nested[1]) == ["id", "prompt", "label", "tags", "result_id", "status", "result_text", "error"]
    assert nested[1]["tags"] == ["s", "t"]


@pytest.mark.slow  # a process of its own, in another folder
def test_join_finds_the_input_that_the_run_recorded(llmbatch_here: Run, tmp_path: Path, prompts: Path) -> None:
    """Also from another folder, as the run's own folder is recorded."""
    (tmp_path / "sub").mkdir()
    llmbatch_here("run", "p.jsonl", "-m", "sim/steady", "-q", "-o", "sub/o.jsonl")

    done = llmbatch_here("export", "sub/o.jsonl", "--join", "-o", "x.jsonl")
    away = subprocess.run(
        [sys.executable, "-m", "llmbatch", "export", "../sub/o.jsonl", "--join", "-o", "y.jsonl"],
        cwd=tmp_path / "home",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "exported 4 rows to x.jsonl\n")
    assert (away.returncode, away.stderr) == (0, "exported 4 rows to y.jsonl\n")
    assert [line["prompt"] for line in lines(tmp_path / "x.jsonl")] == ["one", 'two, "quoted"', "three", "four"]
    assert (tmp_path / "x.jsonl").read_bytes() == (tmp_path / "home" / "y.jsonl").read_bytes()


def test_join_asks_for_an_input_that_it_cannot_find(
    llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path, output: Path
) -> None:
    """Not recorded, gone, or standard input: exit 2 with what to type, which then works."""
    unknown = llmbatch_here("export", output.name, "--join", "-o", "x.csv")
    given = llmbatch_here("export", output.name, "--join", "--input", "p.jsonl", "-o", "x.csv")

    error, hint = two_lines(unknown.stderr)
    assert unknown.returncode == 2
    assert "not recorded" in error
    assert "llmbatch export p.results.jsonl --join --input INPUT -o x.csv" in hint
    assert (given.returncode, len(records(tmp_path / "x.csv"))) == (0, 4)


def test_join_refuses_an_input_that_has_changed(
    llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path, prompts: Path, output: Path
) -> None:
    """By its hash, naming the row; no file is left."""
    prompts.write_bytes(prompts.read_bytes().replace(b"three", b"THREE"))

    done = llmbatch_here("export", "p.jsonl", "--join", "-o", "x.csv")

    error, hint = two_lines(done.stderr)
    assert (done.returncode, error) == (2, "p.jsonl:3: this row has changed since its result was written")
    assert "--input" in hint
    assert not (tmp_path / "x.csv").exists()


def test_rows_that_have_not_finished_are_counted(llmbatch_here: Run, tmp_path: Path, prompts: Path) -> None:
    """By what the run recorded, or by the joined input."""
    llmbatch_here("run", "p.jsonl", "-m", "sim/steady", "-q", "--limit", "4")
    path = tmp_path / "p.results.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:3]))

    done = llmbatch_here("export", "p.jsonl", "--join", "-o", "x.parquet")

    assert done.stderr == "exported 3 of 4 rows (1 not finished) to x.parquet\n"


def test_compressed_text(llmbatch_here: Run, tmp_path: Path, output: Path) -> None:
    """By the end of the name."""
    import zstandard

    for name in ("x.csv", "x.csv.gz", "x.csv.zst"):
        assert llmbatch_here("export", output.name, "-o", name).returncode == 0

    plain = (tmp_path / "x.csv").read_bytes()
    assert gzip.decompress((tmp_path / "x.csv.gz").read_bytes()) == plain
    assert zstandard.ZstdDecompressor().stream_reader((tmp_path / "x.csv.zst").read_bytes()).read() == plain


@pytest.mark.parametrize("named", ["in.results.jsonl", "in.csv"])
def test_the_input_of_the_run_is_never_replaced(
    llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path, named: str
) -> None:
    """Also without `--join`, which alone had looked for it: `--overwrite` put the results in its place."""
    (tmp_path / "in.csv").write_text("text\none\ntwo\n")
    ran = llmbatch_here("run", "in.csv", "-t", "{{ text }}", "-m", "sim/steady", "-q")

    done = llmbatch_here("export", named, "-o", "in.csv", "--overwrite")

    assert ran.returncode == 0, ran.stderr
    assert done.returncode == 2
    assert "in.csv: is the input of the run" in two_lines(done.stderr)[0]
    assert (tmp_path / "in.csv").read_text() == "text\none\ntwo\n"


def test_an_existing_file_is_replaced_only_on_request(
    llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path, output: Path
) -> None:
    """Its content is kept otherwise."""
    (tmp_path / "x.csv").write_text("mine")

    refused = llmbatch_here("export", output.name, "-o", "x.csv")
    kept = (tmp_path / "x.csv").read_text()
    done = llmbatch_here("export", output.name, "-o", "x.csv", "--overwrite")

    assert refused.returncode == 2
    assert "--overwrite" in two_lines(refused.stderr)[1]
    assert kept == "mine"
    assert done.returncode == 0
    assert len(records(tmp_path / "x.csv")) == 4


@pytest.mark.parametrize(
    ("flags", "error", "hint"),
    [
        ((), "no file to write to", "-o - for standard output"),
        (("-o", "x"), "x: its name does not say which format to write", "--format"),
        (("-o", "x.xlsx"), "x.xlsx: its name does not say which format to write", ".csv"),
        (("-o", "x.parquet.gz"), "x.parquet.gz: Parquet files are compressed already", "x.parquet"),
        (("-o", "x", "--format", "xml"), "--format xml: there is no such format", "jsonl, csv"),
        (("-o", "x.csv", "--status", "bad"), "--status bad: there is no such status", "success, failed, all"),
        (("-o", "x.csv", "--fields", "id,,text"), "--fields id,,text: a name is empty", "id,status"),
        (("-o", "x.csv", "--fields", "id,usage.inputtokens"), "usage.inputtokens", "did you mean usage.input_tokens"),
        (("-o", "x.csv", "--fields", "metadata.y"), "no line has the field metadata.y", "metadata.x"),
        (("-o", "x.csv", "--fields", "nonsense"), "no line has the field nonsense", "finish_reason"),
        (("-o", "x.jsonl", "--format", "openai", "--fields", "id"), "members of their own", "leave --fields out"),
        (("-o", "x.csv", "--input", "p.jsonl"), "--input", "add --join"),
        (("-o", "x.csv", "--input-format", "csv"), "--input-format", "add --join"),
        (("-o", "x.csv", "--join", "--input-format", "xml"), "--input-format xml", "jsonl, json, csv"),
        (("-o", "p.results.jsonl", "--overwrite"), "is the output of the run itself", "another file"),
        (("-o", "p.jsonl", "--overwrite", "--join", "--input", "p.jsonl"), "is the input of the run", "another file"),
        (("-o", "no/such/x.csv"), "there is no folder no/such", "mkdir -p no/such"),
        (("-o", "home", "--format", "csv"), "home: is a directory", "name a file"),
    ],
)
def test_wrong_flags(
    llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path, output: Path, flags: tuple[str, ...], error: str, hint: str
) -> None:
    """Exit 2, one error and what to type; no file is made and none changed."""
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    done = llmbatch_here("export", output.name, *flags)

    told, advice = two_lines(done.stderr)
    assert done.returncode == 2
    assert error in told
    assert hint in advice
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.slow  # a process of its own, in a pipe
def test_standard_output_ends_with_its_reader(tmp_path: Path, environment: dict[str, str]) -> None:
    """``| head`` gets its lines, and nobody complains."""
    results = (Result(n, f"{n:016x}", "success", f'"r{n}"', text="x" * 200) for n in range(1, 5001))
    (tmp_path / "o.jsonl").write_bytes(b"".join(map(encode_line, results)))
    command = f"{sys.executable} -m llmbatch export o.jsonl -o - --format csv | head -2"

    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.stdout.splitlines() == ["id,status,text,error.code", f"r1,success,{'x' * 200},"]
    assert done.stderr == ""


@pytest.mark.slow  # a process of its own
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a disk that is always full")  # noqa: PTH110
def test_a_full_disk_is_74(llmbatch: Run, two_lines: TwoLines, output: Path) -> None:
    """With what to do about it."""
    done = llmbatch("export", output.name, "--format", "csv", "-o", "/dev/full")

    error, hint = two_lines(done.stderr)
    assert (done.returncode, error) == (74, "/dev/full: could not be written (No space left on device)")
    assert "free some space" in hint


def test_the_first_command_of_the_page_works(llmbatch_here: Run, tmp_path: Path, prompts: Path) -> None:
    """As docs/export.md has it, after a run."""
    prompts.rename(tmp_path / "prompts.jsonl")
    llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", "-q")
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert block is not None
    command = shlex.split(block[1], comments=True)

    done = llmbatch_here(*command[1:])

    assert command[0] == "llmbatch"
    assert (done.returncode, done.stderr) == (0, "exported 4 rows to labelled.csv\n")
    assert records(tmp_path / "labelled.csv")[0]["prompt"] == "one"


REVIEWS = [{"review": 7, "text": 'good, "really"', "stars": "5"}, {"review": 8, "text": "two\nlines", "stars": ""}]


@pytest.mark.slow  # two processes, one of which imports pyarrow
def test_from_a_table_to_a_table_in_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    """The command of docs/export.md: the labels stand beside the texts of the input."""
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    command = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[1]
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["review", "text", "stars"])
        writer.writeheader()
        writer.writerows(REVIEWS)

    label = {"type": "string", "enum": ["good", "bad"]}
    schema = {"type": "object", "properties": {"label": label}, "required": ["label"], "additionalProperties": False}
    (tmp_path / "sentiment.json").write_text(json.dumps(schema))

    done = subprocess.run(
        ["sh", "-c", command.replace("llmbatch ", f"{sys.executable} -m llmbatch ")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "exported 2 rows to labelled.parquet"
    table = pyarrow.parquet.read_table(tmp_path / "labelled.parquet")
    assert table.column_names == ["review", "text", "stars", "id", "status", "parsed.label"]
    assert table.column("text").to_pylist() == [review["text"] for review in REVIEWS]
    assert table.column("stars").to_pylist() == ["5", ""]
    assert table.column("status").to_pylist() == ["success", "success"]
    assert set(table.column("parsed.label").to_pylist()) <= {"good", "bad"}


def write_reviews(path: Path) -> None:
    """The reviews in the format that the path's ending says."""
    objects = "\n".join(json.dumps(review) for review in REVIEWS)
    match path.name.partition(".")[2]:
        case "json":
            path.write_text(json.dumps(REVIEWS, indent=1))
        case "jsonl.gz":
            path.write_bytes(gzip.compress(objects.encode()))
        case "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(REVIEWS), path)
        case _:
            separator = "\t" if path.suffix == ".tsv" else ","
            made = io.StringIO(newline="")
            writer = csv.DictWriter(made, ["review", "text", "stars"], delimiter=separator)
            writer.writeheader()
            writer.writerows(REVIEWS)
            data = made.getvalue().encode()
            path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("r.csv", ()),
        ("r.csv.gz", ()),
        ("r.tsv", ()),
        ("r.json", ()),
        ("r.jsonl.gz", ()),
        ("r.parquet", ()),
        ("r.log", ("--input-format", "csv")),
    ],
)
def test_inputs_of_every_format_are_joined(
    llmbatch_here: Run, tmp_path: Path, name: str, flags: tuple[str, ...]
) -> None:
    """By record, with all columns; a record that is changed is found."""
    write_reviews(tmp_path / name)
    run = llmbatch_here("run", name, "-t", "{{ text }}", "-m", "sim/steady", "-q", "-o", "o.jsonl", *flags)
    assert run.returncode == 0, run.stderr

    done = llmbatch_here("export", "o.jsonl", "--join", "-o", "x.csv")

    assert (done.returncode, done.stderr) == (0, "exported 2 rows to x.csv\n")
    table = records(tmp_path / "x.csv")
    assert [row["text"] for row in table] == [review["text"] for review in REVIEWS]
    assert [row["review"] for row in table] == ["7", "8"]
    assert all(row["result_text"] for row in table)

    REVIEWS[1]["stars"] = "1"
    try:
        write_reviews(tmp_path / name)
    finally:
        REVIEWS[1]["stars"] = ""
    changed = llmbatch_here("export", "o.jsonl", "--join", "-o", "y.csv")
    assert changed.returncode == 2
    assert f"{name}:2: " in changed.stderr
    assert not (tmp_path / "y.csv").exists()


def test_the_format_that_a_run_was_told_is_recorded(llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path) -> None:
    """For the input under any path with the same ending; another file is read as its name says, or as the flag does."""
    write_reviews(tmp_path / "r.csv")
    (tmp_path / "r.csv").rename(tmp_path / "r.log")
    run = ("run", "r.log", "--input-format", "csv", "-t", "{{ text }}", "-m", "sim/steady", "-q", "-o", "o.jsonl")
    assert llmbatch_here(*run).returncode == 0
    (tmp_path / "moved.log").write_bytes((tmp_path / "r.log").read_bytes())
    (tmp_path / "r.json").write_bytes((tmp_path / "r.log").read_bytes())

    moved = llmbatch_here("export", "o.jsonl", "--join", "--input", "moved.log", "-o", "moved.csv")
    other = llmbatch_here("export", "o.jsonl", "--join", "--input", "r.json", "-o", "x.csv")
    named = llmbatch_here("export", "o.jsonl", "--join", "--input", "r.json", "--input-format", "csv", "-o", "n.csv")
    (tmp_path / ".o.jsonl.status.json").unlink()
    forgotten = llmbatch_here("export", "o.jsonl", "--join", "--input", "r.log", "-o", "x.csv")

    assert (moved.returncode, named.returncode) == (0, 0)
    assert (tmp_path / "moved.csv").read_bytes() == (tmp_path / "n.csv").read_bytes()
    assert [row["text"] for row in records(tmp_path / "n.csv")] == [review["text"] for review in REVIEWS]
    for done, name in ((other, "r.json"), (forgotten, "r.log")):
        error, hint = two_lines(done.stderr)
        assert (done.returncode, error) == (2, f"{name}:1: this row has changed since its result was written")
        assert "--input-format FORMAT" in hint
    assert not (tmp_path / "x.csv").exists()


def test_a_saved_data_set_is_joined(llmbatch_here: Run, tmp_path: Path) -> None:
    """Its folder is the input, found where the run recorded it, and as what is typed in place of the output."""
    table = pyarrow.Table.from_pylist(REVIEWS)
    folder = tmp_path / "reviews"
    folder.mkdir()
    with pyarrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as stream:
        stream.write_table(table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": None}
    (folder / "state.json").write_text(json.dumps(state))
    run = llmbatch_here("run", "reviews", "-t", "{{ text }}", "-m", "sim/steady", "-q")
    assert run.returncode == 0, run.stderr

    for number, path in enumerate(("reviews.results.jsonl", "reviews")):
        done = llmbatch_here("export", path, "--join", "-o", f"{number}.csv")
        assert (done.returncode, done.stderr) == (0, f"exported 2 rows to {number}.csv\n")
        assert [row["text"] for row in records(tmp_path / f"{number}.csv")] == [review["text"] for review in REVIEWS]


def test_lines_of_text_are_joined(llmbatch_here: Run, tmp_path: Path) -> None:
    """As the field ``text``; blank lines are no rows."""
    (tmp_path / "r.txt").write_text("one\n\ntwo\n")
    llmbatch_here("run", "r.txt", "-m", "sim/steady", "-q")

    done = llmbatch_here("export", "r.txt", "--join", "--fields", "status", "-o", "x.csv")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.csv").read_text() == "text,status\none,success\ntwo,success\n"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda raw: b"id,text\n1,2\n", "is not an output of llmbatch"),
        (lambda raw: raw.replace(b'"status":"failed"', b'"status":"flawed"'), "p.results.jsonl:4: "),
        (lambda raw: raw + raw.splitlines(keepends=True)[0], "row 3 has a second line"),
        (lambda raw: raw.replace(b'"text":"answer 3"', b'"text":"answer 3'), "the line of row 3 is damaged"),
    ],
    ids=["foreign", "status", "twice", "no JSON"],
)
def test_an_output_that_is_none_or_is_damaged_is_refused(
    llmbatch_here: Run,
    two_lines: TwoLines,
    tmp_path: Path,
    output: Path,
    change: Callable[[bytes], bytes],
    error: str,
) -> None:
    """Naming the line or the row; nothing is written."""
    (tmp_path / "p.jsonl").unlink()
    output.write_bytes(change(output.read_bytes()))

    done = llmbatch_here("export", output.name, "-o", "x.csv")

    assert done.returncode == 2
    assert error in two_lines(done.stderr)[0]
    assert not (tmp_path / "x.csv").exists()
    assert list(tmp_path.glob(".x.csv*")) == []


def test_a_torn_last_line_is_left_out(llmbatch_here: Run, tmp_path: Path, output: Path) -> None:
    """Its row will be resent; the output is not changed."""
    raw = output.read_bytes() + b'{"row":5,"hash":"01'
    output.write_bytes(raw)

    done = llmbatch_here("export", output.name, "-o", "x.csv")

    assert (done.returncode, done.stderr) == (0, "exported 4 rows to x.csv\n")
    assert output.read_bytes() == raw


@pytest.mark.slow  # whole runs
@pytest.mark.usefixtures("output")
def test_a_parquet_export_loads_no_numpy(tmp_path: Path) -> None:
    """It would take a tenth of the memory, and is needed for nothing."""
    words = ["llmbatch", "export", "p.results.jsonl", "-o", "x.parquet", "-q"]
    code = f"import sys; sys.argv = {words!r}; from llmbatch.cli import main; main(); sys.exit('numpy' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=240, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
    assert pyarrow.parquet.read_table(tmp_path / "x.parquet").num_rows == 4


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_an_output_without_lines(llmbatch_here: Run, tmp_path: Path, name: str) -> None:
    """Is a table without rows, with its columns."""
    (tmp_path / "o.jsonl").write_bytes(b"")

    done = llmbatch_here("export", "o.jsonl", "-o", name)

    assert (done.returncode, done.stderr) == (0, f"exported 0 rows to {name}\n")
    made = (tmp_path / name).read_bytes()
    if name == "x.parquet":
        table = pyarrow.parquet.read_table(tmp_path / name)
        assert (table.num_rows, table.column_names) == (0, ["id", "status", "text", "error.code"])
    else:
        assert made == (b"id,status,text,error.code\n" if name == "x.csv" else b"")


def test_an_output_that_is_not_there(llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path) -> None:
    """As for ``status``."""
    done = llmbatch_here("export", "none.jsonl", "-o", "x.csv")

    assert (done.returncode, two_lines(done.stderr)[0]) == (2, "none.jsonl: there is no such file")


def test_a_run_that_is_writing_is_exported_so_far(llmbatch_here: Run, tmp_path: Path, output: Path) -> None:
    """And it is said that more will come."""
    fd = open_locked(str(output), str(output), FILESYSTEM)
    try:
        done = llmbatch_here("export", output.name, "-o", "x.csv")
    finally:
        os.close(fd)

    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "exported 4 rows to x.csv",
        "note: a run is writing p.results.jsonl: rows that end from now on are not in the export",
        "hint: export again when it has ended (--overwrite)",
    ]


def test_parquet_without_pyarrow_says_what_to_install(
    llmbatch_here: Run, two_lines: TwoLines, tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the output is read."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    done = llmbatch_here("export", output.name, "-o", "x.parquet")

    assert done.returncode == 2
    assert "pip install 'llmbatch[data]'" in two_lines(done.stderr)[1]
    assert not (tmp_path / "x.parquet").exists()


@pytest.mark.slow  # a process of its own, which imports pyarrow
def test_parquet_to_standard_output(tmp_path: Path, environment: dict[str, str], output: Path) -> None:
    """Through a pipe, which cannot be rewound."""
    words = [sys.executable, "-m", "llmbatch", "export", output.name, "-o", "-", "--format", "parquet", "-q"]

    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False)

    assert (done.returncode, done.stderr) == (0, b"")
    assert pyarrow.parquet.read_table(io.BytesIO(done.stdout)).num_rows == 4


@pytest.mark.slow  # a process of its own
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of file sizes")
def test_a_disk_that_fills_up_leaves_the_old_file(
    tmp_path: Path, environment: dict[str, str], two_lines: TwoLines
) -> None:
    """Nothing torn, nothing left over, exit code 74."""
    results = (Result(n, f"{n:016x}", "success", f'"r{n}"', text="x" * 200) for n in range(1, 2001))
    (tmp_path / "o.jsonl").write_bytes(b"".join(map(encode_line, results)))
    (tmp_path / "x.csv").write_text("old")
    command = f"ulimit -f 64; exec {sys.executable} -m llmbatch export o.jsonl -o x.csv --overwrite"

    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )

    assert (done.returncode, two_lines(done.stderr)[0]) == (74, "x.csv: could not be written (File too large)")
    assert (tmp_path / "x.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "o.jsonl", "x.csv"]


@pytest.mark.slow  # processes of their own
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_export_leaves_the_old_file(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    """Nor anything else: what was written so far is removed."""
    results = (Result(n, f"{n:016x}", "success", f'"r{n}"', text="x" * 2000) for n in range(1, 40_001))
    with (tmp_path / "o.jsonl").open("wb") as file:
        file.writelines(map(encode_line, results))
    (tmp_path / "x.csv.gz").write_text("old")
    words = [sys.executable, "-m", "llmbatch", "export", "o.jsonl", "-o", "x.csv.gz", "--overwrite"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as process:
        while not (tmp_path / ".x.csv.gz.llmbatch-new").exists() and process.poll() is None:
            pass
        process.send_signal(number)
        process.wait(120)

    assert process.returncode == 128 + number
    assert (tmp_path / "x.csv.gz").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "o.jsonl", "x.csv.gz"]


@pytest.mark.parametrize(
    ("path", "said", "advice"),
    [
        ("", "is a folder, and not one of the parts of a run", "name one output"),
        (".", "is a folder, and not one of the parts of a run", "name one output"),
        ("/", "/: is not an output of llmbatch", "name a file, or a folder of parts"),
    ],
)
def test_a_path_without_a_name_was_an_internal_error(
    llmbatch_here: Run, two_lines: TwoLines, path: str, said: str, advice: str
) -> None:
    """Exit 2, as for any folder."""
    done = llmbatch_here("export", path, "-o", "x.csv")

    error, hint = two_lines(done.stderr)
    assert done.returncode == 2
    assert error.endswith(said)
    assert advice in hint
