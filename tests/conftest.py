"""What holds for all tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# On a busy machine a single example may take seconds; no test measures time by its deadline.
settings.register_profile("llmbatch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("llmbatch")

# A shell that starts the tests in the background, or nohup, has them ignore these, and every process they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run tests marked `no_cover` without any tracer: a worker of xdist has two, and pytest-cov pauses one of them."""
    if item.get_closest_marker("no_cover") is None:
        return (yield)
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)
