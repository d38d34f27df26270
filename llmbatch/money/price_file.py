"""Reads a price file (``--prices FILE``): TOML, US$ per million tokens, one table for each model or pattern of names.

    ["openai/gpt-5-mini"]
    input = 0.25
    output = 2.0
    cached_input = 0.025

    ["openai/gpt-5-mini".flex]
    input = 0.125
    output = 1.0

    ["my-vllm/*"]
    input = 0.02
    output = 0.02

A name is ``PROVIDER/MODEL``, or a bare model for a server without a name. An exact name wins over a pattern, and of
patterns (``*``, ``?``, ``[abc]``) the first one.
"""

from __future__ import annotations

import tomllib
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from llmbatch.core.errors import UsageError
from llmbatch.money.price import ModelPrice, Price

__all__ = ["read_price_file"]

_TIERS = ("flex", "priority", "batch")
_KINDS = tuple(item.name for item in fields(Price) if item.name != "above")
_HINT = '["openai/gpt-5-mini"], below it `input = 0.25` and `output = 2.0`, in US$ per million tokens'
_MOST_BYTES = 10_000_000
_MOST_USD = Decimal(1_000_000)


def read_price_file(path: str) -> dict[str, ModelPrice]:
    """Prices by name or pattern, in the order of the file.

    Raises:
        UsageError: it cannot be read, or holds anything but prices; the message names file and key.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise UsageError(f"--prices {path} cannot be read: {why}", hint="check the path") from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"--prices {path} is larger than 10 MB", hint=f"a price file has lines such as {_HINT}")
    try:
        document = tomllib.loads(data.decode("utf-8-sig"), parse_float=Decimal)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, InvalidOperation, RecursionError) as error:
        raise UsageError(f"--prices {path} is not TOML: {error}", hint=f"a price file is {_HINT}") from error
    if not document:
        raise UsageError(f"--prices {path} has no prices", hint=f"a price file is {_HINT}")
    source = f"{path}"
    return {name: _model_price(path, name, table, source) for name, table in document.items()}


def _model_price(path: str, name: str, table: Any, source: str) -> ModelPrice:
    where = f'{path}: ["{name}"]'
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {name} is not a table of prices", hint=f"a price file is {_HINT}")
    tiers = {tier: _price(f"{where}.{tier}", table[tier]) for tier in _TIERS if tier in table}
    standard = _price(where, {key: value for key, value in table.items() if key not in _TIERS})
    return ModelPrice(standard, tiers, source)


def _price(where: str, table: Any) -> Price:
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table of prices", hint=f"a price file is {_HINT}")
    unknown = [key for key in table if key not in _KINDS]
    if unknown:
        raise UsageError(f"{where} has {unknown[0]!r}, which is no price", hint=f"prices are {', '.join(_KINDS)}")
    if "input" not in table and "output" not in table:
        raise UsageError(f"{where} has no prices", hint=f"a price file is {_HINT}")
    prices: dict[str, Any] = {key: _amount(where, key, value) for key, value in table.items()}
    return Price(**prices)


def _amount(where: str, key: str, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise UsageError(f"{where}: {key} is {value!r}, must be a number", hint="US$ per million tokens, such as 0.25")
    amount = Decimal(value)
    if not amount.is_finite() or not 0 <= amount <= _MOST_USD:
        raise UsageError(
            f"{where}: {key} is {value}, must be between 0 and 1,000,000", hint="US$ per million tokens, such as 0.25"
        )
    return amount
