"""How long a row waits before it goes again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmbatch.pace.backoff import retry_delay


def test_the_wait_doubles_from_the_first_to_the_longest() -> None:
    """1, 2, 4 … 30 s in the middle of the spread."""
    waits = [retry_delay(failures, 0.5) for failures in range(1, 8)]

    assert waits == [1, 2, 4, 8, 16, 30, 30]


@given(failures=st.integers(-5, 10**9), chance=st.floats(0, 1), first=st.floats(0.01, 100), more=st.floats(1, 1000))
def test_the_wait_keeps_within_its_spread(failures: int, chance: float, first: float, more: float) -> None:
    """From three quarters of ``first`` to five quarters of ``longest``, whatever the count; chance spreads evenly."""
    longest = first * more

    least, drawn, most = (retry_delay(failures, draw, first=first, longest=longest) for draw in (0.0, chance, 1.0))

    assert 0.75 * first * (1 - 1e-12) <= least <= drawn <= most <= 1.25 * longest * (1 + 1e-12)
    assert abs(most / least - 5 / 3) < 1e-9


@given(failures=st.integers(1, 10**6), chance=st.floats(0, 1))
def test_another_failure_never_shortens_the_wait(failures: int, chance: float) -> None:
    """With the same draw."""
    assert retry_delay(failures + 1, chance) >= retry_delay(failures, chance)


def test_before_any_failure_it_is_the_first_wait() -> None:
    """Zero failures are read as one."""
    assert retry_delay(0, 0.5) == retry_delay(1, 0.5) == 1.0
