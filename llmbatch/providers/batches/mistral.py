"""Mistral's batch jobs: OpenAI's files, and jobs with one model, numbered pages and states of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime

from llmbatch.core.calls import Reply, Request
from llmbatch.core.exchange import Upload
from llmbatch.core.raw_json import JSON, RawJsonError, dumps, parse, split_object
from llmbatch.providers.batches.openai_shape import OpenAIBatches, one_line, read_openai_result
from llmbatch.providers.batches.port import BatchError, RemoteBatch, ResultLine
from llmbatch.providers.batches.reading import count, id_of, instant, unexpected
from llmbatch.providers.batches.result_files import read_files

__all__ = ["MistralBatches", "mistral_line", "read_mistral_result"]

_JOBS = "/batch/jobs"
_URLS = {"chat": "/v1/chat/completions", "embeddings": "/v1/embeddings"}
_ENDED = frozenset({"success", "failed", "timeout_exceeded", "cancelled"})
_PAGE = 100
_MOST_PAGES = 200
_MOST_FILE_PAGES = 20
_HOURS = 24


def mistral_line(custom_id: str, request: Request) -> Sequence[bytes]:
    """The line of a row, in pieces."""
    return (f'{{"custom_id":"{custom_id}","body":'.encode(), one_line(request.body), b"}\n")


class MistralBatches(OpenAIBatches):
    """Implements :class:`~llmbatch.providers.batches.port.BatchApi`; files are as OpenAI's."""

    def __repr__(self) -> str:
        return f"<MistralBatches of {self._family.title}>"

    def encode(self, custom_id: str, request: Request) -> Sequence[bytes]:
        """The line of a row, in pieces."""
        return mistral_line(custom_id, request)

    async def create(
        self, file_id: str, lines: Upload, metadata: Mapping[str, str], name: str, request: Request
    ) -> RemoteBatch:
        """Create a job of the uploaded file; sent once, as it is not idempotent.

        Raises:
            ControlError: it failed, or its answer was lost.
        """
        body: dict[str, JSON] = {
            "input_files": [file_id],
            "endpoint": _URLS[request.endpoint],
            "model": _model_of(request),
            "metadata": dict(metadata),
            "timeout_hours": _HOURS,
        }
        what = "the creation of a batch"
        answer = await self._control.json(what, "POST", _JOBS, body=body)
        id_of(what, answer)
        batch = self._read(answer)
        batch.input_file = batch.input_file or file_id
        return batch

    async def batches(self, since: float) -> AsyncIterator[RemoteBatch]:
        """List jobs, the newest first, back to *since*.

        Raises:
            ControlError: it failed.
        """
        after = datetime.fromtimestamp(max(0.0, since), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        query = {"order_by": "-created", "created_after": after}
        async for item in self._pages("the list of batches", _JOBS, query, _MOST_PAGES):
            yield self._read(item)

    async def orphans(self, prefix: str, since: float) -> AsyncIterator[tuple[str, str, float]]:
        """Id, name and time of uploaded files whose names begin with *prefix*, since *since*.

        Raises:
            ControlError: it failed.
        """
        what = "the list of files"
        async for item in self._pages(what, "/files", {"purpose": self._family.purpose}, _MOST_FILE_PAGES):
            name, created = item.get("filename"), instant(item.get("created_at"))
            if isinstance(name, str) and name.startswith(prefix) and (created or since) >= since:
                yield str(item["id"]), name, created or since

    async def _pages(
        self, what: str, path: str, query: Mapping[str, str], most: int
    ) -> AsyncGenerator[dict[str, JSON]]:
        """The objects of all pages, each once: pages move while new objects appear."""
        seen: set[str] = set()
        for page in range(most):
            asked = {"page": str(page), "page_size": str(_PAGE), **query}
            answer = await self._control.json(what, "GET", path, query=asked)
            known = answer if isinstance(answer, dict) else {}
            items = known.get("data")
            if items is None and known.get("total") == 0:
                return
            if not isinstance(items, list):
                raise unexpected(what)
            for item in items:
                if isinstance(item, dict) and isinstance(item.get("id"), str) and item["id"] not in seen:
                    seen.add(str(item["id"]))
                    yield item
            total = count(known.get("total"))
            if not items or (total is not None and len(seen) >= total):
                return

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """Read one job.

        Raises:
            ControlError: it failed.
        """
        what = "the state of a batch"
        answer = await self._control.json(what, "GET", f"{_JOBS}/{batch_id}")
        id_of(what, answer)
        return self._read(answer)

    def results(self, batch: RemoteBatch) -> AsyncGenerator[ResultLine | None]:
        """Fetch the output file, then the error file.

        Raises:
            ControlError: it failed, or the file is not complete.
        """
        return read_files(self._control, batch, read_mistral_result)

    async def cancel(self, batch_id: str) -> None:
        """Ask to cancel it.

        Raises:
            ControlError: it failed.
        """
        await self._control.json("the cancellation of a batch", "POST", f"{_JOBS}/{batch_id}/cancel", body={})

    def _read(self, item: JSON) -> RemoteBatch:
        known = item if isinstance(item, dict) else {}
        status = str(known.get("status") or "").lower()
        metadata, inputs = known.get("metadata"), known.get("input_files")
        files = (known.get("output_file"), known.get("error_file"))
        return RemoteBatch(
            id=str(known.get("id") or ""),
            status=status,
            is_ended=status in _ENDED,
            created_at=instant(known.get("created_at")),
            ended_at=instant(known.get("completed_at")),
            endpoint=str(known.get("endpoint") or ""),
            model=str(known.get("model") or ""),
            metadata={str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {},
            input_file=str(inputs[0]) if isinstance(inputs, list) and inputs else "",
            result_files=tuple(dict.fromkeys(name for name in files if isinstance(name, str) and name)),
            rows=count(known.get("total_requests")) or None,  # 0 until it is validated
            succeeded=count(known.get("succeeded_requests")),
            failed=count(known.get("failed_requests")),
            errors=_errors(known.get("errors")),
            is_cancelling=status == "cancellation_requested",
            has_failed=status == "failed",
        )


def read_mistral_result(line: bytes) -> ResultLine | None:
    """A line of results; None if it is none.

    It is as OpenAI's, but the body of a refusal may be a text that holds JSON, and a status may be missing.
    """
    try:
        members = split_object(line.decode()) or {}
        custom_id = parse(members.get("custom_id", "null"))
        response = split_object(members.get("response", "null")) or {}
        status = parse(response.get("status_code", "null"))
        error = parse(members.get("error", "null"))
        body = _unquoted(response.get("body", "null"))
    except (RawJsonError, UnicodeDecodeError):
        return None
    if not isinstance(custom_id, str) or body == "null":
        return read_openai_result(line)
    if isinstance(status, int) and not isinstance(status, bool):
        return ResultLine(custom_id, Reply(status, {}, body.encode()))
    return read_openai_result(line) if error else ResultLine(custom_id, Reply(200, {}, body.encode()))


def _unquoted(body: str) -> str:
    """*body*, or if it is a text, the JSON object that it holds, or else an object with it as the message."""
    if not body.startswith('"'):
        return body
    text = str(parse(body))
    try:
        is_object = split_object(text) is not None
    except RawJsonError:
        is_object = False
    return text if is_object else dumps({"message": text})


def _errors(listed: JSON) -> tuple[BatchError, ...]:
    return tuple(
        BatchError("batch_failed", str(item["message"]))
        for item in (listed if isinstance(listed, list) else ())
        if isinstance(item, dict) and item.get("message")
    )


def _model_of(request: Request) -> str:
    """The model that the request's body names."""
    found = parse((split_object(request.body.decode()) or {}).get("model", "null"))
    return found if isinstance(found, str) else ""
