"""Finds input rows that succeeded in an earlier run, whose requests can serve as health checks.

Only the start of the input is read.
"""

from __future__ import annotations

import contextlib
from typing import Final

from llmbatch.core.errors import InputError, LlmbatchError
from llmbatch.core.rows import Row
from llmbatch.inputs.input import Input
from llmbatch.outputs.file import Output

__all__ = ["known_good_rows"]

_MOST_ROWS: Final = 100
_FEW_ROWS: Final = 10_000
_FEW_BYTES: Final = 64 * 1024 * 1024


def known_good_rows(output: Output, rows: Input) -> list[Row] | None:
    """Input rows of the first hundred successful lines of *output*, which probably cover every model of a mixed file.

    Only unchanged rows among the first 10,000 and 64 MB of an input that can be read twice. None if a file cannot be
    read now. Raises nothing. Cost: at most a second.
    """
    try:
        good = output.good_rows(_MOST_ROWS)
    except (OSError, LlmbatchError):
        return None
    wanted = {number: digest for number, digest in good.items() if number <= _FEW_ROWS}
    if not wanted or not rows.is_rereadable:
        return []
    found: list[Row] = []
    last, read_bytes = max(wanted), 0
    try:
        with contextlib.closing(rows.peek()) as items:
            for item in items:
                if isinstance(item, Row):
                    read_bytes += item.size
                    if wanted.get(item.number) == item.hash:
                        found.append(item)
                if item.number >= last or read_bytes > _FEW_BYTES:
                    break
    except (InputError, OSError):
        return found or None
    return found
