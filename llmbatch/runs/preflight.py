"""A look at the input before anything is sent or written: can its rows be sent at all?"""

from __future__ import annotations

from pathlib import Path

from llmbatch.core.errors import InputError, MalformedRowError, MissingKeyError, OutputError, UsageError
from llmbatch.core.ports import Provider
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.source import open_source
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem

__all__ = ["check_first_row", "check_same_model"]

_FEW_ROWS = 10_000
"""How far into the input the first answered row is looked for: about 0.1 s."""


def check_first_row(
    provider: Provider,
    input: str | Path,  # noqa: A002
    *,
    limit: int | None,
    strict: bool,
    disk: Filesystem = FILESYSTEM,
) -> None:
    """Read up to the first row that can be sent; with *strict*, all of them.

    Raises:
        InputError: the input cannot be opened, or, with *strict*, has malformed rows or cannot be read twice.
        UsageError: the first row needs a model that is not there, or no row, of the first 10,000, has its key.
    """
    path = Path(input)
    if str(input) == "-" or (path.exists() and not path.is_file() and not path.is_dir()):
        if strict:
            raise InputError("strict needs an input that can be read twice", hint="save it to a file first")
        return
    source = open_source(input, limit=limit, disk=disk)
    faults: list[str] = []
    no_key: MissingKeyError | None = None
    can_send = False
    try:
        while not source.exhausted and len(faults) < 5:
            item = source.take()
            if item is None:
                continue
            try:
                fault = _fault(provider, item)
            except MissingKeyError as error:
                no_key = no_key or error
                if source.rows_read >= _FEW_ROWS:
                    break
                continue
            if fault is not None:
                faults.append(f"line {item.number}: {fault}")
                continue
            if not strict:
                return
            can_send = True
    finally:
        source.close()
    if no_key is not None and not can_send and not faults:
        raise no_key
    if strict and faults:
        raise InputError(f"{input} has malformed rows: {'; '.join(faults)}", hint="mend them, or run without --strict")


def check_same_model(
    provider: Provider,
    input: str | Path,  # noqa: A002
    output: str,
    earlier: tuple[int, str],
    disk: Filesystem = FILESYSTEM,
) -> None:
    """Compare *earlier*, a row that has its answer and the model that gave it, with where that row would go now.

    Rows that name their own models may well mix them: then nothing differs.

    Raises:
        OutputError: it would go to another model.
    """
    number, model = earlier
    if number > _FEW_ROWS or not Path(input).is_file():
        return
    source = open_source(input, limit=number, disk=disk)
    row: Row | None = None
    try:
        while row is None and not source.exhausted:
            item = source.take()
            row = item if isinstance(item, Row) and item.number == number else None
    finally:
        source.close()
    if row is None:
        return
    try:
        now = provider.prepare(row).route.label
    except (MalformedRowError, UsageError):
        return
    if now != model:
        raise OutputError(
            f"{output}: row {number} was answered by {model}, and this run would send its rows to {now}",
            hint="write to another file (-o), or have both in one (--force)",
        )


def _fault(provider: Provider, item: Row | Malformed) -> str | None:
    if isinstance(item, Malformed):
        return f"{item.code}: {item.message}"
    try:
        provider.prepare(item)
    except MalformedRowError as error:
        return f"{error.code}: {error}"
    return None
