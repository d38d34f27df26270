"""``--max-cost`` in virtual time: a server that bills every request it gets, outages, kills and resumes."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmbatch import BatchRunner
from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import StoppedError, TransportError, UsageError
from llmbatch.report.summary import Summary
from llmbatch.sim.virtual import run_virtual

INPUT, OUTPUT = Decimal("0.25") / 1_000_000, Decimal(2) / 1_000_000
KEYS = {"OPENAI_API_KEY": "sk-test-0123456789"}


class Server:
    """Answers with random numbers of tokens, and bills what it has begun, even if nobody waits for the answer.

    *trouble* is the share of calls that hang, break off, or are refused, beside an outage of a minute.
    """

    def __init__(self, chance: random.Random, trouble: float) -> None:
        self.billed = Decimal(0)
        self.calls = 0
        self._chance = chance
        self._trouble = trouble

    async def post(self, request: Request, *, timeout: float) -> Reply:
        self.calls += 1
        chance, now = self._chance, asyncio.get_running_loop().time()
        asked = json.loads(request.body)
        is_down = self._trouble > 0 and 20.0 < now < 80.0
        fate = chance.random() / self._trouble if self._trouble else 1.0
        if is_down or fate < 0.4:
            await asyncio.sleep(0.1)
            return Reply(chance.choice([429, 500, 503]), {"retry-after": "1"}, b'{"error":{"message":"no"}}')
        sent, made = chance.randrange(1, len(request.body)), chance.randrange(asked.get("max_tokens", 500) + 1)
        self.billed += sent * INPUT + made * OUTPUT
        await asyncio.sleep(chance.uniform(0.1, 3.0))
        if fate < 0.7:
            await asyncio.sleep(timeout)
            raise TransportError("timeout", "no answer", sent=True)
        if fate < 1.0:
            raise TransportError("truncated", "the answer broke off", sent=True)
        message = {"role": "assistant", "content": "x"}
        usage = {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
        return Reply(200, {}, json.dumps(body).encode())

    async def aclose(self) -> None:
        return


def write_rows(path: Path, count: int, chance: random.Random) -> Path:
    rows = ({"prompt": "x" * chance.randrange(1, 400), "max_tokens": chance.choice([50, 400])} for _ in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(server: Server, source: Path, max_cost: Decimal, *, kill_at: float | None = None) -> Summary:
    """Run *source* in virtual time; at *kill_at* seconds the files stay as they are, as after SIGKILL."""
    folder, kept = source.parent, source.parent.with_name("kept")

    async def main() -> Summary:
        runner: BatchRunner[Any, None] = BatchRunner(
            "openai/gpt-5-mini",
            max_cost=max_cost,
            transport=server,
            environ=KEYS,
            concurrency=200,
            timeout=10.0,
            seed=1,
        )
        task = asyncio.ensure_future(runner.run(source))
        if kill_at is not None:
            await asyncio.wait([task], timeout=kill_at)
            if not task.done():
                shutil.copytree(folder, kept)
                task.cancel()
        try:
            return await task
        finally:
            if kept.exists():
                shutil.rmtree(folder)
                kept.rename(folder)

    return run_virtual(main, limit=100_000.0)


def spent_in(output: Path) -> Decimal:
    return sum(
        (Decimal(str(json.loads(line)["cost_usd"] or 0)) for line in output.read_text().splitlines()), Decimal(0)
    )


SEEDS = [pytest.param(seed, marks=[pytest.mark.long] * (seed % 2)) for seed in range(4)]


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("seed", SEEDS)
def test_the_bill_never_passes_the_cap_and_uses_nearly_all_of_it(tmp_path: Path, seed: int) -> None:
    """200 in flight, random tokens: at least 97 % is spent, and the lines tell the bill to the last digit."""
    chance = random.Random(seed)
    source = write_rows(tmp_path / "p.jsonl", 4000, chance)
    server, cap = Server(chance, 0.0), Decimal("0.5")

    summary = run(server, source, cap)

    assert summary.exit_code == 4
    assert cap * Decimal("0.97") <= server.billed <= cap
    assert summary.cost_usd == server.billed == spent_in(tmp_path / "p.results.jsonl")
    assert "--max-cost 0.5 is reached" in (summary.stopped_reason or "")


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("seed", SEEDS)
def test_the_bill_never_passes_the_cap_through_outages_kills_and_resumes(tmp_path: Path, seed: int) -> None:
    """What hung, broke off, or was in flight at a kill may be billed: the cap holds all the same."""
    chance = random.Random(seed)
    folder = tmp_path / "run"
    folder.mkdir()
    source = write_rows(folder / "p.jsonl", 1500, chance)
    server, cap = Server(chance, 0.2), Decimal("0.3")

    for _ in range(3):
        try:
            run(server, source, cap, kill_at=chance.uniform(0.5, 100.0))
        except asyncio.CancelledError:
            continue
    summary = run(server, source, cap)

    assert summary.exit_code in (0, 1, 4)
    assert server.billed <= cap
    lines = [json.loads(line)["row"] for line in (folder / "p.results.jsonl").read_text().splitlines()]
    assert len(lines) == len(set(lines))


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_a_kill_in_an_outage_wastes_nothing_of_the_cap(tmp_path: Path, seed: int) -> None:
    """Nothing is in flight then: what was booked for the requests before it is free again, but for a few hundredths."""
    chance = random.Random(seed)
    folder = tmp_path / "run"
    folder.mkdir()
    source = write_rows(folder / "p.jsonl", 6000, chance)
    server, cap = Server(chance, 1e-9), Decimal("1.5")

    with pytest.raises(asyncio.CancelledError):
        run(server, source, cap, kill_at=50.0)
    summary = run(server, source, cap)

    assert summary.exit_code == 4
    assert cap * Decimal("0.96") <= server.billed <= cap


@pytest.mark.slow  # many calls in virtual time
def test_a_second_run_with_the_same_cap_sends_nothing_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    """What the output has cost counts, with or without the sidecar."""
    chance = random.Random(1)
    source = write_rows(tmp_path / "p.jsonl", 1000, chance)
    server = Server(chance, 0.0)
    run(server, source, Decimal("0.05"))
    calls = server.calls

    again = run(server, source, Decimal("0.05"))

    assert (again.exit_code, again.calls, server.calls) == (4, 0, calls)
    (tmp_path / ".p.results.jsonl.cost.json").unlink()
    assert run(server, source, Decimal("0.05")).calls <= 1, "only what the last stop left"
    assert run(server, source, Decimal("0.1")).exit_code == 4
    assert Decimal("0.09") < server.billed <= Decimal("0.1")
    assert run(server, source, Decimal(5)).exit_code == 0
    assert spent_in(tmp_path / "p.results.jsonl") == server.billed


@pytest.mark.slow  # many calls in virtual time
@pytest.mark.traced
def test_an_output_begun_afresh_has_cost_nothing(tmp_path: Path) -> None:
    """``--overwrite`` forgets what the lines it drops have cost."""
    chance = random.Random(1)
    source = write_rows(tmp_path / "p.jsonl", 400, chance)
    server = Server(chance, 0.0)
    run(server, source, Decimal("0.05"))

    async def main() -> Summary:
        runner = BatchRunner("openai/gpt-5-mini", max_cost=0.05, transport=server, environ=KEYS, seed=1)
        return await runner.run(source, overwrite=True)

    assert run_virtual(main).this_run_success > 50


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"booked_usd": "much"}', '{"booked_usd": -4}', "\x00"])
def test_a_sidecar_that_is_damaged_is_no_sidecar(tmp_path: Path, content: str) -> None:
    """The lines count then."""
    chance = random.Random(1)
    source = write_rows(tmp_path / "p.jsonl", 300, chance)
    server = Server(chance, 0.0)
    run(server, source, Decimal("0.03"))
    (tmp_path / ".p.results.jsonl.cost.json").write_text(content)

    assert run(server, source, Decimal("0.03")).calls <= 1


@pytest.mark.slow  # many calls in virtual time
def test_rows_without_a_limit_are_bounded_by_the_longest_answer(tmp_path: Path) -> None:
    """No max_tokens: the cap holds, as answers are no more than twice as long as those before."""
    chance = random.Random(3)
    source = tmp_path / "p.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"row {number}"}) + "\n" for number in range(3000)))
    server, cap = Server(chance, 0.0), Decimal("0.5")

    summary = run(server, source, cap)

    assert summary.exit_code == 4
    assert cap * Decimal("0.97") <= server.billed <= cap


def test_a_row_of_unknown_price_in_mid_file_fails_alone(tmp_path: Path) -> None:
    """It is not sent; the others are."""
    source = tmp_path / "p.jsonl"
    rows = [{"prompt": "a", "max_tokens": 5, "model": name} for name in ("gpt-5-mini", "gpt-99", "gpt-5-mini")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = Server(random.Random(1), 0.0)

    summary = run(server, source, Decimal(1))

    assert (summary.success, summary.failures_by_code, server.calls) == (2, {"price_unknown": 1}, 2)


def test_an_unknown_price_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """The message names the model and shows a price file."""
    source = tmp_path / "p.jsonl"
    source.write_text('{"prompt": "a", "model": "gpt-99"}\n')
    server = Server(random.Random(1), 0.0)

    with pytest.raises(UsageError, match="needs the price of openai/gpt-99") as refused:
        run(server, source, Decimal(1))

    assert "--prices" in refused.value.hint
    assert server.calls == 0
    assert not (tmp_path / "p.results.jsonl").exists()


HALF_PRICES = """
["openai/half"]
input = 0.25
["openai/text-embedding-9"]
input = 0.25
["openai/other"]
output = 2.0
["openai/whole"]
input = 0.25
output = 2.0
"""


def run_priced(tmp_path: Path, *rows: dict[str, Any]) -> tuple[Summary | UsageError, int]:
    """What became of a run of *rows* under a cap at HALF_PRICES, and the number of its calls."""
    prices, source = tmp_path / "prices.toml", tmp_path / "p.jsonl"
    prices.write_text(HALF_PRICES)
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = Server(random.Random(1), 0.0)

    async def main() -> Summary:
        runner: BatchRunner[Any, None] = BatchRunner(
            "openai/whole", max_cost=1, prices=prices, transport=server, environ=KEYS, seed=1
        )
        return await runner.run(source)

    try:
        return run_virtual(main), server.calls
    except UsageError as error:
        return error, server.calls


@pytest.mark.parametrize(("model", "part"), [("half", "output"), ("other", "input")])
def test_a_cap_was_accepted_with_the_price_of_input_alone(tmp_path: Path, model: str, part: str) -> None:
    """It counted nothing for the answers, so the bill had no bound. It is as unknown as no price: refused."""
    refused, calls = run_priced(tmp_path, {"prompt": "a", "max_tokens": 5, "model": model})

    assert isinstance(refused, UsageError)
    assert f"needs the price of {part} of openai/{model}" in str(refused)
    assert calls == 0


def test_a_row_whose_model_has_a_price_of_input_alone_fails_alone(tmp_path: Path) -> None:
    """Where it stands in mid-file, as one without any price does."""
    rows = ({"prompt": "a", "max_tokens": 5, "model": name} for name in ("whole", "half", "whole"))

    summary, calls = run_priced(tmp_path, *rows)

    assert isinstance(summary, Summary)
    assert (summary.success, summary.failures_by_code, calls) == (2, {"price_unknown": 1}, 2)


def test_embeddings_need_no_price_of_output_for_a_cap(tmp_path: Path) -> None:
    """They have no output tokens: the price of input bounds what they cost."""
    summary, calls = run_priced(tmp_path, {"input": "a", "model": "text-embedding-9"})

    assert isinstance(summary, Summary)
    assert calls >= 1


def test_a_function_has_no_prices() -> None:
    """``max_cost`` with a function is refused at birth."""
    with pytest.raises(UsageError, match="max_cost needs a provider's prices"):
        BatchRunner(lambda row: row, max_cost=5)


def test_a_stream_ends_at_the_cap() -> None:
    """The rows that were not sent have no result; the summary says why."""
    server = Server(random.Random(1), 0.0)
    rows = [{"prompt": "a", "max_tokens": 400}] * 500

    async def main() -> tuple[int, Summary]:
        runner = BatchRunner("openai/gpt-5-mini", max_cost=0.02, transport=server, environ=KEYS, seed=1, concurrency=10)
        stream = runner.stream(rows)
        return sum([1 async for _ in stream]), stream.summary

    try:
        count, summary = run_virtual(main)
    except StoppedError as error:
        raise AssertionError("a cap is no refusal of the provider") from error

    assert 20 < count < 500
    assert summary.exit_code == 4
    assert server.billed <= Decimal("0.02")
