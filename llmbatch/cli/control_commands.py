"""The commands to a run that goes on, as typer takes them."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["OUTPUT_HELP", "drain", "pause", "resume", "set_options"]

OUTPUT_HELP = "The result file of a run, a folder of parts, or the input whose default output it is."


def pause(output: Annotated[str, typer.Argument(metavar="OUTPUT|INPUT", help=OUTPUT_HELP)]) -> int:
    """Pause the run that writes OUTPUT: no request begins until llmbatch resume; those in flight end."""
    from llmbatch.cli.control import send

    return send("pause", output)


def resume(output: Annotated[str, typer.Argument(metavar="OUTPUT|INPUT", help=OUTPUT_HELP)]) -> int:
    """Let a paused run go on. A run that has stopped is resumed by its own command instead."""
    from llmbatch.cli.control import send

    return send("resume", output)


def drain(output: Annotated[str, typer.Argument(metavar="OUTPUT|INPUT", help=OUTPUT_HELP)]) -> int:
    """Stop the run that writes OUTPUT as Ctrl-C does: requests in flight finish, and its command resumes it."""
    from llmbatch.cli.control import send

    return send("drain", output)


def set_options(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE… OUTPUT", help="concurrency, rpm, tpm or max-cost, and the output."),
    ],
) -> int:
    """Change the limits of the run that writes OUTPUT while it goes on."""
    from llmbatch.cli.control import change

    return change(arguments)
