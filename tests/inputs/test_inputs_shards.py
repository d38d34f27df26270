"""Shards: of every kind of input, the shards together are the input, each row with its number, in one shard alone."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from example_lines import drain, input_line
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.errors import InputError
from llmbatch.core.rows import Malformed, Row
from llmbatch.core.shards import MOST_SHARDS, Shard
from llmbatch.inputs import parallel_hash as parallel_hash_module
from llmbatch.inputs.formats import JSON_LINES, make_format
from llmbatch.inputs.input import open_input
from llmbatch.inputs.parallel_hash import start_parallel_hash
from llmbatch.inputs.rows import line_digest, parse_line, strip_bom
from llmbatch.inputs.shape import RowShape
from llmbatch.inputs.source import FileSource, StreamSource, open_source
from llmbatch.inputs.verify import count_rows, verify_finished
from llmbatch.storage.finished_rows import FinishedRows, Verified

COUNTS = [1, 2, 3, 7, 64]


def read(path: Path, shard: Shard, limit: int | None = None) -> list[tuple[int, str]]:
    rows = open_input(path, output="", shape=RowShape(), shard=shard)
    source = rows.rows(None, limit=limit, spool=None)
    found = []
    while not source.exhausted:
        item = source.take()
        if item is not None:
            found.append((item.number, item.hash))
    source.close()  # type: ignore[attr-defined]
    return found


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"prompt": [f"say {n}" for n in range(1, 1501)]}), path, row_group_size=400)


TEXT = b"\xef\xbb\xbf" + b"".join(
    input_line(n) + (b"\r\n" if n % 4 else b"\n\n") for n in range(1, 1501)
)  # a byte order mark, carriage returns, blank lines

WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_bytes(TEXT),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(TEXT)),
    "rows.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(TEXT)),
    "rows.json": lambda path: path.write_text(json.dumps([{"prompt": f"say {n}"} for n in range(1, 1501)])),
    "rows.csv": lambda path: path.write_text("prompt\n" + "".join(f'"say\n{n}"\n' for n in range(1, 1501))),
    "rows.txt": lambda path: path.write_text("".join(f"say {n}\n\n" for n in range(1, 1501))),
    "rows.parquet": write_parquet,
}


@pytest.mark.slow  # files of every format
@pytest.mark.parametrize("name", WRITERS)
def test_the_shards_of_every_format_are_the_whole_input(tmp_path: Path, name: str) -> None:
    """The same numbers and hashes as of one process, row r in shard ((r - 1) mod N) + 1, and counts that agree."""
    path = tmp_path / name
    WRITERS[name](path)
    whole = read(path, Shard(1, 1))

    for count in COUNTS:
        parts = {index: read(path, Shard(index, count)) for index in range(1, count + 1)}

        assert sorted(row for part in parts.values() for row in part) == whole
        assert all((number - 1) % count + 1 == index for index, part in parts.items() for number, _ in part)
        if not name.endswith((".gz", ".zst")):
            rows = open_input(path, output="", shard=Shard(count, count))
            assert rows.count() == len(parts[count])


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("limit", [1, 5, 700, 9000])
def test_a_limit_counts_the_rows_of_all_shards(tmp_path: Path, name: str, limit: int) -> None:
    """``-n 100 --shard 1/4`` are the rows of the first hundred that are this shard's."""
    path = tmp_path / name
    WRITERS[name](path)
    whole = read(path, Shard(1, 1), limit)

    parts = [read(path, Shard(index, 3), limit) for index in (1, 2, 3)]

    assert sorted(row for part in parts for row in part) == whole
    assert [open_input(path, output="", shard=Shard(index, 3)).count(limit) for index in (1, 2, 3)] in (
        [len(part) for part in parts],
        [None] * 3,  # compressed
    )


def test_rows_of_other_shards_are_split_and_not_parsed(tmp_path: Path) -> None:
    """At most the shard's own lines reach the parser."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TEXT)
    form = make_format("jsonl", RowShape())
    parsed: list[int] = []

    def parse(number: int, record: bytes) -> Row | Malformed | None:
        parsed.append(number)
        return parse_line(number, record)

    form.parse = parse  # type: ignore[method-assign]
    source = FileSource(path, form, shard=Shard(3, 8))
    while not source.exhausted:
        source.take()
    source.close()

    assert parsed == list(range(3, TEXT.count(b"\n") + 1, 8))


@pytest.mark.parametrize("is_pipe", [False, True])
async def test_a_shard_of_a_pipe_and_later_passes(tmp_path: Path, is_pipe: bool) -> None:
    """Rows that are skipped come again, rows of other shards never do, and a row can be read again by its offset."""
    path = tmp_path / "rows.jsonl"
    text = b"".join(input_line(n) + b"\n" for n in range(1, 101))
    path.write_bytes(text)
    if is_pipe:
        reading, writing = os.pipe()
        os.write(writing, text)
        os.close(writing)
        source: FileSource | StreamSource = StreamSource(reading, "standard input", shard=Shard(2, 5))
    else:
        source = open_source(path, shard=Shard(2, 5))
    rows = [row for row in await drain(source) if isinstance(row, Row)]
    for row in rows[3:8]:
        source.skip(row)
    for row in rows:
        assert source.keep(row)
        assert source.reread(row).fields == {"prompt": f'"say {row.number}"'}
    for row in (*rows[:3], *rows[8:]):
        source.finished(row.number)

    assert source.rewind()
    again = await drain(source)

    assert [row.number for row in rows] == list(range(2, 101, 5))
    assert [row.number for row in again] == [17, 22, 27, 32, 37]
    source.close()


def finished_of(shard: Shard, numbers: list[int], lines: list[bytes]) -> FinishedRows:
    finished = FinishedRows(shard)
    for number in numbers:
        line = strip_bom(lines[number - 1]) if number == 1 else lines[number - 1]
        finished.add(number, line_digest(line), "success")
    return finished


@given(
    st.integers(1, 9).flatmap(lambda count: st.tuples(st.integers(1, count), st.just(count))),
    st.integers(1, 60),
    st.sets(st.integers(1, 60)),
)
def test_finished_rows_of_a_shard_are_those_of_all_rows_that_it_owns(
    pair: tuple[int, int], first: int, numbers: set[int]
) -> None:
    """Against a plain set; rows of other shards are counted, and not kept."""
    shard = Shard(*pair)
    finished = FinishedRows(shard)
    rows = sorted(numbers)

    assert finished.add_all(rows, [9] * len(rows), [1] * len(rows)) == len(rows)

    own = {number for number in rows if (number - 1) % shard.count + 1 == shard.index}
    assert {number for number in range(1, 61) if finished.is_done(number)} == own
    assert list(finished.done_after(0)) == sorted(own)
    assert list(finished.done_after(first)) == sorted(number for number in own if number > first)
    assert finished.last == max(own, default=0)
    assert (len(finished), finished.others, finished.lines) == (len(own), len(rows) - len(own), len(rows))
    start = first + shard.skip(first)
    run = [start + at * shard.count for at in range(4)]
    assert finished.are_done(start, 4) == (set(run) <= own)
    assert list(finished.fingerprints_of(start, 4)) == [9 if number in own else 0 for number in run]
    if own:
        repeated = [61 * shard.count + shard.index, min(own)]
        assert finished.add_all(repeated, [9, 9], [1, 1]) == 1
        finished.remove([min(own)], status="success")
        assert not finished.is_done(min(own))


def test_memory_is_that_of_the_own_rows() -> None:
    """A ledger of shard 5/1000 of ten million rows has three pages, and none too far from the others."""
    finished = FinishedRows(Shard(5, 1000))

    for number in range(5, 10_000_000, 1000):
        finished.add(number, "0123456789abcdef", "success")

    assert len(finished._pages) == 3


def test_two_ledgers_join_and_a_row_in_both_is_named() -> None:
    """Nothing is added then."""
    one, two, three = (FinishedRows(Shard(2, 4)) for _ in range(3))
    one.add(2, "0" * 16, "success")
    two.add(6, "0" * 16, "failed")
    three.add(2, "1" * 16, "success")

    assert one.include(two) is None
    assert one.include(three) == 2
    assert (one.success, one.failed, one.last) == (1, 1, 6)
    assert list(one.done_after(0)) == [2, 6]


def verified_of(path: Path, finished: FinishedRows) -> Verified | None:
    finished.verified = None
    verify_finished(path, finished)
    return finished.verified


@pytest.mark.parametrize("done", ["all", "half", "scattered"])
async def test_a_resumed_shard_compares_its_own_rows_and_reads_on_after_them(tmp_path: Path, done: str) -> None:
    """Rows of other shards may have changed: they are other processes' matter."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TEXT)
    lines = TEXT.removesuffix(b"\n").split(b"\n")
    shard = Shard(3, 7)
    own = [number for number, _ in read(path, shard)]
    numbers = {"all": own, "half": own[: len(own) // 2], "scattered": own[::3]}[done]
    finished = finished_of(shard, numbers, lines)

    found = verified_of(path, finished)
    source = open_source(path, finished=finished, shard=shard)
    left = [row.number for row in await drain(source)]

    assert left == [number for number in own if number not in numbers]
    assert source.rows_read == len(own)
    assert found is not None
    assert TEXT[3 : found.size_bytes].count(b"\n") == found.lines
    changed = TEXT.replace(b'say 7"', b'SAY 7"', 1).replace(b'say 8"', b'SAY 8"', 1)
    path.write_bytes(changed)
    foreign = [n for n, line in enumerate(changed.split(b"\n"), 1) if b"SAY" in line and n not in numbers]
    if len(foreign) == 2:
        verify_finished(path, finished)
    source.close()


def test_a_changed_row_of_the_shard_is_refused_with_its_line(tmp_path: Path) -> None:
    """With the number that it has in the input."""
    path = tmp_path / "rows.jsonl"
    lines = [input_line(n) for n in range(1, 101)]
    finished = finished_of(Shard(4, 8), [4, 12, 20], lines)
    lines[11] = b'{"prompt":"other"}'
    path.write_bytes(b"\n".join(lines))

    with pytest.raises(InputError, match=r"rows.jsonl:12: this row has changed"):
        verify_finished(path, finished)


@pytest.mark.slow  # starts an interpreter
@pytest.mark.traced
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="there is no other core"
)
@pytest.mark.parametrize("share", [1, 2, 3])
def test_hashing_ahead_hashes_the_rows_of_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    """And finds what is found without it."""
    monkeypatch.setattr(parallel_hash_module, "_WORTH_BYTES", 1)
    path, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    lines = [b'{"prompt":"%d"}%s\r' % (n, b" " * (n % 300)) for n in range(1, 9001)]
    path.write_bytes(b"\n".join(lines))
    output.write_bytes(b"x")
    shard = Shard(5, 8)
    numbers = list(range(5, 9001, 8))[:: 1 if share < 3 else 3]
    finished = finished_of(shard, numbers[: len(numbers) // share], lines)

    ahead = start_parallel_hash(path, output, shard=shard)
    assert ahead is not None
    matches = ahead.matches(finished)
    ahead.close()

    assert matches
    early = finished.verified
    assert early is not None
    leading = list(range(5, early.lines + 1, 8))
    assert all(finished.is_done(number) for number in leading)
    assert len(leading) == (0 if share == 3 else len(finished))
    text = path.read_bytes()
    assert text[: early.size_bytes] == b"".join(line + b"\n" for line in lines[: early.lines])


@pytest.mark.parametrize("text", ["0/8", "9/8", "1/0", "x/3", "1", "1/2/3", "-1/3", "1/100000", "", "1 / 2", "٣/٤"])
def test_what_is_no_shard_is_none(text: str) -> None:
    """I counts from 1, and is at most N."""
    with pytest.raises(ValueError, match="is not a shard"):
        Shard.parse(text)


def test_shards_name_themselves() -> None:
    """As they are typed."""
    assert str(Shard.parse("3/64")) == "3/64"
    assert Shard.parse("any/64").is_any
    assert str(Shard.parse("any/64")) == "any/64"
    assert Shard.parse(f"{MOST_SHARDS}/{MOST_SHARDS}").index == MOST_SHARDS


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_two_shards_overlap_if_a_row_belongs_to_both(one: int, two: int, data: st.DataObject) -> None:
    """Against all rows up to a common multiple."""
    first = Shard(data.draw(st.integers(1, one)), one)
    second = Shard(data.draw(st.integers(1, two)), two)

    both = any(first.owns(number) and second.owns(number) for number in range(1, one * two + 1))

    assert first.overlaps(second) == both


def test_counting_leaves_out_blank_lines_of_the_shard(tmp_path: Path) -> None:
    """As a run does."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt":"a"}\n\n{"prompt":"b"}\n{"prompt":"c"}\n\n')

    assert [count_rows(path, form=JSON_LINES, shard=Shard(index, 2)) for index in (1, 2)] == [2, 1]
