"""Situations 1 to 6: a circuit that has opened, its probes, and what it tells those whom it refuses."""

from __future__ import annotations

import math

from breaker_findings import Finding, fails, lacks, passes, wait_told
from breaker_stage import PATIENCE, BlockedError, Stage

CALLERS = 50


def stale_success(stage: Stage) -> Finding:
    """A call let in while closed ends well when the circuit is open, or half-open: it closes neither."""
    stage.build()
    slow = stage.start()
    try:
        stage.trip()
    except BlockedError:
        return lacks("calls wait for each other, so none can outlast the state that let it in")
    stage.finish(slow, "ok")
    if stage.call("ok") != "rejected":
        return fails("closes", "a success from before the circuit opened closed it")
    stage.build(open_s=stage.open_s)
    slow = stage.start()
    stage.trip()
    stage.pass_time(stage.open_s * 1.2)
    probe = stage.start()
    stage.finish(slow, "ok")
    if stage.circuit.state() == "closed":
        return fails("closes", "a success from before the circuit opened closed it while half-open, a probe still out")
    stage.finish(probe, "down")
    if stage.circuit.state() != "open":
        return fails(stage.circuit.state(), "after a stale success the failed probe left it " + stage.circuit.state())
    return passes("the stale success changed nothing; the probe's own failure reopened the circuit")


def fifty_callers(stage: Stage) -> Finding:
    """Fifty callers find the circuit half-open: one reaches the backend, the others are refused."""
    stage.half_open()
    outcomes = [flight.outcome for flight in stage.start_many(CALLERS)]
    inside, refused, blocked = (outcomes.count(word) for word in ("inside", "rejected", "blocked"))
    fact = f"of {CALLERS} callers {inside} reached the backend, {refused} were refused, {blocked} were made to wait"
    if blocked:
        return fails("serial", fact)
    if inside == 1 and refused == CALLERS - 1:
        return passes(fact)
    return fails(f"{inside} callers", fact)


def cancelled_probe(stage: Stage) -> Finding:
    """A probe is cancelled (in a thread: interrupted): still half-open, and the next probe may go."""
    stage.half_open()
    probe = stage.start()
    probe.cancel()
    if not probe.ended.wait(PATIENCE):
        return fails("blocks", "the cancelled call did not end")
    state = stage.circuit.state()
    how = "cancelled" if stage.face == "async" else "interrupted"
    fact = f"the {how} probe left the circuit {state}"
    if state != "half_open":
        return fails({"closed": "closes", "open": "reopens"}.get(state, state), fact)
    if (outcome := stage.call("ok")) != "ok":
        return fails("stuck", f"{fact}; the next probe was {outcome}")
    return passes(f"{fact}; the next probe went")


def hung_probe(stage: Stage) -> Finding:
    """The provider hangs, so every probe does: others take over, but not all of them, and it ends when they do."""
    attempts, open_times, step = 100, 20, 0.2
    stage.half_open()
    hung = []
    for _ in range(attempts):
        flight = stage.start()
        if flight.outcome == "blocked":
            return fails("blocks", f"with a probe hanging, the next caller was made to wait, over {PATIENCE} s")
        if flight.outcome == "inside":
            hung.append(flight)
        stage.pass_time(stage.open_s * step)
    fact = f"while the provider hung, {len(hung)} of {attempts} callers in {open_times} open times went into it"
    if len(hung) > open_times + 5:
        return fails("unbounded", fact)
    waited = 0.0
    while stage.call("ok") != "ok":
        if waited >= 50:
            return fails("stuck", f"{fact}; after it recovered, nobody got through for {waited:.0f} open times")
        stage.pass_time(stage.open_s / 4)
        waited += 0.25
    if (state := stage.circuit.state()) != "closed":
        return fails(state, f"{fact}; the first good probe left it {state}")
    for flight in hung:
        stage.finish(flight, "down")
    if (state := stage.circuit.state()) != "closed":
        return fails("stale", f"{fact}; late failures of probes that had been replaced left it {state}")
    return passes(f"{fact}; after it recovered, one got through within {waited:.1f} open times")


def bad_request(stage: Stage) -> Finding:
    """A 400 where the closing good probe would stand neither closes nor reopens; nothing but 400s ends closed."""
    tried = []
    for neutral in stage.peer.neutral_ways:
        for good_probes in (1, 3) if stage.peer.has_good_probes else (1,):
            word = weigh_bad_request(stage, neutral, good_probes)
            label = ", ".join(filter(None, (neutral, f"{good_probes} good probes" if good_probes > 1 else "")))
            tried.append((word, label or "one good probe"))
            if word == "pass":
                return passes(f"one 400 left it half-open, nothing but 400s closed it ({tried[-1][1]})")
    return fails(tried[0][0], "a 400 among the probes: " + "; ".join(f"{word} ({label})" for word, label in tried))


def weigh_bad_request(stage: Stage, neutral: str, good_probes: int) -> str:
    words = {"closed": "closes", "open": "reopens"}
    stage.half_open(good_probes=good_probes, neutral=neutral)
    for _ in range(good_probes - 1):
        if stage.call("ok") != "ok":
            return "no probe"
    stage.call("bad request")
    if (state := stage.circuit.state()) != "half_open":
        return words[state]
    stage.half_open(good_probes=good_probes, neutral=neutral)
    for _ in range(12):
        stage.call("bad request")
        if (state := stage.circuit.state()) != "half_open":
            return "pass" if state == "closed" else words[state]
    return "never closes"


def finite_wait(stage: Stage) -> Finding:
    """A caller refused while a probe is out is told a finite time to wait, above zero."""
    stage.half_open()
    stage.start()
    second = stage.start_many(1, "ok")[0]
    if second.outcome != "rejected":
        word = "blocks" if second.outcome == "blocked" else "no refusal"
        return fails(word, f"with a probe out, the next caller was not refused but {second.outcome}")
    told = wait_told(stage.circuit, second.error)
    if told is None:
        return fails("none", "the refusal names no time")
    fact = f"the refusal says {told:.3g} s, with an open time of {stage.open_s} s"
    return passes(fact) if math.isfinite(told) and told > 0 else fails("not finite", fact)
