"""The batches of an output outside of a run: list, cancel, adopt, ignore (``llmbatch batch …``).

They are known from the journal beside the output; without it, the run itself finds them by the provider's listing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbatch.core.calls import Endpoint, Reply, Request
from llmbatch.core.errors import OutputError, UsageError
from llmbatch.core.exchange import Exchanger
from llmbatch.core.rows import Row
from llmbatch.outputs.deferred import batch_journal_path
from llmbatch.providers.batches.control import Control
from llmbatch.providers.batches.make import make_api
from llmbatch.providers.batches.port import BatchApi, ControlError
from llmbatch.providers.catalog import ENDPOINTS, PROVIDERS, split_model
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.runs.batches.board import Chunk
from llmbatch.runs.batches.record import ChunkRecord
from llmbatch.runs.batches.rows import bind
from llmbatch.storage.batch_journal import BatchJournal

__all__ = ["BatchCommands", "ListedBatch"]


@dataclass(frozen=True, slots=True)
class ListedBatch:
    """One batch of an output. ``status``: the provider's, or why it is not known; ``state``: what the journal says."""

    id: str
    state: str
    status: str
    first: int
    last: int
    rows: int | None
    model: str
    created_at: float


class BatchCommands:
    """Commands on the batches of *output*. Keys come from *environ*; *exchanger* sends the control calls."""

    def __init__(self, output: Path, exchanger: Exchanger, environ: Mapping[str, str] | None = None) -> None:
        self._output = output
        self._exchanger = exchanger
        self._environ = os.environ if environ is None else environ
        self._journal = BatchJournal(str(batch_journal_path(output)))
        self._apis: dict[str, BatchApi] = {}

    def __repr__(self) -> str:
        return f"<BatchCommands for {self._output}>"

    def known(self) -> list[Chunk]:
        """The batches of all jobs in the journal, that of the latest job last.

        Raises:
            OutputError: there is no journal.
        """
        records = self._journal.read()
        if not records:
            raise OutputError(
                f"{self._output}: no batches are known; there is no {Path(self._journal.path).name}",
                hint="run the same command again: it finds its batches by the provider's listing",
            )
        jobs = dict.fromkeys(str(record["job"]) for record in records if record.get("job"))
        chunks: dict[str, Chunk] = {}
        for job in jobs:
            for chunk in ChunkRecord(self._journal).board(job).chunks:
                if chunk.batch_id:
                    chunks[chunk.batch_id] = chunk
        return list(chunks.values())

    async def list(self, *, only_open: bool = False) -> list[ListedBatch]:
        """The batches with their status at the provider, where they are not collected yet.

        Raises:
            OutputError: there is no journal.
        """
        found: list[ListedBatch] = []
        for chunk in self.known():
            if only_open and not chunk.is_open:
                continue
            status: str = chunk.state
            if chunk.is_open:
                try:
                    status = (await self._api(chunk).retrieve(chunk.batch_id)).status
                except (ControlError, UsageError) as error:
                    status = f"unknown: {error.message}"
            label = chunk.label
            found.append(
                ListedBatch(
                    *(chunk.batch_id, chunk.state, status, label.first, label.last, label.rows, chunk.model),
                    chunk.created_at,
                )
            )
        return found

    async def cancel(self, ids: Sequence[str], told: Callable[[str], None]) -> int:
        """Cancel the open batches *ids*, or all; *told* hears what became of each. How many could not be canceled.

        Raises:
            OutputError: there is no journal.
            UsageError: an id is none of its batches.
        """
        chunks = {chunk.batch_id: chunk for chunk in self.known()}
        unknown = [batch_id for batch_id in ids if batch_id not in chunks]
        if unknown:
            raise UsageError(
                f"{unknown[0]}: is no batch of {self._output}", hint=f"llmbatch batch list {self._output} shows them"
            )
        failed = 0
        for batch_id, chunk in chunks.items():
            if ids and batch_id not in ids:
                continue
            if not chunk.is_open:
                if ids:
                    told(f"{batch_id} is {chunk.state} already")
                continue
            try:
                await self._api(chunk).cancel(batch_id)
            except (ControlError, UsageError) as error:
                failed += 1
                told(f"{batch_id} could not be canceled: {error.message}")
            else:
                told(f"{batch_id} is being canceled; the same run collects what it has done")
        return failed

    def say(self, kind: str, ids: Sequence[str]) -> Sequence[str]:
        """Note that *ids* are batches of this output (*kind* ``adopt``), or are not (``ignore``).

        Gives those that were collected already, for which nothing is noted.

        Raises:
            UsageError: an id cannot be one.
            WriteError: the journal cannot be written.
        """
        for batch_id in ids:
            if not batch_id.isprintable() or not batch_id.isascii() or "/" in batch_id or len(batch_id) > 200:
                raise UsageError(f"{batch_id[:80]!r} is not the id of a batch", hint="copy it from the provider's list")
        record = ChunkRecord(self._journal)
        chunks = record.board(jobs[-1]).chunks if (jobs := record.jobs()) else []
        collected = [chunk.batch_id for chunk in chunks if chunk.state == "collected" and chunk.batch_id in ids]
        for batch_id in ids:
            if batch_id not in collected:
                self._journal.append({"kind": kind, "batch": batch_id}, sync=True)
        self._journal.close()
        return collected

    def _api(self, chunk: Chunk) -> BatchApi:
        """The batch API of *chunk*'s account, with the key that the environment has now.

        Raises:
            UsageError: there is no key, or the journal does not say enough.
        """
        known = self._apis.get(chunk.account)
        if known is not None:
            return known
        _, _, account = chunk.account.partition(" ")
        base_url, _, key_env = account.partition(" ")
        provider, model = split_model(chunk.model)
        is_default = provider is not None and provider.base_url.rstrip("/") == base_url
        endpoint: Endpoint | None = next((name for name in ENDPOINTS if name == chunk.endpoint), None)
        settings = ProviderSettings(
            model=chunk.model or "unknown",
            base_url=None if is_default or not base_url or provider is PROVIDERS["azure"] else base_url,
            api_key_env=None if provider is PROVIDERS["sim"] else key_env or None,
            endpoint=endpoint,
            environ=self._environ,
            sim_url=lambda: base_url,
        )
        row = bind(HttpProvider(settings, _NoTransport()), Row(1, "0" * 16, '"row-1"', {"prompt": '"-"'}))
        if row.family is None:
            raise UsageError(f"there is no batch API for {chunk.model or model}", hint="see docs/batch.md")
        control = Control(self._exchanger, row.base, row.request.headers, HttpProvider(settings, _NoTransport()).mask)
        api = self._apis[chunk.account] = make_api(control, row.family)
        return api


class _NoTransport:
    """Carries no rows."""

    async def post(self, request: Request, *, timeout: float) -> Reply:  # noqa: ASYNC109
        """Refuse."""
        raise AssertionError("no row is sent")

    async def aclose(self) -> None:
        """Nothing is open."""
