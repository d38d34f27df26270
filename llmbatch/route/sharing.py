"""What other processes found out about the same route: they opened its circuit, a probe of theirs failed, or passed.

A circuit that was opened elsewhere is an opening that is not confirmed: nothing is sent but probes. A probe that failed
elsewhere confirms the outage; one that passed ends it, and voids the failures here without proving any.
"""

from __future__ import annotations

from dataclasses import replace

from llmbatch.pace.limit import RAMP_START
from llmbatch.route.decisions import CircuitMoved, Decision, OutageConfirmed, OutageOver, Requeue
from llmbatch.route.outage import Outage
from llmbatch.route.refusing import Refusing

__all__ = ["Sharing"]


class Sharing(Refusing):
    """Applies what was heard from other processes; see RouteState."""

    __slots__ = ()

    def limit_probe_waits(self, seconds: float, share: float) -> None:
        """Wait at most *seconds* between probes from now on, unless the provider names a longer wait.

        *share*: which part that is of the time that the outage has lasted, 0 to 1.
        """
        if (self._policy.recovery_timeout, self._policy.probe_share) != (seconds, share):
            self._policy = replace(self._policy, recovery_timeout=seconds, probe_share=share)

    def opened_elsewhere(self, wait: float, why: str, now: float, *, is_confirmed: bool) -> list[Decision]:
        """Open the circuit, to probe after *wait* seconds, as another process has opened its own.

        *is_confirmed*: a probe has failed there. Where the next one is due by now, that says nothing of today: this
        process may be the only one that is left to send it.
        """
        if not self.circuit.is_closed:
            return self.failed_elsewhere(wait, now) if is_confirmed else []
        # No call in flight now can disprove what the other one saw.
        self._begin_outage(Outage(now, "elsewhere", self.circuit.serial, is_silent=False))
        self.circuit.trip(now, f"in another process, {why}" if why else "another process opened it", wait=wait)
        self.circuit.hold(self.throttle.confirmed_wait(disprovable=False))
        decisions: list[Decision] = [CircuitMoved("closed", self.circuit.phase)]
        return decisions + (self.failed_elsewhere(wait, now) if is_confirmed and wait > 0.0 else [])

    def failed_elsewhere(self, wait: float, now: float) -> list[Decision]:
        """Note that another process's probe failed; the next one is due after *wait* seconds."""
        outage = self.outage
        if outage is None:
            return []
        if not self.circuit.probing:
            self.circuit.hold(now + wait)
        if outage.confirmed or outage.cause == "stop":
            return []
        outage.confirmed = True
        return [OutageConfirmed(outage.since, self.reason)]

    def recovered_elsewhere(self, now: float) -> list[Decision]:
        """Close the circuit, as another process's probe passed."""
        outage, self.outage = self.outage, None
        if outage is None or self.circuit.is_closed:
            return []
        was = self.circuit.phase
        self.circuit.close(now)
        decisions: list[Decision] = [CircuitMoved(was, "closed")]
        self.evidence.void()
        self.window.clear(self.circuit.serial)
        if outage.confirmed:
            self.limit.restart(RAMP_START, self.circuit.serial, forget=False)
            decisions.append(OutageOver(outage.since))
        else:
            self.limit.restart(max(RAMP_START, self._steady / 2), self.circuit.serial, forget=False)
        self._steady = 0.0
        self.throttle.ramp_due = False
        return [*decisions, Requeue()]
