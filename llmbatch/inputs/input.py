"""The ``Input`` of a run, independent of its format, and its implementation for JSON Lines."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Protocol, Self

from llmbatch.core.ports import Source
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.parallel_hash import ParallelHash, start_parallel_hash
from llmbatch.inputs.records import Record, line_records
from llmbatch.inputs.source import open_source
from llmbatch.inputs.verify import count_rows, verify_finished
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["Input", "JsonlInput", "open_input"]


class Input(Protocol):
    """An input that rows are read from. A new format implements this once; see docs/architecture.md."""

    @property
    def is_rereadable(self) -> bool:
        """Whether it can be read more than once from its start: a regular file, not a pipe."""
        ...

    def peek(self, limit: int | None = None) -> Generator[Row | Malformed]:
        """Read the first *limit* rows (None: all), independently of :meth:`rows`.

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

    def count(self) -> int | None:
        """Count the rows; None if counting would take long. Raises nothing."""
        ...

    def verify(self, finished: FinishedRows) -> None:
        """Compare the finished rows with the hashes in their output lines.

        Raises:
            InputError: a finished row has changed.
        """
        ...

    def rows(self, finished: FinishedRows, *, limit: int | None, spool: Path | None) -> Source:
        """Open a source of the rows, of the first *limit*, that are not *finished*; *spool*: file for rows of a pipe.

        Raises:
            InputError: the input cannot be read.
        """
        ...


def open_input(path: str | Path, *, output: str, filesystem: Filesystem = FILESYSTEM) -> JsonlInput:
    """Open the input of a run in the format that it has. JSON Lines is the only one so far.

    *output*: the path of the output that will be compared with it.
    """
    return JsonlInput(path, output=output, filesystem=filesystem)


class JsonlInput:
    """JSON Lines: a file, compressed or not, a pipe, or standard input (``-``). A context manager.

    *output*: the path of the output that will be compared with it; a large input is then hashed by another process
    while the output is read.
    """

    def __init__(self, path: str | Path, *, output: str, filesystem: Filesystem = FILESYSTEM) -> None:
        self._path = path
        self._output = output
        self._filesystem = filesystem
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

    def peek(self, limit: int | None = None) -> Generator[Row | Malformed]:
        """The first *limit* rows.

        Raises:
            InputError: the input cannot be read.
        """
        source = open_source(self._path, limit=limit, disk=self._filesystem)
        try:
            while not source.exhausted:
                item = source.take()
                if item is not None:
                    yield item
        finally:
            source.close()

    def records(self) -> Generator[Record]:
        """All lines with the members of their objects.

        Raises:
            InputError: the input cannot be read.
        """
        return line_records(self._path, self._filesystem)

    def count(self) -> int | None:
        """The number of rows of a plain file below 256 MiB."""
        return count_rows(self._path, self._filesystem)

    def hash_ahead(self) -> None:
        """Start hashing the lines of a large file on another core, for :meth:`verify`."""
        self._hash = start_parallel_hash(self._path, self._output, self._filesystem)

    def verify(self, finished: FinishedRows) -> None:
        """Compare the lines with the hashes of *finished*.

        Raises:
            InputError: a finished row has changed.
        """
        verify_finished(self._path, finished, self._filesystem, parallel_hash=self._hash)
        if self._hash is not None:
            self._hash.close()
            self._hash = None

    def rows(self, finished: FinishedRows, *, limit: int | None, spool: Path | None) -> Source:
        """Open a source of the rows that are not *finished*.

        Raises:
            InputError: the input cannot be read.
        """
        return open_source(
            self._path, finished=finished, limit=limit, spool=spool, keeps_torn=False, disk=self._filesystem
        )
