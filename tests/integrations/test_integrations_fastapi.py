"""A web app answers 503 with Retry-After while the provider that it calls is down."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llmbatch import CircuitBreaker, CircuitOpenError

pytest.importorskip("starlette")
httpx = pytest.importorskip("httpx")

from llmbatch.integrations.fastapi import circuit_open_response  # noqa: E402


def fastapi_app() -> Any:
    return pytest.importorskip("fastapi").FastAPI()


def starlette_app() -> Any:
    from starlette.applications import Starlette

    return Starlette()


@pytest.mark.parametrize("make_app", [fastapi_app, starlette_app])
@pytest.mark.parametrize(("wait", "expected"), [(0.05, "1"), (17.2, "18"), (math.inf, None)])
async def test_a_refusal_is_a_503(make_app: Any, wait: float, expected: str | None) -> None:
    """Two lines to install; seconds are whole, and rounded up; the circuit's name is not shown."""

    class RefusedError(CircuitOpenError):
        """As those of the clients."""

    async def ask(request: Any) -> None:
        raise RefusedError(wait, "https://internal.example gpt-5", "5 calls in a row failed")

    app = make_app()
    app.add_exception_handler(CircuitOpenError, circuit_open_response)
    app.router.add_route("/ask", ask)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        answer = await client.get("/ask")

    assert answer.status_code == 503
    assert answer.headers.get("retry-after") == expected
    assert "internal" not in answer.text
    assert answer.json()["detail"]


async def test_a_real_refusal_of_a_breaker() -> None:
    breaker = CircuitBreaker(1, 42.0)
    breaker.force_open()
    breaker.reset()
    breaker.acquire().settle("failure")

    async def ask(request: Any) -> None:
        breaker.acquire()

    app = starlette_app()
    app.add_exception_handler(CircuitOpenError, circuit_open_response)
    app.router.add_route("/ask", ask)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        assert (await client.get("/ask")).headers["retry-after"] == "42"
