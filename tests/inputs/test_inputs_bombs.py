"""Small archives that inflate to much: memory stays bounded, and the event loop gets its turn."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from llmbatch.core.rows import Row
from llmbatch.inputs.compression import inflater_for
from llmbatch.inputs.source import open_source

MIB = 1024 * 1024
LAST = b'{"prompt":"last"}\n'


def zstd_bomb(text: bytes, blocks: int) -> bytes:
    """One frame of *blocks* blocks, each 128 KiB of one and the same byte in four bytes, then *text*."""
    head = zstandard.ZSTD_MAGIC_NUMBER.to_bytes(4, "little") if hasattr(zstandard, "ZSTD_MAGIC_NUMBER") else b""
    head = head or b"\x28\xb5\x2f\xfd"
    frame = head + b"\x00" + b"\x38"  # no content size, a window of 128 KiB
    size = 128 * 1024
    rle = ((size << 3) | (1 << 1)).to_bytes(3, "little") + b"\n"
    last = ((len(text) << 3) | 1).to_bytes(3, "little") + text
    return frame + rle * blocks + last


def read_to_the_row(path: Path) -> tuple[Row, float, int]:
    """The only row of *path*, the longest CPU time of one call, and the calls."""
    source = open_source(path)
    longest, calls = 0.0, 0
    rows = []
    while not source.exhausted:
        began = time.thread_time()
        item = source.take()
        longest = max(longest, time.thread_time() - began)
        calls += 1
        if item is not None:
            rows.append(item)
    source.close()
    [row] = rows
    assert isinstance(row, Row)
    return row, longest, calls


@pytest.mark.slow  # a hundred megabytes of line ends
@pytest.mark.parametrize("kind", ["zst", "gz"])
def test_four_kilobytes_of_newlines_took_a_gigabyte_and_a_minute(tmp_path: Path, kind: str) -> None:
    """The row behind 128 MiB of blank lines is found, in turns of the loop, in a few megabytes."""
    path = tmp_path / f"p.jsonl.{kind}"
    if kind == "zst":
        path.write_bytes(zstd_bomb(LAST, 1000))
        assert path.stat().st_size < 4200
    else:
        path.write_bytes(gzip.compress(b"\n" * (125 * MIB) + LAST, compresslevel=1))
    tracemalloc.start()

    row, longest, calls = read_to_the_row(path)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert row.number == 125 * MIB + 1
    assert peak < 64 * MIB
    assert calls > 100
    assert longest < 1.0  # 0.03 s on an idle machine; before, one call read it all


@pytest.mark.slow  # megabytes of blank lines
def test_blank_lines_that_are_not_empty_count_against_the_turn(tmp_path: Path) -> None:
    """Lines of a space each are looked at one by one, and never more than ten thousand in a call."""
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(b" \n" * 200_000 + LAST))

    row, _, calls = read_to_the_row(path)

    assert row.number == 200_001
    assert calls >= 20


def test_zstd_comes_in_pieces() -> None:
    """No piece is larger than 256 KiB, however much one slice inflates to."""
    pieces = list(inflater_for(b"\x28\xb5\x2f\xfd").feed(zstd_bomb(LAST, 200)))

    assert max(map(len, pieces)) == 256 * 1024
    assert sum(map(len, pieces)) == 200 * 128 * 1024 + len(LAST)
