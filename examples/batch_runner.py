"""Run a file of prompts and read what came of it. Needs no key: sim/… models are answered on this machine."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from llmbatch import BatchRunner


async def main() -> None:
    """Answer examples/prompts.jsonl into a folder of its own."""
    prompts = Path(__file__).with_name("prompts.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        runner = BatchRunner("sim/steady", concurrency=40)  # or "openai/gpt-5-mini", with OPENAI_API_KEY set

        summary = await runner.run(prompts, results)
        print(f"{summary.success} rows succeeded, {summary.failed} failed, exit code {summary.exit_code}")

        # Running again resumes: every row has its line, so nothing is sent.
        again = await runner.run(prompts, results)
        print(f"{again.already_done} rows were done already, {again.calls} calls sent")

        with results.open() as lines:
            first = json.loads(next(lines))
        print(f"row {first['row']}, {first['id']}: {first['text'][:60]!r}")


asyncio.run(main())
