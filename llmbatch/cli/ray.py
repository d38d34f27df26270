"""``llmbatch run --ray ADDRESS --workers K``: one run on a Ray cluster, one display, one output."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from llmbatch.cli.joint_display import showing
from llmbatch.cli.live import LiveControl
from llmbatch.cli.make_runner import file_options_of, keywords_of
from llmbatch.cli.run import command_again, conclude, write_report_of
from llmbatch.cli.settings import Settings, target_of
from llmbatch.cli.signals import stop_on_signals
from llmbatch.control.protocol import Answer, Command
from llmbatch.core.errors import LlmbatchError, UsageError
from llmbatch.display.moved_run import refuse_moved_run
from llmbatch.report.summary import Summary
from llmbatch.runs.event_loop import run_in_loop
from llmbatch.runs.ray.cluster import LOCAL
from llmbatch.runs.ray.run import RayRun

__all__ = ["run_on_ray"]


def run_on_ray(settings: Settings) -> int:
    """Run the rows of ``settings.input`` on a Ray cluster and give the exit code.

    Raises:
        UsageError: something given is wrong, or there is no cluster that can do it.
        WriteError: the output could not be written.
    """
    if "workers" not in settings.origin:
        raise UsageError(
            f"{settings.origin['ray']} needs a number of workers", hint="say how many send the rows: --workers 4"
        )
    if settings.shard is not None:
        raise UsageError(
            "--ray and --shard exclude each other: the workers have shards of their own", hint="leave --shard out"
        )
    output = target_of(settings)
    job = RayRun(
        address=settings.ray,
        input=settings.input,
        output=output,
        keywords={**keywords_of(settings), "schema": settings.schema},
        files=file_options_of(settings),
        workers=settings.workers,
        verbose=settings.verbose,
        flag="--ray",
    )
    if not settings.overwrite:
        refuse_moved_run(output)
    command = command_again(sys.argv[1:])
    summary, error = run_in_loop(_run(settings, job, command))
    write_report_of(settings, output)
    if error is not None:
        raise error
    conclude(settings, summary, command, is_error_shown=False)
    return summary.exit_code


class _RayControl(LiveControl):
    """Refuses the commands to change a run whose rows actors send; *drain* does what a first Ctrl-C does."""

    def __init__(self, output: str, *, drain: Callable[[], None], say: Callable[[str], None]) -> None:
        super().__init__(output)
        self._drain, self._say = drain, say

    def obey(self, command: Command) -> Answer:
        """Carry out *command* if it stops the run."""
        if command.name == "drain":
            return Answer(True, self.drain())
        return Answer(
            False,
            f"a run on Ray takes no {command.name}: its actors are not changed while they send",
            "llmbatch drain stops it, and its command resumes it, with other flags if need be",
        )


async def _run(settings: Settings, job: RayRun, command: str) -> tuple[Summary, LlmbatchError | None]:
    async with contextlib.AsyncExitStack() as stack:
        show = await stack.enter_async_context(showing(settings, job.output, command, job.stats))
        live = _RayControl(job.output, drain=stack.enter_context(stop_on_signals(job, show.say)), say=show.say)
        show.observers.append(live)
        stack.callback(live.close)
        where = "starting Ray on this machine" if job.address == LOCAL else f"joining the Ray cluster at {job.address}"
        show.say(where, "info")
        job.requests_today = show.earlier
        return await job.run(show.emit, show.started)
