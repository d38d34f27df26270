"""Results as they come, for rows out of any generator; an error of a row is a value. Needs no key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from llmbatch import BatchRunner


def rows() -> Iterator[dict[str, object]]:
    """As many as there may be: rows are taken only as fast as results are."""
    number = 0
    while True:
        number += 1
        # A row without a prompt cannot be sent: it fails alone, at once.
        yield {"id": f"q{number}", "prompt": None if number == 7 else f"What is {number} squared?"}


async def main() -> None:
    """Take thirty results out of an endless input, then stop."""
    runner = BatchRunner("sim/steady", concurrency=8)
    good = bad = 0
    # aclosing: when the loop is left, requests in flight end at once.
    async with contextlib.aclosing(runner.stream(rows())) as results:
        async for result in results:
            if result.ok:
                good += 1
            else:
                bad += 1
                print(f"{result.id} failed: {result.error}")
            if good == 30:
                break
    print(f"{good} good, {bad} bad")


asyncio.run(main())
