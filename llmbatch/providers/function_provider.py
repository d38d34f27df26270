"""Provider that calls an ``async def call(row)``.

The function receives the row; its return value is the result, and its exceptions are classified like answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from llmbatch.classify.classify import classify_exception, classify_fault
from llmbatch.classify.client_errors import is_client_type
from llmbatch.classify.results import classify_answer
from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.core.errors import TransportError, UsageError
from llmbatch.core.raw_json import JSON, dumps, parse
from llmbatch.core.rows import Row
from llmbatch.providers.sdk_results import read_result
from llmbatch.providers.time_limits import TimeLimits

__all__ = ["FunctionProvider"]


class FunctionProvider:
    """Implements :class:`llmbatch.core.ports.Provider` with a coroutine function.

    The function gets ``row.value`` for rows that come from Python, else a dictionary of the row's members and its
    ``id``. ``ping_row`` is what it is called with as a health check; without one it is not pinged.

    Raises :class:`~llmbatch.core.errors.UsageError` for anything that is not an ``async def``.
    """

    def __init__(
        self, fn: Callable[[Any], Awaitable[object]], *, name: str | None = None, ping_row: object = None
    ) -> None:
        if not _is_async(fn):
            raise UsageError(
                f"{_name(fn)} is not an async function",
                hint="define it with `async def`; a blocking one can be awaited with asyncio.to_thread(function, row)",
            )
        self._fn = fn
        self._ping_row = ping_row
        label = name or _name(fn)
        self._route = Route(label=label, account=label)
        self._limits = TimeLimits()
        self._routes = (self._route,)

    def routes(self, row: Row) -> Sequence[Route]:
        """The function itself."""
        return self._routes

    def request(self, row: Row, route: Route) -> Request:
        """Build a request that is only a name: the function gets *row* itself."""
        size = sum(map(len, row.fields.values()))
        return self._request(size // 4)

    def lookup(self, row: Row, request: Request) -> Outcome | None:
        """None: no answer is known without a call."""
        return None

    def ping(self, like: Request) -> Request | None:
        """Build a request for the ping row, None if there is none."""
        return None if self._ping_row is None else self._request(0)

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:  # noqa: ASYNC109
        """Await the function once, for *timeout* seconds at most, and classify the result. Raises only cancellation."""
        value: object = None
        limit = self._limits.within(timeout)
        try:
            value = self._ping_row if row is None else _value_of(row)
            with limit:
                result = await self._fn(value)
            body = _json_of(result)
        except TimeoutError as error:
            if limit.expired:
                return classify_fault(TransportError("timeout", f"no result within {timeout:g} s", sent=True))
            return classify_exception(error, asked=_shown(value))
        except Exception as error:  # noqa: BLE001 - whatever the function raises is classified
            return classify_exception(error, asked=_shown(value))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # This call was not canceled: the function awaited something that was. Do not treat it as our cancellation.
            return classify_exception(ConnectionAbortedError("the function was canceled from within"))
        text, usage = read_result(result, body)
        failed = classify_answer(result) if is_client_type(type(result)) else None
        if failed is not None:
            return replace(failed, body=body, usage=usage)
        return Outcome(verdict="success", status=200, body=body, text=text, usage=usage, value=result)

    async def aclose(self) -> None:
        """Cancel the timer of time limits."""
        self._limits.close()

    def _request(self, tokens: int) -> Request:
        return Request(self._route, "", {}, b"", "function", tokens)


def _value_of(row: Row) -> object:
    if row.value is not None or not row.fields:  # rows of files have fields; None may be the value of a row from Python
        return row.value
    members: dict[str, JSON] = {"id": parse(row.id_json)}
    for name, text in row.fields.items():
        members[name] = parse(text)
    return members


def _shown(value: object) -> bytes:
    """*value* as text, to recognize an echo of it; empty if it has none."""
    try:
        return repr(value).encode(errors="replace")
    except Exception:  # noqa: BLE001 - a foreign __repr__ may do anything
        return b""


def _json_of(result: object) -> str:
    """*result* as JSON text; values that JSON cannot represent become strings, so that no paid result is lost."""
    try:
        return dumps(result)
    except (TypeError, ValueError, RecursionError):
        pass
    with contextlib.suppress(Exception):  # a foreign object may raise anything as it is dumped
        return dumps(json.loads(json.dumps(result, default=_plain, allow_nan=False)))
    with contextlib.suppress(Exception):
        return dumps(str(result))
    return dumps(type(result).__name__)


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else str(value)


def _is_async(fn: object) -> bool:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


def _name(fn: object) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__name__", "") or type(fn).__name__
