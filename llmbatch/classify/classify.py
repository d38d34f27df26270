"""Classifies a reply or an exception into an :class:`~llmbatch.core.calls.Outcome`.

This module gathers the facts and fills in the outcome; the rules are the table in :mod:`llmbatch.classify.body_rules`,
and for requests without a reply :mod:`llmbatch.classify.faults`.
Whether a refusal is the row's fault or an outage in disguise depends on other rows' answers, which the runner knows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.classify.body_rules import ROW_RULE
from llmbatch.classify.client_errors import is_client_error, is_misuse, row_reason
from llmbatch.classify.error_bodies import (
    error_within,
    is_code,
    is_sentence,
    is_web_page,
    plain_message,
    read_error_body,
)
from llmbatch.classify.event_stream import assemble, looks_like_stream, read_stream
from llmbatch.classify.exceptions import (
    AttachedResponse,
    attached_completion,
    attached_response,
    chain,
    is_cancellation,
    named_wait,
    network_fault,
    refusal_in,
    said,
    snake_name,
    unconnected,
)
from llmbatch.classify.faults import classify_fault
from llmbatch.classify.find_rule import find_rule, inner_status, is_certain, is_known, pause_under
from llmbatch.classify.finish_reasons import abnormal_end, withheld
from llmbatch.classify.raised import mismatch_reason, raised_at
from llmbatch.classify.responses import BadBody, read_success
from llmbatch.classify.retry_after import ON_ANY_ANSWER, wait_hint
from llmbatch.classify.rule import Facts
from llmbatch.classify.safe_text import ID_HEADERS, Masker, request_id, safe_body, shorten, token
from llmbatch.classify.tiers import billed_tier
from llmbatch.classify.usage import COST_HEADER, with_cost_of
from llmbatch.core.calls import CIRCUIT_OPEN, EMPTY_BODY, WEB_PAGE, Outcome, Reply
from llmbatch.core.errors import TransportError
from llmbatch.core.raw_json import JSON, RawJsonError, dumps, parse

__all__ = ["classify_document", "classify_exception", "classify_reply"]


@dataclass(slots=True)
class _Body:
    """A body as text and as a value; ``whole`` is whether it is one JSON value in valid UTF-8."""

    text: str
    document: JSON
    whole: bool


_MOST_SEARCHED = 2000
"""Length of an error's text that is read; its meaning is at the beginning."""


def classify_reply(reply: Reply, *, endpoint: str, mask: Masker, asked: bytes = b"") -> Outcome:
    """Classify *reply*. Raises nothing, whatever the status, the headers and the bytes.

    Args:
        reply: the whole answer; header names in lower case.
        endpoint: ``chat``, ``completions``, ``responses``, ``embeddings`` or ``messages``.
        mask: masks the keys in a text.
        asked: the body of the request. Words of an error that occur in it are taken for an echo.
    """
    body = _parse_body(reply.body)
    if not 200 <= reply.status < 300:
        return _name_endpoint(_classify_failure(reply.status, reply.headers, body, mask, asked=asked), endpoint)
    if not body.whole and _is_media(reply.headers, body.text):
        return _media(reply, mask)
    read = read_success(endpoint, body.document, asked) if body.whole else _text_fault(reply.headers, body.text)
    if isinstance(read, BadBody) and read.code == "unexpected_stream":
        document = assemble(body.text)
        if document is not None:
            body, read = _Body(dumps(document), document, True), read_success(endpoint, document)
    if isinstance(read, BadBody):
        return _classify_failure(reply.status, reply.headers, body, mask, bad_body=read, asked=asked)
    headers = reply.headers
    end = None if read.finish_reason == "stop" else abnormal_end(read.finish_reason)
    is_usual = end is None and not read.is_refusal
    code, message = ("", "") if is_usual else withheld(read.finish_reason, is_refusal=read.is_refusal)
    return Outcome(
        verdict="rejected" if code else "success",
        scope="row" if code else "provider",
        row_is_bad=bool(code),
        retry_after=None if ON_ANY_ANSWER.isdisjoint(headers) else wait_hint(reply.status, headers, None),
        code=code,
        message=message,
        status=reply.status,
        request_id=None if ID_HEADERS.isdisjoint(headers) else request_id(headers, mask),
        body=safe_body(body.text, mask),
        text=mask(read.text) if read.text else "" if read.is_empty else read.text,
        usage=with_cost_of(headers, read.usage) if COST_HEADER in headers else read.usage,
        finish_reason=token(mask(end)) if end else None,
        tier=billed_tier(body.document, headers),
    )


def classify_document(endpoint: str, document: JSON, *, mask: Masker = str) -> Outcome | None:
    """Classify *document*, a parsed body that came with a success status; None if it is a success. Raises nothing.

    *endpoint*: as for :func:`classify_reply`; also ``candidates``, and ``raw``, of which only an error is understood.
    """
    read = read_success(endpoint, document)
    if not isinstance(read, BadBody):
        return None
    return _classify_failure(200, {}, _Body("", document, False), mask, bad_body=read)


def _name_endpoint(outcome: Outcome, endpoint: str) -> Outcome:
    """Rows with an ``input`` go to ``/v1/responses``: where that is not found, the wire format is the likely cause."""
    if endpoint != "responses" or outcome.status not in (404, 405) or outcome.verdict != "account_refused":
        return outcome
    if outcome.code == "model_not_found":  # the path is there
        return outcome
    hint = "rows with an input went to /v1/responses: for a model of embeddings add --endpoint embeddings"
    return replace(outcome, hint=f"{hint}; else {outcome.hint}")


def classify_exception(error: BaseException, *, mask: Masker = str, asked: bytes = b"") -> Outcome:
    """Classify an exception of a user's function by its attributes; no SDK is imported to know its errors.

    The refusal of a circuit breaker below goes first (:func:`refusal_in`): nothing was called, and the row waits. Then
    the first case that applies, to the exception, its group, its causes and its contexts:

    1. a fault of this machine, or garbage from the wire (whose status is made up)
    2. an answer that ended because of the row: truncated at ``max_tokens``, filtered; final (and so is, after 4, one
       that an SDK could not parse)
    3. an answer: the exception of an HTTP client or an SDK, or one that holds a response; classified by the table
    4. a lost connection, a timeout, a cancellation from within: the provider's failure
    5. any other exception of a client or an SDK: the provider's failure, except wrong use of the client
    6. anything else is the function's own exception: rejected, the row's, and may succeed when it is tried again

    *asked* is what the function was called with: words of an error that occur in it are taken for an echo.
    """
    refusal = refusal_in(error)
    if refusal is not None:
        return _classify_refusal(refusal, mask)
    links = tuple(chain(error))
    outcome = _classify_chain(error, links, mask, asked)
    waits = [wait for link in links if (wait := named_wait(link)) is not None]
    return replace(
        outcome,
        retry_after=outcome.retry_after if not waits else max(waits[0], outcome.retry_after or 0.0),
        message=outcome.message or shorten(mask(said(error))),
    )


def _classify_refusal(refusal: CircuitOpenError, mask: Masker) -> Outcome:
    """Classify the refusal of a circuit breaker inside a function: a named wait for what was not sent."""
    wait = refusal.retry_after
    return Outcome(
        verdict="throttled",
        scope="provider",
        retry=True,
        retry_after=wait if math.isfinite(wait) else None,
        min_backoff=1.0,
        code=CIRCUIT_OPEN,
        message=shorten(mask(str(refusal))),
    )


def _classify_chain(error: BaseException, links: tuple[BaseException, ...], mask: Masker, asked: bytes) -> Outcome:
    faults = [
        TransportError(fault.fault, mask(str(fault)), sent=fault.sent)
        for link in links
        if (fault := network_fault(link)) is not None
    ]
    # The SDK reports a timeout, its cause that there was no connection to begin with.
    faults.sort(key=lambda fault: fault.fault != "connect_timeout")
    for fault in faults:
        if fault.fault in ("local", "no_network", "garbage"):
            return classify_fault(fault)
    for link in links:
        reason = row_reason(link)
        if reason is not None:
            return _classify_ended(link, reason, mask)
    for link in links:
        attached = attached_response(link)
        outcome = None if attached is None else _classify_attached(attached, said(link), mask, asked)
        if outcome is not None:
            return outcome
    if faults:
        return classify_fault(faults[0])
    reason = mismatch_reason(links)
    if reason is not None:
        return _classify_ended(error, reason, mask)
    return _classify_by_kind(error, links, mask)


def _classify_failure(
    status: int,
    headers: Mapping[str, str],
    body: _Body,
    mask: Masker,
    *,
    bad_body: BadBody | None = None,
    aside: str = "",
    asked: bytes = b"",
) -> Outcome:
    """Classify an answer that is not a success: gather the facts, find the rule, fill in the outcome.

    *bad_body* is the bad body of a success status, *aside* a message for a body that has none.
    """
    blamed = body.document if bad_body is None else bad_body.error
    if bad_body is None and not body.whole and "event-stream" in headers.get("content-type", ""):
        stream = read_stream(body.text)
        blamed = blamed if isinstance(stream, BadBody) else stream
    error_body = read_error_body(blamed)
    codes = error_body.codes if bad_body is None else (*error_body.codes, bad_body.code)
    judged = status if bad_body is None else inner_status(codes, error_body.status)
    message = error_body.message or (bad_body.message if bad_body else "") or aside
    if not message and not body.whole:
        message = plain_message(body.text)
    if "x-amzn-errortype" in headers:  # "ThrottlingException:http://internal.amazon.com/…"
        codes = (*codes, headers["x-amzn-errortype"].partition(":")[0].strip()[:200])
    # Refusals of one request may quote it, so only these are searched for the error of a provider behind a gateway.
    within = error_within(message) if judged == 429 or judged >= 500 else None
    if within is not None:
        behind = read_error_body(within)
        codes, blamed = (*codes, *behind.codes), within
        message = message.partition("{")[0] + behind.message
    # A bad body with a success status is a failing answer, also for the hints.
    pause = wait_hint(judged or 500, headers, blamed, message)
    facts = Facts(judged, (*codes, *error_body.numbers), message[:_MOST_SEARCHED], headers, blamed, pause, asked)
    rule, match = find_rule(facts)
    if pause is None and rule.verdict == "throttled":  # a 429 that a gateway wrapped in another status
        facts.retry_after = wait_hint(429, headers, blamed, message)
    if bad_body is not None and bad_body.row and rule.verdict == "failure":
        rule = ROW_RULE
    if 300 <= status < 400:
        message = _redirection(headers)
    return Outcome(
        verdict=rule.verdict,
        scope=rule.scope,
        retry=rule.retry,
        row_is_bad=rule.row_is_bad,
        key_refused=rule.key_refused,
        retry_after=pause_under(rule, facts),
        min_backoff=rule.min_backoff,
        code=token(mask(_reported_code(match.code, codes, rule.code))) or f"http_{status}",
        message=shorten(mask(message or _first_sentence(codes))) or f"HTTP {status}",
        hint=rule.hint,
        status=status,
        request_id=request_id(headers, mask),
        body=safe_body(body.text, mask) if body.whole else None,
        certain=is_certain(rule, match, facts),
        lacks_capacity=rule.lacks_capacity,
    )


def _reported_code(matched: str, codes: tuple[str, ...], usual: str) -> str:
    """The code to show: the one that decided, else the first valid code of the body, else *usual*, the rule's."""
    if matched and (matched.isdigit() or matched.startswith("base_resp_")):
        return usual  # a bare number is not informative
    return matched or next(filter(is_code, codes), "") or usual


def _first_sentence(codes: tuple[str, ...]) -> str:
    """The first text given as a code that is really a message."""
    return next((code.replace("_", " ") for code in codes if is_sentence(code)), "")


def _classify_attached(attached: AttachedResponse, message: str, mask: Masker, asked: bytes) -> Outcome | None:
    """Classify the response attached to an exception; None if there is none."""
    body = _parse_body(attached.content)
    if not body.whole:
        body = _Body("", attached.document, False)
    if attached.status is not None:
        return _classify_failure(attached.status, attached.headers, body, mask, aside=message, asked=asked)
    # An error from an event stream has no status. Many libraries put words of their own into such attributes, so
    # only those count that the table knows.
    error_body = read_error_body(body.document)
    if not is_known(error_body.codes, error_body.status):
        return None
    bad_body = BadBody("provider_error", message, body.document)
    return replace(
        _classify_failure(200, attached.headers, body, mask, bad_body=bad_body, asked=asked), status=None, body=None
    )


_ENDS = {"truncated": "length", "content_filter": "content_filter"}
"""Finish reasons by the code of an answer for whose end an SDK raises an exception."""


def _classify_ended(error: BaseException, reason: str, mask: Masker) -> Outcome:
    """Classify an answer that was paid for, but for whose end (length, filter) the SDK raises an exception."""
    text, usage = attached_completion(error)
    return Outcome(
        verdict="rejected",
        scope="row",
        row_is_bad=True,
        code=reason,
        message=shorten(mask(said(error))),
        body=safe_body(text, mask) if text else None,
        usage=usage,
        finish_reason=_ENDS.get(reason),
    )


def _classify_by_kind(error: BaseException, links: tuple[BaseException, ...], mask: Masker) -> Outcome:
    """Classify an exception without an answer or network error, by what raised it."""
    if any(map(is_cancellation, links)):
        return classify_fault(TransportError("reset", "the function was canceled from within", sent=True))
    misused = next(filter(is_misuse, links), None)
    if misused is None:
        code = token(snake_name(error)) or "exception"
        if re.search("rate_?limit|throttl|too_many_requests", code):
            return Outcome(verdict="throttled", scope="key", retry=True, min_backoff=1.0, code=code)
        fault = next(filter(None, map(unconnected, links)), None)
        if fault is not None:
            return classify_fault(TransportError(fault.fault, mask(str(fault)), sent=fault.sent))
        if any(map(is_client_error, links)):
            return Outcome(verdict="failure", scope="provider", retry=True, code=code)
    # Raised while a refusal was handled: once its circuit closes, the row does not come here.
    refusal = next((link for link in links if isinstance(link, CircuitOpenError)), None)
    if refusal is not None:
        return _classify_refusal(refusal, mask)
    own = error if misused is None else misused
    message = said(own)
    if isinstance(error, BaseExceptionGroup):
        own = next(link for link in links if not isinstance(link, BaseExceptionGroup))
        message = f"{said(error)}: {type(own).__name__}: {said(own)}"
    at = raised_at(own) or raised_at(error)
    return Outcome(
        verdict="rejected",
        scope="row",
        retry=True,
        code=token(snake_name(error if misused is None else misused)) or "exception",
        message=shorten(mask(message)),
        hint=shorten(mask(f"{type(own).__name__}: {said(own)}")) + (f" ({at})" if at else ""),
    )


_is_media_type = re.compile(r"(audio|image|video)/[\w.+-]{1,40}|application/(octet-stream|pdf|zip)").match


def _is_media(headers: Mapping[str, str], text: str) -> bool:
    return _is_media_type(headers.get("content-type", "")) is not None and not text.lstrip().startswith("{")


def _media(reply: Reply, mask: Masker) -> Outcome:
    """A good answer of ``/v1/audio/speech`` and the like: to send its row again would only be paid again."""
    kind = reply.headers["content-type"].partition(";")[0][:60]
    return Outcome(
        verdict="rejected",
        scope="row",
        row_is_bad=True,
        code="binary_answer",
        message=f"the answer is {mask(kind)} ({len(reply.body):,} bytes), and results hold JSON answers only",
        hint="ask for JSON in the row, if the endpoint has it; what answers with files cannot be sent by llmbatch",
        status=reply.status,
        request_id=request_id(reply.headers, mask),
    )


def _text_fault(headers: Mapping[str, str], text: str) -> BadBody:
    """Code and message of a success without JSON: empty, an event stream, or something else."""
    if not text.strip():
        return BadBody(EMPTY_BODY, "a success status without a body")
    if looks_like_stream(headers, text):
        stream = read_stream(text)
        return stream if isinstance(stream, BadBody) else BadBody("error_in_stream", "", stream)
    said = plain_message(text)
    if said.startswith(("{", "[")):
        said = f"the answer is not valid JSON: {said}"
    return BadBody(WEB_PAGE if is_web_page(text) else "invalid_body", said or "the answer is not JSON")


def _parse_body(body: bytes) -> _Body:
    try:
        text = body.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        return _Body(body[:4000].decode(errors="replace"), None, False)
    try:
        return _Body(text, parse(text), True)
    except RawJsonError:
        return _Body(text, None, False)


def _redirection(headers: Mapping[str, str]) -> str:
    try:
        host = urlsplit(headers.get("location", "").strip()).hostname
    except ValueError:
        host = None
    return f"redirected to {host}, and not followed" if host else "redirected, and not followed"
