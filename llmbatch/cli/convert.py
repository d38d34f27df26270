"""``llmbatch convert``: rows into batch files, and the results of batches into the output of a run.

The work is in :mod:`llmbatch.runs.convert`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast, get_args

from llmbatch.cli.check import keyless_provider
from llmbatch.cli.settings import Settings, output_of, schema_of
from llmbatch.cli.terminal import print_note, shown
from llmbatch.core.errors import InputError, MalformedRowError, OutputError, UsageError
from llmbatch.core.rows import Row
from llmbatch.display.converted_status import write_converted_status
from llmbatch.display.phrases import plural
from llmbatch.inputs.input import Input, open_input
from llmbatch.money.prices import Prices
from llmbatch.outputs.deferred import is_stream
from llmbatch.outputs.export_target import check_target
from llmbatch.outputs.open import open_output
from llmbatch.outputs.writer import LineWriter
from llmbatch.providers.structured.checked import CheckedProvider
from llmbatch.runner.costs import Costs
from llmbatch.runs.batches.money import BatchMoney
from llmbatch.runs.batches.names import is_sibling, job_name
from llmbatch.runs.batches.rows import BatchProvider, BatchRow, InputRows, bind
from llmbatch.runs.batches.start import job_of
from llmbatch.runs.convert.plan import SHAPES, BatchShape, FilePlan, plan_files
from llmbatch.runs.convert.result_files import ResultFile, ResultShape, survey
from llmbatch.runs.convert.results import Conversion, Found
from llmbatch.runs.convert.write import file_names, write_files
from llmbatch.runs.preflight import check_first_row, check_same_request, name_other_inputs
from llmbatch.storage.filesystem import FILESYSTEM

__all__ = ["ConvertArguments", "convert", "read_arguments"]

_FLAGS: Final = {
    "model": "-m",
    "base_url": "--base-url",
    "endpoint": "--endpoint",
    "system": "-s",
    "template": "-t",
    "prompt_column": "--prompt-column",
    "system_column": "--system-column",
    "id_column": "--id-column",
    "keep": "--keep",
    "input_format": "--input-format",
    "schema": "--schema",
    "allow_files": "--allow-files",
    "config": "--config",
}
"""What shapes a request or a line: to be typed again for the results, and for the rest."""

_SHOWN_FILES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertArguments:
    """What was typed: exactly one of *to* and *from_shape*; *words*: the flags that shape requests, to type again."""

    input: str
    to: BatchShape | None = None
    from_shape: ResultShape | None = None
    results: tuple[str, ...] = ()
    target: str | None = None
    words: tuple[str, ...] = ()


def read_arguments(typed: Mapping[str, object]) -> ConvertArguments:
    """Check what was typed.

    Raises:
        UsageError: what is missing or contradicts something else.
    """
    paths = tuple(cast("Sequence[str]", typed["paths"] or ()))
    to, from_, given = typed["to"], typed["from_"], typed["input"]
    target = typed["output"]
    if (to is None) == (from_ is None):
        what = "--to and --from contradict each other" if to is not None else "neither --to nor --from is given"
        hint = "--to openai makes batch files of rows, --from openai makes lines of a run from results"
        raise UsageError(what, hint=hint)
    words = tuple(_words(typed))
    if to is not None:
        if to not in SHAPES:
            hint = "vLLM and most other servers take OpenAI's" if to != "anthropic" else ""
            raise UsageError(f"--to {to}: there is no such form", hint=f"there are {', '.join(SHAPES)}; {hint}")
        inputs = [*paths, *([str(given)] if given is not None else [])]
        if len(inputs) != 1:
            what = f"--to converts one input, and {len(inputs)} are given" if inputs else "no input to convert"
            raise UsageError(
                what, hint="llmbatch convert prompts.jsonl --to openai -m openai/gpt-5-mini -o batch.jsonl"
            )
        if target is None:
            raise UsageError("no file to write to", hint="name one: -o batch.jsonl")
        return ConvertArguments(input=inputs[0], to=to, target=str(target), words=words)
    if from_ not in get_args(ResultShape):
        hint = f"there are {', '.join(get_args(ResultShape))}"
        raise UsageError(f"--from {from_}: there is no such form", hint=hint)
    if not paths:
        hint = "name them: llmbatch convert --from openai output.jsonl errors.jsonl -i prompts.jsonl"
        raise UsageError("no results to convert", hint=hint)
    if given is None:
        raise UsageError("the input that the results belong to is not named", hint="name it: -i prompts.jsonl")
    return ConvertArguments(input=str(given), from_shape=cast("ResultShape", from_), results=paths, words=words)


def convert(settings: Settings, asked: ConvertArguments) -> int:
    """Convert, and give the exit code.

    Raises:
        UsageError: a flag is wrong, a file cannot be read, or a row cannot be in such a file.
        OutputError: the target exists, or is not one of ours.
        WriteError: the disk is full, or the like.
    """
    if settings.input == "-":
        raise InputError("convert reads its input twice, and standard input can be read once", hint="save it to a file")
    if settings.model is not None and settings.model.startswith("pool/"):
        hint = "name one model: -m PROVIDER/MODEL"
        raise UsageError(f"{settings.model} is a pool, and a batch goes to one model", hint=hint)
    is_anthropic = "anthropic" in (asked.to, asked.from_shape)
    if is_anthropic and settings.endpoint is None and not (settings.model or "").startswith("anthropic/"):
        settings = replace(settings, endpoint="messages")
        asked = replace(asked, words=(*asked.words, "--endpoint", "messages"))
    if asked.to is not None:
        return _to_files(settings, asked, asked.to)
    return asyncio.run(_from_results(settings, asked))


def _words(typed: Mapping[str, object]) -> list[str]:
    words: list[str] = []
    for name, flag in _FLAGS.items():
        value = typed.get(name)
        if value is None:
            continue
        for text in value if isinstance(value, list | tuple) else [value]:
            words += [flag, str(text)]
    for text in cast("Sequence[str]", typed.get("param") or ()):
        words += ["-P", text]
    return words


# Rows into batch files.


def _to_files(settings: Settings, asked: ConvertArguments, shape: BatchShape) -> int:
    target = str(asked.target)
    if target.endswith((".gz", ".zst", ".zstd")):
        hint = "name a file without that ending: batch APIs take plain files"
        raise OutputError(f"{target}: batch files are not compressed", hint=hint)
    if target.endswith(".json") and shape == "openai":
        hint = "name it batch.jsonl: OpenAI's batch API takes a line per row"
        raise UsageError(f"{target}: OpenAI batch files are JSON Lines", hint=hint)
    provider, name = keyless_provider(settings, schema_of(settings)), settings.input
    with open_input(name, output="", input_format=settings.input_format, shape=settings.shape) as source:
        check_first_row(provider, source, name, limit=settings.limit, strict=False)
        rows = InputRows(source, name, FILESYSTEM, limit=settings.limit)
        first = _first_row(provider, source)
        plan = plan_files(
            *(provider, rows, name, shape, _job(source, first)),
            chunk_rows=settings.chunk_rows,
            chunk_bytes=None if settings.chunk_mb is None else int(settings.chunk_mb * 1_000_000),
        )
        if not plan.files:
            raise InputError(f"{name}: no row can be in a batch file{_first_reason(plan)}")
        names = file_names(target, len(plan.files))
        if target == "-" and len(names) > 1:
            hint = "write to files (-o batch.jsonl), or allow larger ones (--chunk-rows, --chunk-mb)"
            raise OutputError(f"the rows make {len(names)} files, and -o is standard output", hint=hint)
        for path in names:
            others = {name: "the input itself"}
            check_target(path, others, overwrite=settings.overwrite, is_binary=False)
        write_files(plan, names, provider, rows, overwrite=settings.overwrite)
    if not settings.quiet:
        _tell_files(plan, names, asked, shape)
    return 1 if plan.left_out else 0


def _first_reason(plan: FilePlan) -> str:
    for code, left in plan.left_out.items():
        return f": {code}, row {left.lines[0]}: {shown(left.message)[:200]}"
    return ""


def _tell_files(plan: FilePlan, names: Sequence[str], asked: ConvertArguments, shape: BatchShape) -> None:
    for file, name in list(zip(plan.files, names, strict=True))[:_SHOWN_FILES]:
        where = "standard output" if name == "-" else shown(name)
        about = f"{shown(file.label)}, {file.endpoint}"
        print_note(f"{plural(file.rows, 'row')} in {where} ({_megabytes(file.size_bytes)}; {about})")
    if len(names) > _SHOWN_FILES:
        print_note(f"… {plural(plan.rows, 'row')} in {len(names)} files, the last of them {shown(names[-1])}")
    for code, left in plan.left_out.items():
        lines = ", ".join(map(str, left.lines)) + (", …" if left.count > len(left.lines) else "")
        what = f"left out: {plural(left.count, 'row')} with {code} ({lines}): {shown(left.message)[:200]}"
        print_note(what)
    form = "vllm" if plan.files[0].label.startswith("vllm/") else shape
    words = ["llmbatch", "convert", "--from", form, "RESULTS", "-i", asked.input, *asked.words]
    print_note(f"hint: submit it; then {shlex.join(words)} makes the lines of a run from the results")


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:,.1f} kB"


# Results into the lines of a run.


async def _from_results(settings: Settings, asked: ConvertArguments) -> int:
    shape, name = cast("ResultShape", asked.from_shape), settings.input
    output_path = output_of(settings)
    if is_stream(output_path):
        raise OutputError("the lines of results continue a file", hint="name it: -o prompts.results.jsonl")
    schema = schema_of(settings)
    plain = keyless_provider(settings, schema)
    provider = plain if schema is None else CheckedProvider(plain, schema, lenient=settings.schema_lenient, repair=0)
    prices = Prices.read(settings.prices)
    async with contextlib.AsyncExitStack() as stack:
        input_format, shape_of_rows = settings.input_format, settings.shape
        source = stack.enter_context(
            open_input(name, output=output_path, input_format=input_format, shape=shape_of_rows)
        )
        check_first_row(provider, source, name, limit=None, strict=False)
        first = _first_row(cast("BatchProvider", provider), source)
        files = [survey(path, shape) for path in asked.results]
        own = job_of(source, first, output_path)
        moved = (job for file in files for job in file.rows if is_sibling(job, own))  # the output may be elsewhere now
        jobs = frozenset({_job(source, first), own, *moved})
        _check_jobs(files, jobs, shape)
        output = open_output(output_path, input_path=name, overwrite=settings.overwrite)
        stack.callback(output.close)
        try:
            source.verify(output.finished)
        except InputError as error:
            raise name_other_inputs(error, name, output_path) from None
        earlier = None if settings.force else output.first_success()
        if earlier is not None:
            check_same_request(provider, source, output_path, earlier)
        output.check_room(sync=settings.fsync == "group")
        writer = LineWriter(output, sync_interval=1.0 if settings.fsync == "group" else None)
        rows = InputRows(source, name, FILESYSTEM, limit=None)
        conversion = Conversion(
            cast("BatchProvider", provider),
            rows,
            writer,
            output.finished,
            BatchMoney(Costs(prices)),
            jobs=jobs,
            shape=shape,
            output_path=output_path,
            require_finish=settings.require_finish,
            failure_threshold=settings.failure_threshold,
        )
        try:
            found = await conversion.run(files)
        finally:
            try:
                await writer.aclose()
            finally:
                output.remove_if_new()
        before = output.finished
        success, failed = before.success + found.success, before.failed + found.failed
        done = success + failed
        total = sum(item is not None for item in rows.scan())
        exit_code = 3 if found.refused is not None else 75 if done < total else 1 if failed else 0
        if done:
            write_converted_status(
                Path(output_path),
                input_path=name,
                input_format=input_format,
                command=_rest_command(asked, output_path),
                success_before=before.success,
                success=success,
                failed=failed,
                total=total,
                exit_code=exit_code,
            )
    if not settings.quiet:
        _tell_lines(found, files, done=done, total=total, output=output_path, asked=asked)
    return exit_code


def _rest_command(asked: ConvertArguments, output: str) -> str:
    """What to type to send the rows that have no line."""
    return shlex.join(["llmbatch", "run", asked.input, "-o", output, *asked.words])


def _check_jobs(files: Sequence[ResultFile], jobs: frozenset[str], shape: ResultShape) -> None:
    """Refuse results of which none is of this input and these settings.

    Raises:
        InputError: why.
    """
    found = {job for file in files for job in file.rows}
    if found & jobs:
        return
    if found:
        raise InputError(
            "the results are of another input, or of another model, endpoint, system prompt or other parameters",
            hint="name the input of --to, and type the same flags as there (-m, -s, -t, -P, --endpoint, --schema)",
        )
    lines, unreadable = sum(file.lines for file in files), sum(file.unreadable for file in files)
    path = files[0].path
    if not lines:
        raise InputError(f"{path}: there are no results in it")
    if unreadable == lines:
        hint = f"there are --from {', '.join(each for each in get_args(ResultShape) if each != shape)} too"
        raise InputError(f"{path}: no line is a result in the form of --from {shape}", hint=hint)
    raise InputError(
        f"{path}: no custom_id in it is llmbatch's (lb-…): a batch file of llmbatch convert --to has such ids",
        hint="submit a file that llmbatch convert --to has written",
    )


def _tell_lines(
    found: Found, files: Sequence[ResultFile], *, done: int, total: int, output: str, asked: ConvertArguments
) -> None:
    new = found.success + found.failed
    print_note(f"{plural(new, 'new line')} in {shown(output)}: {found.success:,} success, {found.failed:,} failed")
    if found.done_before:
        print_note(f"{plural(found.done_before, 'row')} had a line already, which stays")
    unreadable = sum(file.unreadable for file in files)
    for count, what in (
        (unreadable, "no results, such as the end of a torn download"),
        (found.foreign, "of no row of the input"),
        (found.edited, "of rows that were edited after --to"),
    ):
        if count:
            print_note(f"dropped: {plural(count, 'line')} {what}")
    if found.refused is not None:
        why = shown(found.refused.message or found.refused.code)[:300]
        print_note(f"every row was refused, so none is marked failed: {why}")
    if done < total:
        left = total - done
        told = sum(each.count for each in found.no_answer.values())
        reasons = [f"{each.count:,} {shown(code)}" for code, each in found.no_answer.items()]
        if left > told:
            reasons.append(f"{left - told:,} without a result")
        print_note(f"{left:,} of {plural(total, 'row')} have no line yet: {', '.join(reasons)}")
        print_note(f"hint: {_rest_command(asked, output)} sends them")


# Both.


def _first_row(provider: BatchProvider, rows: Input) -> BatchRow | None:
    """The first row that can be a request."""
    with contextlib.closing(rows.peek()) as items:
        for item in items:
            with contextlib.suppress(MalformedRowError):
                if isinstance(item, Row):
                    return bind(provider, item)
    return None


def _job(rows: Input, first: BatchRow | None) -> str:
    """The job of batch files that go wherever their owner submits them."""
    with contextlib.closing(rows.peek(1)) as items:
        item = next(items, None)
    route = None if first is None else first.request.route
    return job_name(
        base_url="" if route is None else route.model or route.label,
        endpoint="" if first is None else first.request.endpoint,
        settings="" if first is None else first.request.settings,
        first_hash="" if item is None else item.hash,
        output="",
    )
