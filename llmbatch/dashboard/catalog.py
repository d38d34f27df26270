"""Which outputs ``llmbatch view`` shows: the files that were named, and those in the folders that were. None else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmbatch.outputs.deferred import status_path

__all__ = ["Catalog", "Entry", "Listing"]

MOST_FILES: Final = 2_000
_DEEPEST: Final = 4
_MOST_FOLDERS: Final = 1_000
_LINE_START: Final = b'{"row":'
_SIDECARS: Final = (".events.jsonl", ".deferred.jsonl", ".batch.jsonl")


@dataclass(frozen=True, slots=True)
class Entry:
    """An output: its ``key`` in URLs, which is its name for people too."""

    key: str
    path: Path


@dataclass(frozen=True, slots=True)
class Listing:
    """What there is now. ``others``: JSON lines that no run of llmbatch has written; ``is_cut``: there is more."""

    entries: tuple[Entry, ...]
    others: tuple[str, ...]
    is_cut: bool


class Catalog:
    """The outputs of *paths*, files and folders. Folders are looked through four deep, hidden ones are left out.

    A link that leads out of its folder is not followed, and what is not in the listing is never opened.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def listing(self) -> Listing:
        """What there is now. Cost: looks at the first bytes of at most 2,000 files."""
        found: dict[str, Path] = {}
        others: list[str] = []
        is_cut = False
        for path in self._paths:
            if not path.is_dir():
                _enter(found, path.name, path)
                continue
            prefix = f"{path.resolve().name}/" if len(self._paths) > 1 else ""
            for number, file in enumerate(_files(path)):
                if number >= MOST_FILES:
                    is_cut = True
                    break
                name = prefix + file.relative_to(path).as_posix()
                if _is_output(file):
                    _enter(found, name, file)
                else:
                    others.append(name)
        entries = tuple(Entry(key, path) for key, path in sorted(found.items()))
        return Listing(entries, tuple(sorted(others)), is_cut)


def _enter(found: dict[str, Path], name: str, path: Path) -> None:
    """Add *path* under a key that no other has."""
    plain = name.encode("utf-8", "backslashreplace").decode()
    key, number = plain, 2
    while key in found and found[key] != path:
        key, number = f"{plain} ({number})", number + 1
    found[key] = path


def _files(folder: Path) -> Iterator[Path]:
    """The regular files of a folder that may be outputs."""
    root = folder.resolve()
    for number, (place, folders, names) in enumerate(os.walk(folder)):
        here = Path(place)
        if number >= _MOST_FOLDERS:
            return
        depth = len(here.relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if name[:1] != ".") if depth < _DEEPEST else []
        for name in sorted(names):
            if name.endswith(".jsonl") and name[:1] != "." and not name.endswith(_SIDECARS):
                path = here / name
                if _is_inside(path, root):
                    yield path


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(root) and stat.S_ISREG(path.stat().st_mode)
    except (OSError, RuntimeError):
        return False


def _is_output(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(len(_LINE_START))
    except OSError:
        return False
    return start == _LINE_START or (not start and status_path(path).exists())
