"""What a run shares with other processes: its circuits, and the waits that providers name.

Local decides, shared coordinates: a route's own circuit opens by its own evidence, and this tells the others; what they
tell is applied to the route. A probe needs the lease of the shared circuit. Nothing waits here, and nothing is in the
way of a call while the circuit is closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING

from llmbatch.core.calls import Outcome
from llmbatch.core.events import Notice
from llmbatch.peers.claimed_cap import ClaimedCap
from llmbatch.peers.group import Answer, Group, Heard, WentDown, longest_wait, probe_share
from llmbatch.peers.member import Effect
from llmbatch.route.decisions import CircuitMoved, Decision, PauseRoute
from llmbatch.route.outage import SHARE
from llmbatch.runner.attempt import Attempt
from llmbatch.runner.pending import RunRoute
from llmbatch.runner.unshared import Apply, Channel, NoPeers

if TYPE_CHECKING:
    from llmbatch.runner.context import RunContext

__all__ = ["Peers"]

LEAST_HOLD = 1.0
"""Shortest named wait, in seconds, that the others are told of."""

LEASE_MARGIN = 5.0
"""Seconds that a probe's lease lasts beyond its time limit."""


class Peers(NoPeers):
    """The circuits of one run, as shared. *apply* applies decisions to a route."""

    def __init__(self, run: RunContext, channel: Channel, *, apply: Apply, seed: int) -> None:
        self._run = run
        self._channel = channel
        self._apply = apply
        self.group = Group(channel.owner, channel.send, chance=Random(f"{seed}:{channel.owner}").random)
        cap = run.costs.cap
        if cap is not None and channel.shares_cost:
            members = self._count_members
            run.costs.cap = claimed = ClaimedCap(cap, channel.part, channel.send, members=members, clock=run.now)
            self.group.book_with("cap", claimed, run.now())
        self._by_name: dict[str, RunRoute] = {}
        self._told_down = False
        self._hearing = False
        self._probe: Attempt | None = None
        """The probe that is being settled."""
        self._is_current = False
        """Whether that probe still had its slot."""

    def __repr__(self) -> str:
        return f"<Peers {self.group!r}>"

    def _count_members(self) -> int:
        return self.group.members

    # What this process does.

    def changed(self, route: RunRoute, now: float) -> None:
        """Share the circuit of a new route, or stop sharing that of one that was dropped."""
        name = _name(route)
        if self._by_name.get(name) is route:
            del self._by_name[name]
            self.group.leave(name, now)
            return
        self._by_name[name] = route
        self._limit_waits(route)
        _, effects = self.group.join(name, now)
        self._carry_out(((name, effect) for effect in effects), now)

    def may_probe(self, route: RunRoute, now: float) -> bool:
        """Whether the route may probe now: it has the lease, or needs none."""
        member = self.group.get(_name(route))
        return member is None or member.may_probe(route.state.probe_timeout() + LEASE_MARGIN, now)

    def unused(self, route: RunRoute, now: float) -> None:
        """Give a lease back that could not be used."""
        member = self.group.get(_name(route))
        if member is not None and member.holds_lease and not route.state.circuit.probing:
            member.probe_ended("release", 0.0, now, is_named=False)

    def next_change(self, route: RunRoute, now: float) -> float | None:
        """When the route may probe that may not now; None if only news can change that."""
        member = self.group.get(_name(route))
        return None if member is None else member.next_change(now)

    def moved(self, route: RunRoute, moved: CircuitMoved, now: float) -> None:
        """Note that the circuit of *route* has opened or closed."""
        member = self.group.get(_name(route))
        if member is None or self._hearing:
            return
        state = route.state
        if moved.new == "closed":
            if self._probe is None:
                member.closed(now)
        elif moved.old == "closed":
            if (
                state.is_stopping
                or state.dead is not None
                or (state.outage is not None and state.outage.cause == "stop")
            ):
                member.opened_privately()
                return
            wait = max(0.0, state.circuit.until - now)
            is_named = wait > min(1.0, self._run.options.recovery_timeout) + 0.001
            member.opened(wait, state.circuit.reason, now, is_named=is_named)

    def settling(self, attempt: Attempt) -> None:
        """Note that the outcome of *attempt*, a probe, is about to be applied."""
        self._probe = attempt
        self._is_current = attempt.route.state.circuit.is_current(attempt.call.permit)

    def settled(self, attempt: Attempt, outcome: Outcome | None, now: float) -> None:
        """Note that the outcome of *attempt*, a probe, was applied; None as *outcome*: the call was canceled."""
        self._probe = None
        state = attempt.route.state
        member = self.group.get(_name(attempt.route))
        if member is None or not (self._is_current or state.circuit.is_closed):
            return
        wait = max(0.0, state.circuit.until - now)
        if state.circuit.is_closed:
            member.probe_ended("success", 0.0, now, is_named=False)
        elif outcome is None or outcome.verdict == "local" or state.dead is not None or state.is_stopping:
            member.probe_ended("release", 0.0, now, is_named=False)
        elif wait <= 0.0:
            member.probe_ended("again", 0.0, now, is_named=False)
        elif outcome.verdict in ("failure", "account_refused"):
            member.probe_ended("failure", wait, now, is_named=outcome.retry_after is not None)
        else:
            member.probe_ended("release", wait, now, is_named=False)

    def paused(self, route: RunRoute, pause: PauseRoute) -> None:
        """Tell the others of a wait that the provider named in a refusal."""
        if pause.is_named and pause.is_refusal and pause.seconds >= LEAST_HOLD and not self._hearing:
            self.group.hold(_name(route), pause.seconds)

    # What others did.

    def hear(self, now: float) -> None:
        """Apply what was delivered."""
        for delivery in self._channel.take():
            if isinstance(delivery, Answer) and delivery.message.verb == "book":
                for route in self._run.routes:
                    route.budget_until = 0.0
            effects = self.group.receive(delivery, now)
            if isinstance(delivery, WentDown):
                self._tell_down(delivery.why, now)
            elif isinstance(delivery, Heard) and delivery.members is not None:
                self._tell_up(now)
                for route in self._run.routes:
                    self._limit_waits(route)
            self._carry_out(effects, now)

    def _limit_waits(self, route: RunRoute) -> None:
        members = self.group.members if self.group.is_up else 1
        longest = longest_wait(self._run.options.recovery_timeout, members)
        route.state.limit_probe_waits(longest, probe_share(members) if members > 1 else SHARE)

    def _carry_out(self, effects: Iterable[tuple[str, Effect]], now: float) -> None:
        self._hearing = True
        try:
            for name, effect in effects:
                route = self._by_name.get(name)
                if route is not None and route.state.dead is None:
                    self._apply(route, self._decisions(route, effect, now), now)
        finally:
            self._hearing = False

    @staticmethod
    def _decisions(route: RunRoute, effect: Effect, now: float) -> list[Decision]:
        state = route.state
        match effect.kind:
            case "open":
                return state.opened_elsewhere(effect.wait, effect.why, now, is_confirmed=effect.is_confirmed)
            case "failed":
                return state.failed_elsewhere(effect.wait, now)
            case "close":
                return state.recovered_elsewhere(now)
            case "hold":
                return state.pause(effect.wait, now, "throttled in another process", is_named=True)
            case "ready":
                return []

    def _tell_down(self, why: str, now: float) -> None:
        if not self._told_down:
            self._told_down = True
            text = (
                f"the shared store {self._channel.address} is gone ({why}): this process goes on with its own circuits"
            )
            self._run.emit(Notice(now, "warning", text))

    def _tell_up(self, now: float) -> None:
        if self._told_down:
            self._told_down = False
            self._run.emit(Notice(now, "info", f"the shared store {self._channel.address} is back"))


def _name(route: RunRoute) -> str:
    """What a route's shared circuit is called: the same model at another address has another circuit."""
    return f"{route.route.base_url} {route.state.label}"
