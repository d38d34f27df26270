"""Rows of the input for batches: scans that begin near a row, and rows that are read again when results arrive."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from llmbatch.core.calls import Outcome, Reply, Request, Route
from llmbatch.core.ports import Provider, Source
from llmbatch.core.raw_json import RawJsonError, split_object
from llmbatch.core.rows import Malformed, Row
from llmbatch.core.secrets import Mask
from llmbatch.core.token_estimate import input_tokens
from llmbatch.inputs.input import Input
from llmbatch.inputs.parallel_hash import identity
from llmbatch.inputs.spool import Spool
from llmbatch.providers.batches.families import BatchFamily, family_of
from llmbatch.providers.batches.make import obstacle_of
from llmbatch.providers.resolve import Target
from llmbatch.runs.batches.names import route_name
from llmbatch.storage.filesystem import Filesystem
from llmbatch.storage.finished_rows import FinishedRows, Verified

__all__ = ["BatchProvider", "BatchRow", "ChunkRows", "InputRows", "asks_for_stream", "bind", "control_base"]

_MARK_ROWS = 4096


class BatchProvider(Provider, Protocol):
    """A provider whose rows can go into batches: that of HTTP, and those around it."""

    @property
    def mask(self) -> Mask:
        """Masks its keys."""
        ...

    def judge(self, request: Request, reply: Reply) -> Outcome:
        """Classify *reply*, the answer to *request*."""
        ...

    def target_of(self, row: Row, route: Route) -> Target:
        """Where *row* goes on *route*."""
        ...


@dataclass(slots=True)
class BatchRow:
    """A row, its request, and the batch API for it. ``account``: the key and address of that API."""

    row: Row
    request: Request
    family: BatchFamily | None
    account: str
    route: str
    """As in labels: model and endpoint."""
    base: str
    obstacle: str = ""
    """What keeps it out of the batch API that its provider has; empty: nothing, or there is none."""

    @property
    def tokens(self) -> int:
        """Input tokens, as an estimate."""
        return input_tokens(self.request.body)


def bind(provider: BatchProvider, row: Row) -> BatchRow:
    """Build the request of *row* on its preferred route.

    Raises:
        MalformedRowError: the row can be no request.
        MissingKeyError: there is no key for it.
        UsageError: it names no model, or one that cannot be reached.
    """
    route = provider.routes(row)[0]
    target = provider.target_of(row, route)
    request = provider.request(row, route)
    base = control_base(request.url)
    family = family_of(target.provider.name, request.endpoint, request.url)
    obstacle = "" if family is None else obstacle_of(family, request)
    return BatchRow(
        row,
        request,
        None if obstacle else family,
        f"{base} {route.account}",
        route_name(request.endpoint, route.model or route.label),
        base,
        obstacle,
    )


_ENDS = ("/chat/completions", "/responses", "/embeddings", "/completions", "/messages")


def control_base(url: str) -> str:
    """The URL that the paths of the batch API follow, for rows that go to *url*; a query is kept."""
    path, mark, query = url.partition("?")
    for end in _ENDS:
        if path.endswith(end):
            path = path.removesuffix(end)
            break
    before, found, _ = path.rpartition("/deployments/")  # Azure's older paths name the deployment
    return (before if found else path) + mark + query


def asks_for_stream(body: bytes) -> bool:
    """Whether the request *body* asks for a stream, which a batch cannot give."""
    if b'"stream"' not in body:
        return False
    try:
        return (split_object(body.decode()) or {}).get("stream") == "true"
    except (RawJsonError, UnicodeDecodeError):
        return False


class InputRows:
    """Scans of one input that is a file. *limit*: only the first so many rows."""

    def __init__(self, rows: Input, path: str, disk: Filesystem, *, limit: int | None) -> None:
        self._input = rows
        self._path = path
        self._disk = disk
        self._limit = limit
        self._marks: list[tuple[int, int]] = []
        """Number and offset of some rows, of plain files."""
        self.rows_seen = 0
        """The most rows that a scan has read."""
        self.torn_line: int | None = None

    def scan(self, first: int = 1, last: int | None = None) -> Iterator[Row | Malformed | None]:
        """Rows *first* to *last* in order; None now and then, to yield to the event loop.

        Raises:
            InputError: the input cannot be read.
        """
        source = self._open(first)
        seen = source.rows_read
        try:
            while not source.exhausted:
                item = source.take()
                if item is None:
                    yield None
                    continue
                seen += 1
                if last is not None and item.number > last:
                    return
                if isinstance(item, Row) and item.offset >= 0:
                    self._mark(item, seen)
                if item.number >= first:
                    yield item
                elif seen % _MARK_ROWS == 0:
                    yield None
            if last is None:
                self.torn_line = source.torn_line
        finally:
            self.rows_seen = max(self.rows_seen, source.rows_read)
            cast("_Closes", source).close()

    def reader(self) -> Source:
        """A source whose rows can be read again by their offsets."""
        return self._input.rows(None, limit=None, spool=None)

    def _mark(self, row: Row, seen: int) -> None:
        """Note where *row* is, so that scans can begin there; with blank lines before it, a limit counts otherwise."""
        if self._limit is not None and seen != row.number:
            return
        if not self._marks or row.number - self._marks[-1][0] >= _MARK_ROWS:
            self._marks.append((row.number, row.offset))

    def _open(self, first: int) -> Source:
        finished: FinishedRows | None = None
        at = bisect_right(self._marks, first, key=lambda mark: mark[0]) - 1
        if at >= 0 and self._marks[at][0] > 1:
            number, offset = self._marks[at]
            finished = FinishedRows()
            finished.verified = Verified(identity(self._disk.stat(self._path)), number - 1, offset)
        return self._input.rows(finished, limit=self._limit, spool=None)


class _Closes(Protocol):
    def close(self) -> None: ...


class ChunkRows:
    """The rows *first* to *last* for which *wanted* is true, to be read again by their number in any order.

    Holds 20 bytes for each number of the range; of inputs that cannot be read by an offset, a temporary file.
    """

    def __init__(self, rows: InputRows, path: str, first: int, last: int, disk: Filesystem) -> None:
        self.first, self.last = first, last
        self.count = 0
        self._rows = rows
        self._path = path
        self._disk = disk
        self._spool: Spool | None = None
        self._offsets = array("Q")
        """Where each row is, plus 1; 0: not one of them."""
        self._hashes = array("Q")
        self._sizes = array("I")
        self._source: Source | None = None

    def load(self, wanted: Callable[[int], bool]) -> Iterator[None]:
        """Read the rows once; yields now and then.

        Raises:
            InputError: the input cannot be read.
        """
        spool_at = Path(self._path).with_name(f".{Path(self._path).name}.llmbatch-batch-spool")
        for item in self._rows.scan(self.first, self.last):
            if item is None:
                yield None
            elif isinstance(item, Row) and wanted(item.number):
                at = item.offset
                if at < 0:
                    if self._spool is None:
                        self._spool = Spool(spool_at, self._disk)
                    at = self._spool.put(item)
                while len(self._offsets) < item.number - self.first:  # rows that are not wanted
                    self._append(0, 0, 0)
                self._append(at + 1, int(item.hash, 16), item.size)
                self.count += 1

    def has(self, number: int) -> bool:
        """Whether the row is one of them."""
        index = number - self.first
        return 0 <= index < len(self._offsets) and self._offsets[index] > 0

    def _append(self, offset: int, digest: int, size: int) -> None:
        self._offsets.append(offset)
        self._hashes.append(digest)
        self._sizes.append(size)

    def hash_of(self, number: int) -> str:
        """The row's hash, 16 hexadecimal digits."""
        return f"{self._hashes[number - self.first]:016x}"

    def get(self, number: int) -> Row:
        """Read the row again.

        Raises:
            InputError: it has changed, or cannot be read.
        """
        at = self._offsets[number - self.first] - 1
        if self._spool is not None:
            return self._spool.get(at)
        if self._source is None:
            self._source = self._rows.reader()
        size = self._sizes[number - self.first]
        return self._source.reread(Row(number, self.hash_of(number), "", {}, None, at, size))

    def close(self) -> None:
        """Close what is open; idempotent."""
        if self._spool is not None:
            self._spool.close()
        if self._source is not None:
            cast("_Closes", self._source).close()
            self._source = None
