"""Opens the small files beside an output, which anybody may have replaced by something else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC, O_NONBLOCK

__all__ = ["open_sidecar"]


def open_sidecar(path: Path) -> BinaryIO:
    """Open *path* for reading.

    Raises:
        OSError: it cannot be read, or is no regular file: a pipe in its place would be waited for without end.
    """
    fd = FILESYSTEM.open(str(path), os.O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise
