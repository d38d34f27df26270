"""Property tests draw the same examples in each run, whichever worker of xdist they are in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

DIGEST_OF_STEPS = """
import hashlib
import sys

sys.path[:0] = sys.argv[1:3]
import conftest
conftest.draw_no_constants_of_modules()

from hypothesis.stateful import invariant
from test_route_model import RouteAgainstModel, run

steps = hashlib.sha256()

class Recorded(RouteAgainstModel):
    @invariant()
    def recorded(self):
        if hasattr(self, "told"):
            steps.update(repr((self.told.now, self.phase, self.rows, self.where, self.named)).encode())

run(5, 20, Recorded)
print(steps.hexdigest())
"""

LOAD_ALL = """
import importlib, pkgutil, llmbatch
for module in pkgutil.walk_packages(llmbatch.__path__, "llmbatch."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


@pytest.mark.slow
def test_stories_do_not_depend_on_loaded_modules_or_hash_seed() -> None:
    """A run in CI may be repeated, and an unrelated commit changes none of its stories. Slow: two interpreters."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", loaded + DIGEST_OF_STEPS, str(TESTS), str(TESTS / "route")],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for loaded, hash_seed in (("", "1"), (LOAD_ALL, "2"))
    }

    assert len(digests) == 1
