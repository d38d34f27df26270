"""The flags of ``run`` and ``check``, told once: names, values, help, and where else each may be set.

The command line, the ``LLMBATCH_*`` variables, the configuration files and the help are all made from this table, so
that they cannot disagree. What this module does not do: decide which source wins (:mod:`llmbatch.cli.settings`), or
what a value means.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["FLAGS", "Choice", "Flag", "Kind", "Number", "Switch", "Text", "Value", "Whole", "closest"]

Value = str | int | float | bool


class Kind(Protocol):
    """What values a flag takes. Both readers raise ``ValueError`` or ``TypeError`` for anything else."""

    @property
    def allowed(self) -> str:
        """The allowed values, to follow "must be"."""
        ...

    def from_text(self, text: str) -> Value:
        """Read what a command line or a variable says."""
        ...

    def from_toml(self, value: object) -> Value:
        """Take what a configuration file says."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number in a range."""

    least: int
    most: int | None = None

    @property
    def allowed(self) -> str:
        """The range in words."""
        if self.most is None:
            return f"a whole number, {self.least} or more"
        return f"a whole number from {self.least} to {self.most:,}"

    def from_text(self, text: str) -> int:
        """Read decimal digits."""
        if len(text) > 20:
            raise ValueError
        return self._checked(int(text))

    def from_toml(self, value: object) -> int:
        """Take an integer."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError
        return self._checked(value)

    def _checked(self, value: int) -> int:
        if value < self.least or (self.most is not None and value > self.most):
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """A number above 0."""

    unit: str = ""

    @property
    def allowed(self) -> str:
        """The range in words."""
        return f"a number of {self.unit} above 0" if self.unit else "a number above 0"

    def from_text(self, text: str) -> float:
        """Read a decimal number."""
        return self._checked(float(text))

    def from_toml(self, value: object) -> float:
        """Take an integer or a float."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError
        return self._checked(float(value))

    def _checked(self, value: float) -> float:
        if not math.isfinite(value) or value <= 0:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The words."""
        return "one of " + ", ".join(self.words)

    def from_text(self, text: str) -> str:
        """Take one of the words."""
        if text not in self.words:
            raise ValueError
        return text

    def from_toml(self, value: object) -> str:
        """Take one of the words."""
        if not isinstance(value, str):
            raise TypeError
        return self.from_text(value)


@dataclass(frozen=True, slots=True)
class Text:
    """Text of any length; empty only where that means something."""

    may_be_empty: bool = False

    @property
    def allowed(self) -> str:
        """In words."""
        return "text" if self.may_be_empty else "text that is not empty"

    def from_text(self, text: str) -> str:
        """Take it as it is."""
        if "\0" in text or not (text or self.may_be_empty):
            raise ValueError
        return text

    def from_toml(self, value: object) -> str:
        """Take a string."""
        if not isinstance(value, str):
            raise TypeError
        return self.from_text(value)


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off; a flag without a value."""

    @property
    def allowed(self) -> str:
        """In words."""
        return "true or false"

    def from_text(self, text: str) -> bool:
        """Read what people write in variables."""
        word = text.lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off"):
            return False
        raise ValueError

    def from_toml(self, value: object) -> bool:
        """Take a boolean."""
        if not isinstance(value, bool):
            raise TypeError
        return value


Group = Literal["Input and output", "Model", "Pace", "Outages", "Display"]


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
    Flag("base_url", ("--base-url",), Text(), "Any OpenAI-compatible server.", "Model", "URL"),
    Flag(
        "api_key_env",
        ("--api-key-env",),
        Text(),
        "The name of the environment variable that holds the key; never the key.",
        "Model",
        "NAME",
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
        "max_attempts",
        ("--max-attempts",),
        Whole(1, 1_000_000),
        "Attempts of a row that may fail while the provider answers others well. Default: 3.",
        "Pace",
        "N",
        sends=True,
    ),
    Flag(
        "failure_threshold",
        ("--failure-threshold",),
        Whole(1, 1_000_000),
        "Different rows that fail with no success between until the circuit opens. Default: 5.",
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
