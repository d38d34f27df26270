"""A collector on loopback: takes OTLP over HTTP and decodes the protobuf."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["Post", "Receiver", "attributes"]


def attributes(pairs: Any) -> dict[str, Any]:
    """Attributes of a message as Python values."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


@dataclass(frozen=True)
class Post:
    """One request: its path, its headers by lower-case names, its raw body."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Listens until :meth:`close`. *before* is called with each request before it is answered, and gives the status."""

    def __init__(self, before: Callable[[Post], int] = lambda _: 200) -> None:
        self.posts: list[Post] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                headers = {name.lower(): value for name, value in self.headers.items()}
                post = Post(self.path, headers, self.rfile.read(length))
                receiver.posts.append(post)
                self.send_response(before(post))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def spans(self) -> list[Span]:
        """All spans so far, in the order of their end."""
        return [span for resource in self._traces() for scope in resource.scope_spans for span in scope.spans]

    @property
    def resources(self) -> list[dict[str, Any]]:
        """The attributes of the resource of each request."""
        return [attributes(resource.resource.attributes) for resource in self._traces()]

    def _traces(self) -> Iterator[Any]:
        for post in list(self.posts):
            if post.path == "/v1/traces":
                yield from ExportTraceServiceRequest.FromString(post.body).resource_spans

    @property
    def metrics(self) -> dict[str, Metric]:
        """The newest value of each metric, by its name."""
        found: dict[str, Metric] = {}
        for post in list(self.posts):
            if post.path == "/v1/metrics":
                for resource in ExportMetricsServiceRequest.FromString(post.body).resource_metrics:
                    for scope in resource.scope_metrics:
                        found |= {metric.name: metric for metric in scope.metrics}
        return found
