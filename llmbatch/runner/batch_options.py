"""The table of options, the part about batch APIs of providers (``--via batch``).

See :mod:`llmbatch.runner.options`. Importing this module loads nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from llmbatch.runner.option import option
from llmbatch.runner.quantities import Duration, Number, Whole
from llmbatch.runner.value_types import Choice, Switch

__all__ = ["NEED_BATCHES", "BatchOptions", "OnInterrupt", "Via"]

Via = Literal["live", "batch"]
OnInterrupt = Literal["leave", "cancel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How rows go through a batch API. Durations are seconds. Immutable."""

    via: Via = option(
        "live",
        Choice(get_args(Via)),
        "--via",
        help="How rows are sent: live, or by the provider's batch API, which is cheaper and may take a day.",
        group="Batches",
    )
    deadline: float | None = option(
        None,
        Duration(),
        "--deadline",
        help="With --via batch, send the rows live that are not back by then; batches are canceled 15 minutes before.",
        unset="wait for the batches",
        group="Batches",
        sends=True,
    )
    detach: bool = option(
        False,
        Switch(),
        "--detach",
        help="With --via batch, submit, collect what is ready, and exit with 75; the same command collects later.",
        group="Batches",
        settable=False,
        sends=True,
    )
    on_interrupt: OnInterrupt = option(
        "leave",
        Choice(get_args(OnInterrupt)),
        "--on-interrupt",
        help="What Ctrl-C does to running batches: leave them at the provider, or cancel them.",
        group="Batches",
        sends=True,
    )
    chunk_rows: int | None = option(
        None,
        Whole(1, None, "rows"),
        "--chunk-rows",
        help="Maximum rows of one batch.",
        unset="95 % of the provider's limit, at most 100,000",
        group="Batches",
    )
    chunk_mb: float | None = option(
        None,
        Number("MB"),
        "--chunk-mb",
        help="Maximum size of one batch.",
        unset="95 % of the provider's limit",
        group="Batches",
    )
    queue_tokens: int | None = option(
        None,
        Whole(1, None, "tokens"),
        "--queue-tokens",
        help="Maximum input tokens of all batches in the provider's queue.",
        unset="learned when the provider refuses more",
        group="Batches",
        sends=True,
    )
    keep_remote: bool = option(
        False,
        Switch(),
        "--keep-remote",
        help="Leave the files of collected batches at the provider instead of deleting them.",
        group="Batches",
        sends=True,
    )

    @property
    def given_for_batches(self) -> tuple[str, ...]:
        """Names of the options that say nothing without ``--via batch``, and that are not at their defaults."""
        return tuple(
            one.name for one in fields(BatchOptions) if one.name != "via" and getattr(self, one.name) != one.default
        )


NEED_BATCHES = tuple(one.name for one in fields(BatchOptions) if one.name != "via")
"""Names of the options that say nothing without ``--via batch``."""
