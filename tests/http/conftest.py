"""The HTTP client's tests run on every event loop that the command may use, with certificates of their own."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Callable

import pytest
from http_authority import Authority, trust

Factories = dict[str, Callable[[], asyncio.AbstractEventLoop]]
FACTORIES: Factories = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop
except ImportError:
    pass  # an extra
else:
    FACTORIES["uvloop"] = uvloop.new_event_loop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Factories:
    return FACTORIES


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificates with openssl")
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The context of a server on 127.0.0.1 that the client trusts, as it would had it started with SSL_CERT_FILE."""
    trust(authority, monkeypatch)
    return authority.context("IP:127.0.0.1")
