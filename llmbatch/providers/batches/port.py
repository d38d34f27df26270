"""The port of batch APIs, and its values: a remote batch, a line of results, a control call that failed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llmbatch.core.calls import Outcome, Reply, Request
from llmbatch.core.errors import LlmbatchError
from llmbatch.core.exchange import Upload

__all__ = ["BatchApi", "BatchError", "ControlError", "RemoteBatch", "ResultLine"]


@dataclass(frozen=True, slots=True)
class BatchError:
    """Why a whole batch failed; ``line`` is the line of its input that is named, from 1."""

    code: str
    message: str
    line: int | None = None


@dataclass(slots=True)
class RemoteBatch:
    """A batch as the provider reports it.

    ``status`` is the provider's word, ``is_ended`` whether it is a terminal one: an unknown word is not. ``metadata``
    and ``file_name`` hold its label, where the provider keeps one. Times are Unix seconds; None: unknown. ``rows``,
    ``succeeded`` and ``failed`` are the provider's counts, which may be too low. ``result_files``: what to fetch.
    """

    id: str
    status: str
    is_ended: bool
    created_at: float | None = None
    ended_at: float | None = None
    endpoint: str = ""
    model: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    file_name: str = ""
    input_file: str = ""
    result_files: tuple[str, ...] = ()
    rows: int | None = None
    succeeded: int | None = None
    failed: int | None = None
    errors: Sequence[BatchError] = ()
    is_cancelling: bool = False
    has_failed: bool = False
    """Whether it was refused as a whole, so that no row ran."""


@dataclass(slots=True)
class ResultLine:
    """One line of results. ``reply`` is the answer as a live call would have got it; None: the row did not run.

    ``code`` says why it did not, such as ``batch_expired``.
    """

    custom_id: str
    reply: Reply | None
    code: str = ""


class ControlError(LlmbatchError):
    """A control call failed. ``outcome`` is its classification.

    ``may_have_arrived``: the provider may have carried it out all the same, so a create must not be sent again.
    """

    def __init__(self, what: str, outcome: Outcome, *, may_have_arrived: bool) -> None:
        super().__init__(f"{what}: {outcome.message or outcome.code}", hint=outcome.hint)
        self.outcome = outcome
        self.may_have_arrived = may_have_arrived

    @property
    def is_refusal(self) -> bool:
        """Whether the provider answered, and refused the call: 4xx but for a rate limit."""
        return self.outcome.verdict in ("rejected", "account_refused")

    @property
    def is_missing(self) -> bool:
        """Whether the provider knows no such object, or no such path, or not any more."""
        return self.outcome.status in (404, 410)


class BatchApi(Protocol):
    """One provider's batch API with one key. Each method sends once; all but :meth:`encode` raise ControlError."""

    has_labels: bool
    """Whether the listing shows the label of a batch, so that it is found without local state."""
    has_files: bool
    """Whether input is uploaded before the create."""

    def encode(self, custom_id: str, request: Request) -> Sequence[bytes]:
        """The line of a row, in pieces; the request's body is one of them, unchanged but for line breaks."""
        ...

    async def upload(self, name: str, lines: Upload) -> tuple[str, bool]:
        """Upload the *lines* as a file; its id, and whether it may be used at once. No id: there are no files."""
        ...

    async def is_processed(self, file_id: str) -> bool:
        """Whether an uploaded file may be used now."""
        ...

    async def create(
        self, file_id: str, lines: Upload, metadata: Mapping[str, str], name: str, request: Request
    ) -> RemoteBatch:
        """Create a batch of the uploaded file, or of *lines* for providers without files; *request*: of one row."""
        ...

    def batches(self, since: float) -> AsyncIterator[RemoteBatch]:
        """List batches, the newest first, back to those created at *since* (Unix seconds), as far as it can be told."""
        ...

    def orphans(self, prefix: str, since: float) -> AsyncIterator[tuple[str, str, float]]:
        """Id, name and time of uploaded input files whose name begins with *prefix*; nothing where there are none."""
        ...

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """Read one batch."""
        ...

    def results(self, batch: RemoteBatch) -> AsyncGenerator[ResultLine | None]:
        """Fetch all results of an ended batch as they arrive; None for a line that is none."""
        ...

    async def was_deleted(self, batch: RemoteBatch) -> bool:
        """Whether its input is not there any more, as after :meth:`delete`. False where that cannot be told."""
        ...

    async def cancel(self, batch_id: str) -> None:
        """Ask to cancel it; what it has done is kept."""
        ...

    async def delete(self, batch: RemoteBatch) -> None:
        """Delete the input and the results of a collected batch at the provider, as far as it lets us."""
        ...
