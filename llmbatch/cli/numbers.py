"""Numbers of the commands that do not read settings: what is wrong with one is said as for the flags of ``run``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from llmbatch.core.errors import UsageError
from llmbatch.runner.quantities import Whole
from llmbatch.runner.value_types import ValueType

__all__ = ["PORT", "number_option"]

PORT = Whole(0, 65_535)


def number_option(command: str, flag: str, kind: ValueType, help_text: str, *, zero: bool = False) -> Any:
    """The option *flag* of *command*, for typer. *zero*: 0 is allowed too, which *kind* does not take.

    A value that is not allowed raises UsageError.
    """
    parser = _parser(command, flag, kind, zero=zero)
    return typer.Option(flag, metavar=kind.metavar, help=help_text, parser=parser)


def _parser(command: str, flag: str, kind: ValueType, *, zero: bool) -> Callable[[Any], Any]:

    def parse(typed: Any) -> Any:
        if not isinstance(typed, str):
            return typed  # a default
        if zero and typed.strip() in ("0", "0s"):
            return 0.0
        try:
            return kind.parse(typed)
        except (TypeError, ValueError):
            allowed = kind.allowed + (", or 0" if zero else "")
            message = f"{flag} is {kind.refused(typed)}, must be {allowed}"
            raise UsageError(message, hint=f"llmbatch {command} --help tells what it takes") from None

    return parse
