"""The commands and what each takes, handed to typer.

The flags of ``run`` and ``check`` come from the table in :mod:`llmbatch.cli.flags`, and reach one function as they were
typed. What this module does not do: read, check or use any of them; the modules named after the commands do, and are
imported when their command runs.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import typer.core
import typer.main

from llmbatch import __version__
from llmbatch.cli.flags import FLAGS, Flag
from llmbatch.cli.kinds import Switch
from llmbatch.cli.plain import AsTypedCommand, PlainCommand, PlainGroup

if TYPE_CHECKING:
    from llmbatch.cli.settings import Given

__all__ = ["build_app"]

_NAMES = {"help_option_names": ["-h", "--help"]}

_RUN_HELP = """Send every row of INPUT and append one result line a row.

INPUT is a file of JSON lines (also .gz and .zst), or '-' for standard input. Running the same command again resumes.
An outage parks rows and waits; it never fails them."""

_RUN_EPILOG = """Examples:
  llmbatch run prompts.jsonl -m openai/gpt-5-mini
  llmbatch run prompts.jsonl -m sim/steady -o answers.jsonl      no key needed
  llmbatch run prompts.jsonl --base-url http://127.0.0.1:8000/v1 -m my-model -c 200

Settings: a flag, else a variable such as LLMBATCH_CONCURRENCY=80, else
  ./llmbatch.toml, else the user's ~/.config/llmbatch/config.toml.

Aliases: --input-file and -i for INPUT, --output-file, -j, --max-concurrency,
  --max-connections, --max-requests-per-minute, --max-tokens-per-minute.

Exit codes: 0 every row succeeded, 1 some lines are failed, 2 usage,
  3 the provider refuses the account or the key, 74 the output could not be
  written, 75 rows are deferred, 130 and 143 interrupted. The same command
  continues after the last five."""

_CHECK_HELP = """Read and validate every row, estimate tokens and time, send nothing.

Takes the flags of llmbatch run, and needs no key. Exit code 1 tells of malformed rows, 2 with --strict."""

_CHECK_EPILOG = """Examples:
  llmbatch check prompts.jsonl -m openai/gpt-5-mini
  llmbatch check prompts.jsonl -m openai/gpt-5-mini --rpm 500 --json"""

_DRILL_HELP = """Run a policy through an outage in virtual time: the real runner, hours in seconds.

The policy is what llmbatch run would use: flags, LLMBATCH_* variables, llmbatch.toml. Exit code 1 where a row fails."""

_DRILL_EPILOG = """Examples:
  llmbatch sim drill --scenario s3-down
  llmbatch sim drill --scenario all
  llmbatch sim drill --compare failure-threshold=3 --compare "failure-threshold=10 recovery-timeout=20"
  llmbatch sim drill --sweep failure-threshold=3..20 recovery-timeout=5..120"""

_DRILLED = (
    "concurrency",
    "rpm",
    "timeout",
    "max_attempts",
    "failure_threshold",
    "recovery_timeout",
    "success_threshold",
    "on_outage",
    "max_outage",
    "seed",
)
"""The flags of ``run`` that make up a policy."""

_ROOT_EPILOG = """Examples:
  llmbatch run prompts.jsonl -m openai/gpt-5-mini
  llmbatch check prompts.jsonl                      what would be sent
  llmbatch status prompts.results.jsonl             how far a run is"""


def build_app() -> typer.core.TyperGroup:
    """The command tree, ready for ``main(standalone_mode=False)``; a command's return value is its exit code."""
    app = _group("Run large batches of LLM prompts; an outage of the provider costs no row.", epilog=_ROOT_EPILOG)
    app.callback(invoke_without_command=True)(_root)
    app.command("run", cls=AsTypedCommand, help=_RUN_HELP, epilog=_RUN_EPILOG, context_settings=_NAMES)(
        _flag_command(_run, for_check=False)
    )
    app.command("check", cls=AsTypedCommand, help=_CHECK_HELP, epilog=_CHECK_EPILOG, context_settings=_NAMES)(
        _flag_command(_check, for_check=True)
    )
    app.command("status", cls=PlainCommand, context_settings=_NAMES)(_status)
    app.command("trust", cls=PlainCommand, context_settings=_NAMES)(_trust)
    sim = _group("The simulated provider: try llmbatch, or any client, against an outage.")
    sim.callback(invoke_without_command=True)(_needs_command)
    sim.command("serve", cls=PlainCommand, context_settings=_NAMES)(_sim_serve)
    sim.command("drill", cls=PlainCommand, help=_DRILL_HELP, epilog=_DRILL_EPILOG, context_settings=_NAMES)(
        _drill_command()
    )
    sim.command("scenarios", cls=PlainCommand, context_settings=_NAMES)(_sim_scenarios)
    app.add_typer(sim, name="sim")
    command = typer.main.get_command(app)
    assert isinstance(command, typer.core.TyperGroup)  # noqa: S101 - an app with commands is a group
    return command


def _group(help_text: str, *, epilog: str = "") -> typer.Typer:
    return typer.Typer(
        cls=PlainGroup,
        help=help_text,
        epilog=epilog,
        add_completion=False,
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


def _flag_command(function: Callable[..., int], *, for_check: bool) -> Callable[..., int]:
    """*function*, which takes what was typed as keywords, with the signature that typer reads its options from."""
    parameters = [
        _parameter(
            "input",
            str | None,
            None,
            typer.Argument(
                metavar="INPUT", show_default=False, help="A file of JSON lines, or '-' for standard input."
            ),
        ),
        _parameter(
            "input_file", str | None, None, typer.Option("-i", "--input-file", hidden=True, help="The same as INPUT.")
        ),
        *(_flag_parameter(flag, for_check=for_check) for flag in FLAGS if not (for_check and flag.field == "dry_run")),
        _parameter(
            "param",
            list[str] | None,
            None,
            typer.Option(
                "-P",
                "--param",
                metavar="KEY=VALUE",
                help="A request parameter for every row; the value is JSON or text. May be repeated.",
                rich_help_panel="Model",
            ),
        ),
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


def _with_signature(function: Callable[..., int], parameters: list[inspect.Parameter]) -> Callable[..., int]:
    """A command that hands what was typed for *parameters* to *function*, as one dict."""

    def command(**typed: object) -> int:
        return function(typed)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _flag_parameter(flag: Flag, *, for_check: bool) -> inspect.Parameter:
    is_switch = isinstance(flag.kind, Switch)
    option = typer.Option(
        *flag.names,
        metavar=flag.metavar or None,
        help=flag.help,
        rich_help_panel=flag.group,
        show_default=False,
        hidden=for_check and flag.sends,
    )
    return _parameter(flag.field, bool if is_switch else str | None, False if is_switch else None, option)


def _parameter(name: str, kind: object, default: object, info: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _run(typed: dict[str, object]) -> int:
    from llmbatch.cli.local_config import tell_about_local_file
    from llmbatch.cli.settings import resolve

    given = _given(typed)
    settings = resolve(given, os.environ, Path.cwd())
    if settings.env_file is not None:
        from llmbatch.cli.env_file import load_env_file

        load_env_file(settings.env_file, os.environ)
        settings = resolve(given, os.environ, Path.cwd())  # it may set LLMBATCH_* too
    tell_about_local_file(settings)
    # What costs more to load comes after the part in which most mistakes are found.
    if settings.dry_run:
        from llmbatch.cli.check import check

        return check(settings)
    from llmbatch.cli.run import run

    return run(settings)


def _check(typed: dict[str, object]) -> int:
    return _run(typed | {"dry_run": True})


def _given(typed: dict[str, object]) -> Given:
    from llmbatch.cli.settings import Given

    flags = {flag.field: typed[flag.field] for flag in FLAGS if typed.get(flag.field) not in (None, False)}
    return Given(
        input=typed["input"],  # type: ignore[arg-type]  # typer gives what the signature says
        input_file=typed["input_file"],  # type: ignore[arg-type]
        flags=flags,  # type: ignore[arg-type]
        params=typed["param"] or (),  # type: ignore[arg-type]
        config=typed["config"],  # type: ignore[arg-type]
        verbose=typed["verbose"],  # type: ignore[arg-type]
    )


def _status(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The result file of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> int:
    """Show what a finished, running or stopped run has done and what it waits for."""
    from llmbatch.cli.status import status

    return status(output, as_json=as_json)


def _trust(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="The folder of the llmbatch.toml.")] = ".",
    revoke: Annotated[bool, typer.Option("--revoke", help="Trust it no longer.")] = False,
) -> int:
    """Let all that a folder's llmbatch.toml sets count, base_url and api_key_env too, until the file changes."""
    from llmbatch.cli.trust import trust

    return trust(folder, revoke=revoke, environ=os.environ)


def _sim_serve(
    port: Annotated[int, typer.Option(metavar="PORT", help="0 takes any free port.")] = 8399,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="A loopback address.")] = "127.0.0.1",
    scenario: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="See llmbatch sim scenarios; or a .toml file.")
    ] = "steady",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of what is random in the answers.")] = 0,
    latency: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Median of a good answer. Default: the scenario's.")
    ] = None,
    speed: Annotated[float, typer.Option(metavar="FACTOR", help="How much faster the scenario passes.")] = 1.0,
    require_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Refuse every other key with 401. Default: any key will do.")
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(metavar="N", help="Requests at once before it answers 429. Default: no bound.")
    ] = None,
    rate: Annotated[
        float, typer.Option(metavar="N", help="Requests a second of full load; a scenario's capacity is a part of it.")
    ] = 100.0,
) -> int:
    """Serve the simulated provider on loopback, for llmbatch and for the OpenAI and Anthropic clients."""
    from llmbatch.cli.sim import SimSettings, serve

    return serve(
        SimSettings(
            host=host,
            port=port,
            scenario=scenario,
            seed=seed,
            latency=latency,
            speed=speed,
            require_key=require_key,
            capacity=capacity,
            rate=rate,
        )
    )


def _drill_command() -> Callable[..., int]:
    parameters = [
        _parameter("ranges", list[str] | None, None, typer.Argument(metavar="[RANGE]…", help="More for --sweep.")),
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
            typer.Option("--rows", metavar="N", help="Default: enough to be at work when the scenario ends."),
        ),
        _parameter(
            "latency",
            float | None,
            None,
            typer.Option("--latency", metavar="SECONDS", help="Median of a good answer. Default: 1 to 8, by length."),
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
        *(_flag_parameter(flag, for_check=False) for flag in FLAGS if flag.field in _DRILLED),
        _parameter("as_json", bool, False, typer.Option("--json", help="Print JSON on standard output.")),
        _parameter("config", str | None, None, typer.Option("--config", metavar="FILE", help="As for llmbatch run.")),
    ]
    return _with_signature(_sim_drill, parameters)


def _sim_drill(typed: dict[str, object]) -> int:
    from llmbatch.cli.drill import DrillSettings, drill
    from llmbatch.cli.settings import Given, resolve

    flags = {name: typed[name] for name in _DRILLED if typed.get(name) is not None}
    given = Given(input="drill", flags=flags, config=typed["config"])  # type: ignore[arg-type]
    told = DrillSettings(
        scenarios=typed["scenario"],  # type: ignore[arg-type]  # typer gives what the signature says
        rows=typed["rows"],  # type: ignore[arg-type]
        latency=typed["latency"],  # type: ignore[arg-type]
        compare=typed["compare"] or (),  # type: ignore[arg-type]
        sweep=[*(typed["sweep"] or ()), *(typed["ranges"] or ())],  # type: ignore[misc]
        as_json=bool(typed["as_json"]),
    )
    return drill(told, resolve(given, os.environ, Path.cwd()))


def _sim_scenarios() -> int:
    """List the scenarios and what happens in each."""
    from llmbatch.cli.sim import list_scenarios

    return list_scenarios()
