"""``run``, ``check`` and ``sim drill``: commands whose flags come from :mod:`llmbatch.runner.command_options`.

Flags reach one function as they were typed; :mod:`llmbatch.cli.settings` reads and checks them.
"""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import typer.core
import typer.main

from llmbatch.cli.help import PlainCommand, UnconvertedCommand
from llmbatch.cli.numbers import number_option
from llmbatch.runner.command_options import OPTIONS
from llmbatch.runner.option import Option
from llmbatch.runner.quantities import Duration, Whole
from llmbatch.runner.value_types import Choice

if TYPE_CHECKING:
    from llmbatch.cli.settings import CommandLine

__all__ = ["build_check", "build_convert", "build_drill", "build_run"]

_RUN_EPILOG = """Examples:
  llmbatch run prompts.jsonl -m openai/gpt-5-mini
  llmbatch run prompts.jsonl -m sim/steady -o answers.jsonl      no key needed
  llmbatch run prompts.jsonl --base-url http://127.0.0.1:8000/v1 -m my-model -c 200

Settings: a flag, else a variable such as LLMBATCH_CONCURRENCY=80, else
  ./llmbatch.toml, else the user's ~/.config/llmbatch/config.toml.

Units: a DURATION is 90 (seconds), 2m or 1h30m; N may be 60k or 1.5M.

{aliases}

Exit codes: 0 every row succeeded, 1 some lines are failed, 2 usage,
  3 the provider refuses the account or the key, 4 stopped at --max-cost,
  70 internal error (a bug), 74 the output could not be written, 75 rows are
  deferred or batches still running, 129, 130 and 143 interrupted, 141 the
  reader of -o - has closed the pipe. The same command continues after all
  but 0, 1 and 2."""

_CHECK_EPILOG = """Examples:
  llmbatch check prompts.jsonl -m openai/gpt-5-mini
  llmbatch check prompts.jsonl -m openai/gpt-5-mini --rpm 500 --json"""

_DRILL_EPILOG = """Examples:
  llmbatch sim drill --scenario s3-down
  llmbatch sim drill --scenario all
  llmbatch sim drill --compare "failure-threshold=10 recovery-timeout=20"
  llmbatch sim drill --sweep failure-threshold=3..20 recovery-timeout=5..120"""

_CONVERT_EPILOG = """Examples:
  llmbatch convert prompts.jsonl --to openai -m openai/gpt-5-mini -o batch.jsonl
  llmbatch convert prompts.csv --to anthropic -m claude-haiku-4-5 -o batch.json
  llmbatch convert --from openai output.jsonl errors.jsonl -i prompts.jsonl -m openai/gpt-5-mini

Exit codes: 0 all rows, 1 some rows are left out or failed, 2 usage, 3 every
  row was refused, 75 rows have no answer yet: llmbatch run sends them."""

_CONVERT_OPTIONS = (
    *("output", "input_format", "id_column", "keep", "limit", "overwrite", "force", "fsync"),
    *("model", "base_url", "endpoint", "template", "prompt_column", "system_column", "system"),
    *("schema", "schema_lenient", "allow_files", "prices", "env_file", "require_finish", "chunk_rows", "chunk_mb"),
    "quiet",
)
"""The options of ``run`` that shape files and lines."""

_CONVERT_HELP = {
    "output": "With --to the batch file; with --from the output of the run, which gets the lines. Default there: "
    "prompts.results.jsonl next to prompts.jsonl.",
    "limit": "With --to only the first N rows.",
    "overwrite": "With --to replace files; with --from start over: the lines of an earlier run are dropped.",
    "require_finish": "With --from fail rows whose answers were cut at their token limit, with code truncated.",
    "chunk_rows": "Maximum rows of one file; more make several, with numbers. Default: the provider's limit.",
    "chunk_mb": "Maximum size of one file. Default: the provider's limit.",
}


def build_run(help_text: str) -> typer.core.TyperCommand:
    """The command ``run``."""
    epilog = _RUN_EPILOG.format(aliases=_aliases())
    return _command("run", UnconvertedCommand, _flag_command(_run, for_check=False), help_text, epilog)


def build_check(help_text: str) -> typer.core.TyperCommand:
    """The command ``check``."""
    check = _flag_command(lambda typed: _run(typed | {"dry_run": True}), for_check=True)
    return _command("check", UnconvertedCommand, check, help_text, _CHECK_EPILOG)


def build_drill(help_text: str) -> typer.core.TyperCommand:
    """The command ``sim drill``."""
    return _command("drill", PlainCommand, _drill_function(), help_text, _DRILL_EPILOG)


def build_convert(help_text: str) -> typer.core.TyperCommand:
    """The command ``convert``."""
    return _command("convert", UnconvertedCommand, _convert_function(), help_text, _CONVERT_EPILOG)


def _command(
    name: str, kind: type[PlainCommand], function: Callable[..., int], help_text: str, epilog: str
) -> typer.core.TyperCommand:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    names = {"help_option_names": ["-h", "--help"]}
    app.command(name, cls=kind, help=help_text, epilog=epilog, context_settings=names)(function)
    command = typer.main.get_command(app)
    assert isinstance(command, kind)  # noqa: S101 - an app with one command is that command
    return command


def _aliases() -> str:
    """The flags that help does not list with their options."""
    names = [alias for option in OPTIONS.values() for alias in option.aliases]
    text = f"Aliases: --input-file and -i for INPUT, {', '.join(names)}."
    return textwrap.fill(text, 78, subsequent_indent="  ", break_on_hyphens=False)


def _flag_command(function: Callable[..., int], *, for_check: bool) -> Callable[..., int]:
    """*function*, which takes what was typed as keywords, with the signature that typer reads its options from."""
    parameters = [
        _parameter(
            "input",
            str | None,
            None,
            typer.Argument(
                metavar="INPUT",
                show_default=False,
                help="A file of rows, such as JSON lines or CSV, or '-' for standard input.",
            ),
        ),
        _parameter(
            "input_file", str | None, None, typer.Option("-i", "--input-file", hidden=True, help="The same as INPUT.")
        ),
        *(
            _flag_parameter(option, for_check=for_check)
            for option in OPTIONS.values()
            if option.name != "dry_run" or not for_check
        ),
        _parameter("param", list[str] | None, None, _param_option()),
        _parameter(
            "verbose",
            int,
            0,
            typer.Option("-v", "--verbose", count=True, help="Say more; -vv still more.", rich_help_panel="Display"),
        ),
        _parameter(
            "config",
            str | None,
            None,
            typer.Option(
                "--config",
                metavar="FILE",
                help="Read this TOML file instead of ./llmbatch.toml.",
                rich_help_panel="Display",
            ),
        ),
    ]
    return _with_signature(function, parameters)


def _param_option() -> object:
    return typer.Option(
        "-P",
        "--param",
        metavar="KEY=VALUE",
        help="A request parameter for every row; the value is JSON or text. May be repeated.",
        rich_help_panel="Model",
    )


def _with_signature(function: Callable[..., int], parameters: list[inspect.Parameter]) -> Callable[..., int]:
    """A command that hands what was typed for *parameters* to *function*, as one dict."""

    def command(**typed: object) -> int:
        return function(typed)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _flag_parameter(option: Option, *, for_check: bool, help_text: str | None = None) -> inspect.Parameter:
    info = typer.Option(
        *option.flags,
        metavar=option.value.metavar or None,
        help=help_text or option.help_text,
        rich_help_panel=option.group,
        show_default=False,
        hidden=for_check and option.sends,
        autocompletion=_completion(option),
    )
    if option.is_switch:
        return _parameter(option.name, bool, False, info)
    return _parameter(option.name, list[str] | None if option.value.repeats else str | None, None, info)


def _completion(option: Option) -> Callable[[str], list[str]] | None:
    """What a shell offers for the value of *option*; None: what it offers by itself, such as files."""
    if isinstance(option.value, Choice):
        words = option.value.words
        return lambda incomplete: [word for word in words if word.startswith(incomplete)]
    return _models if option.name == "model" else None


def _models(incomplete: str) -> list[str]:
    """The known providers, each with an example of its models, and the scenarios behind ``sim/``."""
    from llmbatch.providers.catalog import PROVIDERS
    from llmbatch.runs.local_simulator import LocalSimulator

    if incomplete.startswith("sim/"):
        names = [f"sim/{name}" for name in LocalSimulator.scenarios()]
    else:
        names = [f"{provider.name}/{provider.example}" for provider in PROVIDERS.values()]
    return [name for name in names if name.startswith(incomplete)]


def _parameter(name: str, kind: object, default: object, info: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _run(typed: dict[str, object]) -> int:
    from llmbatch.cli.dependent_options import without_unused
    from llmbatch.cli.local_config import tell_about_local_file
    from llmbatch.cli.settings import resolve
    from llmbatch.cli.variables import tell_about_variables

    given = _given(typed)
    settings = resolve(given, os.environ, Path.cwd())
    if settings.env_file is not None:
        from llmbatch.cli.env_file import load_env_file

        load_env_file(settings.env_file, os.environ)
        settings = resolve(given, os.environ, Path.cwd())  # it may set LLMBATCH_* too
    settings = without_unused(settings)
    tell_about_local_file(settings)
    if not settings.quiet:
        tell_about_variables(settings, os.environ)
    # What costs more to load comes after the part in which most mistakes are found.
    if settings.dry_run:
        from llmbatch.cli.check import check

        return check(settings)
    from llmbatch.cli.run import run

    return run(settings)


def _given(typed: dict[str, object]) -> CommandLine:
    from llmbatch.cli.settings import CommandLine

    flags = {name: _text(typed[name]) for name in OPTIONS if typed.get(name) not in (None, False, ())}
    return CommandLine(
        input=typed["input"],  # type: ignore[arg-type]  # typer gives what the signature says
        input_file=typed["input_file"],  # type: ignore[arg-type]
        flags=flags,  # type: ignore[arg-type]
        params=typed["param"] or (),  # type: ignore[arg-type]
        config=typed["config"],  # type: ignore[arg-type]
        verbose=typed["verbose"],  # type: ignore[arg-type]
    )


def _text(typed: object) -> object:
    return "\n".join(typed) if isinstance(typed, list | tuple) else typed


def _convert_function() -> Callable[..., int]:
    parameters = [
        _parameter(
            "paths",
            list[str] | None,
            None,
            typer.Argument(metavar="INPUT|RESULTS", help="With --to a file of rows; with --from files of results."),
        ),
        _parameter(
            "to",
            str | None,
            None,
            typer.Option("--to", metavar="openai|anthropic", help="Turn the rows of INPUT into batch files."),
        ),
        _parameter(
            "from_",
            str | None,
            None,
            typer.Option(
                "--from", metavar="openai|anthropic|vllm", help="Turn RESULTS of batch files into the lines of a run."
            ),
        ),
        _parameter(
            "input",
            str | None,
            None,
            typer.Option("-i", "--input", "--input-file", metavar="INPUT", help="With --from: the input of --to."),
        ),
        *(
            _flag_parameter(OPTIONS[name], for_check=False, help_text=_CONVERT_HELP.get(name))
            for name in _CONVERT_OPTIONS
        ),
        _parameter("param", list[str] | None, None, _param_option()),
        _parameter("config", str | None, None, typer.Option("--config", metavar="FILE", help="As for llmbatch run.")),
    ]
    return _with_signature(_convert, parameters)


def _convert(typed: dict[str, object]) -> int:
    from llmbatch.cli.convert import ConvertArguments, convert, read_arguments
    from llmbatch.cli.settings import CommandLine, resolve

    asked: ConvertArguments = read_arguments(typed)
    flags = {name: _text(typed[name]) for name in _CONVERT_OPTIONS if typed.get(name) not in (None, False, ())}
    given = CommandLine(
        input=asked.input,
        flags=flags,  # type: ignore[arg-type]  # typer gives what the signature says
        params=typed["param"] or (),  # type: ignore[arg-type]
        config=typed["config"],  # type: ignore[arg-type]
    )
    settings = resolve(given, os.environ, Path.cwd())
    if settings.env_file is not None:
        from llmbatch.cli.env_file import load_env_file

        load_env_file(settings.env_file, os.environ)
        settings = resolve(given, os.environ, Path.cwd())
    return convert(settings, asked)


def _drill_function() -> Callable[..., int]:
    parameters = [
        _parameter("ranges", list[str] | None, None, typer.Argument(metavar="RANGE", help="More for --sweep.")),
        _parameter(
            "scenario",
            list[str],
            ["s5-two-waves"],
            typer.Option("--scenario", metavar="NAME|FILE|all", help="May be repeated; see llmbatch sim scenarios."),
        ),
        _parameter(
            "rows",
            int | None,
            None,
            number_option("sim drill", "--rows", Whole(1, 1_000_000), "Default: until the scenario ends."),
        ),
        _parameter(
            "latency",
            float | None,
            None,
            number_option(
                "sim drill", "--latency", Duration(), "Median of a good answer. Default: 1 to 8 s, by length."
            ),
        ),
        _parameter(
            "compare",
            list[str] | None,
            None,
            typer.Option("--compare", metavar="POLICY", help="name=value, … beside the policy told. May be repeated."),
        ),
        _parameter(
            "sweep",
            list[str] | None,
            None,
            typer.Option("--sweep", metavar="RANGE", help="name=low..high or name=a,b,c; more may follow."),
        ),
        _parameter(
            "fleet",
            int | None,
            None,
            number_option(
                "sim drill", "--fleet", Whole(1, 2_000), "Instead: N processes that share a circuit, in an outage."
            ),
        ),
        *(_flag_parameter(option, for_check=False) for option in OPTIONS.values() if option.drill != "no"),
        _parameter("as_json", bool, False, typer.Option("--json", help="Print JSON on standard output.")),
        _parameter("config", str | None, None, typer.Option("--config", metavar="FILE", help="As for llmbatch run.")),
    ]
    return _with_signature(_sim_drill, parameters)


def _sim_drill(typed: dict[str, object]) -> int:
    from llmbatch.cli.drill import DrillSettings, drill
    from llmbatch.cli.settings import CommandLine, resolve

    flags = {name: typed[name] for name in OPTIONS if typed.get(name) is not None}
    given = CommandLine(input="drill", flags=flags, config=typed["config"])  # type: ignore[arg-type]
    told = DrillSettings(
        scenarios=typed["scenario"],  # type: ignore[arg-type]  # typer gives what the signature says
        rows=typed["rows"],  # type: ignore[arg-type]
        latency=typed["latency"],  # type: ignore[arg-type]
        compare=typed["compare"] or (),  # type: ignore[arg-type]
        sweep=[*(typed["sweep"] or ()), *(typed["ranges"] or ())],  # type: ignore[misc]
        as_json=bool(typed["as_json"]),
        fleet=typed["fleet"],  # type: ignore[arg-type]
    )
    return drill(told, resolve(given, os.environ, Path.cwd()))
