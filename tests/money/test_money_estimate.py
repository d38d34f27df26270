"""The most that a request can cost: never less than its bill, and not absurdly more for pictures."""

from __future__ import annotations

import base64
import json
from decimal import Decimal

import pytest

from llmbatch.core.calls import Request, Route, Usage, UsageDetails
from llmbatch.money.cap import CostCap
from llmbatch.money.estimate import CostEstimate, most_input_tokens
from llmbatch.money.price import ModelPrice, Price, bill

D = Decimal
PRICE = Price(input=D(1), cached_input=D("0.1"), cache_write=D("1.25"), cache_write_1h=D(2), output=D(4))
ROUTE = Route("openai/m", "account")


def request(body: object, most: int | None = 100, answers: int = 1) -> Request:
    return Request(
        *(ROUTE, "http://x", {}, json.dumps(body).encode(), "chat", 1), max_output_tokens=most, answers=answers
    )


@pytest.mark.parametrize("text", ["", "word " * 500, "日本語" * 300, "🙂" * 500, "\x00" * 100])
def test_every_byte_may_be_a_token(text: str) -> None:
    """The bound holds if each byte of the request is an input token that is written to a cache, and all output used."""
    sent = request({"messages": [{"role": "user", "content": text}]})
    worst = Usage(len(sent.body), 100, UsageDetails(cache_write_tokens=len(sent.body)))

    cost = bill(PRICE, worst)

    assert cost is not None
    assert CostEstimate(ModelPrice(PRICE)).most(sent) >= cost


def test_the_bound_knows_caches_of_an_hour_several_answers_and_dearer_tiers() -> None:
    """What the body asks for."""
    estimate = CostEstimate(ModelPrice(PRICE, {"priority": Price(input=D(10), output=D(40))}))
    plain = estimate.most(request({"a": 1}))

    assert estimate.most(request({"a": 1}, answers=3)) > plain + D(199) * 4 / 1_000_000
    assert estimate.most(request({"ttl": "1h"})) > estimate.most(request({"ttl": "5m"}))
    assert estimate.most(request({"service_tier": "auto"})) > 5 * estimate.most(request({"service_tixx": "auto"}))


@pytest.mark.parametrize("wrap", ["data:image/png;base64,{}", "{}"])
def test_a_picture_is_not_reserved_as_text(wrap: str) -> None:
    """Of a megabyte of base64 a twentieth."""
    data = base64.b64encode(bytes(range(256)) * 4096).decode()
    body = json.dumps({"messages": [{"content": [{"type": "x", "data": wrap.format(data)}]}]}).encode()

    assert len(data) // 20 < most_input_tokens(body) < len(data) // 15


def test_without_a_limit_the_longest_answer_so_far_counts_twice() -> None:
    """4,096 tokens before the first; never less than 256."""
    estimate = CostEstimate(ModelPrice(Price(input=D(0), output=D(1_000_000))))
    sent = request({}, most=None)

    assert estimate.most(sent) == 4096
    estimate.learn(sent, Usage(5, 10))
    assert estimate.most(sent) == 256
    estimate.learn(sent, Usage(5, 3000))
    estimate.learn(sent, Usage(5, 20))
    assert estimate.most(sent) == 6000


def test_a_cap_lets_nothing_pass_that_could_exceed_it() -> None:
    """What is in flight counts with the most that it can cost, and then with what it did."""
    cap = CostCap(D(10), D(4))
    assert cap.allows(D(6))
    assert not cap.allows(D("6.000001"))

    cap.reserve(D(5))

    assert not cap.allows(D("1.5"))
    cap.settle(D(5), D(1))
    assert cap.allows(D(5))
    assert repr(cap) == "<CostCap 5 of 10, 0 reserved>"
