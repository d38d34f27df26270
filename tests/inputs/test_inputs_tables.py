"""Parquet and Arrow files as records."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pytest

from llmbatch import BatchRunner
from llmbatch.core.errors import InputError
from llmbatch.core.ports import Source
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.input import FileInput, open_input
from llmbatch.inputs.shape import RowShape
from llmbatch.outputs.deferred import default_output
from llmbatch.outputs.find import find_output

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path: Path, table: Any, *, rows_a_group: int = 3) -> Path:
    """*table* as the file at *path*, in the format of its ending; ``.stream`` is Arrow's stream format."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows_a_group)
        return path
    new = pa.ipc.new_stream if path.suffix == ".stream" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_a_group)
    return path


def opened(path: Path, shape: RowShape | None = None, *, is_whole: bool = False) -> FileInput:
    """The input at *path*."""
    input_format: Any = "arrow" if path.suffix == ".stream" else None
    return open_input(path, output="", input_format=input_format, shape=shape, is_whole=is_whole)


def records(path: Path) -> list[dict[str, object]]:
    """All columns of all records."""
    rows = opened(path, is_whole=True).peek()
    return [{name: json.loads(text) for name, text in row.fields.items()} for row in rows if isinstance(row, Row)]


SECOND = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
COLUMNS = [
    ("string", pa.string(), ["é\n", None, ""], ["é\n", None, ""]),
    ("large string", pa.large_string(), ["a", None, "b"], ["a", None, "b"]),
    ("integers", pa.int64(), [2**62, None, -1], [2**62, None, -1]),
    ("floats", pa.float64(), [0.1, float("nan"), float("-inf")], [0.1, None, "-Infinity"]),
    ("booleans", pa.bool_(), [True, None, False], [True, None, False]),
    ("dates", pa.date32(), [SECOND.date(), None, None], ["2026-01-02", None, None]),
    ("instants", pa.timestamp("us", tz="UTC"), [SECOND, None, None], ["2026-01-02T03:04:05Z", None, None]),
    ("times", pa.time32("s"), [SECOND.time(), None, None], ["03:04:05", None, None]),
    ("lists", pa.list_(pa.int8()), [[1, None], None, []], [[1, None], None, []]),
    ("fixed lists", pa.list_(pa.int8(), 2), [[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6]]),
    (
        "structs",
        pa.struct([("x%", pa.list_(pa.string()))]),
        [{"x%": ["a"]}, None, {"x%": None}],
        [{"x%": ["a"]}, None, {"x%": None}],
    ),
    ("maps", pa.map_(pa.string(), pa.int8()), [[("k", 1)], None, []], [{"k": 1}, None, {}]),
    ("categories", pa.dictionary(pa.int8(), pa.string()), ["u", None, "u"], ["u", None, "u"]),
    ("nulls", pa.null(), [None, None, None], [None, None, None]),
]


@pytest.mark.parametrize("ending", ["parquet", "arrow", "stream"])
@pytest.mark.parametrize(("name", "kind", "values", "expected"), COLUMNS, ids=[name for name, *_ in COLUMNS])
def test_each_type_has_its_json(
    tmp_path: Path, ending: str, name: str, kind: Any, values: list[object], expected: list[object]
) -> None:
    """Whatever the format, and across row groups."""
    path = write(tmp_path / f"t.{ending}", pa.table({"a": pa.array(values, kind)}), rows_a_group=2)

    assert [record["a"] for record in records(path)] == expected


def test_decimals_and_large_integers_keep_every_digit(tmp_path: Path) -> None:
    """As text they are what the column holds, trailing zeros too."""
    kind = pa.decimal128(30, 2)
    table = pa.table({"d": pa.array([decimal.Decimal("12345678901234567890.10"), None], kind)})

    rows = list(opened(write(tmp_path / "t.parquet", table), is_whole=True).peek())

    assert [row.fields["d"] for row in rows if isinstance(row, Row)] == ["12345678901234567890.10", "null"]


@pytest.mark.parametrize(
    ("kind", "named"), [(pa.binary(), "binary"), (pa.duration("s"), "duration"), (pa.list_(pa.binary()), "binary")]
)
def test_a_column_that_has_no_json_is_refused_by_its_name(tmp_path: Path, kind: Any, named: str) -> None:
    """Bytes, also within lists, and durations."""
    path = write(tmp_path / "t.parquet", pa.table({"prompt": ["a"], "blob": pa.array([None], kind)}))

    with pytest.raises(InputError, match=rf"t\.parquet: column 'blob' is of the type .*{named}"):
        next(opened(path).peek())


def test_a_text_that_is_not_utf_8_fails_its_record_alone(tmp_path: Path) -> None:
    """Arrow does not check what it is given."""
    raw = pa.array([b"good", b"\xff", b"too"], pa.binary())
    text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])

    rows = list(opened(write(tmp_path / "t.parquet", pa.table({"prompt": text}))).peek())

    assert [row.code if isinstance(row, Malformed) else row.fields["prompt"] for row in rows] == [
        '"good"',
        "input_bad_utf8",
        '"too"',
    ]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"prompt\nhello\n", b"PAR1" + b"x" * 100 + b"PAR1"])
@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, name: str) -> None:
    """Empty, cut off, or text."""
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(InputError, match=rf"{name}: cannot be read as") as caught:
        list(opened(path).peek())

    assert caught.value.hint


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """A record could hold only one of them."""
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])

    with pytest.raises(InputError, match="two columns are named 'prompt'"):
        next(opened(write(tmp_path / "t.parquet", table)).peek())


@pytest.mark.parametrize("ending", ["parquet", "arrow", "stream"])
async def test_another_pass_begins_with_the_first_row_that_was_skipped(tmp_path: Path, ending: str) -> None:
    """In the middle of a row group, and without the rows that are finished."""
    path = write(tmp_path / f"t.{ending}", pa.table({"prompt": [f"p{number}" for number in range(1, 12)]}))
    source = opened(path).rows(None, limit=None, spool=None)
    seen = await drain(source)
    for row in seen:
        if row.number in (5, 8, 9):
            source.skip(row)
        else:
            source.finished(row.number)

    assert source.rewind()
    again = await drain(source)
    await source.aclose()

    assert [row.number for row in seen] == list(range(1, 12))
    assert [(row.number, row.fields["prompt"]) for row in again] == [(5, '"p5"'), (8, '"p8"'), (9, '"p9"')]


async def drain(source: Source) -> list[Row]:
    """The rows of this pass."""
    rows = []
    while not source.exhausted:
        row = source.take()
        if isinstance(row, Row):
            rows.append(row)
        else:
            await source.wait()
    return rows


def test_an_empty_table_has_no_rows_and_a_count(tmp_path: Path) -> None:
    """And one of a million rows is counted without reading it."""
    empty = write(tmp_path / "e.parquet", pa.table({"prompt": pa.array([], pa.string())}))

    assert list(opened(empty).peek()) == []
    assert opened(empty).count() == 0
    assert opened(write(tmp_path / "n.parquet", pa.table({"prompt": ["a"] * 10}))).count() == 10


def saved(folder: Path, *, texts: list[str], files: int = 3) -> Path:
    """A data set as ``Dataset.save_to_disk`` of ``datasets`` 5.2 writes it: streams and a list of them."""
    folder.mkdir()
    names = [f"data-{at:05}-of-{files:05}.arrow" for at in range(files)]
    for at, name in enumerate(names):
        table = pa.table({"id": [f"r{text}" for text in texts[at::files]], "text": texts[at::files]})
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "1", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


async def test_a_saved_data_set_is_read_by_the_path_of_its_folder(tmp_path: Path) -> None:
    """Its files one after another; it resumes, and its output is beside the folder."""
    folder = saved(tmp_path / "reviews", texts=[str(number) for number in range(1, 11)])
    asked: list[object] = []

    async def ask(row: dict[str, str]) -> str:
        asked.append(row["text"])
        return "ok"

    await BatchRunner(ask).run(folder, limit=4)
    summary = await BatchRunner(ask).run(folder)

    assert summary.success == 10
    assert sorted(map(str, asked)) == sorted(str(number) for number in range(1, 11))
    assert find_output(folder) == tmp_path / "reviews.results.jsonl"
    assert opened(folder).count() == 10
    assert [record.fields["id"] for record in opened(folder).records()][:2] == ['"r1"', '"r4"']


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "cannot be read as a saved data set"),
        ("{}", "cannot be read as a saved data set"),
        ('{"_data_files":[]}', "it has no files"),
        ('{"_data_files":[{"filename":"gone.arrow"}]}', "No such file"),
        ('{"_data_files":[{"filename":"../../etc/passwd"}]}', "No such file"),
    ],
)
def test_a_damaged_data_set_is_refused(tmp_path: Path, state: str, message: str) -> None:
    """Its files are only those in its own folder."""
    folder = saved(tmp_path / "reviews", texts=["a"], files=1)
    (folder / "state.json").write_text(state)

    with pytest.raises(InputError, match=message):
        next(opened(folder).peek())


def test_a_folder_of_several_data_sets_is_refused_with_one_to_name(tmp_path: Path) -> None:
    """As ``DatasetDict.save_to_disk`` writes it; other folders are none."""
    (tmp_path / "dataset_dict.json").write_text('{"splits":["train"]}')

    with pytest.raises(InputError, match="is a directory") as caught:
        default_output(tmp_path)

    assert caught.value.hint == f"it holds several data sets: name one of them, such as {tmp_path / 'train'}"
