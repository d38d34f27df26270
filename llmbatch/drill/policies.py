"""Parse policies (``failure-threshold=3,recovery-timeout=20``), sweep them over ranges, and recommend one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from llmbatch.core.errors import UsageError
from llmbatch.drill.score import Score
from llmbatch.runner.concurrency import Auto
from llmbatch.runner.option import Option
from llmbatch.runner.options import RUN_OPTIONS, RunOptions
from llmbatch.runner.quantities import Whole

__all__ = ["SWEPT", "Policy", "Recommendation", "read_policy", "read_range", "recommend", "sweep"]

SWEPT = {key: option for option in RUN_OPTIONS.values() if option.drill == "policy" for key in option.keys}
"""The options that a policy may set, by name and by alias; their values are numbers."""

POINTS = 5
"""Values that a range ``a..b`` stands for at most: both ends, and steps of one factor between."""

MAX_TRIALS = 200

TOLERANCE = 1.02
"""Relative difference up to which two times count as equal."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A set of options and its name."""

    name: str
    options: RunOptions


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The recommended policy, and why."""

    policy: str
    reason: str


def read_policy(text: str, base: RunOptions) -> Policy:
    """*base* with the options in *text*: ``name=value``, separated by commas or spaces.

    Raises:
        UsageError: a name is unknown or a value out of range.
    """
    changes: dict[str, object] = {}
    for part in text.replace(",", " ").split():
        option, value = _split(part)
        changes[option.name] = _number(option, value)
    if not changes:
        raise UsageError(f"policy is {text!r}, which sets nothing", hint="for example failure-threshold=3")
    return Policy(_named(changes), replace(base, **changes))  # type: ignore[arg-type]


def read_range(text: str) -> tuple[str, list[float]]:
    """``failure-threshold=3..20`` or ``failure-threshold=3,5,8``: the option and its values.

    Raises:
        UsageError: the name is unknown, or the values are none.
    """
    option, values = _split(text)
    name = option.name
    low, dots, high = values.partition("..")
    if not dots:
        return name, [_number(option, value) for value in values.split(",")]
    first, last = _number(option, low), _number(option, high)
    if isinstance(first, Auto) or isinstance(last, Auto):
        raise UsageError(f"{_dashed(name)} goes from {low} to {high}, must go from a number to a larger one")
    if first >= last:
        raise UsageError(f"{_dashed(name)} goes from {low} to {high}, must go from a number to a larger one")
    steps = [first * (last / first) ** (step / (POINTS - 1)) for step in range(POINTS)]
    if isinstance(option.value, Whole):
        return name, sorted({round(value) for value in steps})
    return name, [float(f"{value:.2g}") if first < value < last else value for value in steps]


def sweep(ranges: Mapping[str, Sequence[float]], base: RunOptions) -> list[Policy]:
    """Build every combination of the values.

    Raises:
        UsageError: there are too many, or one of them is out of range.
    """
    combinations = list(product(*ranges.values()))
    if len(combinations) > MAX_TRIALS:
        raise UsageError(
            f"the sweep has {len(combinations)} policies, may have {MAX_TRIALS} at most", hint="name fewer values"
        )
    found = []
    for values in combinations:
        changes = dict(zip(ranges, values, strict=True))
        found.append(Policy(_named(changes), replace(base, **changes)))  # type: ignore[arg-type]
    return found


def recommend(scores: Mapping[str, Sequence[Score]], base: str | None = None) -> Recommendation:
    """Choose the recommended policy by its scores in every scenario.

    First comes what loses no row and needs no second run. Of those, the ones within 2 % of the quickest; of those, the
    one with the fewest calls to a provider that was down, then with the fewest openings. *base* wins a tie.
    """

    def lost(name: str) -> int:
        return sum(score.failed + score.waiting for score in scores[name])

    def slowdown(name: str) -> float:
        return max(score.slowdown for score in scores[name])

    def down(name: str) -> int:
        return sum(score.calls_down for score in scores[name])

    def openings(name: str) -> int:
        return sum(score.openings for score in scores[name])

    least = min(map(lost, scores))
    safe = [name for name in scores if lost(name) == least]
    quickest = min(map(slowdown, safe))
    quick = [name for name in safe if slowdown(name) <= TOLERANCE * quickest]
    best = min(quick, key=lambda name: (down(name), openings(name), name != base, slowdown(name)))
    why = ["no row fails or waits" if least == 0 else f"no policy leaves fewer rows failed or waiting than {least}"]
    if len(safe) < len(scores):
        why[0] += f", as with {len(safe)} of {len(scores)} policies"
    why.append(f"{slowdown(best):.3f} times the oracle's time, the quickest takes {quickest:.3f}")
    why.append(f"{_plural(down(best), 'call')} to a provider that was down (up to {max(map(down, quick))} elsewhere)")
    why.append(f"{_plural(openings(best), 'opening')}")
    return Recommendation(best, "; ".join(why))


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _split(text: str) -> tuple[Option, str]:
    name, equals, value = text.partition("=")
    option = SWEPT.get(name.strip().replace("-", "_"))
    if not equals or option is None:
        names = dict.fromkeys(option.name for option in SWEPT.values())
        raise UsageError(f"policy says {text!r}, must be name=value", hint=f"names: {', '.join(map(_dashed, names))}")
    return option, value.strip()


def _number(option: Option, text: str) -> float:
    value = option.parse(text, _dashed(option.name))
    assert isinstance(value, (int, float))  # noqa: S101 - the options of SWEPT are numbers
    return value


def _named(changes: Mapping[str, object]) -> str:
    return " ".join(
        f"{_dashed(name)}={repr(value) if isinstance(value, Auto) else f'{value:g}'}" for name, value in changes.items()
    )


def _dashed(name: str) -> str:
    return name.replace("_", "-")
