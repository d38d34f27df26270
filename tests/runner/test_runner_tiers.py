"""Rows of the flex tier, in virtual time: its lack of capacity is waited out, or they go to the standard tier."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest
from runner_story import Collector, Prompts, Story

from llmbatch.core.calls import Reply, Request
from llmbatch.core.events import CircuitChanged, OutageStarted, RowMoved, RowParked
from llmbatch.inputs.iterable import IterableSource
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.pools import make_providers, read_pools
from llmbatch.providers.resolve import ProviderSettings, tiers_of
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.sim.virtual import run_virtual

OPENAI = (429, "resource_unavailable", "Resource unavailable: no flex capacity now")
GROQ = (498, "capacity_exceeded", "Flex tier capacity exceeded")
GEMINI = (503, "UNAVAILABLE", "The model is overloaded. Please try again later.")

FLEX_SECONDS = 3.0
STANDARD_SECONDS = 0.5


class Tiers:
    """A provider with two tiers. *has_capacity* tells by the time and a draw whether flex takes a request."""

    def __init__(
        self,
        has_capacity: Callable[[float, float], bool],
        *,
        lack: tuple[int, str, str] = OPENAI,
        wait: float | None = None,
    ) -> None:
        self._has_capacity = has_capacity
        self._lack = lack
        self._headers = {} if wait is None else {"retry-after": f"{wait:g}"}
        self._draws = Random(7)
        self.log: list[tuple[float, str, int]] = []
        """When each request came, its tier, and the status of its answer."""

    async def post(self, request: Request, *, timeout: float) -> Reply:
        now = asyncio.get_running_loop().time()
        tier = json.loads(request.body).get("service_tier", "default")
        if tier == "flex" and not self._has_capacity(now, self._draws.random()):
            status, code, message = self._lack
            self.log.append((now, tier, status))
            await asyncio.sleep(0.2)
            error = {"message": message, "type": code, "code": code, "status": code}
            return Reply(status, self._headers, json.dumps({"error": error}).encode())
        self.log.append((now, tier, 200))
        await asyncio.sleep(FLEX_SECONDS if tier == "flex" else STANDARD_SECONDS)
        choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        body = {"choices": [choice], "usage": usage, "service_tier": tier}
        return Reply(200, {}, json.dumps(body).encode())

    async def aclose(self) -> None:
        return

    def count(self, tier: str, status: int = 200) -> int:
        return sum((other, got) == (tier, status) for _, other, got in self.log)


def send(
    rows: Iterable[object],
    servers: Tiers,
    tier: str,
    *,
    model: str = "openai/m",
    fallback: tuple[str, ...] = (),
    pools: object = None,
    **options: Any,
) -> Story:
    """Send *rows*, and check what always holds: each ends once, and nothing was taken for an outage."""
    collector = Collector()

    async def main() -> Story:
        keys = {f"{name}_API_KEY": f"sk-{name}" for name in ("OPENAI", "GROQ", "GEMINI", "MISTRAL")}
        settings = ProviderSettings(model=model, environ=keys | {"KEY_B": "sk-b"}, tiers=tiers_of(tier))
        provider = make_providers(
            settings, lambda of: HttpProvider(of, servers), fallback=fallback, pools=read_pools(pools or {}, "pools")
        )
        chosen: dict[str, Any] = {"seed": 1, "concurrency": 20, "tier": tier} | options
        run_options = RunOptions(**chosen)
        engine = Engine(provider, IterableSource(rows), collector, run_options, observers=[collector])
        loop = asyncio.get_running_loop()
        started = loop.time()
        ending = await engine.run()
        return Story(
            *(ending, collector.results, engine.deferred(), collector.events, []),
            *(loop.time() - started, 0, 0, collector.finished_at),
        )

    story = run_virtual(main, limit=200_000.0)
    assert max(Counter(result.number for result in story.results).values(), default=1) == 1, "a row ended twice"
    assert not story.of(OutageStarted)
    assert not story.of(CircuitChanged)
    return story


class Slots(Tiers):
    """Flex answers *slots* requests at a time, and refuses the others."""

    def __init__(self, slots: int) -> None:
        super().__init__(lambda now, draw: self._is_taken)
        self._slots = slots
        self._flying = 0
        self._is_taken = False

    async def post(self, request: Request, *, timeout: float) -> Reply:
        is_flex = json.loads(request.body).get("service_tier") == "flex"
        self._is_taken = is_flex and self._flying < self._slots
        if not self._is_taken:
            return await super().post(request, timeout=timeout)
        self._flying += 1
        try:
            return await super().post(request, timeout=timeout)
        finally:
            self._flying -= 1


def tiers(story: Story) -> Counter[str | None]:
    return Counter(result.tier for result in story.results)


@pytest.mark.parametrize(("model", "lack"), [("openai/m", OPENAI), ("groq/m", GROQ), ("gemini/gemini-m", GEMINI)])
def test_lack_of_flex_capacity_is_waited_out_and_is_no_outage(
    prompts: Prompts, model: str, lack: tuple[int, str, str]
) -> None:
    """An hour without capacity costs no row and few calls, and nothing goes to the standard tier."""
    servers = Tiers(lambda now, draw: not 10 <= now < 3610, lack=lack)
    story = send(prompts(500), servers, "flex", model=model)

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 500})
    assert tiers(story) == {"flex": 500}
    assert servers.count("default") == 0
    assert servers.count("flex", lack[0]) < 200
    assert story.seconds < 3610 + 300


@pytest.mark.parametrize("share", [0.1, 0.5, pytest.param(0.9, marks=pytest.mark.slow)])
def test_no_row_fails_where_flex_takes_only_some_requests(prompts: Prompts, share: float) -> None:
    """A row that met no capacity many times while others were taken is not taken for a bad one."""
    servers = Tiers(lambda now, draw: draw >= share)
    story = send(prompts(200), servers, "flex")

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 200})


def test_the_last_row_waits_for_capacity_too(prompts: Prompts) -> None:
    """It is not judged by its own attempts, however long that takes."""
    servers = Tiers(lambda now, draw: now < 1 or now > 5000)
    story = send(prompts(3), servers, "flex", concurrency=1)

    assert story.statuses == {"success": 3}


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("tier", ["flex", "flex,standard"])
def test_a_wait_that_flex_names_is_obeyed(prompts: Prompts, tier: str) -> None:
    """No flex request is sent before its end."""
    servers = Tiers(lambda now, draw: now > 100, wait=400)
    story = send(prompts(4000), servers, tier)

    assert story.statuses == {"success": 4000}
    refused = [at for at, asked, status in servers.log if (asked, status) == ("flex", 429)]
    later = [at for at, asked, _ in servers.log if asked == "flex" and at > refused[-1] + 0.2]
    assert max(refused) < 1
    assert tier == "flex,standard" or min(later) >= 400


@pytest.mark.slow  # many calls in virtual time
def test_rows_go_to_the_standard_tier_while_flex_has_no_capacity_and_return(prompts: Prompts) -> None:
    """No row is parked or fails, the work goes on at full speed, and flex has its rows back when it takes them."""
    servers = Tiers(lambda now, draw: not 20 <= now < 60)
    story = send(prompts(5000), servers, "flex,standard")

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 5000})
    assert not story.of(RowParked)
    billed = tiers(story)
    assert set(billed) == {"flex", "standard"}
    during = [at for at, asked, _ in servers.log if asked == "default"]
    assert min(during) < 22
    assert len(during) > 0.8 * (40 / STANDARD_SECONDS) * 20
    after = [at for at, asked, status in servers.log if (asked, status) == ("flex", 200) and at > 60]
    assert len(after) > 200
    assert not any(asked == "default" for at, asked, _ in servers.log if at > 150)


@pytest.mark.slow  # many calls in virtual time
def test_the_standard_tier_helps_until_flex_has_regained_its_pace(prompts: Prompts) -> None:
    """Flex takes a few rows at first: the others do not wait for it."""
    servers = Tiers(lambda now, draw: not 20 <= now < 60)
    send(prompts(5000), servers, "flex,standard")

    back = next(at for at, asked, status in servers.log if (asked, status) == ("flex", 200) and at > 60)
    helped = [at for at, asked, _ in servers.log if asked == "default" and back < at < back + 3]
    assert len(helped) > 0.7 * (20 / STANDARD_SECONDS) * 3


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("options", [{"on_outage": "defer"}, {"max_outage": 30.0}])
def test_flex_is_not_given_up_while_the_standard_tier_answers(prompts: Prompts, options: dict[str, Any]) -> None:
    """Nothing waits for it, however long it lacks capacity; alone, it ends the run with its rows deferred."""
    servers = Tiers(lambda now, draw: not 5 <= now < 150)
    story = send(prompts(4500), servers, "flex,standard", concurrency=8, **options)

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 4500})
    assert sum((asked, status) == ("flex", 200) and at > 150 for at, asked, status in servers.log) > 100
    alone = send(prompts(300), Tiers(lambda now, draw: not 5 <= now < 150), "flex", **options)
    assert (alone.ending.exit_code, len(alone.deferred) > 0, alone.statuses["failed"]) == (75, True, 0)


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("slots", [5, 10])
@pytest.mark.parametrize("tier", ["flex", "flex,standard"])
def test_what_flex_can_do_is_used(prompts: Prompts, tier: str, slots: int) -> None:
    """Its few slots are nearly always taken, and with a second tier that does the rest at full speed."""
    servers = Slots(slots)
    story = send(prompts(1500), servers, tier)

    assert story.statuses == {"success": 1500}
    assert servers.count("flex") / story.seconds > 0.9 * slots / FLEX_SECONDS
    if tier == "flex,standard":
        assert servers.count("default") / story.seconds > 0.5 * (20 - slots) / STANDARD_SECONDS


def test_lines_tell_the_route_and_the_tier(prompts: Prompts) -> None:
    """``model`` is the same for both tiers, as the model is."""
    servers = Tiers(lambda now, draw: now < 5)
    story = send(prompts(400), servers, "flex,standard")

    told = {(result.model, result.route, result.tier) for result in story.results}
    assert told == {("openai/m", "openai/m (flex)", "flex"), ("openai/m", "openai/m", "standard")}
    assert {(event.route, event.to) for event in story.of(RowMoved)} == {("openai/m (flex)", "openai/m")}


def test_flex_alone_has_the_usual_route(prompts: Prompts) -> None:
    """Its lines differ from those of the standard tier by ``tier`` alone."""
    story = send(prompts(5), Tiers(lambda now, draw: True), "flex")

    assert {(result.model, result.route, result.tier) for result in story.results} == {("openai/m", None, "flex")}


def test_a_standard_run_tells_no_tier(prompts: Prompts) -> None:
    """The provider says its default: that is no news."""
    story = send(prompts(5), Tiers(lambda now, draw: True), "standard")

    assert tiers(story) == {None: 5}


@pytest.mark.parametrize("tier", ["standard", "flex", "flex,standard"])
def test_a_rows_own_tier_wins(tier: str) -> None:
    """It is sent as the row has it, and waits for capacity alone."""
    servers = Tiers(lambda now, draw: now > 100)
    rows = [{"prompt": "a", "service_tier": "flex"}, {"prompt": "b", "service_tier": "priority"}]
    story = send(rows, servers, tier)

    assert sorted(asked for _, asked, status in servers.log if status == 200) == ["flex", "priority"]
    assert {result.number: result.tier for result in story.results} == {1: "flex", 2: "priority"}


@pytest.mark.slow  # many calls in virtual time
def test_a_pool_uses_the_flex_tier_of_each_key_before_any_standard_one(prompts: Prompts) -> None:
    """While flex has capacity no request goes to the standard tier; without it both keys' standard tiers work."""
    pools = {
        "two": {
            "routes": [
                {"model": "openai/m", "api_key_env": "OPENAI_API_KEY"},
                {"model": "openai/m", "api_key_env": "KEY_B"},
            ]
        }
    }
    servers = Tiers(lambda now, draw: now < 30)
    story = send(prompts(2000), servers, "flex,standard", model="pool/two", pools=pools)

    assert story.statuses == {"success": 2000}
    assert not any(asked == "default" for at, asked, _ in servers.log if at < 30)
    assert {result.route for result in story.results if result.tier == "standard"} == {
        "openai/m (OPENAI_API_KEY)",
        "openai/m (KEY_B)",
    }


def test_a_fallback_comes_after_both_tiers(prompts: Prompts) -> None:
    """Lack of flex capacity alone sends no row to another model."""
    servers = Tiers(lambda now, draw: now < 5)
    story = send(prompts(500), servers, "flex,standard", fallback=("mistral/other",))

    assert story.statuses == {"success": 500}
    assert {result.model for result in story.results} == {"openai/m"}
