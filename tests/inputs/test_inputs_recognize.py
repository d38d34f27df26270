"""Input that is not JSON Lines is refused before anything is written, with a command that converts it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from llmbatch import BatchRunner, InputError
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.recognize import unsendable
from llmbatch.inputs.rows import parse_line

ROWS = b'{"prompt":"a"}\n{"prompt":"b"}\n'
CSV = b'prompt,label\r\n"hello, ""world""",1\r\nbye,2\r\n'


def zipped(name: str) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, ROWS)
    return file.getvalue()


FORMATS = [
    ("array", b'[{"prompt":"a"},{"prompt":"b"}]\n', "a JSON array", "llmbatch run array --input-format json"),
    ("rows.jsonl", b'[{"prompt":"a"},{"prompt":"b"}]', "a JSON array", "--input-format json"),
    ("pretty.jsonl", b'[\n  {\n    "prompt": "a"\n  }\n]\n', "a JSON array", "--input-format json"),
    ("strings.jsonl", b'[\n  "a",\n  "b"\n]\n', "a JSON array", "--input-format json"),
    ("lines.jsonl", b'[\n{"prompt":"a"},\n{"prompt":"b"}\n]\n', "a JSON array", "--input-format json"),
    ("object.jsonl", b'{\n  "prompt": "a"\n}\n', "JSON with line breaks", "jq -c ."),
    ("object.json", b'{\n  "prompt": "a"\n}\n', "JSON with line breaks", "jq -c . < object.json > object.jsonl"),
    ("p.jsonl", CSV, "CSV", "llmbatch run p.jsonl --input-format csv"),
    ("p.jsonl.gz", gzip.compress(CSV), "CSV", "llmbatch run p.jsonl.gz --input-format csv"),
    ("bare", CSV, "CSV", "--input-format csv; the column of the prompts is prompt, or named with --prompt-column"),
    ("semicolons", b"prompt;label\nhello;1\nbye;2\n", "CSV with semicolons", "--input-format csv"),
    ("noise", b"\x00\x01\x02junk\n\x80\x00", "binary data", "prompt"),
    ("zeros.jsonl", b"\x00" * 100, "binary data", "prompt"),
    ("tabs", b"prompt\tlabel\nhello, you\t1\n", "TSV", "--input-format tsv"),
    ("p", b"Once upon a time\nthere was a batch, of rows.\n\nThe end\n", "plain text", "--input-format txt"),
    ("p.parquet.jsonl", b"PAR1\x15\x04\x15\x00\n\x00", "Parquet", "--input-format parquet"),
    ("p.feather", b"ARROW1\x00\x00", "an Arrow file", "--input-format arrow"),
    ("p.xlsx", zipped("[Content_Types].xml"), "an Excel workbook", "read_excel"),
    ("p.zip", zipped("rows.jsonl"), "a ZIP archive", "unzip p.zip"),
    ("p.jsonl.bz2", bz2.compress(ROWS), "compressed with bzip2", "bunzip2 -c < p.jsonl.bz2 > p.jsonl"),
    ("p.jsonl.xz", lzma.compress(ROWS), "compressed with xz", "unxz -c < p.jsonl.xz > p.jsonl"),
    ("inside.gz", gzip.compress(bz2.compress(ROWS)), "compressed with bzip2", "bunzip2"),
    ("inside.csv", bz2.compress(ROWS), "compressed with bzip2", "bunzip2"),
    ("inside.txt", zipped("rows.jsonl"), "a ZIP archive", "unzip inside.txt"),
    ("a workbook.jsonl", zipped("xl/workbook.xml"), "an Excel workbook", "'a workbook.jsonl' 'a workbook.rows.jsonl'"),
    ("commas.jsonl", b'{"prompt":"a"},\n{"prompt":"b"}, \r\n', "JSON with commas between the rows", "sed "),
    ("joined.ndjson", b'{"prompt":"a"}{"prompt":"b"} {"prompt":"c"}', "JSON with several values in", "> joined.jsonl"),
    ("repr.jsonl", b"{'prompt': 'a'}\n{'prompt': 'it\\'s'}\n", "the notation of Python", "ast.literal_eval"),
    (
        "page.jsonl",
        b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n",
        "an HTML page",
        "fetch the file itself",
    ),
    ("rows.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer", "git lfs pull"),
    (
        "p.results.jsonl",
        b'{"row":1,"hash":"9f86d081884c7d65","status":"success","id":"a","text":"x"}\n',
        "the output of a run",
        "name the input of that run; llmbatch status p.results.jsonl",
    ),
    ("paper.pdf", b"%PDF-1.7\n%\xe2\xe3\n", "a PDF", "prompt"),
]


async def never(row: object) -> object:
    raise AssertionError("nothing may be sent")


@pytest.mark.parametrize(("name", "content", "seen", "hint"), FORMATS, ids=[name for name, *_ in FORMATS])
@pytest.mark.parametrize("strict", [False, True])
async def test_a_file_of_another_format_is_refused_before_a_line_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, seen: str, hint: str, strict: bool
) -> None:
    """The error names the file and the format that was seen, the hint has a command; no output file is made."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)

    with pytest.raises(InputError) as caught:
        await BatchRunner(never).run(name, strict=strict)

    assert caught.value.message.startswith(f"{name}: this is {seen}")
    assert hint in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("object.json", b'{\n  "prompt": "a"\n}\n{\n"prompt":\n"b"}\n', ["a", "b"]),
        ("commas.jsonl", b'{"prompt":"a"},\n{"prompt":"b"}, \r\n', ["a", "b"]),
        ("joined.ndjson", b'{"prompt":"a"}{"prompt":"b"} {"prompt":"c"}', ["a", "b", "c"]),
        ("repr.jsonl", b"{'prompt': 'a'}\n{'prompt': 'b', 'ok': True}\n", ["a", "b"]),
        ("p.jsonl.bz2", bz2.compress(ROWS), ["a", "b"]),
        ("p.jsonl.xz", lzma.compress(ROWS), ["a", "b"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_the_command_of_the_hint_converts_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, prompts: list[str]
) -> None:
    """What the hint says to type makes a file of the rows. Slow: it starts a shell and what it names."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        await BatchRunner(never).run(name)
    convert = caught.value.hint.partition(": ")[2].partition(" && llmbatch run ")[0]
    tool = convert.split()[0]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")

    subprocess.run(["sh", "-c", convert], check=True, timeout=120)

    made = next(path for path in tmp_path.iterdir() if path.name != name)
    rows = [json.loads(line) for line in made.read_bytes().splitlines()]
    assert [row["prompt"] for row in rows] == prompts


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("rows.jsonl", b'[{"prompt":"a"},{"prompt":"b"}]\n', ["a", "b"]),
        ("pretty.jsonl", b'[\n  {\n    "prompt": "a"\n  }\n]\n', ["a"]),
        ("my file's.jsonl", b"\xef\xbb\xbf" + CSV, ['hello, "world"', "bye"]),
        ("p.jsonl.gz", gzip.compress(CSV), ['hello, "world"', "bye"]),
        ("tabs", b"prompt\tlabel\nhello, you\t1\n", ["hello, you"]),
        ("semicolons", b"prompt;label\nhello;1\nbye;2\n", ["hello", "bye"]),
        ("p", b"Once upon\n\na time\n", ["Once upon", "a time"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_the_format_that_the_hint_names_reads_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, prompts: list[str]
) -> None:
    """The same command with ``--input-format`` sends the rows."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        await BatchRunner(never).run(name)
    named = caught.value.hint.partition("--input-format ")[2].partition(";")[0]
    got: list[str] = []

    async def take(row: dict[str, str]) -> str:
        got.append(row.get("prompt") or row["text"])
        return ""

    summary = await BatchRunner(take).run(name, input_format=named)  # type: ignore[arg-type]

    assert summary.exit_code == 0
    assert sorted(got) == sorted(prompts)


async def test_text_in_another_encoding_was_plain_text_whose_letters_the_hint_destroyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``jq -R`` replaces what is not UTF-8: convert the text first."""
    monkeypatch.chdir(tmp_path)
    Path("latin.txt").write_bytes("café\nnaïve\n".encode("latin-1"))

    with pytest.raises(InputError, match=r"latin\.txt: the text is not UTF-8") as caught:
        await BatchRunner(never).run("latin.txt")

    assert caught.value.hint.endswith("iconv -f WINDOWS-1252 -t UTF-8 latin.txt")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.txt"])
async def test_utf_16_without_a_byte_order_mark_was_another_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, name: str
) -> None:
    """Excel writes a mark; other programs of Windows do not."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes("prompt,label\nhello,1\n".encode(encoding))

    with pytest.raises(InputError, match="the text is UTF-16, not UTF-8") as caught:
        await BatchRunner(never).run(name)

    assert f"iconv -f {encoding.upper().replace('-LE', 'LE').replace('-BE', 'BE')} -t UTF-8" in caught.value.hint


@pytest.mark.slow
def test_a_pipe_with_a_name_of_another_format_is_called_by_it(tmp_path: Path) -> None:
    """It was called standard input. Slow: a process."""
    fifo = tmp_path / "rows.pipe"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "llmbatch", "run", "rows.pipe", "-m", "sim/steady", "-q"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        fifo.write_bytes(b'[{"prompt":"a"}]\n')
        _, err = process.communicate(timeout=240)

    assert process.returncode == 2
    assert err.startswith(b"error: rows.pipe: this is a JSON array")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.pipe"]


@pytest.mark.parametrize("count", [1, 3, 20, 25])
async def test_rows_that_are_all_malformed_are_refused(tmp_path: Path, count: int) -> None:
    """Rows without anything to send, up to 20: refused, with their fault once, and no output is made."""
    path = tmp_path / "q.jsonl"
    path.write_text('{"question":"a"}\n' * count)

    with pytest.raises(InputError, match=r"input_no_prompt: the row has no prompt") as caught:
        await BatchRunner(never).run(path)

    assert caught.value.message.count("input_no_prompt") == 1
    assert (
        "the fields of line 1 are: question; name the prompt's, such as --prompt-column question" in caught.value.hint
    )
    assert [other.name for other in tmp_path.iterdir()] == ["q.jsonl"]


async def test_a_good_row_among_the_first_20_lets_the_malformed_ones_fail_alone(tmp_path: Path) -> None:
    """19 malformed rows and a good one: the run goes on, as a bad row never costs a run."""

    async def echo(row: object) -> object:
        return row

    path = tmp_path / "q.jsonl"
    path.write_text("{broken\n" * 19 + '{"prompt":"a"}\n')

    summary = await BatchRunner(echo).run(path)

    assert (summary.success, summary.failed, summary.exit_code) == (1, 19, 1)


@pytest.mark.parametrize(
    "line",
    [b'[{"role":"user","content":"a"}]', b'[{"type":"message","role":"user","content":"a"}]', b'[{"content":"a"}]'],
)
def test_a_list_of_messages_stays_a_row(line: bytes) -> None:
    """A top-level list of messages is one row, as promised; only a list of rows is not."""
    assert isinstance(parse_line(1, line), Row)


def test_the_hint_for_a_model_of_another_company_spoke_of_the_form_of_rows() -> None:
    """The file's rows are fine, but for the name in them: what was meant is the hint."""
    fault = "model 'opneai/x': 'opneai' is not a known provider; did you mean openai/x? known providers: openai"
    rows = [Malformed(number, "0" * 16, '"a"', "input_unknown_provider", fault) for number in (1, 2)]

    error = unsendable("p.jsonl", rows)

    expected = "p.jsonl: all of the first 2 rows are refused: model 'opneai/x': 'opneai' is not a known provider"
    assert (error.message, error.hint) == (expected, "did you mean openai/x? known providers: openai")


def test_prose_with_a_comma_in_each_line_is_not_taken_for_a_table_of_uneven_columns() -> None:
    """CSV needs the same number of columns in most lines."""
    rows = [parse_line(number, line) for number, line in enumerate([b"a, b", b"c", b"d, e, f", b"g"], 1)]

    error = unsendable("p", [row for row in rows if isinstance(row, Malformed)])

    assert "plain text" in error.message


Run = Callable[..., subprocess.CompletedProcess[str]]


UNFIT = [
    (CSV, "CSV", "llmbatch run - --input-format csv"),
    (b'[{"prompt":"a"}]', "a JSON array", "llmbatch run - --input-format json"),
    (b"[\n", "a JSON array", "json"),
    (bz2.compress(ROWS), "compressed with bzip2", "bunzip2 -c | llmbatch run -"),
    (b"PAR1\x00", "Parquet", "save it to a file"),
    (b"not json\n" * 30, "plain text", "--input-format txt"),
    (b'{"question":"a"}\n' * 30, "", "--prompt-column question"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "seen", "hint", "output", "is_pipe"),
    [
        *((*unfit, "-", True) for unfit in UNFIT),
        (*UNFIT[0], "out.jsonl", False),
        *(pytest.param(*unfit, "out.jsonl", False, marks=pytest.mark.long) for unfit in UNFIT[1:]),
        *(pytest.param(*unfit, "out.jsonl", True, marks=pytest.mark.long) for unfit in UNFIT),
    ],
)
def test_standard_input_of_another_format_is_refused_too(
    tmp_path: Path, content: bytes, seen: str, hint: str, output: str, is_pipe: bool
) -> None:
    """Exit code 2 and not one line, on standard output or in a file, from a pipe or a file. Slow: a process each."""
    (tmp_path / "in").write_bytes(content)
    command = [sys.executable, "-m", "llmbatch", "run", "-", "-o", output, "-m", "sim/steady", "-q"]
    if is_pipe:
        done = subprocess.run(command, cwd=tmp_path, input=content, capture_output=True, timeout=240, check=False)
    else:
        with (tmp_path / "in").open("rb") as file:
            done = subprocess.run(command, cwd=tmp_path, stdin=file, capture_output=True, timeout=240, check=False)

    assert (done.returncode, done.stdout) == (2, b"")
    error, advice = done.stderr.decode().splitlines()
    assert error.startswith("error: standard input: ")
    assert seen in error
    assert advice.startswith("hint: ")
    assert hint in advice
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.slow
def test_malformed_rows_of_standard_input_fail_once_a_row_could_be_sent(tmp_path: Path) -> None:
    """They wait for the first good row, and then each gets its line. Slow: a process."""
    done = subprocess.run(
        [sys.executable, "-m", "llmbatch", "run", "-", "-m", "sim/steady", "-q"],
        cwd=tmp_path,
        input=b"{broken\n" * 3 + b'{"prompt":"a"}\n{broken\n',
        capture_output=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted((line["row"], line["status"]) for line in lines) == [
        (1, "failed"),
        (2, "failed"),
        (3, "failed"),
        (4, "success"),
        (5, "failed"),
    ]
