"""Another standard output, for tests of what writes to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def standard_output(fd: int | None) -> Iterator[None]:
    """Descriptor 1 is closed, or a duplicate of *fd*."""
    kept = os.dup(1)
    os.close(1)
    if fd is not None:
        os.dup2(fd, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
