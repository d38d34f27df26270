"""Results in a plain `for` loop, from a plain function that blocks: no async anywhere. Needs no key."""

from __future__ import annotations

import time

from llmbatch import BatchRunner


def slow_square(number: int) -> int:
    """Stands for a client that blocks; it runs in at most ten threads."""
    time.sleep(0.05)
    if number == 13:
        raise ValueError("unlucky")
    return number * number


runner = BatchRunner(slow_square, concurrency=10, max_attempts=1)
with runner.stream_sync(range(40)) as results:
    for result in results:
        if not result.ok:
            print(f"{result.row}: {result.error}")
print(f"{results.summary.success} good, {results.summary.failed} bad, exit code {results.summary.exit_code}")
