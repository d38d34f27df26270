"""What the tests of the breaker share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def small_heap() -> Iterator[None]:
    """Let the garbage collector see only what is made from here on: the rest of the test run has a large heap."""
    gc.freeze()
    yield
    gc.unfreeze()
