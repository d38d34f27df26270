"""How the command speaks: data on standard output, all else on standard error, nothing unescaped.

What this module does not do: colour, progress or tables; those belong to :mod:`llmbatch.display`, as does the escaping.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys

from llmbatch.core.errors import WriteError

__all__ = [
    "escape_unencodable",
    "hold_descriptors",
    "is_interactive",
    "print_error",
    "print_note",
    "print_out",
    "print_text",
    "settle_streams",
    "shown",
    "tell_note",
]


def shown(text: object) -> str:
    """*text* on one line, with everything that could steer a terminal written as an escape."""
    from llmbatch.display.phrases import shown as escaped  # here, as ``--help`` needs none of that floor

    return escaped(text)


def tell_note(message: str, hint: str = "", *, as_json: bool = False) -> None:
    """Print a note and its hint on standard error; with *as_json* as one of the lines that a run's display writes."""
    if as_json:
        import json
        from datetime import UTC, datetime

        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        notice = {"event": "notice", "time": stamp, "level": "warning", "message": message, "hint": hint}
        print_note(json.dumps(notice, separators=(",", ":")))
        return
    print_note(f"note: {message}")
    if hint:
        print_note(f"hint: {hint}")


def is_interactive() -> bool:
    """Whether standard input and standard error are both a terminal."""
    try:
        return all(stream is not None and os.isatty(stream.fileno()) for stream in (sys.stdin, sys.stderr))
    except (OSError, ValueError):  # closed, or of no file
        return False


def hold_descriptors() -> None:
    """Take the places of standard streams that are closed (``>&-``), the wrong way round, so that using them fails.

    Else the next file or socket gets the place, and lines meant for standard output go into it.
    """
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, mode)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)


def escape_unencodable() -> None:
    """Have standard output write what its encoding lacks (Windows' code pages, a Latin-1 locale) as an escape."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def settle_streams() -> None:
    """Flush what standard streams still hold, or drop it: else the interpreter fails at that and exits with 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                with contextlib.suppress(OSError, ValueError):
                    _drop(stream.fileno())


def print_error(message: str, hint: str) -> None:
    """Two lines on standard error: what is wrong, and what to try."""
    _to_stderr(f"error: {_phrase(message)}\nhint: {_phrase(hint)}\n")


def print_note(text: str) -> None:
    """One line on standard error."""
    _to_stderr(shown(text) + "\n")


def print_out(text: str) -> None:
    """Write *text* and a line break to standard output, as :func:`print_text`.

    Raises:
        WriteError: standard output is closed or its disk is full.
    """
    print_text(text + "\n")


def print_text(text: str) -> None:
    """Write *text* to standard output, at once.

    A reader that went away (``| head``) has what it wanted: the rest is dropped silently.

    Raises:
        WriteError: standard output is closed or its disk is full.
    """
    if sys.stdout is None:
        raise WriteError("standard output is closed", hint="leave it open, or redirect it to a file")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop(sys.stdout.fileno())
    except OSError as error:
        _drop(sys.stdout.fileno())
        raise WriteError(
            f"standard output could not be written: {error.strerror}", hint="free some space, or redirect it elsewhere"
        ) from error


def _phrase(text: str) -> str:
    line = shown(text.strip().replace("\n", " "))
    return line.removesuffix(".") if not line.endswith("..") else line


def _to_stderr(text: str) -> None:
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # nobody reads it, and there is no other place to say so
        _drop(sys.stderr.fileno())


def _drop(descriptor: int) -> None:
    # The interpreter flushes both streams again at exit, and would complain there.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
