"""Which value each setting has: flag, else ``LLMBATCH_*`` variable, else configuration file, else the user's own file.

Everything that comes from outside is checked here, and a message names its source. What a ``./llmbatch.toml`` may not
set is left out, see :mod:`llmbatch.cli.local_config`. What this module does not do: parse
files (:mod:`llmbatch.cli.config`), apply defaults (they belong to what is configured), or read keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmbatch.cli.config import KEY_HINT, is_secret_name, read_config
from llmbatch.cli.flags import FLAGS, Flag, closest
from llmbatch.cli.kinds import Switch, Value
from llmbatch.cli.local_config import LOCAL_CONFIG, may_name_key, restrict
from llmbatch.cli.terminal import shown
from llmbatch.cli.trust import is_trusted
from llmbatch.errors import UsageError
from llmbatch.jsontext import JSON, JSONError, JSONText, dumps, parse

if TYPE_CHECKING:
    from llmbatch.batch import Fsync
    from llmbatch.providers.catalog import Endpoint
    from llmbatch.runner.options import OnOutage
    from llmbatch.ui import ProgressKind

__all__ = ["Given", "Settings", "output_of", "resolve"]

_LOCAL_PATH = Path(LOCAL_CONFIG)
_KEY = "api_key_env"
_by_field = {flag.field: flag for flag in FLAGS}
_settable = [flag for flag in FLAGS if flag.settable]


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line itself says, unchecked. ``flags`` maps a flag's field to its text, or True for a switch."""

    input: str | None = None
    input_file: str | None = None
    flags: Mapping[str, str | bool] = field(default_factory=dict)
    params: Sequence[str] = ()
    config: str | None = None
    verbose: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds, checked. A field is None where nobody said anything; ``origin`` tells who said the others.

    ``from_local`` has the fields that a ``./llmbatch.toml`` said, ``ignored`` the flags that it may not set.
    """

    input: str
    verbose: int
    params: Mapping[str, JSON]
    origin: Mapping[str, str]
    from_local: frozenset[str] = frozenset()
    ignored: tuple[Flag, ...] = ()
    output: str | None = None
    limit: int | None = None
    retry_failed: bool = False
    overwrite: bool = False
    force: bool = False
    fsync: Fsync | None = None
    strict: bool = False
    dry_run: bool = False
    model: str | None = None
    base_url: str | None = None
    proxy: str | None = None
    api_key_env: str | None = None
    env_file: str | None = None
    endpoint: Endpoint | None = None
    system: str | None = None
    concurrency: int | None = None
    rpm: float | None = None
    tpm: float | None = None
    timeout: float | None = None
    max_answer_memory: int | None = None
    max_attempts: int | None = None
    failure_threshold: int | None = None
    recovery_timeout: float | None = None
    success_threshold: int | None = None
    on_outage: OnOutage | None = None
    max_outage: float | None = None
    circuit_key: str | None = None
    progress: ProgressKind | None = None
    quiet: bool = False
    json: bool = False
    seed: int | None = None


def resolve(given: Given, environ: Mapping[str, str], folder: Path) -> Settings:
    """What holds for a command started in *folder*.

    Raises:
        UsageError: something is missing, misspelt, out of range, or contradicts something else.
    """
    values: dict[str, Value] = {}
    origin: dict[str, str] = {}
    params: dict[str, JSON] = {}
    ignored: list[Flag] = []
    local_key: Value | None = None
    local: set[str] = set()
    for path in reversed(_config_files(given, environ, folder)):  # the strongest last
        content = _content(folder / LOCAL_CONFIG) if path is _LOCAL_PATH else None
        file_values, file_params = read_config(path, content)
        # One that is named, by whatever path, is trusted.
        if content is not None and not is_trusted(folder / LOCAL_CONFIG, content, environ):
            file_values, ignored = restrict(file_values, folder)
            local_key = file_values.pop(_KEY, None)
            local.update(file_values)
        values |= file_values
        origin |= dict.fromkeys(file_values, str(path))
        params |= file_params
    for flag in _settable:
        if text := environ.get(flag.variable):  # an empty variable counts as unset, as in most tools
            values[flag.field] = _read(flag, text, flag.variable)
            origin[flag.field] = flag.variable
    for name, said in given.flags.items():
        flag = _by_field[name]
        values[name] = said if isinstance(said, bool) else _read(flag, said, flag.label)
        origin[name] = flag.label
    if local_key is not None and not _is_said(_by_field[_KEY], origin):
        if may_name_key(values.get("base_url"), values.get("proxy")):
            values[_KEY], origin[_KEY] = local_key, LOCAL_CONFIG
            local.add(_KEY)
        else:
            ignored.append(_by_field[_KEY])
    params |= dict(_param(text) for text in given.params)
    settings = Settings(
        input=_input(given),
        verbose=given.verbose,
        params=params,
        origin=origin,
        from_local=frozenset(name for name in local if origin[name] == LOCAL_CONFIG),
        ignored=tuple(flag for flag in ignored if not _is_said(flag, origin)),
        **values,  # type: ignore[arg-type]  # each was read by its flag's kind
    )
    _check_together(settings, environ)
    return settings


def output_of(settings: Settings) -> str:
    """Where the lines go: as told, else beside the input, else, for standard input, to standard output (``-``)."""
    from llmbatch.files.deferred import default_output

    if settings.output is not None:
        return settings.output
    return "-" if settings.input == "-" else str(default_output(settings.input))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(
            f"{LOCAL_CONFIG} cannot be read: {why}", hint="check its permissions, or name another file with --config"
        ) from error


def _is_said(flag: Flag, origin: Mapping[str, str]) -> bool:
    """Whether a flag or a variable says it, so that no file matters."""
    return origin.get(flag.field) in (flag.label, flag.variable)


def _input(given: Given) -> str:
    if given.input is not None and given.input_file is not None:
        raise UsageError("the input is given twice", hint="name it once: INPUT, or --input-file INPUT")
    path = given.input if given.input is not None else given.input_file
    if not path:
        raise UsageError("no input is given", hint="name a file of JSON lines, or '-' for standard input")
    return path


def _check_together(settings: Settings, environ: Mapping[str, str]) -> None:
    if settings.overwrite and settings.retry_failed:
        raise UsageError(
            "--overwrite and --retry-failed contradict each other",
            hint="--retry-failed keeps the lines that succeeded, --overwrite drops all",
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
    if settings.quiet and settings.verbose:
        raise UsageError("-q and -v contradict each other", hint="give one of them")
    if settings.proxy and "@" in settings.proxy and settings.origin["proxy"] != "LLMBATCH_PROXY":
        # Command lines are seen by everybody on the machine, and files are passed on.
        raise UsageError(
            f"{settings.origin['proxy']} holds a user name or a password", hint="put the proxy's URL in LLMBATCH_PROXY"
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


def _read(flag: Flag, text: str, source: str) -> Value:
    try:
        return flag.kind.from_text(text)
    except ValueError:
        said = "empty" if not text else f"'{shown(text[:80])}'"
        raise UsageError(
            f"{source} is {said}, must be {flag.kind.allowed}", hint=closest(text, flag) or _example(flag)
        ) from None


def _example(flag: Flag) -> str:
    if isinstance(flag.kind, Switch):
        return f"set {flag.variable}=1, or leave it unset"
    return "llmbatch run --help tells what each flag takes"


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
    except JSONError:
        return key, value
    return key, parsed if _is_exact(parsed, value) else JSONText(value.strip())


def _is_exact(parsed: JSON, text: str) -> bool:
    """Whether *parsed* is sent as it was typed: 1.10, 1e400 and integers of thousands of digits are not."""
    try:
        return dumps(parsed) == text.strip()
    except ValueError:
        return False


def _config_files(given: Given, environ: Mapping[str, str], folder: Path) -> list[Path]:
    """The files to read, the strongest first."""
    files: list[Path] = []
    named = given.config or environ.get("LLMBATCH_CONFIG")
    if named:
        files.append(Path(named))
    elif (folder / LOCAL_CONFIG).is_file():  # not a pipe, which would hang, nor a device without an end
        files.append(_LOCAL_PATH)
    home = environ.get("XDG_CONFIG_HOME", "")
    base = Path(home) if Path(home).is_absolute() else _home_config(environ)
    if base is not None and (base / "llmbatch" / "config.toml").exists():
        files.append(base / "llmbatch" / "config.toml")
    return files


def _home_config(environ: Mapping[str, str]) -> Path | None:
    home = environ.get("HOME")
    return Path(home, ".config") if home else None
