"""``llmbatch failed``: the failed rows of an output, by code; or their ids, or all of it as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable

from llmbatch.cli.terminal import print_text
from llmbatch.core.errors import OutputError, UsageError
from llmbatch.display.failed import failed_ids, failed_json, failed_words
from llmbatch.outputs.find import find_output

__all__ = ["failed"]

_PIECES = 1000


def failed(path: str, *, ids: bool, as_json: bool) -> int:
    """Print the failed rows of the output that *path* names (or of an input's default output); gives 0.

    Raises:
        UsageError: both forms are asked for; the output is not there, cannot be read, or is not one of ours.
        WriteError: standard output is closed or its disk is full.
    """
    if ids and as_json:
        raise UsageError("--ids and --json exclude each other", hint="--json lists the ids too")
    output = find_output(path)
    try:
        if as_json:
            _print(failed_json(output), "")
            print_text("\n")
        else:
            _print(failed_ids(output) if ids else failed_words(output), "\n")
    except OSError as error:
        raise OutputError(
            f"{path}: its failed rows could not be listed ({error.strerror})",
            hint=f"see that there is room for temporary files in {os.environ.get('TMPDIR', '/tmp')}",  # noqa: S108
        ) from error
    return 0


def _print(pieces: Iterable[str], end: str) -> None:
    batch: list[str] = []
    for piece in pieces:
        batch.append(piece + end)
        if len(batch) >= _PIECES:
            print_text("".join(batch))
            batch.clear()
    print_text("".join(batch))
