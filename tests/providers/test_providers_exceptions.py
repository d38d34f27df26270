"""A user's own function raises what its libraries raise; what that means is read off it."""

from __future__ import annotations

import errno
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import anthropic
import openai
import pytest

from llmbatch.errors import TransportError
from llmbatch.providers.outcome import judge_exception
from llmbatch.providers.secrets import Mask
from llmbatch.records import Outcome

Answer = tuple[int, dict[str, str], bytes]

ANSWERS: dict[str, Answer] = {
    "rate": (429, {"Retry-After": "7"}, b'{"error":{"message":"slow","type":"requests","code":"rate_limit_exceeded"}}'),
    "quota": (
        429,
        {"Retry-After": "2"},
        b'{"error":{"message":"spent","type":"insufficient_quota","code":"insufficient_quota"}}',
    ),
    "long": (
        400,
        {},
        b'{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}',
    ),
    "key": (401, {}, b'{"error":{"message":"no","type":"invalid_request_error","code":"invalid_api_key"}}'),
    "down": (500, {"X-Request-Id": "req_9"}, b"<html><title>500</title></html>"),
    "overloaded": (529, {}, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'),
    "spent": (
        429,
        {},
        b'{"type":"error","error":{"type":"rate_limit_error","message":"x","details":{"error_code":"enforced_spend_limit_reached"}}}',
    ),
    "stream": (
        200,
        {"Content-Type": "text/event-stream"},
        b'data: {"error":{"message":"died","type":"server_error","code":null}}\n\n',
    ),
    "garbage": (0, {}, b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "cut": (0, {}, b""),
}


class Handler(BaseHTTPRequestHandler):
    """Answers by the first part of the path."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, body = ANSWERS[self.path.split("/")[1]]
        if status == 0:
            self.wfile.write(body)
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: the tests have their own words."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A provider on loopback that only fails."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def raised_by_openai(base_url: str, *, stream: bool = False) -> Exception:
    with openai.OpenAI(api_key="sk-none", base_url=base_url, max_retries=0, timeout=5) as client:
        try:
            answer = client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x"}], stream=stream
            )
            list(answer)
        except Exception as error:
            return error
    raise AssertionError("the server only fails")


def raised_by_anthropic(base_url: str) -> Exception:
    with anthropic.Anthropic(api_key="sk-none", base_url=base_url, max_retries=0, timeout=5) as client:
        try:
            client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])
        except Exception as error:
            return error
    raise AssertionError("the server only fails")


async def raised_by_aiohttp(url: str) -> Exception:
    try:
        async with aiohttp.ClientSession(raise_for_status=True) as session, session.post(url) as response:
            await response.read()
    except Exception as error:
        return error
    raise AssertionError("the server only fails")


def traits(outcome: Outcome) -> tuple[str, str, bool, str]:
    return outcome.verdict, outcome.scope, outcome.retry, outcome.code


@pytest.mark.parametrize(
    ("case", "expected", "pause", "status"),
    [
        ("rate", ("throttled", "key", True, "rate_limit_exceeded"), 7.0, 429),
        ("quota", ("exhausted", "key", False, "insufficient_quota"), 2.0, 429),
        ("long", ("neutral", "row", False, "context_length_exceeded"), None, 400),
        ("key", ("exhausted", "key", True, "invalid_api_key"), None, 401),
        ("down", ("failure", "provider", True, "http_500"), None, 500),
        ("cut", ("failure", "provider", True, "api_connection_error"), None, None),
    ],
)
def test_errors_of_the_openai_client_are_judged_like_answers(
    server: str, case: str, expected: tuple[str, str, bool, str], pause: float | None, status: int | None
) -> None:
    """Status, headers and body come out of the exception, through the same table."""
    outcome = judge_exception(raised_by_openai(f"{server}/{case}"))

    assert traits(outcome) == expected
    assert outcome.pause == pause
    assert outcome.status == status
    assert outcome.final == (case == "long")
    assert outcome.auth == (case == "key")
    assert outcome.request_id == ("req_9" if case == "down" else None)
    assert outcome.body == (ANSWERS[case][2].decode() if ANSWERS[case][2][:1] == b"{" else None)


def test_an_error_out_of_an_openai_stream_is_judged_by_its_code(server: str) -> None:
    """It has no status; the type in its body is known."""
    outcome = judge_exception(raised_by_openai(f"{server}/stream", stream=True))

    assert traits(outcome) == ("failure", "provider", True, "server_error")
    assert outcome.status is None


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("overloaded", ("failure", "provider", True, "overloaded_error")),
        ("spent", ("exhausted", "key", False, "enforced_spend_limit_reached")),
    ],
)
def test_errors_of_the_anthropic_client_are_judged_like_answers(
    server: str, case: str, expected: tuple[str, str, bool, str]
) -> None:
    """Also the codes deep inside."""
    assert traits(judge_exception(raised_by_anthropic(f"{server}/{case}"))) == expected


@pytest.mark.parametrize(
    ("case", "verdict", "pause"),
    [("rate", "throttled", 7.0), ("down", "failure", None), ("garbage", "failure", None), ("cut", "failure", None)],
)
async def test_errors_of_aiohttp_are_judged(server: str, case: str, verdict: str, pause: float | None) -> None:
    """It keeps no body; and the 400 that it makes of garbage from the wire is not believed."""
    outcome = judge_exception(await raised_by_aiohttp(f"{server}/{case}"))

    assert (outcome.verdict, outcome.retry, outcome.pause) == (verdict, True, pause)


async def test_a_refused_connection_is_the_providers_failure() -> None:
    """Nobody listens, seen through the client's own exception."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

        outcome = judge_exception(await raised_by_aiohttp(url))

    assert traits(outcome) == ("failure", "provider", True, "connection_failed")
    assert outcome.sent is False


class PoolTimeout(Exception):  # noqa: N818
    """As httpx names it."""


class ReadTimeout(Exception):  # noqa: N818
    """As httpx names it."""


class RateLimited(Exception):  # noqa: N818
    """A user's own."""

    def __init__(self, retry_after: object) -> None:
        super().__init__("slow down")
        self.retry_after = retry_after


class HostileError(Exception):
    """Attributes that raise, and a message that does."""

    @property
    def response(self) -> object:
        raise RuntimeError("not read yet")

    @property
    def headers(self) -> object:
        return 7

    status_code = True
    body = object()

    def __str__(self) -> str:
        raise RuntimeError("no words")


class GenaiError(Exception):
    """As google-genai has it: the status in ``code``, the name in ``status``, the body in ``details``."""

    code = 429
    status = "RESOURCE_EXHAUSTED"
    details = {  # noqa: RUF012
        "error": {
            "code": 429,
            "message": "x",
            "status": "RESOURCE_EXHAUSTED",
            "details": [{"@type": "…/google.rpc.RetryInfo", "retryDelay": "9s"}],
        }
    }


class BodyError(Exception):
    """A status, and a body as some client kept it."""

    status_code = 400

    def __init__(self, body: object) -> None:
        super().__init__("refused")
        self.body = body


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error": {"code": "context_length_exceeded"}}', "context_length_exceeded"),
        ('{"error": {"code": "context_length_exceeded"}}', "context_length_exceeded"),
        ({"code": "context_length_exceeded"}, "context_length_exceeded"),
        ("prompt is too long", "http_400"),
        (b"\xff", "http_400"),
        (None, "http_400"),
    ],
)
def test_a_body_is_believed_when_it_is_json(body: object, code: str) -> None:
    """Parsed or not; other text is only a message."""
    outcome = judge_exception(BodyError(body))

    assert (outcome.verdict, outcome.code, outcome.body) == ("neutral", code, None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError("late"), ("failure", "provider", True, "timeout")),
        (ReadTimeout("late"), ("failure", "provider", True, "timeout")),
        (ConnectionResetError("gone"), ("failure", "provider", True, "connection_reset")),
        (BrokenPipeError("gone"), ("failure", "provider", True, "connection_reset")),
        (ConnectionRefusedError("nobody"), ("failure", "provider", True, "connection_failed")),
        (socket.gaierror(socket.EAI_NONAME, "who?"), ("failure", "provider", True, "unknown_host")),
        (socket.gaierror(socket.EAI_NODATA, "who?"), ("failure", "provider", True, "unknown_host")),
        (socket.gaierror(socket.EAI_AGAIN, "later"), ("local", "machine", True, "no_network")),
        (socket.gaierror(socket.EAI_FAIL, "broken"), ("failure", "provider", True, "dns_failed")),
        (ssl.SSLCertVerificationError("self-signed"), ("exhausted", "provider", False, "tls_failed")),
        (OSError(errno.EMFILE, "too many open files"), ("local", "machine", True, "local_resources")),
        (OSError(errno.ENFILE, "too many open files"), ("local", "machine", True, "local_resources")),
        (OSError(errno.ENOSPC, "disk full"), ("local", "machine", True, "local_resources")),
        (OSError(errno.ENOMEM, "no memory"), ("local", "machine", True, "local_resources")),
        (MemoryError(), ("local", "machine", True, "local_resources")),
        (PoolTimeout("no free connection"), ("local", "machine", True, "local_resources")),
        (OSError(errno.ENETUNREACH, "no route"), ("local", "machine", True, "no_network")),
        (OSError(errno.ENETDOWN, "down"), ("local", "machine", True, "no_network")),
        (TransportError("truncated", "cut", sent=True), ("failure", "provider", True, "truncated_body")),
        (TypeError("x"), ("neutral", "row", False, "type_error")),
        (ValueError("x"), ("neutral", "row", False, "value_error")),
        (json.JSONDecodeError("x", "y", 0), ("neutral", "row", False, "json_decode_error")),
        (KeyError("x"), ("neutral", "row", False, "key_error")),
        (AttributeError("x"), ("neutral", "row", False, "attribute_error")),
        (NameError("x"), ("neutral", "row", False, "name_error")),
        (AssertionError(), ("neutral", "row", False, "assertion_error")),
        (ZeroDivisionError("x"), ("neutral", "row", False, "zero_division_error")),
        (NotImplementedError(), ("neutral", "row", False, "not_implemented_error")),
        (ImportError("x"), ("neutral", "row", False, "import_error")),
        (RuntimeError("x"), ("failure", "provider", True, "runtime_error")),
        (OSError("x"), ("failure", "provider", True, "os_error")),
        (Exception(), ("failure", "provider", True, "exception")),
        (RateLimited(None), ("throttled", "key", True, "rate_limited")),
        (HostileError(), ("failure", "provider", True, "hostile_error")),
        (GenaiError("x"), ("throttled", "key", True, "RESOURCE_EXHAUSTED")),
        (ExceptionGroup("tasks", [ConnectionResetError("gone")]), ("failure", "provider", True, "connection_reset")),
        (ExceptionGroup("tasks", [ValueError("x")]), ("failure", "provider", True, "exception_group")),
    ],
    ids=lambda value: repr(type(value).__name__) if isinstance(value, Exception) else "",
)
def test_exceptions_without_an_answer_are_judged_by_kind(
    error: Exception, expected: tuple[str, str, bool, str]
) -> None:
    """Network and time-outs blame the provider, a full machine itself, a program's error the row; the rest may pass."""
    outcome = judge_exception(error)

    assert traits(outcome) == expected
    assert outcome.message
    assert outcome.message.isprintable()


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        (30, 30.0),
        (0.25, 0.25),
        ("12", 12.0),
        (0, None),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        ("soon", None),
        (b"3", None),
    ],
)
def test_the_attribute_retry_after_is_honoured(value: object, pause: float | None) -> None:
    """Read like the header of that name."""
    assert judge_exception(RateLimited(value)).pause == pause


def test_the_answer_is_found_through_causes_and_contexts(server: str) -> None:
    """A wrapper raised from the client's error, or while handling it, is judged by that error."""

    def wrapped(explicit: bool) -> Exception:
        inner = raised_by_openai(f"{server}/rate")
        try:
            try:
                raise inner
            except openai.OpenAIError as error:
                if explicit:
                    raise ValueError("no answer") from error
                raise RuntimeError("no answer")  # noqa: B904
        except (ValueError, RuntimeError) as outer:
            return outer

    assert traits(judge_exception(wrapped(True))) == ("throttled", "key", True, "rate_limit_exceeded")
    assert traits(judge_exception(wrapped(False))) == ("throttled", "key", True, "rate_limit_exceeded")


def test_a_machine_without_file_handles_is_seen_behind_a_clients_error() -> None:
    """The client says that it could not connect; its cause says why."""
    try:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError as cause:
            raise ConnectionError("connection error") from cause
    except ConnectionError as error:
        outcome = judge_exception(error)

    assert traits(outcome) == ("local", "machine", True, "local_resources")


def test_a_cause_that_was_taken_away_does_not_count() -> None:
    """``raise … from None`` means it."""
    try:
        try:
            raise TimeoutError("late")
        except TimeoutError:
            raise ValueError("bad row") from None
    except ValueError as error:
        outcome = judge_exception(error)

    assert traits(outcome) == ("neutral", "row", False, "value_error")


def test_a_circle_of_causes_ends() -> None:
    """Some libraries raise an error from itself."""
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first

    assert judge_exception(first).verdict == "failure"


def test_no_key_comes_through_a_message() -> None:
    """Known keys are masked; the query of a URL, where Gemini's API takes the key, is dropped."""
    key = "AIza-THIS-IS-THE-KEY"

    known = judge_exception(RuntimeError(f"bad key {key}"), mask=Mask([key]).mask)
    cut = judge_exception(ConnectionResetError("x" * 290 + key), mask=Mask([key]).mask)
    unknown = judge_exception(RuntimeError(f"Client error '400' for url 'http://127.0.0.1/v1?key={key}&alt=sse' …"))

    assert known.message == "bad key ***"
    assert "AIza" not in cut.message
    assert unknown.message == "Client error '400' for url 'http://127.0.0.1/v1' …"
