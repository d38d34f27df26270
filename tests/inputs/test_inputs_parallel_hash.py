"""Hashing an input on another core while its output is read: the same result as without, or none."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from llmbatch.core.errors import InputError
from llmbatch.inputs import parallel_hash as module
from llmbatch.inputs.parallel_hash import ParallelHash, start_parallel_hash
from llmbatch.inputs.rows import line_digest, strip_bom
from llmbatch.inputs.verify import verify_finished
from llmbatch.outputs.open import open_output
from llmbatch.storage.finished_rows import FinishedRows, Verified

pytestmark = [
    pytest.mark.slow,  # starts an interpreter
    pytest.mark.traced,
    pytest.mark.skipif(
        not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="there is no other core"
    ),
]


@pytest.fixture(autouse=True)
def for_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORTH_BYTES", 1)


def write(folder: Path, lines: list[bytes], *, done: set[int], end: bytes = b"\n") -> tuple[Path, Path]:
    """An input, and an output that has the rows of *done*."""
    rows, output = folder / "in.jsonl", folder / "out.jsonl"
    rows.write_bytes(b"\n".join(lines) + end)
    with output.open("wb") as file:
        for number in sorted(done):
            digest = line_digest(strip_bom(lines[number - 1]) if number == 1 else lines[number - 1])
            file.write(f'{{"row":{number},"hash":"{digest}","status":"success"}}\n'.encode())
    return rows, output


def finished_of(output: Path) -> FinishedRows:
    opened = open_output(output)
    opened.close()
    return opened.finished


def verified(rows: Path, output: Path, *, early: bool) -> Verified | None:
    finished = finished_of(output)
    parallel_hash = start_parallel_hash(rows, output) if early else None
    if early:
        assert parallel_hash is not None
    try:
        verify_finished(rows, finished, parallel_hash=parallel_hash)
    finally:
        if parallel_hash is not None:
            parallel_hash.close()
    return finished.verified


PROMPT = b'{"prompt":"%d"}'
MANY = [PROMPT % number + b" " * (number % 300) for number in range(1, 9001)]

INPUTS = {
    "all done": (MANY, set(range(1, 9001)), b"\n"),
    "half done": (MANY, set(range(1, 4501)), b"\n"),
    "done here and there": (MANY, set(range(1, 9001, 7)) | {9000}, b"\n"),
    "no last newline": (MANY, set(range(1, 9001)), b""),
    "carriage returns": ([line + b"\r" for line in MANY], set(range(1, 9001)), b"\n"),
    "a byte order mark": ([b"\xef\xbb\xbf" + MANY[0], *MANY[1:]], set(range(1, 9001)), b"\n"),
    "blank lines": ([line if number % 5 else b" " for number, line in enumerate(MANY)], {2, 3, 8999}, b"\n"),
    "one long line": ([MANY[0], PROMPT % 2 + b" " * 900_000, MANY[2]], {1, 2, 3}, b"\n"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_head_start_finds_what_is_found_without_one(tmp_path: Path, name: str) -> None:
    """Every finished row compared, and reading may start no later than it knows to be finished."""
    lines, done, end = INPUTS[name]
    rows, output = write(tmp_path, lines, done=done, end=end)

    parallel_hash = start_parallel_hash(rows, output)
    assert parallel_hash is not None
    finished = finished_of(output)
    assert parallel_hash.matches(finished)
    parallel_hash.close()
    early, late = finished.verified, verified(rows, output, early=False)

    assert early is not None
    assert late is not None
    assert early.identity == late.identity
    text = rows.read_bytes() + b"\n"
    start = 3 if text.startswith(b"\xef\xbb\xbf") else 0
    assert early.size_bytes == (
        start + sum(len(line) + 1 for line in text[start:].split(b"\n")[: early.lines]) if early.lines else 0
    )
    assert set(range(1, early.lines + 1)) <= done


@pytest.mark.parametrize("row", [1, 4096, 4097, 9000])
def test_an_edited_row_is_named_all_the_same(tmp_path: Path, row: int) -> None:
    """The slow way says which."""
    rows, output = write(tmp_path, MANY, done=set(range(1, 9001)))
    edited = list(MANY)
    edited[row - 1] = edited[row - 1].replace(b"prompt", b"Prompt")
    rows.write_bytes(b"\n".join(edited) + b"\n")

    with pytest.raises(InputError, match=f"in.jsonl:{row}: this row has changed"):
        verified(rows, output, early=True)


def test_an_input_that_was_cut_is_refused(tmp_path: Path) -> None:
    """The process ends before it has as many hashes as the output has rows."""
    rows, output = write(tmp_path, MANY, done=set(range(1, 9001)))
    rows.write_bytes(b"\n".join(MANY[:5000]) + b"\n")

    with pytest.raises(InputError, match="the file has 5000 lines, but the output has a result for line 9000"):
        verified(rows, output, early=True)


def test_a_line_too_long_for_it_is_left_to_the_slow_way(tmp_path: Path) -> None:
    """It would have to be held."""
    rows, output = write(tmp_path, [MANY[0], PROMPT % 2 + b" " * 3_000_000], done={1, 2})
    finished = finished_of(output)
    parallel_hash = start_parallel_hash(rows, output)

    assert parallel_hash is not None
    assert not parallel_hash.matches(finished)
    parallel_hash.close()
    assert verified(rows, output, early=True) is not None


def test_an_input_that_changes_meanwhile_is_compared_again(tmp_path: Path) -> None:
    """The hashes may be of neither the old file nor the new one."""
    rows, output = write(tmp_path, MANY, done=set(range(1, 9001)))
    finished = finished_of(output)
    parallel_hash = start_parallel_hash(rows, output)
    assert parallel_hash is not None
    with rows.open("ab") as file:
        file.write(b'"more"\n')

    assert not parallel_hash.matches(finished)
    parallel_hash.close()


def test_closing_ends_the_process(tmp_path: Path) -> None:
    """However much is left to hash."""
    rows, output = write(tmp_path, MANY, done={1})
    fd = os.open(rows, os.O_RDONLY)
    parallel_hash = ParallelHash(fd)

    parallel_hash.close()
    parallel_hash.close()

    assert parallel_hash._process.returncode is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert output.exists()


def test_no_process_is_started_where_it_does_not_pay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files, archives, streams, and an output that is not there yet."""
    rows, output = write(tmp_path, MANY, done={1})
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(b"\x1f\x8b\x08\x00" + bytes(100))

    assert start_parallel_hash(packed, output) is None
    assert start_parallel_hash("-", output) is None
    assert start_parallel_hash(rows, tmp_path / "none.jsonl") is None
    monkeypatch.setattr(module, "_WORTH_BYTES", 1 << 30)
    assert start_parallel_hash(rows, output) is None


def test_a_hash_is_that_of_the_line(tmp_path: Path) -> None:
    """As the contract has it: the first 16 hex digits of SHA-256."""
    rows, output = write(tmp_path, [b'"x"'], done={1})

    assert json.loads(output.read_text())["hash"] == hashlib.sha256(b'"x"').hexdigest()[:16]
    assert verified(rows, output, early=True) is not None
