"""This machine's own faults: the same errno means the same, whichever way it comes in."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import sys
import textwrap

import pytest

from llmbatch.classify.classify import classify_exception
from llmbatch.classify.faults import classify_fault
from llmbatch.core.calls import Request, Route
from llmbatch.core.errors import TransportError
from llmbatch.core.system_errors import NO_NETWORK_ERRNOS, RESOURCE_ERRNOS
from llmbatch.http import HttpTransport
from llmbatch.http.connect_errors import connect_fault, lost_fault

OUT_OF = ["EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EDQUOT", "ENOBUFS", "EADDRNOTAVAIL", "EADDRINUSE"]
NO_NETWORK = ["ENETDOWN", "ENETUNREACH"]
THEIRS = ["ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ETIMEDOUT", "EHOSTUNREACH", "EHOSTDOWN", "ENETRESET"]


def ways_in(number: int) -> dict[str, tuple[str, str, str]]:
    """What each way in makes of an error of the system with this *number*."""
    system = OSError(number, "x")
    made = {
        "connecting": classify_fault(connect_fault(system, "api.example:443")),
        "in an exchange": classify_fault(lost_fault(system, "api.example:443", sent=True)),
        "raised by a function": classify_exception(system),
        "as a cause": classify_exception(caused_by(system)),
    }
    return {way: (outcome.verdict, outcome.scope, outcome.code) for way, outcome in made.items()}


def caused_by(error: Exception) -> Exception:
    try:
        raise RuntimeError("wrapped") from error
    except RuntimeError as wrapped:
        return wrapped


@pytest.mark.parametrize("name", OUT_OF)
def test_resources_that_ran_out_are_blamed_on_this_machine_on_every_path(name: str) -> None:
    """ENOSPC, EDQUOT and ENOBUFS were the provider's failure on one of two paths."""
    number = getattr(errno, name)

    assert set(ways_in(number).values()) == {("local", "machine", "local_resources")}
    assert number in RESOURCE_ERRNOS


@pytest.mark.parametrize("name", NO_NETWORK)
def test_a_network_that_is_gone_is_this_machines_on_every_path(name: str) -> None:
    """Nobody is reached, so nobody is blamed."""
    number = getattr(errno, name)

    assert set(ways_in(number).values()) == {("local", "machine", "no_network")}
    assert number in NO_NETWORK_ERRNOS


@pytest.mark.parametrize("name", THEIRS)
def test_a_network_error_between_here_and_there_is_the_providers_on_every_path(name: str) -> None:
    """Whatever its code is called on each path, it is a failure that may pass."""
    assert {traits[:2] for traits in ways_in(getattr(errno, name)).values()} == {("failure", "provider")}


def test_a_thread_that_the_system_refuses_is_this_machines_fault() -> None:
    """asyncio.to_thread on a full machine; other RuntimeErrors are not."""
    assert classify_exception(RuntimeError("can't start new thread")).verdict == "local"


def test_errors_of_several_addresses_in_one_text_are_read() -> None:
    """They are joined by asyncio, without an errno, where a name has several addresses."""
    refused = OSError(
        "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111] Connect call failed"
    )
    full = OSError("Multiple exceptions: [Errno 24] Too many open files, [Errno 24] Too many open files")

    assert classify_exception(refused).verdict == "failure"
    assert classify_exception(full).verdict == "local"


def test_address_family_without_a_network_says_nothing_if_the_other_one_has_one() -> None:
    """A machine without IPv6 meets a provider that refuses over IPv4; the error is the one of several addresses."""
    refused = OSError("Multiple exceptions: [Errno 101] Network is unreachable, [Errno 111] Connect call failed")
    gone = OSError("Multiple exceptions: [Errno 101] Network is unreachable, [Errno 101] Network is unreachable")

    assert connect_fault(refused, "api.example:443").fault == "connect"
    assert connect_fault(gone, "api.example:443").fault == "no_network"


@pytest.mark.parametrize(
    ("number", "code", "verdict"),
    [
        (socket.EAI_NONAME, "unknown_host", "failure"),
        (socket.EAI_NODATA, "unknown_host", "failure"),
        (socket.EAI_AGAIN, "no_network", "local"),
        (socket.EAI_FAIL, "dns_failed", "failure"),
        (socket.EAI_MEMORY, "local_resources", "local"),
    ],
)
def test_a_host_that_does_not_exist_is_told_from_a_network_that_is_gone(number: int, code: str, verdict: str) -> None:
    """A name server's "no such name" is an answer; no answer is the network. The same on both paths."""
    system = socket.gaierror(number, "x")

    over_http = classify_fault(connect_fault(system, "api.example:443"))
    from_function = classify_exception(caused_by(system))

    assert (over_http.verdict, over_http.code) == (from_function.verdict, from_function.code) == (verdict, code)
    assert over_http.unreachable == from_function.unreachable == (code != "local_resources")


async def test_an_unknown_host_is_told_over_a_real_look_up() -> None:
    """`.invalid` never exists (RFC 6761); without a name server there is no network, and nothing else to say."""
    transport = HttpTransport()
    request = Request(Route("m", "a"), "http://no-such-host.invalid/v1", {}, b"{}", "chat", 1)

    try:
        async with asyncio.timeout(120):
            with pytest.raises(TransportError) as caught:
                await transport.post(request, timeout=10)
    finally:
        await transport.aclose()

    outcome = classify_fault(caught.value)
    assert outcome.code in {"unknown_host", "no_network", "dns_failed"}
    assert outcome.unreachable
    assert not caught.value.sent
    if outcome.code == "unknown_host":
        assert "no-such-host.invalid:80 does not exist" in outcome.message


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the file handles of a process")
@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (503, {"date": "Mon, 23 Nov 2026 12:00:00 GMT"}, b"", "failure None"),
        (
            503,
            {"date": "Mon, 23 Nov 2026 12:00:00 GMT", "retry-after": "Mon, 23 Nov 2026 12:01:30 GMT"},
            b"",
            "failure 90.0",
        ),
        (503, {"date": "Monday, 23-Nov-26 12:00:00 GMT"}, b"", "failure None"),
        (
            *(429, {"date": "Mon, 23 Nov 2026 12:00:00 GMT"}),
            b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"x","details":[{"@type":'
            b'"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"RequestsPerDay"}]}]}}',
            "account_refused 72000.0",
        ),
    ],
)
def test_an_answer_is_classified_though_no_file_handle_is_left(
    status: int, headers: dict[str, str], body: bytes, expected: str
) -> None:
    """Nothing that is not loaded yet can be loaded then."""
    program = f"""
        import os, resource
        from llmbatch.classify.classify import classify_reply
        from llmbatch.core.calls import Reply

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            while True:
                os.open(os.devnull, os.O_RDONLY)
        except OSError:
            outcome = classify_reply(Reply({status}, {headers!r}, {body!r}), endpoint="chat", mask=str)
            print(outcome.verdict, outcome.retry_after)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout.strip(), done.stderr) == (expected, "")
