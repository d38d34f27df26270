"""The dashboard of ``examples/grafana``: every metric and label that its queries name is in a real scrape."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from promql import read
from scrapes import Series, get, parsed, serving

from llmbatch import BatchRunner
from llmbatch.core.events import Event, RowFinished
from llmbatch.report.stats import RunStats
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario_file import find_scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual
from llmbatch.telemetry.run_metrics import METRICS

FILE = Path(__file__).parents[2] / "examples" / "grafana" / "llmbatch.json"
TARGET = {"job", "instance"}
"""Labels that Prometheus adds to what it scrapes."""


class ScrapesOnce:
    """Scrapes its run over HTTP when *row* rows have ended, in the middle of it."""

    def __init__(self, row: int) -> None:
        self.stats = RunStats()
        self.text = ""
        self._row = row

    def observe(self, event: Event) -> None:
        self.stats.observe(event)
        if isinstance(event, RowFinished) and self.stats.success + self.stats.failed == self._row:
            with serving(self.stats) as server:
                self.text = get(server.url)[1]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The scrape of a run through an outage, shortly before its end."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "p.jsonl").write_text('{"no":"prompt"}\n' + "".join(f'{{"prompt":"{row}"}}\n' for row in range(2000)))
    watch = ScrapesOnce(1990)
    transport = VirtualTransport(SimulatedProvider(find_scenario("outage"), seed=1))
    runner = BatchRunner("sim/outage", transport=transport, observers=[watch], seed=1)
    summary = run_virtual(runner.run(folder / "p.jsonl", folder / "o.jsonl"))
    assert summary.outages > 0
    return watch.text


@pytest.fixture(scope="module")
def series(text: str) -> Series:
    return parsed(text)


def dashboard() -> dict[str, Any]:
    return json.loads(FILE.read_text())  # type: ignore[no-any-return]


def queries() -> Iterator[tuple[str, str, str]]:
    """The title, the expression and the legend of each query."""
    board = dashboard()
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]
    for note in board["annotations"]["list"]:
        yield note["name"], note["expr"], note["titleFormat"]


def faults(series: Series, expression: str, legend: str) -> list[str]:
    """What of a query is not in *series*."""
    labels_of: dict[str, set[str]] = {}
    values_of: dict[tuple[str, str], set[str]] = {}
    for name, labels in series:
        labels_of.setdefault(name, set()).update(label for label, _ in labels)
        for label, text in labels:
            values_of.setdefault((name, label), set()).add(text)
    found = read(expression)
    there = set(TARGET)
    wrong = []
    for metric, matchers in found.metrics:
        if metric not in labels_of:
            wrong.append(metric)
            continue
        there |= labels_of[metric]
        for label, operator, text in matchers:
            if label not in labels_of[metric] | TARGET:
                wrong.append(f"{metric}{{{label}}}")
            elif label not in TARGET and operator == "=" and text not in values_of[metric, label]:
                wrong.append(f'{metric}{{{label}="{text}"}}')
    wrong += [f"by {label}" for label in found.groups if label not in there]
    shown = found.groups if " by " in f" {expression} " else there
    return wrong + [f"{{{{{label}}}}}" for label in re.findall(r"\{\{(\w+)\}\}", legend) if label not in shown]


@pytest.mark.slow  # up to some seconds of CPU
@pytest.mark.traced
def test_every_metric_and_label_of_its_queries_is_in_a_scrape(series: Series) -> None:
    """Of a run that was real but for the clock."""
    found = {(title, expression): faults(series, expression, legend) for title, expression, legend in queries()}

    assert len(found) >= 20
    assert {query: wrong for query, wrong in found.items() if wrong} == {}


@pytest.mark.slow  # waits in real time
@pytest.mark.traced
@pytest.mark.parametrize(
    ("expression", "legend"),
    [
        ("sum(llmbatch_row_total)", ""),
        ("sum by (rout) (llmbatch_in_flight)", ""),
        ('llmbatch_rows_total{state="failed"}', ""),
        ('llmbatch_rows_total{status="failure"}', ""),
        ("sum by (route) (llmbatch_in_flight)", "{{status}}"),
        ("rate(llmbatch_call_duration_seconds[5m])", ""),
    ],
)
def test_a_query_that_asks_for_nothing_is_found(series: Series, expression: str, legend: str) -> None:
    """The check can fail."""
    assert faults(series, expression, legend)


@pytest.mark.parametrize(
    "expression",
    ["smu(a)", "sum(a", "a)", "a{b}", 'a{b=="c"}', "sum by route (a)", "rate(a[5x])", "sum a", 'a{b="c"', "a ~ b"],
)
def test_what_is_no_query_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(expression)


def test_the_dashboard_shows_every_metric() -> None:
    """But those that few runs have."""
    named = {metric for _, expression, _ in queries() for metric, _ in read(expression).metrics}
    missing = [name for name in METRICS if not any(f"llmbatch_{name}" in metric for metric in named)]

    assert missing == ["cached_rows", "repairs", "unpriced_calls", "cost_at_risk"]


@pytest.mark.slow  # waits in real time
@pytest.mark.traced
def test_its_variables_ask_for_metrics_that_exist(series: Series) -> None:
    """Data source, job and instance; every query has both."""
    variables = {variable["name"]: variable["query"] for variable in dashboard()["templating"]["list"]}

    assert list(variables) == ["datasource", "job", "instance"]
    for name in TARGET:
        metric = re.match(r"label_values\((\w+)", variables[name]["query"])
        assert metric
        assert any(metric[1] == known for known, _ in series)
    for _, expression, _ in queries():
        for _, matchers in read(expression).metrics:
            assert {(label, operator, text) for label, operator, text in matchers} >= {
                ("job", "=~", "$job"),
                ("instance", "=~", "$instance"),
            }


def test_its_panels_fill_the_page_without_overlap() -> None:
    """Each has a title, a unit and a data source that can be chosen."""
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_the_scrape_and_the_queries(text: str, tmp_path: Path) -> None:
    """The parsers of Prometheus itself."""
    subprocess.run(["promtool", "check", "metrics"], input=text, text=True, check=True, timeout=60)
    rules = [
        {"record": f"query:{at}", "expr": expression.replace("$__rate_interval", "5m")}
        for at, (_, expression, _) in enumerate(queries())
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    subprocess.run(["promtool", "check", "rules", str(tmp_path / "rules.yml")], check=True, timeout=60)
