"""``llmbatch export``: the results of a run in another format, in the order of the input."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final, cast

from llmbatch.cli.lean_pyarrow import import_pyarrow
from llmbatch.cli.terminal import print_note
from llmbatch.core.errors import OutputError, UsageError
from llmbatch.core.raw_json import JSON
from llmbatch.display.folder_status import folder_total
from llmbatch.display.phrases import plural
from llmbatch.display.status_file import agrees, read_sidecar
from llmbatch.display.status_read import open_for_reading
from llmbatch.inputs.format_names import FORMATS as INPUT_FORMATS
from llmbatch.inputs.format_names import InputFormat
from llmbatch.outputs.deferred import DATASET_STATE, deferred_path, status_path
from llmbatch.outputs.export import StatusFilter, plan_export, write_export
from llmbatch.outputs.export_fields import DEFAULT_FIELDS, parse_fields
from llmbatch.outputs.export_target import check_target, format_of
from llmbatch.outputs.find import find_output
from llmbatch.outputs.parts import list_shards
from llmbatch.storage.finished_rows import FinishedRows

__all__ = ["ExportSettings", "export", "recorded_input"]

_PROGRESS_SECONDS: Final = 5.0
_STATUSES: Final = ("success", "failed", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """What was typed: the output (or its input), and flags; None where one was not given."""

    path: str | None
    target: str | None
    format: str | None = None
    fields: str | None = None
    status: str | None = None
    join: bool = False
    input: str | None = None
    input_format: str | None = None
    overwrite: bool = False
    quiet: bool = False


def export(settings: ExportSettings) -> int:
    """Write the results of the output that the settings name; gives 0.

    Raises:
        UsageError: a flag is wrong, the output or the input cannot be read or has changed, the file exists already.
        WriteError: the disk is full, or the like; nothing is left of the file then.
    """
    target, named = settings.target, settings.path
    if named is None:
        hint = "llmbatch export prompts.results.jsonl -o results.csv"
        raise UsageError("no output of a run to export", hint=f"name one: {hint}")
    if target is None:
        command = f"llmbatch export {shlex.quote(named)} -o"
        raise UsageError("no file to write to", hint=f"{command} results.csv, or {command} - for standard output")
    kind, compression = format_of(target, settings.format)
    status = settings.status or "all"
    if status not in _STATUSES:
        raise UsageError(f"--status {status}: there is no such status", hint=f"there are {', '.join(_STATUSES)}")
    if settings.input is not None and not settings.join:
        raise UsageError("--input says where the fields of --join come from", hint="add --join, or leave --input out")
    if settings.input_format is not None and not settings.join:
        raise UsageError("--input-format says how --join reads the input", hint="add --join, or leave it out")
    input_format = next((known for known in INPUT_FORMATS if known == settings.input_format), None)
    if settings.input_format is not None and input_format is None:
        wrong = f"--input-format {settings.input_format}: there is no such format"
        raise UsageError(wrong, hint=f"there are {', '.join(INPUT_FORMATS)}")
    if settings.fields is not None and kind == "openai":
        hint = "leave --fields out, or write another format"
        raise UsageError("--fields: OpenAI batch files have members of their own", hint=hint)
    fields = DEFAULT_FIELDS if settings.fields is None else parse_fields(settings.fields)
    output = find_output(named)
    input_path = None
    if settings.join:
        input_path = find_input(settings.input, output, named=named, target=target)
    others = {str(output): "the output of the run itself"}
    is_input_named = Path(named) != output and _is_input(Path(named))
    own_input = named if is_input_named else recorded_input(output)[1]
    others |= {path: "the input of the run" for path in (own_input, input_path) if path is not None}
    for sidecar in (status_path(output), deferred_path(output)) if output.name else ():  # a dot or a slash has none
        others[str(sidecar)] = "a file of the run"
    is_binary = kind == "parquet" or bool(compression)
    check_target(target, others, overwrite=settings.overwrite, is_binary=is_binary)
    if kind == "parquet":
        import_pyarrow()
    with ExitStack() as stack:
        stack.enter_context(_stopped_by_signals())
        results = stack.enter_context(open_for_reading(output))
        is_running = results.is_running
        try:
            done = _Done(results.finished.success, results.finished.failed)
            total = _total_rows(output, done, is_running=is_running)
            joined = None
            if input_path is not None:
                from llmbatch.inputs.input import open_input
                from llmbatch.runs.joined_input import RunInput

                input_format = input_format or _recorded_format(output, input_path)
                rows = stack.enter_context(open_input(input_path, output=str(output), input_format=input_format))
                joined = RunInput(rows, input_path, results.finished)
                stack.callback(joined.close)
                total = joined.records if total is None else total
            results.finished = FinishedRows()  # 4 bytes per row
            plan = plan_export(
                results.fd,
                results.end_bytes,
                results.name,
                disk=results.disk,
                format=kind,
                fields=fields,
                status=cast("StatusFilter", status),
                joined=joined,
            )
            progress = _Progress(quiet=settings.quiet)
            write_export(plan, target, compression=compression, overwrite=settings.overwrite, on_progress=progress)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise OutputError(f"{output}: cannot be read ({why})", hint="check the file and its disk") from error
    if not settings.quiet:
        print_note(_told(done, status, total, target))
        if is_running:
            print_note(f"note: a run is writing {output}: rows that end from now on are not in the export")
            print_note("hint: export again when it has ended (--overwrite)")
    return 0


def find_input(given: str | None, output: Path, *, named: str, target: str) -> str:
    """The path of the input that *output* was made from. *named*: what was typed for the output, *given* for the input.

    Raises:
        UsageError: it is not known, or not there.
    """
    if given is not None:
        return given
    if Path(named) != output and _is_input(Path(named)):
        return named  # which was given in place of the output
    recorded, path = recorded_input(output)
    if path is not None:
        return path
    if recorded == "-":
        why = "the run read its rows from standard input"
    elif recorded:
        why = f"the input of the run, {recorded}, is not there any more"
    else:
        why = f"{output}: which input it was made from is not recorded"
    words = ["llmbatch", "export", named, "--join", "--input", "INPUT", "-o", target]
    raise UsageError(f"--join: {why}", hint=f"name it: {shlex.join(words)}")


def recorded_input(output: Path) -> tuple[str, str | None]:
    """The input that a run on *output*, or on a part in that folder, has recorded; and where it is now, if it is there.

    The former is empty if none is recorded.
    """
    sidecar = _sidecar(output)
    run = sidecar.get("run")
    recorded = run.get("input") if isinstance(run, dict) else None
    directory = sidecar.get("directory")
    if not isinstance(recorded, str) or recorded in ("", "-"):
        return recorded if isinstance(recorded, str) else "", None
    starts = [Path(directory)] if isinstance(directory, str) and directory else []
    beside = Path(recorded).name
    places = (*(start / recorded for start in starts), Path(recorded), output.parent / beside, output / beside)
    return recorded, next((str(path) for path in places if _is_input(path)), None)


def _sidecar(output: Path) -> dict[str, JSON]:
    """The sidecar of *output*, or of a part if it is a folder."""
    outputs = [part.path for part in list_shards(output)] if output.is_dir() else [output]
    return next((found for path in outputs if (found := read_sidecar(path))), {})


def _is_input(path: Path) -> bool:
    return path.is_file() or (path / DATASET_STATE).is_file()


def _recorded_format(output: Path, input_path: str) -> InputFormat | None:
    """The format that the run was told for an input with the ending of *input_path*; None: as its name says."""
    sidecar = _sidecar(output)
    run, recorded = sidecar.get("run"), sidecar.get("input_format")
    name = run.get("input") if isinstance(run, dict) else None
    if not isinstance(name, str) or PurePath(name).suffix != PurePath(input_path).suffix:
        return None
    return next((known for known in INPUT_FORMATS if known == recorded), None)


@dataclass(frozen=True, slots=True)
class _Done:
    """How many rows have their line."""

    success: int
    failed: int

    @property
    def rows(self) -> int:
        """All of them."""
        return self.success + self.failed


def _total_rows(output: Path, done: _Done, *, is_running: bool) -> int | None:
    """The rows that the output will have once the run is complete; None if that is not known."""
    if output.is_dir():
        of_shards = folder_total(output)
        return None if of_shards is None or of_shards < done.rows else of_shards
    sidecar = read_sidecar(output)
    run = sidecar.get("run")
    if not isinstance(run, dict):
        return None
    fits = run.get("exit_code") is None if is_running else agrees(sidecar, done.success, done.failed)
    total: JSON = run.get("total_rows")
    if not fits or not isinstance(total, int) or isinstance(total, bool) or total < done.rows:
        return None
    return total


def _told(done: _Done, status: str, total: int | None, target: str) -> str:
    """``exported 9,988 of 10,000 rows (12 not finished) to labelled.parquet``."""
    rows = {"success": done.success, "failed": done.failed}.get(status, done.rows)
    left = []
    if status == "failed" and done.success:
        left.append(f"{done.success:,} succeeded")
    if status == "success" and done.failed:
        left.append(f"{done.failed:,} failed")
    whole = done.rows if total is None else total
    if whole > done.rows:
        left.append(f"{whole - done.rows:,} not finished")
    count = f"{rows:,} of {plural(whole, 'row')} ({', '.join(left)})" if left else plural(rows, "row")
    return f"exported {count} to {'standard output' if target == '-' else target}"


class _Progress:
    """Says now and then how far it is; nothing for an export that takes a moment."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def __call__(self, rows: int, total: int) -> None:
        """Take how many of *total* rows were read."""
        now = time.monotonic()
        if now >= self._next and not self._quiet:
            self._next = now + _PROGRESS_SECONDS
            print_note(f"exporting, {100 * rows / total:.0f} %")


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """End the block as Ctrl-C does at TERM and HUP too, so that nothing half-written is left behind."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                    stack.callback(signal.signal, number, signal.signal(number, stop))
        yield
