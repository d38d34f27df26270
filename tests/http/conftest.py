"""The HTTP client's tests run on every event loop that the command may use, with certificates of their own."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Callable, Mapping

import pytest
from http_authority import Authority, trust

try:
    import uvloop
except ImportError:  # an extra
    uvloop = None


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
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
