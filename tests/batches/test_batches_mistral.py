"""Runs over Mistral's batch jobs, against a server on loopback: each row one line, and paid for once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from batch_servers import BatchServer, Job, chat_answer, lines_of, poll_fast, run_batches, serving, write_rows

from llmbatch.core.calls import Request, Route
from llmbatch.providers.batches.mistral import mistral_line, read_mistral_result
from llmbatch.report.summary import Summary

_STATES = {
    "done": "SUCCESS",
    "expired": "TIMEOUT_EXCEEDED",
    "cancelled": "CANCELLED",
    "failed": "FAILED",
}


class MistralServer(BatchServer):
    """Mistral's files and batch jobs."""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024, middlewares=[self._check])
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files", self._list_files)
        app.router.add_get("/v1/files/{id}", self._file)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_delete("/v1/files/{id}", self._delete)
        app.router.add_post("/v1/batch/jobs", self._create)
        app.router.add_get("/v1/batch/jobs", self._list)
        app.router.add_get("/v1/batch/jobs/{id}", self._get)
        app.router.add_post("/v1/batch/jobs/{id}/cancel", self._cancel)
        app.router.add_post("/v1/chat/completions", self.answer_live)
        return app

    @web.middleware
    async def _check(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls[f"{request.method} {request.path}"] += 1
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"detail": "Unauthorized"}, status=401)
        answer = await handler(request)
        assert isinstance(answer, web.StreamResponse)
        return answer

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form["file"]
        assert form["purpose"] == "batch"
        assert isinstance(file, web.FileField)
        file_id = self.put_file(file.filename, file.file.read())
        return web.json_response(self._file_object(file_id))

    def _file_object(self, file_id: str) -> dict[str, Any]:
        name, data = self.files[file_id]
        return {"id": file_id, "object": "file", "bytes": len(data), "created_at": 1_795_000_000, "filename": name}

    def _page(self, request: web.Request, items: list[dict[str, Any]]) -> web.Response:
        size = min(int(request.query.get("page_size", "100")), self.page_size or 100)
        start = int(request.query.get("page", "0")) * size
        return web.json_response({"data": items[start : start + size], "object": "list", "total": len(items)})

    async def _list_files(self, request: web.Request) -> web.Response:
        return self._page(request, [self._file_object(file_id) for file_id in reversed(self.files)])

    async def _file(self, request: web.Request) -> web.Response:
        file_id = request.match_info["id"]
        if file_id not in self.files:
            return web.json_response({"detail": "not found"}, status=404)
        return web.json_response(self._file_object(file_id))

    async def _content(self, request: web.Request) -> web.Response:
        file_id = request.match_info["id"]
        if file_id not in self.files:
            return web.json_response({"detail": "not found"}, status=404)
        return web.Response(body=self.files[file_id][1], content_type="application/octet-stream")

    async def _delete(self, request: web.Request) -> web.Response:
        self.files.pop(request.match_info["id"], None)
        return web.json_response({"id": request.match_info["id"], "object": "file", "deleted": True})

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.is_full():
            return web.json_response({"message": "Too many pending requests in the workspace"}, status=429)
        assert set(body) == {"input_files", "endpoint", "model", "metadata", "timeout_hours"}
        assert body["endpoint"] == "/v1/chat/completions"
        assert body["timeout_hours"] == 24
        [file_id] = body["input_files"]
        lines = [json.loads(line) for line in self.files[file_id][1].splitlines()]
        assert all(set(line) == {"custom_id", "body"} for line in lines)
        rows = [(line["custom_id"], line["body"]) for line in lines]
        job = self.add_job(file_id, rows, body["metadata"], body["model"])
        await self.maybe_lost(request)
        return web.json_response(self._object(job))

    def _object(self, job: Job) -> dict[str, Any]:
        good = [one for one in job.answers if one[1] == 200]
        return {
            "id": job.id,
            "object": "batch",
            "input_files": [job.file_id],
            "metadata": job.label,
            "endpoint": "/v1/chat/completions",
            "model": job.model,
            "status": _STATES[job.status] if job.status else ("RUNNING" if job.polls < self.polls else "QUEUED"),
            "output_file": self._results(job, "output", ok=True),
            "error_file": self._results(job, "errors", ok=False),
            "errors": [{"message": "the file is no good", "count": 1}] if job.status == "failed" else [],
            "created_at": int(job.created),
            "started_at": None,
            "completed_at": int(job.created) if job.status else None,
            "total_requests": len(job.rows),
            "completed_requests": len(job.answers),
            "succeeded_requests": len(good),
            "failed_requests": len(job.answers) - len(good),
        }

    def _results(self, job: Job, kind: str, *, ok: bool) -> str | None:
        """The file of results, made when it is first named."""
        file_id = f"{job.id}-{kind}"
        found = [one for one in job.answers if (one[1] == 200) is ok]
        if not found:
            return None
        if file_id not in self.files and job.status:
            self.files[file_id] = (file_id, b"".join(self._line(job, *one) for one in found))
        return file_id

    def _line(self, job: Job, name: str, status: int, what: dict[str, Any]) -> bytes:
        body: Any = chat_answer(what["prompt"], job.model)
        if status != 200:  # the body of a refusal is a text
            body = json.dumps(
                {"object": "error", "message": "bad row", "type": "invalid_request_error", "code": "3051"}
            )
        line = {"id": f"b-{name}", "custom_id": name, "response": {"status_code": status, "body": body}, "error": None}
        return json.dumps(line).encode() + b"\n"

    async def _list(self, request: web.Request) -> web.Response:
        self.tick()
        assert request.query["created_after"].endswith("Z")
        return self._page(request, [self._object(job) for job in reversed(self.jobs)])

    async def _get(self, request: web.Request) -> web.Response:
        found = [job for job in self.jobs if job.id == request.match_info["id"]]
        return web.json_response(self._object(found[0])) if found else web.json_response({}, status=404)

    async def _cancel(self, request: web.Request) -> web.Response:
        [job] = [job for job in self.jobs if job.id == request.match_info["id"]]
        job.is_cancelled, job.share = True, 0.4
        return web.json_response({**self._object(job), "status": "CANCELLATION_REQUESTED"})


def _run(server: MistralServer, folder: Path, rows: int, **options: Any) -> Summary:
    source = write_rows(folder, rows)
    return serving(server, lambda: _life(server, source, folder / "out.jsonl", **options))


async def _life(server: MistralServer, source: Path, output: Path, **options: Any) -> Summary:
    model = "mistral/mistral-small-latest"
    return await run_batches(server, model, "/v1", source, output, "MISTRAL_API_KEY", **options)


def _check_whole(folder: Path, rows: int) -> dict[int, dict[str, Any]]:
    lines = lines_of(folder / "out.jsonl")
    assert sorted(lines) == list(range(1, rows + 1))
    return lines


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    poll_fast(monkeypatch)


@pytest.mark.slow  # the first run of all, with its imports
def test_rows_go_through_a_job_and_come_back_in_any_order(tmp_path: Path) -> None:
    """Each row has its own answer; the files are deleted at the provider afterwards."""
    server = MistralServer()

    summary = _run(server, tmp_path, 60)

    assert summary.exit_code == 0
    lines = _check_whole(tmp_path, 60)
    for number, line in lines.items():
        assert line["via"] == "batch"
        assert line["batch_id"] == "job-0001"
        assert line["response"]["body"]["choices"][0]["message"]["content"] == f"Answer to row {number}"
        assert line["id"] == f"r{number}"
    assert set(server.paid.values()) == {1}
    assert server.jobs[0].model == "mistral-small-latest"
    assert not server.live
    assert not server.files


def test_a_listing_in_pages_is_read_to_its_end(tmp_path: Path) -> None:
    """Batches on later pages are seen, also where the server gives smaller pages than asked for."""
    server = MistralServer()
    server.page_size = 2

    summary = _run(server, tmp_path, 70, chunk_rows=10)

    assert summary.exit_code == 0
    assert len(server.jobs) == 7
    _check_whole(tmp_path, 70)
    assert set(server.paid.values()) == {1}


@pytest.mark.parametrize("end", ["expired", "cancelled", "failed"])
def test_what_an_unfinished_job_did_is_kept_and_the_rest_sent_once_more(tmp_path: Path, end: str) -> None:
    """A job that timed out, was canceled or failed half way: its rows are paid for once."""
    server = MistralServer()
    server.ends = [(end, 0.37)]

    summary = _run(server, tmp_path, 100)

    assert summary.exit_code == 0
    lines = _check_whole(tmp_path, 100)
    assert [line["batch_id"] for line in lines.values()].count("job-0001") == 37
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == 100


def test_refused_rows_fail_with_the_words_of_the_provider(tmp_path: Path) -> None:
    """The body of a refusal is a text that holds JSON."""
    server = MistralServer()
    server.bad = {"row 5"}

    summary = _run(server, tmp_path, 20)

    assert summary.exit_code == 1
    lines = _check_whole(tmp_path, 20)
    assert lines[5]["status"] == "failed"
    assert "bad row" in json.dumps(lines[5]["error"])
    assert len(server.paid) == 19


def test_a_job_with_an_error_file_only_stops_the_run(tmp_path: Path) -> None:
    """All rows refused is a refusal of the run: nothing is marked failed."""
    server = MistralServer()
    server.all_bad = True

    summary = _run(server, tmp_path, 60)

    assert summary.exit_code == 3
    assert not (tmp_path / "out.jsonl").exists()
    assert not server.paid


def test_a_job_that_failed_as_a_whole_stops_the_run_with_its_words(tmp_path: Path) -> None:
    """Without any results, nothing ran."""
    server = MistralServer()
    server.ends = [("failed", 0.0)]

    summary = _run(server, tmp_path, 60)

    assert summary.exit_code == 3
    assert "the file is no good" in str(summary.stopped_reason)
    assert not server.paid


@pytest.mark.slow  # the control plane is probed after some seconds
def test_a_create_whose_answer_is_lost_is_not_sent_again(tmp_path: Path) -> None:
    """The job is found in the listing by its label."""
    server = MistralServer()
    server.lost_creates = 1

    summary = _run(server, tmp_path, 60)

    assert summary.exit_code == 0
    assert len(server.jobs) == 1
    _check_whole(tmp_path, 60)
    assert set(server.paid.values()) == {1}


@pytest.mark.slow  # polls until one job after the other has ended
def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    """A 429 at a create costs no attempt; the next job follows when the one before has ended."""
    server = MistralServer()
    server.queue = 1

    summary = _run(server, tmp_path, 60, chunk_rows=20)

    assert summary.exit_code == 0
    assert server.refused_creates
    assert {line["attempts"] for line in _check_whole(tmp_path, 60).values()} == {1}
    assert len(server.jobs) == 3


@pytest.mark.slow  # a deadline of 2 s
def test_the_deadline_cancels_and_sends_the_rest_live(tmp_path: Path) -> None:
    """What the canceled job did is kept; no row is in both."""
    server = MistralServer()
    server.polls = 1_000_000

    summary = _run(server, tmp_path, 60, deadline=2.0)

    assert summary.exit_code == 0
    lines = _check_whole(tmp_path, 60)
    assert sum(1 for line in lines.values() if line.get("via") == "batch") == 24
    assert len(server.live) == 36
    assert set(server.paid.values()) == {1}


@pytest.mark.slow  # two processes
@pytest.mark.skipif(sys.platform == "win32", reason="kills with a signal")
def test_a_killed_run_without_its_journal_pays_once(tmp_path: Path) -> None:
    """Killed while the create is not answered; the same command finds the job by the provider's listing alone."""
    server, source, output = MistralServer(), write_rows(tmp_path, 60), tmp_path / "out.jsonl"

    async def run() -> int:
        server.hangs = True
        first = await _command(server, source, output)
        await server.created.wait()
        first.kill()
        await first.wait()
        (tmp_path / "out.batch.jsonl").unlink()
        server.hangs, server.polls = False, 1
        server.jobs[0].polls = 1
        second = await _command(server, source, output)
        return await second.wait()

    code = serving(server, run)

    assert code == 0
    assert len(server.jobs) == 1
    assert len(lines_of(output)) == 60
    assert set(server.paid.values()) == {1}


async def _command(server: MistralServer, source: Path, output: Path) -> asyncio.subprocess.Process:
    address = ("--base-url", f"{server.base}/v1")
    command = ("-m", "llmbatch", "run", str(source), "-o", str(output), "-m", "mistral/mistral-small-latest")
    environ = {**os.environ, "MISTRAL_API_KEY": server.key}
    return await asyncio.create_subprocess_exec(sys.executable, *command, *address, "--via", "batch", env=environ)


def test_a_line_holds_the_request_unchanged() -> None:
    """But for line breaks; Mistral takes no method and no URL."""
    request = Request(Route("m", "a"), "u", {}, b'{"model":"m",\n"messages":[]}', "chat", 1)

    line = b"".join(mistral_line("lb-1", request))

    assert line == b'{"custom_id":"lb-1","body":{"model":"m", "messages":[]}}\n'


@pytest.mark.parametrize(
    ("line", "status", "body"),
    [
        ('{"custom_id":"a","response":{"status_code":200,"body":{"x":1}},"error":null}', 200, b'{"x":1}'),
        ('{"custom_id":"a","response":{"body":{"x":1}}}', 200, b'{"x":1}'),
        ('{"custom_id":"a","response":{"status_code":422,"body":"{\\"x\\":1}"}}', 422, b'{"x":1}'),
        ('{"custom_id":"a","response":{"status_code":500,"body":"oops"}}', 500, b'{"message":"oops"}'),
    ],
)
def test_result_lines_are_read_as_live_answers(line: str, status: int, body: bytes) -> None:
    """Objects, texts that hold one, and other texts."""
    result = read_mistral_result(line.encode())

    assert result is not None
    assert result.reply is not None
    assert (result.reply.status, result.reply.body.replace(b" ", b"")) == (status, body)


def test_lines_without_an_id_are_none() -> None:
    """Garbage in a results file is counted, not raised."""
    assert read_mistral_result(b"\xff\xfe") is None
    assert read_mistral_result(b'{"response":{"body":{}}}') is None
    assert read_mistral_result(b"not json") is None
