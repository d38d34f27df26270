"""Finds the output for the path of an output or of its input, as given to ``status`` and ``failed``."""

from __future__ import annotations

import shlex
from pathlib import Path

from llmbatch.core.errors import OutputError
from llmbatch.core.shards import WHOLE
from llmbatch.outputs.deferred import DATASET_STATE, default_output, status_path
from llmbatch.outputs.parts import default_target, has_parts, has_shards, parts_beside
from llmbatch.outputs.scan import BOM

__all__ = ["find_output"]

_LINE_START = b'{"row":'


def find_output(path: str | Path) -> Path:
    """The output for *path*: *path* itself, or its default output where *path* is an input, empty or missing.

    The default output is a file, or the folder of parts that runs of shards have by default.

    Raises:
        OutputError: *path* is an input, and its default output does not exist; or it is the root folder.
    """
    named = Path(path)
    if (named / DATASET_STATE).is_file():
        return default_output(named)
    if named.is_dir() or str(path) == "-":
        return named if named.name else _with_name(named)
    default = default_output(named)
    if not _has_run(default) and has_shards(folder := Path(default_target(named, WHOLE))):
        default = folder
    if named.exists() and not named.is_file():  # a pipe, which would be waited for, or a device
        return default if _has_run(default) else named
    try:
        with named.open("rb") as file:
            start = file.read(len(BOM + _LINE_START)).removeprefix(BOM)[: len(_LINE_START)]
    except OSError:
        return default if not _has_run(named) and _has_run(default) else named
    if start == _LINE_START:
        return named
    if _has_run(default):
        return default
    if start and not _LINE_START.startswith(start):
        raise OutputError(
            f"{path}: is not an output of llmbatch, and there is no {default.name} beside it",
            hint=f"name the output of the run (-o), or begin with llmbatch run {shlex.quote(str(path))}",
        )
    return named


def _with_name(folder: Path) -> Path:
    """The same folder by a path that ends in its name, beside which other files can be named."""
    found = folder.resolve()
    if not found.name:
        raise OutputError(f"{folder}: is not an output of llmbatch", hint="name a file, or a folder of parts")
    return found


def _has_run(output: Path) -> bool:
    """Whether *output* is there, or at least the sidecar of a run that stopped without any line."""
    return output.exists() or status_path(output).exists() or has_parts(parts_beside(output))
