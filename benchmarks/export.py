"""Time and peak memory of `llmbatch export` at growing outputs.

Makes an input of small rows and its output, in an order as runs leave it (each row among the 200 around it, one in a
hundred far behind), and exports it. Each export is a process of its own, whose peak is the kernel's own figure.

    python benchmarks/export.py [--rows 10000,1000000] [--formats jsonl,csv,parquet,openai,join] [--json raw.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llmbatch.core.calls import Usage
from llmbatch.core.rows import Result, encode_line
from llmbatch.inputs.rows import line_digest

FORMATS = {
    "jsonl": ["-o", "x.jsonl"],
    "csv": ["-o", "x.csv"],
    "parquet": ["-o", "x.parquet"],
    "openai": ["-o", "x.openai.jsonl", "--format", "openai"],
    "join": ["-o", "joined.csv", "--join", "--input", "p.jsonl"],
    "join-parquet": ["-o", "joined.parquet", "--join", "--input", "p.jsonl"],
}
NEIGHBORS = 200


@dataclass(frozen=True)
class Measured:
    rows: int
    format: str
    seconds: float
    cpu_seconds: float
    peak_mb: float
    output_mb: float


def input_line(number: int) -> bytes:
    return b'{"id":"review-%d","prompt":"Sentiment of review %d: it was fine, but the hinge broke","stars":%d}' % (
        number,
        number,
        number % 5,
    )


def result_line(number: int) -> bytes:
    """About 700 bytes, as the answers of chat models are."""
    text = f"The review {number} is mixed: the first part is positive, the second one is negative."
    body = json.dumps(
        {
            "id": f"chatcmpl-{number:024x}",
            "object": "chat.completion",
            "created": 1767225600,
            "model": "gpt-5-mini",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 18, "total_tokens": 38},
        },
        separators=(",", ":"),
    )
    result = Result(
        number,
        line_digest(input_line(number)),
        "success",
        f'"review-{number}"',
        attempts=1,
        status_code=200,
        request_id=f"req_{number:016x}",
        body=body,
        text=text,
        usage=Usage(20, 18),
        cost_usd=0.000041,
        model="openai/gpt-5-mini",
        latency_s=0.8,
    )
    return encode_line(result)


def in_order_of_completion(rows: int) -> Iterator[int]:
    chance = random.Random(0)
    window: list[int] = []
    late: list[int] = []
    for number in range(1, rows + 1):
        (late if chance.random() < 0.01 else window).append(number)
        if len(window) > NEIGHBORS:
            yield window.pop(chance.randrange(NEIGHBORS))
    yield from window
    yield from late


def make(folder: Path, rows: int) -> None:
    with (folder / "p.jsonl").open("wb") as file:
        for number in range(1, rows + 1):
            file.write(input_line(number) + b"\n")
    with (folder / "o.jsonl").open("wb") as file:
        for number in in_order_of_completion(rows):
            file.write(result_line(number))


def measure(folder: Path, rows: int, name: str) -> Measured:
    words = [sys.executable, "-m", "llmbatch", "export", str(folder / "o.jsonl"), "-q", *FORMATS[name]]
    words = [str(folder / word) if word.startswith(("x.", "joined.", "p.")) else word for word in words]
    began = time.perf_counter()
    pid = os.posix_spawn(sys.executable, words, os.environ)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"error: {' '.join(words)}: exit code {os.waitstatus_to_exitcode(status)}")
    made = folder / words[words.index("-o") + 1]
    size = made.stat().st_size / 1e6
    made.unlink()
    return Measured(rows, name, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, size)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,1000000", help="sizes, with commas between")
    parser.add_argument("--formats", default=",".join(FORMATS), help=f"of {', '.join(FORMATS)}")
    parser.add_argument("--json", type=Path, help="where raw figures go")
    given = parser.parse_args(words)
    measured = []
    print(f"Python {platform.python_version()}")
    print(f"{'rows':>12} {'format':<13} {'seconds':>8} {'CPU s':>6} {'peak MB':>8} {'file MB':>8}")
    for rows in map(int, given.rows.split(",")):
        with tempfile.TemporaryDirectory(prefix="export-") as name:
            make(Path(name), rows)
            for kind in given.formats.split(","):
                one = measure(Path(name), rows, kind)
                measured.append(one)
                times = f"{one.seconds:>8.1f} {one.cpu_seconds:>6.1f}"
                print(f"{rows:>12,} {kind:<13} {times} {one.peak_mb:>8.1f} {one.output_mb:>8.1f}", flush=True)
    if given.json:
        given.json.write_text(json.dumps([asdict(one) for one in measured]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
