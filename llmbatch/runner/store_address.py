"""The value type of ``--shared``: the address of a store, which may hold a password and is never shown with it."""

from __future__ import annotations

from dataclasses import dataclass

from llmbatch.peers.address import is_address, shown_address
from llmbatch.runner.value_types import Value, ValueType

__all__ = ["StoreAddress"]


@dataclass(frozen=True, slots=True)
class StoreAddress(ValueType):
    """The address of what processes share. It may hold a password, and is never shown with it."""

    metavar: str = "URL"

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return "redis://HOST:PORT/0, rediss://… for TLS, or env:NAME for the variable that holds it"

    def parse(self, text: str) -> str:
        """Check the text; variables in it are looked up when a run begins."""
        return self.check(text.strip())

    def check(self, value: object) -> str:
        """Check that it may be an address."""
        if not isinstance(value, str):
            raise TypeError
        if not is_address(value):
            raise ValueError
        return value

    def show(self, value: Value) -> str:
        """The address without a password."""
        return shown_address(str(value))

    def refused(self, value: object) -> str:
        """*value* in an error message, without a password."""
        return repr(shown_address(str(value)))
