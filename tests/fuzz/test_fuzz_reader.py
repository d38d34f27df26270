"""Inputs that nobody would write, and numbers that nobody may change."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from e2e_recorder import Recorder
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_fuzz_corpus import lines_of, rows_in

from llmbatch import BatchRunner, InputError

pytestmark = pytest.mark.slow  # hundreds of runs on real files

JSON_PIECES = (b'{"prompt":"x"}', b'"x"', b'{"id":', b'"custom_id":1', b"{", b"}", b"[", b"]", b'"', b",", b":")
ENDS = (b"\n", b"\n", b"\n", b"\r\n", b"\r", b" ", b"\t", b"\0", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x85")
ODD_PIECES = (b"\\", b"\\u00", b"\xff", b"null", b"NaN", b"1e400", b"9" * 40, b"\\ud800")
OTHER_KINDS = (b"\x1f\x8b", b"(\xb5/\xfd", b"\xff\xfe", b"\xfe\xff")

pieces = st.sampled_from([*JSON_PIECES, *ENDS, *ODD_PIECES, *OTHER_KINDS])
texts = st.binary(max_size=80) | st.lists(pieces, max_size=25).map(b"".join)


async def answered(row: object) -> str:
    return "fine"


@settings(max_examples=300, derandomize=True)
@given(texts)
@example(b"\xef\xbb\xbf")
@example(b"\r\n\r")
def test_any_bytes_are_a_refused_input_or_one_line_a_row(text: bytes) -> None:
    """No crash, no hang, no row too many or too few; archives and UTF-16 by accident are refused whole."""
    with tempfile.TemporaryDirectory() as name:
        path, output = Path(name) / "in.jsonl", Path(name) / "out.jsonl"
        path.write_bytes(text)
        try:
            summary = asyncio.run(BatchRunner(answered).run(path, output))
        except InputError:
            # By its first bytes it is an archive, or UTF-16.
            if text.startswith(OTHER_KINDS) or b"\0" in text[:4]:
                return
            # None of its first rows can be sent; behind one that can, each gets its line.
            assert not output.exists()
            text = b'"good"\n' + text
            path.write_bytes(text)
            summary = asyncio.run(BatchRunner(answered).run(path, output))
        if summary.exit_code == 75:  # a last line without its end may still be being written, and gets no line yet
            assert not text.endswith(b"\n")
            assert sorted(lines_of(output)) == rows_in(text)[:-1]
        else:
            assert summary.exit_code in (0, 1)
            assert sorted(lines_of(output)) == rows_in(text)


numbers = (
    st.sampled_from(["0", "-0", "-0.0", "1.10", "1e400", "1E+2", "1e-400", "0.1000000000000000055511151231257827"])
    | st.sampled_from([30, 5000]).map(lambda digits: "9" * digits)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
)
names = st.sampled_from(["a", "\\u0062", "c d"])


def in_object(items: list[tuple[str, str]]) -> str:
    return "{" + " ,".join(f'"{name}" : {value}' for name, value in items) + "}"


def in_list(items: list[str]) -> str:
    return f"[{', '.join(items)}]"


values = st.recursive(
    numbers | st.sampled_from(["null", "true", '"\\u00e9"', '"é"', '"\\ud83d\\ude00"', '"\\/"', '"\\u2028"']),
    lambda inner: (
        st.lists(inner, max_size=4).map(in_list)
        | st.lists(st.tuples(names, inner), max_size=3, unique_by=lambda item: item[0]).map(in_object)
    ),
    max_leaves=8,
)


def test_what_a_batch_row_asks_for_goes_out_byte_for_byte() -> None:
    """30 digits, 5,000 digits, 1e400, -0.0, 1.10, escapes, spaces: none of it is ours to change."""
    server = Recorder()
    sent: list[bytes] = []

    @settings(max_examples=120, derandomize=True, database=None)
    @given(values)
    def collect(value: str) -> None:
        sent.append(f'{{"model":"m","messages":[{{"role":"user","content":"x"}}],  "extra" :{value} }}'.encode())

    try:
        collect()
        rows = [
            b'{"custom_id":"%d","method":"POST","url":"/v1/chat/completions","body":%b}' % (number, body)
            for number, body in enumerate(sent)
        ]
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "in.jsonl"
            path.write_bytes(b"\n".join(rows))
            runner = BatchRunner(base_url=server.url, environ={}, concurrency=1)
            summary = asyncio.run(runner.run(path, Path(name) / "out.jsonl"))
        assert summary.success == len(rows) > 100
        assert server.bodies == sent
    finally:
        server.close()


@settings(max_examples=150, derandomize=True)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), st.lists, max_leaves=4))
def test_an_id_of_any_type_comes_back_as_it_was(name: Any) -> None:
    """Strings and whole numbers as they are, everything else as its JSON text; null is no name."""
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        path.write_text(json.dumps({"id": name, "prompt": "x"}) + "\n")
        asyncio.run(BatchRunner(answered).run(path, output))

        [line] = lines_of(output).values()
        assert line["status"] == "success"
        if name is None:
            assert line["id"] == "row-1"
        elif isinstance(name, str) or type(name) is int:
            assert line["id"] == name
        else:
            assert json.loads(line["id"]) == name
