"""A run whose rows other processes send: its files are opened, checked and locked here, and nothing is sent.

The processes write parts beside the output (:func:`~llmbatch.outputs.parts.parts_beside`), each as an ordinary run of
a shard.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from llmbatch.runs.batch_runner import BatchRunner
from llmbatch.runs.file_options import FileOptions
from llmbatch.runs.file_run import FileRun
from llmbatch.runs.preflight import check_cache_path

__all__ = ["SplitRunner"]


class SplitRunner(BatchRunner):
    """A runner that leaves sending to other processes; its arguments are those of :class:`~llmbatch.BatchRunner`."""

    def share_dealt_cost(self) -> None:
        """Be one of those processes: ``max_cost`` is the part that was dealt out to this one, and is not shared."""
        self._runs.is_cost_dealt = True

    def count_for_rpd(self, requests_today: tuple[int, float]) -> None:
        """Count requests of earlier runs for ``rpd``: how many, and how many seconds ago the first was sent."""
        self._runs.requests_today = requests_today

    @contextlib.asynccontextmanager
    async def open_files(
        self, input_path: str | Path, output: str | Path, how: FileOptions, *, needs_key: bool = True
    ) -> AsyncIterator[FileRun]:
        """Open input and output as :meth:`run` does, for as long as the block lasts.

        *needs_key*: the processes that send have the environment of this one; else they look for keys themselves.

        Everything that a run refuses is refused here; failed rows are dropped to be sent again, the lock is held.

        Raises:
            UsageError: an argument is wrong (input, output, key, model).
            WriteError: the output cannot be written.
        """
        arguments = self._runs.arguments
        check_cache_path(arguments.cache, input_path, output)
        files = FileRun(input_path, output, how, self._filesystem)
        async with contextlib.AsyncExitStack() as stack:
            run = await stack.enter_async_context(self._runs.open())
            files.open(
                *(stack, run.provider, self._runs.prices),
                max_cost=self.options.max_cost,
                compare_model=not how.force,
                reads_bodies=arguments.model is None or isinstance(arguments.model, str),
                shape=arguments.shape,
                needs_key=needs_key,
            )
            try:
                yield files
            except BaseException:
                files.opened().output.remove_if_new()
                raise
