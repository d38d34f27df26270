"""Which value each setting has: flag, else ``LLMBATCH_*`` variable, else configuration file, else the user's own file.

Everything that comes from outside is checked here, and a message names its source. What a ``./llmbatch.toml`` may not
set is left out, see :mod:`llmbatch.cli.local_config`.
Files are parsed in :mod:`llmbatch.cli.config`; options and defaults are in :mod:`llmbatch.runner.command_options`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmbatch.cli.config import KEY_HINT, is_secret_name, read_config
from llmbatch.cli.local_config import LOCAL_CONFIG, may_name_key, restrict, restrict_pools
from llmbatch.cli.terminal import shown
from llmbatch.cli.trust import is_trusted
from llmbatch.core.errors import UsageError
from llmbatch.core.headers import check_headers
from llmbatch.core.raw_json import JSON, RawJson, RawJsonError, dumps, parse
from llmbatch.core.shards import Shard
from llmbatch.runner.command_options import OPTIONS, CommandOptions
from llmbatch.runner.intents import EMPTY_VARIABLE
from llmbatch.runner.option import Option
from llmbatch.runner.options import RUN_OPTIONS
from llmbatch.runner.value_types import Value

if TYPE_CHECKING:
    from llmbatch.inputs.shape import RowShape
    from llmbatch.providers.pools import PoolRoute, Pools
    from llmbatch.providers.structured.schema import AnswerSchema
    from llmbatch.runs.batch_runner import Options

__all__ = ["CommandLine", "Settings", "output_of", "resolve", "schema_of", "target_of"]

_LOCAL_PATH = Path(LOCAL_CONFIG)
_KEY = "api_key_env"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the command line says, unchecked. ``flags`` maps an option's name to its text, or True for a switch."""

    input: str | None = None
    input_file: str | None = None
    flags: Mapping[str, str | bool] = field(default_factory=dict)
    params: Sequence[str] = ()
    config: str | None = None
    verbose: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CommandOptions):
    """What holds, checked. ``origin`` has the source of each option that is not left at its default.

    ``from_local`` names the options that a ``./llmbatch.toml`` set, ``ignored`` has those that it may not set, and
    ``ignored_pools`` its pools that would send keys to another host.
    """

    input: str
    verbose: int
    params: Mapping[str, JSON]
    pools: Pools
    origin: Mapping[str, str]
    from_local: frozenset[str] = frozenset()
    ignored: tuple[Option, ...] = ()
    ignored_pools: tuple[str, ...] = ()

    @property
    def shape(self) -> RowShape:
        """How a record becomes a request; reads the template's file.

        Raises:
            UsageError: the template cannot be used.
        """
        from llmbatch.inputs.shape import RowShape

        return RowShape(
            template=self.template,
            prompt_column=self.prompt_column,
            system_column=self.system_column,
            id_column=self.id_column,
            keep=self.keep or (),
        ).load()

    def run_options(self) -> Options:
        """The keywords of :class:`~llmbatch.runner.options.RunOptions`."""
        return {name: getattr(self, name) for name in RUN_OPTIONS}  # type: ignore[return-value]  # a test compares them


def resolve(given: CommandLine, environ: Mapping[str, str], folder: Path) -> Settings:
    """What holds for a command started in *folder*.

    Raises:
        UsageError: something is missing, misspelt, out of range, or contradicts something else.
    """
    values: dict[str, Value] = {}
    origin: dict[str, str] = {}
    params: dict[str, JSON] = {}
    pools: dict[str, tuple[PoolRoute, ...]] = {}
    ignored_pools: list[str] = []
    ignored: list[Option] = []
    local_key: Value | None = None
    local: set[str] = set()
    for path in reversed(_config_files(given, environ, folder)):  # the strongest last
        content = _content(folder / LOCAL_CONFIG) if path is _LOCAL_PATH else None
        config = read_config(path, content)
        file_values, file_pools = config.values, config.pools
        # One that is named, by whatever path, is trusted.
        if content is not None and not is_trusted(folder / LOCAL_CONFIG, content, environ):
            file_values, ignored = restrict(file_values, folder)
            file_pools, ignored_pools = restrict_pools(file_pools)
            local_key = file_values.pop(_KEY, None)
            local.update(file_values)
        _merge(values, file_values)
        origin |= dict.fromkeys(file_values, str(path))
        params |= config.params
        pools |= file_pools
    said = _from_variables(environ) | _from_flags(given)
    _merge(values, {name: value for name, (value, _) in said.items()})
    origin |= {name: source for name, (_, source) in said.items()}
    if local_key is not None and _KEY not in said:
        if may_name_key(values.get("base_url"), values.get("proxy")):
            values[_KEY], origin[_KEY] = local_key, LOCAL_CONFIG
            local.add(_KEY)
        else:
            ignored.append(OPTIONS[_KEY])
    params |= dict(_param(text) for text in given.params)
    settings = Settings(
        input=_input(given),
        verbose=given.verbose,
        params=params,
        pools=pools,
        ignored_pools=tuple(ignored_pools),
        origin=origin,
        from_local=frozenset(name for name in local if origin[name] == LOCAL_CONFIG),
        ignored=tuple(option for option in ignored if option.name not in said),
        **values,  # type: ignore[arg-type]  # each was read by its option
    )
    _check_together(settings, environ)
    return settings


def output_of(settings: Settings) -> str:
    """The file that lines go to: as told, else beside the input, else, for standard input, standard output (``-``).

    Where a folder is told, or by default for a shard, the file is a part in that folder.
    """
    from llmbatch.outputs.parts import part_path

    shard = settings.shard
    return part_path(target_of(settings), Shard(1, shard.count) if shard is not None and shard.is_any else shard)


def target_of(settings: Settings) -> str:
    """The output as it was told, or its default: a file, or a folder of parts."""
    from llmbatch.outputs.parts import default_target

    return settings.output if settings.output is not None else default_target(settings.input, settings.shard)


def schema_of(settings: Settings) -> AnswerSchema | None:
    """The schema of answers, loaded; None if the run has none.

    Raises:
        UsageError: it is none, cannot be read or imported, or jsonschema-rs is not installed.
    """
    if settings.schema is None:
        return None
    from llmbatch.providers.structured.load import load_schema

    return load_schema(settings.schema, what="--schema")


def _merge(values: dict[str, Value], stronger: Mapping[str, Value]) -> None:
    """Let *stronger* win in *values*; headers are a set, of which each is won by its name."""
    for name, value in stronger.items():
        known = values.get(name)
        if name == "headers" and isinstance(known, tuple) and isinstance(value, tuple):
            values[name] = check_headers((*known, *value))
        else:
            values[name] = value


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(
            f"{LOCAL_CONFIG} cannot be read: {why}", hint="check its permissions, or name another file with --config"
        ) from error


def _from_variables(environ: Mapping[str, str]) -> dict[str, tuple[Value, str]]:
    """What variables say, each with its name. An empty variable counts as unset, as in most tools."""
    said: dict[str, tuple[Value, str]] = {}
    for option in OPTIONS.values():
        names = [name for name in option.variables if environ.get(name)] if option.settable else []
        if len(names) > 1:
            raise UsageError(f"{' and '.join(names)} are the same setting", hint="keep one of the two variables")
        for name in names:
            said[option.name] = option.parse(environ[name], name), name
    return said


_FLAGS: Final = frozenset(flag for option in OPTIONS.values() for flag in option.flags)


def _from_flags(given: CommandLine) -> dict[str, tuple[Value, str]]:
    """What flags say, each with its name."""
    said: dict[str, tuple[Value, str]] = {}
    for name, text in given.flags.items():
        option = OPTIONS[name]
        if text in _FLAGS:
            raise UsageError(f"{option.flag} is followed by {text}, which is a flag", hint=EMPTY_VARIABLE)
        if name == "system" and isinstance(text, str):
            _refuse_file(text, option.flag, "-s ")
        said[name] = (text if isinstance(text, bool) else option.parse(text, option.flag)), option.flag
    return said


def _input(given: CommandLine) -> str:
    if given.input is not None and given.input_file is not None:
        raise UsageError("the input is given twice", hint="name it once: INPUT, or --input-file INPUT")
    path = given.input if given.input is not None else given.input_file
    if not path:
        raise UsageError("no input is given", hint="name a file of rows, or '-' for standard input")
    return path


def _check_together(settings: Settings, environ: Mapping[str, str]) -> None:
    if settings.overwrite and settings.retry_failed:
        raise UsageError(
            "--overwrite and --retry-failed contradict each other",
            hint="--retry-failed keeps the lines that succeeded, --overwrite drops all",
        )
    if settings.workers > 1 and settings.via == "batch":
        raise UsageError(
            f"--workers {settings.workers} does not go with --via batch: no request is sent from here",
            hint="leave --workers out: one process submits and collects all batches",
        )
    to_stdout = settings.output == "-" or (settings.output is None and settings.input == "-")
    if to_stdout and settings.json and not settings.dry_run:
        raise UsageError(
            "--json and the result lines both want standard output",
            hint="send the lines to a file with -o results.jsonl",
        )
    if settings.output == "-" and (settings.retry_failed or settings.overwrite):
        flag = "--retry-failed" if settings.retry_failed else "--overwrite"
        raise UsageError(f"{flag} needs an output file, and -o is '-'", hint="name a file with -o results.jsonl")
    for name in ("schema_lenient", "repair"):
        if settings.schema is None and settings.origin.get(name, "").startswith("--"):
            raise UsageError(
                f"{settings.origin[name]} needs a schema, and there is none",
                hint="name a JSON Schema with --schema FILE, or a pydantic model with --schema MODULE:CLASS",
            )
    if settings.report is not None and to_stdout:
        hint = "name a file with -o results.jsonl"
        raise UsageError("--report needs an output file, and the results go to standard output", hint=hint)
    if settings.report == "-":
        raise UsageError("--report needs a file", hint="name one: --report report.html")
    if settings.quiet and settings.verbose:
        raise UsageError("-q and -v contradict each other", hint="give one of them")
    if settings.proxy and "@" in settings.proxy and settings.origin["proxy"] != "LLMBATCH_PROXY":
        # Command lines are seen by everybody on the machine, and files are passed on.
        raise UsageError(
            f"{settings.origin['proxy']} contains a user name or a password",
            hint="put the proxy's URL in LLMBATCH_PROXY",
        )
    _check_key_name(settings, environ)


def _check_key_name(settings: Settings, environ: Mapping[str, str]) -> None:
    # People paste the key itself here, and then it must not be repeated. Keys hold small letters or dashes, and a
    # variable's name that does is accepted when there is such a variable.
    name = settings.api_key_env
    if name is None or name in environ or re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        return
    raise UsageError(
        f"{settings.origin['api_key_env']} is not the name of an environment variable that is set",
        hint="give the name of a variable, such as MY_PROVIDER_KEY, never the key itself",
    )


def _param(text: str) -> tuple[str, JSON]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UsageError(
            f"--param is '{shown(text[:80])}', must be key=value",
            hint="for example -P temperature=0.2 -P max_tokens=500",
        )
    if is_secret_name(key):
        raise UsageError(f"--param {shown(key)} looks like a key", hint=KEY_HINT)
    try:
        parsed = parse(value)
    except RawJsonError:
        _refuse_file(value, f"--param {shown(key)}", f"-P {shown(key)}=")
        return key, value
    return key, parsed if _is_exact(parsed, value) else RawJson(value.strip())


def _refuse_file(text: str, name: str, flag: str) -> None:
    """Refuse ``@FILE``, as ``--template`` takes it, where the text itself would be sent in its place."""
    # Not Path.is_file, which raises for a name that is too long.
    if text.startswith("@") and os.path.isfile(text[1:]):  # noqa: PTH113
        raise UsageError(
            f"{name} is {shown(text[:80])}, which would be sent as it is",
            hint=f'to send what the file holds: {flag}"$(cat {shlex.quote(shown(text[1:]))})"',
        )


def _is_exact(parsed: JSON, text: str) -> bool:
    """Whether *parsed* is sent as it was typed: 1.10, 1e400 and integers of thousands of digits are not."""
    try:
        return dumps(parsed) == text.strip()
    except ValueError:
        return False


def _config_files(given: CommandLine, environ: Mapping[str, str], folder: Path) -> list[Path]:
    """The files to read, the strongest first."""
    files: list[Path] = []
    named = given.config or environ.get("LLMBATCH_CONFIG")
    if named:
        files.append(Path(named))
    elif (folder / LOCAL_CONFIG).is_file():  # not a pipe, which would hang, nor a device without an end
        files.append(_LOCAL_PATH)
    home = environ.get("XDG_CONFIG_HOME", "")
    base = Path(home) if Path(home).is_absolute() else _home_config(environ)
    if base is not None and _is_there(base / "llmbatch" / "config.toml"):
        files.append(base / "llmbatch" / "config.toml")
    return files


def _home_config(environ: Mapping[str, str]) -> Path | None:
    home = environ.get("HOME")
    return Path(home, ".config") if home else None


def _is_there(path: Path) -> bool:
    """Whether *path* exists; False where that cannot be found out, such as in another user's home (``sudo -u``)."""
    try:
        return path.exists()
    except OSError:
        return False
