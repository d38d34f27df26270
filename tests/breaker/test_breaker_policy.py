"""The breaker's options: what they refuse, and how long an open time is."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.breaker import BreakerPolicy, CircuitBreaker


def policy_of(options: dict[str, Any]) -> BreakerPolicy:
    """Of options that may have any name and value."""
    return BreakerPolicy(**options)


OPTIONS = set(BreakerPolicy.__annotations__)
MAY_BE_NONE = (
    "failure_rate",
    "failure_threshold",
    "first_recovery_timeout",
    "probe_lease",
    "rate_seconds",
    "slow_call_rate",
    "stall_timeout",
)
COUNTS = (
    "failure_threshold",
    "failed_probes",
    "minimum_calls",
    "neutral_probes",
    "probes",
    "rate_window",
    "stall_calls",
    "success_threshold",
)
DURATIONS = (
    "first_recovery_timeout",
    "longest_hint",
    "probe_lease",
    "rate_seconds",
    "recovery_timeout",
    "slow_call_duration",
    "stall_timeout",
)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -3, 2.0, "5", True, math.nan])
def test_a_count_is_a_whole_number_of_at_least_one(name: str, value: object) -> None:
    """What is none is refused, and the message shows the value and the range."""
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        policy_of({name: value})

    assert repr(value) in str(caught.value)
    assert "a whole number of at least 1" in str(caught.value)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [0, -0.5, math.nan, math.inf, "60", True])
def test_a_duration_is_a_finite_number_above_zero(name: str, value: object) -> None:
    """What is none is refused, and the message shows the value and the range."""
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        policy_of({name: value})

    assert repr(value) in str(caught.value)
    assert "a finite number of seconds above 0" in str(caught.value)


@pytest.mark.parametrize("name", MAY_BE_NONE)
def test_none_means_that_an_option_is_not_used(name: str) -> None:
    """The rules that are off, and the durations that follow from another."""
    assert getattr(policy_of({name: None}), name) is None


@pytest.mark.parametrize("name", sorted(OPTIONS - set(MAY_BE_NONE)))
def test_no_other_option_may_be_none(name: str) -> None:
    """It is refused by name."""
    with pytest.raises(ValueError, match=f"^{name} is None"):
        policy_of({name: None})


def test_a_probe_may_take_as_long_as_the_circuit_stays_open_unless_told() -> None:
    """The lease follows the recovery timeout."""
    assert BreakerPolicy(recovery_timeout=7.0).lease == 7.0
    assert BreakerPolicy(recovery_timeout=7.0, probe_lease=2.0).lease == 2.0


def test_the_first_open_time_is_at_most_the_longest() -> None:
    """A first open time above ``recovery_timeout`` is refused; both are named."""
    with pytest.raises(ValueError, match=r"first_recovery_timeout is 61.*at most recovery_timeout \(60.0\)"):
        BreakerPolicy(first_recovery_timeout=61)

    assert BreakerPolicy(first_recovery_timeout=60).first_recovery_timeout == 60


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "60", None])
def test_the_least_wait_that_opens_is_above_zero(value: object) -> None:
    """Or True for all, False for none; what is neither is refused, and the message shows it and the range."""
    with pytest.raises(
        ValueError, match=r"^open_on_retry_after is .*True, False or a number of seconds above"
    ) as caught:
        BreakerPolicy(open_on_retry_after=value)  # type: ignore[arg-type]

    assert repr(value) in str(caught.value)
    assert [BreakerPolicy(open_on_retry_after=either).open_on_retry_after for either in (True, False)] == [True, False]


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "0", None])
def test_the_stable_time_is_a_finite_number_of_at_least_zero(value: object) -> None:
    """What is none is refused, and the message shows the value and the range."""
    with pytest.raises(ValueError, match=r"^stable_time is .*at least 0") as caught:
        BreakerPolicy(stable_time=value)  # type: ignore[arg-type]

    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "0.1", None])
def test_jitter_runs_from_zero_to_one(value: object) -> None:
    """What is outside is refused, and the message shows the value and the range."""
    with pytest.raises(ValueError, match=r"^jitter is .*from 0 to 1") as caught:
        BreakerPolicy(jitter=value)  # type: ignore[arg-type]

    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", ["failure_rate", "slow_call_rate"])
@pytest.mark.parametrize("value", [0, -0.1, 1.01, math.nan, math.inf, "0.5", True])
def test_a_rate_is_above_zero_and_at_most_one(name: str, value: object) -> None:
    """What is outside is refused, and the message shows the value and the range."""
    with pytest.raises(ValueError, match=f"^{name} is .*must be above 0 and at most 1$") as caught:
        policy_of({name: value})

    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [0.99, 0, -2.0, 10.01, math.nan, math.inf, "2", True, None])
def test_the_growth_runs_from_one_to_ten(value: object) -> None:
    """What is outside is refused, and the message shows the value and the range."""
    with pytest.raises(ValueError, match=r"^growth is .*must be from 1 to 10$") as caught:
        BreakerPolicy(growth=value)  # type: ignore[arg-type]

    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [1, 19])
def test_a_rate_window_holds_at_least_the_minimum_of_calls(value: int) -> None:
    """A window that could never fill is refused, and the message shows the value, the bound and why."""
    with pytest.raises(
        ValueError, match=rf"^rate_window is {value}, must be at least minimum_calls \(20\), or no rate would ever"
    ):
        BreakerPolicy(rate_window=value)

    assert BreakerPolicy(rate_window=20).rate_window == 20
    assert BreakerPolicy(rate_window=value, minimum_calls=value).rate_window == value


def test_a_window_of_time_takes_the_place_of_one_of_calls() -> None:
    """Then its size means nothing, and may be below the minimum of calls; it is a count all the same."""
    assert BreakerPolicy(rate_seconds=60.0, rate_window=1).rate_seconds == 60.0

    with pytest.raises(ValueError, match=r"^rate_window is 0, must be a whole number"):
        BreakerPolicy(rate_seconds=60.0, rate_window=0)


def test_the_least_options_are_taken() -> None:
    """Every lower bound that is allowed is allowed."""
    least = {
        **dict.fromkeys(COUNTS, 1),
        **dict.fromkeys(DURATIONS, 5e-324),
        "failure_rate": 5e-324,
        "slow_call_rate": 5e-324,
        "growth": 1,
        "jitter": 0,
        "stable_time": 0,
        "open_on_retry_after": 5e-324,
    }
    assert set(least) == OPTIONS

    policy = BreakerPolicy(**least)  # type: ignore[arg-type]

    assert {name: getattr(policy, name) for name in OPTIONS} == least


def test_the_greatest_options_are_taken() -> None:
    """Every upper bound that is allowed is allowed; others have none."""
    greatest = {
        **dict.fromkeys(COUNTS, 10**9),
        **dict.fromkeys(DURATIONS, sys.float_info.max),
        "failure_rate": 1,
        "slow_call_rate": 1.0,
        "growth": 10,
        "jitter": 1,
        "stable_time": sys.float_info.max,
        "open_on_retry_after": sys.float_info.max,
    }
    assert set(greatest) == OPTIONS

    policy = BreakerPolicy(**greatest)  # type: ignore[arg-type]

    assert {name: getattr(policy, name) for name in OPTIONS} == greatest


@pytest.mark.parametrize("name", sorted(OPTIONS - set(COUNTS)))
def test_a_number_that_no_float_holds_is_refused_as_any_other(name: str) -> None:
    """By name, and with the range."""
    with pytest.raises(ValueError, match=f"^{name} is 1000"):
        BreakerPolicy(**{name: 10**400})


def test_the_defaults_are_those_of_the_readme() -> None:
    """Five failures in a row open it for exactly a minute; one good probe closes it. No other rule is in use."""
    policy = BreakerPolicy()

    assert {name: getattr(policy, name) for name in OPTIONS} == {
        "failure_threshold": 5,
        "failure_rate": None,
        "slow_call_rate": None,
        "slow_call_duration": 60.0,
        "rate_window": 100,
        "rate_seconds": None,
        "minimum_calls": 20,
        "stall_timeout": None,
        "stall_calls": 5,
        "open_on_retry_after": False,
        "recovery_timeout": 60.0,
        "first_recovery_timeout": None,
        "growth": 2.0,
        "jitter": 0.0,
        "stable_time": 60.0,
        "longest_hint": 86_400.0,
        "success_threshold": 1,
        "failed_probes": 1,
        "probes": 1,
        "probe_lease": None,
        "neutral_probes": 3,
    }


# What a policy is as a value.


def test_an_unknown_option_is_named() -> None:
    """The first of them, with those that there are."""
    with pytest.raises(TypeError, match=r"^unknown option 'failure_treshold'; known: ") as caught:
        BreakerPolicy(probes=1, failure_treshold=5, jiter=0.5)  # type: ignore[call-arg]

    assert {name for name in OPTIONS if name in str(caught.value)} == OPTIONS
    assert "failure_threshold, failure_rate, " in str(caught.value)


@pytest.mark.parametrize("name", ["has_window", "lease", "open_time", "_check"])
def test_what_is_no_option_cannot_be_given_as_one(name: str) -> None:
    """Though a policy has it."""
    with pytest.raises(TypeError, match=f"unknown option '{name}'"):
        policy_of({name: None})


def test_policies_of_equal_options_are_equal() -> None:
    """Whether an option was given or left as it is; equal ones have one hash."""
    plain, told = BreakerPolicy(), BreakerPolicy(jitter=0, failure_threshold=5)

    assert plain == told
    assert hash(plain) == hash(told)
    assert hash(plain) != hash(BreakerPolicy(jitter=0.1))
    assert len({plain, told, BreakerPolicy(jitter=0.1)}) == 2


OTHERS = {
    **dict.fromkeys(COUNTS, 7),
    **dict.fromkeys(DURATIONS, 7.0),
    **dict.fromkeys(("failure_rate", "slow_call_rate", "jitter"), 0.7),
    "rate_window": 70,
    "growth": 7.0,
    "open_on_retry_after": 7.0,
    "stable_time": 7.0,
}
"""A value of each option that is not the default."""


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_policies_that_differ_in_one_option_are_not_equal(name: str) -> None:
    """Whichever it is."""
    other = BreakerPolicy(**{name: OTHERS[name]})  # type: ignore[arg-type]

    assert other != BreakerPolicy()
    assert other == BreakerPolicy().replace(**{name: OTHERS[name]})  # type: ignore[arg-type]


def test_a_policy_equals_nothing_else() -> None:
    """Nor does asking raise."""
    assert BreakerPolicy() != {}
    assert BreakerPolicy() != BreakerPolicy()._values()


def test_replacing_options_makes_another_policy() -> None:
    """With all the other options as they were; the first one stays."""
    policy = BreakerPolicy(failure_threshold=3, jitter=0.5)

    other = policy.replace(failure_threshold=None, probes=2)

    assert other == BreakerPolicy(failure_threshold=None, jitter=0.5, probes=2)
    assert policy == BreakerPolicy(failure_threshold=3, jitter=0.5)


def test_what_replaces_an_option_is_checked() -> None:
    """As at birth, together with the others."""
    with pytest.raises(ValueError, match=r"first_recovery_timeout is 20, must be at most recovery_timeout \(10\)"):
        BreakerPolicy(first_recovery_timeout=20).replace(recovery_timeout=10)
    with pytest.raises(TypeError, match="unknown option 'probe'"):
        BreakerPolicy().replace(probe=2)  # type: ignore[call-arg]


def test_a_repr_shows_what_was_given() -> None:
    """In the order in which it was given."""
    assert repr(BreakerPolicy()) == "BreakerPolicy()"
    assert repr(BreakerPolicy(probes=2, jitter=0.5)) == "BreakerPolicy(probes=2, jitter=0.5)"


policies = st.builds(
    BreakerPolicy,
    failure_threshold=st.none() | st.integers(1, 100),
    failure_rate=st.none() | st.floats(0, 1, exclude_min=True),
    rate_seconds=st.none() | st.floats(0.1, 1e6),
    recovery_timeout=st.floats(10, 1e6) | st.integers(10, 1000),
    first_recovery_timeout=st.none() | st.floats(0.1, 10),
    growth=st.floats(1, 10),
)


@given(policies)
def test_a_policy_may_be_written_down_and_read_again(policy: BreakerPolicy) -> None:
    """As its repr, as a pickle, as a copy."""
    written = eval(repr(policy), {"BreakerPolicy": BreakerPolicy})
    pickled = pickle.loads(pickle.dumps(policy))
    copied = copy.deepcopy(policy)

    assert policy == written == pickled == copied
    assert repr(policy) == repr(written) == repr(pickled) == repr(copied)
    assert hash(policy) == hash(written)


def typed_dicts() -> dict[str, dict[str, str]]:
    """The options that type checkers know, as policy.py has them for nobody else, with their types."""
    return {
        node.name: {
            line.target.id: ast.unparse(line.annotation)
            for line in node.body
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        }
        for node in typed_dict_classes()
    }


def typed_dict_classes() -> list[ast.ClassDef]:
    tree = ast.parse(Path(inspect.getfile(BreakerPolicy)).read_text(encoding="utf-8"))
    named = ("PolicyOptions", "AllOptions")
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name in named]


def test_type_checkers_know_every_option_and_no_other() -> None:
    """All of them for a policy, with the types that they have there."""
    known = typed_dicts()

    assert known["PolicyOptions"] | known["AllOptions"] == BreakerPolicy.__annotations__
    assert not known["PolicyOptions"].keys() & known["AllOptions"].keys()


def test_type_checkers_ask_for_no_option() -> None:
    """Every one may be left out."""
    asked = [[(word.arg, ast.unparse(word.value)) for word in node.keywords] for node in typed_dict_classes()]

    assert asked == [[("total", "False")]] * 2


def test_type_checkers_know_which_options_a_breaker_takes_by_keyword_only() -> None:
    """All but those that it takes by place too."""
    by_place = [
        name
        for name, parameter in inspect.signature(CircuitBreaker).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]

    assert set(typed_dicts()["AllOptions"]) == set(by_place)
    assert set(typed_dicts()["PolicyOptions"]) == OPTIONS - set(by_place)


def test_a_policy_does_not_change() -> None:
    """It is frozen and takes keywords only."""
    policy = BreakerPolicy()

    with pytest.raises(AttributeError, match=r"^a policy is immutable: use replace\(jitter=…\)$"):
        policy.jitter = 0.5
    with pytest.raises(TypeError):
        BreakerPolicy(5)  # type: ignore[call-arg]

    assert policy.jitter == 0.0


def test_a_policy_loses_no_option() -> None:
    """Taking one back is a change."""
    policy = BreakerPolicy(jitter=0.5)

    with pytest.raises(AttributeError, match=r"^a policy is immutable: jitter cannot be deleted$"):
        del policy.jitter

    assert policy.jitter == 0.5


@pytest.mark.parametrize("name", ["failure_rate", "slow_call_rate"])
def test_a_rate_needs_a_window(name: str) -> None:
    """Without one no call must be noted."""
    assert not BreakerPolicy().has_window
    assert policy_of({name: 0.5}).has_window


@pytest.mark.parametrize(("name", "value"), [("slow_call_rate", 0.5), ("stall_timeout", 30.0)])
def test_slow_and_hanging_calls_must_be_timed(name: str, value: float) -> None:
    """For no other rule it matters when a call began."""
    assert not BreakerPolicy(failure_rate=0.5).times_calls
    assert policy_of({name: value}).times_calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"failure_threshold": 0}, "failure_threshold is 0"),
        ({"recovery_timeout": 0}, "recovery_timeout is 0"),
        ({"recovery_timeout": math.inf}, "recovery_timeout is inf"),
        ({"success_threshold": -1}, "success_threshold is -1"),
    ],
)
def test_the_breaker_checks_what_it_is_given(arguments: dict[str, float], message: str) -> None:
    """A wrong argument is told under the name that the caller wrote."""
    with pytest.raises(ValueError, match=message):
        CircuitBreaker(**arguments)  # type: ignore[arg-type]


@given(level=st.integers(0, 10_000), chance=st.floats(0, 1), timeout=st.floats(0.001, 1e6))
def test_without_a_first_open_time_it_is_constant(level: int, chance: float, timeout: float) -> None:
    """Neither failed probes nor chance change it: "first open time: exactly 60 s"."""
    policy = BreakerPolicy(recovery_timeout=timeout, growth=10.0)

    assert policy.open_time(level, chance) == timeout


@given(level=st.integers(0, 10_000), chance=st.floats(0, 1), jitter=st.floats(0, 1), timeout=st.floats(0.001, 1e6))
def test_jitter_lengthens_a_constant_open_time(level: int, chance: float, jitter: float, timeout: float) -> None:
    """By at most its share, and never below it; failed probes change nothing."""
    policy = BreakerPolicy(recovery_timeout=timeout, jitter=jitter)

    assert timeout <= policy.open_time(level, chance) <= timeout * (1 + jitter)
    assert policy.open_time(level, 0.0) == timeout
    assert policy.open_time(level, 1.0) == timeout * (1 + jitter)
    assert policy.open_time(level, chance) == policy.open_time(0, chance)


def test_the_open_time_doubles_up_to_the_cap() -> None:
    """2, 4, 8 … and then ``recovery_timeout``."""
    policy = BreakerPolicy(recovery_timeout=60, first_recovery_timeout=2)

    assert [policy.open_time(level, 0.7) for level in range(7)] == [2, 4, 8, 16, 32, 60, 60]


@given(
    level=st.integers(0, 10_000),
    chance=st.floats(0, 1),
    jitter=st.floats(0, 1),
    timeout=st.floats(0.01, 1e6),
    share=st.floats(0.01, 1),
)
def test_jitter_goes_upward_and_stays_below_the_cap(
    level: int, chance: float, jitter: float, timeout: float, share: float
) -> None:
    """Chance adds at most its share, and never passes ``recovery_timeout``; more failed probes never wait shorter."""
    policy = BreakerPolicy(recovery_timeout=timeout, first_recovery_timeout=timeout * share, jitter=jitter)

    least, drawn, most = (policy.open_time(level, draw) for draw in (0.0, chance, 1.0))

    assert 0 < least <= drawn <= most <= timeout * (1 + 1e-12)
    assert most <= least * (1 + jitter) * (1 + 1e-12)
    assert policy.open_time(level + 1, chance) >= drawn


@pytest.mark.parametrize(
    ("growth", "waits"), [(1.0, [2, 2, 2, 2]), (1.5, [2, 3, 4.5, 6.75]), (3, [2, 6, 18, 54]), (10, [2, 20, 60, 60])]
)
def test_the_open_time_grows_as_told(growth: float, waits: list[float]) -> None:
    """So many times as long after each failed probe."""
    policy = BreakerPolicy(recovery_timeout=60, first_recovery_timeout=2, growth=growth)

    assert [policy.open_time(level, 0.7) for level in range(4)] == waits


def test_a_slow_growth_gets_to_its_bound_in_the_end() -> None:
    """However small the first open time is."""
    policy = BreakerPolicy(recovery_timeout=60, first_recovery_timeout=1e-9, growth=1.2)

    assert policy.open_time(136, 0.0) < 60
    assert policy.open_time(137, 0.0) == 60


def test_the_slowest_growth_gets_to_its_bound_too() -> None:
    """By a hundredth each time: after 412 failed probes."""
    policy = BreakerPolicy(recovery_timeout=60, first_recovery_timeout=1, growth=1.01)

    assert policy.open_time(411, 0.0) < 60
    assert policy.open_time(412, 0.0) == 60


@pytest.mark.parametrize("growth", [1, 1.0001, 10, 10.0])
@pytest.mark.parametrize("first", [5e-324, 1, sys.float_info.max])
@pytest.mark.parametrize("level", [0, 1, 308, 309, 10**9])
def test_the_open_time_is_finite_after_any_number_of_failed_probes(growth: float, first: float, level: int) -> None:
    """At the bounds of what the options may be."""
    policy = BreakerPolicy(recovery_timeout=sys.float_info.max, first_recovery_timeout=first, growth=growth, jitter=1)

    assert 0 < policy.open_time(level, 1.0) <= sys.float_info.max


def test_jitter_leaves_room_below_the_bound() -> None:
    """A growing open time that is stretched by a half ends at two thirds, and so below the bound in the worst case."""
    policy = BreakerPolicy(recovery_timeout=60, first_recovery_timeout=2, jitter=0.5)

    assert [policy.open_time(level, 1.0) for level in (0, 4, 5, 6)] == [3, 48, 60, 60]
    assert [policy.open_time(level, 0.0) for level in (0, 4, 5, 6)] == [2, 32, 40, 40]
