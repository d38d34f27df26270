"""The figures of ``throughput.py`` as bars: rows a second, and processor time a row, beside the bare loop's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from throughput import Summary

COLOURS = {"llmbatch": "#2d8659", "bare aiohttp": "#8a8a8a"}
OTHER = "#c9b79c"


def draw(summaries: Sequence[Summary], path: Path) -> None:
    """Write the picture; the suffix of *path* says which kind. The limit, many times larger, is left to the table."""
    import matplotlib as mpl

    mpl.use("svg" if path.suffix == ".svg" else "agg")
    mpl.rcParams["svg.hashsalt"] = "throughput"
    from matplotlib import pyplot

    shown = {
        "instant": "rows a second, server answers at once",
        "peers": "rows a second, clients that people use",
        "memory": "peak memory, MB",
    }
    groups = {part: [one for one in summaries if one.cell.part == part and one.cell.job != "wrk"] for part in shown}
    groups = {part: bars for part, bars in groups.items() if bars}
    heights = [0.32 * len(bars) + 0.7 for bars in groups.values()]
    figure, axes = pyplot.subplots(
        len(groups), 1, figsize=(8, sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, (part, bars) in zip(axes[:, 0], groups.items(), strict=True):
        values = [one.peak_mb if part == "memory" else one.rate for one in bars]
        names = [
            f"{one.cell.job}, {one.cell.rows:,} rows" if part == "memory" else f"{one.cell.job}, {one.cell.concurrency}"
            for one in bars
        ]
        places = range(len(bars), 0, -1)
        axis.barh(places, values, color=[COLOURS.get(one.cell.job, OTHER) for one in bars], height=0.72)
        for place, value in zip(places, values, strict=True):
            axis.text(value, place, f" {value:,.0f}", va="center", fontsize=8)
        axis.set_yticks(places, names, fontsize=8)
        axis.set_xticks([])
        axis.set_title(shown[part], fontsize=9, loc="left")
        for side in ("top", "right", "bottom"):
            axis.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
