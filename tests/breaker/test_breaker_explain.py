"""``explain()``: why the circuit is as it is, until when, and what failed; no secret in it, and nothing kept alive."""

from __future__ import annotations

import gc
import json
import re
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import anthropic
import openai
import pytest
from breaker_clock import Clock
from breaker_provider import DownError, HintedError, fine, half_opened, opened, raising, trip

from llmbatch.breaker import CircuitBreaker, Explanation, Failure, Judgement

KEY = "sk-proj-Zk3vQx9LmN0pRsT7uVwY"
"""Looks like an API key and is none."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


def failed_with(error: Exception, **options: Any) -> Failure:
    """How a breaker shows *error* after a call has raised it."""
    breaker = CircuitBreaker(5, **options)
    with pytest.raises(type(error)):
        breaker.call(raising(error))
    return breaker.explain().last_failures[-1]


# What it says.


def test_a_new_circuit_has_nothing_to_explain(clock: Clock) -> None:
    """Closed from the beginning."""
    told = CircuitBreaker(name="openai", clock=clock).explain()

    assert told == Explanation("openai", "closed", 1000.0, None, "", False, None, 0, ())
    assert str(told) == "circuit openai is closed: calls pass, no failures since the last success"


def test_an_open_circuit_explains_itself(clock: Clock) -> None:
    """Since when, why, until when, and the failures that led there, oldest first."""
    breaker = CircuitBreaker(2, 60.0, name="openai/gpt-5-mini", clock=clock)
    breaker.acquire(caller="row-17").settle(Judgement("failure", status=503, request_id="req_1", message="overloaded"))
    clock.advance(2.0)
    breaker.acquire(caller="row-18").settle("failure", error=DownError("no upstream"), retry_after=90.0)
    clock.advance(10.0)

    told = breaker.explain()

    assert (told.state, told.at, told.since, told.reason) == ("open", 1012.0, 1002.0, "2 calls in a row failed")
    assert (told.is_forced, told.retry_after, told.failures) == (False, 80.0, 2)
    assert told.last_failures == (
        Failure(1000.0, "failure", "overloaded", 503, "req_1", "row-17", None),
        Failure(1002.0, "failure", "DownError: no upstream", None, None, "row-18", 90.0),
    )
    assert str(told).splitlines() == [
        "circuit openai/gpt-5-mini is open: 2 calls in a row failed",
        "  for 10.0 s",
        "  a call may be admitted after 80.0 s",
        "  12.0 s ago: failure: overloaded (status 503, request req_1, caller row-17)",
        "  10.0 s ago: failure: DownError: no upstream (caller row-18, asked for 90 s)",
    ]


def test_every_state_can_be_read(clock: Clock) -> None:
    """The first lines of each."""
    breaker = CircuitBreaker(2, 60.0, name="o", clock=clock)

    def head() -> list[str]:
        return [line for line in str(breaker.explain()).splitlines() if " ago: " not in line]

    breaker.acquire().settle("failure")
    assert head() == ["circuit o is closed: calls pass, consecutive failures: 1"]
    breaker.acquire().settle("failure")
    clock.advance(60.0)
    assert head() == [
        "circuit o is half-open: 2 calls in a row failed",
        "  for 60.0 s",
        "  a call may be admitted after 0.1 s",
    ]
    probe = breaker.acquire()
    clock.advance(5.0)
    assert head() == [
        "circuit o is half-open: 2 calls in a row failed",
        "  for 5.0 s",
        "  a call may be admitted after 55.0 s",
    ]
    probe.settle()
    assert head() == ["circuit o is closed: calls pass, no failures since the last success", "  for 0.0 s"]
    breaker.force_open("maintenance")
    assert head() == ["circuit o is open: maintenance", "  for 0.0 s", "  until it is reset"]
    assert breaker.explain().is_forced
    breaker.disable()
    assert head() == ["circuit o is disabled: every call passes", "  for 0.0 s"]
    assert breaker.explain().is_forced
    breaker.reset()
    assert not breaker.explain().is_forced


def test_a_circuit_without_a_name_is_called_unnamed(clock: Clock) -> None:
    """No hole in the sentence."""
    assert str(CircuitBreaker(clock=clock).explain()).startswith("circuit unnamed is closed")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"failure_threshold": 1}, "a call failed"),
        ({"failure_threshold": 3}, "3 calls in a row failed"),
        (
            {"failure_threshold": None, "failure_rate": 0.5, "minimum_calls": 4, "rate_window": 4},
            "4 of the last 4 calls failed",
        ),
    ],
)
def test_the_reason_names_the_rule(clock: Clock, options: dict[str, Any], reason: str) -> None:
    """Which rule opened it, with its numbers."""
    assert opened(clock, **options).explain().reason == reason


def test_only_the_last_ten_failures_are_kept(clock: Clock) -> None:
    """Memory does not grow with an outage."""
    breaker = CircuitBreaker(1000, clock=clock)

    for number in range(25):
        with pytest.raises(DownError):
            breaker.call(raising(DownError(f"number {number}")))

    assert [failure.error for failure in breaker.explain().last_failures] == [
        f"DownError: number {number}" for number in range(15, 25)
    ]


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [
        ("success", False),
        ("neutral", False),
        ("ignored", False),
        ("failure", True),
        ("throttled", True),
        ("exhausted", True),
    ],
)
def test_only_what_speaks_against_the_provider_is_shown(clock: Clock, verdict: str, shown: bool) -> None:
    """By verdict."""
    breaker = CircuitBreaker(5, clock=clock)

    breaker.acquire().settle(verdict)  # type: ignore[arg-type]

    assert [failure.verdict for failure in breaker.explain().last_failures] == [verdict] * shown


def test_a_result_that_was_judged_a_failure_is_shown(clock: Clock) -> None:
    """By what the judge said, or as a result."""
    said: list[object] = ["failure", Judgement("failure", message="empty choices", status=200)]
    breaker = CircuitBreaker(5, clock=clock, judge_result=lambda _: said.pop(0))  # type: ignore[arg-type, return-value]

    breaker.call(fine)
    breaker.call(fine)

    assert [(failure.error, failure.status) for failure in breaker.explain().last_failures] == [
        ("a result", None),
        ("empty choices", 200),
    ]


def test_explaining_takes_no_calls_place(clock: Clock) -> None:
    """An explanation is a snapshot: it does not change afterwards, and the circuit does not by it."""
    breaker = half_opened(clock)
    told = breaker.explain()
    text = str(told)

    breaker.call(fine)

    assert (str(told), told.state) == (text, "half_open")
    assert breaker.state == "closed"


def test_a_disabled_circuit_shows_failures(clock: Clock) -> None:
    """They are counted, though they open nothing."""
    breaker = CircuitBreaker(5, clock=clock)
    breaker.disable()

    with pytest.raises(DownError):
        breaker.call(raising(DownError()))

    assert [failure.error for failure in breaker.explain().last_failures] == ["DownError"]


# Exceptions, read by their looks.


class Answering(ThreadingHTTPServer):
    """A server that answers every request as it was told to."""

    daemon_threads = True
    status, headers, message = 200, dict[str, str](), ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    server: Answering

    def do_POST(self) -> None:
        body = json.dumps({"type": "error", "error": {"type": "x", "message": self.server.message}}).encode()
        self.send_response(self.server.status)
        headers = self.server.headers | {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    with Answering() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def openai_error(server: Answering) -> Exception:
    """What the official client raises for its answer."""
    url = f"http://127.0.0.1:{server.server_port}/v1"
    client = openai.OpenAI(api_key=KEY, base_url=url, max_retries=0)
    with client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="o3", messages=[{"role": "user", "content": "hello"}])
    return caught.value


def anthropic_error(server: Answering) -> Exception:
    """What the official client raises for its answer."""
    url = f"http://127.0.0.1:{server.server_port}"
    client = anthropic.Anthropic(api_key=KEY, base_url=url, max_retries=0)
    with client, pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model="c", max_tokens=5, messages=[{"role": "user", "content": "hello"}])
    return caught.value


SDKError = Callable[[Answering], Exception]


@pytest.mark.parametrize(
    ("make", "header"), [(openai_error, "x-request-id"), (anthropic_error, "request-id")], ids=["openai", "anthropic"]
)
@pytest.mark.parametrize("status", [401, 429, 500, 529])
def test_an_sdks_error_shows_status_and_request_id(server: Answering, make: SDKError, header: str, status: int) -> None:
    """As the official clients raise it for a real answer."""
    server.status, server.headers, server.message = status, {header: "req_abc"}, "The server is overloaded."

    failure = failed_with(make(server))

    assert (failure.status, failure.request_id) == (status, "req_abc")
    assert "The server is overloaded." in failure.error


@pytest.mark.parametrize("make", [openai_error, anthropic_error], ids=["openai", "anthropic"])
def test_an_sdks_error_shows_no_key(server: Answering, make: SDKError) -> None:
    """Neither the one that the client holds nor one that the provider quotes."""
    server.status, server.headers = 401, {}
    server.message = f"Incorrect API key: {KEY}. Find yours at https://example.com/keys?key={KEY}."

    failure = failed_with(make(server))

    assert KEY[8:] not in str(failure)
    assert "Incorrect API key: sk-… Find yours at https://example.com/keys?…" in failure.error


def test_a_connection_error_of_an_sdk_can_be_shown() -> None:
    """It has neither status nor response."""
    client = openai.OpenAI(api_key=KEY, base_url="http://127.0.0.1:1/v1", max_retries=0)
    with pytest.raises(openai.APIConnectionError) as caught:
        client.models.list()

    failure = failed_with(caught.value)

    assert (failure.status, failure.request_id) == (None, None)
    assert failure.error.startswith("APIConnectionError: ")


def looking_like(**attributes: object) -> Exception:
    error = DownError("down")
    vars(error).update(attributes)
    return error


@pytest.mark.parametrize(
    ("attributes", "status", "request_id"),
    [
        ({"status_code": 503}, 503, None),
        ({"status": 503}, 503, None),
        ({"response": SimpleNamespace(status_code=503, headers={"x-request-id": "r"})}, 503, "r"),
        ({"response": SimpleNamespace(status=503, headers={"request-id": "r"})}, 503, "r"),
        ({"status_code": 502, "response": SimpleNamespace(status_code=503, headers={})}, 502, None),
        ({"request_id": "own", "response": SimpleNamespace(headers={"x-request-id": "r"})}, None, "own"),
        ({"status_code": "503", "request_id": 7}, None, None),
        ({"status_code": True, "status": 7}, None, None),
        ({"response": None}, None, None),
        ({"response": "503", "status": object()}, None, None),
        ({"response": SimpleNamespace(headers={"x-request-id": b"bytes"})}, None, None),
    ],
)
def test_foreign_exceptions_are_read_by_their_looks(
    attributes: dict[str, object], status: int | None, request_id: str | None
) -> None:
    """What looks like a status or a request id is shown; anything else is left alone."""
    failure = failed_with(looking_like(**attributes))

    assert (failure.status, failure.request_id) == (status, request_id)


class HostileError(Exception):
    """Every question raises."""

    def __str__(self) -> str:
        raise LookupError

    @property
    def status_code(self) -> int:
        raise LookupError

    @property
    def response(self) -> object:
        class Headers:
            def get(self, name: str) -> str:
                raise LookupError

        return SimpleNamespace(headers=Headers())

    @property
    def retry_after(self) -> float:
        raise LookupError


def test_an_exception_that_cannot_be_read_counts_all_the_same() -> None:
    """It is shown by its type, and reaches the caller as it was."""
    failure = failed_with(HostileError())

    assert (failure.error, failure.status, failure.request_id, failure.retry_after) == (
        "HostileError",
        None,
        None,
        None,
    )


def test_a_named_wait_is_shown() -> None:
    """As seconds that were asked for."""
    assert str(failed_with(HintedError(12.5))).endswith("(asked for 12.5 s)")


# What it never says.


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        "sk-ant-api03-Zk3vQx9LmN0pRsT7uVwY-AA",
        "sk-or-v1-0123456789abcdef0123456789abcdef",
        "gsk_Zk3vQx9LmN0pRsT7uVwY",
        "xai-Zk3vQx9LmN0pRsT7uVwY",
        "hf_Zk3vQx9LmN0pRsT7uVwY",
        "nvapi-Zk3vQx9LmN0pRsT7uVwY",
        "pplx-Zk3vQx9LmN0pRsT7uVwY",
        "AIzaSyZk3vQx9LmN0pRsT7uVwY012345678",
    ],
)
@pytest.mark.parametrize("text", ["{}", "key '{}' is bad", 'Bearer {}"', "url: /v1?key={}&x=1", "({})", "a\n{}\nb"])
def test_keys_are_never_shown(key: str, text: str) -> None:
    """Whatever stands around them; in messages of judges too."""
    secret = key[9:]

    shown = [
        str(failed_with(DownError(text.format(key)))),
        str(failed_with(DownError(), judge_error=lambda _: Judgement("failure", message=text.format(key)))),
    ]

    assert all(secret not in one for one in shown)


@pytest.mark.parametrize(
    "text",
    [
        "api_key=0123456789abcdef0123456789abcdef",
        "x-api-key: 0123456789abcdef0123456789abcdef",
        "{'api-key': '0123456789abcdef0123456789abcdef'}",
        '{"api_key": "0123456789abcdef0123456789abcdef"}',
        "authorization: bearer 0123456789abcdef0123456789abcdef",
        "Max retries exceeded with url: /v1?access_token=0123456789abcdef0123456789abcdef",
        "https://user:0123456789abcdef0123456789abcdef@example.com/v1",
    ],
)
def test_keys_without_a_prefix_are_never_shown_where_they_are_called_keys(text: str) -> None:
    """Azure's and other hexadecimal ones, in headers, queries, addresses and JSON."""
    assert "89abcdef" not in str(failed_with(DownError(text)))


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided",
        "the key rotation failed",
        "keyboard-interrupted",
        "Bearer authentication is required",
        "hf_transfer_enabled is not set",
    ],
)
def test_what_is_no_key_is_shown(text: str) -> None:
    """The first message that anybody sees of a mistyped key stays whole."""
    assert failed_with(DownError(text)).error == f"DownError: {text}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://api.example.com/v1/chat?token=abc&x=1 failed", "GET https://api.example.com/v1/chat?… failed"),
        ("'http://h/p?a=b'", "'http://h/p?…'"),
        ("https://h/a?x=1 and https://h/b?y=2", "https://h/a?… and https://h/b?…"),
        ("https://h/p is fine", "https://h/p is fine"),
        ("is it down? https://h/p", "is it down? https://h/p"),
    ],
)
def test_a_urls_query_is_never_shown(text: str, shown: str) -> None:
    """The rest of the address is."""
    assert failed_with(DownError(text)).error == f"DownError: {shown}"


def test_a_long_or_broken_text_is_one_short_line() -> None:
    """Bodies in error messages do not flood a log."""
    failure = failed_with(DownError("first\nsecond\r\n\tthird " + "x" * 100_000))

    assert failure.error.startswith("DownError: first second third xxx")
    assert len(failure.error) == 300
    assert failure.error.endswith("…")


UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202e]")
PAINT = "red \x1b[31malert\x1b]0;title\x07 and \x9b31m\u202e"


def test_control_characters_are_not_shown() -> None:
    """What a provider says must not paint or retitle the terminal that it is printed on."""
    error = looking_like(request_id=PAINT)
    error.args = (PAINT,)

    assert UNPRINTABLE.search(str(failed_with(error))) is None
    assert (
        UNPRINTABLE.search(str(failed_with(DownError(), judge_error=lambda _: Judgement("failure", message=PAINT))))
        is None
    )


def test_control_characters_in_callers_are_not_shown() -> None:
    """They are named by rows of files."""
    breaker = CircuitBreaker(5)

    breaker.acquire(caller=PAINT).settle("failure")

    assert UNPRINTABLE.search(str(breaker.explain().last_failures[0])) is None


@pytest.mark.parametrize("shown", ["request id", "reason"])
def test_control_characters_from_elsewhere_are_not_shown(shown: str) -> None:
    """A judge reads a request id off the provider's headers."""
    breaker = CircuitBreaker(5)

    if shown == "request id":
        breaker.acquire().settle(Judgement("failure", request_id=PAINT))
    else:
        breaker.force_open(PAINT)

    assert all(UNPRINTABLE.search(line) is None for line in str(breaker.explain()).splitlines())


@pytest.mark.parametrize("text", ["http://", "https://h/p?", "sk-", "key=", "Bearer ", "x", "://", "1 "])
def test_a_huge_text_is_masked_in_no_time(text: str) -> None:
    """The caller of the failed call pays for it; an answer of megabytes costs no more than one of a page."""
    error = DownError(text * 1_000_000)

    started = time.thread_time()
    failed_with(error)

    assert time.thread_time() - started < 1


# What it keeps.


def test_no_exception_and_no_frame_is_kept() -> None:
    """A traceback holds the frames of the call, and they hold its data: all are gone when the caller is done."""
    breaker = CircuitBreaker(1)
    kept: list[weakref.ref[Any]] = []

    class Payload:
        """Something big that the call has in its hands."""

    class TrackedError(DownError):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            kept.append(weakref.ref(self))

    def ask() -> None:
        payload = Payload()
        kept.append(weakref.ref(payload))
        raise TrackedError("down")

    def call() -> None:
        with pytest.raises(TrackedError):
            breaker.call(ask)

    gc.disable()
    try:
        call()
        alive = [ref() for ref in kept]
    finally:
        gc.enable()

    assert alive == [None, None]
    assert breaker.explain().last_failures[0].error == "TrackedError: down"


async def test_nothing_of_a_failed_task_is_kept(small_heap: None) -> None:
    """The same for coroutines, blocks and permits."""
    breaker = CircuitBreaker(10)
    kept: list[weakref.ref[Exception]] = []

    def failure() -> Exception:
        error = DownError("down")
        kept.append(weakref.ref(error))
        return error

    async def ask() -> None:
        raise failure()

    async def block() -> None:
        async with breaker.acquire():
            raise failure()

    async def use() -> None:
        attempts: tuple[Callable[[], Awaitable[None]], ...] = (lambda: breaker.async_call(ask), block)
        for attempt in attempts:
            with pytest.raises(DownError):
                await attempt()
        breaker.acquire().settle("failure", error=failure())

    await use()
    gc.collect()

    assert [ref() for ref in kept] == [None] * 3
    assert len(breaker.explain().last_failures) == 3


def test_an_outage_leaves_no_garbage(small_heap: None, clock: Clock) -> None:
    """Hundreds of failures and refusals make no cycles that the collector would have to find."""
    breaker = CircuitBreaker(1, 60.0, clock=clock)

    def outage() -> None:
        for _ in range(300):
            trip(breaker)
            breaker.call(fine, fallback=lambda _: None)
            clock.advance(60.0)
            breaker.call(fine)

    outage()
    gc.collect()
    gc.disable()
    try:
        outage()
        found = gc.collect()
    finally:
        gc.enable()

    assert found < 30
