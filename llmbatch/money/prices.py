"""Finds the price of a model and the cost of a call: what the provider reports, the price file, the price list."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fnmatch import fnmatchcase

from llmbatch.core.calls import Usage
from llmbatch.money.price import ModelPrice, bill
from llmbatch.money.price_list import find_listed, load_list

__all__ = ["Prices"]

_MOST_MODELS = 4096
_PATTERN = frozenset("*?[")


class Prices:
    """Prices by ``PROVIDER/MODEL``, each looked up once. *file*: those of a price file, by name or pattern."""

    def __init__(self, file: Mapping[str, ModelPrice] | None = None) -> None:
        load_list()
        self._file = file or {}
        self._found: dict[str, ModelPrice | None] = {}

    @classmethod
    def read(cls, path: str | None) -> Prices:
        """Prices of the price file *path*, if any, before those of the list.

        Raises:
            UsageError: the file cannot be read, or holds anything but prices.
        """
        if path is None:
            return cls()
        from llmbatch.money.price_file import read_price_file

        return cls(read_price_file(path))

    def of(self, name: str) -> ModelPrice | None:
        """The price of the model *name*; None if it is unknown."""
        try:
            return self._found[name]
        except KeyError:
            if len(self._found) >= _MOST_MODELS:
                self._found.clear()
            found = self._found[name] = self._find(name)
            return found

    def _find(self, name: str) -> ModelPrice | None:
        exact = self._file.get(name)
        if exact is not None:
            return exact
        for pattern, price in self._file.items():
            if not _PATTERN.isdisjoint(pattern) and fnmatchcase(name, pattern):
                return price
        provider, _, model = name.partition("/")
        return find_listed(provider, model) if model else None

    def cost(self, name: str, usage: Usage | None, tier: str | None) -> Decimal | None:
        """US$ for a call of the model *name* that used *usage* at the service tier *tier*; None if unknown."""
        if usage is None:
            return None
        if usage.details is not None and usage.details.reported_cost is not None:
            return usage.details.reported_cost
        model = self.of(name)
        price = None if model is None else model.of(tier)
        return None if price is None else bill(price, usage)

    def __repr__(self) -> str:
        return f"<Prices of {len(self._found)} models, {len(self._file)} from a file>"
