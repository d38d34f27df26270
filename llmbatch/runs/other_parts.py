"""Checks that the other parts in a folder were made from the same input, also those with rows of other shards only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmbatch.core.errors import InputError
from llmbatch.inputs.input import Input

if TYPE_CHECKING:
    from llmbatch.outputs.other_parts import OtherParts

__all__ = ["check_other_parts", "result_elsewhere"]

_FEW_ROWS: Final = 10_000
"""Rows of the input that are read at most."""


def check_other_parts(elsewhere: OtherParts, rows: Input, name: str) -> None:
    """Compare one row of each part of another shard with the input, which is called *name*.

    Rows of the shard itself are all compared elsewhere. Without this, the shards of two inputs would fill one folder,
    and only ``llmbatch merge`` would tell.

    Raises:
        InputError: a row has changed, so that the part was made from another input.
    """
    samples = {number: (path, digest) for path, number, digest in elsewhere.samples() if number <= _FEW_ROWS}
    number = rows.first_changed({number: digest for number, (_, digest) in samples.items()})
    if number is not None:
        raise InputError(
            f"{name}:{number}: this row has changed since its result was written",
            hint=result_elsewhere(samples[number][0]),
            line=number,
        )


def result_elsewhere(path: str) -> str:
    """What to do where the part *path* has the result of a row that has changed."""
    return (
        f"its result is in {path}: if that part was made from another input, move it out of the folder; else "
        "restore the row, or write to another folder (-o)"
    )
