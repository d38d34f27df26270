"""A user's own function raises what its libraries raise; what that means is read off it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator

import aiohttp
import anthropic
import openai
import pytest
from classify_server import Answering, serving

from llmbatch import judge_llm_error
from llmbatch.classify.classify import classify_exception
from llmbatch.core.calls import Outcome, Usage
from llmbatch.core.errors import TransportError
from llmbatch.core.secrets import Mask

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


class Handler(Answering):
    """Answers by the first part of the path."""

    def do_POST(self) -> None:  # noqa: N802 - the name is that of the library
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, body = ANSWERS[self.path.split("/")[1]]
        if status == 0:
            self.wfile.write(body)
            self.close_connection = True
            return
        self.answer(status, headers, body)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A provider on loopback that only fails."""
    with serving(Handler) as url:
        yield url


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
        ("quota", ("account_refused", "key", False, "insufficient_quota"), 2.0, 429),
        ("long", ("rejected", "row", False, "context_length_exceeded"), None, 400),
        ("key", ("account_refused", "key", True, "invalid_api_key"), None, 401),
        ("down", ("failure", "provider", True, "http_500"), None, 500),
        ("cut", ("failure", "provider", True, "api_connection_error"), None, None),
    ],
)
def test_errors_of_the_openai_client_are_judged_like_answers(
    server: str, case: str, expected: tuple[str, str, bool, str], pause: float | None, status: int | None
) -> None:
    """Status, headers and body come out of the exception, through the same table."""
    outcome = classify_exception(raised_by_openai(f"{server}/{case}"))

    assert traits(outcome) == expected
    assert outcome.retry_after == pause
    assert outcome.status == status
    assert outcome.row_is_bad == (case == "long")
    assert outcome.key_refused == (case == "key")
    assert outcome.request_id == ("req_9" if case == "down" else None)
    assert outcome.body == (ANSWERS[case][2].decode() if ANSWERS[case][2][:1] == b"{" else None)


def test_an_error_out_of_an_openai_stream_is_judged_by_its_code(server: str) -> None:
    """It has no status; the type in its body is known."""
    outcome = classify_exception(raised_by_openai(f"{server}/stream", stream=True))

    assert traits(outcome) == ("failure", "provider", True, "server_error")
    assert outcome.status is None


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("overloaded", ("failure", "provider", True, "overloaded_error")),
        ("spent", ("account_refused", "key", False, "enforced_spend_limit_reached")),
    ],
)
def test_errors_of_the_anthropic_client_are_judged_like_answers(
    server: str, case: str, expected: tuple[str, str, bool, str]
) -> None:
    """Also the codes deep inside."""
    assert traits(classify_exception(raised_by_anthropic(f"{server}/{case}"))) == expected


@pytest.mark.parametrize(
    ("case", "verdict", "pause"),
    [("rate", "throttled", 7.0), ("down", "failure", None), ("garbage", "failure", None), ("cut", "failure", None)],
)
async def test_errors_of_aiohttp_are_judged(server: str, case: str, verdict: str, pause: float | None) -> None:
    """It keeps no body; and the 400 that it makes of garbage from the wire is not believed."""
    outcome = classify_exception(await raised_by_aiohttp(f"{server}/{case}"))

    assert (outcome.verdict, outcome.retry, outcome.retry_after) == (verdict, True, pause)


async def test_a_refused_connection_is_the_providers_failure() -> None:
    """Nobody listens, seen through the client's own exception."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

        outcome = classify_exception(await raised_by_aiohttp(url))

    assert traits(outcome) == ("failure", "provider", True, "connection_failed")
    assert outcome.unreachable


def foreign(name: str, module: str, *bases: type, **members: object) -> type[Exception]:
    """An exception class as *module* would define it: the libraries that are not installed here, by their looks."""
    return type(name, bases or (Exception,), {"__module__": module, **members})


PoolTimeout = foreign("PoolTimeout", "httpx")
ReadTimeout = foreign("ReadTimeout", "httpx")


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
        (None, "body_error"),
    ],
)
def test_a_body_is_believed_when_it_is_json(body: object, code: str) -> None:
    """Parsed or not; other text is only a message. Without any, it is an exception like any other."""
    outcome = classify_exception(BodyError(body))

    assert (outcome.verdict, outcome.code, outcome.body) == ("rejected", code, None)


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
        (ssl.SSLCertVerificationError("self-signed"), ("account_refused", "provider", False, "tls_failed")),
        (OSError(errno.EMFILE, "too many open files"), ("local", "machine", True, "local_resources")),
        (OSError(errno.ENFILE, "too many open files"), ("local", "machine", True, "local_resources")),
        (OSError(errno.ENOSPC, "disk full"), ("local", "machine", True, "local_resources")),
        (OSError(errno.ENOMEM, "no memory"), ("local", "machine", True, "local_resources")),
        (MemoryError(), ("local", "machine", True, "local_resources")),
        (PoolTimeout("no free connection"), ("local", "machine", True, "local_resources")),
        (OSError(errno.ENETUNREACH, "no route"), ("local", "machine", True, "no_network")),
        (OSError(errno.ENETDOWN, "down"), ("local", "machine", True, "no_network")),
        (TransportError("truncated", "cut", sent=True), ("failure", "provider", True, "truncated_body")),
        (TypeError("x"), ("rejected", "row", True, "type_error")),
        (ValueError("x"), ("rejected", "row", True, "value_error")),
        (json.JSONDecodeError("x", "y", 0), ("rejected", "row", True, "json_decode_error")),
        (KeyError("x"), ("rejected", "row", True, "key_error")),
        (AttributeError("x"), ("rejected", "row", True, "attribute_error")),
        (NameError("x"), ("rejected", "row", True, "name_error")),
        (AssertionError(), ("rejected", "row", True, "assertion_error")),
        (ZeroDivisionError("x"), ("rejected", "row", True, "zero_division_error")),
        (NotImplementedError(), ("rejected", "row", True, "not_implemented_error")),
        (ImportError("x"), ("rejected", "row", True, "import_error")),
        (RuntimeError("x"), ("rejected", "row", True, "runtime_error")),
        (OSError("x"), ("rejected", "row", True, "os_error")),
        (Exception(), ("rejected", "row", True, "exception")),
        (RateLimited(None), ("throttled", "key", True, "rate_limited")),
        (HostileError(), ("rejected", "row", True, "hostile_error")),
        (GenaiError("x"), ("throttled", "key", True, "RESOURCE_EXHAUSTED")),
        (ExceptionGroup("tasks", [ConnectionResetError("gone")]), ("failure", "provider", True, "connection_reset")),
        (ExceptionGroup("tasks", [ValueError("x")]), ("rejected", "row", True, "exception_group")),
    ],
    ids=lambda value: repr(type(value).__name__) if isinstance(value, Exception) else "",
)
def test_exceptions_without_an_answer_are_judged_by_kind(
    error: Exception, expected: tuple[str, str, bool, str]
) -> None:
    """Network and time-outs blame the provider, a full machine itself; whatever else a function raises is its own."""
    outcome = classify_exception(error)

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
    assert classify_exception(RateLimited(value)).retry_after == pause


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

    assert traits(classify_exception(wrapped(True))) == ("throttled", "key", True, "rate_limit_exceeded")
    assert traits(classify_exception(wrapped(False))) == ("throttled", "key", True, "rate_limit_exceeded")


def test_a_machine_without_file_handles_is_seen_behind_a_clients_error() -> None:
    """The client says that it could not connect; its cause says why."""
    try:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError as cause:
            raise ConnectionError("connection error") from cause
    except ConnectionError as error:
        outcome = classify_exception(error)

    assert traits(outcome) == ("local", "machine", True, "local_resources")


def test_a_cause_that_was_taken_away_does_not_count() -> None:
    """``raise … from None`` means it."""
    try:
        try:
            raise TimeoutError("late")
        except TimeoutError:
            raise ValueError("bad row") from None
    except ValueError as error:
        outcome = classify_exception(error)

    assert traits(outcome) == ("rejected", "row", True, "value_error")


def test_a_circle_of_causes_ends() -> None:
    """Some libraries raise an error from itself."""
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first

    assert classify_exception(first).verdict == "rejected"


def test_no_key_comes_through_a_message() -> None:
    """Known keys are masked; the query of a URL, where Gemini's API takes the key, is dropped."""
    key = "AIza-THIS-IS-THE-KEY"

    known = classify_exception(RuntimeError(f"bad key {key}"), mask=Mask([key]).mask)
    cut = classify_exception(ConnectionResetError("x" * 290 + key), mask=Mask([key]).mask)
    unknown = classify_exception(RuntimeError(f"Client error '400' for url 'http://127.0.0.1/v1?key={key}&alt=sse' …"))

    assert known.message == "bad key ***"
    assert "AIza" not in cut.message
    assert unknown.message == "Client error '400' for url 'http://127.0.0.1/v1' …"


class OwnError(Exception):
    """A class of the user's own."""


class PickyError(OwnError):
    """With a status that speaks to the user's own clients."""

    def __init__(self, **members: object) -> None:
        super().__init__("no such customer")
        for name, value in members.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OwnError("the page has no title"), "own_error", "the page has no title"),
        (RuntimeError("oops"), "runtime_error", "oops"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.txt"), "file_not_found_error", None),
        (PermissionError(errno.EACCES, "Permission denied"), "permission_error", None),
        (IsADirectoryError(errno.EISDIR, "x"), "is_a_directory_error", None),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), "unicode_decode_error", None),
        (RecursionError("too deep"), "recursion_error", None),
        (StopAsyncIteration(), "stop_async_iteration", None),
        (subprocess.TimeoutExpired("ls", 3), "timeout_expired", None),
        (subprocess.CalledProcessError(1, "ls"), "called_process_error", None),
        (foreign("InvalidURL", "httpx")("no scheme"), "invalid_url", "no scheme"),
        (foreign("UnsupportedProtocol", "httpx")("ftp"), "unsupported_protocol", "ftp"),
        (foreign("LocalProtocolError", "httpx")("bad header"), "local_protocol_error", "bad header"),
        (foreign("MissingSchema", "requests.exceptions", ValueError)("x"), "missing_schema", None),
        (foreign("ValidationError", "pydantic_core._pydantic_core", ValueError)("1 error"), "validation_error", None),
        (openai.OpenAIError("The api_key client option must be set"), "open_ai_error", None),
        (foreign("HTTPException", "fastapi.exceptions", status_code=404, detail="x")("x"), "http_exception", None),
        (
            foreign("HTTPNotFound", "aiohttp.web_exceptions", status=404, headers={"A": "b"})("x"),
            "http_not_found",
            None,
        ),
        (PickyError(status_code=401), "picky_error", "no such customer"),
        (PickyError(status_code=404), "picky_error", None),
        (PickyError(status=402), "picky_error", None),
        (PickyError(code=410), "picky_error", None),
        (PickyError(code="insufficient_quota"), "picky_error", None),
        (PickyError(status_code=404, response=None), "picky_error", None),
        (PickyError(response="a text"), "picky_error", None),
        (ExceptionGroup("tasks", [ValueError("bad")]), "exception_group", "tasks (1 sub-exception): ValueError: bad"),
        (
            ExceptionGroup("a", [ExceptionGroup("b", [KeyError("x")])]),
            "exception_group",
            "a (1 sub-exception): KeyError: 'x'",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_a_function_raises_of_its_own_is_the_rows(error: Exception, code: str, message: str | None) -> None:
    """Nobody else is blamed, whatever attributes it has; it may pass when tried again, and nothing is final."""
    outcome = classify_exception(error)

    assert traits(outcome) == ("rejected", "row", True, code)
    assert (outcome.row_is_bad, outcome.key_refused, outcome.retry_after, outcome.status) == (False, False, None, None)
    assert outcome.message == (str(error) or type(error).__name__ if message is None else message)


def test_where_an_exception_was_raised_is_told_by_the_programs_own_line() -> None:
    """The innermost one, not one of a library below it; its text is not shown, for it may hold a key."""
    try:
        json.loads("nonsense")
    except ValueError as caught:
        below, line = caught, caught.__traceback__.tb_lineno  # type: ignore[union-attr]
    group = ExceptionGroup("tasks", [OwnError("never raised")])
    try:
        raise group
    except ExceptionGroup as caught:
        line_of_group = caught.__traceback__.tb_lineno  # type: ignore[union-attr]

    name = "test_where_an_exception_was_raised_is_told_by_the_programs_own_line"
    assert classify_exception(below).hint.endswith(f" ({__file__}:{line}, in {name})")
    assert classify_exception(below).hint.startswith("JSONDecodeError: Expecting value")
    assert classify_exception(group).hint == f"OwnError: never raised ({__file__}:{line_of_group}, in {name})"
    assert classify_exception(OwnError("x")).hint == "OwnError: x"
    assert classify_exception(ConnectionResetError("x")).hint == ""
    mask = Mask(["AIza-THIS-IS-THE-KEY"]).mask
    assert classify_exception(OwnError("bad AIza-THIS-IS-THE-KEY"), mask=mask).hint == "OwnError: bad ***"


class Response:
    """What clients keep of an answer."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self.headers: dict[str, str] = {}


class StatusCode:
    """As gRPC's enumeration has it."""

    def __init__(self, name: str) -> None:
        self.name = name


def grpc_error(name: str) -> Exception:
    return foreign("AioRpcError", "grpc.aio._call", code=lambda _: StatusCode(name))("x")


def botocore_error(status: int, code: str, headers: dict[str, str] | None = None) -> Exception:
    error = foreign("ThrottlingException", "botocore.errorfactory")("An error occurred")
    error.response = {  # type: ignore[attr-defined]
        "Error": {"Code": code, "Message": "said so"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return error


def caused_by(error: Exception) -> Exception:
    try:
        raise OwnError("wrapped") from error
    except OwnError as wrapped:
        return wrapped


@pytest.mark.parametrize(
    ("error", "verdict", "code"),
    [
        (foreign("RemoteProtocolError", "httpx")("cut"), "failure", "remote_protocol_error"),
        (foreign("ConnectError", "httpx2")("all attempts failed"), "failure", "connection_failed"),
        (foreign("ConnectTimeout", "httpx")("late"), "failure", "connect_timeout"),
        (foreign("APITimeoutError", "openai")("late"), "failure", "timeout"),
        (foreign("MyError", "__main__", foreign("APIError", "openai"))("odd"), "failure", "my_error"),
        (foreign("ServerError", "google.genai.errors", code=503)("x"), "failure", "http_503"),
        (foreign("NotFound", "google.api_core.exceptions", code=404)("x"), "account_refused", "http_404"),
        (PickyError(status_code=404, response=Response(404)), "account_refused", "http_404"),
        (PickyError(response=Response(503)), "failure", "http_503"),
        (PickyError(status_code=503, headers={"retry-after": "3"}), "failure", "http_503"),
        (
            PickyError(status_code=429, body={"error": {"code": "insufficient_quota"}}),
            "account_refused",
            "insufficient_quota",
        ),
        (grpc_error("UNAVAILABLE"), "failure", "http_503"),
        (grpc_error("RESOURCE_EXHAUSTED"), "throttled", "http_429"),
        (grpc_error("INVALID_ARGUMENT"), "rejected", "http_400"),
        (grpc_error("NEW_ONE"), "failure", "aio_rpc_error"),
        (botocore_error(429, "ThrottlingException"), "throttled", "ThrottlingException"),
        (botocore_error(400, "ValidationException"), "rejected", "ValidationException"),
        (botocore_error(503, "ServiceUnavailableException"), "failure", "ServiceUnavailableException"),
        (ssl.SSLError(1, "the handshake broke off"), "failure", "connection_reset"),
        (asyncio.IncompleteReadError(b"", 4), "failure", "truncated_body"),
        (caused_by(ConnectionResetError("gone")), "failure", "connection_reset"),
        (caused_by(grpc_error("UNAVAILABLE")), "failure", "http_503"),
        (ExceptionGroup("tasks", [ValueError("x"), TimeoutError("late")]), "failure", "timeout"),
        (concurrent.futures.CancelledError(), "failure", "connection_reset"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_clients_and_sdks_raise_speaks_of_the_provider(error: Exception, verdict: str, code: str) -> None:
    """By the module of its class, by an answer that it holds, or by a network error somewhere in its chain."""
    outcome = classify_exception(error)

    assert (outcome.verdict, outcome.code) == (verdict, code)


class Completion:
    """As the SDK's, as far as it is looked at."""

    class usage:  # noqa: N801
        prompt_tokens = 11
        completion_tokens = 4096

    def model_dump_json(self) -> str:
        return '{"choices": [{"finish_reason": "length"}]}'


def test_an_answer_that_ran_into_its_limit_ends_its_row_and_keeps_its_tokens() -> None:
    """The SDK's ``parse()`` raises for it: no failure of the provider, and nothing that another attempt changes."""
    error = openai.LengthFinishReasonError(completion=Completion())  # type: ignore[arg-type]

    outcome = classify_exception(caused_by(error))

    assert traits(outcome) == ("rejected", "row", False, "truncated")
    assert outcome.row_is_bad
    assert outcome.usage == Usage(11, 4096)
    assert outcome.body == '{"choices": [{"finish_reason": "length"}]}'


def test_a_filtered_answer_that_an_sdk_raises_for_ends_its_row() -> None:
    """Likewise."""
    outcome = classify_exception(openai.ContentFilterFinishReasonError())

    assert traits(outcome) == ("rejected", "row", False, "content_filter")
    assert outcome.row_is_bad


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (foreign("NotFoundError", "openai", status_code=404)("x"), "neutral"),
        (foreign("AuthenticationError", "openai", status_code=401)("x"), "failure"),
        (foreign("APIStatusError", "openai", status_code=402)("x"), "neutral"),
        (PickyError(status_code=429, body={"error": {"code": "insufficient_quota"}}), "exhausted"),
        (PickyError(status_code=401), "neutral"),
        (RuntimeError("x"), "neutral"),
        (openai.ContentFilterFinishReasonError(), "neutral"),
        (ConnectionResetError("x"), "failure"),
        (OSError(errno.ENOBUFS, "x"), "ignored"),
        (concurrent.futures.CancelledError(), "ignored"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_breaker_that_many_share_is_not_opened_by_one_of_them(error: Exception, verdict: str) -> None:
    """A 404, a 402 or a 401 of one caller is its own until others see it too; an empty account is certain."""
    assert judge_llm_error(error).verdict == verdict
