"""The table of options: name, type, default, range, unit, flags and help of each.

Flags, ``LLMBATCH_*`` variables, keys of configuration files, the policies of a drill, the help and the library's
keywords are derived from it. To add an option, add a field: to :class:`RunOptions` for how rows are sent, and to
:class:`CommandOptions` for anything else. Importing this module loads nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from llmbatch.core.headers import Headers
from llmbatch.runner.concurrency import Auto, InFlight
from llmbatch.runner.option import option, options_of
from llmbatch.runner.quantities import Duration, Number, Size, Whole
from llmbatch.runner.value_types import Choice, FieldPath, HeaderLines, Names, Switch, Text

__all__ = [
    "OPTIONS",
    "RUN_OPTIONS",
    "CommandOptions",
    "Endpoint",
    "Fsync",
    "Lock",
    "OnOutage",
    "Progress",
    "RunOptions",
    "Tier",
]

Endpoint = Literal["chat", "responses", "embeddings", "completions", "messages", "raw"]
Fsync = Literal["group", "off"]
Lock = Literal["on", "off"]
OnOutage = Literal["wait", "defer", "fail"]
Progress = Literal["auto", "rich", "plain", "json", "none"]
Tier = Literal["standard", "flex", "flex,standard"]

_TIMEOUT = 120.0
_FLEX_TIMEOUT = 900.0
"""OpenAI advises 15 minutes for the flex tier, and Gemini aims at 1 to 15."""


class _ByTier(float):
    """A time limit that nobody has set: it depends on the tier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
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
        help="Maximum requests in 24 hours from the first one of this run on; then rows wait for the next 24 hours.",
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
    tier: Tier = option(
        "standard",
        Choice(get_args(Tier)),
        "--tier",
        help="Service tier to ask for: flex, at half the price, is slow and at times without capacity. Rows wait "
        "for that, or with flex,standard go to the standard tier meanwhile. A row's own service_tier wins.",
        group="Model",
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
        object.__setattr__(self, "concurrency", OPTIONS["concurrency"].value.check(self.concurrency))

    @property
    def adapts(self) -> bool:
        """Whether the concurrency is ``auto``: then its number is the ceiling."""
        return isinstance(self.concurrency, Auto)

    @classmethod
    def names(cls) -> frozenset[str]:
        """The options' names."""
        return frozenset(options_of(cls))


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOptions(RunOptions):
    """All options of ``run`` and ``check``: :class:`RunOptions`, output, model, headers and display. Immutable."""

    output: str | None = option(
        None,
        Text("PATH"),
        *("-o", "--output", "--output-file"),
        help="Append result lines to this file; '-' writes them to standard output, without resume.",
        unset="prompts.results.jsonl next to prompts.jsonl",
        group="Input and output",
        local="folder",
    )
    limit: int | None = option(
        None, Whole(1, None, "rows"), "-n", "--limit", help="Only the first N rows.", group="Input and output"
    )
    retry_failed: bool = option(
        False,
        Switch(),
        "--retry-failed",
        help="Resend failed rows; their old lines are removed.",
        group="Input and output",
        settable=False,
    )
    overwrite: bool = option(
        False,
        Switch(),
        "--overwrite",
        help="Start over; the lines of an earlier run are dropped.",
        group="Input and output",
        settable=False,
    )
    force: bool = option(
        False,
        Switch(),
        "--force",
        help="Continue an output that another model, system prompt, set of parameters or endpoint has answered.",
        group="Input and output",
        settable=False,
        sends=True,
    )
    fsync: Fsync = option(
        "group",
        Choice(get_args(Fsync)),
        "--fsync",
        help="How lines survive a power cut: group syncs them once per second, off leaves that to the system.",
        group="Input and output",
        sends=True,
    )
    lock: Lock = option(
        "on",
        Choice(get_args(Lock)),
        "--lock",
        help="Whether the output is locked against a second run; off only where the file system has no locks.",
        group="Input and output",
        settable=False,
        sends=True,
    )
    strict: bool = option(
        False,
        Switch(),
        "--strict",
        help="Refuse the whole input if any row is malformed.",
        group="Input and output",
    )
    dry_run: bool = option(
        False,
        Switch(),
        "--dry-run",
        help="Validate and estimate, send nothing; the same as llmbatch check.",
        group="Input and output",
        settable=False,
    )
    model: str | None = option(
        None,
        Text("PROVIDER/MODEL"),
        *("-m", "--model"),
        help="Which model, such as openai/gpt-5-mini or sim/steady, or a pool: pool/NAME. A row's own model wins.",
        group="Model",
    )
    fallback: tuple[str, ...] | None = option(
        None,
        Names("PROVIDER/MODEL"),
        "--fallback",
        help="Where rows go while the route of their model is down, or its account, key or model is refused. May be "
        "repeated: the first that takes a row gets it.",
        unset="none",
        group="Model",
    )
    cache: str | None = option(
        None,
        Text("PATH"),
        "--cache",
        help="Answer rows from this SQLite file where it has the answer to an equal request, and keep good answers in "
        "it. Equal rows of one run cost one call.",
        unset="none",
        group="Model",
        local="folder",
    )
    base_url: str | None = option(
        None,
        Text("URL"),
        "--base-url",
        help="Any OpenAI-compatible server.",
        unset="the provider's",
        group="Model",
        local="loopback",
    )
    proxy: str | None = option(
        None,
        Text("URL"),
        "--proxy",
        help="Send every request through this HTTP proxy. If its URL has a password, set LLMBATCH_PROXY instead.",
        unset="none",
        group="Model",
        sends=True,
        local="loopback",
    )
    api_key_env: str | None = option(
        None,
        Text("NAME"),
        "--api-key-env",
        help="Name of the environment variable that holds the key; never the key itself.",
        unset="the provider's, such as OPENAI_API_KEY",
        group="Model",
        local="key",
    )
    env_file: str | None = option(
        None,
        Text("PATH"),
        "--env-file",
        help="Read variables such as keys from this file of NAME=VALUE lines; variables that are set already win.",
        group="Model",
        local="never",
    )
    headers: Headers | None = option(
        None,
        HeaderLines(),
        "--header",
        help="Send this HTTP header too, to --base-url or the provider of --model. May be repeated. 'NAME=$VARIABLE' "
        "takes the value from the environment, the only way for keys.",
        unset="none",
        group="Model",
        local="literal",
    )
    endpoint: Endpoint | None = option(
        None,
        Choice(get_args(Endpoint)),
        "--endpoint",
        help="Wire format. With raw, the url of a batch row may be any path below /v1/.",
        unset="from the row",
        group="Model",
    )
    system: str | None = option(
        None,
        Text("TEXT", may_be_empty=True),
        *("-s", "--system"),
        help="System prompt for rows that have none.",
        group="Model",
    )
    max_answer_memory: int = option(
        512_000_000,
        Size(1_000_000),
        "--max-answer-memory",
        help="Memory that all answers in flight share; beyond it the largest of them fails.",
        group="Pace",
        sends=True,
    )
    progress: Progress = option(
        "auto",
        Choice(get_args(Progress)),
        "--progress",
        help="How progress is shown on standard error.",
        group="Display",
    )
    quiet: bool = option(False, Switch(), "-q", "--quiet", help="Print errors only.", group="Display")
    json: bool = option(
        False, Switch(), "--json", help="Print the summary as JSON on standard output.", group="Display"
    )


RUN_OPTIONS = options_of(RunOptions)
"""The options of :class:`RunOptions` by name."""

OPTIONS = options_of(CommandOptions)
"""Every option by name, in the order of the help."""
