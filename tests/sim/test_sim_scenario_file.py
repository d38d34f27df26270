"""Scenario files: what they may say, and how they are refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from llmbatch.core.errors import UsageError
from llmbatch.sim.rate_limits import RateLimits
from llmbatch.sim.scenario import Phase
from llmbatch.sim.scenario_file import built_in_scenarios, find_scenario, read_scenario

EVERYTHING = """
description = "all there is"
source = "nowhere"
models = ["a*", "b"]
latency = 0.5
spent_keys = ["key-b"]

[limits]
style = "groq"
rpm = 30
rpd = 14_400
headers = false

[[phase]]
minutes = 2

[[phase]]
hours = 1
behavior = "errors"
share = [0.5, 0.0]
statuses = [500, 503]
retry_after = 3

[[phase]]
times = 2
phases = [{seconds = 5, mix = {hang = 0.2, cut = 0.1}}, {seconds = 5, capacity = [0, 1], collapses = true}]

[[phase]]
seconds = inf
behavior = "slow"
stall = 4
knee = 64
limits = 0.5
flex = false
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_says_what_a_scenario_can_be(tmp_path: Path) -> None:
    """Units, ramps, mixes, repeated phases; the file's name is the scenario's."""
    path = written(tmp_path, "\ufeff" + EVERYTHING)  # an editor on Windows may put the mark there

    scenario = find_scenario(str(path))

    turn = (
        Phase(5, mix={"hang": 0.2, "cut": 0.1}),
        Phase(5, capacity=0.0, capacity_to=1.0, collapses=True),
    )
    assert scenario.name == "mine"
    assert scenario.models == ("a*", "b")
    assert scenario.latency == 0.5
    assert scenario.spent_keys == ("key-b",)
    assert scenario.limits == RateLimits("groq", rpm=30, rpd=14_400, headers=False)
    assert scenario.phases == (
        Phase(120),
        Phase(3600, "errors", share=0.5, share_to=0.0, statuses=(500, 503), retry_after=3.0),
        *turn,
        *turn,
        Phase(math.inf, "slow", stall=4.0, knee=64, limits=0.5, flex=False),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[phase]", "is not TOML"),
        ("speed = 2", "'speed' is unknown"),
        ('models = "a"', "models is 'a', must be a list"),
        ('repeat = "yes"', "repeat is 'yes', must be true or false"),
        ("latency = -1", "latency is -1, must be 0 or more seconds"),
        ("description = 3", "description is 3, must be text"),
        ("phase = 3", "phase is 3, must be a list of tables"),
        ("[[phase]]", "phase 1: says 0 lengths"),
        ("[[phase]]\nseconds = 1\nminutes = 1", "phase 1: says 2 lengths"),
        ("[[phase]]\nseconds = 1\n[[phase]]\nseconds = -1", "phase 2: seconds is -1.0, must be above 0"),
        ("[[phase]]\nhours = true", "phase 1: hours is True, must be a number"),
        ("[[phase]]\nseconds = 1\nbehavior = 'sulk'", "phase 1: behavior is 'sulk', which is unknown"),
        ("[[phase]]\nseconds = 1\nshare = 1.5", "phase 1: share is 1.5, must be 0 to 1"),
        ("[[phase]]\nseconds = 1\nshare = [0, 1, 0]", "phase 1: share is [0, 1, 0], must be a number, or two"),
        ("[[phase]]\nseconds = 1\nshare = ['a', 'b']", "phase 1: share is 'a', must be a number"),
        ("[[phase]]\nseconds = 1\nstatuses = [200]", "phase 1: statuses is (200,), must be 400 to 599"),
        ("[[phase]]\nseconds = 1\nstatuses = 500", "phase 1: statuses is 500, must be a list"),
        ("[[phase]]\nseconds = 1\nmix = 1", "phase 1: mix is 1, must be a table"),
        ("[[phase]]\nseconds = 1\nmix = {hang = 2}", "phase 1: mix.hang is 2.0, must be 0 to 1"),
        ("[[phase]]\nseconds = 1\ncollapses = 1", "phase 1: collapses is 1, must be true or false"),
        ("[[phase]]\nseconds = 1\nwhim = 1", "phase 1: 'whim' is unknown"),
        ("[[phase]]\ntimes = 0\nphases = []", "phase 1: times is 0, must be a whole number from 1"),
        ("[[phase]]\ntimes = 2\nphases = [{seconds = 0}]", "phase 1: phase 1: seconds is 0.0"),
        ("[[phase]]\nseconds = inf\ncapacity = [0, 1]", "phase 1: seconds is inf, must be finite"),
        ("[[phase]]\ntimes = 10000\nphases = [{times = 2, phases = [{seconds = 1}]}]", "has 20000 phases"),
        ("[[phase]]\nseconds = 1\nknee = 0", "phase 1: knee is 0, must be above 0"),
        ("[[phase]]\nseconds = 1\nflex = 0", "phase 1: flex is 0, must be true or false"),
        ("[[phase]]\nseconds = 1\nlimits = -1", "phase 1: limits is -1, must be above 0"),
        ("limits = 3", "limits is 3, must be a table"),
        ("[limits]\nrpm = '60'", "limits.rpm is '60', must be a number"),
        ("[limits]\nstyle = 'mistral'", "limits.style is 'mistral', which is unknown"),
        ("[limits]\nheaders = 0", "limits.headers is 0, must be true or false"),
        ("[limits]\nrph = 1", "limits: 'rph' is unknown"),
        ("spent_keys = 'key-b'", "spent_keys is 'key-b', must be a list of patterns"),
        ("repeat = true", "repeats, but lasts 0 s"),
    ],
)
def test_an_impossible_file_names_file_key_and_range(tmp_path: Path, text: str, told: str) -> None:
    """One line says where it is wrong and what would be right."""
    path = written(tmp_path, text)

    with pytest.raises(UsageError) as caught:
        read_scenario(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path: Path) -> None:
    """The path is in the message."""
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe")

    with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file"):
        find_scenario(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match=r"b\.toml: is not UTF-8"):
        find_scenario(str(binary))


def test_the_real_outages_last_as_long_as_they_did() -> None:
    """Minutes down or sick, from the incident reports."""
    scenarios = built_in_scenarios()

    down = {
        name: sum(phase.seconds for phase in scenario.phases if phase.is_down and phase.capacity is None) / 60
        for name, scenario in scenarios.items()
    }

    assert down["s1-flash"] == 4
    assert down["s3-down"] == 140
    assert down["s5-two-waves"] == 44 + 15
    assert down["s6-three-waves"] == pytest.approx(4 * 60 + 2 * 60 + 6.3 * 60)
    assert down["s7-flapping"] == 90
    assert down["s10-disguised"] == 120 + 78
    assert down["s11-isolated"] == 270
    assert down["s4-partial"] == down["s13-cuts"] == down["s9-capacity"] == 0
