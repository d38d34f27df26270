"""The memory that inputs with huge cells take: of a process of its own, as the kernel tells it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

READ = """
import sys
from pathlib import Path
from llmbatch.inputs.format_names import format_by_name
from llmbatch.inputs.formats import make_format
from llmbatch.inputs.shape import RowShape
from llmbatch.inputs.source import open_source

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

before = peak()
source = open_source(sys.argv[1], make_format(format_by_name(sys.argv[1]), RowShape()))
rows = []
while not source.exhausted:
    row = source.take()
    if row is not None:
        rows.append([row.number, getattr(row, "code", "")])
import json
print(json.dumps([rows, (peak() - before) / 1024]))
"""
TEXTS = {"one line": b"x" * 1000, "lines": b"words and more words, in a row \n", "quotes": b'""a""\n, ' * 100}


def write(path: Path, text: bytes) -> None:
    """Three records, of which the second one has 100 MB of *text*."""
    count = 100_000_000 // (len(text) * 1000)
    with path.open("wb") as file:
        file.write(b'id,prompt\n1,"a"\n2,"' if path.suffix == ".csv" else b'[{"prompt":"a"},{"prompt":"')
        for _ in range(count):
            file.write(text * 1000)
        file.write(b'"\n3,c\n' if path.suffix == ".csv" else b'"},{"prompt":"c"}]')


@pytest.mark.slow  # a process of its own for each file of 100 MB
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to read a process's peak")
@pytest.mark.parametrize(
    ("name", "text"), [("in.csv", "one line"), ("in.csv", "lines"), ("in.csv", "quotes"), ("in.json", "one line")]
)
def test_a_cell_of_100_mb_takes_no_more_than_a_few_times_the_longest_row(tmp_path: Path, name: str, text: str) -> None:
    """Which is 64 MiB; it is that row's error, and the rows around it are read.

    A cell with line breaks took 800 MB: what was held of it was parsed again and again.
    """
    write(tmp_path / name, TEXTS[text])

    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / name)], capture_output=True, text=True, timeout=240, check=True
    )

    rows, grown_mb = json.loads(done.stdout)
    assert rows == [[1, ""], [2, "input_too_long"], [3, ""]]
    assert grown_mb < 256
