"""The table of options, second part: what a run shows, and to whom.

See :mod:`llmbatch.runner.options`. Importing this module loads nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from llmbatch.runner.option import option
from llmbatch.runner.options import RunOptions
from llmbatch.runner.quantities import Whole
from llmbatch.runner.value_types import Address, Choice, Switch, Text

__all__ = ["DisplayOptions", "Progress"]

Progress = Literal["auto", "rich", "plain", "json", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayOptions(RunOptions):
    """:class:`RunOptions`, and all options of the group "Display". Immutable."""

    progress: Progress = option(
        "auto",
        Choice(get_args(Progress)),
        "--progress",
        help="How progress is shown on standard error.",
        group="Display",
    )
    report: str | None = option(
        None,
        Text("PATH"),
        "--report",
        help="When the run ends, however it does, write a page about it to this file; as llmbatch report.",
        unset="none",
        group="Display",
        sends=True,
        local="folder",
    )
    notify: str | None = option(
        None,
        Text("CMD"),
        "--notify",
        help="Run this shell command when an outage has lasted a minute, when it is over, and when the run ends; it "
        "gets JSON on standard input, and $NOTIFY_TEXT.",
        unset="none",
        group="Display",
        sends=True,
        local="never",
    )
    dashboard: int | None = option(
        None,
        Whole(0, 65_535),
        "--dashboard",
        help="Serve the page of llmbatch report, kept up to date, on this port of 127.0.0.1 while the run goes on; 0 "
        "takes any free port.",
        unset="none",
        group="Display",
        sends=True,
    )
    dashboard_show_text: bool = option(
        False,
        Switch(),
        "--dashboard-show-text",
        help="With --dashboard, show the prompts and answers of the latest rows too.",
        group="Display",
        sends=True,
        local="never",
    )
    metrics_port: str | None = option(
        None,
        Address(),
        "--metrics-port",
        help="While the run goes on, serve its metrics to Prometheus at http://127.0.0.1:PORT/metrics.",
        unset="none",
        group="Display",
        sends=True,
        local="never",
    )
    otel: bool = option(
        False,
        Switch(),
        "--otel",
        help="Send spans and metrics of the run by OTLP to where the standard OTEL_* variables say.",
        group="Display",
        sends=True,
        local="never",
    )
    quiet: bool = option(False, Switch(), "-q", "--quiet", help="Print errors only.", group="Display")
    json: bool = option(
        False, Switch(), "--json", help="Print the summary as JSON on standard output.", group="Display"
    )
