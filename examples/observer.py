"""An observer that prints what the circuit does while a provider is out for two seconds. Needs no key.

An observer receives every event, on the event loop: return soon. One that raises is logged and left out; it cannot fail
a run. A plain function of an event would do too.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from llmbatch import BatchRunner, Event
from llmbatch.core.events import CircuitChanged, RowParked, RowsRequeued, RunEnded, RunStarted
from llmbatch.sim.server import start


class CircuitPrinter:
    """Prints changes of the circuit, with the seconds since the start."""

    def __init__(self) -> None:
        self._started = 0.0
        self._parked = 0

    def observe(self, event: Event) -> None:
        """Take one event."""
        match event:
            case RunStarted():
                self._started = event.at
            case CircuitChanged():
                self._say(event, f"{event.route}: {event.old} -> {event.new}, {event.reason}")
            case RowParked():
                self._parked += 1
            case RowsRequeued():
                self._say(event, f"{event.count} parked rows go again")
            case RunEnded():
                self._say(event, f"the end: exit code {event.exit_code}, rows were parked {self._parked} times")

    def _say(self, event: Event, text: str) -> None:
        print(f"{event.at - self._started:4.1f} s  {text}", flush=True)


async def main() -> None:
    """The scenario flash at twice its speed: fine for 1.5 s, down for 2 s, and then fine."""
    async with await start(scenario="flash", speed=2) as server:
        with tempfile.TemporaryDirectory() as folder:
            prompts = Path(folder) / "prompts.jsonl"
            prompts.write_text("".join(json.dumps({"prompt": f"Question {n}"}) + "\n" for n in range(120)))
            runner = BatchRunner(
                "flash", base_url=server.url, concurrency=8, recovery_timeout=0.5, observers=[CircuitPrinter()]
            )
            summary = await runner.run(prompts)
    print(f"{summary.success} rows succeeded, {summary.failed} failed; {summary.calls_avoided} calls spared")


asyncio.run(main())
