"""Help as plain text, options in groups, aliases out of the way; and usage errors in our own two lines.

Plain, so that help does not load rich and reads the same in a pipe.
"""

from __future__ import annotations

import difflib
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
import typer.core

from llmbatch.cli.terminal import shown
from llmbatch.core.errors import UsageError
from llmbatch.inputs.format_names import ENDINGS
from llmbatch.runner.intents import EMPTY_VARIABLE, find_command, find_intent

__all__ = ["PlainCommand", "PlainGroup", "UnconvertedCommand", "as_usage_error"]


_UNITS = frozenset(
    [
        "second",
        "seconds",
        "sec",
        "secs",
        "minute",
        "minutes",
        "min",
        "mins",
        "hour",
        "hours",
        "day",
        "days",
        "s",
        "m",
        "h",
        "d",
    ]
)


class _Plain(typer.core.TyperCommand if TYPE_CHECKING else object):  # type: ignore[misc]
    """What commands and groups share."""

    def get_help_option(self, ctx: Any) -> Any:
        """The help option, never None: typer would load pydantic (60 ms) to find that None is no boolean."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the epilog as it is: its lines are examples."""
        if self.epilog:
            formatter.write(f"\n{self.epilog}\n")


class PlainCommand(_Plain, typer.core.TyperCommand):
    """A command whose help shows each option's first names only, under its group."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if getattr(param, "hidden", False):
                continue
            text = getattr(param, "help", None) or ""
            if param.param_type_name == "argument":
                sections.setdefault("Arguments", []).append((param.metavar or param.name or "", text))
            else:
                group = getattr(param, "rich_help_panel", None) or "Options"
                sections.setdefault(group, []).append((_names(param), text))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=30)


class UnconvertedCommand(PlainCommand):
    """A command that gets its options as they were typed, to check them itself."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        for parameter in self.params:
            # Instead of converting, for which typer loads pydantic (60 ms, as much as all the rest).
            nothing = () if getattr(parameter, "multiple", False) else None
            setattr(parameter, "process_value", _taker(nothing))  # noqa: B010 - a method of the instance


class PlainGroup(_Plain, typer.core.TyperGroup):
    """A group of commands with plain help.

    ``deferred`` maps the names of commands that are only stand-ins to functions that build them, given their help.
    """

    deferred: Mapping[str, Callable[[str], typer.core.TyperCommand]] = {}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that *args* name, and build it where it is a stand-in."""
        name, command, rest = super().resolve_command(ctx, args)
        build = self.deferred.get(name or "")
        if build is not None and command is not None:
            command = build(command.help or "")
        return name, command, rest


def _taker(nothing: object) -> Callable[[object, object], object]:
    def process_value(ctx: object, value: object) -> object:
        # What was not given may be None or a marker of the parser's own.
        return value if isinstance(value, (str, bool, int, list, tuple)) else nothing

    return process_value


def _names(param: Any) -> str:
    short = next((name for name in param.opts if not name.startswith("--")), None)
    long = next((name for name in param.opts if name.startswith("--")), None)
    names = ", ".join(name for name in (short, long) if name)
    takes_value = not (param.is_flag or param.count)
    return f"{names} {param.metavar}" if takes_value and param.metavar else names


# The base of typer's own errors; where it lives has moved between releases (click, then a copy inside typer).
_usage_base = typer.BadParameter.__mro__[1]


def as_usage_error(error: Exception) -> UsageError | None:
    """What typer found wrong with the command line, as one of ours; None where *error* is something else."""
    if not isinstance(error, _usage_base):
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else _typed_command(sys.argv[1:])
    option = getattr(error, "option_name", None)
    message = shown(getattr(error, "message", "") or "")
    if type(error).__name__ == "NoSuchOption" and option is not None:
        return UsageError(f"no such option: {shown(option)}", hint=_hint_for_option(option, context, command))
    if isinstance(error, typer.BadParameter):
        message = shown(error.format_message())
    message = message.partition(" Did you mean ")[0].strip().rstrip(".")
    several = _hint_for_several(message, context)
    if several is not None:
        return UsageError(message[:1].lower() + message[1:], hint=several)
    known = getattr(getattr(context, "command", None), "commands", {})
    typed = message.partition("'")[2].rstrip("'")
    close = difflib.get_close_matches(typed, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"{command} --help tells what it takes"
    if known and command == "llmbatch":
        hint = _hint_for_command(typed) or hint
    return UsageError(message[:1].lower() + message[1:], hint=hint)


def _typed_command(words: Sequence[str]) -> str:
    """The command that *words* begin with, for errors of the parser, which knows none."""
    named = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    return " ".join(["llmbatch", *named[: 2 if named[:1] in (["sim"], ["batch"]) else 1]])


def _hint_for_command(typed: str) -> str:
    """What is meant by *typed*, no command of llmbatch: that of another tool, or an input; empty if not known."""
    if typed.lower().endswith(ENDINGS):
        return f"to send its rows: llmbatch run {shlex.quote(typed)} -m PROVIDER/MODEL"
    return find_command(typed)


def _hint_for_several(message: str, context: Any) -> str | None:
    """What to type for several inputs; None where *message* is of something else."""
    if context is None or "unexpected extra argument" not in message:
        return None
    more = message.partition(" (")[2].rpartition(")")[0].split()
    first = context.params.get("input")
    if not isinstance(first, str):
        takes_output = any("--output" in parameter.opts for parameter in context.command.params)
        return f"name the file to write with -o: -o {shlex.quote(shown(more[0]))}" if takes_output else None
    flags = {name for parameter in context.command.params for name in parameter.opts}
    if any(value in flags for value in context.params.values() if isinstance(value, str)):
        return EMPTY_VARIABLE
    if _UNITS.issuperset(more):
        return f"write a value with its unit in one word: --timeout {context.params.get('timeout') or 2}{more[0][0]}"
    # Not Path.exists, which raises for a name that is too long.
    if not any(name.lower().endswith(ENDINGS) or os.path.exists(name) for name in more):  # noqa: PTH110
        return f"a value with spaces needs quotes; {context.command_path} --help tells what each flag takes"
    inputs = " ".join(shlex.quote(shown(name)) for name in (first, *more))
    return f"to send several inputs as one: cat {inputs} | {context.command_path} - -o results.jsonl"


def _hint_for_option(option: str, context: Any, command: str) -> str:
    intent = find_intent(option) if command in ("llmbatch run", "llmbatch check") else ""
    if intent:
        return intent
    known = [name for param in context.command.params for name in param.opts] if context is not None else []
    close = difflib.get_close_matches(option, [*known, "--help"], n=1)
    return f"did you mean {close[0]}?" if close else f"{command} --help lists what there is"
