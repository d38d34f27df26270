"""Provider that calls a function of the user's: ``async def call(row)``, or a plain one, which runs in threads.

The function receives the row; its return value is the result, and its exceptions are classified like answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llmbatch.classify.classify import classify_exception
from llmbatch.classify.client_errors import is_client_type
from llmbatch.classify.faults import classify_fault
from llmbatch.classify.results import classify_answer
from llmbatch.classify.safe_text import Masker, safe_body
from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.core.errors import TransportError
from llmbatch.core.raw_json import JSON, parse
from llmbatch.core.rows import Row
from llmbatch.providers.function_call import FunctionCall, function_name, is_stream
from llmbatch.providers.result_json import ResultJson
from llmbatch.providers.sdk_results import ResultFacts, read_result
from llmbatch.providers.threads import HangingThreadsError
from llmbatch.providers.time_limits import TimeLimits

__all__ = ["FunctionProvider"]

_Judge = Callable[[Any, Outcome], Outcome]
"""Gets an exception or a result and how it is classified without the judge, and gives its own outcome."""


class FunctionProvider:
    """Implements :class:`llmbatch.core.ports.Provider` with a function.

    The function gets ``row.value`` for rows that come from Python, else a dictionary of the row's members and its
    ``id``. ``ping_row`` is what it is called with as a health check; without one it is not pinged. ``threads`` bounds
    the threads of a function that is not async. ``judge_error`` and ``judge_result`` may change how what it raised or
    returned is classified; they must not raise. *mask* masks the keys in all that is written to a result; the object
    that the function returned stays what it is.

    Raises :class:`~llmbatch.core.errors.UsageError` for anything that is not a function.
    """

    def __init__(
        self,
        fn: Callable[[Any], object],
        *,
        name: str | None = None,
        ping_row: object = None,
        threads: int = 40,
        judge_error: _Judge | None = None,
        judge_result: _Judge | None = None,
        mask: Masker = str,
    ) -> None:
        self._call = FunctionCall(fn, threads=threads)
        self._ping_row = ping_row
        self._judge_error = judge_error
        self._judge_result = judge_result
        self._mask = mask
        label = name or function_name(fn)
        self._json = ResultJson(label)
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

    def flight_key(self, request: Request) -> bytes | None:
        """None: each request is sent."""
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
                result = await self._call(value)
        except TimeoutError as error:
            if limit.expired:
                return classify_fault(TransportError("timeout", f"no result within {timeout:g} s", sent=True))
            return self._failed(error, value)
        except HangingThreadsError:
            return _hanging(self._route.label, timeout)
        except Exception as error:  # noqa: BLE001 - whatever the function raises is classified
            return self._failed(error, value)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # This call was not canceled: the function awaited something that was. Do not treat it as our cancellation.
            return classify_exception(ConnectionAbortedError("the function was canceled from within"))
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - such as the panic of a library in Rust: one row's, too
            return self._failed(error, value)
        return self._succeeded(result)

    def allow(self, calls: int) -> None:
        """Let *calls* calls run at a time, if they are more than before; each needs a thread where they need any."""
        self._call.allow(calls)

    async def aclose(self) -> None:
        """Cancel the timer of time limits, and end the threads."""
        self._limits.close()
        self._call.close()

    def _failed(self, error: BaseException, value: object) -> Outcome:
        outcome = classify_exception(error, mask=self._mask, asked=_shown(value))
        return self._masked(outcome if self._judge_error is None else self._judge_error(error, outcome))

    def _succeeded(self, result: object) -> Outcome:
        failed = self._unread(result) if is_stream(result) else None
        if failed is not None and self._judge_result is None:
            return failed
        encoded = self._json.encode(result)
        read = ResultFacts()
        with contextlib.suppress(Exception):  # a foreign object may raise anything as it is read
            read = read_result(result, encoded)
        text, usage, finish = read
        body, text = safe_body(encoded, self._mask), None if text is None else self._mask(text)
        success = Outcome("success", status=200, body=body, text=text, usage=usage, value=result, finish_reason=finish)
        if failed is None and is_client_type(type(result)):
            failed = classify_answer(result, mask=self._mask)
        outcome = success if failed is None else replace(failed, body=body, usage=usage)
        if self._judge_result is not None:
            outcome = self._judge_result(result, outcome)
        return success if outcome.verdict == "success" else self._masked(outcome)

    def _masked(self, outcome: Outcome) -> Outcome:
        """*outcome* without keys in what is written of it: attributes of a foreign exception may hold any."""
        mask = self._mask
        return replace(
            outcome,
            code=mask(outcome.code),
            message=mask(outcome.message),
            hint=mask(outcome.hint),
            request_id=None if outcome.request_id is None else mask(outcome.request_id),
            body=None if outcome.body is None else safe_body(outcome.body, mask),
        )

    def _unread(self, stream: object) -> Outcome:
        """The outcome of a row for which the function returned a stream, which it has to read itself."""
        what = f"{self._route.label} returned an object of {type(stream).__name__}, which has not been read"
        return classify_exception(TypeError(f"{what}: collect what it yields and return that"))

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


def _hanging(label: str, timeout: float) -> Outcome:
    """Stops the run: nothing more can be called, however long it waits."""
    return Outcome(
        "account_refused",
        scope="key",
        code="threads_hang",
        message=f"calls of {label} do not return: too many still run after the time limit of {timeout:g} s",
        hint="a thread cannot be stopped: give what the function calls a time limit of its own",
    )
