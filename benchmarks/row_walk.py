"""How many files one row crosses on its way from the input line to the output line, and how often the file changes.

    python benchmarks/row_walk.py              the two figures, and the files with their calls per row
    python benchmarks/row_walk.py --json

Two runs over real HTTP on loopback, at concurrency 1, of 20 and 120 rows; every call of a Python function is seen by a
profile function, and a call into another file than the last one's is a change of file. What the longer run has more of,
divided by 100, is one row's. A file counts if each row calls into it. C functions are no calls into a file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

import llmbatch
from llmbatch import BatchRunner

PACKAGE = str(Path(llmbatch.__file__).parent)
ANSWER = json.dumps(
    {
        "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
).encode()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request of a connection the same."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
            )
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        writer.close()


class Walk:
    """Which files of the package are called into, in order."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.changes = 0
        self._at = ""

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        name = frame.f_code.co_filename[len(PACKAGE) + 1 :]
        self.calls[name] += 1
        if name != self._at:
            self._at = name
            self.changes += 1


async def walk(rows: int, folder: Path) -> Walk:
    """Trace one run of *rows* rows."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    source = folder / f"{rows}.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"question {number}"}) + "\n" for number in range(rows)))
    runner = BatchRunner("m", base_url=f"http://127.0.0.1:{port}/v1", environ={}, concurrency=1, seed=1)
    seen = Walk()
    sys.setprofile(seen)
    try:
        summary = await runner.run(source, folder / f"{rows}.out.jsonl")
    finally:
        sys.setprofile(None)
    assert summary.success == rows, summary
    server.close()
    return seen


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few = asyncio.run(walk(20, Path(folder)))
        many = asyncio.run(walk(120, Path(folder)))
    calls = {name: (count - few.calls[name]) / 100 for name, count in many.calls.items()}
    crossed = {name: per_row for name, per_row in sorted(calls.items(), key=lambda item: -item[1]) if per_row >= 0.99}
    changes = (many.changes - few.changes) / 100
    if options.json:
        print(json.dumps({"files": len(crossed), "changes": changes, "calls_per_row": crossed}))
        return
    for name, per_row in crossed.items():
        print(f"{per_row:6.1f}  {name}")
    print(
        f"a row crosses {len(crossed)} files, with {changes:.0f} changes of file and {sum(crossed.values()):.0f} calls"
    )


if __name__ == "__main__":
    main()
