"""A coverage-guided fuzzer on the reader and the parsing of rows; not part of the tests.

    pip install atheris && python tests/fuzz/atheris_reader.py -max_total_time=600 tests/fuzz/corpus

It stops at the first input that crashes, hangs, or gives another number of rows than there are lines.
"""

from __future__ import annotations

import sys

try:
    import atheris  # type: ignore[import-not-found]
except ImportError:
    sys.exit("atheris is not installed: pip install atheris")

with atheris.instrument_imports():
    from llmbatch.core.rows import Malformed
    from llmbatch.inputs.rows import line_digest, parse_line, strip_bom
    from llmbatch.inputs.splitter import LineSplitter


def test_one_input(data: bytes) -> None:
    """Lines do not depend on how the blocks were cut, and every line is a row, a malformed one, or blank."""
    splitter = LineSplitter()
    cut = data[0] % 17 + 1 if data else 1
    lines = [line for at in range(0, len(data), cut) for line in splitter.feed(data[at : at + cut])]
    lines += splitter.finish()
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert lines == expected
    for number, line in enumerate(expected, 1):
        raw = strip_bom(line) if number == 1 else line
        row = parse_line(number, raw)
        if row is None:
            assert not raw.strip()
        else:
            assert row.number == number
            assert row.hash == line_digest(raw)
            assert isinstance(row, Malformed) or row.fields


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
