"""Several passes over one input: rows that are skipped come again, finished ones do not."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from example_lines import drain, input_line, result_line
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.errors import InputError, WriteError
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.format_names import format_by_name
from llmbatch.inputs.formats import make_format
from llmbatch.inputs.input import open_input
from llmbatch.inputs.iterable import IterableSource
from llmbatch.inputs.rows import line_digest
from llmbatch.inputs.shape import RowShape
from llmbatch.inputs.source import FileSource, StreamSource, open_source
from llmbatch.outputs.deferred import spool_path
from llmbatch.outputs.open import open_output
from llmbatch.runs.good_rows import known_good_rows
from llmbatch.storage.finished_rows import FinishedRows, RowSet

Pack = Callable[[bytes], bytes]


def text_of(*numbers: int) -> bytes:
    return b"".join(input_line(number) + b"\n" for number in numbers)


def piped(text: bytes, spool: Path | None = None, limit: int | None = None) -> StreamSource:
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    return StreamSource(reading, "standard input", spool=spool, limit=limit)


def opened(kind: str, text: bytes, directory: Path, limit: int | None = None) -> FileSource | StreamSource:
    if kind == "pipe":
        return piped(text, directory / ".spool", limit)
    packs: dict[str, Pack] = {"plain": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}
    path = directory / "in.jsonl"
    path.write_bytes(packs[kind](text))
    return open_source(path, limit=limit)


KINDS = ["plain", "gzip", "zstd", "pipe"]


@pytest.mark.parametrize("kind", KINDS)
async def test_skipped_rows_come_again_and_finished_ones_do_not(tmp_path: Path, kind: str) -> None:
    """A pass starts at the first skipped row; counts and fractions stay; without a skipped row there is no pass."""
    source = opened(kind, text_of(*range(1, 7)), tmp_path)
    for row in await drain(source):
        assert isinstance(row, Row)
        if row.number in (3, 5):
            source.skip(row)
        else:
            source.finished(row.number)
    skipped = source.skipped

    again = source.rewind()
    fraction = source.fraction
    rows = await drain(source)

    assert (again, skipped, source.skipped) == (True, 2, 0)
    assert [row.number for row in rows] == [3, 5]
    assert [row.hash for row in rows] == [line_digest(input_line(3)), line_digest(input_line(5))]
    assert isinstance(rows[0], Row)
    assert rows[0].fields["prompt"] == '"say 3"'
    assert source.rows_read == 6
    assert fraction == (None if kind == "pipe" else 1.0)
    assert not source.rewind()
    source.close()


@pytest.mark.slow  # a hundred random inputs
@given(
    st.sampled_from(KINDS),
    st.lists(st.lists(st.sampled_from(["skip", "finish"]), min_size=12, max_size=12), min_size=1, max_size=4),
    st.lists(st.sampled_from([b"\n", b"\r\n", b"\n\n"]), min_size=12, max_size=12),
    st.booleans(),
    st.none() | st.integers(1, 12),
)
def test_each_pass_gives_each_unfinished_row_once(
    kind: str, plans: list[list[str]], ends: list[bytes], bom: bool, limit: int | None
) -> None:
    """Whatever is skipped or finished in each pass, with blank lines, carriage returns, a mark, and a limit."""
    text = (b"\xef\xbb\xbf" if bom else b"") + b"".join(
        input_line(number) + end for number, end in enumerate(ends, 1)
    ).removesuffix(b"\n")
    with tempfile.TemporaryDirectory() as directory:
        source = opened(kind, text, Path(directory), limit)
        expected = {f'"r{number}"' for number in range(1, (limit or 12) + 1)}
        for plan in plans:
            seen: list[str] = []
            left: list[str] = []
            turns = 0
            while not source.exhausted:
                turns += 1
                assert turns < 1000
                row = source.take()
                if row is None:
                    continue
                assert isinstance(row, Row)
                seen.append(row.id_json)
                if plan[int(row.id[1:]) - 1] == "skip":
                    source.skip(row)
                    left.append(row.id_json)
                else:
                    source.finished(row.number)
            assert len(seen) == len(set(seen))
            assert set(seen) == expected
            expected = set(left)
            assert source.rows_read == (limit or 12)
            if not source.rewind():
                assert not left
                break
        source.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pass_in_the_middle_of_the_first_one_ends_where_that_goes_on(tmp_path: Path, kind: str) -> None:
    """No row twice, none lost."""
    source = opened(kind, text_of(*range(1, 6)), tmp_path)
    first, second = source.take(), source.take()
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    source.skip(first)
    source.finished(second.number)

    assert source.rewind()
    rows = await drain(source)

    assert [row.number for row in rows] == [1, 3, 4, 5]
    assert source.rows_read == 5
    source.close()


async def test_a_later_pass_ends_where_the_first_one_did(tmp_path: Path) -> None:
    """What is appended is new to the next run, also behind a last line without its end."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(text_of(1, 2).removesuffix(b"\n"))
    source = open_source(path)
    for row in await drain(source):
        assert isinstance(row, Row)
        source.skip(row)
    with path.open("ab") as file:
        file.write(b'more"\n"new"\n')

    source.rewind()

    assert [row.hash for row in await drain(source)] == [line_digest(input_line(1)), line_digest(input_line(2))]
    source.close()


@pytest.mark.parametrize("text", [b"x" + text_of(1, 2, 3), text_of(1, 22, 3), text_of(1), b""])
async def test_an_input_that_was_edited_meanwhile_is_refused(tmp_path: Path, text: bytes) -> None:
    """Rows that have moved would be sent under the numbers of others."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(text_of(1, 2, 3))
    source = open_source(path)
    rows = [row for row in await drain(source) if isinstance(row, Row)]
    source.skip(rows[0])
    source.skip(rows[1])
    path.write_bytes(text)

    source.rewind()
    with pytest.raises(InputError, match=r"in\.jsonl:\d: the input has changed during the run"):
        await drain(source)
    with pytest.raises(InputError, match="changed during the run"):
        source.reread(rows[2])

    source.close()


@pytest.mark.parametrize("kind", ["plain", "pipe"])
async def test_a_row_without_its_fields_is_read_again(tmp_path: Path, kind: str) -> None:
    """With a mark at the start, carriage returns, blank lines and a line of several blocks."""
    long = b'{"id":"r3","prompt":"%s"}' % (b"x" * (50_000 if kind == "pipe" else 300_000))
    source = opened(kind, b"\xef\xbb\xbf" + input_line(1) + b"\r\n\n" + long + b"\r\n" + input_line(4), tmp_path)
    rows = [row for row in await drain(source) if isinstance(row, Row)]
    whole = [dict(row.fields) for row in rows]

    for row in rows:
        assert source.keep(row)
        row.fields = {}
    again = [source.reread(row) for row in rows]

    assert [row.fields for row in again] == whole
    assert [(row.number, row.hash, row.id, row.size) for row in again] == [
        (row.number, row.hash, row.id, row.size) for row in rows
    ]
    assert [row.number for row in rows] == [1, 3, 4]
    source.close()


KEPT = [{"id": "a", "prompt": "one", "n": 1}, {"id": "b", "prompt": 'two, "é"', "n": 2}]


def write_kept(path: Path) -> None:
    """Write the rows in the format that the path's ending says."""
    text = "".join(json.dumps(row) + "\n" for row in KEPT)
    match path.suffix:
        case ".gz":
            path.write_bytes(gzip.compress(text.encode()))
        case ".json":
            path.write_text(json.dumps(KEPT, indent=2))
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(KEPT), path)
        case _:
            path.write_text('id,prompt,n\na,one,1\nb,"two, ""é""",2\n')


def kept_source(path: Path, spool: Path | None = None) -> FileSource:
    shape = RowShape(keep=("n",))
    form = make_format(format_by_name(str(path)), shape)
    source = open_source(path, form, spool=spool)
    assert isinstance(source, FileSource)
    return source


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.csv", "in.json", "in.parquet"])
async def test_a_row_without_an_offset_of_its_own_is_kept_in_a_file(tmp_path: Path, name: str) -> None:
    """And read from it, however often; in later passes too, which write no row again. Nothing is left of it."""
    write_kept(tmp_path / name)
    source = kept_source(tmp_path / name, tmp_path / "spool")
    rows = [row for row in await drain(source) if isinstance(row, Row)]
    whole = [dict(row.fields) for row in rows]
    assert source.can_skip
    assert not source.can_reread

    for row in rows:
        assert source.keep(row)
        row.fields = {}
    for _ in range(2):
        again = [source.reread(row) for row in rows]
        assert [row.fields for row in again] == whole
        assert [(row.number, row.hash, row.id) for row in again] == [(row.number, row.hash, row.id) for row in rows]
    size = source._spool.get().size_bytes
    source.skip(rows[0])
    source.finished(2)
    assert source.rewind()
    (second,) = [row for row in await drain(source) if isinstance(row, Row)]
    assert (second.number, second.fields, second.offset) == (1, whole[0], -1)
    assert source.keep(second)
    assert source.reread(second).fields == whole[0]
    assert source._spool.get().size_bytes == size > 0

    source.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]


async def test_without_room_for_it_a_row_stays_in_memory(tmp_path: Path) -> None:
    """The run goes on, and leaves further rows for another pass."""
    write_kept(tmp_path / "in.csv")
    source = kept_source(tmp_path / "in.csv", tmp_path / "nowhere" / "spool")
    first, second = [row for row in await drain(source) if isinstance(row, Row)]

    assert not source.keep(first)
    assert first.offset == -1
    assert source.reread(first) is first

    (tmp_path / "nowhere").mkdir()
    assert source.keep(second)
    assert source.reread(second).fields == second.fields
    source.close()


def test_rows_of_iterables_stay_in_memory() -> None:
    """An iterable can be read once."""
    iterable = IterableSource(["a"])
    row = iterable.take()
    assert isinstance(row, Row)
    assert (iterable.can_skip, iterable.can_reread, iterable.keep(row), row.offset) == (False, False, False, -1)
    assert iterable.reread(row) is row
    iterable.close()
    assert not iterable.rewind()
    with pytest.raises(RuntimeError):
        iterable.skip(Row(1, "0" * 16, '"a"', {}))


def test_the_spool_has_no_name_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Nothing is there unless a row is kept; then a file that vanishes with the process; a leftover is replaced."""
    spool = spool_path(tmp_path / "o.jsonl")
    assert spool is not None
    spool.write_bytes(b"left behind")
    source = piped(text_of(1), spool)
    row = source.take()
    assert isinstance(row, Row)

    source.keep(row)
    fd = source._spool.get()._fd
    assert fd is not None
    about = os.fstat(fd)

    assert (about.st_nlink, stat.S_IMODE(about.st_mode)) == (0, 0o600)
    assert about.st_dev == tmp_path.stat().st_dev
    assert list(tmp_path.iterdir()) == []
    source.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_full_disk_under_the_spool_says_what_to_try(tmp_path: Path) -> None:
    """A file size limit stands for it: the error is one of writing, and names the file."""
    code = """
import os, resource, sys
from llmbatch.core.errors import WriteError
from llmbatch.inputs.source import StreamSource
source = StreamSource(0, "standard input", spool=sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
rows = [source.take(), source.take()]
source.skip(rows[0])
try:
    source.skip(rows[1])
except WriteError as error:
    print(error.message, error.hint)
print(source.reread(rows[0]).id)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    done = subprocess.run(command, input=text_of(1, 2), capture_output=True, check=True, timeout=240)

    assert b"File too large" in done.stdout
    assert b"ulimit -f" in done.stdout
    assert str(tmp_path / "s").encode() in done.stdout
    assert done.stdout.endswith(b"r1\n")
    assert list(tmp_path.iterdir()) == []


def test_a_spool_that_cannot_be_made_is_an_error_of_writing(tmp_path: Path) -> None:
    """Such as beside an output whose directory has gone."""
    source = piped(text_of(1), tmp_path / "none" / "s")
    row = source.take()
    assert isinstance(row, Row)

    with pytest.raises(WriteError, match="No such file"):
        source.skip(row)

    source.close()


async def test_finished_rows_of_an_earlier_run_stay_out_of_later_passes(tmp_path: Path) -> None:
    """The output's rows and those of this run alike."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(text_of(*range(1, 6)) + b"{oops\n")
    finished = FinishedRows()
    finished.add(3, line_digest(input_line(3)), "success")
    source = open_source(path, finished=finished)
    rows = await drain(source)
    assert isinstance(rows[0], Row)
    source.skip(rows[0])
    source.finished(2)

    source.rewind()
    again = await drain(source)

    assert [row.number for row in again] == [1, 4, 5, 6]
    assert isinstance(again[-1], Malformed)
    source.close()


@given(st.sets(st.integers(1, 100_000) | st.integers(1, 10**10)), st.integers(1, 100_000))
def test_a_row_set_is_a_set(numbers: set[int], other: int) -> None:
    """Against a plain one."""
    rows = RowSet()
    for number in numbers:
        rows.add(number)

    assert all(number in rows for number in numbers)
    assert (other in rows) == (other in numbers)


def test_known_good_rows_are_found_in_the_input(tmp_path: Path) -> None:
    """Those that succeeded first; none where nothing did, and none whose line has changed."""
    path, target = tmp_path / "in.jsonl", tmp_path / "o.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + text_of(1, 2, 3))
    target.write_bytes(result_line(1, status="failed") + result_line(2) + result_line(3))
    output = open_output(target)

    rows = known_good_rows(output, open_input(path, output=""))
    path.write_bytes(text_of(1, 9, 3))
    changed = known_good_rows(output, open_input(path, output=""))

    assert rows is not None
    assert changed is not None
    assert [(row.number, row.fields) for row in rows] == [(2, {"prompt": '"say 2"'}), (3, {"prompt": '"say 3"'})]
    assert [row.number for row in changed] == [3]
    assert known_good_rows(output, open_input(tmp_path / "none", output="")) is None
    assert known_good_rows(output, open_input("-", output="")) == []
    output.close()
