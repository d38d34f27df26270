"""Serves ``/metrics`` to Prometheus from a thread of its own; ``GET`` only. The run never waits for a reader of it.

At most four requests are answered at a time, each within five seconds; a reader that is slower is cut off.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType
from typing import Any, Self, cast

__all__ = ["MetricsServer"]

_MOST_REQUESTS = 4
_SECONDS = 5.0
_PATH = "/metrics"


class MetricsServer:
    """Listens from the start, and answers between ``__enter__`` and ``__exit__``.

    Args:
        host: the address to listen at, or a name of one.
        port: 0 for any free one.
        render: gives the body and its content type for the header ``Accept`` of a request; called in any thread.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, host: str, port: int, render: Callable[[str], tuple[bytes, str]]) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self._server = _Server(found[0], found[4][:2], render, is_local=_is_loopback(str(found[4][0])))
        self._thread = threading.Thread(target=self._server.serve_forever, name="llmbatch-metrics", daemon=True)

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host, port = self._server.server_address[:2]
        name = str(host)
        return f"http://{f'[{name}]' if ':' in name else name}:{port}{_PATH}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(HTTPServer):
    allow_reuse_address = sys.platform != "win32"  # there it would let two processes listen at once
    request_queue_size = 16

    def __init__(
        self,
        family: int,
        address: tuple[Any, ...],
        render: Callable[[str], tuple[bytes, str]],
        *,
        is_local: bool,
    ) -> None:
        self.address_family = family
        self.render = render
        self.is_local = is_local
        self._slots = threading.Semaphore(_MOST_REQUESTS)
        super().__init__(cast("tuple[str, int]", address), _Handler)

    def server_bind(self) -> None:
        """Bind without looking up this machine's name, which may take seconds."""
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; a request too many is cut off."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        threading.Thread(
            target=self._answer, args=(request, client_address), name="llmbatch-metrics-request", daemon=True
        ).start()

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001, S110 - a reader that goes away is no matter of the run's
            pass
        finally:
            self._slots.release()
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _SECONDS
    server: _Server

    def parse_request(self) -> bool:
        """Read the request, and refuse all but ``GET`` of the metrics by their name or address."""
        if not super().parse_request():
            return False
        if self.command != "GET":
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is answered")
        elif self.server.is_local and not _is_own_name(self.headers.get("Host", "localhost")):
            self._refuse(HTTPStatus.FORBIDDEN, "this address answers as localhost only; see --metrics-port HOST:PORT")
        elif self.path.partition("?")[0] != _PATH:
            self._refuse(HTTPStatus.NOT_FOUND, f"the metrics are at {_PATH}")
        else:
            return True
        return False

    def do_GET(self) -> None:
        """Answer with the metrics."""
        body, content_type = self.server.render(self.headers.get("Accept", ""))
        self._send(HTTPStatus.OK, body, content_type)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no HTTP, without repeating it."""
        self._refuse(HTTPStatus(code), "this is not a request that can be answered")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send(status, f"{why}\n".encode(), "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.close_connection = True
        self.send_response(status)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """What the header ``Server`` says."""
        return "llmbatch"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is inherited
        """Print nothing."""


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _is_own_name(host: str) -> bool:
    """Whether the header *host* names this machine: a page of another site that resolves to it does not."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return _is_loopback(name)
    except ValueError:
        return False
