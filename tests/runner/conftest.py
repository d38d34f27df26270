"""Stories of simulated runs, for the tests of the runner."""

from __future__ import annotations

import pytest
from runner_story import Prompts, Simulate, prompts, simulate


@pytest.fixture(name="simulate")
def _simulate() -> Simulate:
    return simulate


@pytest.fixture(name="prompts")
def _prompts() -> Prompts:
    return prompts
