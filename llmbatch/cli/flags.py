"""The flags of ``run`` and ``check``, told once: names, values, help, and where else each may be set.

The command line, the ``LLMBATCH_*`` variables, the configuration files and the help are all made from this table, so
that they cannot disagree. What this module does not do: decide which source wins (:mod:`llmbatch.cli.settings`), or
what a value means.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from llmbatch.cli.kinds import Choice, Kind, Number, Size, Switch, Text, Whole

__all__ = ["FLAGS", "Flag", "Local", "closest"]

Group = Literal["Input and output", "Model", "Pace", "Outages", "Display"]
Local = Literal["any", "loopback", "key", "folder", "never"]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. ``names`` start with those that help shows; the rest are aliases.

    ``settable`` says whether variables and configuration files may set it too: what a single run shall do is said on
    its command line, how rows are sent may stand in a file.
    """

    field: str
    names: tuple[str, ...]
    kind: Kind
    help: str
    group: Group
    metavar: str = ""
    settable: bool = True
    sends: bool = False
    """Whether it matters only where rows are sent, so that ``check`` takes it and does not show it."""
    local: Local = "any"
    """What a ``./llmbatch.toml`` may set it to: anything; a URL of this machine; the name of a key's variable if
    requests stay on this machine; a path in the file's own folder; nothing."""

    @property
    def label(self) -> str:
        """The name that messages use: the long one."""
        return next(name for name in self.names if name.startswith("--"))

    @property
    def key(self) -> str:
        """The name in a configuration file."""
        return self.field

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"LLMBATCH_{self.field.upper()}"


FLAGS: tuple[Flag, ...] = (
    Flag(
        "output",
        ("-o", "--output", "--output-file"),
        Text(),
        "Where result lines are appended. '-' streams them to standard output, without resume. "
        "Default: prompts.results.jsonl beside prompts.jsonl.",
        "Input and output",
        "PATH",
        local="folder",
    ),
    Flag("limit", ("-n", "--limit"), Whole(1), "Only the first N rows.", "Input and output", "N"),
    Flag(
        "retry_failed",
        ("--retry-failed",),
        Switch(),
        "Send failed rows again; their old lines go.",
        "Input and output",
        settable=False,
    ),
    Flag(
        "overwrite",
        ("--overwrite",),
        Switch(),
        "Start afresh: the lines of an earlier run are dropped.",
        "Input and output",
        settable=False,
    ),
    Flag(
        "force",
        ("--force",),
        Switch(),
        "Go on with an output whose rows another model has answered.",
        "Input and output",
        settable=False,
        sends=True,
    ),
    Flag(
        "fsync",
        ("--fsync",),
        Choice(("group", "off")),
        "How lines are made safe from a power cut: group syncs them once a second, off leaves that to the system. "
        "Default: group.",
        "Input and output",
        "WORD",
        sends=True,
    ),
    Flag("strict", ("--strict",), Switch(), "Refuse the whole input if any row is malformed.", "Input and output"),
    Flag(
        "dry_run",
        ("--dry-run",),
        Switch(),
        "Validate and estimate, send nothing; the same as llmbatch check.",
        "Input and output",
        settable=False,
    ),
    Flag(
        "model",
        ("-m", "--model"),
        Text(),
        "Which model, such as openai/gpt-5-mini or sim/steady. A row's own model wins.",
        "Model",
        "PROVIDER/MODEL",
    ),
    Flag("base_url", ("--base-url",), Text(), "Any OpenAI-compatible server.", "Model", "URL", local="loopback"),
    Flag(
        "proxy",
        ("--proxy",),
        Text(),
        "Send every request through this HTTP proxy; none is used otherwise. One with a password: in LLMBATCH_PROXY.",
        "Model",
        "URL",
        sends=True,
        local="loopback",
    ),
    Flag(
        "api_key_env",
        ("--api-key-env",),
        Text(),
        "The name of the environment variable that holds the key; never the key.",
        "Model",
        "NAME",
        local="key",
    ),
    Flag(
        "env_file",
        ("--env-file",),
        Text(),
        "Read variables such as keys from this file of NAME=VALUE lines; those that are set already win.",
        "Model",
        "PATH",
        local="never",
    ),
    Flag(
        "endpoint",
        ("--endpoint",),
        Choice(("chat", "responses", "embeddings", "completions", "messages")),
        "Which wire format: chat, responses, embeddings, completions or messages. Default: from the row.",
        "Model",
        "NAME",
    ),
    Flag("system", ("-s", "--system"), Text(may_be_empty=True), "A system prompt for every row.", "Model", "TEXT"),
    Flag(
        "concurrency",
        ("-c", "--concurrency", "--max-concurrency", "--max-connections", "-j"),
        Whole(1, 100_000),
        "Requests in flight. Default: 40.",
        "Pace",
        "N",
    ),
    Flag("rpm", ("--rpm", "--max-requests-per-minute"), Number("requests"), "Requests a minute.", "Pace", "N"),
    Flag("tpm", ("--tpm", "--max-tokens-per-minute"), Number("tokens"), "Tokens a minute.", "Pace", "N"),
    Flag("timeout", ("--timeout",), Number("seconds"), "One attempt. Default: 120.", "Pace", "SECONDS"),
    Flag(
        "max_answer_memory",
        ("--max-answer-memory",),
        Size(1_000_000),
        "Memory that all answers in flight share; beyond it the largest of them fails. Default: 512MB.",
        "Pace",
        "SIZE",
        sends=True,
    ),
    Flag(
        "max_attempts",
        ("--max-attempts",),
        Whole(1, 1_000_000),
        "Failed attempts that end a row where errors are rare. Default: 3.",
        "Pace",
        "N",
        sends=True,
    ),
    Flag(
        "failure_threshold",
        ("--failure-threshold",),
        Whole(1, 1_000_000),
        "Open the circuit after at least N different rows fail in a row. Default: 5.",
        "Outages",
        "N",
        sends=True,
    ),
    Flag(
        "recovery_timeout",
        ("--recovery-timeout",),
        Number("seconds"),
        "The longest wait between probes. Default: 60.",
        "Outages",
        "SECONDS",
        sends=True,
    ),
    Flag(
        "success_threshold",
        ("--success-threshold",),
        Whole(1, 1_000_000),
        "Good probes that close the circuit. Default: 1.",
        "Outages",
        "N",
        sends=True,
    ),
    Flag(
        "on_outage",
        ("--on-outage",),
        Choice(("wait", "defer", "fail")),
        "What to do with parked rows: wait, defer or fail. Default: wait.",
        "Outages",
        "WORD",
        sends=True,
    ),
    Flag(
        "max_outage",
        ("--max-outage",),
        Number("seconds"),
        "The longest outage to wait for, then as defer. Default: no bound.",
        "Outages",
        "SECONDS",
        sends=True,
    ),
    Flag(
        "circuit_key",
        ("--circuit-key",),
        Text(),
        "One circuit for each value of this member of the rows, such as metadata.tenant: one's trouble is not the "
        "others'. Default: one circuit a route.",
        "Outages",
        "MEMBER",
        sends=True,
    ),
    Flag(
        "progress",
        ("--progress",),
        Choice(("auto", "rich", "plain", "json", "none")),
        "How progress is shown on standard error: auto, rich, plain, json or none. Default: auto.",
        "Display",
        "WORD",
    ),
    Flag("quiet", ("-q", "--quiet"), Switch(), "Say nothing but errors.", "Display"),
    Flag("json", ("--json",), Switch(), "Print the summary as JSON on standard output.", "Display"),
    Flag(
        "seed",
        ("--seed",),
        Whole(0),
        "Seed of every random draw, for runs that repeat.",
        "Display",
        "N",
        sends=True,
    ),
)
"""Every flag with at most one value; ``-i``, ``-P``, ``-v`` and ``--config`` are told where they are read."""


def closest(text: str, flag: Flag) -> str:
    """A question, "did you mean …?", where *text* is nearly one of the words that *flag* takes, else nothing."""
    words = flag.kind.words if isinstance(flag.kind, Choice) else ()
    close = difflib.get_close_matches(text.lower(), words, n=1)
    return f"did you mean {close[0]}?" if close else ""
