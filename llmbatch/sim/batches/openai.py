"""The files and batches of the simulated OpenAI API."""

from __future__ import annotations

from llmbatch.core.raw_json import JSON, RawJsonError, parse
from llmbatch.sim.admission import key_of
from llmbatch.sim.batches.batch import Batch, BatchOrder, Stage
from llmbatch.sim.batches.files import StoredFile
from llmbatch.sim.batches.limits import creation_error
from llmbatch.sim.batches.pages import page_of
from llmbatch.sim.batches.replies import BatchReply, error_reply, json_reply
from llmbatch.sim.batches.rows import LineError, openai_rows
from llmbatch.sim.batches.rules import BatchFaultKind
from llmbatch.sim.batches.spool import Part
from llmbatch.sim.batches.state import BatchState, ControlCall
from llmbatch.sim.batches.uploads import Body, FormBody
from llmbatch.sim.protocol import ErrorResponse

__all__ = ["OpenAIBatches"]

_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
_MAX_FILE_BYTES = 512 * 1000 * 1000
_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_STATUS: dict[Stage, str] = {"running": "in_progress"}
_TIMES: dict[Stage, str] = {
    "running": "in_progress_at",
    "finalizing": "finalizing_at",
    "completed": "completed_at",
    "failed": "failed_at",
    "expired": "expired_at",
    "cancelling": "cancelling_at",
    "cancelled": "cancelled_at",
}


class OpenAIBatches:
    """Answers the calls of ``/v1/files`` and ``/v1/batches``."""

    def __init__(self, state: BatchState) -> None:
        self._state = state
        self._published: dict[str, tuple[str | None, str | None]] = {}
        """Output and error file of each batch that has ended."""

    def upload(self, call: ControlCall, body: Body) -> BatchReply:
        """``POST /v1/files``."""
        if not isinstance(body, FormBody) or not body.is_whole or body.filename is None:
            return self._error(call, 400, "Could not parse multipart form: 'file' is a required property", "file")
        purpose = body.fields.get("purpose", b"").decode(errors="replace")
        if purpose not in _PURPOSES:
            return self._error(call, 400, f"'{purpose}' is not one of {list(_PURPOSES)} - 'purpose'", "purpose")
        if body.spool.size > _MAX_FILE_BYTES:
            return self._error(call, 413, "The file is larger than 512 MB.", "file")
        if purpose == "batch" and body.spool.size == 0:
            return self._error(call, 400, "File is empty.", "file")
        keep = self._state.general_rules.keep_s
        if "expires_after[seconds]" in body.fields or "expires_after[anchor]" in body.fields:
            given = body.fields.get("expires_after[seconds]", b"").decode(errors="replace")
            if not given.isdecimal() or not 3600 <= int(given) <= 2_592_000:
                message = "expires_after.seconds must be a whole number from 3600 to 2592000"
                return self._error(call, 400, message, "expires_after")
            keep = min(keep, float(given))
        file = self._state.files.add(body.filename, purpose, body.spool, call.now)
        file.expires = call.now + keep
        self._state.uploads += 1
        pending = self._state.general_rules.fault("file_pending", self._state.uploads, self._state.seed)
        file.ready = call.now + (pending.seconds if pending is not None else 0.0)
        return self._json(call, file.json(self._state.epoch, call.now))

    def files(self, call: ControlCall) -> BatchReply:
        """``GET /v1/files``."""
        limit = _limit(call, 10_000, 10_000)
        if limit is None:
            return self._error(call, 400, "limit must be a whole number from 1 to 10000", "limit")
        purpose = call.query.get("purpose")
        found = [file for file in self._state.files.present(call.now) if purpose in (None, file.purpose)]
        if call.query.get("order", "desc") == "desc":
            found.reverse()
        page, has_more = page_of(found, lambda file: file.id, limit=limit, after=call.query.get("after"))
        return self._list(call, [file.json(self._state.epoch, call.now) for file in page], has_more=has_more)

    def file(self, call: ControlCall) -> BatchReply:
        """``GET /v1/files/ID``."""
        file = self._state.files.get(call.object_id, call.now)
        return self._no_file(call) if file is None else self._json(call, file.json(self._state.epoch, call.now))

    def delete(self, call: ControlCall) -> BatchReply:
        """``DELETE /v1/files/ID``."""
        if self._state.files.get(call.object_id, call.now) is None:
            return self._no_file(call)
        self._state.files.remove(call.object_id)
        return self._json(call, {"id": call.object_id, "object": "file", "deleted": True})

    def content(self, call: ControlCall) -> BatchReply:
        """``GET /v1/files/ID/content``."""
        file = self._state.files.get(call.object_id, call.now)
        if file is None:
            return self._no_file(call)
        headers = {"content-type": "application/octet-stream", "x-request-id": f"req_{call.suffix}"}
        headers["content-disposition"] = f'attachment; filename="{_safe(file.filename)}"'
        return BatchReply("answer", 200, headers, Part(file.spool, file.spool.size))

    def batch_of_file(self, file_id: str) -> Batch | None:
        """The batch whose output or error file it is."""
        for batch in self._state.batches:
            if file_id in self._published.get(batch.id, ()):
                return batch
        return None

    def create(self, call: ControlCall, body: Body) -> BatchReply | Batch:
        """``POST /v1/batches``: the batch, or a refusal."""
        try:
            document = parse(body.text().decode())
        except (RawJsonError, UnicodeDecodeError):
            document = None
        if not isinstance(document, dict):
            return self._error(call, 400, "We could not parse the JSON body of your request.", None)
        refusal = _create_error(document)
        if refusal is not None:
            return error_reply("openai", refusal, call.suffix)
        endpoint, file_id = str(document["endpoint"]), str(document["input_file_id"])
        file = self._state.files.get(file_id, call.now)
        if file is None or file.purpose != "batch":
            return self._error(call, 400, f"Invalid input_file_id: no such batch file: {file_id}", "input_file_id")
        if call.now < file.ready:
            return self._error(call, 400, f"The file {file_id} is still being processed.", "input_file_id")
        rules = self._state.rules(_first_model(file))
        rows = openai_rows(file.spool, endpoint, max_rows=rules.max_rows, max_mb=rules.max_mb)
        error, wait = creation_error(self._state, "openai", rows, rules, call.now)
        if error is not None:
            return error_reply("openai", error, call.suffix, wait)
        number = len(self._state.batches) + 1
        if not rows.errors:
            rows.errors = self._late_errors(rows.model, rows.tokens, number, call.now)
        expires = document.get("output_expires_after")
        seconds = expires.get("seconds") if isinstance(expires, dict) else None
        order = BatchOrder(
            endpoint,
            file_id,
            document.get("metadata") or None,
            key_of(call.headers),
            float(seconds) if isinstance(seconds, int) else None,
        )
        return self._state.create("openai", rows, order, rules, call.now)

    def _late_errors(self, model: str, tokens: int, number: int, now: float) -> list[LineError]:
        """What a batch with a good file fails its validation for."""
        rules, seed = self._state.rules(model), self._state.seed
        limit = rules.queue_tokens
        is_full = limit is not None and self._state.queued(model, now)[1] + tokens > limit
        if is_full or rules.fault("queue_full", number, seed) is not None:
            message = (
                f"Enqueued token limit reached for {model} in organization org-sim. Limit: {limit or 90_000:,} enqueued"
                " tokens. Please try again once some in_progress batches have been completed."
            )
            return [LineError("token_limit_exceeded", message)]
        if rules.fault("unsupported", number, seed) is not None:
            message = f"The provided model '{model}' is not supported by the Batch API."
            return [LineError("model_not_found", message, 1, "body.model")]
        bad = rules.fault("bad_line", number, seed)
        if bad is not None:
            return [LineError("invalid_request", "The request on this line is invalid.", bad.rows, "body")]
        return []

    def batches(self, call: ControlCall, visible: list[Batch]) -> BatchReply:
        """``GET /v1/batches``; *visible*: those that are listed, newest first."""
        limit = _limit(call, 20, 100)
        if limit is None:
            return self._error(call, 400, "limit must be a whole number from 1 to 100", "limit")
        page, has_more = page_of(visible, lambda batch: batch.id, limit=limit, after=call.query.get("after"))
        return self._list(call, [self.json(batch, call.now) for batch in page], has_more=has_more)

    def batch(self, call: ControlCall, batch: Batch) -> BatchReply:
        """``GET /v1/batches/ID``, and the answer to its creation."""
        return self._json(call, self.json(batch, call.now))

    def cancel(self, call: ControlCall, batch: Batch) -> BatchReply:
        """``POST /v1/batches/ID/cancel``."""
        if batch.is_ended:
            return self._error(call, 409, f"Cannot cancel a batch with status '{batch.stage}'.", None)
        if batch.stage != "cancelling":
            batch.cancel(call.now)
        return self._json(call, self.json(batch, call.now))

    def missing(self, call: ControlCall) -> BatchReply:
        """The answer about a batch that does not exist."""
        return self._error(call, 404, f"No batch found with id '{call.object_id}'.", None)

    def json(self, batch: Batch, now: float) -> dict[str, JSON]:
        """The batch object."""
        epoch, order, results = self._state.epoch, batch.request, batch.results
        output, errors = self._files_of(batch)
        is_validated = batch.stage not in ("validating", "failed")
        counts: dict[str, JSON] = {"total": 0, "completed": 0, "failed": 0}
        if is_validated:
            counts = {"total": len(batch.rows), "completed": results.good, "failed": results.bad}
        problems: JSON = None
        if batch.stage == "failed":
            problems = {"object": "list", "data": [error.json() for error in batch.errors]}
        whole: dict[str, JSON] = {
            "id": batch.id,
            "object": "batch",
            "endpoint": order.endpoint,
            "model": batch.rows.model or None,
            "errors": problems,
            "input_file_id": order.input_file_id,
            "completion_window": "24h",
            "status": _STATUS.get(batch.stage, batch.stage),
            "output_file_id": output,
            "error_file_id": errors,
            "created_at": int(epoch + batch.created),
            "expires_at": int(epoch + batch.expires),
        }
        for stage, name in _TIMES.items():
            at = batch.at.get(stage)
            whole[name] = None if at is None else int(epoch + at)
        return whole | {"request_counts": counts, "metadata": order.metadata}

    def _files_of(self, batch: Batch) -> tuple[str | None, str | None]:
        """Output and error file of a batch that has ended; they are made at the first question."""
        if batch.ended is None or batch.stage == "failed":
            return None, None
        made = self._published.get(batch.id)
        if made is None:
            kept = batch.request.output_expires_s or batch.rules.keep_s
            ids: list[str | None] = []
            for what, spool in (("output", batch.results.output), ("error", batch.results.errors)):
                file_id = None
                if what == "error" and not spool.size and self._fault(batch, "empty_error_id"):
                    file_id = ""
                elif spool.size or (what == "error" and self._fault(batch, "empty_error_file")):
                    file = self._state.files.add(f"{batch.id}_{what}.jsonl", "batch_output", spool, batch.ended)
                    file.expires, file_id = batch.ended + kept, file.id
                ids.append(file_id)
            made = self._published[batch.id] = ids[0], ids[1]
        return made

    def _fault(self, batch: Batch, kind: BatchFaultKind) -> bool:
        return batch.rules.fault(kind, batch.number, self._state.seed) is not None

    def _json(self, call: ControlCall, value: JSON) -> BatchReply:
        return json_reply("openai", value, call.suffix)

    def _list(self, call: ControlCall, data: list[dict[str, JSON]], *, has_more: bool) -> BatchReply:
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        items: list[JSON] = [*data]
        page: dict[str, JSON] = {"object": "list", "data": items, "first_id": first, "last_id": last}
        return self._json(call, page | {"has_more": has_more})

    def _error(self, call: ControlCall, status: int, message: str, param: str | None) -> BatchReply:
        return error_reply("openai", ErrorResponse(status, message, param=param), call.suffix)

    def _no_file(self, call: ControlCall) -> BatchReply:
        return self._error(call, 404, f"No such File object: {call.object_id}", "id")


def _create_error(document: dict[str, JSON]) -> ErrorResponse | None:
    for member in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(document.get(member), str):
            message = f"Missing required parameter: '{member}'."
            return ErrorResponse(400, message, code="missing_required_parameter", param=member)
    if document["endpoint"] not in _ENDPOINTS:
        message = f"Invalid value: '{document['endpoint']}'. Supported values are: {', '.join(_ENDPOINTS)}."
        return ErrorResponse(400, message, code="invalid_value", param="endpoint")
    if document["completion_window"] != "24h":
        message = "Invalid value for 'completion_window': only '24h' is supported."
        return ErrorResponse(400, message, code="invalid_value", param="completion_window")
    metadata = document.get("metadata")
    if metadata is not None and not _is_metadata(metadata):
        message = "metadata must have at most 16 pairs of text, of 64 and 512 characters at most"
        return ErrorResponse(400, message, code="invalid_value", param="metadata")
    expires = document.get("output_expires_after")
    seconds = expires.get("seconds") if isinstance(expires, dict) else None
    if expires is not None and not (isinstance(seconds, int) and 3600 <= seconds <= 2_592_000):
        message = "output_expires_after.seconds must be a whole number from 3600 to 2592000"
        return ErrorResponse(400, message, code="invalid_value", param="output_expires_after")
    return None


def _is_metadata(metadata: JSON) -> bool:
    if not isinstance(metadata, dict) or len(metadata) > 16:
        return False
    return all(len(name) <= 64 and isinstance(text, str) and len(text) <= 512 for name, text in metadata.items())


def _first_model(file: StoredFile) -> str:
    """The model of the first line, which chooses the scenario."""
    for _, line in file.spool.lines():
        try:
            value = parse(line.decode())
        except (RawJsonError, UnicodeDecodeError):
            return ""
        body = value.get("body") if isinstance(value, dict) else None
        model = body.get("model") if isinstance(body, dict) else None
        return model if isinstance(model, str) else ""
    return ""


def _limit(call: ControlCall, usual: int, most: int) -> int | None:
    """The limit that was asked for; None if it is out of range."""
    given = call.query.get("limit")
    if given is None:
        return usual
    return int(given) if given.isdecimal() and 1 <= int(given) <= most else None


def _safe(filename: str) -> str:
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in filename)
