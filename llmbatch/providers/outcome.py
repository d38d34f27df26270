"""What came back, judged: reply, fault or exception in, :class:`~llmbatch.records.Outcome` out.

Here the evidence is gathered and the outcome filled in; what it means is the table in :mod:`llmbatch.providers.rules`.

What this module does not do: retry, sleep, count or remember. Whether a refusal is the row's fault or an outage in
disguise needs other rows' answers, and so is the runner's to decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple
from urllib.parse import urlsplit

from llmbatch.errors import TransportError, TransportFault
from llmbatch.jsontext import JSON, JSONError, one_line, parse
from llmbatch.providers.foreign import Carried, carried_answer, chain, named_wait, network_fault, said, snake_name
from llmbatch.providers.hints import wait_hint
from llmbatch.providers.reading import Sick, plain_message, read_complaint, read_stream, read_success
from llmbatch.providers.rule import Evidence
from llmbatch.providers.rules import find_rule, inner_status, is_known, pause_under
from llmbatch.records import Outcome, Reply, Scope, Verdict

__all__ = ["judge_exception", "judge_fault", "judge_reply"]

Masker = Callable[[str], str]


@dataclass(slots=True)
class _Body:
    """A body as text and as a value; ``whole`` is whether it is one JSON value in valid UTF-8."""

    text: str
    document: JSON
    whole: bool


class _Fault(NamedTuple):
    verdict: Verdict
    scope: Scope
    retry: bool
    code: str
    advice: str = ""


_LOCAL = "free file handles, ports, memory or disk on this machine"
_FAULTS: dict[TransportFault, _Fault] = {
    "dns": _Fault("failure", "provider", True, "dns_failed"),
    "connect": _Fault("failure", "provider", True, "connection_failed"),
    "connect_timeout": _Fault("failure", "provider", True, "connect_timeout"),
    "tls": _Fault(
        "exhausted",
        "provider",
        False,
        "tls_failed",
        "the server's certificate was rejected: check the base URL and this machine's certificates and clock",
    ),
    "timeout": _Fault("failure", "provider", True, "timeout"),
    "reset": _Fault("failure", "provider", True, "connection_reset"),
    "truncated": _Fault("failure", "provider", True, "truncated_body"),
    "garbage": _Fault("failure", "provider", True, "not_http"),
    "too_large": _Fault("failure", "provider", True, "answer_too_large"),
    "duplicate": _Fault("failure", "provider", True, "duplicate_answer"),
    "no_network": _Fault("local", "machine", True, "no_network", "check this machine's network"),
    "local": _Fault("local", "machine", True, "local_resources", _LOCAL),
}

_PROGRAM_FAULTS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    NameError,
    AssertionError,
    ArithmeticError,
    NotImplementedError,
    ImportError,
)


def judge_reply(reply: Reply, *, endpoint: str, mask: Masker) -> Outcome:
    """What *reply* means. Raises nothing, whatever the status, the headers and the bytes.

    Args:
        reply: the whole answer; header names in lower case.
        endpoint: ``chat``, ``completions``, ``responses``, ``embeddings`` or ``messages``.
        mask: takes the keys out of a text.
    """
    body = _parse_body(reply.body)
    if not 200 <= reply.status < 300:
        return _judge_failure(reply.status, reply.headers, body, mask)
    read = read_success(endpoint, body.document) if body.whole else _sick_text(reply.headers, body.text)
    if isinstance(read, Sick):
        return _judge_failure(reply.status, reply.headers, body, mask, sick=read)
    headers = reply.headers
    has_hint = "retry-after" in headers or "retry-after-ms" in headers or "x-ms-retry-after-ms" in headers
    filtered = not read.text and read.finish_reason is not None and _is_filtered(read.finish_reason)
    return Outcome(
        verdict="neutral" if filtered else "success",
        scope="row" if filtered else "provider",
        final=filtered,
        pause=wait_hint(reply.status, headers, None) if has_hint else None,
        code="content_filter" if filtered else "",
        message="the provider filtered the answer" if filtered else "",
        status=reply.status,
        request_id=_request_id(headers, mask),
        body=_safe_body(body.text, mask),
        text=mask(read.text) if read.text else read.text,
        usage=read.usage,
    )


def judge_fault(error: TransportError) -> Outcome:
    """What a request without a whole HTTP answer means."""
    fault = _FAULTS[error.fault]
    return Outcome(
        verdict=fault.verdict,
        scope=fault.scope,
        retry=fault.retry,
        code=fault.code,
        message=_shorten(str(error)),
        advice=error.hint or fault.advice,
        sent=error.sent,
    )


def judge_exception(error: Exception, *, mask: Masker = str) -> Outcome:
    """What an exception of a user's own function means, by its looks alone: no SDK is imported to know its errors.

    The cases, first that holds, each over the exception, its causes and its contexts: a fault of this machine, or
    garbage from the wire (whose status is made up); an HTTP status, judged by the table of the replies; a lost
    connection or a time-out. Then the type of the outermost: a program's error is refused, all else is a failure.
    """
    links = tuple(chain(error))
    faults = tuple(
        TransportError(fault.fault, mask(str(fault)), sent=fault.sent)
        for link in links
        if (fault := network_fault(link)) is not None
    )
    carried = (_judge_carried(carried_answer(link), said(link), mask) for link in links)
    outcome = (
        next((judge_fault(fault) for fault in faults if fault.fault in ("local", "no_network", "garbage")), None)
        or next(filter(None, carried), None)
        or next((judge_fault(fault) for fault in faults), None)
        or _judge_type(error)
    )
    waits = [wait for link in links if (wait := named_wait(link)) is not None]
    return replace(
        outcome,
        pause=outcome.pause if not waits else max(waits[0], outcome.pause or 0.0),
        message=outcome.message or _shorten(mask(said(error))),
    )


def _judge_failure(
    status: int, headers: Mapping[str, str], body: _Body, mask: Masker, *, sick: Sick | None = None, aside: str = ""
) -> Outcome:
    """Judge what is no success: gather the evidence, find the rule, fill in the outcome.

    *sick* is what a success status turned out to hold, *aside* a message for a body that has none.
    """
    blamed = body.document if sick is None else sick.error
    if sick is None and not body.whole and "event-stream" in headers.get("content-type", ""):
        stream = read_stream(body.text)
        blamed = blamed if isinstance(stream, Sick) else stream
    complaint = read_complaint(blamed)
    codes = complaint.codes if sick is None else (*complaint.codes, sick.code)
    judged = status if sick is None else inner_status(codes, complaint.status)
    message = complaint.message or (sick.message if sick else "") or aside
    if not message and not body.whole:
        message = plain_message(body.text)
    # A sick success is a failing answer, also for the hints.
    evidence = Evidence(judged, codes, message[:4000], headers, blamed, wait_hint(judged or 500, headers, blamed))
    rule, code = find_rule(evidence)
    if 300 <= status < 400:
        message = _redirection(headers)
    return Outcome(
        verdict=rule.verdict,
        scope=rule.scope,
        retry=rule.retry,
        final=rule.final,
        auth=rule.auth,
        pause=pause_under(rule, evidence),
        least_wait=rule.least_wait,
        code=_token(mask(code or next(iter(codes), "") or rule.code)) or f"http_{status}",
        message=_shorten(mask(message)) or f"HTTP {status}",
        advice=rule.advice,
        status=status,
        request_id=_request_id(headers, mask),
        body=_safe_body(body.text, mask) if body.whole else None,
    )


def _judge_carried(carried: Carried, message: str, mask: Masker) -> Outcome | None:
    """Judge the answer inside an exception; None where there is none."""
    body = _parse_body(carried.content)
    if not body.whole:
        body = _Body("", carried.document, False)
    if carried.status is not None:
        return _judge_failure(carried.status, carried.headers, body, mask, aside=message)
    # An error out of an event stream has no status. Many libraries put words of their own into such attributes, so
    # only those count that the table knows.
    complaint = read_complaint(body.document)
    if not is_known(complaint.codes, complaint.status):
        return None
    sick = Sick("provider_error", message, body.document)
    return replace(_judge_failure(200, carried.headers, body, mask, sick=sick), status=None, body=None)


def _judge_type(error: Exception) -> Outcome:
    code = _token(snake_name(error)) or "exception"
    if isinstance(error, _PROGRAM_FAULTS):
        return Outcome(verdict="neutral", scope="row", code=code)
    if re.search("rate_?limit|throttl|too_many_requests", code):
        return Outcome(verdict="throttled", scope="key", retry=True, least_wait=1.0, code=code)
    return Outcome(verdict="failure", scope="provider", retry=True, code=code)


def _sick_text(headers: Mapping[str, str], text: str) -> Sick:
    """What a success status without JSON is: nothing, an event stream, or something else altogether."""
    if not text.strip():
        return Sick("empty_body", "a success status without a body")
    if "event-stream" in headers.get("content-type", "") or text.startswith(("event:", "data:")):
        stream = read_stream(text)
        return stream if isinstance(stream, Sick) else Sick("error_in_stream", "", stream)
    return Sick("invalid_body", plain_message(text) or "the answer is no JSON")


def _is_filtered(finish_reason: str) -> bool:
    return finish_reason == "refusal" or finish_reason.startswith("content_filter")


def _parse_body(body: bytes) -> _Body:
    try:
        text = body.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        return _Body(body[:4000].decode(errors="replace"), None, False)
    try:
        return _Body(text, parse(text), True)
    except JSONError:
        return _Body(text, None, False)


def _safe_body(text: str, mask: Masker) -> str | None:
    masked = mask(text)
    if masked != text:
        try:
            parse(masked)
        except JSONError:
            # A key that stood for more than the inside of a string: rather no body than a broken line.
            return None
    return one_line(masked)


_usual_request_id = re.compile("[!-~]{1,200}").fullmatch


def _request_id(headers: Mapping[str, str], mask: Masker) -> str | None:
    for name in ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "cf-ray"):
        value = headers.get(name)
        if value:
            value = mask(value)
            return value if _usual_request_id(value) else _token(value) or None
    return None


def _redirection(headers: Mapping[str, str]) -> str:
    try:
        host = urlsplit(headers.get("location", "").strip()).hostname
    except ValueError:
        host = None
    return f"redirected to {host}, and not followed" if host else "redirected, and not followed"


def _shorten(text: str, most: int = 300) -> str:
    """*text* on one line, without characters that steer a terminal, at most *most* long. Mask before: it cuts."""
    text = text[: 10 * most]
    if not text.isprintable():
        # A space for each, so that a key with such characters strewn in does not close up again.
        text = "".join(char if char.isprintable() else " " for char in text)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _token(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_")[:64]
