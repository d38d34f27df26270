"""A provider of one's own: anything that can answer a row, here a queue of two pretend GPUs in this process.

Subclass `Provider`, say where a row can go (`routes`), what it becomes there (`request`), and call it once (`call`).
The run adds the circuit, retries, pace, deferral, and exactly one result per row.
"""

import asyncio
from collections.abc import Sequence

from llmbatch import BatchRunner, Outcome, Provider, Request, Route, Row, Usage


class PretendGpus(Provider):
    """Answers in upper case, and remembers: a prompt that was answered before takes no call at all."""

    def __init__(self) -> None:
        self.calls = 0
        self._gpus = [Route(f"gpu-{n}", "this machine", f"gpu://{n}") for n in range(2)]
        self._answers: dict[bytes, str] = {}

    def routes(self, row: Row) -> Sequence[Route]:
        """Rows alternate between the two."""
        return [self._gpus[row.number % 2]]

    def request(self, row: Row, route: Route) -> Request:
        """The prompt is all there is to send. Four bytes are about one token."""
        body = row.fields["prompt"].encode()
        return Request(route, route.base_url, {}, body, "pretend", tokens=len(body) // 4)

    def lookup(self, row: Row, request: Request) -> Outcome | None:
        """An answer to the same prompt, given before."""
        text = self._answers.get(request.body)
        return None if text is None else Outcome("success", status=200, text=text)

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:  # noqa: ASYNC109 - the port's
        """Think for 20 ms. An exception would be a bug; what goes wrong is an outcome."""
        self.calls += 1
        await asyncio.sleep(0.02)
        text = request.body.decode().strip('"').upper()
        self._answers[request.body] = text
        return Outcome("success", status=200, text=text, usage=Usage(len(text) // 4, len(text) // 4))


async def main() -> None:
    """Twenty rows, five prompts."""
    provider = PretendGpus()
    prompts = ["red", "green", "blue", "cyan", "gold"]
    async for result in BatchRunner(provider, concurrency=5).stream(prompts * 4):
        print(f"row {result.number:2}  {result.model}  {result.text}")
    print(f"{provider.calls} calls for {4 * len(prompts)} rows")


if __name__ == "__main__":
    asyncio.run(main())
