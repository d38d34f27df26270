"""Runs over Gemini's batch API, against a server on loopback: each row one line, and paid for once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from batch_servers import BatchServer, Job, lines_of, poll_fast, run_batches, serving, write_rows

from llmbatch import BatchRunner
from llmbatch.core.errors import UsageError
from llmbatch.providers.batches.gemini import read_gemini_result
from llmbatch.providers.batches.gemini_wire import chat_answer, gemini_request
from llmbatch.report.summary import Summary

_STATES = {"done": "SUCCEEDED", "expired": "EXPIRED", "cancelled": "CANCELLED", "failed": "FAILED"}


def _native(prompt: str) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [{"text": f"Answer to {prompt}"}]}, "finishReason": "STOP"}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 7, "totalTokenCount": 22}
    return {"candidates": [candidate], "usageMetadata": usage, "responseId": "r-1", "modelVersion": "gemini-2.5-flash"}


class GeminiServer(BatchServer):
    """Gemini's files and batches, and its OpenAI-compatible endpoint."""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024, middlewares=[self._check])
        app.router.add_post("/upload/v1beta/files", self._upload)
        app.router.add_get("/v1beta/files", self._list_files)
        app.router.add_get("/v1beta/files/{id}", self._file)
        app.router.add_delete("/v1beta/files/{id}", self._delete)
        app.router.add_get("/download/v1beta/files/{id}:download", self._content)
        app.router.add_post("/v1beta/models/{model}:batchGenerateContent", self._create)
        app.router.add_get("/v1beta/batches", self._list)
        app.router.add_get("/v1beta/batches/{id}", self._get)
        app.router.add_post("/v1beta/batches/{id}:cancel", self._cancel)
        app.router.add_delete("/v1beta/batches/{id}", self._delete_job)
        app.router.add_post("/v1beta/openai/chat/completions", self.answer_live)
        return app

    def prompt_of(self, body: dict[str, Any]) -> str:
        """The prompt in either format."""
        return str(body["contents"][-1]["parts"][0]["text"]) if "contents" in body else super().prompt_of(body)

    @web.middleware
    async def _check(self, request: web.Request, handler: Any) -> web.StreamResponse:
        live = request.headers.get("Authorization") == f"Bearer {self.key}"
        native = request.headers.get("x-goog-api-key") == self.key
        if (live, native) != (("openai" in request.path), ("openai" not in request.path)):
            return web.json_response({"error": {"code": 401, "message": "no", "status": "UNAUTHENTICATED"}}, status=401)
        answer = await handler(request)
        assert isinstance(answer, web.StreamResponse)
        return answer

    async def _upload(self, request: web.Request) -> web.Response:
        if request.headers["X-Goog-Upload-Command"] == "start":
            name = (await request.json())["file"]["displayName"]
            return web.json_response({}, headers={"X-Goog-Upload-URL": f"{self.base}/upload/v1beta/files?name={name}"})
        assert request.headers["X-Goog-Upload-Command"] == "upload, finalize"
        file_id = self.put_file(request.query["name"], await request.read())
        return web.json_response({"file": self._file_object(file_id)})

    def _file_object(self, file_id: str) -> dict[str, Any]:
        name = self.files[file_id][0]
        return {"name": f"files/{file_id}", "displayName": name, "createTime": _time(), "state": "ACTIVE"}

    def _page(self, request: web.Request, member: str, items: list[dict[str, Any]]) -> web.Response:
        size = min(int(request.query.get("pageSize", "10")), self.page_size or 100)
        start = int(request.query.get("pageToken", "0"))
        rest = {"nextPageToken": str(start + size)} if start + size < len(items) else {}
        return web.json_response({**({member: items[start : start + size]} if items else {}), **rest})

    async def _list_files(self, request: web.Request) -> web.Response:
        return self._page(request, "files", [self._file_object(file_id) for file_id in reversed(self.files)])

    async def _file(self, request: web.Request) -> web.Response:
        found = request.match_info["id"]
        return web.json_response(self._file_object(found)) if found in self.files else _missing()

    async def _content(self, request: web.Request) -> web.Response:
        found = self.files.get(request.match_info["id"])
        return _missing() if found is None else web.Response(body=found[1], content_type="application/jsonl")

    async def _delete(self, request: web.Request) -> web.Response:
        self.files.pop(request.match_info["id"], None)
        return web.json_response({})

    async def _create(self, request: web.Request) -> web.Response:
        batch = (await request.json())["batch"]
        if self.is_full():
            error = {"code": 429, "message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED"}
            return web.json_response({"error": error}, status=429)
        file_id = batch["inputConfig"]["fileName"].removeprefix("files/")
        lines = [json.loads(line) for line in self.files[file_id][1].splitlines()]
        rows = [(line["key"], line["request"]) for line in lines]
        job = self.add_job(file_id, rows, {"name": batch["displayName"]}, request.match_info["model"])
        await self.maybe_lost(request)
        return web.json_response(self._object(job))

    def _object(self, job: Job) -> dict[str, Any]:
        good = sum(1 for one in job.answers if one[1] == 200)
        word = _STATES[job.status] if job.status else ("RUNNING" if job.polls < self.polls else "PENDING")
        if job.answers and f"{job.id}-out" not in self.files:
            self.files[f"{job.id}-out"] = ("", b"".join(_line(*one) for one in job.answers))
        known = {
            "model": f"models/{job.model}",
            "displayName": job.label["name"],
            "state": f"BATCH_STATE_{word}",
            "createTime": _time(job.created),
            "inputConfig": {"fileName": f"files/{job.file_id}"},
            "batchStats": {"requestCount": str(len(job.rows)), "successfulRequestCount": str(good)},
        }
        if job.answers:
            known["output"] = {"responsesFile": f"files/{job.id}-out"}
        error = {"error": {"code": 3, "message": "the file is no good"}} if job.status == "failed" else {}
        return {"name": f"batches/{job.id}", "metadata": known, "done": bool(job.status), **error}

    async def _list(self, request: web.Request) -> web.Response:
        if "pageToken" not in request.query:
            self.tick()
        return self._page(request, "operations", [self._object(job) for job in reversed(self.jobs)])

    async def _get(self, request: web.Request) -> web.Response:
        found = [job for job in self.jobs if job.id == request.match_info["id"]]
        return web.json_response(self._object(found[0])) if found else _missing()

    async def _cancel(self, request: web.Request) -> web.Response:
        [job] = [job for job in self.jobs if job.id == request.match_info["id"]]
        job.is_cancelled, job.share = True, 0.4
        return web.json_response({})

    async def _delete_job(self, request: web.Request) -> web.Response:
        self.jobs = [job for job in self.jobs if job.id != request.match_info["id"]]
        self.files.pop(request.match_info["id"] + "-out", None)
        return web.json_response({})


def _line(name: str, status: int, what: dict[str, Any]) -> bytes:
    error = {"error": {"code": 3, "message": "bad row"}}
    return (
        json.dumps({"key": name, **(error if status != 200 else {"response": _native(what["prompt"])})}).encode()
        + b"\n"
    )


def _time(at: float | None = None) -> str:
    now = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return now.isoformat().replace("+00:00", "Z")


def _missing() -> web.Response:
    return web.json_response({"error": {"code": 404, "message": "not found", "status": "NOT_FOUND"}}, status=404)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    poll_fast(monkeypatch)


def _run(server: GeminiServer, folder: Path, rows: int, source: Path | None = None, **options: Any) -> Summary:
    path = source or write_rows(folder, rows)
    words = ("gemini/gemini-2.5-flash", "/v1beta/openai", path, folder / "out.jsonl", "GEMINI_API_KEY")
    return serving(server, lambda: run_batches(server, *words, **options))


def _check_whole(folder: Path, rows: int) -> dict[int, dict[str, Any]]:
    lines = lines_of(folder / "out.jsonl")
    assert sorted(lines) == list(range(1, rows + 1))
    return lines


@pytest.mark.slow  # several listings
def test_rows_come_back_as_the_compatible_endpoint_answers(tmp_path: Path) -> None:
    """Translated both ways, in pages, with the tokens of thoughts counted; nothing stays at the provider."""
    server = GeminiServer()
    server.page_size = 2

    summary = _run(server, tmp_path, 60, chunk_rows=10)

    assert summary.exit_code == 0
    for number, line in _check_whole(tmp_path, 60).items():
        body = line["response"]["body"]
        assert body["choices"][0]["message"]["content"] == f"Answer to row {number}"
        assert body["usage"]["total_tokens"] == 22
        assert line["via"] == "batch"
    assert set(server.paid.values()) == {1}
    assert not server.live
    assert not server.files
    assert not server.jobs


@pytest.mark.slow  # several listings
@pytest.mark.parametrize("end", ["expired", "cancelled", "failed"])
def test_what_an_unfinished_batch_did_is_kept_and_the_rest_sent_once_more(tmp_path: Path, end: str) -> None:
    """Its rows are paid for once."""
    server = GeminiServer()
    server.ends = [(end, 0.37)]

    summary = _run(server, tmp_path, 100)

    assert summary.exit_code == 0
    lines = _check_whole(tmp_path, 100)
    assert [line["batch_id"] for line in lines.values()].count("batches/job-0001") == 37
    assert set(server.paid.values()) == {1}


def test_rows_that_cannot_be_translated_go_live(tmp_path: Path) -> None:
    """A parameter that Gemini's format may not have is no reason to fail."""
    source, server = tmp_path / "in.jsonl", GeminiServer()
    rows = [{"prompt": f"row {n}", **({"reasoning_effort": "low"} if n % 3 == 0 else {})} for n in range(1, 61)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    summary = _run(server, tmp_path, 60, source)

    assert summary.exit_code == 0
    _check_whole(tmp_path, 60)
    assert len(server.live) == 20
    assert set(server.paid.values()) == {1}


def test_errors_only_stop_the_run(tmp_path: Path) -> None:
    """All rows refused is a refusal of the run."""
    server = GeminiServer()
    server.all_bad = True

    summary = _run(server, tmp_path, 60)

    assert summary.exit_code == 3
    assert not server.paid


def test_a_batch_that_failed_as_a_whole_stops_the_run_with_its_words(tmp_path: Path) -> None:
    """Without any results, nothing ran."""
    server = GeminiServer()
    server.ends = [("failed", 0.0)]

    summary = _run(server, tmp_path, 60)

    assert summary.exit_code == 3
    assert "the file is no good" in str(summary.stopped_reason)


@pytest.mark.slow  # the control plane is probed after some seconds
def test_a_create_whose_answer_is_lost_is_not_sent_again(tmp_path: Path) -> None:
    """The batch is found in the listing."""
    server = GeminiServer()
    server.lost_creates = 1

    summary = _run(server, tmp_path, 60)

    assert summary.exit_code == 0
    _check_whole(tmp_path, 60)
    assert set(server.paid.values()) == {1}


@pytest.mark.slow  # polls until one batch after the other has ended
def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    """A 429 at a create costs no attempt."""
    server = GeminiServer()
    server.queue = 1

    summary = _run(server, tmp_path, 60, chunk_rows=20)

    assert summary.exit_code == 0
    assert server.refused_creates
    assert {line["attempts"] for line in _check_whole(tmp_path, 60).values()} == {1}


@pytest.mark.slow  # a deadline of 2 s
def test_the_deadline_cancels_and_sends_the_rest_live(tmp_path: Path) -> None:
    """What the canceled batch did is kept; no row is in both."""
    server = GeminiServer()
    server.polls = 1_000_000

    summary = _run(server, tmp_path, 60, deadline=2.0)

    assert summary.exit_code == 0
    _check_whole(tmp_path, 60)
    assert len(server.live) == 36
    assert set(server.paid.values()) == {1}


@pytest.mark.slow  # two processes
@pytest.mark.skipif(sys.platform == "win32", reason="kills with a signal")
def test_a_killed_run_without_its_journal_pays_once(tmp_path: Path) -> None:
    """Killed while the create is not answered; the same command finds the batch by the provider's listing alone."""
    server, source, output = GeminiServer(), write_rows(tmp_path, 60), tmp_path / "out.jsonl"

    async def start() -> asyncio.subprocess.Process:
        words = ("run", str(source), "-o", str(output), "-m", "gemini/gemini-2.5-flash", "--via", "batch")
        address = ("--base-url", f"{server.base}/v1beta/openai")
        environ = {**os.environ, "GEMINI_API_KEY": server.key}
        return await asyncio.create_subprocess_exec(sys.executable, "-m", "llmbatch", *words, *address, env=environ)

    async def run() -> int:
        server.hangs = True
        first = await start()
        await server.created.wait()
        first.kill()
        await first.wait()
        (tmp_path / "out.batch.jsonl").unlink()
        server.hangs, server.jobs[0].polls = False, 1
        return await (await start()).wait()

    assert serving(server, run) == 0
    assert len(lines_of(output)) == 60
    assert set(server.paid.values()) == {1}


def test_chat_bodies_are_translated() -> None:
    """Roles, system messages, text parts and parameters."""
    chat = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Go on"},
        ],
        "max_tokens": 5,
        "stop": "x",
    }

    assert gemini_request(json.dumps(chat).encode()) == {
        "systemInstruction": {"parts": [{"text": "Be brief"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Hi"}]},
            {"role": "model", "parts": [{"text": "Hello"}]},
            {"role": "user", "parts": [{"text": "Go on"}]},
        ],
        "generationConfig": {"maxOutputTokens": 5, "stopSequences": ["x"]},
    }


@pytest.mark.parametrize(
    "more",
    [
        {"tools": []},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
        {"max_tokens": 1, "max_completion_tokens": 2},
        {"temperature": "hot"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x", "name": "n"}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]},
        {"messages": []},
    ],
)
def test_what_is_not_certain_is_not_translated(more: dict[str, Any]) -> None:
    """Such rows go live."""
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}], **more}

    assert gemini_request(json.dumps(chat).encode()) is None


def test_answers_are_translated_back() -> None:
    """Finish reasons, thoughts left out, blocked prompts without choices."""
    parts: list[Any] = [{"text": "hm", "thought": True}, {"text": "a"}, {"text": "b"}]
    cut = chat_answer({"candidates": [{"content": {"parts": parts}, "finishReason": "MAX_TOKENS"}]}, "m")
    blocked = chat_answer({"promptFeedback": {"blockReason": "SAFETY"}}, "m")

    assert cut["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": "length"}
    ]
    assert (blocked["choices"], blocked["promptFeedback"]) == ([], {"blockReason": "SAFETY"})


@pytest.mark.parametrize(("code", "status"), [(3, 400), (8, 429), (14, 503), (429, 429), (16, 401), (None, 500)])
def test_errors_of_rows_have_http_statuses(code: int | None, status: int) -> None:
    """Whether the code is google.rpc's or HTTP's."""
    result = read_gemini_result(json.dumps({"key": "a", "error": {"code": code, "message": "x"}}).encode(), "m")

    assert result is not None
    assert result.reply is not None
    assert result.reply.status == status


def test_a_canceled_row_did_not_run() -> None:
    """No attempt is counted for it; garbage is no line."""
    canceled = read_gemini_result(b'{"key":"a","error":{"code":1}}', "m")

    assert canceled is not None
    assert canceled.reply is None
    assert read_gemini_result(b"\xff", "m") is None
    assert read_gemini_result(b"{}", "m") is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "do not take tools"),
        ({"response_format": {"type": "json_object"}}, "do not take response_format"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages that are more than text"),
    ],
)
def test_rows_that_gemini_takes_in_no_batch_were_told_of_a_missing_batch_api(
    tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    """Where no row can be translated, the message names what of it cannot."""
    row = {"messages": [{"role": "user", "content": "x"}], **more}
    (tmp_path / "in.jsonl").write_text((json.dumps(row) + "\n") * 60)
    runner: BatchRunner[Any, None] = BatchRunner(
        "gemini/gemini-2.5-flash", via="batch", environ={"GEMINI_API_KEY": "k"}
    )

    with pytest.raises(UsageError, match=words) as caught:
        runner.run_sync(tmp_path / "in.jsonl", tmp_path / "out.jsonl")

    assert "no batch API" not in caught.value.message
    assert "--via batch" in caught.value.hint
