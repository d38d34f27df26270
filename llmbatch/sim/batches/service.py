"""Answer the calls of the batch APIs: find out which call it is, meet it with the faults of the scenario, count it.

No I/O but spooled files, and no clock: the caller passes the time. Not thread-safe.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.utils import formatdate
from random import Random
from urllib.parse import parse_qsl, unquote

from llmbatch.sim.admission import has_key
from llmbatch.sim.batches.anthropic import AnthropicBatches
from llmbatch.sim.batches.batch import Batch, Engine
from llmbatch.sim.batches.openai import OpenAIBatches
from llmbatch.sim.batches.replies import BatchReply, error_reply
from llmbatch.sim.batches.rules import BatchCall, BatchRules
from llmbatch.sim.batches.spool import Part
from llmbatch.sim.batches.state import BatchState, BatchStats, ControlCall
from llmbatch.sim.batches.uploads import Body, FormBody
from llmbatch.sim.faulty_plans import outage
from llmbatch.sim.protocol import Dialect, ErrorResponse, dialect_of

__all__ = ["BatchService"]

_PATHS: tuple[tuple[str, str, BatchCall], ...] = (
    ("POST", r"/v1/files", "upload"),
    ("GET", r"/v1/files", "files"),
    ("GET", r"/v1/files/([^/]+)", "file"),
    ("GET", r"/v1/files/([^/]+)/content", "content"),
    ("DELETE", r"/v1/files/([^/]+)", "delete"),
    ("POST", r"/v1/(?:messages/)?batches", "create"),
    ("GET", r"/v1/(?:messages/)?batches", "list"),
    ("GET", r"/v1/(?:messages/)?batches/([^/]+)", "retrieve"),
    ("POST", r"/v1/(?:messages/)?batches/([^/]+)/cancel", "cancel"),
    ("GET", r"/v1/messages/batches/([^/]+)/results", "content"),
    ("DELETE", r"/v1/messages/batches/([^/]+)", "delete"),
)
_is_batch_path = re.compile(r"/v1/(?:files|batches|messages/batches)(?:/|\Z)").match


class BatchService:
    """The batch APIs of one simulated provider; its batches outlive the server that serves them.

    *rules_of* gives the rules of a model's scenario, of the provider's own for None, and None where it has none: there
    the *usual* ones hold.
    """

    def __init__(
        self,
        rules_of: Callable[[str | None], BatchRules | None],
        engine: Engine,
        *,
        usual: BatchRules,
        seed: int,
        epoch: float,
        require_key: str | None = None,
    ) -> None:
        self._state = BatchState(rules_of, engine, usual=usual, seed=seed, epoch=epoch)
        self._openai = OpenAIBatches(self._state)
        self._anthropic = AnthropicBatches(self._state)
        self._key = require_key
        self._calls = 0

    def __repr__(self) -> str:
        return f"<BatchService {len(self._state.batches)} batches>"

    @property
    def stats(self) -> BatchStats:
        """Counts of calls and batches."""
        return self._state.stats

    @property
    def batches(self) -> list[Batch]:
        """All batches, oldest first, as they were when last asked about."""
        return self._state.batches

    @property
    def epoch(self) -> float:
        """Unix time of the clock's zero."""
        return self._state.epoch

    @staticmethod
    def serves(path: str) -> bool:
        """Whether *path* is of a batch API."""
        return _is_batch_path(path) is not None

    @staticmethod
    def body(path: str, headers: Mapping[str, str]) -> Body:
        """What the body of a call is fed to before :meth:`answer`."""
        return FormBody(headers) if path == "/v1/files" else Body()

    def answer(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: Body, now: float, *, origin: str
    ) -> BatchReply:
        """Answer a call that arrives at *now*, in seconds of the provider's clock; header names are lower case.

        *origin* (``http://host:port``) is where the caller reaches the provider.
        """
        dialect, state = dialect_of(path), self._state
        if state.started is None:
            state.started = now
        self._calls += 1
        name, object_id = _call_of(method, path)
        suffix = f"{Random(f'{state.seed}:batch call:{self._calls}').getrandbits(96):024x}"
        call = ControlCall(name, object_id, dict(parse_qsl(query)), headers, now, origin, suffix)
        reply = self._fault(call, dialect) or self._answer(call, dialect, body)
        dated = {**reply.headers, "date": formatdate(state.epoch + now, usegmt=True)}
        reply = replace(reply, headers=dated)
        if name is not None:
            state.stats.log.append((now, name, 0 if reply.kind == "close" else reply.status))
        return reply

    def _fault(self, call: ControlCall, dialect: Dialect) -> BatchReply | None:
        """The answer to a call that fails whatever it asks for."""
        state = self._state
        if call.name is None:
            error = ErrorResponse(404, "Invalid URL")
            return error_reply(dialect, error, call.suffix)
        if self._key is not None and not has_key(call.headers, self._key):
            error = ErrorResponse(401, "Incorrect API key provided.", code="invalid_api_key")
            return error_reply(dialect, error, call.suffix)
        since = call.now - (state.started or 0.0)
        for fault in state.general_rules.every("control_errors"):
            is_hit = not fault.calls or call.name in fault.calls
            if is_hit and fault.from_s <= since < fault.to_s and fault.has(self._calls, state.seed):
                pick = Random(f"{state.seed}:control error:{self._calls}").random()
                error = outage(dialect, fault.statuses or (503,), pick)
                return error_reply(dialect, error, call.suffix, fault.retry_after)
        return None

    def _answer(self, call: ControlCall, dialect: Dialect, body: Body) -> BatchReply:
        match call.name:
            case "upload":
                return self._openai.upload(call, body)
            case "files":
                return self._openai.files(call)
            case "file":
                return self._openai.file(call)
            case "create":
                return self._create(call, dialect, body)
            case "list":
                return self._list(call, dialect)
            case "content" if dialect == "openai":
                return self._torn(self._openai.content(call), call, self._openai.batch_of_file(call.object_id))
            case "delete" if dialect == "openai":
                return self._openai.delete(call)
            case _:
                return self._about_batch(call, dialect)

    def _create(self, call: ControlCall, dialect: Dialect, body: Body) -> BatchReply:
        api = self._anthropic if dialect == "anthropic" else self._openai
        made = api.create(call, body)
        if isinstance(made, BatchReply):
            return made
        lost = made.rules.fault("create_lost", made.number, self._state.seed)
        if lost is not None and lost.statuses:
            pick = Random(f"{self._state.seed}:create lost:{made.number}").random()
            return error_reply(dialect, outage(dialect, lost.statuses, pick), call.suffix)
        reply = api.batch(call, made)
        return reply if lost is None else replace(reply, kind="close")

    def _list(self, call: ControlCall, dialect: Dialect) -> BatchReply:
        visible = []
        for batch in reversed(self._state.batches):
            if batch.dialect == dialect and call.now >= batch.created + batch.seconds("unlisted"):
                batch.advance(call.now, self._state.engine)
                visible.append(batch)
        if self._state.general_rules.fault("list_moves", self._calls, self._state.seed) is not None:
            call, visible = self._moved(call, visible)
        api = self._anthropic if dialect == "anthropic" else self._openai
        return api.batches(call, visible)

    def _moved(self, call: ControlCall, visible: list[Batch]) -> tuple[ControlCall, list[Batch]]:
        """The call and the list as they are while others list and create: an item repeats, and one is left out."""
        name = "after_id" if "after_id" in call.query else "after"
        after = call.query.get(name)
        chance = Random(f"{self._state.seed}:list moves:{self._calls}")
        absent = chance.choice(visible) if len(visible) > 1 else None
        ids = [batch.id for batch in visible]
        if after in ids:
            at = ids.index(after)
            absent = None if absent is not None and absent.id == after else absent
            if at > 0 and call.query.get("limit") != "1":
                before = visible[at - 1]
                absent = None if absent is before else absent
                call = replace(call, query={**call.query, name: before.id})
        return call, [batch for batch in visible if batch is not absent]

    def _about_batch(self, call: ControlCall, dialect: Dialect) -> BatchReply:
        """Retrieve, cancel, or at Anthropic delete a batch or read its results."""
        api = self._anthropic if dialect == "anthropic" else self._openai
        batch = self._state.find(dialect, call.object_id)
        if batch is None or call.now < batch.created + batch.seconds("not_found"):
            return api.missing(call)
        batch.advance(call.now, self._state.engine)
        match call.name:
            case "cancel":
                return api.cancel(call, batch)
            case "content":
                return self._torn(self._anthropic.content(call, batch), call, batch)
            case "delete":
                return self._anthropic.delete(call, batch)
            case _:
                return api.batch(call, batch)

    def _torn(self, reply: BatchReply, call: ControlCall, batch: Batch | None) -> BatchReply:
        """The download of a batch's results, with its faults."""
        if batch is None or batch.ended is None or not isinstance(reply.body, Part):
            return reply
        if call.now < batch.ended + batch.seconds("results_not_found"):
            return error_reply(batch.dialect, ErrorResponse(404, "The results were not found."), call.suffix)
        for kind in ("torn", "short"):
            fault = batch.rules.fault(kind, batch.number, self._state.seed)
            if fault is None or not self._state.is_first(f"{kind}:{call.object_id}", fault.times):
                continue
            size = math.floor(reply.length * fault.share)
            if kind == "torn":
                return replace(reply, kind="cut", sent_bytes=size)
            return replace(reply, body=replace(reply.body, size=size))
        return reply


def _call_of(method: str, path: str) -> tuple[BatchCall | None, str]:
    """Which call it is, and of which object; None if there is no such call."""
    for verb, pattern, name in _PATHS:
        found = re.fullmatch(pattern, path) if verb == method else None
        if found is not None:
            return name, unquote(found[1]) if found.groups() else ""
    return None, ""
