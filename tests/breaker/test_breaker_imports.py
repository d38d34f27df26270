"""The breaker stands alone, and importing it, or the package, is light."""

from __future__ import annotations

import subprocess
import sys

LOADED = "import sys; before = set(sys.modules); import {}; print(*sorted(set(sys.modules) - before))"


def loaded_by(module: str) -> set[str]:
    """What a fresh interpreter loads for *module*, beyond what it starts with."""
    shown = subprocess.run(
        [sys.executable, "-c", LOADED.format(module)], capture_output=True, text=True, check=True, timeout=60
    )
    return set(shown.stdout.split())


def test_the_breaker_loads_nothing_but_itself_and_the_standard_library() -> None:
    """No dependency, no other floor, no event loop, no logging."""
    loaded = loaded_by("llmbatch.breaker")

    ours = {name for name in loaded if name.split(".")[0] == "llmbatch"}
    assert ours == {
        "llmbatch",
        "llmbatch.breaker",
        "llmbatch.breaker.breaker",
        "llmbatch.breaker.core",
        "llmbatch.breaker.errors",
        "llmbatch.breaker.policy",
    }
    assert {name.split(".")[0] for name in loaded - ours} <= sys.stdlib_module_names
    assert not loaded & {"asyncio", "logging", "ssl", "socket", "subprocess", "multiprocessing", "concurrent.futures"}


def test_the_package_loads_next_to_nothing() -> None:
    """The public names are loaded when first used."""
    loaded = loaded_by("llmbatch")

    assert {name for name in loaded if name.split(".")[0] == "llmbatch"} == {"llmbatch"}
    assert {name.split(".")[0] for name in loaded} <= {"llmbatch", *sys.stdlib_module_names}
    assert not loaded & {"asyncio", "logging", "ssl", "socket", "json", "inspect", "dataclasses"}


def test_the_breaker_through_the_package_is_as_light() -> None:
    """``from llmbatch import CircuitBreaker`` loads the breaker and no more."""
    loaded = loaded_by("llmbatch; llmbatch.CircuitBreaker, llmbatch.CircuitOpenError, llmbatch.BreakerPolicy")

    assert {name.split(".")[0] for name in loaded} <= {"llmbatch", *sys.stdlib_module_names}
    assert not loaded & {"asyncio", "llmbatch.batch", "llmbatch.errors", "llmbatch.records", "llmbatch.events"}
