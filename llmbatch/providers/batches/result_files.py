"""Reads results that are files of lines: the output file, then the error file."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from llmbatch.providers.batches.control import Control
from llmbatch.providers.batches.port import RemoteBatch, ResultLine
from llmbatch.providers.batches.result_stream import stream_lines

__all__ = ["read_files"]


async def read_files(
    control: Control, batch: RemoteBatch, read: Callable[[bytes], ResultLine | None]
) -> AsyncGenerator[ResultLine | None]:
    """Fetch the result files of *batch* from ``/files/ID/content``, and *read* each line.

    Raises:
        ControlError: it failed, or a file is not complete.
    """
    for file_id in batch.result_files:
        url = control.url(f"/files/{file_id}/content")
        async with control.download(f"the results of batch {batch.id}", url) as blocks:
            async for line in stream_lines(blocks):
                yield read(line)
