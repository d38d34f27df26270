"""Servers on loopback that speak the batch APIs of providers which the simulated one does not, and runs against them.

A server is a provider's state and its faults; what a row costs is counted when it is answered, live or in a batch.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web

from llmbatch.providers.batches import families
from llmbatch.report.summary import Summary
from llmbatch.runs.batch_runner import BatchRunner

__all__ = ["BatchServer", "Job", "chat_answer", "lines_of", "poll_fast", "run_batches", "serving", "write_rows"]

_T = TypeVar("_T")


@dataclass
class Job:
    """A batch at the server. ``polls``: listings until it ends as ``end``, with a ``share`` of its rows run."""

    id: str
    file_id: str
    created: float
    rows: list[tuple[str, dict[str, Any]]]
    polls: int
    end: str
    share: float
    label: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    status: str = ""
    is_cancelled: bool = False
    answers: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)


class BatchServer:
    """State and faults of a server; subclasses add routes. For one event loop.

    Faults: the first batches end as ``ends`` says, ``(end, share)`` each; ``lost_creates`` creates are carried out and
    not answered; ``queue`` batches may run at once, more get a 429; rows whose prompt is in ``bad`` are refused.
    """

    key = "secret-of-the-server"

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, bytes]] = {}
        self.jobs: list[Job] = []
        self.polls = 2
        self.page_size: int | None = None
        self.ends: list[tuple[str, float]] = []
        self.lost_creates = 0
        self.queue: int | None = None
        self.refused_creates = 0
        self.bad: set[str] = set()
        self.all_bad = False
        self.paid: Counter[str] = Counter()
        self.live: list[str] = []
        self.calls: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.created = asyncio.Event()
        self.base = ""
        self.hangs = False

    def app(self) -> web.Application:
        """The application."""
        raise NotImplementedError

    def put_file(self, name: str, data: bytes) -> str:
        """Keep a file; its id."""
        self.made["file"] += 1
        file_id = f"file-{self.made['file']:04d}"
        self.files[file_id] = (name, data)
        return file_id

    def is_full(self) -> bool:
        """Whether one more batch is refused."""
        running = sum(1 for job in self.jobs if not job.status)
        if self.queue is not None and running >= self.queue:
            self.refused_creates += 1
            return True
        return False

    def add_job(self, file_id: str, rows: list[tuple[str, dict[str, Any]]], label: dict[str, Any], model: str) -> Job:
        """A new batch."""
        end, share = self.ends.pop(0) if self.ends else ("done", 1.0)
        self.made["job"] += 1
        job = Job(f"job-{self.made['job']:04d}", file_id, time.time(), rows, self.polls, end, share, label, model)
        self.jobs.append(job)
        self.created.set()
        return job

    async def maybe_lost(self, request: web.Request) -> None:
        """Close the connection instead of answering a create, or never answer it."""
        if self.hangs:
            await asyncio.sleep(3600)
        if self.lost_creates:
            self.lost_creates -= 1
            assert request.transport is not None
            request.transport.close()
            await asyncio.sleep(0)

    def tick(self) -> None:
        """A listing: time goes on for all batches."""
        for job in self.jobs:
            if not job.status:
                job.polls -= 1
                if job.polls <= 0 or job.is_cancelled:
                    self._end(job)

    def _end(self, job: Job) -> None:
        job.status = "cancelled" if job.is_cancelled else job.end
        count = round(len(job.rows) * job.share)
        for name, prompt in ((name, self.prompt_of(body)) for name, body in job.rows[:count]):
            if self.all_bad or prompt in self.bad:
                job.answers.append((name, 400, {"prompt": prompt}))
            else:
                self.paid[prompt] += 1
                job.answers.append((name, 200, {"prompt": prompt}))
        job.answers.reverse()  # never in the order of the rows

    def prompt_of(self, body: dict[str, Any]) -> str:
        """The prompt of a row's request."""
        text = body["messages"][-1]["content"]
        assert isinstance(text, str)
        return text

    async def answer_live(self, request: web.Request) -> web.Response:
        """A live chat completion."""
        body = await request.json()
        prompt = self.prompt_of(body)
        self.live.append(prompt)
        if prompt in self.bad:
            return web.json_response({"error": {"message": "bad row", "type": "invalid_request_error"}}, status=400)
        self.paid[prompt] += 1
        return web.json_response(chat_answer(prompt, body["model"]))


def chat_answer(prompt: str, model: str) -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": f"Answer to {prompt}"}
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 1_795_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def serving(server: BatchServer, main: Callable[[], Coroutine[Any, Any, _T]], *, limit: float = 120.0) -> _T:
    """Run *main* while *server* listens; ``server.base`` is its origin. A refused create may wait for 30 s."""

    async def run() -> _T:
        runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            return await asyncio.wait_for(main(), limit)
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def poll_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """List batches every 20 ms instead of every 15 s."""
    quick = tuple(replace(family, least_poll_s=0.02) for family in families.FAMILIES)
    monkeypatch.setattr(families, "FAMILIES", quick)


def write_rows(folder: Path, count: int) -> Path:
    """An input of *count* rows."""
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{n}", "prompt": f"row {n}"}) + "\n" for n in range(1, count + 1)))
    return path


def lines_of(output: Path) -> dict[int, dict[str, Any]]:
    """The lines by row; each row has one."""
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    counts = Counter(line["row"] for line in lines)
    assert max(counts.values(), default=0) <= 1
    return {line["row"]: line for line in lines}


async def run_batches(
    server: BatchServer, model: str, path: str, source: Path, output: Path, key_name: str, **options: Any
) -> Summary:
    """One life of the command, over real sockets."""
    settings: Any = {"via": "batch", **options}
    runner = BatchRunner[Any, None](
        model, base_url=f"{server.base}{path}", environ={key_name: server.key}, display=False, **settings
    )
    return await runner.run(str(source), str(output))
