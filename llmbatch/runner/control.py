"""What a user changes of a run that goes on: it is paused, resumed, or gets other limits.

Commands are values. :class:`RunControl` applies one to the state of a run, within the event loop; the engine wakes up
and obeys. A pause holds back every new call, probes too; calls in flight end, and the time limits of outages go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, assert_never

from llmbatch.core.calls import record
from llmbatch.core.errors import UsageError
from llmbatch.core.events import LimitChanged, OptionChanged, RunPaused, RunResumed
from llmbatch.runner.budgets import Budgets
from llmbatch.runner.concurrency import Auto
from llmbatch.runner.context import RunContext
from llmbatch.runner.options import RUN_OPTIONS, RunOptions

__all__ = [
    "CHANGEABLE",
    "Change",
    "Command",
    "Pause",
    "Resume",
    "RunControl",
    "changed",
    "option_changes",
    "parse_setting",
]

CHANGEABLE = ("concurrency", "rpm", "tpm", "max_cost")
"""The options that can be changed while a run goes on."""

_REMOVABLE = ("rpm", "tpm")
_NONE = ("none", "off")


@record
class Pause:
    """Begin no call before :class:`Resume`."""


@record
class Resume:
    """Go on after a pause."""


@record
class Change:
    """Go on with these options, which differ from those in force by :data:`CHANGEABLE` alone; see :func:`changed`."""

    options: RunOptions


Command = Pause | Resume | Change


def parse_setting(name: str, text: str) -> tuple[str, Any]:
    """The option and the value of ``name=text``, as typed: ``max-cost``, ``12.50``; for no limit ``none``.

    Raises:
        UsageError: there is no such option, it cannot be changed in a run, or the value is out of range.
    """
    option = name.strip().lower().replace("-", "_")
    _check_name(option, name)
    word = text.strip()
    if option in _REMOVABLE and word.lower() in _NONE:
        return option, None
    return option, RUN_OPTIONS[option].parse(word, name)


def changed(options: RunOptions, values: Mapping[str, Any]) -> RunOptions:
    """*options* with other *values*, by name. None as ``rpm`` or ``tpm``: no limit.

    Raises:
        UsageError: an option cannot be changed in a run, or a value is out of range.
    """
    new: dict[str, Any] = {}
    for name, value in values.items():
        _check_name(name, name)
        if value is None and name not in _REMOVABLE:
            raise UsageError(f"{name} is none, must be {RUN_OPTIONS[name].value.allowed}", hint="give a number")
        RUN_OPTIONS[name].check(value)
        new[name] = RUN_OPTIONS[name].value.check(value) if value is not None else None
    if "concurrency" in new:
        if options.adapts:
            new["concurrency"] = Auto(new["concurrency"])
        elif isinstance(new["concurrency"], Auto):
            raise UsageError(
                "concurrency is a fixed number in this run, and auto can only be chosen when a run begins",
                hint="give a number; or stop the run, and run its command again with -c auto",
            )
    if "max_cost" in new and options.max_cost is None:
        raise UsageError(
            "this run has no --max-cost, so what it has spent was not reserved, and no cap could be kept",
            hint="stop it (Ctrl-C), and run its command again with --max-cost: what the output has cost counts",
        )
    return replace(options, **new)


def _check_name(option: str, typed: str) -> None:
    if option in CHANGEABLE:
        return
    names = ", ".join(name.replace("_", "-") for name in CHANGEABLE)
    if option in RUN_OPTIONS:
        message = f"{typed} cannot be changed while a run goes on"
        raise UsageError(message, hint=f"{names} can; for others stop the run, and run its command again")
    raise UsageError(f"{typed[:80]!r} is no option that can be changed", hint=f"these can: {names}")


class RunControl:
    """What was changed of one run. Belongs to its event loop."""

    __slots__ = ("_budgets", "_run", "paused_at")

    def __init__(self, run: RunContext, budgets: Budgets) -> None:
        self._run = run
        self._budgets = budgets
        self.paused_at: float | None = None
        """Since when the run is paused, on the loop's clock: no call may begin. None if it is not."""

    def __repr__(self) -> str:
        return f"<RunControl {'running' if self.paused_at is None else f'paused at {self.paused_at:.1f}'}>"

    @property
    def keeps_open(self) -> bool:
        """Whether a run on which nothing moves is to stay all the same: its pause ends when its user wants it.

        A limit that the user has set for outages goes on meanwhile, and may end the run.
        """
        return self.paused_at is not None and self._run.options.max_outage is None

    def apply(self, command: Command, now: float) -> RunOptions:
        """Carry out *command*; return the options that are in force from now on."""
        run = self._run
        match command:
            case Pause():
                if self.paused_at is None:
                    self.paused_at = now
                    run.emit(RunPaused(now))
            case Resume():
                if self.paused_at is not None:
                    seconds, self.paused_at = now - self.paused_at, None
                    for route in run.routes:
                        route.state.excuse(seconds)
                    run.emit(RunResumed(now, seconds))
            case Change(options):
                old, run.options = run.options, options
                self._change(old, options, now)
            case _:
                assert_never(command)
        return run.options

    def _change(self, old: RunOptions, new: RunOptions, now: float) -> None:
        run = self._run
        for event in option_changes(old, new, now):
            run.emit(event)
        if new.concurrency != old.concurrency:
            for route, limit in run.routes.change_concurrency(new.concurrency):
                run.emit(LimitChanged(now, route.state.label, limit.value, limit.reason))
        if new.tpm != old.tpm:
            self._budgets.change_tpm(new.tpm, now)
        if new.rpm != old.rpm:
            self._budgets.change_rpm(new.rpm, now)
        if new.max_cost is not None and run.costs.cap is not None:
            run.costs.cap.limit = new.max_cost

    def ramp(self) -> None:
        """Ramp up all routes: the process was suspended for a while."""
        for route in self._run.routes:
            route.state.plan_ramp()


def option_changes(old: RunOptions, new: RunOptions, now: float) -> list[OptionChanged]:
    """What has changed from *old* to *new*, as events."""
    return [
        OptionChanged(now, name, _shown(name, getattr(old, name)), _shown(name, getattr(new, name)), new.own_limits)
        for name in CHANGEABLE
        if getattr(old, name) != getattr(new, name)
    ]


def _shown(name: str, value: Any) -> str:
    return "none" if value is None else RUN_OPTIONS[name].value.show(value)
