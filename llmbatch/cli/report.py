"""``llmbatch report``: the runs on an output as one page, a file that opens from disk and loads nothing."""

from __future__ import annotations

from pathlib import Path

from llmbatch import __version__
from llmbatch.cli.terminal import print_out
from llmbatch.core.errors import OutputError
from llmbatch.display.report_read import read_report
from llmbatch.outputs.deferred import deferred_path, history_path, report_path, status_path
from llmbatch.outputs.export_target import check_target, write_target
from llmbatch.outputs.find import find_output
from llmbatch.report.html.page import PAGE_START, build_page

__all__ = ["check_report_target", "report", "write_report"]


def report(path: str, *, target: str | None, overwrite: bool) -> int:
    """Write the page of the output that *path* names (or of an input's default output) to *target*; gives 0.

    *target* None is ``o.report.html`` next to ``o.jsonl``; ``-`` is standard output.

    Raises:
        UsageError: the output cannot be read or is not one of ours, or *target* is a file that is not a report.
        WriteError: the disk is full, or the like; *target* is as it was then.
    """
    output = find_output(path)
    page = str(report_path(output)) if target is None else target
    check_report_target(page, output, overwrite=overwrite)
    write_report(page, output)
    if page != "-":
        print_out(page)
    return 0


def check_report_target(target: str, output: str | Path, *, overwrite: bool = False, input_path: str = "-") -> None:
    """Check that *target* can be the page of *output*; an older page may be replaced.

    Raises:
        OutputError: it cannot be.
    """
    path = Path(output)
    others = {str(path): "the output of the run"}
    if input_path != "-":
        others[input_path] = "the input of the run"
    for sidecar in (status_path(path), deferred_path(path), history_path(path)):
        others[str(sidecar)] = "a file of the run"
    names = {Path(other).absolute(): what for other, what in others.items()}  # also of files that are not there yet
    what = names.get(Path(target).absolute())
    if what is not None:
        raise OutputError(f"{target}: is {what}", hint="write the report to another file")
    is_file = not Path(target).exists() or Path(target).is_file()
    if is_file and Path(target).exists() and not overwrite and not _is_report(target):
        raise OutputError(f"{target}: exists already and is not a report", hint="write the report to another file")
    check_target(target, others, overwrite=True, is_binary=False)


def write_report(target: str, output: str | Path) -> None:
    """Write the page of *output* to *target*, which :func:`check_report_target` has checked.

    Raises:
        UsageError: as :func:`report`.
        WriteError: as there.
    """
    write_target(target, [build_page(read_report(output, version=__version__)).encode()], "", overwrite=True)


def _is_report(path: str) -> bool:
    """Whether *path* is a page that this command made."""
    start = PAGE_START.encode()
    try:
        with Path(path).open("rb") as file:
            return file.read(len(start)) == start
    except (OSError, ValueError):
        return False
