"""``LLMBatch``: the rows of a Ray data set through a run, block by block, with a result for every row.

It imports no Ray: Ray calls it. Columns are made here of results, and rows of columns, whatever the batch is made of.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Unpack

from llmbatch.core.errors import StoppedError, UsageError
from llmbatch.core.events import CallEnded, Event
from llmbatch.core.rows import Result
from llmbatch.inputs.rows import NAMING_MEMBERS
from llmbatch.peers.local import Hub
from llmbatch.runs.batch_runner import BatchRunner
from llmbatch.runs.keyword_types import Keywords

__all__ = ["LLMBatch"]

_log = logging.getLogger("llmbatch.ray")

_REQUEST_COLUMNS: Final = frozenset({"prompt", "messages", "system", "model", *NAMING_MEMBERS})
"""Columns that count where neither a template nor a prompt column is given, as in tables."""

_PREFIX: Final = "result_"
"""Before the name of a result's column that the data set has already."""

_TEXTS: Final = ("status", "text", "error_code", "error_message", "reason", "model", "finish_reason")
_NUMBERS: Final = ("retry_after", "cost_usd", "latency_s")
_COUNTS: Final = ("input_tokens", "output_tokens", "attempts")
_NOT_SENT: Final = "the run ended before this row was sent"


class _BlockRunner(BatchRunner[Any, Any]):
    """A runner whose runs, one for each block, share circuits, rates and cost, and know which routes have answered."""

    def __init__(self, model: str | None, **keywords: Unpack[Keywords]) -> None:
        self._answered: set[str] = set()
        keywords["observers"] = [*keywords.get("observers", ()), self._note]
        keywords["display"] = False
        super().__init__(model, **keywords)
        self._runs.hub = Hub()
        self._runs.answered_before = self._answered.__contains__

    def _note(self, event: Event) -> None:
        if isinstance(event, CallEnded) and event.verdict == "success":
            self._answered.add(event.route)


class LLMBatch:
    """Sends the rows of a Ray data set to a provider: for ``ds.map_batches``, one instance in each of its actors.

    ::

        ds.map_batches(
            LLMBatch,
            fn_constructor_kwargs={"model": "openai/gpt-5-mini", "on_outage": "defer", "concurrency": 40},
            batch_size=256,
            concurrency=4,
        )

    Each batch comes back with as many rows as it had, in their order, whatever the provider does: with the columns
    ``status`` (``success``, ``failed`` or ``deferred``), ``text``, ``error_code``, ``error_message``, ``reason`` (why
    it is deferred), ``model``, ``finish_reason``, ``retry_after`` (s), ``cost_usd``, ``latency_s``, ``input_tokens``,
    ``output_tokens``, ``attempts``, and with a schema ``parsed`` (JSON). A name that the data set has already gets the
    prefix ``result_``. Rows are made as those of a table: of columns called ``prompt`` or ``messages``, by
    ``prompt_column``, or by ``template``. Batches may be pyarrow, pandas, or NumPy (the default), in which
    no value is ``""`` or NaN.

    Each batch is a run of its own, and Ray has up to four of an actor at a time: ``concurrency`` requests are in flight
    for each. They share circuits, rates and ``max_cost`` in the actor; ``shared="ray:NAME"`` shares them between all
    actors of the cluster, and an address of Redis with others too.

    Keys are read from the environment of the actor's node. If the provider refuses the account or the key, the rows
    that are left are ``deferred``, and the actor sends nothing more.

    Args:
        model: ``PROVIDER/MODEL``; None: the column ``model`` names it.
        **keywords: those of :class:`~llmbatch.BatchRunner`.

    Raises:
        UsageError: a value is out of range, a column is missing, or there is no key.
    """

    def __init__(self, model: str | None = None, **keywords: Unpack[Keywords]) -> None:
        if model is not None and not isinstance(model, str):
            raise UsageError(
                "LLMBatch needs the name of a model", hint="write PROVIDER/MODEL; Ray calls functions itself"
            )
        self._has_schema = keywords.get("schema") is not None
        self._is_shaped = keywords.get("template") is not None or keywords.get("prompt_column") is not None
        self._runner = _BlockRunner(model, **keywords)
        self._refused = ""
        """Why the provider takes nothing more of this actor; empty while it does."""

    def __repr__(self) -> str:
        return f"<LLMBatch{f' stopped: {self._refused}' if self._refused else ''}>"

    async def __call__(self, batch: object) -> AsyncIterator[object]:
        """Send the rows of *batch*, and yield it once, with the columns of the results.

        Raises:
            UsageError: no row can be sent: a column or a key is missing.
        """
        rows = _rows_of(batch)
        results = await self._send([self._request(row) for row in rows])
        yield _with_columns(batch, _columns_of(results, has_schema=self._has_schema))

    def _request(self, row: Mapping[str, object]) -> dict[str, object]:
        wanted = row if self._is_shaped else _REQUEST_COLUMNS & row.keys()
        return {name: _plain(row[name]) for name in wanted if row[name] is not None}

    async def _send(self, rows: Sequence[dict[str, object]]) -> list[Result[Any, Any]]:
        """A result for each of the *rows*, in their order."""
        results: dict[int, Result[Any, Any]] = {}
        reason = self._refused
        if not reason:
            try:
                async with self._runner.stream(rows) as stream:
                    async for result in stream:
                        results[result.number] = result
                reason = stream.summary.stopped_reason or ""
            except StoppedError as error:
                reason = self._refused = error.message
                _log.error("%s: the rows that are left are deferred (%s)", error.message, error.hint)
        waits = [result.retry_after for result in results.values() if result.retry_after is not None]
        return [
            results.get(number)
            or Result(
                *(number, "", "deferred", f'"row-{number}"'),
                retry_after=min(waits, default=None),
                reason=reason or _NOT_SENT,
            )
            for number in range(1, len(rows) + 1)
        ]


def _rows_of(batch: object) -> list[dict[str, object]]:
    """The rows of a batch: a table of pyarrow, a DataFrame, or columns by their names.

    Raises:
        UsageError: it is something else.
    """
    if hasattr(batch, "to_pylist"):
        return list(batch.to_pylist())
    if hasattr(batch, "to_dict"):
        return list(batch.to_dict("records"))
    if isinstance(batch, Mapping):
        return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    raise UsageError(f"a batch is {type(batch).__name__}", hint="use batch_format='numpy', 'pandas' or 'pyarrow'")


def _plain(value: object) -> object:
    """*value* with lists and numbers in place of those of NumPy."""
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _columns_of(results: Sequence[Result[Any, Any]], *, has_schema: bool) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {
        name: [getattr(result, name) for result in results] for name in (*_TEXTS, *_NUMBERS)
    }
    for name in ("input_tokens", "output_tokens"):
        columns[name] = [None if result.usage is None else getattr(result.usage, name) for result in results]
    columns["attempts"] = [result.attempts for result in results]
    if has_schema:
        columns["parsed"] = [None if result.fit is None else result.fit.json for result in results]
    return columns


def _with_columns(batch: Any, columns: Mapping[str, list[object]]) -> Any:
    """*batch* with more columns; a table of pyarrow for a DataFrame.

    Their types are the same in every batch, also where a column has no value: else Ray, which looks at the values,
    would write files that cannot be read together.
    """
    there = set(getattr(batch, "column_names", None) or batch)
    named = [
        (f"{_PREFIX}{name}" if name in there else name, _kind_of(name), values) for name, values in columns.items()
    ]
    if not isinstance(batch, Mapping):
        import pyarrow

        table = batch if hasattr(batch, "append_column") else pyarrow.Table.from_pandas(batch, preserve_index=False)
        types = {"text": pyarrow.string(), "number": pyarrow.float64(), "count": pyarrow.int64()}
        for name, kind, values in named:
            table = table.append_column(name, pyarrow.array(values, types[kind]))
        return table
    import numpy

    added: dict[str, Any] = {}
    for name, kind, values in named:
        if kind == "text":
            added[name] = numpy.array(["" if value is None else value for value in values], dtype=object)
        else:
            added[name] = numpy.array([numpy.nan if value is None else value for value in values], dtype=float)
    return {**batch, **added}


def _kind_of(column: str) -> str:
    return "number" if column in _NUMBERS else "count" if column in _COUNTS else "text"
