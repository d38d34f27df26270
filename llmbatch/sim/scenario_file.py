"""Read scenarios from TOML files: the built-in ones and the user's own.

A file says what happens in words and numbers::

    description = "down for an hour, then back in steps"
    source = "where it happened"           # optional
    models = ["gpt-4*"]                    # optional: the others are fine
    latency = 0.4                          # optional: median seconds of a good answer
    spent_keys = ["key-b"]                 # optional: API keys without money

    [limits]                               # optional: rate limits, reported in headers as the style has them
    style = "openai"                       # or anthropic, azure, groq
    rpm = 600                              # also tpm, input_tpm, output_tpm, rpd, burst; headers = false: none

    [[phase]]
    minutes = 60                           # or seconds, or hours; seconds = inf for ever
    behavior = "down"
    statuses = [500, 503]

    [[phase]]
    minutes = 20
    capacity = [0.1, 1.0]                  # a part of the full load; two numbers: from, to

    [[phase]]
    minutes = 5
    knee = 64                              # latency grows with the requests in flight above these
    limits = 0.5                           # what the rate limits are multiplied by
    flex = false                           # no capacity for service_tier flex

    [[phase]]
    times = 3                              # these phases in a row, three times
    phases = [{seconds = 30, behavior = "hang"}, {seconds = 30}]

    [[rows]]                               # rows that always fail, by a hash of their text; beside any phase
    share = 0.05                           # or numbers = [1000, 1019]: those whose text ends in "row N"
    behavior = "errors"                   # or throttle, slow

    [batch]                                # optional: the batch APIs, see batches/rules_file.py
    rows_per_s = 25

The keys of a phase are the fields of :class:`~llmbatch.sim.scenario.Phase`, those of rows the fields of
:class:`~llmbatch.sim.row_fault.RowFault`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib.resources import files
from pathlib import Path

from llmbatch.core.errors import UsageError
from llmbatch.sim import toml_values
from llmbatch.sim.batches.rules_file import read_batch_rules
from llmbatch.sim.rate_limits import RateLimits
from llmbatch.sim.row_fault import RowFault
from llmbatch.sim.scenario import Phase, Scenario

__all__ = ["built_in_scenarios", "find_scenario", "read_scenario"]

_UNITS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}
_HEAD = ("description", "source", "models", "latency", "repeat", "limits", "spent_keys", "phase", "rows", "batch")
_ROWS = tuple(field.name for field in fields(RowFault))
_PHASE = tuple(field.name for field in fields(Phase) if field.name not in ("seconds", "share_to", "capacity_to"))
_RAMPS = ("share", "capacity")
_MOST_PHASES = 10_000


@cache
def built_in_scenarios() -> Mapping[str, Scenario]:
    """The built-in scenarios by name: the short ones first, then s1 to s14, m1 to m8 and b1 to b8."""
    folder = files("llmbatch.sim").joinpath("scenarios")
    found = [
        _scenario(entry.name.removesuffix(".toml"), entry.read_text("utf-8"), entry.name)
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    ]
    found.sort(key=_order)
    return {scenario.name: scenario for scenario in found}


def _order(scenario: Scenario) -> tuple[int, int, float, str]:
    first, _, _ = scenario.name.partition("-")
    group = "smb".find(first[:1]) + 1 if first[1:].isdecimal() else 0
    return group, int(first[1:]) if group else 0, scenario.length, scenario.name


def find_scenario(name: str) -> Scenario:
    """The built-in scenario of that name, or the one in the file of that path.

    A leading ``sim/`` is ignored; the number is enough: ``s1`` for ``s1-flash``, ``m1`` for ``m1-scattered``.

    Raises:
        UsageError: there is none, with those there are; or the file says something impossible.
    """
    known, name_given = built_in_scenarios(), name.removeprefix("sim/")
    scenario = known.get(name_given)
    if scenario is None and name_given[:1] in ("s", "m", "b") and name_given[1:].isdecimal():
        scenario = next((known[each] for each in known if each.startswith(f"{name_given}-")), None)
    if scenario is not None:
        return scenario
    if name.endswith(".toml"):
        return read_scenario(Path(name))
    raise UsageError(
        f"scenario {name!r} is unknown",
        hint=f"one of: {', '.join(built_in_scenarios())}; or the path of a .toml file",
    )


def read_scenario(path: Path) -> Scenario:
    """Read the scenario in a file; its name is that of the file.

    Raises:
        UsageError: the file cannot be read, or says something impossible: which file, key and range.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8") from error
    return _scenario(path.stem, text, str(path))


def _scenario(name: str, text: str, where: str) -> Scenario:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: is not TOML: {error}") from error
    toml_values.only(table, _HEAD, where)
    models, spent = (toml_values.texts(table.get(key, []), f"{where}: {key}") for key in ("models", "spent_keys"))
    repeat = table.get("repeat", False)
    if not isinstance(repeat, bool):
        raise UsageError(f"{where}: repeat is {repeat!r}, must be true or false")
    latency = table.get("latency")
    if latency is not None and not 0 <= toml_values.number(latency, f"{where}: latency") < math.inf:
        raise UsageError(f"{where}: latency is {latency!r}, must be 0 or more seconds")
    phases = tuple(_phases(table.get("phase", []), where))
    if len(phases) > _MOST_PHASES:
        raise UsageError(f"{where}: has {len(phases)} phases, may have {_MOST_PHASES} at most")
    description = toml_values.text(table.get("description", name), f"{where}: description")
    batch = read_batch_rules(table.get("batch"), where)
    source = toml_values.text(table.get("source", ""), f"{where}: source")
    try:
        rows = tuple(_row_faults(table.get("rows", []), where))
        limits = _limits(table.get("limits"), where)
        return Scenario(name, phases, description, repeat, latency, models, source, limits, spent, rows, batch)
    except UsageError as error:
        raise UsageError(f"{where}: {error}", hint=error.hint) from None


def _limits(table: object, where: str) -> RateLimits | None:
    if table is None:
        return None
    if not isinstance(table, dict):
        raise UsageError(f"{where}: limits is {table!r}, must be a table")
    toml_values.only(table, tuple(field.name for field in fields(RateLimits)), f"{where}: limits")
    for key in ("rpm", "tpm", "input_tpm", "output_tpm", "rpd", "burst"):
        if key in table:
            toml_values.number(table[key], f"{where}: limits.{key}")
    if type(table.get("headers", True)) is not bool:
        raise UsageError(f"{where}: limits.headers is {table['headers']!r}, must be true or false")
    return RateLimits(**table)


def _row_faults(entries: object, where: str) -> Iterator[RowFault]:
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise UsageError(f"{where}: rows is {entries!r}, must be a list of tables", hint="write [[rows]] above each")
    for number, entry in enumerate(entries, 1):
        place = f"rows {number}"
        toml_values.only(entry, _ROWS, f"{where}: {place}")
        if ("share" in entry) == ("numbers" in entry):
            raise UsageError(f"{where}: {place}: must say either share or numbers")
        values: dict[str, object] = dict(entry)
        for key in ("share", "stall", "retry_after"):
            if key in entry:
                values[key] = toml_values.number(entry[key], f"{where}: {place}: {key}")
        if "numbers" in entry:
            block = entry["numbers"]
            if not (isinstance(block, list) and len(block) == 2 and all(type(each) is int for each in block)):
                raise UsageError(f"{where}: {place}: numbers is {block!r}, must be two whole numbers: from and to")
            values["numbers"] = tuple(block)
        if "statuses" in entry:
            values["statuses"] = toml_values.statuses(entry["statuses"], f"{where}: {place}: statuses")
        try:
            yield RowFault(**values)  # type: ignore[arg-type]
        except UsageError as error:
            raise UsageError(f"{place}: {error}", hint=error.hint) from None


def _phases(entries: object, where: str) -> Iterator[Phase]:
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise UsageError(f"{where}: phase is {entries!r}, must be a list of tables", hint="write [[phase]] above each")
    for number, entry in enumerate(entries, 1):
        place = f"{where}: phase {number}"
        if "phases" not in entry:
            yield _phase(entry, place)
            continue
        toml_values.only(entry, ("times", "phases"), place)
        times = entry.get("times", 1)
        if type(times) is not int or not 1 <= times <= _MOST_PHASES:
            raise UsageError(f"{place}: times is {times!r}, must be a whole number from 1 to {_MOST_PHASES}")
        inner = list(_phases(entry["phases"], place))
        for _ in range(times):
            yield from inner


def _phase(entry: dict[str, object], where: str) -> Phase:
    toml_values.only(entry, (*_UNITS, *_PHASE), where)
    units = [unit for unit in _UNITS if unit in entry]
    if len(units) != 1:
        raise UsageError(f"{where}: says {len(units)} lengths, must say one", hint=f"one of: {', '.join(_UNITS)}")
    values: dict[str, object] = {key: value for key, value in entry.items() if key not in _UNITS}
    values["seconds"] = toml_values.number(entry[units[0]], f"{where}: {units[0]}") * _UNITS[units[0]]
    for key in _RAMPS:
        ramp = values.get(key)
        if isinstance(ramp, list):
            if len(ramp) != 2:
                raise UsageError(f"{where}: {key} is {ramp!r}, must be a number, or two: from and to")
            values[key], values[f"{key}_to"] = ramp
    for key in ("share", "share_to", "capacity", "capacity_to", "stall", "retry_after", "limits", "knee"):
        if key in values:
            toml_values.number(values[key], f"{where}: {key.removesuffix('_to')}")
    values["statuses"] = toml_values.statuses(entry.get("statuses", []), f"{where}: statuses")
    values["mix"] = _mix(entry.get("mix", {}), f"{where}: mix")
    for key in ("collapses", "flex"):
        if type(values.get(key, False)) is not bool:
            raise UsageError(f"{where}: {key} is {values[key]!r}, must be true or false")
    try:
        return Phase(**values)  # type: ignore[arg-type]
    except UsageError as error:
        raise UsageError(f"{where}: {error}", hint=error.hint) from None


def _mix(value: object, what: str) -> dict[str, float]:
    if not isinstance(value, dict):
        raise UsageError(f"{what} is {value!r}, must be a table of behaviors and their shares")
    return {behavior: toml_values.number(share, f"{what}.{behavior}") for behavior, share in value.items()}
