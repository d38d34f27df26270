"""From ``sys.argv`` to an exit code: parse, run the command, and say what went wrong in two lines.

Every failure ends here: an ``error:`` line, a ``hint:`` line and the exit code of the contract; a traceback only with
``LLMBATCH_DEBUG``.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Mapping, Sequence

from llmbatch.cli.terminal import escape_unencodable, hold_descriptors, print_error, print_note, settle_streams
from llmbatch.core.errors import LlmbatchError, PipeClosedError, UsageError, WriteError

__all__ = ["run_command"]

_INTERNAL_ERROR = 70
_BAD_PATHS = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)})
_KEPT = "no finished row is lost"
_DEBUG_HINT = "run again with LLMBATCH_DEBUG=1 for the traceback, and report it"


def run_command() -> int:
    """Run the command that ``sys.argv`` names and give its exit code."""
    hold_descriptors()
    escape_unencodable()
    try:
        return _run_command()
    finally:
        settle_streams()


def _run_command() -> int:
    from llmbatch.cli.app import build_app
    from llmbatch.cli.help import as_usage_error

    if _names_a_shell(sys.argv[1:]):
        os.environ.setdefault("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # or typer takes no name of one
    try:
        code = build_app().main(prog_name="llmbatch", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (UsageError, WriteError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno in _BAD_PATHS and error.filename is not None:
            why = (error.strerror or "cannot be used").lower()
            return _fail(UsageError(f"{error.filename}: {why}", hint="check the path, and who may read it (ls -ld)"))
        if error.errno not in _NO_ROOM or error.filename is not None:
            return _fail_internally(error, os.environ)
        # What is written for the command line library: help, versions, completion.
        text = f"standard output could not be written: {error.strerror}"
        return _fail(WriteError(text, hint="free some space, or redirect it elsewhere"))
    except Exception as error:  # noqa: BLE001 - the last place that can keep a traceback off the screen
        usage = as_usage_error(error)
        return _fail(usage) if usage is not None else _fail_internally(error, os.environ)


def _names_a_shell(words: Sequence[str]) -> bool:
    """Whether completion is wanted for a shell that is named, and not for the one that this was typed in."""
    flag, has_value, _ = words[0].partition("=") if words else ("", "", "")
    return flag in ("--show-completion", "--install-completion") and (bool(has_value) or len(words) > 1)


def _fail(error: LlmbatchError) -> int:
    if isinstance(error, WriteError):
        advice = "free some space, then run the same command again: no finished row is lost"
    else:
        advice = "llmbatch --help lists the commands, llmbatch run --help every flag"
    if not isinstance(error, PipeClosedError):  # which ends silently, as any program in a pipe
        print_error(error.message, error.hint or advice)
    return error.exit_code


def _fail_internally(error: Exception, environ: Mapping[str, str]) -> int:
    import traceback

    from llmbatch.core.secrets import Mask

    mask = Mask(value for name, value in environ.items() if _holds_key(name))
    if environ.get("LLMBATCH_DEBUG"):
        for line in mask("".join(traceback.format_exception(error))).splitlines():
            print_note(line)
    shortage = _shortage(error)
    if shortage is not None:
        what, remedy = shortage
        print_error(f"this machine is out of {what}", f"{remedy}, then run the same command again: {_KEPT}")
    else:
        print_error(f"internal error: {type(error).__name__}: {mask(str(error))}", _DEBUG_HINT)
    return _INTERNAL_ERROR


def _shortage(error: BaseException) -> tuple[str, str] | None:
    """What this machine is out of, if that is why *error* was raised, and what helps; None: it has another reason."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_shortage, error.exceptions)), None)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return "file handles", "raise the limit (ulimit -n) or lower -c"
    if number == errno.ENOMEM or isinstance(error, MemoryError):
        return "memory", "give the process more of it (ulimit -v, the container's limit) or lower -c"
    if type(error) is RuntimeError and error.args == ("can't start new thread",):  # CPython's words
        return "threads", "raise the limit of processes (ulimit -u, the container's) or give it more memory"
    return None


_holds_key = re.compile("KEY|TOKEN|SECRET|PASS|CRED|AUTH", re.I).search
