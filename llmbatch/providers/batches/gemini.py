"""Gemini's own batch API: uploaded files, batches of one model as operations, one file of responses.

Rows are chat bodies, as for its OpenAI-compatible endpoint; :mod:`llmbatch.providers.batches.gemini_wire` translates.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace

from llmbatch.core.calls import Reply, Request
from llmbatch.core.exchange import Upload
from llmbatch.core.raw_json import JSON, RawJsonError, dumps, parse
from llmbatch.providers.batches.control import Control
from llmbatch.providers.batches.families import BatchFamily
from llmbatch.providers.batches.gemini_wire import chat_answer, gemini_request, status_of
from llmbatch.providers.batches.port import BatchError, ControlError, RemoteBatch, ResultLine
from llmbatch.providers.batches.reading import instant, unexpected
from llmbatch.providers.batches.result_stream import stream_lines

__all__ = ["GeminiBatches", "read_gemini_result"]

_ENDED = frozenset({"succeeded", "failed", "cancelled", "expired", "partially_succeeded"})
_PAGE = 100
_MOST_PAGES = 200
_MOST_FILE_PAGES = 20
_FORBIDDEN = 403
"""The answer for a file that is not there, as for one of another project."""


class GeminiBatches:
    """Implements :class:`~llmbatch.providers.batches.port.BatchApi`. *control*: that of the compatible endpoint."""

    has_labels = True
    has_files = True

    def __init__(self, control: Control, family: BatchFamily) -> None:
        base = control.base
        before, _, _ = base.rpartition("/v1beta")
        headers = dict(control.headers)
        for name in [name for name in headers if name.lower() == "authorization"]:
            headers["x-goog-api-key"] = headers.pop(name).removeprefix("Bearer ")
        self._control = control.moved(f"{before}/v1beta", headers)
        self._uploads = control.moved(f"{before}/upload/v1beta", headers)
        self._downloads = control.moved(f"{before}/download/v1beta", headers)
        self._family = family

    def __repr__(self) -> str:
        return f"<GeminiBatches of {self._family.title}>"

    def encode(self, custom_id: str, request: Request) -> Sequence[bytes]:
        """The line of a row, translated."""
        translated = gemini_request(request.body)
        if translated is None:
            raise ValueError(f"{custom_id} has no request of Gemini's")  # its row has no family
        return (f'{{"key":"{custom_id}","request":'.encode(), dumps(translated).encode(), b"}\n")

    async def upload(self, name: str, lines: Upload) -> tuple[str, bool]:
        """Upload *lines* as a file; its name, and whether it may be used at once.

        Raises:
            ControlError: it failed.
        """
        what = "the upload of a batch"
        start = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(lines.size_bytes),
            "X-Goog-Upload-Header-Content-Type": "application/jsonl",
        }
        meta = dumps({"file": {"displayName": name, "mimeType": "application/jsonl"}}).encode()
        url = await self._uploads.header(what, "/files", meta, start, "x-goog-upload-url")
        if not url:
            raise unexpected(what)
        rest = {"X-Goog-Upload-Offset": "0", "X-Goog-Upload-Command": "upload, finalize"}
        answer = await self._uploads.send(what, "POST", url, lines, "application/jsonl", more_headers=rest)
        file = answer.get("file") if isinstance(answer, dict) else None
        if not isinstance(file, dict) or not isinstance(file.get("name"), str):
            raise unexpected(what)
        return str(file["name"]), file.get("state") != "PROCESSING"

    async def is_processed(self, file_id: str) -> bool:
        """Whether an uploaded file may be used now.

        Raises:
            ControlError: it cannot be told now.
        """
        file = await self._control.json("the state of a file", "GET", f"/{file_id}")
        return isinstance(file, dict) and file.get("state") != "PROCESSING"

    async def create(
        self, file_id: str, lines: Upload, metadata: Mapping[str, str], name: str, request: Request
    ) -> RemoteBatch:
        """Create a batch of the uploaded file; sent once, as it is not idempotent.

        Raises:
            ControlError: it failed, or its answer was lost.
        """
        what, model = "the creation of a batch", _model_of(request)
        body: JSON = {"batch": {"displayName": name, "inputConfig": {"fileName": file_id}}}
        answer = await self._control.json(what, "POST", f"/models/{model}:batchGenerateContent", body=body)
        batch = _read(what, answer)
        batch.input_file, batch.file_name = batch.input_file or file_id, batch.file_name or name
        return batch

    async def batches(self, since: float) -> AsyncIterator[RemoteBatch]:
        """List batches, back to *since* where they are in order.

        Raises:
            ControlError: it failed.
        """
        files: dict[str, str] | None = None
        async for item in self._pages("the list of batches", "/batches", "operations", _MOST_PAGES):
            batch = _read("the list of batches", item)
            if not batch.input_file and batch.file_name.startswith("llmbatch-"):
                if files is None:
                    files = {name: file_id async for file_id, name, _ in self.orphans("llmbatch-", since)}
                batch.input_file = files.get(batch.file_name, "")
            yield batch

    async def orphans(self, prefix: str, since: float) -> AsyncIterator[tuple[str, str, float]]:
        """Name, displayed name and time of uploaded files whose displayed name begins with *prefix*.

        Raises:
            ControlError: it failed.
        """
        async for item in self._pages("the list of files", "/files", "files", _MOST_FILE_PAGES):
            name, created = item.get("displayName"), instant(item.get("createTime"))
            if isinstance(name, str) and name.startswith(prefix) and (created or since) >= since:
                yield str(item["name"]), name, created or since

    async def _pages(self, what: str, path: str, member: str, most: int) -> AsyncGenerator[dict[str, JSON]]:
        query = {"pageSize": str(_PAGE)}
        for _ in range(most):
            page = await self._control.json(what, "GET", path, query=query)
            if not isinstance(page, dict):
                raise unexpected(what)
            items = page.get(member)  # left out where it is empty
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and isinstance(item.get("name"), str):
                    yield item
            token = page.get("nextPageToken")
            if not isinstance(token, str) or not token:
                return
            query["pageToken"] = token

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """Read one batch.

        Raises:
            ControlError: it failed.
        """
        what = "the state of a batch"
        return _read(what, await self._control.json(what, "GET", f"/{batch_id}"))

    async def results(self, batch: RemoteBatch) -> AsyncGenerator[ResultLine | None]:
        """Fetch the file of responses.

        Raises:
            ControlError: it failed, or it is not complete.
        """
        for file_id in batch.result_files:
            url = self._downloads.url(f"/{file_id}:download", {"alt": "media"})
            try:
                async with self._downloads.download(f"the results of batch {batch.id}", url) as blocks:
                    async for line in stream_lines(blocks):
                        yield read_gemini_result(line, batch.model)
            except ControlError as error:
                if error.outcome.status == _FORBIDDEN:
                    error.outcome = replace(error.outcome, status=404)
                raise

    async def was_deleted(self, batch: RemoteBatch) -> bool:
        """False: a deleted batch is not listed, and its input expires after two days."""
        return False

    async def cancel(self, batch_id: str) -> None:
        """Ask to cancel it.

        Raises:
            ControlError: it failed.
        """
        await self._control.json("the cancellation of a batch", "POST", f"/{batch_id}:cancel")

    async def delete(self, batch: RemoteBatch) -> None:
        """Delete the batch and its input; the responses go with it.

        Raises:
            ControlError: it failed.
        """
        for name in (batch.id, batch.input_file):
            if name:
                await self._control.json("the deletion of a batch", "DELETE", f"/{name}")


def _read(what: str, item: JSON) -> RemoteBatch:
    """A batch from its operation."""
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise unexpected(what)
    found = item.get("metadata")
    known = found if isinstance(found, dict) else {}
    status = str(known.get("state") or "").rpartition("STATE_")[2].lower()
    source, output, stats, error = (
        known.get("inputConfig"),
        known.get("output"),
        known.get("batchStats"),
        item.get("error"),
    )
    results = output.get("responsesFile") if isinstance(output, dict) else None
    stats = stats if isinstance(stats, dict) else {}
    words = str(error.get("message") or "") if isinstance(error, dict) else ""
    return RemoteBatch(
        id=str(item["name"]),
        status=status,
        is_ended=status in _ENDED,
        created_at=instant(known.get("createTime")),
        ended_at=instant(known.get("endTime")),
        endpoint="chat",
        model=str(known.get("model") or "").removeprefix("models/"),
        file_name=str(known.get("displayName") or ""),
        input_file=str(source.get("fileName") or "") if isinstance(source, dict) else "",
        result_files=(results,) if isinstance(results, str) and results else (),
        rows=_number(stats.get("requestCount")),
        succeeded=_number(stats.get("successfulRequestCount")),
        failed=_number(stats.get("failedRequestCount")),
        errors=(BatchError("batch_failed", words),) if words else (),
        is_cancelling=status == "cancelling",
        has_failed=status == "failed",
    )


def _number(value: JSON) -> int | None:
    """Counts are texts."""
    return int(value) if isinstance(value, (str, int)) and str(value).isdecimal() else None


def read_gemini_result(line: bytes, model: str) -> ResultLine | None:
    """A line of responses of *model*; None if it is none."""
    try:
        item = parse(line.decode())
    except (RawJsonError, UnicodeDecodeError):
        return None
    if not isinstance(item, dict) or not isinstance(item.get("key"), str):
        return None
    key, response, error = str(item["key"]), item.get("response"), item.get("error")
    if isinstance(response, dict):
        return ResultLine(key, Reply(200, {}, dumps(chat_answer(response, model)).encode()))
    if not isinstance(error, dict):
        return ResultLine(key, None, "no_answer")
    status = status_of(error.get("code"))
    if status is None:
        return ResultLine(key, None, "batch_cancelled")
    return ResultLine(key, Reply(status, {}, dumps({"error": {**error, "code": status}}).encode()))


def _model_of(request: Request) -> str:
    chat = parse(request.body.decode())
    found = chat.get("model") if isinstance(chat, dict) else None
    return str(found or "").removeprefix("models/")
