"""Count how often each row was paid for, live and in batches, so that a test can say that none was paid twice."""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["Ledger"]


class Ledger:
    """A row is known by the text of its request: everything before the first turn of the assistant.

    Counts complete good answers. Takes some 100 bytes a row.
    """

    __slots__ = ("_batch", "_live")

    def __init__(self) -> None:
        self._live: dict[int, int] = {}
        self._batch: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Ledger {self.rows} rows, {self.payments} payments>"

    def pay_live(self, text: str) -> None:
        """Count a good answer to a live call."""
        key = _key(text)
        self._live[key] = self._live.get(key, 0) + 1

    def pay_batch(self, text: str) -> None:
        """Count a good answer in a batch."""
        key = _key(text)
        self._batch[key] = self._batch.get(key, 0) + 1

    def paid(self, text: str) -> int:
        """How often the row with this *text* was paid for."""
        return self.paid_live(text) + self.paid_batch(text)

    def paid_live(self, text: str) -> int:
        """How often the row with this *text* was paid for at live calls."""
        return self._live.get(_key(text), 0)

    def paid_batch(self, text: str) -> int:
        """How often the row with this *text* was paid for in batches."""
        return self._batch.get(_key(text), 0)

    @property
    def rows(self) -> int:
        """Rows that were paid for."""
        return len(self._live.keys() | self._batch.keys())

    @property
    def payments(self) -> int:
        """Good answers in all: as many as :attr:`rows` if no row was paid twice."""
        return sum(self._live.values()) + sum(self._batch.values())

    @property
    def twice(self) -> int:
        """Rows that were paid for more than once."""
        rows = self._live.keys() | self._batch.keys()
        return sum(self._live.get(key, 0) + self._batch.get(key, 0) > 1 for key in rows)

    @property
    def both(self) -> int:
        """Rows that were paid for live and in a batch."""
        return len(self._live.keys() & self._batch.keys())


def _key(text: str) -> int:
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
