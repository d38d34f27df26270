"""How many rows a run says that there are, while it goes on: with a limit, rows sent again, and compressed inputs."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from llmbatch import BatchRunner
from llmbatch.core.events import Event
from llmbatch.display.phrases import rows_phrase
from llmbatch.report.stats import RunStats


class Totals:
    """What displays show of the rows after each event: ``seen`` has each phrase once, in order."""

    def __init__(self) -> None:
        self.stats = RunStats()
        self.seen: list[str] = []

    def observe(self, event: Event) -> None:
        self.stats.observe(event)
        phrase = rows_phrase(self.stats.snapshot())
        if phrase not in self.seen:
            self.seen.append(phrase)


async def run(
    source: Path, *bad: int, limit: int | None = None, retry_failed: bool = False, overwrite: bool = False
) -> list[str]:
    """Run *source* with a function that refuses the rows *bad*; gives what was shown."""

    async def call(row: dict[str, str]) -> str:
        if int(row["prompt"]) in bad:
            raise ValueError("a bad row")
        return "ok"

    totals = Totals()
    runner = BatchRunner(call, concurrency=4, max_attempts=1, observers=[totals])
    await runner.run(source, source.parent / "o.jsonl", limit=limit, retry_failed=retry_failed, overwrite=overwrite)
    return totals.seen


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Sixty rows, each of which is its number."""
    path = tmp_path / "p.jsonl"
    path.write_text("".join(f'{{"prompt": "{number}"}}\n' for number in range(1, 61)))
    return path


async def test_rows_resent_within_a_limit_shrank_the_total_to_what_was_done(source: Path) -> None:
    """Two of sixty lines are sent again: 58/60, 59/60, 60/60, not 58/58 and 59/59."""
    await run(source, 3, 15, 40, overwrite=True)

    seen = await run(source, limit=20, retry_failed=True)

    assert seen == ["58/60 rows", "59/60 rows", "60/60 rows"]


async def test_all_failed_rows_resent_keep_the_total(source: Path) -> None:
    """Without a limit, too."""
    await run(source, 3, 15, 40, overwrite=True)

    assert await run(source, retry_failed=True) == ["57/60 rows", "58/60 rows", "59/60 rows", "60/60 rows"]


async def test_a_limit_and_the_rest_count_to_their_own_totals(source: Path) -> None:
    """Up to the limit first, then to the whole, and no further with a smaller limit."""
    first = await run(source, limit=40, overwrite=True)
    rest = await run(source)
    again = await run(source, limit=10)

    assert (first[0], first[-1], len(first)) == ("0/40 rows", "40/40 rows", 41)
    assert (rest[0], rest[-1], len(rest)) == ("40/60 rows", "60/60 rows", 21)
    assert again == ["60/60 rows"]


async def test_a_small_compressed_input_was_estimated_to_end_with_the_rows_read_so_far(source: Path) -> None:
    """All of its bytes are read at once, which tells nothing of the number of rows: 4 rows read were "1/~4 rows"."""
    packed = source.with_name("p.jsonl.gz")
    packed.write_bytes(gzip.compress(source.read_bytes()))

    seen = await run(packed)

    assert not [phrase for phrase in seen if "~" in phrase]
    assert seen[-1] == "60/60 rows"


async def test_a_compressed_input_with_rows_beyond_the_limit_counts_them(source: Path) -> None:
    """As a plain one does."""
    packed = source.with_name("p.jsonl.gz")
    packed.write_bytes(gzip.compress(source.read_bytes()))
    await run(packed, 3, 40)

    assert (await run(packed, limit=20, retry_failed=True))[-2:] == ["59/60 rows", "60/60 rows"]
