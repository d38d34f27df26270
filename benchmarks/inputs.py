"""How fast inputs are read, beside a naive loop over the same file, and the memory that it takes at two sizes.

    python benchmarks/inputs.py [--rows N]

Each measurement is a process of its own; the time is CPU time, since other processes share the machine. A row has an
id, a text of 130 characters and a label. ``records`` are split but not hashed, ``rows`` are requests with their hash
and the prompt by template; ``naive`` is what a script does: ``csv.DictReader``, ``json.loads`` of lines or of the
whole file, ``to_pylist`` of the whole table. The peak of memory includes the interpreter and what is imported.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FORMATS = ("jsonl", "json", "csv", "txt", "parquet")
TEXT = "This movie was rather good, and I liked it. " * 3


def write(path: Path, rows: int) -> None:
    """A file of *rows* records in the format of its ending."""
    kind = path.suffix[1:]
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("label", pa.int64())])
        with pq.ParquetWriter(path, schema) as writer:
            for start in range(0, rows, 50_000):
                numbers = range(start, min(rows, start + 50_000))
                columns = [[f"r{number}" for number in numbers], [TEXT] * len(numbers), [n % 3 for n in numbers]]
                writer.write_table(pa.table(columns, schema=schema))
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "csv":
            file.write("id,text,label\n")
        for number in range(rows):
            record = json.dumps({"id": f"r{number}", "text": TEXT, "label": number % 3})
            if kind == "csv":
                file.write(f'r{number},"{TEXT}",{number % 3}\n')
            elif kind == "txt":
                file.write(TEXT + "\n")
            elif kind == "jsonl":
                file.write(record + "\n")
            else:
                file.write(("[" if number == 0 else ",\n") + record)
        if kind == "json":
            file.write("]")


def naive(path: Path) -> int:
    """What a script does."""
    kind = path.suffix[1:]
    if kind == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            return sum(1 for _ in csv.DictReader(file))
    if kind == "parquet":
        import pyarrow.parquet as pq

        return len(pq.read_table(path).to_pylist())
    with path.open(encoding="utf-8") as file:
        if kind == "json":
            return len(json.load(file))
        return sum(1 for line in file if (json.loads(line) if kind == "jsonl" else line))


def records(path: Path) -> int:
    """Records with all fields undone."""
    from llmbatch.inputs.format_names import format_by_name
    from llmbatch.inputs.formats import make_format
    from llmbatch.inputs.open import open_input
    from llmbatch.inputs.shape import RowShape
    from llmbatch.inputs.verify import file_records
    from llmbatch.storage.filesystem import FILESYSTEM

    form = make_format(format_by_name(str(path)), RowShape(), is_whole=True)
    return sum(len(batch or ()) for batch in file_records(form, open_input(path), str(path), FILESYSTEM))


def rows(path: Path) -> int:
    """Rows as a run reads them, with a template."""
    from llmbatch.inputs.input import open_input
    from llmbatch.inputs.shape import RowShape

    shape = RowShape(template="Sentiment of: {{ text }}")
    return sum(1 for _ in open_input(path, output="", shape=shape).peek())


WAYS: dict[str, Callable[[Path], int]] = {"naive": naive, "records": records, "rows": rows}


def measure(path: Path, way: str) -> tuple[float, float]:
    """Records per second of CPU time, and the peak of memory in MB, of a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", way, str(path)], capture_output=True, text=True, check=True
    )
    speed, peak = done.stdout.split()
    return float(speed), float(peak)


def one(way: str, path: Path) -> None:
    """Measure in this process and print it."""
    before = time.process_time()
    count = WAYS[way](path)
    seconds = time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(count / seconds, peak / (1024 * 1024 if sys.platform == "darwin" else 1024))


def lines(folder: Path, most: int) -> Iterator[str]:
    """The table."""
    yield f"{'format':<9}{'way':<9}{'records/s':>12}{'MB, a tenth':>13}{'MB, all':>9}"
    for kind in FORMATS:
        small, large = folder / f"small.{kind}", folder / f"large.{kind}"
        write(small, most // 10)
        write(large, most)
        for way in WAYS:
            _, little = measure(small, way)
            speed, much = measure(large, way)
            yield f"{kind:<9}{way:<9}{speed:>12,.0f}{little:>13.0f}{much:>9.0f}"
        large.unlink()


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one[0], Path(arguments.one[1]))
        return
    print(
        f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores, {arguments.rows:,} records"
    )
    with tempfile.TemporaryDirectory() as folder:
        for line in lines(Path(folder), arguments.rows):
            print(line, flush=True)


if __name__ == "__main__":
    main()
