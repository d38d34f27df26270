"""``llmbatch status``: what the files of an output say, in words or as JSON."""

from __future__ import annotations

import json

from llmbatch.cli.terminal import print_out
from llmbatch.display.status import read_status, render
from llmbatch.outputs.find import find_output

__all__ = ["status"]


def status(path: str, *, as_json: bool) -> int:
    """Print what the runs on the output that *path* names have done; gives 0, whatever state it is in.

    *path* may be an input: then its default output is meant.

    Raises:
        UsageError: the output is not there, cannot be read, or is not one of ours.
    """
    report = read_status(find_output(path))
    print_out(json.dumps(report.to_json()) if as_json else render(report))
    return 0
