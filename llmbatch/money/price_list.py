"""The price list that comes with llmbatch: prices of the known providers' models, as of the day it was made.

``price_list.json`` is written by ``.ci/price-list`` from genai-prices (MIT), and read once, before rows are sent: later
there may be no file handle left. Each model has a test of names, so that dated names and aliases are found too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from typing import Any, cast

from llmbatch.money.price import ModelPrice, Price

__all__ = ["find_listed", "list_date", "load_list", "price_from"]

_SAME_PRICES = {"azure": "openai"}
"""Providers that sell another one's models at its prices, where they have none of their own."""

_FLEX_SHARE = {"gemini": Decimal("0.5"), "groq": Decimal(1)}
"""What flex costs of the standard price where the list does not tell.

Gemini: https://ai.google.dev/gemini-api/docs/pricing; Groq: https://console.groq.com/docs/flex-processing."""

_SIM = Price(input=Decimal("0.25"), cached_input=Decimal("0.025"), output=Decimal(2), cache_write=Decimal("0.25"))
"""The simulated provider's, so that examples have a cost; nobody is billed."""

_SIM_FLEX = Price(input=Decimal("0.125"), cached_input=Decimal("0.0125"), output=Decimal(1))

_COMPACT_DATE = re.compile(r"-(20[0-9]{2})(0[1-9]|1[0-2])([0-2][0-9]|3[01])\Z")

_Test = str | list[Any] | dict[str, Any]


def find_listed(provider: str, model: str) -> ModelPrice | None:
    """The price of *provider*'s *model*; None if the list has none.

    Cost: at most a millisecond once the list is loaded; remember the result.
    """
    if provider == "sim":
        return ModelPrice(_SIM, {"flex": _SIM_FLEX, "batch": _SIM_FLEX}, "the simulated provider")
    name = model.lower()
    for seller in (provider, _SAME_PRICES.get(provider, "")):
        for known in (name, _COMPACT_DATE.sub(r"-\1-\2-\3", name)):
            for row in _list()["providers"].get(seller, ()):
                if _passes(row[1], known):
                    return _model_price(provider, row)
    return None


def load_list() -> None:
    """Read the list, which takes some 15 ms the first time.

    Raises:
        OSError: the file cannot be read.
    """
    _list()


def list_date() -> str:
    """The day on which the list was made, as ``2026-11-27``."""
    return str(_list()["date"])


@lru_cache(maxsize=1)
def _list() -> dict[str, Any]:
    text = files("llmbatch.money").joinpath("price_list.json").read_text("utf-8")
    return cast("dict[str, Any]", json.loads(text))


def _model_price(provider: str, row: Sequence[Any]) -> ModelPrice:
    standard = price_from(row[2])
    tiers = {tier: price_from(prices) for tier, prices in (row[3] if len(row) > 3 else {}).items()}
    share = _FLEX_SHARE.get(provider)
    if share is not None and "flex" not in tiers:
        tiers["flex"] = _scaled(standard, share)
    return ModelPrice(standard, tiers, f"price list of {list_date()}")


def price_from(prices: Mapping[str, Any]) -> Price:
    """A price from texts by kind, as in the list; ``above`` holds pairs of a threshold and such prices."""
    steps = tuple((int(start), price_from(step)) for start, step in prices.get("above", ()))
    by_kind: dict[str, Any] = {kind: Decimal(text) for kind, text in prices.items() if kind != "above"}
    return Price(**by_kind, above=steps)


def _scaled(price: Price, share: Decimal) -> Price:
    scaled: dict[str, Any] = {kind: amount * share for kind, amount in price.kinds.items()}
    return Price(**scaled, above=tuple((start, _scaled(step, share)) for start, step in price.above))


def _passes(test: _Test, name: str) -> bool:
    if isinstance(test, list):
        return any(_passes(one, name) for one in test)
    if isinstance(test, dict):
        return all(_passes(one, name) for one in test["all"])
    kind, text = test[0], test[1:]
    match kind:
        case "=":
            return name == text
        case "^":
            return name.startswith(text)
        case "$":
            return name.endswith(text)
        case "*":
            return text in name
        case _:
            return re.search(text, name) is not None
