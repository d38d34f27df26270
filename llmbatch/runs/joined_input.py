"""The input of a run as the source of fields for an export of its results."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Final

from llmbatch.core.errors import InputError, UsageError
from llmbatch.inputs.input import Input
from llmbatch.inputs.records import Record
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["RunInput"]

_MOST_NAMES: Final = 10_000
_RESTORE: Final = (
    "restore the input as it was sent, name it (--input PATH, --input-format FORMAT), or export without --join"
)


class RunInput:
    """Gives the fields of rows from *rows*, the input of the run, called *name* in messages.

    Creating it reads the input twice: it is compared with the hashes of *finished*, and the names of all fields are
    collected. Memory does not depend on the number of rows. :meth:`close` it.

    Raises :class:`~llmbatch.core.errors.InputError` if the input cannot be read, or a row has changed since its result
    was written.
    """

    def __init__(self, rows: Input, name: str, finished: FinishedRows) -> None:
        self._rows = rows
        self._name = name
        self._open: list[Generator[Record]] = []
        if not rows.is_rereadable:
            raise InputError(f"{name}: --join needs an input that can be read twice", hint="save it to a file first")
        try:
            rows.verify(finished)
        except InputError as error:
            raise InputError(error.message, hint=_RESTORE, line=error.line) from None
        names: dict[str, None] = {}
        self.records = 0
        """How many records there are."""
        for record in rows.records():
            self.records += 1
            if not record.fields.keys() <= names.keys():
                names.update(dict.fromkeys(record.fields))
                if len(names) > _MOST_NAMES:
                    text = f"{name}: its records have more than {_MOST_NAMES:,} different fields together"
                    raise UsageError(text, hint="export without --join")
        self._names = list(names)

    @property
    def names(self) -> Sequence[str]:
        """The names of all fields, in the order in which they come."""
        return self._names

    def begin(self) -> Callable[[int, str], Mapping[str, str]]:
        """Start reading; gives a function from a row and its hash to its fields, for rows in increasing order.

        It raises :class:`~llmbatch.core.errors.InputError` if the input has changed.
        """
        records = self._rows.records()
        self._open.append(records)

        def fields_of(row: int, digest: str) -> Mapping[str, str]:
            for record in records:
                if record.number == row and record.hash == digest:
                    return record.fields
                if record.number >= row:
                    break
            raise InputError(f"{self._name}:{row}: this row has changed meanwhile", hint=_RESTORE, line=row)

        return fields_of

    def close(self) -> None:
        """Close the input."""
        for records in self._open:
            records.close()
        self._open.clear()
