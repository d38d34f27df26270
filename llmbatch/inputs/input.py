"""The ``Input`` of a run, independent of its format, and its implementation for files and streams of records."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol, Self

from llmbatch.core.ports import Source
from llmbatch.core.rows import Malformed, Row
from llmbatch.core.shards import WHOLE, Shard
from llmbatch.inputs.format_names import InputFormat, format_by_name
from llmbatch.inputs.formats import RecordFormat, make_format
from llmbatch.inputs.parallel_hash import ParallelHash, start_parallel_hash
from llmbatch.inputs.records import Record, read_records
from llmbatch.inputs.shape import RowShape
from llmbatch.inputs.source import open_source
from llmbatch.inputs.verify import count_rows, first_changed, row_numbers, verify_finished
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["FileInput", "Input", "open_input"]


_DATASET_STATE: Final = "state.json"
"""The file of a folder that :func:`datasets.Dataset.save_to_disk` has written."""


class Input(Protocol):
    """An input that rows are read from. A new format is a :class:`RecordFormat`; see docs/architecture.md."""

    @property
    def is_rereadable(self) -> bool:
        """Whether it can be read more than once from its start: a regular file, not a pipe."""
        ...

    @property
    def unit(self) -> str:
        """What a row's number counts, in messages: lines or records."""
        ...

    def peek(self, limit: int | None = None) -> Generator[Row | Malformed]:
        """Read the first *limit* rows (None: all) of all shards, independently of :meth:`rows`.

        Raises:
            InputError: the input cannot be read.
        """
        ...

    def records(self) -> Generator[Record]:
        """Read all records with their own fields, independently of :meth:`rows`.

        Raises:
            InputError: the input cannot be read.
        """
        ...

    def count(self, limit: int | None = None) -> int | None:
        """Count the rows, of the shard, among the first *limit*; None if that would take long. Raises nothing."""
        ...

    def hash_ahead(self) -> None:
        """Start what makes :meth:`verify` faster."""
        ...

    def verify(self, finished: FinishedRows) -> None:
        """Compare the finished rows with the hashes in their output lines.

        Raises:
            InputError: a finished row has changed.
        """
        ...

    def first_changed(self, hashes: Mapping[int, str]) -> int | None:
        """The first row, of any shard, that is not what *hashes* says of its number; None if all are.

        None also of an input that cannot be read more than once.

        Raises:
            InputError: it cannot be read.
        """
        ...

    def rows(
        self, finished: FinishedRows | None, *, limit: int | None, spool: Path | None, keeps_torn: bool = False
    ) -> Source:
        """Open a source of the rows, of the first *limit*, that are not *finished*; *spool*: file for rows of a pipe.

        Of a shard if the input was opened so.

        *keeps_torn*: a last row that is cut off is malformed, and not left for another run.

        Raises:
            InputError: the input cannot be read.
        """
        ...


def open_input(
    path: str | Path,
    *,
    output: str,
    filesystem: Filesystem = FILESYSTEM,
    input_format: InputFormat | None = None,
    shape: RowShape | None = None,
    is_whole: bool = False,
    shard: Shard = WHOLE,
) -> FileInput:
    """Open the input of a run; a context manager.

    *output*: the path of the output that will be compared with it. *input_format*: None for the one that the path's
    ending says, else JSON Lines. *shape*: how a record becomes a request; None: no request is made of it. *is_whole*:
    rows hold all columns of a record of data, for functions; so they do without a shape. *shard*: which of the rows are
    counted and sent.

    Raises:
        UsageError: the template cannot be used.
    """
    state = Path(path) / _DATASET_STATE
    is_dataset = input_format in (None, "arrow") and state.is_file()
    form = make_format(
        "dataset" if is_dataset else input_format or format_by_name(str(path)),
        shape or RowShape(),
        is_whole=is_whole or shape is None,
        is_guessed=input_format is None,
    )
    return FileInput(state if is_dataset else path, form, output=output, shard=shard, filesystem=filesystem)


class FileInput:
    """Records in a file, compressed or not, a pipe, or standard input (``-``). A context manager.

    *output*: the path of the output that will be compared with it; large JSON Lines are then hashed by another process
    while the output is read.
    """

    def __init__(
        self,
        path: str | Path,
        form: RecordFormat,
        *,
        output: str,
        shard: Shard = WHOLE,
        filesystem: Filesystem = FILESYSTEM,
    ) -> None:
        self._path = path
        self._shard = shard
        self._output = output
        self._filesystem = filesystem
        self._form = form
        self._hash: ParallelHash | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._hash is not None:
            self._hash.close()

    @property
    def is_rereadable(self) -> bool:
        """Whether it is a regular file, or does not exist."""
        path = Path(self._path)
        return str(self._path) != "-" and not (path.exists() and not path.is_file() and not path.is_dir())

    @property
    def unit(self) -> str:
        """``line`` or ``record``."""
        return self._form.unit

    def peek(self, limit: int | None = None) -> Generator[Row | Malformed]:
        """The first *limit* rows.

        Raises:
            InputError: the input cannot be read.
        """
        source = open_source(self._path, self._form, limit=limit, disk=self._filesystem)
        try:
            while not source.exhausted:
                item = source.take()
                if item is not None:
                    yield item
        finally:
            source.close()

    def records(self) -> Generator[Record]:
        """All records with their own fields.

        Raises:
            InputError: the input cannot be read.
        """
        return read_records(self._path, self._form, self._filesystem)

    def count(self, limit: int | None = None) -> int | None:
        """The number of rows of the shard in a plain file that is not large."""
        return count_rows(self._path, self._filesystem, form=self._form, shard=self._shard, limit=limit)

    def numbers(self, limit: int | None = None) -> Iterator[int]:
        """The numbers of the first *limit* rows (None: all) of all shards; no row is parsed.

        Raises:
            InputError: the input cannot be read.
        """
        return row_numbers(self._path, self._filesystem, form=self._form, limit=limit)

    def hash_ahead(self) -> None:
        """Start hashing the lines of a large file on another core, for :meth:`verify`."""
        if self._form.unit == "line":
            self._hash = start_parallel_hash(self._path, self._output, self._filesystem, shard=self._shard)

    def verify(self, finished: FinishedRows) -> None:
        """Compare the records with the hashes of *finished*.

        Raises:
            InputError: a finished row has changed.
        """
        verify_finished(self._path, finished, self._filesystem, form=self._form, parallel_hash=self._hash)
        if self._hash is not None:
            self._hash.close()
            self._hash = None

    def first_changed(self, hashes: Mapping[int, str]) -> int | None:
        """The first record, of any shard, that is not what *hashes* says of its number; None if all are.

        Raises:
            InputError: the input cannot be read.
        """
        return first_changed(self._path, hashes, self._filesystem, form=self._form)

    def rows(
        self, finished: FinishedRows | None, *, limit: int | None, spool: Path | None, keeps_torn: bool = False
    ) -> Source:
        """Open a source of the rows that are not *finished*.

        Raises:
            InputError: the input cannot be read.
        """
        return open_source(
            *(self._path, self._form),
            finished=finished,
            limit=limit,
            shard=self._shard,
            spool=spool,
            keeps_torn=keeps_torn,
            disk=self._filesystem,
        )
