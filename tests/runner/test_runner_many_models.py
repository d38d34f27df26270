"""Rows that each name a model of their own: nothing of a route stays once it is idle."""

from __future__ import annotations

import tracemalloc

import pytest
from runner_story import Simulate

from llmbatch.core.calls import Route
from llmbatch.core.events import CallSent, RowFinished
from llmbatch.core.rows import Row
from llmbatch.runner import routes as routes_module
from llmbatch.runner.options import RunOptions
from llmbatch.runner.routes import Routes
from llmbatch.sim.scenario import Phase

MOST = 256


@pytest.fixture(autouse=True)
def few_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "MAX_HISTORIES", MOST)


@pytest.mark.slow  # three thousand routes under tracemalloc
def test_memory_of_distinct_models_is_bounded() -> None:
    """From some number of models on, each further one leaves nothing."""
    routes = Routes(RunOptions(), seed=1, answered_before=lambda _: False)

    def visit(first: int, last: int) -> int:
        for number in range(first, last):
            routes.route_of(Row(number, "", "", {}), Route(f"openai/model-{number:06}", "a"), float(number))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        some = visit(0, 2 * MOST)
        many = visit(2 * MOST, 12 * MOST)
    finally:
        tracemalloc.stop()

    assert many - some < 100_000
    assert len(routes) <= 100


def test_a_route_that_is_here_keeps_its_history() -> None:
    """Forgetting must not part the tenants of one route: what one has learned holds for the others."""
    routes = Routes(RunOptions(circuit_key="tenant"), seed=1, answered_before=lambda _: False)

    def of(tenant: str, model: str) -> object:
        made = routes.route_of(Row(1, "", "", {"tenant": f'"{tenant}"'}), Route(model, "a"), 0.0)
        made.unfinished += model == "kept"
        return made.state.history

    first = of("a", "kept")
    for number in range(2 * MOST):
        of("x", f"model-{number}")

    assert of("b", "kept") is first


@pytest.mark.slow  # a route and an outage for each row
def test_models_that_are_all_down_do_not_add_up(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waiting row of a model of its own has a whole route: beyond some, the input waits, and then goes on."""
    monkeypatch.setattr(routes_module, "MAX_LIVE", 15)
    rows = [{"prompt": f"row {number}", "model": f"model-{number}"} for number in range(1, 51)]

    story = simulate(rows, Phase(60, "down"), concurrency=10)

    live, most = set(), 0
    for event in story.events:
        if isinstance(event, CallSent) and event.row:
            live.add(event.row)
        elif isinstance(event, RowFinished):
            live.discard(event.row)
        most = max(most, len(live))
    assert story.statuses == {"success": 50}
    assert most <= 15 + 10


def test_the_routes_of_a_row_are_not_dropped_for_each_other() -> None:
    """Also beyond the number from which idle ones are: all of them are known to the run."""
    routes = Routes(RunOptions(circuit_key="tenant"), seed=1, answered_before=lambda _: False)

    for number in range(200):
        row = Row(1, "", "", {"tenant": f'"t{number}"'})
        made = routes.routes_of(row, [Route("openai/m", "a"), Route("mistral/m", "b", rank=1)], float(number))

        assert [route.state.label for route in made] == [
            f"{name} [tenant t{number}]" for name in ("openai/m", "mistral/m")
        ]
        assert all(routes.known[route.state.label] is route for route in made)
