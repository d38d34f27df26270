"""Splits the limits of a run among its processes, so that all of them together keep to the whole. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_DOWN, Decimal
from typing import Final

from llmbatch.core.errors import UsageError

__all__ = ["CostBudget", "Restarts", "split_cost", "split_number", "split_rate", "split_sent"]

_CENT_OF_A_CENT: Final = Decimal("0.000001")


def split_number(whole: int, count: int, *, flag: str) -> list[int]:
    """*whole* in *count* whole numbers above 0 that add up to it; the first get what is left over.

    Raises:
        UsageError: it is less than *count*; *flag* names the option.
    """
    if whole < count:
        raise UsageError(
            f"{flag} {whole} is less than --workers {count}, and each process needs one",
            hint=f"start fewer processes (--workers {whole}), or raise {flag}",
        )
    each, more = divmod(whole, count)
    return [each + (at < more) for at in range(count)]


def split_sent(sent: tuple[int, float], count: int) -> list[tuple[int, float]]:
    """Requests that were *sent* today in *count* parts, the first of which get what is left over.

    So do those of a daily limit by :func:`split_number`: what all parts have left is what the whole has.
    """
    each, more = divmod(sent[0], count)
    return [(each + (at < more), sent[1]) for at in range(count)]


def split_rate(whole: float, count: int) -> list[float]:
    """A rate in *count* rates that add up to it: whole numbers as far as each gets one."""
    if whole.is_integer() and whole >= count:
        each, more = divmod(int(whole), count)
        return [float(each + (at < more)) for at in range(count)]
    return [whole / count] * count


def split_cost(left: Decimal, count: int) -> list[Decimal]:
    """US$ *left* in *count* equal amounts of whole millionths; together they are never more than *left*."""
    each = (left / count).quantize(_CENT_OF_A_CENT, rounding=ROUND_DOWN)
    return [max(Decimal(0), each)] * count


class CostBudget:
    """US$ *left* that are dealt out to runs of shards, by their numbers: all together never spend more than that."""

    def __init__(self, left: Decimal) -> None:
        self._left = left
        self._held: dict[int, Decimal] = {}
        """What each running shard may spend in all, and what each other has spent."""

    def __repr__(self) -> str:
        return f"<CostBudget with US$ {self.free:f} of {self._left:f}>"

    @property
    def free(self) -> Decimal:
        """What was not dealt out, or came back."""
        return max(Decimal(0), self._left - sum(self._held.values(), Decimal(0)))

    def grant(self, number: int, spent: Decimal, count: int) -> Decimal:
        """What shard *number*, which has *spent* so much, may spend in all: an equal part of *count* on top."""
        self._held.pop(number, None)
        self._held[number] = spent
        self._held[number] += split_cost(self.free, count)[0]
        return self._held[number]

    def settle(self, number: int, spent: Decimal) -> None:
        """Shard *number* has ended, and has *spent* so much in all."""
        self._held[number] = spent


class Restarts:
    """Whether a process that was killed is started again: at most *most* times in *seconds*."""

    def __init__(self, most: int = 3, seconds: float = 60.0) -> None:
        self._most = most
        self._seconds = seconds
        self._times: list[float] = []

    def allow(self, now: float) -> bool:
        """Whether one more start is allowed at *now*; if so it counts."""
        self._times = [at for at in self._times if at > now - self._seconds]
        if len(self._times) >= self._most:
            return False
        self._times.append(now)
        return True

    @property
    def times(self) -> Sequence[float]:
        """When processes were started again, as far as that counts."""
        return self._times
