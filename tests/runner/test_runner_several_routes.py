"""Rows with several routes, in virtual time: fallbacks while a route is down or refused, and pools by weight."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from runner_story import Collector, Prompts, Story

from llmbatch.core.calls import Reply, Request
from llmbatch.core.events import CallSent, CircuitChanged, Notice, OutageStarted, RowMoved, RowParked
from llmbatch.inputs.iterable import IterableSource
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.pools import make_providers, read_pools
from llmbatch.providers.resolve import ProviderSettings
from llmbatch.runner.engine import Engine
from llmbatch.runner.options import RunOptions
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.scenario import Phase, Scenario
from llmbatch.sim.virtual import VirtualTransport, run_virtual

FINE = Phase(math.inf, "fine")
LATENCY = 0.4


class Servers:
    """A transport to several simulated providers, one for each place: a model, or a key."""

    def __init__(self, phases: Mapping[str, Sequence[Phase]], *, latency: float, seed: int) -> None:
        self.transports = {
            place: VirtualTransport(
                SimulatedProvider(Scenario("test", tuple(story), "for a test"), seed=seed, latency=latency),
                keep_log=True,
            )
            for place, story in phases.items()
        }

    async def post(self, request: Request, *, timeout: float) -> Reply:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        place = key if key in self.transports else json.loads(request.body)["model"]
        return await self.transports[place].post(request, timeout=timeout)

    async def aclose(self) -> None:
        return

    def good(self, place: str) -> int:
        return sum(status == 200 for _, status in self.transports[place].log)


def send(
    rows: Iterable[object],
    phases: Mapping[str, Sequence[Phase]],
    *,
    model: str = "openai/first",
    fallback: Sequence[str] = ("mistral/second",),
    pools: object = None,
    seed: int = 1,
    latency: float = LATENCY,
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> tuple[Story, Servers]:
    """Send *rows* to the simulated servers, each with its *phases*, and check what always holds."""
    collector = Collector()
    servers = Servers(phases, latency=latency, seed=seed)

    async def main() -> Story:
        keys = {"OPENAI_API_KEY": "sk-openai", "MISTRAL_API_KEY": "mk", "ANTHROPIC_API_KEY": "sk-ant"}
        settings = ProviderSettings(model=model, environ=keys | dict(environ or {}))
        provider = make_providers(
            settings, lambda of: HttpProvider(of, servers), fallback=fallback, pools=read_pools(pools or {}, "pools")
        )
        engine = Engine(
            provider,
            IterableSource(rows),
            collector,
            RunOptions(**({"seed": seed, "concurrency": 40} | options)),
            observers=[collector],
        )
        loop = asyncio.get_running_loop()
        started = loop.time()
        ending = await engine.run()
        return Story(
            *(ending, collector.results, engine.deferred(), collector.events, []),
            *(loop.time() - started, 0, 0, collector.finished_at),
        )

    story = run_virtual(main, limit=200_000.0)
    ends = Counter(result.number for result in story.results)
    assert max(ends.values(), default=1) == 1, "a row ended twice"
    assert not ends.keys() & {result.number for result in story.deferred}, "a row both ended and waits"
    return story, servers


def opened_at(story: Story, route: str) -> float:
    return next(
        event.at for event in story.of(CircuitChanged) if event.route == route and (event.old, event.new)[0] == "closed"
    )


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize(
    "behavior",
    [
        "down",
        "hang",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("quota", "refuse", "unauthorized", "bad_request")),
    ],
)
def test_rows_go_on_at_the_fallback_while_the_first_route_is_down(prompts: Prompts, behavior: Any) -> None:
    """No row is parked or fails; the fallback is called within a second; the first route has its rows back."""
    outage = Phase(20, behavior)
    story, servers = send(prompts(4000), {"first": [Phase(5), outage, FINE], "second": [FINE]}, timeout=10.0)

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 4000})
    assert not story.of(RowParked)
    calls = [event for event in story.of(CallSent) if event.route == "mistral/second"]
    assert 0 <= calls[0].at - opened_at(story, "openai/first") <= 1.0
    assert {event.goes_to for event in story.of(OutageStarted)} <= {"mistral/second"}
    assert behavior != "down" or story.of(OutageStarted)
    back = sum(status == 200 and at > 25.0 for at, status in servers.transports["first"].log)
    if behavior == "quota":  # an operator has to act: the account is left for good
        assert (back, servers.good("second") > 3000) == (0, True)
    else:
        assert back > 400


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("rows", [3000, pytest.param(6000, marks=pytest.mark.long)])
def test_an_outage_costs_hardly_any_time_with_a_fallback(prompts: Prompts, rows: int) -> None:
    """The ideal has 40 calls in flight all the time, at whichever route works."""
    story, _ = send(prompts(rows), {"first": [Phase(5), Phase(20, "down"), FINE], "second": [FINE]})
    alone, _ = send(prompts(rows), {"first": [FINE], "second": [FINE]})

    assert story.statuses == alone.statuses == {"success": rows}
    assert story.seconds <= 1.05 * alone.seconds


@pytest.mark.slow  # many calls in virtual time
def test_a_healthy_route_gives_no_row_to_its_fallback(prompts: Prompts) -> None:
    """Not even at its limit of requests in flight, nor while some of its calls fail."""
    errors = Phase(math.inf, "errors", share=0.1)
    story, servers = send(prompts(2000), {"first": [errors], "second": [FINE]})

    assert story.statuses == {"success": 2000}
    assert servers.transports["second"].log == []
    assert {result.route for result in story.results} == {None}


@pytest.mark.parametrize("behavior", ["unauthorized", "quota"])
def test_an_account_that_is_refused_from_the_start_is_left_for_the_fallback(prompts: Prompts, behavior: Any) -> None:
    """Told once, as a warning that names the fallback; the run ends well."""
    story, _ = send(prompts(500), {"first": [Phase(math.inf, behavior)], "second": [FINE]})

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 500})
    told = [event for event in story.of(Notice) if "mistral/second" in event.message]
    assert [event.level for event in told] == ["warning"]
    assert {(result.model, result.route) for result in story.results} == {("mistral/second", "mistral/second")}


def test_a_run_whose_routes_are_all_refused_stops(prompts: Prompts) -> None:
    """Exit 3, and no row has failed."""
    refused = [Phase(math.inf, "unauthorized")]
    story, _ = send(prompts(500), {"first": refused, "second": refused})

    assert (story.ending.exit_code, story.statuses) == (3, {})


@pytest.mark.slow  # many calls in virtual time
def test_rows_are_parked_only_while_all_routes_are_down(prompts: Prompts) -> None:
    """The first that recovers gets them, whichever it is."""
    both = {"first": [Phase(5), Phase(300, "down"), FINE], "second": [Phase(1), Phase(60, "down"), FINE]}
    story, servers = send(prompts(3000), both)

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 3000})
    assert story.of(RowParked)
    assert servers.good("second") > 2000
    assert story.seconds < 130


@pytest.mark.slow  # many calls in virtual time
def test_a_fallback_that_is_refused_too_leaves_rows_waiting_for_the_first(prompts: Prompts) -> None:
    """The first route is only down: its rows wait for it, and nothing has failed."""
    story, _ = send(
        prompts(1000), {"first": [Phase(5), Phase(100, "down"), FINE], "second": [Phase(math.inf, "unauthorized")]}
    )

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 1000})


@pytest.mark.slow  # many calls in virtual time
def test_a_bad_row_fails_where_it_is_and_visits_no_other_route(prompts: Prompts) -> None:
    """Rows that always fail are theirs, with a fallback or without."""
    story, servers = send(
        prompts(1000, poison=range(100, 1000, 100)), {"first": [FINE], "second": [FINE]}, max_attempts=3
    )

    assert story.statuses == {"success": 991, "failed": 9}
    assert servers.transports["second"].log == []


@pytest.mark.slow  # many calls in virtual time
def test_bad_rows_end_though_the_first_route_is_down(prompts: Prompts) -> None:
    """They are judged at the fallback."""
    story, _ = send(
        prompts(1000, poison=range(100, 1000, 100)),
        {"first": [Phase(1), Phase(600, "down")], "second": [FINE]},
    )

    assert story.statuses == {"success": 991, "failed": 9}
    assert story.seconds < 120


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
def test_rows_that_only_the_first_format_can_carry_wait_for_it() -> None:
    """A batch row of Anthropic's format is not sent to a provider that does not know it."""
    batch = [
        {"custom_id": f"b{number}", "params": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}}
        for number in range(100)
    ]
    plain = [{"prompt": f"row {number}"} for number in range(900)]
    rows = [row for pair in zip(plain, batch * 9, strict=False) for row in pair][:1000]
    story, servers = send(
        rows, {"first": [Phase(2), Phase(60, "down"), FINE], "second": [FINE]}, model="anthropic/first"
    )

    assert story.statuses == {"success": 1000}
    assert all(result.model == "anthropic/first" for result in story.results if result.id.startswith("b"))
    assert any(result.model == "mistral/second" for result in story.results)
    assert servers.good("second") > 100


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
def test_messages_that_the_fallback_cannot_take_wait_for_the_first_route(prompts: Prompts) -> None:
    """Anthropic takes none that are of the system alone; nothing breaks when the others move."""
    odd: list[object] = [{"messages": [{"role": "system", "content": f"row {number}"}]} for number in range(20)]
    rows = [*prompts(400), *odd, *prompts(400)]
    story, _ = send(
        rows, {"first": [Phase(2), Phase(60, "down"), FINE], "second": [FINE]}, fallback=("anthropic/second",)
    )

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 820})
    assert {result.model for result in story.results if 400 < result.number <= 420} == {"openai/first"}
    assert any(result.model == "anthropic/second" for result in story.results)


@pytest.mark.slow  # many calls in virtual time
def test_defer_leaves_no_row_that_some_route_takes(prompts: Prompts) -> None:
    """``--on-outage defer`` ends when all that can be done is done."""
    story, _ = send(prompts(1000), {"first": [Phase(5), Phase(math.inf, "down")], "second": [FINE]}, on_outage="defer")

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 1000})


@pytest.mark.slow  # many calls in virtual time
def test_fail_fails_no_row_that_some_route_takes(prompts: Prompts) -> None:
    """Nor does ``--on-outage fail``."""
    story, _ = send(prompts(1000), {"first": [Phase(5), Phase(math.inf, "down")], "second": [FINE]}, on_outage="fail")

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 1000})


@pytest.mark.slow  # many calls in virtual time
def test_rows_of_a_tenant_go_to_the_fallback_too(prompts: Prompts) -> None:
    """With a circuit for each tenant."""
    rows = [{"prompt": f"row {number}", "metadata": {"tenant": f"t{number % 3}"}} for number in range(1500)]
    story, _ = send(
        rows, {"first": [Phase(3), Phase(60, "down"), FINE], "second": [FINE]}, circuit_key="metadata.tenant"
    )

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 1500})
    assert story.seconds < 40


KEYS = {"KEY_A": "key-a", "KEY_B": "key-b", "KEY_C": "key-c"}


def pool(**weights: float) -> object:
    return {
        "cheap": {
            "routes": [
                {"model": "openai/m", "api_key_env": f"KEY_{name.upper()}", "weight": weight}
                for name, weight in weights.items()
            ]
        }
    }


def shares(story: Story) -> dict[str, float]:
    rows = Counter(result.route for result in story.results)
    return {str(route): count / len(story.results) for route, count in rows.items()}


@pytest.mark.slow  # many calls in virtual time
def test_a_pool_shares_its_rows_by_weight(prompts: Prompts) -> None:
    """Each line names the route that answered, never the key."""
    servers = {key: [FINE] for key in KEYS.values()}
    story, _ = send(prompts(4000), servers, model="pool/cheap", fallback=(), pools=pool(a=2, b=1, c=1), environ=KEYS)

    assert story.statuses == {"success": 4000}
    found = shares(story)
    assert found == {
        "openai/m (KEY_A)": pytest.approx(0.5, abs=0.02),
        "openai/m (KEY_B)": pytest.approx(0.25, abs=0.02),
        "openai/m (KEY_C)": pytest.approx(0.25, abs=0.02),
    }
    assert {result.model for result in story.results} == {"openai/m"}


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("begins", [0.0, pytest.param(5.0, marks=pytest.mark.long)])
def test_a_key_of_a_pool_without_money_is_left_out(prompts: Prompts, begins: float) -> None:
    """At once, no row fails, and the others carry the load by weight."""
    broke = [Phase(math.inf, "quota")] if not begins else [Phase(begins), Phase(math.inf, "quota")]
    servers = {"key-a": [FINE], "key-b": broke, "key-c": [FINE]}
    story, sent = send(prompts(6000), servers, model="pool/cheap", fallback=(), pools=pool(a=2, b=1, c=1), environ=KEYS)

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 6000})
    refused = [at for at, status in sent.transports["key-b"].log if status != 200]
    assert len(refused) <= 20
    assert max(refused) - min(refused) <= 2.0
    rest = Counter(result.route for result in story.results if story.finished_at[result.number] > begins + 3)
    total = sum(rest.values())
    assert rest["openai/m (KEY_A)"] / total == pytest.approx(2 / 3, abs=0.05 * 2 / 3)
    assert rest["openai/m (KEY_C)"] / total == pytest.approx(1 / 3, abs=0.05 * 1 / 3)


@pytest.mark.slow  # many calls in virtual time
def test_a_pool_without_a_route_left_goes_to_the_fallback(prompts: Prompts) -> None:
    """And comes back."""
    outage = [Phase(3), Phase(20, "down"), FINE]
    servers = {"key-a": outage, "key-b": outage, "second": [FINE]}
    story, sent = send(prompts(5000), servers, model="pool/cheap", pools=pool(a=1, b=1), environ=KEYS)

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 5000})
    assert sent.good("second") > 1000
    assert sum(status == 200 and at > 25 for at, status in sent.transports["key-a"].log) > 100


@pytest.mark.slow  # many calls in virtual time
def test_a_throttled_route_of_a_pool_holds_up_nothing(prompts: Prompts) -> None:
    """Rows go where there is room: what waits at the throttled one is relieved."""
    throttled = [Phase(math.inf, "throttle", share=0.7)]
    given: Any = {"model": "pool/cheap", "fallback": (), "environ": KEYS, "concurrency": 20}
    story, _ = send(prompts(3000), {"key-a": throttled, "key-b": [FINE]}, pools=pool(a=1, b=1), **given)
    alone, _ = send(prompts(3000), {"key-b": [FINE]}, pools=pool(b=1), **given)

    assert story.statuses == alone.statuses == {"success": 3000}
    assert story.seconds <= 1.2 * alone.seconds


def test_rows_may_name_a_pool_each(prompts: Prompts) -> None:
    """Beside rows that name a model, or leave it to the run."""
    rows = [{"prompt": f"row {number}", "model": "pool/cheap"} for number in range(100)] + prompts(100)
    servers = {"key-a": [FINE], "key-b": [FINE], "first": [FINE]}
    story, sent = send(rows, servers, fallback=(), pools=pool(a=1, b=1), environ=KEYS)

    assert story.statuses == {"success": 200}
    assert (sent.good("key-a"), sent.good("key-b"), sent.good("first")) == (50, 50, 100)


@pytest.mark.slow  # many calls in virtual time
def test_moved_rows_are_told(prompts: Prompts) -> None:
    """Each with the route that takes it, and never back and forth without an opening between."""
    story, _ = send(prompts(2000), {"first": [Phase(3), Phase(30, "down"), FINE], "second": [FINE]})

    moved = story.of(RowMoved)
    assert {(event.route, event.to) for event in moved} == {("openai/first", "mistral/second")}
    assert max(Counter(event.row for event in moved).values()) <= 2


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
def test_each_route_of_a_pool_keeps_its_own_limits(prompts: Prompts) -> None:
    """The rest goes where there is room."""
    routes = [
        {"model": "openai/m", "api_key_env": "KEY_A", "rpm": 60},
        {"model": "openai/m", "api_key_env": "KEY_B", "rpd": 50},
        {"model": "openai/m", "api_key_env": "KEY_C", "tpm": "1M"},
    ]
    servers = {key: [FINE] for key in KEYS.values()}
    story, sent = send(
        prompts(1500), servers, model="pool/p", fallback=(), pools={"p": {"routes": routes}}, environ=KEYS
    )

    assert story.statuses == {"success": 1500}
    assert len(sent.transports["key-b"].log) == 50
    assert len(sent.transports["key-a"].log) <= story.seconds + 3
    assert story.seconds < 60


ERRORS, THROTTLED = Phase(math.inf, "errors", share=0.1), Phase(math.inf, "throttle", share=0.3)


@pytest.mark.slow  # thousands of calls in virtual time
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([Phase(3), Phase(40, "down"), FINE], [THROTTLED]),
        ([Phase(3), Phase(60, "hang"), FINE], [ERRORS]),
        ([Phase(3), Phase(math.inf, "quota")], [Phase(2), Phase(30, "down"), FINE]),
        ([*[Phase(5), Phase(5, "down")] * 6, FINE], [*[Phase(2), Phase(4, "down")] * 8, FINE]),
    ],
    ids=["throttled fallback", "fallback with errors", "no money, then an outage", "both flap"],
)
def test_bad_rows_alone_fail_though_neither_route_is_well(
    prompts: Prompts, first: list[Phase], second: list[Phase]
) -> None:
    """Everyday mess at both routes at once costs no good row, and no bad row goes back and forth for ever."""
    story, _ = send(prompts(1500, poison=range(50, 1500, 50)), {"first": first, "second": second}, timeout=10.0)

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 1471, "failed": 29})
    assert max(result.attempts for result in story.results) <= 26
    assert story.seconds < 120


def test_a_row_that_is_judged_by_its_own_attempts_is_tried_at_the_fallback_first(prompts: Prompts) -> None:
    """Nothing else is sent for its tenant, so that nobody can tell whether the row or the first route is at fault."""
    rows = [*prompts(50), {"prompt": "row 51", "metadata": {"tenant": "acme"}}]
    story, _ = send(
        rows,
        {"first": [Phase(0.7), Phase(1800, "down"), FINE], "second": [FINE]},
        circuit_key="metadata.tenant",
        concurrency=20,
    )

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 51})
    assert story.seconds < 600


def test_a_bad_row_that_is_judged_by_its_own_attempts_ends_after_its_last_route() -> None:
    """It is tried on both, and then fails."""
    rows = [{"prompt": f"row {number}", "metadata": {"tenant": f"t{number % 3}"}} for number in range(60)]
    rows.append({"prompt": "row 61 [sim:500]", "metadata": {"tenant": "acme"}})
    story, servers = send(rows, {"first": [FINE], "second": [FINE]}, circuit_key="metadata.tenant")

    assert story.statuses == {"success": 60, "failed": 1}
    assert len(servers.transports["second"].log) >= 3
    assert max(result.attempts for result in story.results) <= 40


@pytest.mark.slow  # many calls in virtual time
def test_probes_of_many_tenants_leave_the_slots_to_rows() -> None:
    """One slot, and a circuit for each of 30 tenants: probes that come after one another would take it for ever."""
    rows = [{"prompt": f"row {number}", "metadata": {"tenant": f"t{number % 30}"}} for number in range(300)]
    story, _ = send(
        rows,
        {"first": [Phase(20), Phase(200, "down"), FINE], "second": [FINE]},
        circuit_key="metadata.tenant",
        concurrency=1,
        latency=2.0,
    )

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 300})
    assert story.seconds < 3_000


def test_rows_of_a_tenant_that_wait_at_its_fallback_go_back_to_the_first_route() -> None:
    """The fallback never recovers. The first route does, which only a row of the tenant's can show."""
    rows = [
        {"prompt": f"row {number}", "metadata": {"tenant": "beta" if number < 6 else "acme"}} for number in range(12)
    ]
    story, _ = send(
        rows,
        {"first": [Phase(0.1), Phase(600, "down"), FINE], "second": [Phase(math.inf, "down")]},
        circuit_key="metadata.tenant",
        concurrency=6,
    )

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 12})
    assert story.seconds < 1_000


@pytest.mark.slow  # many calls in virtual time
def test_a_row_is_not_failed_alone_while_its_fallback_names_a_wait() -> None:
    """It waits for the fallback, which takes it later."""
    rows = [{"prompt": f"row {number}", "metadata": {"tenant": f"t{number % 80}"}} for number in range(160)]
    story, _ = send(
        rows,
        {
            "first": [Phase(0.3), Phase(3600, "refuse"), FINE],
            "second": [Phase(3600, "throttle", share=0.5, retry_after=56.0), FINE],
        },
        circuit_key="metadata.tenant",
        concurrency=8,
        recovery_timeout=5.0,
        timeout=5.0,
        latency=0.05,
    )

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 160})


@pytest.mark.parametrize("latency", [0.1, 0.4, 1.0])
def test_rows_that_fail_while_their_account_is_left_go_to_the_fallback(prompts: Prompts, latency: float) -> None:
    """They wait for no evidence on a route to which nothing more is sent."""
    rows = [*prompts(2, model="openai/other"), *prompts(40)]
    story, _ = send(
        rows,
        {"first": [Phase(math.inf, "quota")], "other": [Phase(math.inf, "errors", share=1.0)], "second": [FINE]},
        latency=latency,
    )

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 42})


def test_the_rows_that_were_told_to_wait_long_go_to_the_fallback_as_well(prompts: Prompts) -> None:
    """The wait is the first route's: neither the rows that wait for their turn nor those it was told to sit it out."""
    story, servers = send(
        prompts(200), {"first": [Phase(math.inf, "throttle", share=1.0, retry_after=600.0)], "second": [FINE]}
    )

    assert story.statuses == {"success": 200}
    assert story.seconds < 30
    assert servers.good("second") == 200


def test_a_row_that_each_route_throttles_ends(prompts: Prompts) -> None:
    """It does not go back and forth between two routes that name long waits for ever."""
    rows = [*prompts(60), *prompts(1, poison=[1], status=429)]
    story, _ = send(rows, {"first": [FINE], "second": [FINE]})

    assert story.statuses == {"success": 60, "failed": 1}
    assert story.seconds < 900


THROTTLED_SHORTLY = Phase(math.inf, "throttle", share=1.0, retry_after=5.0)
HALF_WITH_A_MINUTE = Phase(math.inf, "throttle", share=0.5, retry_after=60.0)
DOWN_WITH_MINUTES = Phase(math.inf, "down", retry_after=300.0)


@pytest.mark.parametrize(
    ("phases", "most"),
    [
        ([THROTTLED_SHORTLY], 30),
        ([HALF_WITH_A_MINUTE], 20),
        ([Phase(3), DOWN_WITH_MINUTES], 20),
        ([Phase(3), Phase(math.inf, "throttle", share=1.0, retry_after=600.0)], 20),
        ([Phase(math.inf, "bad_request")], 20),
    ],
    ids=["short waits for ever", "some rows told a minute", "down, with minutes", "throttled, with minutes", "refused"],
)
@pytest.mark.parametrize("way", ["fallback", "pool", "tenants"])
def test_one_route_that_takes_rows_is_enough(prompts: Prompts, phases: list[Phase], most: float, way: str) -> None:
    """Whatever the other one says: no row waits for it, and none fails (8 s alone)."""
    rows: list[Any] = prompts(300)
    given: dict[str, Any] = {"concurrency": 20, "timeout": 10.0}
    if way == "pool":
        routes = [{"model": "openai/first"}, {"model": "mistral/second"}]
        given |= {"model": "pool/p", "fallback": (), "pools": {"p": {"routes": routes}}}
    if way == "tenants":
        rows = [row | {"metadata": {"tenant": f"t{at % 5}"}} for at, row in enumerate(rows)]
        given["circuit_key"] = "metadata.tenant"
    story, _ = send(rows, {"first": phases, "second": [FINE]}, **given)

    assert (story.ending.exit_code, story.statuses) == (0, {"success": 300})
    assert story.seconds < most * (3 if way == "tenants" else 1)
