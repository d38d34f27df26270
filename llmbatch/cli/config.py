"""One configuration file: TOML, its top-level keys named like the flags of ``run``, and ``[params]`` and ``[pools]``.

Names and values come from the table in :mod:`llmbatch.runner.command_options`, and a message names file and key. A file
that holds an API key is refused. :mod:`llmbatch.cli.settings` finds the files and ranks them.
"""

from __future__ import annotations

import difflib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from llmbatch.cli.terminal import shown
from llmbatch.core.calls import record
from llmbatch.core.errors import UsageError
from llmbatch.core.raw_json import JSON
from llmbatch.runner.command_options import OPTIONS
from llmbatch.runner.intents import find_intent
from llmbatch.runner.option import Option
from llmbatch.runner.value_types import Value

if TYPE_CHECKING:
    from llmbatch.providers.pools import PoolRoute

__all__ = ["KEY_HINT", "Config", "is_secret_name", "read_config"]

KEY_HINT = "keys come from the environment, such as OPENAI_API_KEY; --api-key-env names another variable"

_by_key = {key: option for option in OPTIONS.values() for key in option.keys}
_secret = re.compile(
    r"(?:.*_)?api_?key|(?:access_|auth_|bearer_)?token|(?:.*_)?(?:secret|password)|authorization", re.I
)


def is_secret_name(name: str) -> bool:
    """Whether a value of this name would be a key or a password."""
    return _secret.fullmatch(name.replace("-", "_")) is not None


@record
class Config:
    """What a file says: settings by option, its ``[params]``, and its ``[pools]``."""

    values: dict[str, Value]
    params: dict[str, JSON]
    pools: dict[str, tuple[PoolRoute, ...]]


def read_config(path: Path, content: bytes | None = None) -> Config:
    """Read the file; *content* is what it holds, where it was read already.

    Raises:
        UsageError: the file cannot be read, or says something that is not allowed.
    """
    import tomllib  # a run without such a file needs none of it

    where = shown(path)
    try:
        text = (path.read_bytes() if content is None else content).decode("utf-8-sig")
        table = tomllib.loads(text)
    except FileNotFoundError:
        raise UsageError(f"{where}: no such file", hint="--config takes the path of a TOML file") from None
    except OSError as error:
        raise UsageError(
            f"{where} cannot be read: {(error.strerror or '').lower()}", hint="check the path and its permissions"
        ) from error
    except UnicodeDecodeError:
        raise UsageError(f"{where} is not UTF-8", hint="save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{where} is not TOML: {error}", hint='a line reads: model = "openai/gpt-5-mini"') from None
    values: dict[str, Value] = {}
    params: dict[str, JSON] = {}
    pools: dict[str, tuple[PoolRoute, ...]] = {}
    for written, value in table.items():
        key = written.replace("-", "_")
        if key == "params":
            params = _params_table(value, where)
        elif key == "pools":
            from llmbatch.providers.pools import read_pools

            pools = read_pools(value, f"{where}: pools")
        elif is_secret_name(key):
            raise UsageError(
                f"{where}: {shown(written)} looks like a key, and keys do not belong in files", hint=KEY_HINT
            )
        else:
            option = _known(key, written, where, value)
            if option.name in values:
                raise UsageError(f"{where}: {shown(written)} is set twice", hint="keep one of the two spellings")
            values[option.name] = option.from_toml(value, f"{where}: {shown(written)}")
    return Config(values, params, pools)


def _known(key: str, written: str, where: str, value: object) -> Option:
    option = _by_key.get(key)
    if option is not None and option.settable:
        return option
    if option is not None:
        raise UsageError(
            f"{where}: {shown(written)} can only be a flag",
            hint=f"give {option.flag} on the command line when you mean it",
        )
    intent = find_intent(key)
    if intent:
        raise UsageError(f"{where}: {shown(written)} is not a setting", hint=intent)
    allowed = [*(option.name for option in OPTIONS.values() if option.settable), "params", "pools"]
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f"did you mean {close[0]}?" if close else "allowed are " + ", ".join(allowed)
    if isinstance(value, dict) and not close:
        hint = f"settings stand at the top of the file: leave out the line [{shown(written)}]"
    raise UsageError(f"{where}: {shown(written)} is not a setting", hint=hint)


def _params_table(value: object, where: str) -> dict[str, JSON]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: params must be a table", hint="write [params], then temperature = 0.2 below it")
    params: dict[str, JSON] = {}
    for key, item in value.items():
        if is_secret_name(key):
            raise UsageError(f"{where}: params.{shown(key)} looks like a key", hint=KEY_HINT)
        params[key] = _json_value(item, f"{where}: params.{shown(key)}")
    return params


def _json_value(value: object, source: str) -> JSON:
    """TOML knows dates, infinities and NaN, which JSON has no form for."""
    match value:
        case dict():
            return {str(key): _json_value(item, source) for key, item in value.items()}
        case list():
            return [_json_value(item, source) for item in value]
        case float() if not math.isfinite(value):
            raise UsageError(f"{source} is not a number that JSON has", hint="give a finite number")
        case str() | bool() | int() | float():
            return value
        case _:
            raise UsageError(
                f"{source} is {shown(value)}, which JSON has no form for", hint="write it as text, in quotes"
            )
