"""Checks before anything is sent or written: whether the first row can be sent, and by the same model as before."""

from __future__ import annotations

import contextlib

from llmbatch.core.errors import InputError, MalformedRowError, MissingKeyError, OutputError, UsageError
from llmbatch.core.ports import Provider, first_request
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.input import Input

__all__ = ["check_first_row", "check_same_model"]

_FEW_ROWS = 10_000
"""Rows of the input searched for the first answered row: about 0.1 s."""

_MOST_FAULTS = 5
"""Malformed rows that are listed, or skipped."""


def check_first_row(provider: Provider, rows: Input, name: str, *, limit: int | None, strict: bool) -> None:
    """Read up to the first row that can be sent; with *strict*, all of them. *name* is the input's, for messages.

    Raises:
        InputError: the input cannot be opened, or, with *strict*, has malformed rows or cannot be read twice.
        UsageError: the first row names no model, or none of the first 10,000 rows has a key.
    """
    if not rows.is_rereadable:
        if strict:
            raise InputError("strict needs an input that can be read twice", hint="save it to a file first")
        return
    faults: list[str] = []
    no_key: MissingKeyError | None = None
    can_send = False
    with contextlib.closing(rows.peek(limit)) as items:
        for count, item in enumerate(items, 1):
            try:
                fault = _fault(provider, item)
            except MissingKeyError as error:
                no_key = no_key or error
                if count >= _FEW_ROWS:
                    break
                continue
            if fault is None:
                if not strict:
                    return
                can_send = True
                continue
            faults.append(f"line {item.number}: {fault}")
            if len(faults) >= _MOST_FAULTS:
                break
    if no_key is not None and not can_send and not faults:
        raise no_key
    if strict and faults:
        raise InputError(f"{name} has malformed rows: {'; '.join(faults)}", hint="fix them, or run without --strict")


def check_same_model(provider: Provider, rows: Input, output: str, earlier: tuple[int, str]) -> None:
    """Compare *earlier*, an answered row and the model that answered it, with the model it would be sent to now.

    Rows that name their own models may mix them: this is not an error.

    Raises:
        OutputError: it would be sent to another model.
    """
    number, model = earlier
    if number > _FEW_ROWS or not rows.is_rereadable:
        return
    with contextlib.closing(rows.peek(number)) as items:
        row = next((item for item in items if isinstance(item, Row) and item.number == number), None)
    if row is None:
        return
    try:
        now = provider.routes(row)[0].label
    except (MalformedRowError, UsageError):
        return
    if now != model:
        raise OutputError(
            f"{output}: row {number} was answered by {model}, and this run would send its rows to {now}",
            hint="write to another file (-o), or mix both models in one output (--force)",
        )


def _fault(provider: Provider, item: Row | Malformed) -> str | None:
    if isinstance(item, Malformed):
        return f"{item.code}: {item.message}"
    try:
        first_request(provider, item)
    except MalformedRowError as error:
        return f"{error.code}: {error}"
    return None
