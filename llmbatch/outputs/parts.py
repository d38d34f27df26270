"""A folder as output: one part for each shard, ``part-00003-of-00064.jsonl``, each an ordinary output.

Which files are parts, and what they are called. It opens none of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmbatch.core.errors import OutputError
from llmbatch.core.shards import WHOLE, Shard
from llmbatch.outputs.deferred import default_output

__all__ = [
    "Part",
    "create_folder",
    "default_target",
    "has_parts",
    "has_shards",
    "is_folder",
    "is_part",
    "list_parts",
    "list_shards",
    "output_of_parts",
    "part_name",
    "part_path",
    "parts_beside",
    "shard_of",
]

_match_name = re.compile(r"part-([0-9]{1,9})-of-([0-9]{1,9})\.jsonl").fullmatch
_SIDECARS: Final = (".deferred.jsonl", ".events.jsonl", ".batch.jsonl")


@dataclass(frozen=True, slots=True)
class Part:
    """One part in a folder: its path, and which rows it may hold."""

    path: Path
    shard: Shard


def is_folder(output: str | Path, shard: Shard | None = None) -> bool:
    """Whether *output* names a folder of parts: its name ends in a slash, or runs of shards have begun in it.

    Of a *shard*, any folder that is there, and a name without an ending that no file has, such as ``results``.
    """
    text = str(output)
    path = Path(text)
    if text == "-" or not path.name:
        return False
    if text.endswith(("/", os.sep)):
        return True
    if shard is None:
        return has_shards(path)
    return path.is_dir() or (not path.suffix and not path.exists())


def has_parts(folder: Path) -> bool:
    """Whether *folder* is one, and has a part."""
    try:
        with os.scandir(folder) as entries:
            return any(_match_name(entry.name) for entry in entries)
    except (OSError, ValueError):
        return False


def has_shards(folder: Path) -> bool:
    """Whether runs of shards have begun in *folder*, also if none has a line yet, as while their batches run."""
    try:
        with os.scandir(folder) as entries:
            return any(_begun(entry.name) is not None for entry in entries)
    except (OSError, ValueError):
        return False


def list_shards(folder: str | Path) -> list[Part]:
    """As :func:`list_parts`, with the parts that no line was written to yet, of which there is only a sidecar.

    Raises:
        OutputError: as there.
    """
    parts = {part.shard: part for part in list_parts(folder)}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 - as above
            shard = _begun(name)
            if shard is not None and shard not in parts:
                parts[shard] = Part(Path(folder, part_name(shard)), shard)
    return [part for _, part in sorted(parts.items(), key=lambda item: _order(item[0]))]


def part_name(shard: Shard) -> str:
    """The name of the part of *shard*."""
    return f"part-{shard.index:05}-of-{shard.count:05}.jsonl"


def part_path(output: str | Path, shard: Shard | None) -> str:
    """The file that a run of *shard* (None: of all rows) appends to: *output*, or its part in that folder."""
    return str(Path(output) / part_name(shard or WHOLE)) if is_folder(output, shard) else str(output)


def default_target(input_path: str | Path, shard: Shard | None = None) -> str:
    """Where results go by default: :func:`default_output`, or for a *shard* the folder of that name without ending.

    Raises:
        InputError: *input_path* is a directory.
    """
    output = str(default_output(input_path))
    return output if shard is None or output == "-" else f"{output.removesuffix('.jsonl')}/"


def shard_of(path: str | Path) -> Shard:
    """The shard whose rows the file *path* may hold, by its name; of a file that is no part: all."""
    return _shard_of(Path(path).name) or WHOLE


def is_part(path: str | Path) -> bool:
    """Whether the file *path* is called like a part."""
    return _shard_of(Path(path).name) is not None


def parts_beside(output: str | Path) -> Path:
    """The folder where the processes of ``--workers`` write their parts: ``o.jsonl.parts`` next to ``o.jsonl``."""
    path = Path(output)
    return path.with_name(f"{path.name}.parts")


def output_of_parts(folder: Path) -> Path | None:
    """The output beside *folder*, if that holds the parts of its ``--workers`` (see :func:`parts_beside`)."""
    if folder.suffix != ".parts":
        return None
    path = folder.with_suffix("")
    return path if path.is_file() else None


def list_parts(folder: str | Path) -> list[Part]:
    """The parts in *folder*, by number of shards and shard; none if there is no such folder.

    Raises:
        OutputError: a part stands there twice, a file that is called like a part is none, or it cannot be read.
    """
    found: dict[Shard, Path] = {}
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - of a folder that a million files may be in
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return []
        why = (error.strerror or str(error)).lower()
        raise OutputError(f"{folder}: cannot be read ({why})", hint="check the path, and who may read it") from error
    for name in names:
        if not name.startswith("part-") or not name.endswith(".jsonl") or name.endswith(_SIDECARS):
            continue
        path = Path(folder, name)
        shard = _shard_of(name)
        if shard is None:
            raise OutputError(
                f"{path}: is called like a part, and is none",
                hint="parts are called part-00003-of-00064.jsonl: rename it, or move it out of the folder",
            )
        if shard in found:
            raise OutputError(
                f"{path}: part {shard} stands here twice, also as {found[shard].name}",
                hint="keep the one with more lines, and move the other out of the folder",
            )
        found[shard] = path
    return [Part(path, shard) for shard, path in sorted(found.items(), key=lambda item: _order(item[0]))]


def create_folder(output: str | Path) -> bool:
    """Create the folder *output* for parts; whether there was none.

    Raises:
        OutputError: it cannot be created.
    """
    folder = Path(output)
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_dir():
            return False
        raise OutputError(f"{output}: is a file, and the name of a folder is wanted", hint="name another one") from None
    except FileNotFoundError:
        raise OutputError(
            f"{output}: there is no directory {folder.parent}", hint=f"create it: mkdir -p {folder.parent}"
        ) from None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OutputError(f"{output}: cannot be created ({why})", hint="write to another folder (-o)") from error
    return True


def _begun(name: str) -> Shard | None:
    """The shard whose part, status file or deferred file is called *name*; None if none is."""
    if name.startswith("."):
        name = name.removeprefix(".").removesuffix(".status.json")
    elif name.endswith(".deferred.jsonl"):
        name = f"{name.removesuffix('.deferred.jsonl')}.jsonl"
    return _shard_of(name)


def _shard_of(name: str) -> Shard | None:
    found = _match_name(name)
    if found is not None and int(found[1]):
        with contextlib.suppress(ValueError):
            return Shard(int(found[1]), int(found[2]))
    return None


def _order(shard: Shard) -> tuple[int, int]:
    return shard.count, shard.index
