"""What a ``./llmbatch.toml`` may set: the file may have come with somebody else's repository.

It never decides where a key goes, writes outside its own folder or has files from there sent, or hides that one of its
settings was ignored. Files that the user names (``--config``) or owns (``~/.config/llmbatch/config.toml``) are not
restricted. Does not read files.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from llmbatch.cli.terminal import tell_note
from llmbatch.runner.command_options import OPTIONS
from llmbatch.runner.option import Local, Option
from llmbatch.runner.value_types import Value

if TYPE_CHECKING:
    from llmbatch.cli.settings import Settings
    from llmbatch.core.headers import Headers
    from llmbatch.providers.pools import PoolRoute

__all__ = ["LOCAL_CONFIG", "is_loopback", "may_name_key", "restrict", "restrict_pools", "tell_about_local_file"]

LOCAL_CONFIG = "llmbatch.toml"
"""The file that is read from the current folder when no other is named."""

_WHY: dict[Local, str] = {
    "loopback": "it cannot send keys to another host",
    "key": "it cannot choose a key",
    "folder": "it cannot name files outside its folder",
    "subfolder": "it cannot have files read outside the folders below its own",
    "file": "it cannot read outside its folder, or import code",
    "literal": "it cannot send what your environment holds",
    "never": "only you can choose that",
}


def restrict(values: Mapping[str, Value], folder: Path) -> tuple[dict[str, Value], list[Option]]:
    """Split *values*, by option, into those that count and the options of those that are ignored.

    A setting of the kind ``key`` is kept here and settled by :func:`may_name_key`, once all sources are known.
    """
    kept: dict[str, Value] = {}
    ignored: list[Option] = []
    for name, value in values.items():
        if _may_set(OPTIONS[name], value, folder):
            kept[name] = value
        else:
            ignored.append(OPTIONS[name])
    return kept, ignored


def restrict_pools(
    pools: Mapping[str, tuple[PoolRoute, ...]],
) -> tuple[dict[str, tuple[PoolRoute, ...]], list[str]]:
    """Split *pools* into those that count and the names of those that are ignored.

    A route may go to this machine, or to a known provider with that provider's own key.
    """
    kept = {name: routes for name, routes in pools.items() if all(map(_may_route, routes))}
    return kept, [name for name in pools if name not in kept]


def _may_route(route: PoolRoute) -> bool:
    if route.base_url is not None:
        return is_loopback(route.base_url)
    return route.api_key_env is None


def may_name_key(base_url: Value | None, proxy: Value | None) -> bool:
    """Whether a ``./llmbatch.toml`` may name the variable of the key: only if every request stays on this machine."""
    return base_url is not None and is_loopback(base_url) and (proxy is None or is_loopback(proxy))


def is_loopback(url: Value) -> bool:
    """Whether the host of *url* is literally ``localhost``, in 127.0.0.0/8, or ``::1``. Nothing is looked up."""
    try:
        host = urlsplit(str(url).strip()).hostname
        if host is None or host == "localhost":
            return host is not None
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address == ipaddress.IPv6Address("::1") and address.scope_id is None
    return address in ipaddress.IPv4Network("127.0.0.0/8")


def tell_about_local_file(settings: Settings) -> None:
    """Say on standard error what of ``./llmbatch.toml`` is ignored, and where it sends requests.

    ``-q`` mutes that, unless it is this very file that says ``quiet``.
    """
    if settings.quiet and "quiet" not in settings.from_local:
        return
    as_json = settings.progress == "json"
    if settings.ignored:
        tell_note(*_ignored_note(settings.ignored), as_json=as_json)
    if settings.ignored_pools:
        names = ", ".join(f"pools.{name}" for name in settings.ignored_pools)
        tell_note(
            f"./{LOCAL_CONFIG} sets {names}, which is ignored: {_WHY['loopback']} and {_WHY['key']}",
            f"if you trust the file, add --config {LOCAL_CONFIG} or run llmbatch trust",
            as_json=as_json,
        )
    counts = [name for name in ("base_url", "proxy", "api_key_env") if name in settings.from_local]
    if counts:
        tell_note(f"./{LOCAL_CONFIG} sets {' and '.join(counts)}, and so where requests go", "", as_json=as_json)


def _ignored_note(ignored: Sequence[Option]) -> tuple[str, str]:
    """What to tell about ignored settings, and what to type to have them count."""
    names = ", ".join(option.name for option in ignored)
    reasons = " and ".join(dict.fromkeys(_WHY[option.local] for option in ignored if option.local != "any"))
    flags = " ".join(f"{option.flag} {option.value.metavar}".rstrip() for option in ignored)
    return (
        f"./{LOCAL_CONFIG} sets {names}, which is ignored: {reasons}",
        f"if you trust the file, add --config {LOCAL_CONFIG} or run llmbatch trust; else set it yourself: {flags}",
    )


def _may_set(option: Option, value: Value, folder: Path) -> bool:
    match option.local:
        case "any" | "key":
            return True
        case "loopback":
            return is_loopback(value)
        case "folder":
            return value == "-" or _is_inside(str(value), folder)
        case "subfolder":
            return _is_inside(str(value), folder)
        case "file":
            return ":" not in str(value) and _is_inside(str(value), folder)
        case "literal":
            return isinstance(value, tuple) and not any("$" in text for _, text in cast("Headers", value))
        case "never":
            return False


def _is_inside(path: str, folder: Path) -> bool:
    """Whether *path* stays in *folder* once ``..`` and links are followed."""
    try:
        root = os.path.realpath(folder)
        target = os.path.realpath(Path(root, path))
        return target != root and os.path.commonpath((root, target)) == root
    except (OSError, ValueError):
        return False
