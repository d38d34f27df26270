"""What a run says of its input once it has ended."""

from __future__ import annotations

from pathlib import Path

from llmbatch.core.ports import Source
from llmbatch.core.shards import Shard
from llmbatch.runner.outcome import RunOutcome

__all__ = ["about_input"]


def about_input(
    path: str | Path, source: Source, unit: str, shard: Shard, outcome: RunOutcome
) -> tuple[str, str] | None:
    """Words and hint if the last line or record (the *unit*) of *path* is cut off, or if it has no rows."""
    if source.torn_line is not None:
        why = "line is cut off and has no line end" if unit == "line" else "record is cut off, or has an open quote"
        text = f"{path}:{source.torn_line}: the last {why}: it gets no result yet"
        return text, "run the same command again once it is complete"
    if not outcome.exit_code and not source.rows_read:
        name = "standard input" if str(path) == "-" else path
        return f"no rows in {name}{f' for shard {shard}' if shard.count > 1 else ''}", ""
    return None
