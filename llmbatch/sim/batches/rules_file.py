"""Read the ``[batch]`` table of a scenario file.

::

    [batch]
    validate_s = 20                        # seconds until a batch runs
    rows_per_s = 25
    finalize_s = 60
    window_s = 86400                       # also cancel_s, keep_s
    queue_tokens = 2_000_000               # also queue_rows, creations_per_h, max_rows, max_mb

    [[batch.faults]]
    kind = "expire"
    share = 0.37
    batches = [1]                          # or rate = 0.1: a tenth of the batches, by the seed

The keys are the fields of :class:`~llmbatch.sim.batches.rules.BatchRules` and
:class:`~llmbatch.sim.batches.rules.BatchFault`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from llmbatch.core.errors import UsageError
from llmbatch.sim.batches.rules import BatchFault, BatchRules
from llmbatch.sim.toml_values import number, only, statuses, text, texts, whole, wholes

__all__ = ["read_batch_rules"]

_RULES = tuple(field.name for field in fields(BatchRules))
_FAULT = tuple(field.name for field in fields(BatchFault))
_WHOLE_RULES = ("queue_tokens", "queue_rows", "creations_per_h", "max_rows")


def read_batch_rules(table: object, where: str) -> BatchRules | None:
    """The rules in *table*; None if there is none.

    Raises:
        UsageError: which key is impossible, and why.
    """
    if table is None:
        return None
    if not isinstance(table, dict):
        raise UsageError(f"{where}: batch is {table!r}, must be a table")
    only(table, _RULES, f"{where}: batch")
    values: dict[str, object] = {}
    for key, value in table.items():
        if key != "faults":
            read = whole if key in _WHOLE_RULES else number
            values[key] = read(value, f"{where}: batch.{key}")
    faults = tuple(_faults(table.get("faults", []), where))
    try:
        return BatchRules(**values, faults=faults)  # type: ignore[arg-type]
    except UsageError as error:
        raise UsageError(f"{where}: batch: {error}", hint=error.hint) from None


def _faults(entries: object, where: str) -> Iterator[BatchFault]:
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        hint = "write [[batch.faults]] above each"
        raise UsageError(f"{where}: batch.faults is {entries!r}, must be a list of tables", hint=hint)
    for place, entry in enumerate(entries, 1):
        at = f"{where}: batch fault {place}"
        only(entry, _FAULT, at)
        if "kind" not in entry:
            raise UsageError(f"{at}: kind is missing")
        values = {key: _value(key, value, f"{at}: {key}") for key, value in entry.items()}
        try:
            yield BatchFault(**values)  # type: ignore[arg-type]
        except UsageError as error:
            raise UsageError(f"{at}: {error}", hint=error.hint) from None


def _value(key: str, value: object, what: str) -> object:
    match key:
        case "kind" | "reason":
            return text(value, what)
        case "calls":
            return texts(value, what, of="calls")
        case "batches":
            return wholes(value, what)
        case "statuses":
            return statuses(value, what)
        case "rows" | "times":
            return whole(value, what)
        case _:
            return number(value, what)
