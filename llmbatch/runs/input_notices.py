"""What a run says of its input once it has ended."""

from __future__ import annotations

from pathlib import Path

from llmbatch.core.ports import Source
from llmbatch.core.shards import Shard
from llmbatch.outputs.parts import output_of_parts
from llmbatch.runner.run_outcome import RunOutcome

__all__ = ["about_input", "why_torn"]


_AGAIN = "run the same command again once it is complete"


def why_torn(unit: str) -> str:
    """What may be wrong with the last line or record (the *unit*) of an input that is cut off."""
    return "is cut off and has no line end" if unit == "line" else "is cut off, or has a quote that is not closed"


def about_input(
    path: str | Path, source: Source, unit: str, shard: Shard, output: str, outcome: RunOutcome
) -> tuple[str, str] | None:
    """Words and hint if the last line or record (the *unit*) of *path* is cut off, or if it has no rows.

    Not if there are fewer rows than processes of ``--workers``, whose parts are beside the output.
    """
    if source.torn_line is not None:
        text = f"{path}:{source.torn_line}: the last {unit} {why_torn(unit)}: it gets no result yet"
        return text, _AGAIN if unit == "line" else f"{_AGAIN}; a quote that is not closed takes in all that follows it"
    if not outcome.exit_code and not source.rows_read and output_of_parts(Path(output).parent) is None:
        name = "standard input" if str(path) == "-" else path
        return f"no rows in {name}{f' for shard {shard}' if shard.count > 1 else ''}", ""
    return None
