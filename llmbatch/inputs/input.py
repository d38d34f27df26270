"""One input: what a run asks of it, whatever its format."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Protocol, Self

from llmbatch.core.ports import Source
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.parallel_hash import ParallelHash, start_parallel_hash
from llmbatch.inputs.source import open_source
from llmbatch.inputs.verify import count_rows, verify_finished
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["Input", "JsonlInput"]


class Input(Protocol):
    """An input that rows are read from. A new format implements this once; see docs/architecture.md."""

    @property
    def is_rereadable(self) -> bool:
        """Whether it can be read from its start more than once: a regular file, no pipe."""
        ...

    def peek(self, limit: int | None = None) -> Generator[Row | Malformed]:
        """The first *limit* rows (None: all), read independently of :meth:`rows`.

        Raises:
            InputError: the input cannot be read.
        """
        ...

    def count(self) -> int | None:
        """The number of rows; None where counting would take long. Raises nothing."""
        ...

    def verify(self, finished: FinishedRows) -> None:
        """Compare the input with the output lines that were made from it.

        Raises:
            InputError: a row that has its line has changed since.
        """
        ...

    def rows(self, finished: FinishedRows, *, limit: int | None, spool: Path | None) -> Source:
        """The rows that are not *finished*, of the first *limit*; *spool*: where a pipe's rows may be kept.

        Raises:
            InputError: the input cannot be read.
        """
        ...


class JsonlInput:
    """JSON Lines: a file, compressed or not, a pipe, or standard input (``-``). A context manager.

    *output*: the path of the output that will be compared with it; a large file is then hashed by another process
    while that is read.
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
        """Whether it is a regular file, or none that is there."""
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

    def count(self) -> int | None:
        """The number of rows of a plain file below 256 MiB."""
        return count_rows(self._path, self._filesystem)

    def hash_ahead(self) -> None:
        """Start hashing the lines of a large file on another core, for :meth:`verify`."""
        self._hash = start_parallel_hash(self._path, self._output, self._filesystem)

    def verify(self, finished: FinishedRows) -> None:
        """Compare the lines with the hashes of *finished*.

        Raises:
            InputError: a row that has its line has changed since.
        """
        verify_finished(self._path, finished, self._filesystem, head_start=self._hash)
        if self._hash is not None:
            self._hash.close()
            self._hash = None

    def rows(self, finished: FinishedRows, *, limit: int | None, spool: Path | None) -> Source:
        """The rows that are not *finished*.

        Raises:
            InputError: the input cannot be read.
        """
        return open_source(
            self._path, ledger=finished, limit=limit, spool=spool, keeps_torn=False, disk=self._filesystem
        )
