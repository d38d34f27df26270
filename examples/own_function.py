"""Any `async def call(row)` in place of a provider: an SDK, a database, your own model server. Needs no key.

Do not retry inside it: the runner does, and an outage of whatever it calls parks rows instead of burning them.
"""

from __future__ import annotations

import asyncio

from llmbatch import BatchRunner

calls = 0
down_until = 0.0


async def shout(row: object) -> dict[str, object]:
    """Stands for a call to something that is down from its 30th call on, for a second and a half."""
    global calls, down_until
    calls += 1
    await asyncio.sleep(0.02)
    now = asyncio.get_running_loop().time()
    if calls == 30:
        down_until = now + 1.5
    if now < down_until:
        raise ConnectionError("the service is down")
    return {"said": str(row).upper()}


async def main() -> None:
    """Send 100 rows through the outage."""
    # The canary is a row that may be sent at any time to find out whether the function works again.
    runner = BatchRunner(shout, concurrency=10, recovery_timeout=1.0, canary="ping")
    values = {}
    parked = 0
    async for result in runner.stream(f"row {number}" for number in range(100)):
        values[result.number] = result.value if result.ok else result.error
        parked += bool(result.deferrals)
    print(f"row 1: {values[1]}")
    print(f"{len(values)} rows, {parked} of them were parked, {calls} calls")


asyncio.run(main())
