"""What a run does with its files, and what it needs of them once they are open."""

from __future__ import annotations

from dataclasses import dataclass, fields

from llmbatch.core.errors import UsageError
from llmbatch.core.shards import Shard
from llmbatch.inputs.format_names import InputFormat
from llmbatch.inputs.input import Input
from llmbatch.outputs.file import Output
from llmbatch.outputs.writer import LineWriter
from llmbatch.runner.command_options import Fsync, Lock
from llmbatch.runner.costs import Costs
from llmbatch.runner.keywords import check_keywords
from llmbatch.storage.filesystem import Filesystem

__all__ = ["FileOptions", "OpenFiles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What a run does with its files; see :meth:`~llmbatch.runs.batch_runner.BatchRunner.run`.

    Raises :class:`~llmbatch.core.errors.UsageError` for a value out of range.
    """

    limit: int | None = None
    retry_failed: bool = False
    require_finish: bool = False
    overwrite: bool = False
    strict: bool = False
    force: bool = False
    fsync: Fsync = "group"
    lock: Lock = "on"
    input_format: InputFormat | None = None
    shard: Shard | None = None

    def __post_init__(self) -> None:
        check_keywords(**{item.name: getattr(self, item.name) for item in fields(self)})
        if self.shard is not None and self.shard.is_any:
            raise UsageError(f"shard is {self.shard}, and a run needs one", hint="name it, such as 3/64")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFiles:
    """What a run over batch APIs needs of the open files. ``is_afresh``: the lines of earlier runs were dropped."""

    rows: Input
    input_path: str
    output: Output
    output_path: str
    writer: LineWriter
    costs: Costs
    disk: Filesystem
    limit: int | None
    is_afresh: bool
