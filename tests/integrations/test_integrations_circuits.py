"""The registry of circuits that integrations share: its options, its log, its listeners; and light imports."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from llmbatch import BreakerMetrics, CircuitBreaker, Judgement
from llmbatch.breaker.registry import BreakerRegistry
from llmbatch.integrations.circuits import Endpoint, ModelCircuits
from llmbatch.integrations.httpx2 import CircuitConnectError, CircuitTransport

# Servers on loopback, without TLS.
pytestmark = pytest.mark.usefixtures("no_certificates")

HERE = Endpoint("https://api.example.com", "m")


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    """Settle some calls as failures."""
    for _ in range(times):
        breaker.acquire().settle(Judgement("failure", status=503, message="it is overloaded"))


def test_the_log_says_why_it_opened_and_when_it_will_probe(caplog: pytest.LogCaptureFixture) -> None:
    """An opening is a warning, which Python shows without any configuration; records have the facts as attributes."""
    caplog.set_level(logging.DEBUG, logger="llmbatch")
    clock = Clock()
    breaker = ModelCircuits(2, 60.0, clock=clock)[HERE]

    fail(breaker, 2)
    clock.now += 60
    fail(breaker)
    clock.now += 60
    breaker.acquire().settle()

    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    name = "circuit https://api.example.com m"
    last = "the last with failure: it is overloaded (status 503); the next probe is due in 60.0 s, at "
    assert [(level, text.rpartition(" at ")[0] + " at " if "due" in text else text) for level, text in said] == [
        ("WARNING", f"{name} opened: 2 calls in a row failed, {last}"),
        ("DEBUG", f"{name} stays open: the probe failed, {last}"),
        ("INFO", f"{name} closed after 120.0 s: requests pass again"),
    ]
    assert {record.name for record in caplog.records} == {"llmbatch"}
    assert [(vars(record)["route"], vars(record)["retry_after"]) for record in caplog.records] == [
        (str(HERE), 60.0),
        (str(HERE), 60.0),
        (str(HERE), None),
    ]


def test_a_forced_circuit_names_no_time(caplog: pytest.LogCaptureFixture) -> None:
    breaker = ModelCircuits()[HERE]
    breaker.force_open("maintenance")
    assert caplog.messages == ["circuit https://api.example.com m opened: maintenance; no probe until it is reset"]


def test_the_log_blamed_an_earlier_failure_for_what_was_set_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    breaker = ModelCircuits(2, clock=clock)[HERE]
    fail(breaker)
    clock.now += 5
    breaker.hold(30.0)
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "circuit https://api.example.com m opened: on hold for 30 s"
    ]


def test_the_log_blamed_an_earlier_failure_for_slow_calls(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    options = {"slow_call_rate": 0.5, "slow_call_duration": 1.0, "rate_window": 4, "minimum_calls": 3}
    breaker = ModelCircuits(None, clock=clock, **options)[HERE]  # type: ignore[arg-type]
    fail(breaker)
    for _ in range(2):
        permit = breaker.acquire()
        clock.now += 2
        permit.settle()
    assert len(caplog.messages) == 1
    assert "took over 1 s" in caplog.messages[0]
    assert "overloaded" not in caplog.messages[0]


def test_a_pickled_session_lost_its_circuits() -> None:
    """It failed at its first request, in the other process, for want of an attribute."""
    requests = pytest.importorskip("requests")
    from llmbatch.integrations.requests import CircuitAdapter

    session = requests.Session()
    session.mount("https://", CircuitAdapter())

    with pytest.raises(TypeError, match="mount one in each process"):
        pickle.dumps(session)


def test_the_log_can_be_turned_off(caplog: pytest.LogCaptureFixture) -> None:
    fail(ModelCircuits(1, log=False)[HERE])
    assert not caplog.records


def test_options_are_checked_at_once_and_reach_each_circuit() -> None:
    with pytest.raises(ValueError, match="recovery_timeout is -1"):
        ModelCircuits(5, -1)
    with pytest.raises(TypeError, match="unknown option"):
        CircuitTransport(wrong=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="give either circuits or recovery_timeout, not both"):
        CircuitTransport(circuits=ModelCircuits(), recovery_timeout=1.0)

    policy = ModelCircuits(failure_rate=0.5, stall_timeout=30.0)[HERE].policy
    assert (policy.failure_rate, policy.stall_timeout) == (0.5, 30.0)


def test_metrics_listen_to_all_circuits() -> None:
    """Those that are there, and those to come."""
    circuits, metrics = ModelCircuits(1), BreakerMetrics()
    circuits.add_listener(metrics, calls=True)
    fail(circuits[HERE])
    assert metrics.numbers("https://api.example.com m").openings == 1


def test_any_registry_of_endpoints_will_do() -> None:
    """With breakers of one's own making."""
    made = BreakerRegistry[Endpoint](lambda endpoint: CircuitBreaker(1, 9.0, name=endpoint.model))
    transport = CircuitTransport(httpx2.MockTransport(lambda _: httpx2.Response(503)), circuits=made)
    with httpx2.Client(transport=transport) as client:
        assert client.post("https://api.example.com/v1", json={"model": "m"}).status_code == 503
        with pytest.raises(CircuitConnectError, match="circuit m is open"):
            client.post("https://api.example.com/v1", json={"model": "m"})


def test_the_body_of_a_request_is_never_consumed() -> None:
    """A stream names no model, and is sent whole."""
    seen: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.read())
        return httpx2.Response(200, text="ok")

    transport = CircuitTransport(httpx2.MockTransport(answer))
    with httpx2.Client(transport=transport) as client:
        client.post("https://api.example.com/v1", content=iter([b'{"model":', b'"m"}']))
    assert seen == [b'{"model":"m"}']
    assert list(transport.circuits) == [Endpoint("https://api.example.com")]


def test_a_good_answer_that_was_in_memory_counts() -> None:
    """As that of a cache, or of a test."""
    answers = iter([503, 200, 503])
    transport = CircuitTransport(httpx2.MockTransport(lambda _: httpx2.Response(next(answers), json={})))
    with httpx2.Client(transport=transport) as client:
        for failures in (1, 0, 1):
            client.get("https://api.example.com/v1/models")
            assert transport.circuits[Endpoint("https://api.example.com")].failures == failures


FAILURES = (401, 403, 408, 500, 502, 503, 504, 520, 529)
NEITHER = (302, 400, 404, 409, 413, 422, 429, 501)


@pytest.mark.parametrize("status", FAILURES + NEITHER)
def test_statuses_count_as_the_page_says(status: int) -> None:
    """The table of docs/integrations.md."""
    transport = CircuitTransport(httpx2.MockTransport(lambda _: httpx2.Response(status)), failure_threshold=2)
    with httpx2.Client(transport=transport) as client:
        for _ in range(2):
            assert client.get("https://api.example.com/v1/models").status_code == status
    state = transport.circuits[Endpoint("https://api.example.com")].state
    assert state == ("open" if status in FAILURES else "closed")


LIGHT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ImportError("not installed: " + name)
sys.meta_path.insert(0, Refuse())
import llmbatch.integrations.{module}
"""


@pytest.mark.parametrize("module", ["httpx", "httpx2", "aiohttp", "requests", "fastapi"])
def test_a_missing_package_is_named(module: str) -> None:
    """With what to install, and no trace of how."""
    missing = {"fastapi": {"fastapi", "starlette"}}.get(module, {module})
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(names=missing, module=module)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: llmbatch.integrations.{module} needs {module}")
    assert "pip install" in last


@pytest.mark.parametrize("module", ["httpx", "httpx2", "requests"])
def test_an_integration_needs_its_own_package_only(module: str) -> None:
    """None of what a run needs, and none of the other clients."""
    pytest.importorskip(module)
    others = {"httpx", "httpx2", "aiohttp", "requests", "fastapi", "starlette", "typer", "rich", "aiolimiter"}
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(names=others - {module}, module=module)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_the_package_imports_no_integration() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import llmbatch, sys; llmbatch.CircuitBreaker(); print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path.cwd(),
    )
    assert not {"httpx", "httpx2", "requests", "aiohttp", "fastapi"} & set(done.stdout.split())


def test_proxies_of_the_environment_are_used_as_without_circuits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client ignores them as soon as it is given a transport."""
    monkeypatch.setenv("http_proxy", "127.0.0.1:3128")
    monkeypatch.setenv("no_proxy", "localhost")
    with CircuitTransport() as transport:
        by_proxy = transport._below(httpx2.Request("GET", "http://api.example.com"))
        direct = transport._below(httpx2.Request("GET", "http://localhost:8000"))
        tls = transport._below(httpx2.Request("GET", "https://api.example.com"))
    assert by_proxy is not direct
    assert direct is tls
