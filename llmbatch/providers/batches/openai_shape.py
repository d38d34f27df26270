"""OpenAI's batch API, and those that copy it: files in, a batch of a file, files out.

What differs between the providers is in :mod:`llmbatch.providers.batches.families`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from llmbatch.core.calls import Reply, Request
from llmbatch.core.exchange import Upload
from llmbatch.core.raw_json import JSON, RawJsonError, dumps, parse, split_object
from llmbatch.providers.batches.control import Control
from llmbatch.providers.batches.families import BatchFamily
from llmbatch.providers.batches.form import MultipartForm
from llmbatch.providers.batches.port import BatchError, ControlError, RemoteBatch, ResultLine
from llmbatch.providers.batches.reading import count, id_of, instant, unexpected
from llmbatch.providers.batches.result_files import read_files

__all__ = ["OpenAIBatches", "one_line", "openai_line", "read_openai_result"]

_URLS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
    "completions": "/v1/completions",
}
_ENDED = frozenset({"completed", "failed", "expired", "cancelled", "canceled"})
_NOT_RUN = frozenset({"batch_expired", "batch_cancelled", "batch_canceled"})
_PAGE = 100
_MOST_PAGES = 200
_MOST_FILE_PAGES = 20


def one_line(body: bytes) -> bytes:
    """JSON text without line breaks: inside of strings it has none."""
    return body.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in body or b"\r" in body else body


def openai_line(custom_id: str, request: Request) -> Sequence[bytes]:
    """The line of a row, in pieces."""
    head = f'{{"custom_id":"{custom_id}","method":"POST","url":"{_URLS[request.endpoint]}","body":'
    return (head.encode(), one_line(request.body), b"}\n")


class OpenAIBatches:
    """Implements :class:`~llmbatch.providers.batches.port.BatchApi`."""

    has_files = True

    def __init__(self, control: Control, family: BatchFamily) -> None:
        self._control = control
        self._family = family
        self.has_labels = family.label != "none"

    def __repr__(self) -> str:
        return f"<OpenAIBatches of {self._family.title}>"

    def encode(self, custom_id: str, request: Request) -> Sequence[bytes]:
        """The line of a row, in pieces."""
        return openai_line(custom_id, request)

    async def upload(self, name: str, lines: Upload) -> tuple[str, bool]:
        """Upload *lines* as a file; its id, and whether it may be used at once.

        Raises:
            ControlError: it failed.
        """
        fields = {"purpose": self._family.purpose}
        if self._family.name == "together":
            fields["file_name"] = name
        if self._family.expires_after_s is not None:
            fields["expires_after[anchor]"] = "created_at"
            fields["expires_after[seconds]"] = str(self._family.expires_after_s)
        form = MultipartForm(fields, name, lines)
        path = self._family.upload_path
        answer = await self._control.send("the upload of a batch", "POST", path, form, form.content_type)
        return id_of("the upload of a batch", answer), _is_processed(answer)

    async def is_processed(self, file_id: str) -> bool:
        """Whether an uploaded file may be used now.

        Raises:
            ControlError: it cannot be told now.
        """
        return _is_processed(await self._control.json("the state of a file", "GET", f"/files/{file_id}"))

    async def create(
        self, file_id: str, lines: Upload, metadata: Mapping[str, str], name: str, request: Request
    ) -> RemoteBatch:
        """Create a batch of the uploaded file; sent once, as it is not idempotent.

        Raises:
            ControlError: it failed, or its answer was lost.
        """
        body: dict[str, JSON] = {
            "input_file_id": file_id,
            "endpoint": _URLS[request.endpoint],
            "completion_window": self._family.window,
        }
        if self._family.label == "metadata":
            body["metadata"] = dict(metadata)
        if self._family.output_expires_after_s is not None:
            body["output_expires_after"] = {"anchor": "created_at", "seconds": self._family.output_expires_after_s}
        answer = await self._control.json("the creation of a batch", "POST", "/batches", body=body)
        if isinstance(answer, dict) and isinstance(answer.get("job"), dict):
            answer = answer["job"]  # Together's
        id_of("the creation of a batch", answer)
        batch = self._read(answer)
        batch.input_file = batch.input_file or file_id
        batch.file_name = batch.file_name or name
        return batch

    async def batches(self, since: float) -> AsyncIterator[RemoteBatch]:
        """List batches, the newest first, back to *since*.

        Raises:
            ControlError: it failed.
        """
        names = await self._file_names(since) if self._family.label == "file name" else {}
        after = ""
        for _ in range(_MOST_PAGES if self._family.pages else 1):
            query = {"limit": str(_PAGE)} if self._family.pages else {}
            if after:
                query["after"] = after
            page = await self._control.json("the list of batches", "GET", "/batches", query=query)
            items = page if isinstance(page, list) else page.get("data") if isinstance(page, dict) else None
            if not isinstance(items, list):
                raise unexpected("the list of batches")
            oldest = None
            for item in items:
                if not isinstance(item, dict) or not isinstance(item.get("id"), str):
                    continue
                batch = self._read(item)
                batch.file_name = batch.file_name or names.get(batch.input_file, "")
                oldest = batch.created_at
                after = batch.id
                yield batch
            has_more = isinstance(page, dict) and page.get("has_more") is True
            if not has_more or not items or (oldest is not None and oldest < since):
                return

    async def _file_names(self, since: float) -> dict[str, str]:
        return {file_id: name async for file_id, name, _ in self.orphans("llmbatch-", since)}

    async def orphans(self, prefix: str, since: float) -> AsyncIterator[tuple[str, str, float]]:
        """Id, name and time of uploaded files whose names begin with *prefix*, since *since*.

        Raises:
            ControlError: it failed.
        """
        after = ""
        for _ in range(_MOST_FILE_PAGES if self._family.lists_files else 0):
            query = {"purpose": self._family.purpose, "limit": "1000", "order": "desc"}
            if after:
                query["after"] = after
            page = await self._control.json("the list of files", "GET", "/files", query=query)
            items = page if isinstance(page, list) else page.get("data") if isinstance(page, dict) else None
            created = None
            for item in items if isinstance(items, list) else ():
                if not isinstance(item, dict) or not isinstance(item.get("id"), str):
                    continue
                after, name, created = str(item["id"]), item.get("filename"), instant(item.get("created_at"))
                if isinstance(name, str) and name.startswith(prefix) and (created or since) >= since:
                    yield after, name, created or since
            has_more = isinstance(page, dict) and page.get("has_more") is True
            if not has_more or not items or (created is not None and created < since):
                return

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """Read one batch.

        Raises:
            ControlError: it failed.
        """
        answer = await self._control.json("the state of a batch", "GET", f"/batches/{batch_id}")
        id_of("the state of a batch", answer)
        return self._read(answer)

    def results(self, batch: RemoteBatch) -> AsyncGenerator[ResultLine | None]:
        """Fetch the output file, then the error file.

        Raises:
            ControlError: it failed, or the file is not complete.
        """
        return read_files(self._control, batch, read_openai_result)

    async def was_deleted(self, batch: RemoteBatch) -> bool:
        """Whether the uploaded file is not there any more.

        Raises:
            ControlError: it cannot be told now.
        """
        if not batch.input_file:
            return False
        try:
            await self._control.json("the state of a file", "GET", f"/files/{batch.input_file}")
        except ControlError as error:
            if error.is_missing:
                return True
            raise
        return False

    async def cancel(self, batch_id: str) -> None:
        """Ask to cancel it.

        Raises:
            ControlError: it failed.
        """
        await self._control.json("the cancellation of a batch", "POST", f"/batches/{batch_id}/cancel", body={})

    async def delete(self, batch: RemoteBatch) -> None:
        """Delete its files.

        Raises:
            ControlError: it failed.
        """
        for file_id in dict.fromkeys((batch.input_file, *batch.result_files)):
            if file_id:
                await self._control.json("the deletion of a file", "DELETE", f"/files/{file_id}")

    def _read(self, item: JSON) -> RemoteBatch:
        """A batch from its object, leniently: other servers leave out members."""
        known = item if isinstance(item, dict) else {}
        status = str(known.get("status") or "").lower()
        counts = known.get("request_counts")
        counts = counts if isinstance(counts, dict) else {}
        metadata = known.get("metadata")
        files = (known.get("output_file_id"), known.get("error_file_id"))
        return RemoteBatch(
            id=str(known.get("id") or ""),
            status=status,
            is_ended=status in _ENDED,
            created_at=instant(known.get("created_at")),
            ended_at=next((at for at in (instant(known.get(f"{word}_at")) for word in _ENDED) if at), None),
            endpoint=str(known.get("endpoint") or ""),
            model=str(known.get("model") or known.get("model_id") or ""),
            metadata={str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {},
            file_name=str(known.get("file_name") or known.get("input_file_name") or ""),
            input_file=str(known.get("input_file_id") or ""),
            result_files=tuple(dict.fromkeys(name for name in files if isinstance(name, str) and name)),
            rows=count(counts.get("total")),
            succeeded=count(counts.get("completed")),
            failed=count(counts.get("failed")),
            errors=_errors(known),
            is_cancelling=status in ("cancelling", "canceling"),
            has_failed=status == "failed",
        )


def read_openai_result(line: bytes) -> ResultLine | None:
    """A line of results; None if it is none."""
    try:
        members = split_object(line.decode()) or {}
        custom_id = parse(members.get("custom_id", "null"))
        response = split_object(members.get("response", "null")) or {}
        status = parse(response.get("status_code", "null"))
        request_id = parse(response.get("request_id", "null"))
        error = parse(members.get("error", "null"))
    except (RawJsonError, UnicodeDecodeError):
        return None
    if not isinstance(custom_id, str):
        return None
    code = str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""
    headers = {"x-request-id": request_id} if isinstance(request_id, str) and request_id else {}
    if isinstance(status, int) and not isinstance(status, bool):
        body = response.get("body", "null")
        if body == "null" and error:  # as vLLM has it, whose error may be a text
            body = dumps({"error": error if isinstance(error, dict) else {"message": str(error)}})
        return ResultLine(custom_id, Reply(status, headers, body.encode()))
    if code in _NOT_RUN or not isinstance(error, dict):
        return ResultLine(custom_id, None, code or "no_answer")
    given = error.get("status") or error.get("status_code")
    status = given if isinstance(given, int) else 500
    return ResultLine(custom_id, Reply(status, headers, dumps({"error": error}).encode()))


def _is_processed(file: JSON) -> bool:
    """Whether a file may be used; one that has no status, or an unknown one, may."""
    status = file.get("status") if isinstance(file, dict) else None
    return status not in ("uploaded", "pending", "processing", "running")


def _errors(known: Mapping[str, JSON]) -> tuple[BatchError, ...]:
    listed = known.get("errors")
    listed = listed.get("data") if isinstance(listed, dict) else listed
    found = [
        BatchError(str(item.get("code") or ""), str(item.get("message") or ""), count(item.get("line")))
        for item in (listed if isinstance(listed, list) else ())
        if isinstance(item, dict)
    ]
    words = known.get("error")
    if not found and isinstance(words, str) and words:
        found.append(BatchError("batch_failed", words))
    return tuple(found)
