"""Pauses and changes at random moments in virtual time: what is promised holds, and planted bugs are found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from simulation_control import tell
from simulation_law import GuaranteeError

from llmbatch.pace.limit import AdaptiveLimit
from llmbatch.runner.control import Command, Resume, RunControl
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions

SEEDS = 200


@pytest.mark.slow  # some hundred stories
@pytest.mark.no_cover
def test_no_story_breaks_a_guarantee() -> None:
    """Each row has its one line, nothing begins in a pause, and no more is in flight than is allowed just then."""
    told = [tell(seed) for seed in range(SEEDS)]

    assert sum(watch.pauses for watch in told) > SEEDS / 2
    assert sum(watch.changes for watch in told) > SEEDS
    assert sum(watch.sent for watch in told) > 20 * SEEDS


Plant = Callable[[pytest.MonkeyPatch], None]


def _probes_in_a_pause(patch: pytest.MonkeyPatch) -> None:
    """A pause holds back rows, and lets probes through."""

    def paused_at(self: RunControl) -> float | None:
        return None if self._run.open else vars(self)["since"]

    def pause(self: RunControl, since: float | None) -> None:
        vars(self)["since"] = since

    patch.setattr(RunControl, "paused_at", property(paused_at, pause), raising=False)


def _only_the_pump_pauses(patch: pytest.MonkeyPatch) -> None:
    """Workers take their next call all the same."""

    def take(self: Engine) -> object:
        return None if self._ending is not None else self._scheduler.take()

    patch.setattr(Engine, "_take", take)


def _not_lowered(patch: pytest.MonkeyPatch) -> None:
    """A lower concurrency is told of, and nothing else."""
    apply = RunControl.apply

    def forget(self: RunControl, command: Command, now: float) -> RunOptions:
        before = self._run.options
        after = apply(self, command, now)
        return after if after.concurrency >= before.concurrency else before

    patch.setattr(RunControl, "apply", forget)
    patch.setattr(AdaptiveLimit, "change_ceiling", lambda self, ceiling, newest: None)


def _never_woken(patch: pytest.MonkeyPatch) -> None:
    """The end of a pause does not wake the engine."""
    control = Engine.control

    def sleep(self: Engine, command: Command) -> None:
        if isinstance(command, Resume):
            self._options = self._scheduler.control.apply(command, self._loop.time())
        else:
            control(self, command)

    patch.setattr(Engine, "control", sleep)


BUGS: list[Plant] = [_probes_in_a_pause, _only_the_pump_pauses, _not_lowered, _never_woken]


@pytest.mark.slow  # some stories each
@pytest.mark.no_cover
@pytest.mark.parametrize("plant", BUGS)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hunt that finds nothing says something only if it finds what is there."""
    plant(monkeypatch)

    with pytest.raises(GuaranteeError, match="claim 13"):
        tell_all()


def tell_all() -> None:
    for seed in range(SEEDS):
        tell(seed)
