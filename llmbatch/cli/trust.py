"""``llmbatch trust``: have all of a folder's ``llmbatch.toml`` count, as it is now.

As direnv does it: the hash of the file's path and content is kept in the user's state folder, so any change, or another
folder with the same file, is not trusted. What an untrusted file may set is :mod:`llmbatch.cli.local_config`'s to say.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from llmbatch.cli.local_config import LOCAL_CONFIG
from llmbatch.cli.terminal import print_out, shown
from llmbatch.core.errors import UsageError

__all__ = ["is_trusted", "trust"]


def is_trusted(path: Path, content: bytes, environ: Mapping[str, str]) -> bool:
    """Whether the user has trusted the file *path* with this very *content*."""
    record = _record(path, content, environ)
    return record is not None and record.is_file()


def trust(folder: str, *, revoke: bool, environ: Mapping[str, str]) -> int:
    """Trust the ``llmbatch.toml`` of *folder*, or with *revoke* no longer; gives the exit code.

    Raises:
        UsageError: there is no such file, or the list cannot be written.
    """
    path = Path(folder) / LOCAL_CONFIG
    try:
        if not path.is_file():
            raise UsageError(f"{shown(path)}: no such file", hint=f"name a folder with a {LOCAL_CONFIG} in it")
        record = _record(path, path.read_bytes(), environ)
        if record is None:
            raise UsageError("there is no place for the list of trusted files", hint="set HOME or XDG_STATE_HOME")
        if revoke:
            with contextlib.suppress(FileNotFoundError):
                record.unlink()
        else:
            record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            record.write_text(f"{os.path.realpath(path)}\n", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(
            f"{shown(error.filename or path)}: {why}", hint="check the path and its permissions"
        ) from error
    print_out(f"{shown(path)} is {'no longer trusted' if revoke else 'trusted until it changes'}")
    return 0


def _record(path: Path, content: bytes, environ: Mapping[str, str]) -> Path | None:
    """The file whose being there says that *path* is trusted; None where the user has no folder for it."""
    state = environ.get("XDG_STATE_HOME", "")
    if not Path(state).is_absolute():
        home = environ.get("HOME", "")
        if not Path(home).is_absolute():
            return None
        state = str(Path(home, ".local", "state"))
    digest = hashlib.sha256(os.fsencode(os.path.realpath(path)) + b"\0" + content).hexdigest()
    return Path(state, "llmbatch", "trusted", digest)
