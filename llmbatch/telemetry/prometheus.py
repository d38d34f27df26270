"""The metrics of a run in the text format of Prometheus, by prometheus-client (extra ``metrics``)."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from llmbatch.telemetry.run_metrics import Histogram, Reading, RunMetrics

__all__ = ["RunCollector", "new_registry", "render"]


class RunCollector:
    """A collector for a registry of prometheus-client; the values are read when they are scraped."""

    def __init__(self, metrics: RunMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """The metric families now."""
        return map(_family, self._metrics.read())


def new_registry(collector: RunCollector) -> CollectorRegistry:
    """A registry with nothing but *collector*."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The metrics of *registry* in the best format that the header *accept* names, and its content type."""
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


def _family(reading: Reading) -> Metric:
    metric = reading.metric
    name = f"llmbatch_{metric.name}{f'_{metric.unit}' if metric.unit else ''}"
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(name, metric.help, labels=metric.labels)
        for labels, value in reading.values.items():
            if isinstance(value, Histogram):
                buckets = [(repr(round(bound, 4)), float(count)) for bound, count in value.buckets]
                histogram.add_metric(labels, [*buckets, ("+Inf", float(value.count))], value.total)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(name, metric.help, labels=metric.labels)
    for labels, value in reading.values.items():
        if not isinstance(value, Histogram):
            family.add_metric(labels, value)
    return family
