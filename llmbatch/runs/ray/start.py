"""``llmbatch.runs.ray.run``: the rows of a file, sent by the actors of a Ray cluster, from Python."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

from llmbatch.core.errors import UsageError
from llmbatch.core.observers import Observers, as_observers
from llmbatch.outputs.parts import default_target
from llmbatch.report.summary import Summary
from llmbatch.runner.command_options import Fsync, Lock
from llmbatch.runs.file_options import FileOptions
from llmbatch.runs.keyword_types import Keywords
from llmbatch.runs.logging_observer import LoggingObserver
from llmbatch.runs.ray.run import RayRun

if TYPE_CHECKING:
    from llmbatch.inputs.format_names import InputFormat

__all__ = ["run"]

_STAYS_HERE: Final = frozenset(
    {"canary", "environ", "filesystem", "judge_error", "judge_result", "meter_provider", "tracer_provider", "transport"}
)
"""Keywords of ``BatchRunner`` that belong to one process."""

_WATCHES: Final = frozenset({"display", "observers"}) | _STAYS_HERE
"""Those that the actors do not get."""


async def run(
    input: str | Path,  # noqa: A002 - as of BatchRunner.run
    output: str | Path | None = None,
    model: str | None = None,
    *,
    address: str | None = None,
    workers: int,
    limit: int | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    strict: bool = False,
    force: bool = False,
    fsync: Fsync = "group",
    lock: Lock = "on",
    input_format: InputFormat | None = None,
    **keywords: Unpack[Keywords],
) -> Summary:
    """Send every row of *input* that has no line in *output* by *workers* actors; one line per row, as by one process.

    *address*: ``HOST:PORT``, ``auto``, ``local`` for a cluster that lasts as long as the run; None: ``auto``. If this
    process is connected with Ray already, that cluster is used. *input* and *output* must be on a file system that all
    nodes see. Keys are read from the environment of the nodes. ``concurrency``, ``rpm``, ``tpm``, ``rpd`` and
    ``max_cost`` mean all actors together. The other arguments are those of :class:`~llmbatch.BatchRunner` and its
    ``run``, but for those that belong to one process, such as a function in place of a model.

    Canceling it ends the actors; what has its line stays, and the same call resumes.

    Raises:
        UsageError: an argument is wrong, Ray is not installed, there is no cluster at *address* or one of another
            version, or a node sees other files; nothing was sent.
        WriteError: a line could not be written; the same call resumes.
    """
    if model is not None and not isinstance(model, str):
        raise UsageError("a run on Ray needs the name of a model", hint="write PROVIDER/MODEL; a function stays here")
    unfit = sorted(_STAYS_HERE & {name for name, value in keywords.items() if value is not None})
    if unfit:
        raise UsageError(f"{unfit[0]} belongs to one process, and Ray has several", hint="leave it out")
    job = RayRun(
        address=address,
        input=str(input),
        output=str(default_target(input) if output is None else output),
        keywords={"model": model, **{name: value for name, value in keywords.items() if name not in _WATCHES}},
        files=FileOptions(
            limit=limit,
            retry_failed=retry_failed,
            require_finish=bool(keywords.get("require_finish", False)),
            overwrite=overwrite,
            strict=strict,
            force=force,
            fsync=fsync,
            lock=lock,
            input_format=input_format,
        ),
        workers=workers,
    )
    given = as_observers(keywords.get("observers", ()))
    observers = Observers([job.stats, *given, LoggingObserver()], asyncio.get_running_loop().time)
    summary, error = await job.run(observers.observe)
    if error is not None:
        raise error
    return summary
