"""``llmbatch status``: what the files of a run say, in words or as JSON.

What this module does not do: read them (:mod:`llmbatch.display.status_read`), or hold up a run that is going on.
"""

from __future__ import annotations

import json

from llmbatch.cli.terminal import print_out
from llmbatch.display.status import read_status, render

__all__ = ["status"]


def status(output: str, *, as_json: bool) -> int:
    """Tell how far the run of *output* is and give the exit code, 0 whatever state it is in.

    Raises:
        UsageError: the output is not there, cannot be read, or is not one of ours.
    """
    report = read_status(output)
    print_out(json.dumps(report.to_json()) if as_json else render(report))
    return 0
