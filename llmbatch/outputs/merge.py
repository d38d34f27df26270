"""Joins the outputs of shards into one output, which appears whole or not at all.

The parts are opened as a run opens them: locked, and without torn last lines; they stay where they are.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from llmbatch.core.errors import OutputError, WriteError
from llmbatch.outputs.deferred import deferred_lines, write_deferred
from llmbatch.outputs.export_target import check_target
from llmbatch.outputs.file import Output
from llmbatch.outputs.open import open_output
from llmbatch.outputs.parts import has_parts, has_shards, list_parts, shard_of
from llmbatch.storage.atomic_replace import replace_file
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, Filesystem, write_error
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["Merge", "missing_rows", "nothing_to_merge", "parts_of"]

_BLOCK_BYTES: Final = 1024 * 1024


def parts_of(paths: Sequence[str]) -> list[Path]:
    """The outputs that *paths* name: files, and the parts of folders.

    Raises:
        OutputError: a folder has no parts, or there is no such file.
    """
    found: list[Path] = []
    for named in paths:
        path = Path(named)
        if path.is_dir():
            if not has_parts(path):
                if has_shards(path):
                    raise nothing_to_merge([named])
                hint = "name the folder that runs of shards have written to (-o)"
                raise OutputError(f"{named}: has no parts, such as part-00001-of-00008.jsonl", hint=hint)
            found += (part.path for part in list_parts(path))
        elif not os.path.lexists(path):
            raise OutputError(f"{named}: there is no such file", hint="name the parts, or their folder")
        else:
            found.append(path)
    return found


def nothing_to_merge(paths: Sequence[str]) -> OutputError:
    """The error where no part of *paths* has a line yet, as while batches run."""
    hint = f"what they wait for: llmbatch status {shlex.quote(paths[0])}"
    return OutputError(f"{paths[0]}: no shard has a line yet, so there is nothing to merge", hint=hint)


class Merge:
    """The *parts*, open and locked, to be written to *target*, which may be none of their *inputs*. A context manager.

    ``finished`` has the rows of all parts.

    Raises :class:`~llmbatch.core.errors.OutputError` if a part is in use or is not an output, two have the same row, or
    *target* is an input, or exists and *overwrite* is not set; :class:`~llmbatch.core.errors.WriteError` if a part
    cannot be repaired.
    """

    def __init__(
        self,
        parts: Sequence[Path],
        target: str,
        *,
        inputs: Sequence[str] = (),
        overwrite: bool = False,
        disk: Filesystem = FILESYSTEM,
    ) -> None:
        self._target = target
        self._disk = disk
        self._parts = parts
        self._outputs: list[Output] = []
        self.finished = FinishedRows()
        others = dict.fromkeys(inputs, "the input of the run")
        others |= {str(part): "one of the parts" for part in parts}
        check_target(target, others, overwrite=overwrite, is_binary=False, disk=disk)
        if target == "-":
            raise OutputError("a merge needs a file to write to", hint="name one with -o results.jsonl")
        try:
            for part in parts:
                self._add(part)
        except BaseException:
            self.close()
            raise

    def _add(self, path: Path) -> None:
        if any(other.name == str(path) for other in self._outputs):
            raise OutputError(f"{path}: is named twice", hint="name each part once")
        output = open_output(path, shard=shard_of(path), disk=self._disk)
        self._outputs.append(output)
        if output.finished.others:
            raise OutputError(
                f"{path}: has rows of other shards than its name says",
                hint="give the part its name back, or leave it out",
            )
        twice = self.finished.include(output.finished)
        if twice is not None:
            first = next(other for other in self._outputs if other.finished.is_done(twice))
            raise OutputError(
                f"{path}: row {twice} has a line here and in {first.name}",
                hint="leave out the part that is not of this job, or remove one of the two lines",
            )

    def write(self) -> None:
        """Write all lines to the target, part by part, and then the deferred rows of the parts to its deferred file.

        Raises:
            WriteError: it could not be written; the target is as it was.
        """
        try:
            self._disk.close(replace_file(self._disk.real_path(self._target), self._blocks(), self._disk))
        except BlockingIOError:
            raise WriteError(f"{self._target}: is in use by another run", hint="wait for it to end") from None
        except OSError as error:
            raise write_error(self._target, error) from error
        write_deferred(self._target, self.deferred(), self._disk)

    def deferred(self) -> list[bytes]:
        """The lines of the deferred files of the parts, which list rows that wait."""
        return deferred_lines(self._parts)

    def _blocks(self) -> Iterator[bytes]:
        for part in self._parts:
            fd = self._disk.open(str(part), os.O_RDONLY | O_CLOEXEC)
            try:
                while block := self._disk.read(fd, _BLOCK_BYTES):
                    yield block
            finally:
                self._disk.close(fd)

    def close(self) -> None:
        """Close the parts, which releases their locks; idempotent."""
        for output in self._outputs:
            output.close()

    def __enter__(self) -> Merge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def missing_rows(finished: FinishedRows, numbers: Iterable[int] | None) -> Generator[tuple[int, int]]:
    """Ranges (first and last number) of rows without a line, among *numbers*, in order: the rows of the input.

    None: of all numbers up to the last row that has a line.
    """
    first = last = 0
    for number in range(1, finished.last + 1) if numbers is None else numbers:
        if finished.is_done(number):
            continue
        if first and number == last + 1:
            last = number
            continue
        if first:
            yield first, last
        first = last = number
    if first:
        yield first, last
