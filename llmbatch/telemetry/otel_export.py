"""Sends spans and metrics by OTLP over HTTP, set up by the standard ``OTEL_*`` variables (extra ``otel``).

What cannot be sent is dropped: memory is bounded by the SDK's queue, and the end of a run waits for five seconds at
most. The SDK logs each failure, with addresses and texts of servers; here they make one warning, without either.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from llmbatch.core.errors import UsageError

__all__ = ["FLUSH_SECONDS", "OtlpExport", "check_variables"]

FLUSH_SECONDS = 5.0
"""How long the end of a run waits for what is left to send."""

_QUEUED_SPANS = 8192
_PROTOCOL = "http/protobuf"
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SIGNALS = ("TRACES", "METRICS")
_DEFAULT = "http://localhost:4318"


class OtlpExport:
    """Providers whose spans and metrics are sent while the run goes on; leaving it sends the rest.

    Args:
        environ: the ``OTEL_*`` variables; those of the process, from which the SDK reads them too.
        warn: is told once if something could not be sent; called in any thread.
        version: of llmbatch, for the resource.

    Raises:
        UsageError: a variable has a value that cannot be meant.
    """

    def __init__(self, environ: Mapping[str, str], *, warn: Callable[[str, str], None], version: str) -> None:
        check_variables(environ)
        self._log = _Log(environ, warn)
        self.tracer_provider: TracerProvider | None = None
        self.meter_provider: MeterProvider | None = None
        try:
            resource = _resource(environ, version)
            if _is_sent(environ, "TRACES"):
                most = None if environ.get("OTEL_BSP_MAX_QUEUE_SIZE") else _QUEUED_SPANS
                self.tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
                self.tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=most))
            if _is_sent(environ, "METRICS"):
                reader = PeriodicExportingMetricReader(OTLPMetricExporter())
                self.meter_provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        except (ValueError, OSError) as error:
            self._log.remove()
            what = type(error).__name__  # its text may hold what a variable holds
            raise UsageError(f"OpenTelemetry cannot be set up: {what}", hint="check the variables OTEL_…") from None
        self._log.is_set_up = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self, patience_s: float = FLUSH_SECONDS) -> None:
        """Send what is left, for at most *patience_s* seconds; what is not sent then is dropped."""
        providers = (self.tracer_provider, self.meter_provider)
        threads = [
            threading.Thread(target=provider.shutdown, name="llmbatch-otel-flush", daemon=True)
            for provider in providers
            if provider is not None
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + patience_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            self._log.tell(is_late=True)  # and what these threads log later is dropped
        else:
            self._log.remove()


class _Log(logging.Handler):
    """Takes what the SDK logs: the first warning is told in our own words, all others are dropped."""

    def __init__(self, environ: Mapping[str, str], warn: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self.is_set_up = False
        self._host = _shown_endpoint(environ)
        self._warn = warn
        self._is_told = False
        self._logger = logging.getLogger("opentelemetry")
        self._propagated = self._logger.propagate
        self._logger.addHandler(self)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Take one message."""
        self.tell(is_full=str(record.msg).startswith("Queue full"))

    def tell(self, *, is_full: bool = False, is_late: bool = False) -> None:
        """Warn, unless that was done before."""
        if self._is_told:
            return
        self._is_told = True
        hint = f"the run is not affected; check {_ENDPOINT}, and that a collector listens there"
        if not self.is_set_up:
            message = "OpenTelemetry does not understand the value of a variable OTEL_…"
            hint = "header values are URL-encoded: OTEL_EXPORTER_OTLP_HEADERS='name=value,other=value'"
        elif is_full:
            message = f"spans come faster than {self._host} takes them, and some are dropped"
            hint = "the run is not affected; sample them with OTEL_TRACES_SAMPLER, or raise OTEL_BSP_MAX_QUEUE_SIZE"
        elif is_late:
            message = f"the last spans and metrics were not sent to {self._host} in time"
        else:
            message = f"spans or metrics could not be sent to {self._host}, and some are missing"
        self._warn(message, hint)

    def remove(self) -> None:
        """Let the SDK log as before."""
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated


def check_variables(environ: Mapping[str, str]) -> None:
    """Check the variables that name what is sent where; the SDK reads the others.

    Raises:
        UsageError: one of them cannot be meant.
    """
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", *(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL" for signal in _SIGNALS)):
        if environ.get(name, _PROTOCOL) not in (_PROTOCOL, ""):
            raise UsageError(f"{name} is {environ[name]!r:.40}, and only {_PROTOCOL} is spoken", hint=f"unset {name}")
    for name in (_ENDPOINT, *(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT" for signal in _SIGNALS)):
        value = environ.get(name, "")
        if value and not _is_url(value):
            raise UsageError(f"{name} is not an http(s) URL", hint=f"such as {name}={_DEFAULT}")
    for name in (f"OTEL_{signal}_EXPORTER" for signal in _SIGNALS):
        if environ.get(name, "") not in ("", "otlp", "none"):
            raise UsageError(f"{name} is {environ[name]!r:.40}, must be otlp or none", hint=f"unset {name}")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_sent(environ: Mapping[str, str], signal: str) -> bool:
    return environ.get(f"OTEL_{signal}_EXPORTER", "") != "none"


def _resource(environ: Mapping[str, str], version: str) -> Resource:
    """What is sent is from the service ``llmbatch``, unless a variable names another."""
    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if named else {"service.name": "llmbatch", "service.version": version})


def _shown_endpoint(environ: Mapping[str, str]) -> str:
    """Scheme, host and port of where it is sent, without what may be secret in the URL."""
    parts = urlsplit(environ.get(_ENDPOINT) or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or _DEFAULT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
