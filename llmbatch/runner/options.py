"""The table of options, first part: those that say how rows are sent.

Name, type, default, range, unit, flags and help of each. Flags, ``LLMBATCH_*`` variables, keys of configuration files,
the policies of a drill, the help and the library's keywords are derived from the table. To add an option, add a field:
to :class:`RunOptions` for how rows are sent, and to :class:`~llmbatch.runner.command_options.CommandOptions` for
anything else. Importing this module loads nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

from llmbatch.runner.batch_options import BatchOptions, OnInterrupt, Via
from llmbatch.runner.concurrency import Auto, InFlight
from llmbatch.runner.option import option, options_of
from llmbatch.runner.quantities import Dollars, Duration, Number, Whole
from llmbatch.runner.store_address import StoreAddress
from llmbatch.runner.value_types import Choice, FieldPath, Switch

__all__ = [
    "RUN_OPTIONS",
    "OnInterrupt",
    "OnOutage",
    "RunOptions",
    "Tier",
    "Via",
]

OnOutage = Literal["wait", "defer", "fail"]
Tier = Literal["standard", "flex", "flex,standard"]

_TIMEOUT = 120.0
_FLEX_TIMEOUT = 900.0
"""OpenAI advises 15 minutes for the flex tier, and Gemini aims at 1 to 15."""


class _ByTier(float):
    """A time limit that nobody has set: it depends on the tier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(BatchOptions):
    """How rows are sent. Durations are seconds. Immutable.

    Raises :class:`~llmbatch.core.errors.UsageError` for a value out of range.
    """

    concurrency: int = option(
        40,
        InFlight(1, 100_000, "requests"),
        *("-c", "--concurrency", "--max-concurrency", "--max-connections", "-j"),
        help="Maximum requests in flight; auto starts at 8 and finds the best number up to 1,000, auto:N up to N.",
        group="Pace",
        drill="policy",
    )
    rpm: float | None = option(
        None,
        Number("requests per minute"),
        *("--rpm", "--max-requests-per-minute"),
        help="Maximum requests per minute.",
        unset="no limit",
        group="Pace",
        drill="policy",
    )
    tpm: float | None = option(
        None,
        Number("tokens per minute"),
        *("--tpm", "--max-tokens-per-minute"),
        help="Maximum tokens, input and output, per minute.",
        unset="no limit",
        group="Pace",
    )
    rpd: float | None = option(
        None,
        Number("requests per day"),
        *("--rpd", "--max-requests-per-day"),
        help="Maximum requests in 24 hours from the first one on, with those of earlier runs on the output; then rows "
        "wait for the next 24 hours.",
        unset="no limit",
        group="Pace",
    )
    ignore_rate_headers: bool = option(
        False,
        Switch(),
        "--ignore-rate-headers",
        help="Do not obey the rate limits that the provider reports with good answers, only refusals.",
        group="Pace",
    )
    timeout: float = option(
        _ByTier(_TIMEOUT),
        Duration(),
        "--timeout",
        help="Time limit for one attempt; with --tier flex 15m unless it is set.",
        group="Pace",
        drill="policy",
    )
    max_attempts: int = option(
        3,
        Whole(1, 1_000_000, "attempts"),
        "--max-attempts",
        help="Failed attempts that end a row where errors are rare; where they are common it takes more.",
        group="Pace",
        sends=True,
        drill="policy",
    )
    failure_threshold: int = option(
        5,
        Whole(1, 1_000_000, "rows"),
        "--failure-threshold",
        help="Open the circuit after at least N different rows fail in a row; more where errors are common.",
        group="Outages",
        sends=True,
        drill="policy",
    )
    recovery_timeout: float = option(
        60.0,
        Duration(),
        "--recovery-timeout",
        help="Longest wait between probes.",
        group="Outages",
        sends=True,
        drill="policy",
    )
    success_threshold: int = option(
        1,
        Whole(1, 1_000_000, "probes"),
        "--success-threshold",
        help="Successful probes that close the circuit.",
        group="Outages",
        sends=True,
        drill="policy",
    )
    on_outage: OnOutage = option(
        "wait",
        Choice(get_args(OnOutage)),
        "--on-outage",
        help="What happens to parked rows: wait for recovery, stop and leave them deferred (exit 75), or fail them.",
        group="Outages",
        sends=True,
        drill="flag",
    )
    max_outage: float | None = option(
        None,
        Duration(),
        "--max-outage",
        help="Stop waiting for an outage after this long and defer the rest (exit 75).",
        unset="no limit",
        group="Outages",
        sends=True,
        drill="policy",
    )
    circuit_key: str | None = option(
        None,
        FieldPath(),
        "--circuit-key",
        help="Keep one circuit per value of this field of the rows, such as metadata.tenant, so that one tenant's "
        "failures don't block the others.",
        unset="one circuit per route",
        group="Outages",
        sends=True,
    )
    shared: str | None = option(
        None,
        StoreAddress(),
        "--shared",
        help="Share circuits, rate limits and the cost cap with other processes through Redis or Valkey: "
        "redis://HOST:PORT/0?name=JOB. env:NAME reads the address from a variable, so that no list of processes shows "
        "a password. Without the store each process goes on with its own circuit.",
        unset="nothing is shared",
        group="Outages",
        sends=True,
        local="never",
    )
    tier: Tier = option(
        "standard",
        Choice(get_args(Tier)),
        "--tier",
        help="Service tier to ask for: flex, at half the price, is slow and at times without capacity. Rows wait "
        "for that, or with flex,standard go to the standard tier meanwhile. A row's own service_tier wins.",
        group="Model",
    )
    max_cost: Decimal | None = option(
        None,
        Dollars(),
        *("--max-cost", "--max-budget"),
        help="Stop before the request that could make the output cost more than this many US$ (exit 4). What it has "
        "cost already counts.",
        unset="no limit",
        group="Pace",
    )
    require_finish: bool = option(
        False,
        Switch(),
        "--require-finish",
        help="Fail rows whose answers were cut at their token limit, with code truncated; with --retry-failed, resend "
        "those of earlier runs too.",
        group="Input and output",
        after="retry_failed",
    )
    seed: int | None = option(
        None,
        Whole(0),
        "--seed",
        help="Seed of every random draw, for repeatable runs.",
        unset="a new one for each run",
        group="Display",
        sends=True,
        drill="flag",
    )

    def __post_init__(self) -> None:
        for name, row in options_of(type(self)).items():
            row.check(getattr(self, name))
        if isinstance(self.timeout, _ByTier):
            object.__setattr__(self, "timeout", _TIMEOUT if self.tier == "standard" else _FLEX_TIMEOUT)
        if self.max_cost is not None:
            object.__setattr__(self, "max_cost", RUN_OPTIONS["max_cost"].value.check(self.max_cost))
        object.__setattr__(self, "concurrency", RUN_OPTIONS["concurrency"].value.check(self.concurrency))

    @property
    def adapts(self) -> bool:
        """Whether the concurrency is ``auto``: then its number is the ceiling."""
        return isinstance(self.concurrency, Auto)

    @property
    def own_limits(self) -> str:
        """The rate limits that the user set, as flags: ``--rpm 60, --tpm 90000``."""
        given = (("--rpm", self.rpm), ("--tpm", self.tpm), ("--rpd", self.rpd))
        return ", ".join(f"{flag} {value:g}" for flag, value in given if value is not None)

    @classmethod
    def names(cls) -> frozenset[str]:
        """The options' names."""
        return frozenset(options_of(cls))


RUN_OPTIONS = options_of(RunOptions)
"""The options of :class:`RunOptions` by name."""
