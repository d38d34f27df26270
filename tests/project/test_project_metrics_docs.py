"""docs/metrics.md: its table has every metric, its queries name metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

from promql import read

from llmbatch.telemetry.run_metrics import METRICS, Metric

TEXT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def full_name(metric: Metric) -> str:
    unit = f"_{metric.unit}" if metric.unit else ""
    return f"llmbatch_{metric.name}{unit}{'_total' if metric.kind == 'counter' else ''}"


def test_the_table_has_every_metric_with_its_type_and_labels() -> None:
    """In the order in which they are scraped."""
    rows = re.findall(r"^\| `(llmbatch_\w+)` \| (\w+) \| ([\w, ]*?) *\|", TEXT, re.MULTILINE)

    assert rows == [(full_name(metric), metric.kind, ", ".join(metric.labels)) for metric in METRICS.values()]


def test_the_rules_of_the_alerts_ask_for_metrics_that_there_are() -> None:
    names = {full_name(metric) for metric in METRICS.values()}
    rules = re.findall(r"^ +expr: (.+)$", TEXT, re.MULTILINE)

    assert len(rules) == 2
    for rule in rules:
        text = re.sub(r"\[10m\]", "[5m]", rule)
        assert {metric for metric, _ in read(text).metrics} <= names


def test_the_list_of_what_outcomes_and_states_there_are_is_complete() -> None:
    """The words of the labels, as they are scraped."""
    for word in ("success", "failure", "throttled", "rejected", "other", "failed", "input", "output"):
        assert f"`{word}`" in TEXT
