"""The command line: parse, build, call one function, render.

Nothing heavy is imported here or for ``--help``: each command imports what it runs with when it runs. Decisions
about rows, outages and files are taken in lower layers.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> int:
    """Run the command of ``sys.argv`` and give its exit code; no exception but ``SystemExit`` leaves."""
    try:
        from llmbatch.cli.entry import run_command

        return run_command()
    except KeyboardInterrupt:  # while modules were still being imported
        return 130
