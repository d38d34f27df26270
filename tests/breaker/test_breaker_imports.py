"""The breaker stands alone, and importing it, or the package, is light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import llmbatch.breaker

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
    assert {name for name in ours if not name.startswith("llmbatch.breaker")} == {"llmbatch"}
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
    assert not loaded & {
        "asyncio",
        "llmbatch.runs.batch_runner",
        "llmbatch.core.errors",
        "llmbatch.core.rows",
        "llmbatch.core.events",
    }


@pytest.mark.parametrize(
    "late", ["events", "explain", "metrics", "registry", "retry", "dataclasses", "inspect", "random", "queue"]
)
def test_the_breaker_loads_late_what_not_everybody_needs(light: set[str], late: str) -> None:
    """Neither its own parts nor those of the standard library that only they need."""
    assert not light & {late, f"llmbatch.breaker.{late}"}


@pytest.fixture(scope="module")
def light() -> set[str]:
    return loaded_by("llmbatch.breaker; b = llmbatch.breaker.CircuitBreaker(); b.call(len, 'abc'); b.reset()")


def test_every_name_of_the_breaker_is_there() -> None:
    """All that it lists, loaded when asked for, and the same object each time; nothing else is invented."""
    names = llmbatch.breaker.__all__

    assert {name: getattr(llmbatch.breaker, name) for name in names} == {
        name: getattr(llmbatch.breaker, name) for name in names
    }
    assert names == sorted(names)
    with pytest.raises(AttributeError, match="has no attribute 'Circuitbreaker'"):
        _ = llmbatch.breaker.Circuitbreaker  # type: ignore[attr-defined]
    star: dict[str, object] = {}
    exec("from llmbatch.breaker import *", star)
    assert set(names) <= set(star)
