"""Found by the simulation (tests/simulation), each told by the smallest story that shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from runner_story import Prompts, Simulate

from llmbatch.core.calls import Outcome, Reply, Request
from llmbatch.core.errors import TransportError
from llmbatch.core.events import CallSent, CircuitChanged, Notice
from llmbatch.core.ports import Transport
from llmbatch.core.rows import Row
from llmbatch.inputs.iterable import IterableSource
from llmbatch.inputs.rows import row_from_value
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.route.route import RouteHistory, RoutePolicy, RouteState
from llmbatch.runner.earlier import EarlierRuns
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.sim.virtual import run_virtual

Answer = Callable[[bytes, float], Reply | None]
"""What a request's body meets at a time in seconds; None: the provider's good answer."""


class Scripted:
    """Answers some requests by a script, after *latency* seconds, and passes the others on."""

    def __init__(self, transport: Transport, answer: Answer, latency: float = 0.2) -> None:
        self.transport = transport
        self.answer = answer
        self.latency = latency

    async def post(self, request: Request, *, timeout: float) -> Reply:
        reply = self.answer(request.body, asyncio.get_running_loop().time())
        if reply is None:
            return await self.transport.post(request, timeout=timeout)
        await asyncio.sleep(self.latency)
        return reply

    async def aclose(self) -> None:
        await self.transport.aclose()


def status(code: int, **headers: str) -> Reply:
    return Reply(
        code, {name.replace("_", "-"): value for name, value in headers.items()}, b'{"error":{"message":"no"}}'
    )


def is_row(body: bytes) -> bool:
    return b"row " in body


def test_a_bad_row_is_judged_when_the_input_ends_in_the_same_step(simulate: Simulate, prompts: Prompts) -> None:
    """One place, and the row before the last is bad: the run stood still for ever with no timer set."""
    story = simulate(prompts(6, poison={3}), concurrency=1, rpm=60.0, latency=3.0)

    assert story.statuses == {"success": 5, "failed": 1}


def test_one_row_that_never_failed_does_not_probe_for_ever(simulate: Simulate, prompts: Prompts) -> None:
    """Eight rows met an outage, the ninth is bad and the smallest request never passes: eight good rows waited."""

    def answer(body: bytes, now: float) -> Reply | None:
        bad = not is_row(body) or b"row 9" in body
        return status(500) if bad or now < 20.0 else None

    story = simulate(
        prompts(9),
        wrap=lambda transport: Scripted(transport, answer),
        concurrency=1,
        failure_threshold=8,
        recovery_timeout=5.0,
    )

    assert story.statuses == {"success": 8, "failed": 1}
    assert story.seconds < 120


def test_checks_keep_the_wait_that_the_provider_names(simulate: Simulate, prompts: Prompts) -> None:
    """The last row and each check get 529 with ``Retry-After: 280``: five checks went in as many seconds."""

    def answer(body: bytes, now: float) -> Reply | None:
        return status(529, retry_after="280") if now < 300.0 else None

    story = simulate(prompts(1), wrap=lambda transport: Scripted(transport, answer), concurrency=20)

    assert story.statuses == {"success": 1}
    sent = [event.at for event in story.of(CallSent) if event.at < 280.0]
    assert len(sent) <= 2


def test_the_smallest_request_does_not_end_one_outage_again_and_again(simulate: Simulate, prompts: Prompts) -> None:
    """The last row fails for an hour, as do good requests, and the smallest passes: 4,581 "outages" of two seconds."""

    def answer(body: bytes, now: float) -> Reply | None:
        return status(503) if is_row(body) and (now >= 9.4 or b"row 20" in body) and now < 3600.0 else None

    story = simulate(
        prompts(20),
        wrap=lambda transport: Scripted(transport, answer),
        concurrency=1,
        latency=0.4,
        recovery_timeout=60.0,
    )

    assert story.statuses == {"success": 20}
    closings = [event for event in story.of(CircuitChanged) if event.new == "closed"]
    assert len(closings) <= 10


def test_conflicts_met_by_all_rows_are_proven_before_they_count(simulate: Simulate, prompts: Prompts) -> None:
    """Every call is answered 409 for ten seconds: each row was charged with no good answer to speak against it."""

    def answer(body: bytes, now: float) -> Reply | None:
        return status(409) if 5.0 <= now < 15.0 else None

    story = simulate(prompts(100), wrap=lambda transport: Scripted(transport, answer), concurrency=5, latency=0.5)

    assert story.statuses == {"success": 100}


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.no_cover
def test_good_rows_outlast_errors_that_were_there_from_the_first_call(simulate: Simulate, prompts: Prompts) -> None:
    """Three of four calls fail from the first on, 40 runs of 30 rows: 6 ended after three attempts, 41 being needed."""
    failed = 0
    for seed in range(40):
        draw = Random(seed)

        def answer(body: bytes, now: float, draw: Random = draw) -> Reply | None:
            return status(500) if draw.random() < 0.75 else None

        story = simulate(
            prompts(30), wrap=lambda transport, answer=answer: Scripted(transport, answer), concurrency=1, seed=seed
        )
        failed += len(story.failed)

    assert failed == 0


def test_a_tenants_last_row_that_is_throttled_alone_ends(simulate: Simulate) -> None:
    """It was sent each minute for as long as the run was let: 1,078 times in the simulation."""

    def answer(body: bytes, now: float) -> Reply | None:
        return status(429) if b"row 2" in body else None

    rows = [{"prompt": f"row {number}", "metadata": {"tenant": f"t{number}"}} for number in (1, 2)]
    story = simulate(
        rows,
        wrap=lambda transport: Scripted(transport, answer),
        circuit_key="metadata.tenant",
        concurrency=2,
        limit=4 * 3600.0,
    )

    assert story.statuses == {"success": 1, "failed": 1}
    assert story.seconds < 1800


@pytest.mark.slow  # thousands of calls in virtual time
def test_tenants_that_are_throttled_together_wait(simulate: Simulate) -> None:
    """The account is throttled for an hour, and each tenant has a row left: none ends for it."""

    def answer(body: bytes, now: float) -> Reply | None:
        return status(429) if 5.0 < now < 3600.0 else None

    rows = [{"prompt": f"row {number}", "metadata": {"tenant": f"t{number % 8}"}} for number in range(1, 41)]
    story = simulate(
        rows,
        wrap=lambda transport: Scripted(transport, answer),
        circuit_key="metadata.tenant",
        concurrency=2,
        latency=1.0,
    )

    assert story.statuses == {"success": 40}


class Silent:
    """Accepts requests that *hears*, never answers them, and passes the others on."""

    def __init__(self, transport: Transport, hears: Callable[[bytes], bool] = lambda body: True) -> None:
        self.transport = transport
        self.hears = hears

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if not self.hears(request.body):
            return await self.transport.post(request, timeout=timeout)
        await asyncio.sleep(timeout)
        raise TransportError("timeout", f"no whole answer within {timeout:g} s", sent=True)

    async def aclose(self) -> None:
        await self.transport.aclose()


def test_a_throttled_row_beside_one_that_hangs_ends_where_outages_are_deferred(
    simulate: Simulate, prompts: Prompts
) -> None:
    """No check went while the other was in flight: each run left both rows with exit code 75."""

    def answer(body: bytes, now: float) -> Reply | None:
        return status(429) if b"row 2" in body else None

    story = simulate(
        prompts(2),
        wrap=lambda transport: Scripted(Silent(transport, lambda body: b"row 1" in body), answer),
        concurrency=2,
        on_outage="defer",
        recovery_timeout=30.0,
        answered_before=True,
    )

    assert story.statuses == {"failed": 2}
    assert story.ending.exit_code == 0


def test_a_server_that_never_answers_is_named_and_given_up(simulate: Simulate, prompts: Prompts) -> None:
    """It accepts each request: after a minute nothing told why no row had passed."""
    story = simulate(prompts(12), wrap=Silent, timeout=1.0, limit=4000.0)

    told = [event for event in story.of(Notice) if "has never answered" in event.message]
    assert [event.at <= 30.0 for event in told] == [True]
    assert story.ending.exit_code == 75
    assert 590.0 < story.seconds < 650.0
    assert not story.results


@pytest.mark.parametrize("bad", [3, 8, 30])
def test_a_tenant_whose_rows_are_all_bad_ends(simulate: Simulate, bad: int) -> None:
    """Eight and more of them, twice the threshold, probed for as long as the run was let."""

    def answer(body: bytes, now: float) -> Reply | None:
        return status(500) if b"bad" in body else None

    rows = [{"prompt": f"row {number} bad", "metadata": {"tenant": "a"}} for number in range(bad)]
    rows.append({"prompt": "row good", "metadata": {"tenant": "b"}})
    story = simulate(
        rows,
        wrap=lambda transport: Scripted(transport, answer),
        circuit_key="metadata.tenant",
        failure_threshold=2,
        concurrency=4,
        limit=4 * 3600.0,
        answered_before=True,
    )

    assert story.statuses == {"success": 1, "failed": bad}
    assert story.seconds < 1800


@dataclass
class Sink:
    """Keeps the numbers of rows that ended well."""

    congested = False
    ended: dict[int, str] = field(default_factory=dict)

    def put(self, result: object) -> None:
        self.ended[result.number] = result.status  # type: ignore[attr-defined]

    async def drained(self) -> None:
        return


class GoodUnless:
    """A transport whose good answer is the same for all, after half a second; requests with *word* get 500 sooner."""

    def __init__(self, word: bytes) -> None:
        self.word = word

    async def post(self, request: Request, *, timeout: float) -> Reply:
        if self.word in request.body:
            await asyncio.sleep(0.1)
            return status(500)
        await asyncio.sleep(0.5)
        body = b'{"choices":[{"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}]}'
        return Reply(200, {"content-type": "application/json"}, body)

    async def aclose(self) -> None:
        return


def test_a_finished_row_of_another_model_may_be_looked_up_for_a_check() -> None:
    """The route that it makes came while the routes were gone through: the run broke off with an internal error."""
    good = row_from_value(7, {"prompt": "hello", "model": "other"})
    assert isinstance(good, Row)

    async def main() -> dict[int, str]:
        provider = HttpProvider(
            ProviderSettings(model="m", base_url="http://127.0.0.1:1/v1", environ={}), GoodUnless(b"row 1")
        )
        sink = Sink()
        engine = Engine(
            provider,
            IterableSource([{"prompt": f"row {number}"} for number in range(1, 20)]),
            sink,
            RunOptions(seed=1, concurrency=19, failure_threshold=18),
            earlier=EarlierRuns(lambda _: True, lambda: [good]),
        )
        await engine.run()
        return sink.ended

    ended = run_virtual(main(), limit=3600.0)

    assert [row for row, how in sorted(ended.items()) if how == "failed"] == [1, *range(10, 20)]


def test_traffic_ramps_after_a_named_wait_that_an_opening_outlasted() -> None:
    """Two calls name a wait, the circuit opens and the next probe passes: half of all places were filled at once."""
    policy = RoutePolicy(
        concurrency=40, max_attempts=3, failure_threshold=5, recovery_timeout=60.0, success_threshold=1, timeout=120.0
    )
    state = RouteState("m", policy, history=RouteHistory())
    calls = [call for row in range(1, 41) if (call := state.admit(row, 0.0, timeout=120.0)) is not None]
    down = Outcome("failure", retry=True, code="http_503", message="busy", retry_after=10.0, status=503)
    for call in calls:
        state.settle(call, down, 1.0)
    assert (state.is_closed, state.throttle.ramp_due) == (False, True)

    probe = state.admit(41, 12.0, timeout=120.0)
    assert probe is not None
    state.settle(probe, Outcome("success", status=200), 12.5)

    assert state.is_closed
    assert state.room(12.5) <= 2


def test_a_parked_row_keeps_the_wait_that_its_own_answer_named(simulate: Simulate, prompts: Prompts) -> None:
    """It was asked to wait ten minutes, others passed, and an outage came and went: it was sent at the recovery."""

    def answer(body: bytes, now: float) -> Reply | None:
        if b"row 2 " in body or b'row 2"' in body:
            return status(503, retry_after="600") if now < 600.0 else None
        return status(500) if 5.0 <= now < 25.0 and is_row(body) else None

    story = simulate(
        prompts(300),
        wrap=lambda transport: Scripted(transport, answer),
        concurrency=5,
        latency=0.5,
        recovery_timeout=5.0,
    )

    sent = [event.at for event in story.of(CallSent) if event.row == 2]
    assert story.statuses == {"success": 300}
    assert len(sent) == 2
    assert sent[1] >= 600.0


def test_rows_that_only_the_smallest_request_outlives_are_probed_ever_more_seldom(
    simulate: Simulate, prompts: Prompts
) -> None:
    """Each row is refused for a quarter of an hour, the smallest request passes: each closing began the waits anew."""

    def answer(body: bytes, now: float) -> Reply | None:
        return status(400) if is_row(body) and 5.0 <= now < 905.0 else None

    story = simulate(prompts(300), wrap=lambda transport: Scripted(transport, answer), concurrency=5, latency=0.5)

    refused = [event.at for event in story.of(CallSent) if 100.0 <= event.at < 905.0]
    assert story.statuses == {"success": 300}
    assert story.seconds < 905.0 + 180.0
    assert len(refused) <= 40
