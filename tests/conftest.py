"""What holds for all tests."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import pkgutil
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import coverage
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

import llmbatch

if TYPE_CHECKING:
    from typer.core import TyperGroup

ROOT = Path(__file__).parents[1]
CommandHere = Callable[..., "subprocess.CompletedProcess[str]"]

settings.register_profile(
    "fixed", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("hunt", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")  # --hypothesis-profile=hunt loads the other: tests/property_hunt.py

# A shell that starts the tests in the background, or nohup, has them ignore these, and every process they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("SIGHUP", "SIGQUIT"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long, too")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--hypothesis-profile") in (None, "fixed"):
        draw_no_constants_of_modules()
    gc.disable()  # until all tests are collected: hardly any of what that makes is garbage


def pytest_xdist_auto_num_workers() -> int | None:
    """Two workers a core, unless the environment says how many: many tests wait, and use no core then."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else 2 * (os.cpu_count() or 1)


def draw_no_constants_of_modules() -> None:
    """Keep the constants of llmbatch's modules out of random examples.

    Hypothesis collects them from the modules that are loaded, also with ``derandomize``, and which those are differs
    between runs. No option prevents it; tests/project/test_project_properties.py fails if this no longer does.
    """
    none = providers._local_constants
    providers._get_local_constants = lambda: none


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long tests, and deal the slow ones to the workers, the longest first.

    No worker is left with a slow test at the end.
    """
    leave_out_long_tests(config, items)
    items[:] = dealt(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    leave_slow_tests_untraced(items)


def leave_out_long_tests(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests marked `long`, unless ``--long`` or an ``-m`` with that word asks for them."""
    if config.getoption("--long") or re.search(r"\blong\b", config.getoption("-m")):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def dealt(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """*items* in an order of which xdist gives every worker an equal part in one piece: slow tests first in each.

    The other tests stay in their order, as those of one module share fixtures.
    """
    marks = {item: sum(item.get_closest_marker(name) is not None for name in ("slow", "no_cover")) for item in items}
    slow = sorted((item for item in items if marks[item]), key=lambda item: -marks[item])
    fast = [item for item in items if not marks[item]]
    order: list[pytest.Item] = []
    for worker in range(workers):
        order += slow[worker::workers]
        count = max(0, len(items) * (worker + 1) // workers - len(order))
        order += fast[:count]
        del fast[:count]
    return order + fast


def leave_slow_tests_untraced(items: list[pytest.Item]) -> None:
    """Let coverage trace the fast tests, and the slow ones that are marked `traced`.

    The tracer triples the CPU of what runs in the test's own process, and most slow tests either reach no further
    line or run everything in child processes, which it does not see.
    """
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("traced"):
            item.add_marker("no_cover")


def pytest_collection_finish() -> None:
    """Let the garbage collector look at what tests make, not at the thousands of tests: each collection took 0.2 s."""
    if is_measured():
        import_all_modules()
    gc.collect()
    gc.freeze()
    gc.enable()


def is_measured() -> bool:
    """Whether coverage traces this process."""
    return coverage.Coverage.current() is not None


def import_all_modules() -> None:
    """Import what commands import late: an untraced test may be the first to need a module."""
    for module in pkgutil.walk_packages(llmbatch.__path__, "llmbatch."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of an extra that is not installed
                importlib.import_module(module.name)


def is_of(module: ModuleType, folder: Path) -> bool:
    """Whether *module* was imported from *folder*."""
    return (getattr(module, "__file__", None) or "").startswith(f"{folder}{os.sep}")


@pytest.fixture
def no_certificates(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients trust nobody: to read the machine's certificates takes each longer than most tests of plain HTTP."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)  # which would count
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path_factory.getbasetemp()))


@functools.cache
def command_tree() -> TyperGroup:
    """The commands, built once for all that run within this process: that took half of their time, and has no state."""
    from llmbatch.cli.app import build_app
    from llmbatch.cli.help import PlainGroup

    tree = build_app()
    for group in (tree, tree.commands["sim"]):
        assert isinstance(group, PlainGroup)
        group.deferred = {name: functools.cache(build) for name, build in group.deferred.items()}
    return tree


@pytest.fixture
def one_command_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands within this process share their parser, as :func:`command_tree` says."""
    tree = command_tree()
    monkeypatch.setattr("llmbatch.cli.app.build_app", lambda: tree)


@pytest.fixture
def command_here(
    one_command_tree: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandHere:
    """``command_here(folder, environ, *arguments)`` runs the command within this process, which starts none.

    For the many commands that differ in a few words: to start an interpreter takes longer than most of them. What they
    import from *folder* is forgotten.
    """
    from llmbatch.cli import main

    def run(folder: Path, environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(os, "environ", dict(environ))
            patch.setattr(sys, "argv", ["llmbatch", *arguments])
            patch.setattr(sys, "path", [*sys.path])
            code = main()
            for name in [name for name, module in sys.modules.items() if is_of(module, folder)]:
                del sys.modules[name]
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, code, out, err)

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Have coverage trace also the processes that a test marked `traced` starts, by the hook that it has installed.

    No fixture does this, for it would be set up for ten thousand tests, which takes seconds.
    """
    if not (is_measured() and item.get_closest_marker("traced")):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVERAGE_PROCESS_START", str(ROOT / "pyproject.toml"))
        patch.setenv("COVERAGE_FILE", str(ROOT / ".coverage"))
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run tests marked `no_cover` without any tracer: a worker of xdist has two, and pytest-cov pauses one of them.

    Threads that the test starts have none either.
    """
    if item.get_closest_marker("no_cover") is None:
        return (yield)
    tracer, tracer_of_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)
        threading.settrace(tracer_of_threads)
