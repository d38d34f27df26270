"""Reads files of batch results line by line, plain or compressed: OpenAI's (also vLLM's) or Anthropic's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from llmbatch.core.errors import InputError
from llmbatch.inputs.decode import text_lines
from llmbatch.inputs.splitter import LongLine
from llmbatch.providers.batches.anthropic import read_anthropic_result
from llmbatch.providers.batches.openai_shape import read_openai_result
from llmbatch.providers.batches.port import ResultLine
from llmbatch.runs.batches.names import RowName, read_custom_id
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, Filesystem

__all__ = ["ResultFile", "ResultShape", "read_results", "survey"]

ResultShape = Literal["openai", "anthropic", "vllm"]

_READ: Final[dict[ResultShape, Callable[[bytes], ResultLine | None]]] = {
    "openai": read_openai_result,
    "vllm": read_openai_result,
    "anthropic": read_anthropic_result,
}
_BLOCK_BYTES = 1 << 20


@dataclass(slots=True)
class ResultFile:
    """What a first look at a file of results found: the jobs of its rows, and of one job the range of its rows."""

    path: str
    lines: int = 0
    unreadable: int = 0
    """Lines that are no results of the shape."""
    foreign: int = 0
    """Results of rows that llmbatch did not name."""
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By job the first and the last row."""

    def add(self, name: RowName) -> None:
        """Take in a row."""
        first, last = self.rows.get(name.job, (name.number, name.number))
        self.rows[name.job] = min(first, name.number), max(last, name.number)


def survey(path: str, shape: ResultShape, disk: Filesystem = FILESYSTEM) -> ResultFile:
    """Read the file once, and say what is in it.

    Raises:
        InputError: it cannot be read.
    """
    found = ResultFile(path)
    for line in read_results(path, shape, disk):
        found.lines += 1
        name = None if line is None else read_custom_id(line.custom_id)
        if line is None:
            found.unreadable += 1
        elif name is None:
            found.foreign += 1
        else:
            found.add(name)
    return found


def read_results(path: str, shape: ResultShape, disk: Filesystem = FILESYSTEM) -> Iterator[ResultLine | None]:
    """The results in a file; None for a line that is none.

    Raises:
        InputError: it cannot be read.
    """
    read = _READ[shape]
    try:
        fd = disk.open(path, os.O_RDONLY | O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        for lines in text_lines(_blocks(fd, path, disk), path):
            for line in lines or ():
                if isinstance(line, LongLine):
                    yield None
                elif line.strip():
                    result = read(line)
                    yield None if result is not None and _says_nothing(result) else result
    finally:
        disk.close(fd)


def _says_nothing(result: ResultLine) -> bool:
    """Whether it has neither an answer nor a reason for having none, such as a line of another shape."""
    return result.reply is None and result.code == "no_answer"


def _blocks(fd: int, path: str, disk: Filesystem) -> Iterator[bytes]:
    try:
        while block := disk.read(fd, _BLOCK_BYTES):
            yield block
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> InputError:
    why = (error.strerror or str(error)).lower()
    return InputError(f"{path}: cannot be read ({why})", hint="check the path and its permissions")
