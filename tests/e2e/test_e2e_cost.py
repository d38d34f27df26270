"""Money over real sockets and through the command: the cost of each line, the cap, what is told, the first command."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from e2e_recorder import Answer, Arrival, Recorder, answer, error

Run = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parents[2]


class Here:
    """Runs the command in a folder, with all base URLs at the recorder."""

    def __init__(self, folder: Path, url: str, command: Run) -> None:
        self.folder = folder
        self.command = command
        self.url = url
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "OPENAI_BASE_URL": url,
            "OPENAI_API_KEY": "sk-x",
            "ANTHROPIC_API_KEY": "sk-y",
            "ANTHROPIC_BASE_URL": url,
        }
        if "PYTHONPATH" in os.environ:
            self._environ["PYTHONPATH"] = os.environ["PYTHONPATH"]

    def write(self, *rows: Any) -> None:
        (self.folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.command(self.folder, self._environ, *arguments)

    def text(self) -> str:
        return (self.folder / "p.results.jsonl").read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line, parse_float=Decimal) for line in self.text().splitlines()]


def used(sent: int, made: int, **more: object) -> dict[str, object]:
    return {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made, **more}


class Meter:
    """Answers with a usage: that of a path, or else the same for all."""

    def __init__(self) -> None:
        self.usage: dict[str, object] = used(1000, 500)
        self.by_path: dict[str, object] = {}
        self.errors: list[Answer] = []
        self.tier: str | None = None

    def __call__(self, arrival: Arrival) -> Answer:
        if self.errors:
            return self.errors.pop()
        status, body = answer(arrival)
        usage = next((value for end, value in self.by_path.items() if arrival.path.endswith(end)), self.usage)
        tier = {} if self.tier is None else {"service_tier": self.tier}
        return status, json.dumps(json.loads(body) | {"usage": usage} | tier).encode()


@pytest.fixture
def meter() -> Meter:
    return Meter()


@pytest.fixture
def here(tmp_path: Path, meter: Meter, command_here: Run) -> Iterator[Here]:
    recorder = Recorder(meter)
    yield Here(tmp_path, recorder.url, command_here)
    recorder.close()


RUN = ("run", "p.jsonl", "--progress", "none")


@pytest.mark.slow  # starts processes
def test_each_wire_format_has_its_cost_in_the_line(here: Here, meter: Meter) -> None:
    """Chat, responses, embeddings and messages, as plain decimal numbers; the summary and the status add them up."""
    meter.by_path = {
        "/chat/completions": used(1000, 500, prompt_tokens_details={"cached_tokens": 800}),
        "/responses": {"input_tokens": 4, "output_tokens": 1, "total_tokens": 5},
        "/embeddings": {"prompt_tokens": 3, "total_tokens": 3},
        "/messages": {"input_tokens": 100, "cache_read_input_tokens": 1000, "output_tokens": 50},
    }
    here.write(
        {"id": "chat", "prompt": "a", "model": "openai/gpt-5-mini"},
        {"id": "responses", "input": "a", "model": "openai/gpt-5-mini"},
        {"custom_id": "embeddings", "method": "POST", "url": "/v1/embeddings"}
        | {"body": {"model": "text-embedding-3-small", "input": "a"}},
        {"id": "messages", "prompt": "a", "model": "anthropic/claude-haiku-4-5"},
    )

    done = here(*RUN, "--json")

    assert done.returncode == 0, done.stderr
    assert {line["id"]: line["cost_usd"] for line in here.lines()} == {
        "chat": Decimal("0.00107"),
        "responses": Decimal("0.000003"),
        "embeddings": Decimal("0.00000006"),
        "messages": Decimal("0.00045"),
    }
    assert '"cost_usd":0.00000006,' in here.text(), "no exponents"
    assert json.loads(done.stdout)["cost_usd"] == 0.00152306
    routes = json.loads(here("status", "p.results.jsonl", "--json").stdout)["routes"]
    assert sum(Decimal(str(route["cost_usd"])) for route in routes) == Decimal("0.00152306")


@pytest.mark.slow  # starts processes
def test_a_cost_that_is_not_known_is_null_and_never_nothing(here: Here, meter: Meter) -> None:
    """An unknown model, an answer without usage, an unknown tier, a failed row."""
    here.write({"prompt": "a", "model": "openai/gpt-99"}, {"prompt": "a", "model": "openai/gpt-5-mini"})

    done = here(*RUN)

    assert {line["model"]: line["cost_usd"] for line in here.lines()} == {
        "openai/gpt-99": None,
        "openai/gpt-5-mini": Decimal("0.00125"),
    }
    assert re.search(r"^cost +US\$ 0.0012, and 1 call of unknown price$", done.stderr, re.MULTILINE), done.stderr
    meter.usage = {}
    here(*RUN, "--overwrite")
    assert {line["cost_usd"] for line in here.lines()} == {None}
    meter.usage, meter.tier = used(10, 10), "scale"
    here(*RUN, "--overwrite")
    assert {line["cost_usd"] for line in here.lines()} == {None}
    meter.errors = [error(400, "context_length_exceeded", "maximum context length is 10 tokens")] * 2
    here(*RUN, "--overwrite")
    assert {(line["status"], line["cost_usd"]) for line in here.lines()} == {("failed", None)}


@pytest.mark.slow  # starts processes
def test_the_tier_that_was_billed_has_its_own_price(here: Here, meter: Meter) -> None:
    """Flex is half; where the provider says that it billed the standard one, that counts."""
    here.write({"prompt": "a"})
    meter.tier = "flex"

    here(*RUN, "-m", "openai/gpt-5-mini", "--tier", "flex")

    assert [line["cost_usd"] for line in here.lines()] == [Decimal("0.000625")]
    meter.tier = "default"
    here(*RUN, "-m", "openai/gpt-5-mini", "--tier", "flex", "--overwrite")
    assert [line["cost_usd"] for line in here.lines()] == [Decimal("0.00125")]


@pytest.mark.slow  # starts processes
def test_a_price_file_counts_before_the_list(here: Here) -> None:
    """For the model of a server without a name too."""
    here.write({"prompt": "a"})
    (here.folder / "prices.toml").write_text(  # exact and by pattern
        '["gpt-5-*"]\ninput = 1\noutput = 2\n["my-model"]\ninput = 3\noutput = 4\n'
    )
    prices = ("--prices", "prices.toml")

    here(*RUN, "-m", "openai/gpt-5-mini", *prices)
    assert [line["cost_usd"] for line in here.lines()] == [Decimal("0.00125")], "the pattern has no provider"
    here(*RUN, "-m", "my-model", "--base-url", here.url, *prices, "--overwrite")
    assert [line["cost_usd"] for line in here.lines()] == [Decimal("0.005")]


@pytest.mark.slow  # starts processes
def test_the_cap_stops_with_exit_4_and_a_higher_one_goes_on(here: Here) -> None:
    """Nothing is sent beyond it; the message says what was spent, and what to type."""
    here.write(*({"prompt": "a", "max_tokens": 500} for _ in range(20)))
    run = (*RUN, "-m", "openai/gpt-5-mini", "-c", "3", "--max-cost")

    done = here(*run, "0.01")

    assert done.returncode == 4
    assert len(here.lines()) == 8, "8 × 0.00125 is 0.01"
    assert "--max-cost 0.01 is reached: US$ 0.010 spent" in done.stderr
    assert "to go on, raise --max-cost" in done.stderr
    assert here(*run, "0.01").returncode == 4
    assert len(here.lines()) == 8
    assert here(*run, "1").returncode == 0
    assert sorted(line["row"] for line in here.lines()) == list(range(1, 21))


@pytest.mark.slow  # starts processes
def test_an_unknown_price_under_a_cap_is_refused_before_anything_is_sent(here: Here) -> None:
    """By ``run`` and by ``check``."""
    here.write({"prompt": "a"})

    for command in ("run", "check"):
        done = here(command, "p.jsonl", "-m", "openai/gpt-99", "--max-cost", "5")
        assert done.returncode == 2
        assert "--max-cost needs the price of openai/gpt-99, which is unknown" in done.stderr
    assert not (here.folder / "p.results.jsonl").exists()


def test_check_tells_a_low_and_a_high_cost(here: Here) -> None:
    """By the length of the answers; rows without a price are told."""
    here.write({"prompt": "a", "max_tokens": 1000}, {"prompt": "a", "model": "openai/gpt-99"})

    done = here("check", "p.jsonl", "-m", "openai/gpt-5-mini")

    assert re.search(r"^cost +US\$ 0.0002\d* to US\$ 0.0020\d*, by the length", done.stdout, re.MULTILINE), done.stdout
    assert "besides 1 row of price unknown: openai/gpt-99 (--prices FILE tells it)" in done.stdout


@pytest.mark.parametrize("value", ["0", "-1", "much", "1e3", "nan", "inf", ""])
def test_a_cap_that_is_no_amount_is_refused(here: Here, value: str) -> None:
    """Exit 2, with the allowed values."""
    here.write({"prompt": "a"})

    done = here(*RUN, "-m", "openai/gpt-5-mini", f"--max-cost={value}")

    assert done.returncode == 2
    assert "an amount of US$ above 0, such as 5 or 0.50" in done.stderr


@pytest.mark.slow  # starts processes
def test_the_first_command_of_the_page_runs(tmp_path: Path) -> None:
    """``docs/cost.md`` begins with it; it stops at the cap."""
    words = shlex.split((ROOT / "docs" / "cost.md").read_text().split("```sh\n")[1].split("\n")[0])
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    assert words[0] == "llmbatch"

    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=tmp_path,
        env=os.environ | {"LLMBATCH_PROGRESS": "none"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 4, done.stderr
    spent = sum(
        json.loads(line, parse_float=Decimal)["cost_usd"] for line in (tmp_path / "cost.jsonl").read_text().splitlines()
    )
    assert Decimal("0.002") < spent <= Decimal("0.003")
