"""Random stories of the board keep its invariants, and boards with planted bugs do not."""

from __future__ import annotations

from typing import Any

import pytest
from board_story import BrokenRuleError, check_story

from llmbatch.peers import board as board_module
from llmbatch.peers.board import Board
from llmbatch.peers.messages import Reply

STORIES = 400


@pytest.mark.parametrize("part", range(4))
def test_random_stories_keep_the_invariants(part: int) -> None:
    check_stories(Board, part * STORIES)


def check_stories(make: type[Board], first: int = 0) -> None:
    for seed in range(first, first + STORIES):
        check_story(seed, make)


class RestartedFences(Board):
    """Counts fences from 1 after it forgot."""

    def ask(self, *args: Any, now: int) -> Reply:
        reply = super().ask(*args, now=now)
        circuit = self._circuits[args[0]]
        if reply.kind == "granted":
            count = self._rates.get(f"fence {args[0]}", 0) + 1
            self._rates[f"fence {args[0]}"] = circuit.fence = count
            return reply._replace(fence=count)
        return reply


class ForgottenLeases(Board):
    """Grants a probe while another one is out."""

    def ask(self, *args: Any, now: int) -> Reply:
        if (circuit := self._circuits.get(args[0])) is not None:
            circuit.prober = ""
        return super().ask(*args, now=now)


class NoWaits(Board):
    """Grants a probe at once after one has failed."""

    def tell(self, *args: Any, is_named: bool = False, now: int) -> Reply:
        reply = super().tell(*args, is_named=is_named, now=now)
        if reply.kind == "later":
            self._circuits[args[0]].until = now
        return reply


class OpenersOpinion(Board):
    """Lets the opener give the second opinion."""

    def ask(self, *args: Any, now: int) -> Reply:
        if (circuit := self._circuits.get(args[0])) is not None:
            circuit.opener_until = 0
        return super().ask(*args, now=now)


class HeardStaleProbes(Board):
    """Believes a probe that has lost its lease."""

    def tell(self, *args: Any, is_named: bool = False, now: int) -> Reply:
        name, owner, fence = args[:3]
        circuit = self._circuits.get(name)
        if circuit is not None and fence:
            circuit.prober, circuit.fence = owner, fence
        return super().tell(*args, is_named=is_named, now=now)


class VersionsGoBack(Board):
    """Lets a process that knows less set the version."""

    def open(self, *args: Any, is_named: bool, now: int) -> Reply:
        known = args[4]
        if (circuit := self._circuits.get(args[0])) is not None and not circuit.is_open:
            circuit.version = known
        return super().open(*args, is_named=is_named, now=known)


class EndlessBeats(Board):
    """Takes every process that ever was for alive."""

    def poll(self, *args: Any, now: int) -> Any:
        everybody = {**self._beats, args[0]: now}
        reply = super().poll(*args, now=now)
        self._beats = everybody
        return reply._replace(members=len(everybody))


class GenerousCap(Board):
    """Gives each what it claims."""

    def claim(self, name: str, part: str, amount: int, limit: int) -> int:
        return amount


class SharedOpinionOnNamedWaits(Board):
    """Treats a named wait like any other opening."""

    def open(self, *args: Any, is_named: bool, now: int) -> Reply:
        return super().open(*args, is_named=False, now=now)


@pytest.mark.parametrize(
    "broken",
    [
        RestartedFences,
        ForgottenLeases,
        NoWaits,
        OpenersOpinion,
        HeardStaleProbes,
        VersionsGoBack,
        EndlessBeats,
        GenerousCap,
        SharedOpinionOnNamedWaits,
    ],
)
def test_stories_find_planted_bugs(broken: type[Board]) -> None:
    with pytest.raises(BrokenRuleError):
        check_stories(broken)


def test_a_dead_prober_that_is_waited_for_is_found_by_its_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board that hands leases on too early breaks the rule of one probe."""
    monkeypatch.setattr(board_module, "SILENT", 1_000_000)

    with pytest.raises(BrokenRuleError):
        check_stories(Board)
