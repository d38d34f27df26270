"""Requests that earlier runs on an output have sent, which count for ``--rpd``: its history tells them."""

from __future__ import annotations

import time
from pathlib import Path

from llmbatch.cli.settings import Settings
from llmbatch.display.history_file import read_history
from llmbatch.display.phrases import local_time, plural
from llmbatch.pace.daily import DAY
from llmbatch.runner.earlier import NOTHING_EARLIER

__all__ = ["requests_today", "told_earlier"]


def requests_today(settings: Settings, output: str) -> tuple[int, float]:
    """As in :class:`~llmbatch.runner.earlier.EarlierRuns`, of a day that has not ended; none without ``--rpd``."""
    if not settings.rpd or output == "-":
        return NOTHING_EARLIER.requests_today
    sent, began = read_history(Path(output)).timeline.calls_of_period(DAY)
    ago = time.time() - began
    # Below 0 where the clock was set back: the day is taken to begin now.
    return (sent, max(0.0, ago)) if sent and -DAY < ago < DAY else NOTHING_EARLIER.requests_today


def told_earlier(output: str, sent: tuple[int, float], per_day: float) -> str:
    """What to say of the requests of earlier runs."""
    count, ago = sent
    until = local_time(time.time() - ago + DAY)
    return (
        f"earlier runs on {output} have sent {plural(count, 'request')} of --rpd {per_day:g}, which count until {until}"
    )
