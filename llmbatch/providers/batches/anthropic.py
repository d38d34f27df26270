"""Anthropic's message batches: one call with all requests, no files, no labels, results as one stream of lines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from llmbatch.core.calls import Reply, Request
from llmbatch.core.exchange import Upload
from llmbatch.core.raw_json import JSON, RawJsonError, dumps, parse, split_object
from llmbatch.providers.batches.control import Control
from llmbatch.providers.batches.families import BatchFamily
from llmbatch.providers.batches.openai_shape import one_line
from llmbatch.providers.batches.port import RemoteBatch, ResultLine
from llmbatch.providers.batches.reading import instant, unexpected
from llmbatch.providers.batches.result_stream import stream_lines

__all__ = ["AnthropicBatches", "anthropic_line", "read_anthropic_result"]

_PATH = "/messages/batches"
_PAGE = 1000
_MOST_PAGES = 100
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that each type of error has in a live answer."""

_HEAD, _TAIL = b'{"requests":[', b"]}"


def anthropic_line(custom_id: str, request: Request) -> Sequence[bytes]:
    """The request of a row as a line, in pieces."""
    return (f'{{"custom_id":"{custom_id}","params":'.encode(), one_line(request.body), b"}\n")


class AnthropicBatches:
    """Implements :class:`~llmbatch.providers.batches.port.BatchApi`."""

    has_labels = False
    has_files = False

    def __init__(self, control: Control, family: BatchFamily) -> None:
        self._control = control
        self._family = family

    def __repr__(self) -> str:
        return f"<AnthropicBatches of {self._family.title}>"

    def encode(self, custom_id: str, request: Request) -> Sequence[bytes]:
        """The request of a row, in pieces, with a line break that :meth:`create` turns into a comma."""
        return anthropic_line(custom_id, request)

    async def upload(self, name: str, lines: Upload) -> tuple[str, bool]:
        """Nothing: there are no files."""
        return "", True

    async def is_processed(self, file_id: str) -> bool:
        """True: there are no files."""
        return True

    async def create(
        self, file_id: str, lines: Upload, metadata: Mapping[str, str], name: str, request: Request
    ) -> RemoteBatch:
        """Create a batch of *lines*; sent once, as it is not idempotent.

        Raises:
            ControlError: it failed, or its answer was lost.
        """
        what = "the creation of a batch"
        answer = await self._control.send(what, "POST", _PATH, _Requests(lines), "application/json")
        return _read(what, answer)

    async def batches(self, since: float) -> AsyncIterator[RemoteBatch]:
        """List batches, the newest first, back to *since*.

        Raises:
            ControlError: it failed.
        """
        what, after = "the list of batches", ""
        for _ in range(_MOST_PAGES):
            query = {"limit": str(_PAGE), **({"after_id": after} if after else {})}
            page = await self._control.json(what, "GET", _PATH, query=query)
            items = page.get("data") if isinstance(page, dict) else None
            if not isinstance(items, list):
                raise unexpected(what)
            created = None
            for item in items:
                if isinstance(item, dict) and isinstance(item.get("id"), str):
                    batch = _read(what, item)
                    after, created = batch.id, batch.created_at
                    yield batch
            has_more = isinstance(page, dict) and page.get("has_more") is True
            if not has_more or not items or (created is not None and created < since):
                return

    async def orphans(self, prefix: str, since: float) -> AsyncIterator[tuple[str, str, float]]:
        """Nothing: there are no files."""
        nothing: tuple[tuple[str, str, float], ...] = ()
        for one in nothing:
            yield one

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """Read one batch.

        Raises:
            ControlError: it failed.
        """
        what = "the state of a batch"
        return _read(what, await self._control.json(what, "GET", f"{_PATH}/{batch_id}"))

    async def results(self, batch: RemoteBatch) -> AsyncGenerator[ResultLine | None]:
        """Fetch the results.

        Raises:
            ControlError: it failed, or they are not complete.
        """
        url = self._control.url(f"{_PATH}/{batch.id}/results")
        async with self._control.download(f"the results of batch {batch.id}", url) as blocks:
            async for line in stream_lines(blocks):
                yield read_anthropic_result(line)

    async def was_deleted(self, batch: RemoteBatch) -> bool:
        """False: a deleted batch is not listed."""
        return False

    async def cancel(self, batch_id: str) -> None:
        """Ask to cancel it.

        Raises:
            ControlError: it failed.
        """
        await self._control.json("the cancellation of a batch", "POST", f"{_PATH}/{batch_id}/cancel", body={})

    async def delete(self, batch: RemoteBatch) -> None:
        """Delete the batch with its results.

        Raises:
            ControlError: it failed.
        """
        await self._control.json("the deletion of a batch", "DELETE", f"{_PATH}/{batch.id}")


class _Requests:
    """The body of a create: *lines*, each of which ends in a line break, as one JSON array."""

    def __init__(self, lines: Upload) -> None:
        self._lines = lines
        # All line breaks but the last become commas.
        self.size_bytes = len(_HEAD) + max(0, lines.size_bytes - 1) + len(_TAIL)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The body."""
        yield _HEAD
        held = b""
        async for block in self._lines.blocks():
            data = held + block
            held = data[-1:]
            yield data[:-1].replace(b"\n", b",")
        yield held.replace(b"\n", b"") + _TAIL


def _read(what: str, item: JSON) -> RemoteBatch:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        raise unexpected(what)
    status = str(item.get("processing_status") or "")
    given = item.get("request_counts")
    counts = {name: n for name, n in given.items() if isinstance(n, int)} if isinstance(given, dict) else {}
    is_ended = status == "ended"
    return RemoteBatch(
        id=str(item["id"]),
        status=status,
        is_ended=is_ended,
        created_at=instant(item.get("created_at")),
        ended_at=instant(item.get("ended_at")),
        endpoint="/v1/messages",
        rows=sum(counts.values()) if counts else None,
        succeeded=counts.get("succeeded") if is_ended else None,  # zero until then
        failed=counts.get("errored") if is_ended else None,
        result_files=() if item.get("archived_at") else ("results",),
        is_cancelling=status == "canceling",
    )


def read_anthropic_result(line: bytes) -> ResultLine | None:
    """A line of results; None if it is none."""
    try:
        members = split_object(line.decode()) or {}
        custom_id = parse(members.get("custom_id", "null"))
        result = split_object(members.get("result", "null")) or {}
        kind = parse(result.get("type", "null"))
        if not isinstance(custom_id, str):
            return None
        if kind == "succeeded":
            return ResultLine(custom_id, Reply(200, {}, result.get("message", "null").encode()))
        if kind != "errored":
            return ResultLine(custom_id, None, str(kind or "no_answer"))
        error = parse(result.get("error", "null"))
    except (RawJsonError, UnicodeDecodeError):
        return None
    inner = error.get("error") if isinstance(error, dict) else None
    type_ = inner.get("type") if isinstance(inner, dict) else None
    request_id = error.get("request_id") if isinstance(error, dict) else None
    headers = {"request-id": request_id} if isinstance(request_id, str) else {}
    return ResultLine(custom_id, Reply(_STATUS.get(str(type_), 500), headers, dumps(error).encode()))
