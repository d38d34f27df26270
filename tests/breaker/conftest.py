"""What the tests of the breaker share."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture
def small_heap() -> None:
    """Let the garbage collector see only what is made from here on, and nothing that other tests have left."""
    gc.freeze()
