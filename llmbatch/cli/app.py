"""The commands and what each takes, handed to typer.

The commands with many options are in :mod:`llmbatch.cli.option_commands`. The modules named after the commands are
imported when their command runs.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from llmbatch import __version__
from llmbatch.cli.control_commands import OUTPUT_HELP, drain, pause, resume, set_options
from llmbatch.cli.help import PlainCommand, PlainGroup, UnconvertedCommand
from llmbatch.cli.help_texts import (
    CHECK_HELP,
    CONVERT_HELP,
    DRILL_HELP,
    EXPORT_EPILOG,
    MERGE_EPILOG,
    REPORT_EPILOG,
    ROOT_EPILOG,
    RUN_HELP,
    SET_EPILOG,
    SHORT_HELP,
    VIEW_EPILOG,
)
from llmbatch.cli.numbers import PORT, number_option
from llmbatch.cli.sim_commands import sim_serve

__all__ = ["build_app"]

_NAMES = {"help_option_names": ["-h", "--help"]}


def build_app() -> typer.core.TyperGroup:
    """The command tree, ready for ``main(standalone_mode=False)``; a command's return value is its exit code."""
    app = _group("Run large batches of LLM prompts that survive provider outages.", epilog=ROOT_EPILOG)
    app.callback(invoke_without_command=True)(_root)
    app.command("run", help=RUN_HELP)(_deferred)
    app.command("check", help=CHECK_HELP)(_deferred)
    app.command("status", cls=PlainCommand, context_settings=_NAMES)(_status)
    app.command("failed", cls=PlainCommand, context_settings=_NAMES)(_failed)
    app.command(
        "report",
        cls=PlainCommand,
        context_settings=_NAMES,
        epilog=REPORT_EPILOG,
    )(_report)
    app.command(
        "view",
        cls=PlainCommand,
        context_settings=_NAMES,
        epilog=VIEW_EPILOG,
    )(_view)
    app.command(
        "export",
        cls=UnconvertedCommand,
        context_settings=_NAMES,
        epilog=EXPORT_EPILOG,
    )(_export)
    app.command(
        "merge",
        cls=UnconvertedCommand,
        context_settings=_NAMES,
        epilog=MERGE_EPILOG,
    )(_merge)
    app.command("pause", cls=PlainCommand, context_settings=_NAMES)(pause)
    app.command("resume", cls=PlainCommand, context_settings=_NAMES)(resume)
    app.command(
        "set",
        cls=PlainCommand,
        context_settings=_NAMES,
        epilog=SET_EPILOG,
    )(set_options)
    app.command("drain", cls=PlainCommand, context_settings=_NAMES)(drain)
    app.command("convert", help=CONVERT_HELP)(_deferred)
    app.command(
        "trust",
        cls=PlainCommand,
        context_settings=_NAMES,
    )(_trust)
    sim = _group("Simulate a provider and its outages.")
    sim.callback(invoke_without_command=True)(_needs_command)
    sim.command("serve", cls=PlainCommand, context_settings=_NAMES)(sim_serve)
    sim.command("drill", help=DRILL_HELP)(_deferred)
    sim.command("scenarios", cls=PlainCommand, context_settings=_NAMES)(_sim_scenarios)
    app.add_typer(sim, name="sim")
    batch = _group("List, cancel or adopt the batches of a run.")
    batch.callback(invoke_without_command=True)(_needs_command)
    batch.command("list", cls=PlainCommand, context_settings=_NAMES)(_batch_list)
    batch.command("cancel", cls=PlainCommand, context_settings=_NAMES)(_batch_cancel)
    batch.command("adopt", cls=PlainCommand, context_settings=_NAMES)(_batch_adopt)
    batch.command("ignore", cls=PlainCommand, context_settings=_NAMES)(_batch_ignore)
    app.add_typer(batch, name="batch")
    command = typer.main.get_command(app)
    assert isinstance(command, PlainGroup)  # noqa: S101 - an app with commands is a group
    for parameter in command.params:
        if parameter.name in ("install_completion", "show_completion") and getattr(parameter, "is_flag", False):
            parameter.default = False  # else typer loads pydantic (60 ms) to find that None is no boolean
    command.deferred = {"run": _build_run, "check": _build_check, "convert": _build_convert}
    sim_command = command.commands["sim"]
    assert isinstance(sim_command, PlainGroup)  # noqa: S101
    sim_command.deferred = {"drill": _build_drill}
    for path, text in SHORT_HELP.items():
        _find(command, path).short_help = text
    return command


def _find(group: PlainGroup, path: str) -> Any:
    """The command at *path*, its words, below *group*."""
    name, _, rest = path.partition(" ")
    found = group.commands[name]
    return _find(found, rest) if isinstance(found, PlainGroup) and rest else found


def _deferred() -> None:
    """Stands for a command with many options, which is built when it is called: other commands cost less then."""


def _build_run(help_text: str) -> typer.core.TyperCommand:
    from llmbatch.cli.option_commands import build_run

    return build_run(help_text)


def _build_check(help_text: str) -> typer.core.TyperCommand:
    from llmbatch.cli.option_commands import build_check

    return build_check(help_text)


def _build_convert(help_text: str) -> typer.core.TyperCommand:
    from llmbatch.cli.option_commands import build_convert

    return build_convert(help_text)


def _build_drill(help_text: str) -> typer.core.TyperCommand:
    from llmbatch.cli.option_commands import build_drill

    return build_drill(help_text)


def _group(help_text: str, *, epilog: str = "") -> typer.Typer:
    return typer.Typer(
        cls=PlainGroup,
        help=help_text,
        epilog=epilog,
        add_completion=bool(epilog),  # the root's, which is the one with examples
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_NAMES,
        subcommand_metavar="COMMAND …",
    )


def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=lambda asked: _version(asked), is_eager=True
        ),
    ] = False,
) -> None:
    del version  # its callback has answered
    _needs_command(context)


def _needs_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"llmbatch {__version__}")
        raise typer.Exit


def _status(
    output: Annotated[str, typer.Argument(metavar="OUTPUT|INPUT", help=OUTPUT_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> int:
    """Show what runs have done: times, outages, failures, routes, deferred rows, and what to type next."""
    from llmbatch.cli.status import status

    return status(output, as_json=as_json)


def _failed(
    output: Annotated[str, typer.Argument(metavar="OUTPUT|INPUT", help=OUTPUT_HELP)],
    ids: Annotated[bool, typer.Option("--ids", help="Print the id of each failed row, one per line.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with all ids on standard output.")] = False,
) -> int:
    """Show the failed rows, grouped by code, with messages and ids."""
    from llmbatch.cli.failed import failed

    return failed(output, ids=ids, as_json=as_json)


def _report(
    output: Annotated[str, typer.Argument(metavar="OUTPUT|INPUT", help=OUTPUT_HELP)],
    target: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Where to write it; '-' is standard output. Default: o.report.html."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE even if it is no report.")] = False,
) -> int:
    """Write one self-contained page: a verdict, what happened when, outages, latency, cost, failures, what to do next.

    It opens from disk and loads nothing. Prints the path of the page. An older report is replaced.
    """
    from llmbatch.cli.report import report

    return report(output, target=target, overwrite=overwrite)


def _view(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="OUTPUT|INPUT|FOLDER", help="Outputs, and folders of outputs. Default: this folder."),
    ] = None,
    port: Annotated[
        int,
        number_option("view", "--port", PORT, "0 takes any free port. Default: 8398."),
    ] = 8398,
) -> int:
    """Serve a list of outputs and the page of each on 127.0.0.1; pages of runs that go on are kept up to date.

    Files are only read, and only while somebody looks. Prompts and answers are not shown. Prints the URL.
    """
    from llmbatch.cli.view import view

    return view(paths or [], port=port)


def _export(
    output: Annotated[str | None, typer.Argument(metavar="OUTPUT|INPUT", help=OUTPUT_HELP)] = None,
    target: Annotated[
        str | None,
        typer.Option("-o", "--output", "--output-file", metavar="FILE", help="Where to write; '-' is standard output."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="jsonl|csv|tsv|parquet|openai", help="Default: by the name of FILE."),
    ] = None,
    fields: Annotated[
        str | None,
        typer.Option("--fields", metavar="NAME,…", help="Which fields. Default: id,status,text,error.code."),
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", metavar="success|failed|all", help="Which rows. Default: all.")
    ] = None,
    join: Annotated[bool, typer.Option("--join", help="Add the fields of the input.")] = False,
    input_: Annotated[
        str | None,
        typer.Option("-i", "--input", "--input-file", metavar="PATH", help="The input, where --join does not find it."),
    ] = None,
    input_format: Annotated[
        str | None,
        typer.Option("--input-format", metavar="FORMAT", help="The input's format, where its name does not say it."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing on standard error.")] = False,
) -> int:
    """Write the results as JSONL, CSV, TSV, Parquet or an OpenAI batch file, in the order of the input.

    Rows without a result are left out and counted. JSONL, CSV and TSV are compressed if FILE ends in .gz or .zst.
    """
    from llmbatch.cli.export import ExportSettings, export

    return export(
        ExportSettings(
            path=output,
            target=target,
            format=format_,
            fields=fields,
            status=status,
            join=join,
            input=input_,
            input_format=input_format,
            overwrite=overwrite,
            quiet=quiet,
        )
    )


def _merge(
    parts: Annotated[
        list[str] | None, typer.Argument(metavar="DIR|PART", help="The folder of the parts, or the parts.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("-o", "--output", "--output-file", metavar="FILE", help="Where to write.")
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option("-i", "--input", "--input-file", metavar="PATH", help="The input. Default: the one of the runs."),
    ] = None,
    input_format: Annotated[
        str | None,
        typer.Option("--input-format", metavar="FORMAT", help="The input's format, where its name does not say it."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say only what is missing.")] = False,
) -> int:
    """Join the parts that runs of shards have written into one output, and tell which rows are missing.

    Refuses a row that has two lines, and a part that a run is writing. FILE appears whole or not at all, and is an
    ordinary output: llmbatch run goes on with it. The parts stay.
    """
    from llmbatch.cli.merge import merge

    return merge(
        parts or [],
        target=target,
        input_path=input_,
        input_format=input_format,
        overwrite=overwrite,
        quiet=quiet,
    )


def _trust(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="The folder of the llmbatch.toml.")] = ".",
    revoke: Annotated[bool, typer.Option("--revoke", help="Trust it no longer.")] = False,
) -> int:
    """Let all that a folder's llmbatch.toml sets count, base_url and api_key_env too, until the file changes."""
    from llmbatch.cli.trust import trust

    return trust(folder, revoke=revoke, environ=os.environ)


def _batch_list(
    output: Annotated[str, typer.Argument(metavar="OUTPUT|INPUT", help=OUTPUT_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> int:
    """List the batches of a run, with their status at the provider."""
    from llmbatch.cli.batch import list_batches

    return list_batches(output, as_json=as_json)


def _batch_cancel(
    output: Annotated[str, typer.Argument(metavar="OUTPUT|INPUT", help=OUTPUT_HELP)],
    ids: Annotated[list[str] | None, typer.Argument(metavar="[BATCH_ID]…", help="Default: all open ones.")] = None,
) -> int:
    """Cancel open batches; the same run collects what they have done, and sends the rest again."""
    from llmbatch.cli.batch import cancel

    return cancel(output, ids or ())


def _batch_adopt(
    output: Annotated[str, typer.Argument(metavar="OUTPUT|INPUT", help=OUTPUT_HELP)],
    ids: Annotated[list[str] | None, typer.Argument(metavar="BATCH_ID…")] = None,
) -> int:
    """Take batches as those of a run: it collects the lines of its rows, whatever output they were made for."""
    from llmbatch.cli.batch import adopt

    return adopt(output, ids or (), ignores=False)


def _batch_ignore(
    output: Annotated[str, typer.Argument(metavar="OUTPUT|INPUT", help=OUTPUT_HELP)],
    ids: Annotated[list[str] | None, typer.Argument(metavar="BATCH_ID…")] = None,
) -> int:
    """Do not wait for batches that look as if they were of a run, and are not."""
    from llmbatch.cli.batch import adopt

    return adopt(output, ids or (), ignores=True)


def _sim_scenarios() -> int:
    """List the scenarios and what happens in each."""
    from llmbatch.cli.sim import list_scenarios

    return list_scenarios()
