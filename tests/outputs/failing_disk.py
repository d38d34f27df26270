"""A real file system of which some calls fail, for tests of what becomes of an output then."""

from __future__ import annotations

import os

from llmbatch.storage.filesystem import Filesystem


def failing(**numbers: int) -> Filesystem:
    """A file system whose calls of these names fail with these error numbers; all others are the system's."""

    def fails(number: int) -> object:
        def call(self: Filesystem, *_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        return call

    kind = type("FailingFilesystem", (Filesystem,), {name: fails(number) for name, number in numbers.items()})
    disk: Filesystem = kind()
    return disk
