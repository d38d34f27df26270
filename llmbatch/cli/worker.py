"""One process of ``llmbatch run --workers``: it runs a shard as its parent says, and shows nothing itself."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any, BinaryIO

from llmbatch.cli.make_runner import build_runner
from llmbatch.cli.monitoring import send_telemetry
from llmbatch.cli.settings import Settings
from llmbatch.core.errors import LlmbatchError
from llmbatch.core.secrets import Mask
from llmbatch.report.fold import ProcessStats
from llmbatch.report.summary import Summary
from llmbatch.runner.earlier import NOTHING_EARLIER
from llmbatch.runs.event_loop import raise_file_limit, run_in_loop
from llmbatch.workers.messages import Done, Failed, read_message
from llmbatch.workers.relay import Relay, obey, sender

__all__ = ["Job", "main"]


@dataclass(frozen=True, slots=True)
class Job:
    """What one process runs: the settings of its shard, and the folder of the parts.

    *requests_today*: its part of those of earlier runs, as in :class:`~llmbatch.runner.earlier.EarlierRuns`.
    """

    settings: Settings
    folder: str
    requests_today: tuple[int, float] = NOTHING_EARLIER.requests_today


def main() -> int:
    """Run the job that comes on standard input; messages go to standard output, and what others print to the error.

    The terminal's signals are the parent's matter; it passes them on. Without a parent the run is stopped.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    messages = os.dup(1)
    os.dup2(2, 1)
    # A stream of its own: the interpreter waits a second at its end for a thread that reads from sys.stdin.
    commands = open(os.dup(0), "rb")  # noqa: PTH123, SIM115 - read until the process ends
    job: Job = read_message(commands)
    stats = ProcessStats()
    relay = Relay(sender(messages), stats, verbose=job.settings.verbose)
    raise_file_limit(job.settings.concurrency)
    try:
        relay.send(Done(run_in_loop(_run(job, stats, relay, commands))))
    except LlmbatchError as error:
        relay.send(Failed(error.message, error.hint, error.exit_code))
    except Exception as error:  # noqa: BLE001 - the parent says it, as the command does of its own
        mask = Mask(os.environ.values())
        relay.send(Failed(f"internal error: {type(error).__name__}: {mask(str(error))}", "report it", 70))
        return 70
    return 0


async def _run(job: Job, stats: ProcessStats, relay: Relay, commands: BinaryIO) -> Summary:
    settings = job.settings
    with send_telemetry(settings, lambda: relay) as telemetry:
        runner = build_runner(settings, [stats, relay], telemetry, requests_today=job.requests_today)

        def change(values: dict[str, Any]) -> None:
            runner.set(**values)
            raise_file_limit(runner.options.concurrency)

        obey(commands, runner, lambda: signal.raise_signal(signal.SIGTERM), change)
        async with relay.telling():
            return await runner.run(
                settings.input,
                f"{job.folder}/",
                limit=settings.limit,
                force=settings.force,
                fsync=settings.fsync,
                lock=settings.lock,
                input_format=settings.input_format,
                shard=settings.shard,
            )
