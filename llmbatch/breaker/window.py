"""Count failed and slow calls in a sliding window: the last N calls, or the last N seconds.

Failures of a caller with a key count once per window, however often it tries. Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

__all__ = ["CountWindow", "TimeWindow"]

BUCKETS = 10
"""Buckets of a time window. Whole buckets are dropped, so that memory does not depend on the traffic."""

MIN_BUCKET_SECONDS = 1e-9
"""Shortest bucket in seconds, so that bucket numbers stay finite."""


class CountWindow:
    """Window of the last *size* calls. Memory: one entry per call."""

    __slots__ = ("_entries", "_failed_keys", "_size", "failed", "slow")

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: deque[tuple[Hashable, bool, bool]] = deque()
        self._failed_keys: set[Hashable] = set()
        self.failed = 0
        self.slow = 0

    @property
    def calls(self) -> int:
        """Calls in the window."""
        return len(self._entries)

    def add(self, now: float, key: Hashable, *, failed: bool, slow: bool) -> None:
        """Count a call that ended, unless its caller has failed already. *key* None: no caller."""
        if failed and key is not None:
            if key in self._failed_keys:
                return
            self._failed_keys.add(key)
        self._entries.append((key, failed, slow))
        self.failed += failed
        self.slow += slow
        if len(self._entries) > self._size:
            old_key, had_failed, was_slow = self._entries.popleft()
            self.failed -= had_failed
            self.slow -= was_slow
            if had_failed:
                self._failed_keys.discard(old_key)

    def forget(self, now: float) -> None:
        """Do nothing: calls leave this window only for newer ones."""

    def add_successes(self, count: int) -> None:
        """Count *count* successes. O(*size*) at most."""
        for _ in range(min(count, self._size)):
            self.add(0.0, None, failed=False, slow=False)

    def clear(self) -> None:
        """Drop all calls."""
        self._entries.clear()
        self._failed_keys.clear()
        self.failed = self.slow = 0


class _Bucket:
    __slots__ = ("calls", "failed", "keys", "number", "slow")

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0
        self.failed = 0
        self.slow = 0
        self.keys: list[Hashable] = []


class TimeWindow:
    """Window of the last *seconds*, and up to a tenth more. Memory: eleven buckets and the keys that failed."""

    __slots__ = ("_buckets", "_failed_keys", "_width", "calls", "failed", "slow")

    def __init__(self, seconds: float) -> None:
        self._width = max(seconds / BUCKETS, MIN_BUCKET_SECONDS)
        self._buckets: deque[_Bucket] = deque()
        self._failed_keys: set[Hashable] = set()
        self.calls = 0
        self.failed = 0
        self.slow = 0

    def add(self, now: float, key: Hashable, *, failed: bool, slow: bool) -> None:
        """Count a call that ended at *now*, unless its caller has failed already. *key* None: no caller."""
        number = self.forget(now)
        if failed and key is not None and key in self._failed_keys:
            return
        if not self._buckets or self._buckets[-1].number < number:
            self._buckets.append(_Bucket(number))
        bucket = self._buckets[-1]
        if failed and key is not None:
            self._failed_keys.add(key)
            bucket.keys.append(key)
        bucket.calls += 1
        bucket.failed += failed
        bucket.slow += slow
        self.calls += 1
        self.failed += failed
        self.slow += slow

    def clear(self) -> None:
        """Drop all calls."""
        self._buckets.clear()
        self._failed_keys.clear()
        self.calls = self.failed = self.slow = 0

    def forget(self, now: float) -> int:
        """Drop the calls that are too old at *now*; return the number of the bucket of *now*."""
        number = int(now // self._width)
        while self._buckets and self._buckets[0].number < number - BUCKETS:
            old = self._buckets.popleft()
            self.calls -= old.calls
            self.failed -= old.failed
            self.slow -= old.slow
            self._failed_keys.difference_update(old.keys)
        return number
