"""Reads the traceback of an exception: where it was raised, and whether that was while an SDK parsed an answer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from llmbatch.classify.client_errors import is_client_module
from llmbatch.classify.exceptions import said

__all__ = ["mismatch_reason", "raised_at"]

_HERE = f"{Path(__file__).parent.parent}{os.sep}"
_STANDARD = f"{Path(os.__file__).parent}{os.sep}"
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def raised_at(error: BaseException) -> str:
    """``file:line, in function``: the innermost line of the program's own, else of a library; empty if none is known.

    The lines of llmbatch itself do not count. The text of the line is not shown: it may hold a key.
    """
    own = library = ""
    for frame, line in _frames(error):
        path = frame.f_code.co_filename
        if path.startswith(_HERE):
            continue
        where = f"{path}:{line}, in {frame.f_code.co_name}"
        if path.startswith(("<frozen", _STANDARD)) or any(folder in path for folder in _INSTALLED):
            library = where
        else:
            own = where
    return own or library


def mismatch_reason(links: Sequence[BaseException]) -> str | None:
    """``schema_mismatch`` or ``truncated`` if an SDK could not parse an answer, which was paid for; else None.

    That is pydantic's ValidationError out of an SDK's ``parse()``, and instructor's after its own retries. One that the
    program raises itself is its own.
    """
    for link in links:
        names = {(kind.__module__.split(".")[0], kind.__name__) for kind in type(link).__mro__}
        is_pydantic = any(
            package in ("pydantic", "pydantic_core") and name == "ValidationError" for package, name in names
        )
        if ("instructor", "InstructorRetryException") in names or (is_pydantic and _in_parser(link)):
            is_cut = any("EOF while parsing" in said(other) for other in links)
            return "truncated" if is_cut else "schema_mismatch"
    return None


def _in_parser(error: BaseException) -> bool:
    """Whether *error* passed through a function or module of an SDK that parses answers."""
    for frame, _ in _frames(error):
        module = str(frame.f_globals.get("__name__", ""))
        if is_client_module(module) and "pars" in f"{module}.{frame.f_code.co_name}":
            return True
    return False


_MOST_FRAMES = 1000
"""Frames that are looked at, the newest first: an object that is raised again keeps those of each time before."""


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    traceback = error.__traceback__
    for _ in range(_MOST_FRAMES):
        if traceback is None:
            return
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
