"""The server of the metrics: one path, one method, this machine's names; no reader holds up anything."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from scrapes import call, fold, get, scrape, serving, started

from llmbatch.telemetry.metrics_server import MetricsServer


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    with serving(fold([started(), *call(2.0, "openai/a", 1)])) as one:
        yield one


def test_the_metrics_are_at_one_path(server: MetricsServer) -> None:
    """In the text format of Prometheus, not to be stored; all other paths say where they are."""
    status, text, headers = get(server.url)

    assert status == 200
    assert 'llmbatch_rows_total{status="success"} 1.0' in text
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "llmbatch"
    for path in ("/", "/metrics/", "/metrics/../metrics", "/../../etc/passwd", "/favicon.ico"):
        status, text, _ = get(server.url.replace("/metrics", path))
        assert (status, text) == (404, "the metrics are at /metrics\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_only_get_is_answered(server: MetricsServer, method: str) -> None:
    status, text, headers = get(server.url, method)

    assert (status, text, headers["Allow"]) == (405, "only GET is answered\n", "GET")


def test_head_is_refused_without_a_body(server: MetricsServer) -> None:
    status, text, _ = get(server.url, "HEAD")

    assert (status, text) == (405, "")


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:9464", "127.0.0.1.evil.test", "10.0.0.1", "[::2]:80", "[", "a:b:c"]
)
def test_a_foreign_host_is_refused(server: MetricsServer, host: str) -> None:
    """A web page whose name resolves to this machine must not read them."""
    assert get(server.url, headers={"Host": host})[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:9464"])
def test_names_of_this_machine_are_accepted(server: MetricsServer, host: str) -> None:
    assert get(server.url, headers={"Host": host})[0] == 200


def test_an_address_for_others_takes_any_host() -> None:
    """Whoever names it wants to be reached from elsewhere, by whatever name."""
    with MetricsServer("0.0.0.0", 0, lambda _: (b"ok", "text/plain")) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert get(url, headers={"Host": "metrics.example:80"})[:2] == (200, "ok")


def test_openmetrics_is_given_to_who_asks_for_it(server: MetricsServer) -> None:
    _, text, headers = get(server.url, headers={"Accept": "application/openmetrics-text;version=1.0.0"})

    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")


def test_what_is_no_http_is_refused_without_being_repeated(server: MetricsServer) -> None:
    host, port = server.url.removeprefix("http://").removesuffix("/metrics").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"<script>alert(1)</script>\r\n\r\n")
        reply = b"".join(iter(lambda: connection.recv(4096), b""))

    assert reply == b"this is not a request that can be answered\n"


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_address_of_ipv6_is_written_in_brackets() -> None:
    try:
        server = MetricsServer("::1", 0, lambda _: (b"ok", "text/plain"))
    except OSError:
        pytest.skip("there is no ::1 here")
    with server:
        assert server.url.startswith("http://[::1]:")
        assert get(server.url)[:2] == (200, "ok")


def test_a_port_in_use_is_refused(server: MetricsServer) -> None:
    """Two runs never share one."""
    port = int(server.url.removesuffix("/metrics").rpartition(":")[2])

    with pytest.raises(OSError, match="in use"):
        MetricsServer("127.0.0.1", port, lambda _: (b"", ""))


def test_readers_that_say_nothing_do_not_hold_up_the_end() -> None:
    """A dozen open connections: at most four threads wait for them, and leaving waits for none."""
    with MetricsServer("127.0.0.1", 0, lambda _: (b"ok", "text/plain")) as server:
        host, port = server.url.removeprefix("http://").removesuffix("/metrics").split(":")
        idle = [socket.create_connection((host, int(port)), timeout=30) for _ in range(12)]
        for connection in idle[4:]:  # cut off, as four others are being read
            assert connection.recv(1) == b""
        names = [thread.name for thread in threading.enumerate() if thread.name == "llmbatch-metrics-request"]
        assert len(names) <= 4
    for connection in idle:
        connection.close()


def test_the_metrics_answer_again_once_silent_readers_have_gone() -> None:
    with serving(fold([started()])) as server:
        host, port = server.url.removeprefix("http://").removesuffix("/metrics").split(":")
        idle = [socket.create_connection((host, int(port)), timeout=30) for _ in range(4)]
        for connection in idle:
            connection.close()
        while any(thread.name == "llmbatch-metrics-request" for thread in threading.enumerate()):
            threading.Event().wait(0.01)

        assert scrape(server.url)
