"""Track the probes of a half-open circuit: their slots, their leases, and how they ended.

A lease bounds how long a probe may hold its slot: a probe that takes longer is replaced by the next call.
Pure: time is an argument.
"""

from __future__ import annotations

from llmbatch.breaker.permit_state import PermitState
from llmbatch.breaker.policy import BreakerPolicy

__all__ = ["HalfOpen"]

MAX_LEASE_DOUBLINGS = 2
"""How often a lease doubles. If a provider has hung for long, recovery is noticed late by at most this."""


class HalfOpen:
    """Probe slots of one circuit. Not safe for concurrent use. Memory: one entry per probe in flight."""

    __slots__ = ("_failures", "_leases", "_neutral", "_policy", "_replaced", "_successes")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._leases: dict[PermitState, float] = {}
        """Probes in flight, and when each loses its lease."""
        self._replaced = 0
        """Probes that lost their lease since the circuit became half-open."""
        self._successes = 0
        self._neutral = 0
        self._failures = 0

    def start(self) -> None:
        """Count outcomes from zero: the circuit has become half-open."""
        self._successes = self._neutral = self._failures = self._replaced = 0

    def clear(self) -> None:
        """Free all slots: the circuit has changed its state."""
        self._leases.clear()

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, permit: PermitState) -> bool:
        return permit in self._leases

    @property
    def is_full(self) -> bool:
        """Whether every slot is taken."""
        return len(self._leases) >= self._policy.probes

    @property
    def first_expiry(self) -> float:
        """When the first probe in flight loses its lease; 0 if there is none."""
        return min(self._leases.values(), default=0.0)

    def make_room(self, now: float) -> bool:
        """Whether a slot is free at *now*; takes it from a probe whose lease is over if it must."""
        if not self.is_full:
            return True
        hung = min(self._leases, key=self._leases.__getitem__)
        if now < self._leases[hung]:
            return False
        del self._leases[hung]
        self._replaced += 1
        return True

    def add(self, permit: PermitState, now: float, lease: float | None) -> None:
        """Give *permit* a slot for *lease* seconds (None: the policy's), doubled with each replaced probe."""
        length = self._policy.lease if lease is None else lease
        permit.lease = length * 2.0 ** min(self._replaced, MAX_LEASE_DOUBLINGS)
        self._leases[permit] = now + permit.lease

    def renew(self, permit: PermitState, now: float) -> None:
        """Start the lease of *permit* again, if it still has its slot: a part of its answer came."""
        if permit in self._leases:
            self._leases[permit] = now + permit.lease

    def remove(self, permit: PermitState) -> bool:
        """Free the slot of *permit*; False if it has none."""
        return self._leases.pop(permit, None) is not None

    def note_success(self) -> bool:
        """Count a successful probe; True once there are enough to close the circuit."""
        self._successes += 1
        return self._successes >= self._policy.success_threshold

    def note_neutral(self) -> bool:
        """Count a neutral probe; True once there are enough to close the circuit."""
        self._neutral += 1
        return self._neutral >= self._policy.neutral_probes

    def note_failure(self) -> bool:
        """Count a failed probe; True once there are enough to open the circuit again."""
        self._failures += 1
        return self._failures >= self._policy.failed_probes
