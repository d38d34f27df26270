"""The event loops that the tests of this folder run on."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Callable, Mapping

import pytest
from providers_authority import Authority, trust

try:
    import uvloop
except ImportError:  # an extra
    uvloop = None

OVER_SOCKETS = {
    "test_providers_http.py",
    "test_providers_http_addresses.py",
    "test_providers_http_late.py",
    "test_providers_http_load.py",
    "test_providers_http_memory.py",
    "test_providers_http_proxy.py",
    "test_providers_http_reuse.py",
    "test_providers_http_stopped.py",
}
"""The modules whose tests meet an event loop's sockets, and so are run on every loop that the command may use."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None and item.path.name in OVER_SOCKETS:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


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
