"""A function with types for rows and answers, results in order, and what is logged of an outage. Needs no key.

Type checkers know that ``result.row`` is a ``Review`` and ``result.unwrap()`` a ``Rating``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass

from llmbatch import BatchRunner


@dataclass
class Review:
    """A row."""

    id: str
    text: str


@dataclass
class Rating:
    """An answer."""

    stars: int


class ModelDownError(Exception):
    """What the model's client raises while its server is down."""


calls = 0


async def rate(review: Review) -> Rating:
    """Stands for a model of your own, which is down from its 20th to its 30th call."""
    global calls
    calls += 1
    await asyncio.sleep(0.01)
    if 20 <= calls < 30:
        raise ModelDownError("restarting")
    return Rating(stars=5 if "good" in review.text else 1)


async def main() -> None:
    """Rate 40 reviews; the exception of the client means an outage, so no review fails."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")
    runner = BatchRunner(
        rate,
        concurrency=4,
        recovery_timeout=0.2,
        judge_error=lambda error: "failure" if isinstance(error, ModelDownError) else None,
    )
    reviews = [Review(f"r{number}", "good" if number % 3 else "bad") for number in range(40)]
    stars = 0
    async with runner.stream(reviews, ordered=True) as results:
        async for result in results:
            stars += result.unwrap().stars
            if result.number <= 2:
                print(f"{result.row.id}: {result.unwrap().stars}")
    print(f"{stars} stars, {results.summary.success} reviews, {results.summary.failed} failed")


asyncio.run(main())
