"""The table of options as Markdown: ``python -m llmbatch.cli.option_docs > docs/options.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from llmbatch.runner.command_options import OPTIONS
from llmbatch.runner.option import GROUPS, Option
from llmbatch.runner.options import RUN_OPTIONS
from llmbatch.runner.value_types import Text

__all__ = ["to_markdown"]

_HEAD = """# Options

Generated from the table in `llmbatch/runner/command_options.py` by `python -m llmbatch.cli.option_docs`.

Every option is a flag of `llmbatch run` and `llmbatch check`. If the second column has a name, the option can also be
set in `llmbatch.toml` under that name (with dashes or underscores) and by an environment variable: `LLMBATCH_` and the
name in capitals. Aliases work there too. Flags override variables, variables override `--config FILE` or
`./llmbatch.toml`, and those override the user's `~/.config/llmbatch/config.toml`. In the library, the name is a keyword
of `BatchRunner` or of its `run`. Options marked ◇ are also flags of `llmbatch sim drill`; those marked ◆ can also be
compared and swept there.

Not in the tables, as they are flags only: `-P`/`--param KEY=VALUE` (a request parameter for every row; `[params]` in a
file, `params=` in the library), `-v` (say more) and `--config FILE`.

Durations are seconds or have units (`90`, `2m`, `1h30m`; d, h, m, s, ms), counts may end in k, M or G (`60k`, `1.5M`).
In a file a value with a unit is text: `timeout = "2m"`.
"""

_MARKS = {"no": "", "flag": " ◇", "policy": " ◆"}


def to_markdown() -> str:
    """The whole page."""
    return "\n".join((_HEAD.rstrip(), *(line for group in GROUPS for line in _section(group)), ""))


def _section(group: str) -> Iterator[str]:
    yield from ("", f"## {group}", "", "| flag | name | value | default | |", "|---|---|---|---|---|")
    for option in OPTIONS.values():
        if option.group == group:
            yield f"| {' | '.join(_cells(option))} |"


def _cells(option: Option) -> Iterator[str]:
    yield ", ".join(f"`{flag}`" for flag in option.flags) + _MARKS[option.drill]
    yield f"`{option.name}`" if option.settable or option.name in RUN_OPTIONS else ""
    allowed = "" if option.is_switch else option.value.allowed
    if isinstance(option.value, Text):
        allowed = option.value.metavar
    unit = option.value.unit
    yield f"{allowed} ({unit})" if unit and unit not in allowed else allowed
    yield option.default_text
    yield option.help


if __name__ == "__main__":
    sys.stdout.write(to_markdown())
