"""What a run knows of earlier ones on the same output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmbatch.core.rows import Row

__all__ = ["NOTHING_EARLIER", "EarlierRuns"]


@dataclass(frozen=True, slots=True)
class EarlierRuns:
    """Facts about earlier runs; each default is that of a first one."""

    answered: Callable[[str], bool] = lambda _: False
    """Whether a route, by its label, has answered well."""
    good_rows: Callable[[], Sequence[Row] | None] = lambda: ()
    """Finds rows that succeeded, None if they cannot be read now; called only if a health check needs one."""
    requests_today: tuple[int, float] = (0, math.inf)
    """Requests that count for ``rpd``, and how many seconds ago the first of them was sent."""


NOTHING_EARLIER = EarlierRuns()
"""Of a first run."""
