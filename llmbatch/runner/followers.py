"""Rows whose request is equal to that of another row, the leader, which is sent: they wait for its answer.

A follower occupies no slot and counts for no route. If the leader fails for good, the next follower takes its place,
with attempts of its own; if that one fails too, no row of this request waits for another any more, as one after another
they would take hours. Memory: at most a bounded number of followers; further ones are skipped and read again later.
"""

from __future__ import annotations

from collections import deque

from llmbatch.runner.pending import PendingRow

__all__ = ["Followers"]

_MOST_FAILED = 10_000
"""Requests that are remembered as failing; beyond them all are forgotten."""


class Followers:
    """Leaders by the key of their request, and the rows that follow each."""

    __slots__ = ("_failed", "_keys", "_overflowed", "count", "leaders")

    def __init__(self) -> None:
        self.leaders: dict[bytes, tuple[PendingRow, deque[PendingRow]]] = {}
        """Leaders, each with its followers, by the key of their request; read only."""
        self._keys: dict[PendingRow, bytes] = {}
        self._overflowed: set[bytes] = set()
        """Keys of which rows were skipped."""
        self._failed: dict[bytes, int] = {}
        """By key, how many leaders that had followers have failed."""
        self.count = 0
        """Rows that follow."""

    def __repr__(self) -> str:
        return f"<Followers {self.count} of {len(self.leaders)} leaders>"

    def join(self, key: bytes, pending: PendingRow, most: int | None) -> bool | None:
        """Let *pending* follow the leader of *key*, or become it: True if it follows, False if it leads.

        None: there are *most* followers already, and it should be skipped.
        """
        found = self.leaders.get(key)
        if found is None:
            if self._failed.get(key, 0) > 1:
                return False
            self.leaders[key] = (pending, deque())
            self._keys[pending] = key
            return False
        if most is not None and self.count >= most:
            self._overflowed.add(key)
            return None
        found[1].append(pending)
        self.count += 1
        return True

    def release(self, leader: PendingRow) -> tuple[list[PendingRow], bool]:
        """The followers of *leader*, which is no leader any more, and whether rows like it were skipped."""
        key = self._keys.pop(leader, None)
        if key is None:
            return [], False
        _, rows = self.leaders.pop(key)
        self.count -= len(rows)
        was_overflowed = key in self._overflowed
        self._overflowed.discard(key)
        return list(rows), was_overflowed

    def promote(self, leader: PendingRow) -> tuple[list[PendingRow], bool]:
        """The followers of *leader*, which failed, that are sent now: the next, which leads the others, or all.

        Also whether rows like it were skipped.
        """
        key = self._keys.get(leader)
        if key is None or not self.leaders[key][1]:
            return [], self.release(leader)[1]
        if key not in self._failed and len(self._failed) >= _MOST_FAILED:
            self._failed.clear()
        self._failed[key] = self._failed.get(key, 0) + 1
        if self._failed[key] > 1:
            return self.release(leader)
        del self._keys[leader]
        rows = self.leaders[key][1]
        first = rows.popleft()
        self.leaders[key] = (first, rows)
        self._keys[first] = key
        self.count -= 1
        was_overflowed = key in self._overflowed
        self._overflowed.discard(key)
        return [first], was_overflowed

    def waiting(self) -> list[tuple[PendingRow, PendingRow]]:
        """All followers, each with its leader."""
        return [(row, leader) for leader, rows in self.leaders.values() for row in rows]
