"""Rate limits in whole runs under virtual time: obeyed before a 429 comes, waited for, and never blamed on anybody."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from runner_limits import DAY, ThrottledAtRandom, send
from runner_story import Prompts, Simulate

from llmbatch.core.calls import Reply, Request
from llmbatch.core.events import CallSent, LimitLearned, Notice, RowParked, Throttled
from llmbatch.core.ports import Transport
from llmbatch.display.phrases import waits_for
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.sim.rate_limits import RateLimits
from llmbatch.sim.scenario import Phase
from llmbatch.sim.virtual import VirtualTransport


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.parametrize(
    ("style", "rpm"),
    [
        *(("openai", 60), ("anthropic", 60), ("azure", 60), ("openai", 600)),
        *(pytest.param(style, 600, marks=pytest.mark.long) for style in ("anthropic", "azure")),
    ],
)
def test_reported_requests_per_minute_are_used_and_hardly_ever_exceeded(style: Any, rpm: int) -> None:
    """At least 95 % of the allowed rate after the first minute, and at most 1 % of the calls refused."""
    run = send(5 * rpm, RateLimits(style, rpm=rpm, burst=60))

    assert run.story.statuses == {"success": 5 * rpm}
    assert run.rate(60, 240) >= 0.95 * rpm
    assert run.refused <= 0.01
    learned = run.story.of(LimitLearned)
    assert [(event.kind, event.limit) for event in learned] == [("requests", rpm)]


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.parametrize("style", ["openai", "anthropic", "azure"])
def test_reported_tokens_per_minute_are_used_and_hardly_ever_exceeded(style: Any) -> None:
    """Tokens are counted as the provider counts them, which is learned from what remains."""
    per_row = 110.0
    run = send(1200, RateLimits(style, tpm=240 * per_row))

    assert run.story.statuses == {"success": 1200}
    assert run.rate(60, 180) * per_row >= 0.9 * 240 * per_row
    assert run.refused <= 0.01


@pytest.mark.slow  # many calls in virtual time
def test_a_limit_over_ten_seconds_that_nobody_reports_is_found() -> None:
    """Azure reports requests per minute, and refuses more than ten seconds of them at once."""
    run = send(1000, RateLimits("azure", rpm=600), latency=0.3)

    assert run.story.statuses == {"success": 1000}
    assert run.rate(10, 70) >= 0.95 * 600
    assert run.refused <= 0.01


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
@pytest.mark.parametrize(
    "limits", [RateLimits("groq", rpm=600, rpd=14400), RateLimits("openai", rpm=600, headers=False)]
)
def test_a_limit_that_only_refusals_state_is_kept(limits: RateLimits) -> None:
    """Groq reports the day's requests; those of the minute are in the words of its refusals only."""
    run = send(1500, limits, latency=0.3)

    assert run.story.statuses == {"success": 1500}
    assert run.rate(60, 85) >= 0.95 * 600
    assert run.refused <= 0.02
    assert ("requests", 600.0, "refusal") in [(e.kind, e.limit, e.source) for e in run.story.of(LimitLearned)]


def test_tokens_of_many_rows_at_once_are_not_underestimated_after_refusals() -> None:
    """40 requests are in flight before anything is known of a limit of 60 of them; one refusal brings no more."""
    run = send(250, RateLimits("openai", tpm=6300), latency=0.3)

    assert run.story.statuses == {"success": 250}
    assert run.refused <= 0.01


@pytest.mark.slow  # thousands of calls in virtual time
def test_limits_that_change_are_followed() -> None:
    """Halved after two minutes and doubled after four: within half a minute the rate is the new one."""
    phases = (Phase(120), Phase(120, limits=0.5), Phase(math.inf, limits=2.0))
    run = send(2000, RateLimits("openai", rpm=300), *phases)

    assert run.rate(150, 240) == pytest.approx(150, rel=0.06)
    assert run.rate(270, 300) == pytest.approx(600, rel=0.06)
    assert run.refused <= 0.01


def test_headers_may_be_ignored() -> None:
    """Then only refusals slow the run."""
    run = send(200, RateLimits("openai", rpm=60), ignore_rate_headers=True)

    assert run.story.statuses == {"success": 200}
    assert run.refused > 0.05
    assert not run.story.of(LimitLearned)


def test_a_daily_quota_parks_the_route_until_its_reset() -> None:
    """Groq's requests are the day's: it waits for them one by one, without a refusal."""
    run = send(105, RateLimits("groq", rpd=100), on_outage="wait")

    assert run.story.statuses == {"success": 105}
    assert run.refused == 0.0
    assert run.story.of(RowParked)
    assert run.story.seconds > 4 * DAY / 100


def test_rows_beyond_the_daily_quota_are_left_for_another_command() -> None:
    """``--on-outage defer``: exit 75, each row with the seconds until it may go."""
    run = send(105, RateLimits("groq", rpd=100), on_outage="defer")

    assert run.story.ending.exit_code == 75
    assert run.story.statuses == {"success": 100}
    assert all(result.retry_after and result.retry_after > 60 for result in run.story.deferred)
    assert run.stats.snapshot().throttles == 0


def test_requests_of_an_earlier_run_count_for_rpd_until_their_day_has_ended() -> None:
    """Sixty were sent two hours ago, and none of an earlier day counts."""
    run = send(250, None, rpd=100.0, requests_today=(60, 7200.0))
    fresh = send(150, None, rpd=100.0, requests_today=(60, DAY + 1.0))

    ends = (0.0, DAY - 7200.0, 2 * DAY - 7200.0)
    assert run.story.statuses == {"success": 250}
    assert [sum(begin <= at < begin + DAY - 7200.0 for at, _ in run.log) for begin in ends] == [40, 100, 100]
    assert [sum(begin <= at < begin + DAY for at, _ in fresh.log) for begin in (0.0, DAY)] == [100, 50]


def test_rpd_bounds_what_is_sent_in_a_day() -> None:
    """Whatever the provider allows; the rest goes on the next day."""
    run = send(250, None, rpd=100.0)

    assert run.story.statuses == {"success": 250}
    assert [sum(begin <= at < begin + DAY for at, _ in run.log) for begin in (0.0, DAY, 2 * DAY)] == [100, 100, 50]
    assert not [event for event in run.story.of(Throttled) if event.is_refusal]


def test_rpm_holds_though_the_provider_allows_more() -> None:
    """The user's limit is never exceeded."""
    run = send(120, RateLimits("openai", rpm=6000), rpm=60.0)

    assert run.story.statuses == {"success": 120}
    assert max(sum(begin <= at < begin + 60 for at, _ in run.log) for begin in range(60)) <= 62


def test_another_run_with_the_same_key_is_left_its_share() -> None:
    """What remains falls faster than this run sends: it obeys what remains."""

    async def other_run(transport: VirtualTransport) -> None:
        request = Request(
            HttpProvider(ProviderSettings(model="m", base_url="http://127.0.0.1:1/v1", environ={}), transport)
            ._resolver.target(None, None, anthropic=False)
            .route,
            "http://127.0.0.1:1/v1/chat/completions",
            {},
            b'{"model":"m","messages":[{"role":"user","content":"hi"}]}',
            "chat",
            10,
        )
        while True:
            await asyncio.gather(transport.post(request, timeout=60), asyncio.sleep(0.5))

    run = send(400, RateLimits("openai", rpm=240), beside=other_run)

    assert run.story.statuses == {"success": 400}
    assert run.refused <= 0.09  # what the other one takes while an answer is on its way


@pytest.mark.parametrize(
    "lie",
    [
        {"limit": "0", "remaining": "0", "reset": "1h"},
        {"limit": "60", "remaining": "0", "reset": "1ms"},
        {"limit": "1000000000000", "remaining": "0", "reset": "9999999999s"},
        {"limit": "60", "remaining": "-5", "reset": "-60s"},
        {"limit": "60", "remaining": "1e9", "reset": "1s"},
        {"limit": "9" * 100, "remaining": "9" * 100, "reset": "9" * 100},
    ],
    ids=lambda lie: f"{lie['limit'][:15]}, {lie['remaining'][:9]}, {lie['reset'][:9]}",
)
def test_headers_that_lie_stop_nothing(lie: dict[str, str]) -> None:
    """They are told once at most, and the run goes on at its pace."""

    class Lying:
        def __init__(self, transport: VirtualTransport) -> None:
            self._transport = transport

        async def post(self, request: Request, *, timeout: float) -> Reply:
            reply = await self._transport.post(request, timeout=timeout)
            headers = {f"x-ratelimit-{name}-requests": text for name, text in lie.items()}
            return Reply(reply.status, {"content-type": "application/json"} | headers, reply.body)

        async def aclose(self) -> None:
            return

    run = send(400, None, wrap=Lying, latency=0.5)

    assert run.story.statuses == {"success": 400}
    assert run.story.seconds < 30
    assert len([event for event in run.story.of(Notice) if "reports a limit" in event.message]) <= 1


def test_calls_wait_for_a_limit_without_losing_their_place() -> None:
    """Rows go in their order though each waits; one that waited and a new one take turns."""
    run = send(90, RateLimits("openai", rpm=60), concurrency=1, latency=0.1)

    rows = [event.row for event in run.story.of(CallSent)]
    assert sorted(rows) == list(range(1, 91))
    assert max(abs(row - place) for place, row in enumerate(rows, 1)) <= 1


def test_what_a_limit_of_the_user_stops_is_not_blamed_on_the_provider() -> None:
    """The reason, the deferred rows and the display name ``--rpd``."""
    run = send(5, None, rpd=3.0, on_outage="defer")

    assert run.story.ending.exit_code == 75
    assert run.story.ending.reason == "--rpd 3 is used up"
    assert {result.reason for result in run.story.deferred} == {"waiting for --rpd 3"}
    waits = waits_for(run.stats.snapshot())
    assert waits is not None
    assert waits.endswith(", whose limit is used up (--rpd 3, 23h59m left)")


def test_a_reported_quota_is_named_where_it_stops_the_run() -> None:
    """With the provider's own numbers."""
    run = send(105, RateLimits("groq", rpd=100), on_outage="defer")

    assert run.story.ending.reason == "the provider's limit of 100 requests a day is used up"


def test_a_row_larger_than_tpm_delays_rows_and_parks_none() -> None:
    """Each of 110 tokens waits more than a minute for ``--tpm 60``: no row is deferred for that."""
    run = send(4, None, tpm=60.0, on_outage="defer", concurrency=1)

    assert run.story.ending.exit_code == 0
    assert run.story.statuses == {"success": 4}
    assert not run.story.of(RowParked)
    assert run.story.seconds > 60


@pytest.mark.slow  # hundreds of rows, each sent several times
@pytest.mark.parametrize(("share", "concurrency", "seed"), [(0.5, 20, 2), (0.5, 40, 5), (0.6, 40, 4)])
def test_no_row_is_taken_for_too_large_where_half_of_all_calls_are_throttled(
    simulate: Simulate, prompts: Prompts, share: float, concurrency: int, seed: int
) -> None:
    """Eleven of them in a row are met by one row in two thousand: what others met counts too, though it is excused."""
    story = simulate(
        prompts(300),
        wrap=lambda transport: ThrottledAtRandom(transport, share, 2.0, seed),
        concurrency=concurrency,
        seed=seed,
    )

    assert story.statuses == {"success": 300}


class Bucket:
    """Refuses, without a hint, what its bytes of *rate* a second, up to *most*, do not cover now."""

    def __init__(self, transport: Transport, rate: float, most: float) -> None:
        self.transport = transport
        self.rate = rate
        self.most = self.left = most
        self.at = 0.0

    async def post(self, request: Request, *, timeout: float) -> Reply:
        now = asyncio.get_running_loop().time()
        self.left, self.at = min(self.most, self.left + (now - self.at) * self.rate), now
        if len(request.body) > self.left:
            return Reply(429, {}, b'{"error":{"message":"Too many requests"}}')
        self.left -= len(request.body)
        return await self.transport.post(request, timeout=timeout)

    async def aclose(self) -> None:
        await self.transport.aclose()


@pytest.mark.parametrize("at", [20, 149])
def test_a_large_row_waits_for_its_share_of_a_minute(simulate: Simulate, at: int) -> None:
    """It failed as too large after three refusals in four seconds, while the small ones beside it passed."""
    rows = [{"prompt": f"row {number} " + "x" * (25_000 if number == at else 150)} for number in range(150)]

    story = simulate(rows, wrap=lambda transport: Bucket(transport, 1_000.0, 30_000.0), concurrency=8)

    assert story.statuses == {"success": 150}


def test_a_row_that_alone_is_throttled_still_ends(simulate: Simulate, prompts: Prompts) -> None:
    """It is larger than the limit, which its line says."""
    story = simulate(prompts(200, poison=[100], status=429))

    assert (story.statuses, [result.error_code for result in story.failed.values()]) == (
        {"success": 199, "failed": 1},
        ["request_too_large"],
    )
