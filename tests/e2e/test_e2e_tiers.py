"""``--tier`` over real sockets, through the command and the library: the parameter, the line, the summary, refusals."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_recorder import Answer, Arrival, Recorder, answer, error

from llmbatch import BatchRunner
from llmbatch.core.errors import UsageError

Run = Callable[..., subprocess.CompletedProcess[str]]


class Tiered:
    """Answers as OpenAI: names the tier that it bills, and has flex capacity but for some requests."""

    def __init__(self) -> None:
        self.refused: set[int] = set()
        """Numbers of the flex requests, from 1, that meet no capacity."""
        self.asked: list[str | None] = []

    def __call__(self, arrival: Arrival) -> Answer:
        tier = json.loads(arrival.body).get("service_tier")
        self.asked.append(tier)
        if tier == "flex" and self.asked.count("flex") in self.refused:
            return error(429, "resource_unavailable", "Resource unavailable")
        status, body = answer(arrival)
        return status, json.dumps(json.loads(body) | {"service_tier": tier or "default"}).encode()


@pytest.fixture
def tiered() -> Tiered:
    return Tiered()


@pytest.fixture
def server(tiered: Tiered) -> Iterator[Recorder]:
    recorder = Recorder(tiered)
    yield recorder
    recorder.close()


class Here:
    """Runs the command in a folder, with ``OPENAI_BASE_URL`` at the recorder."""

    def __init__(self, folder: Path, url: str, command: Run) -> None:
        self.folder = folder
        self.command = command
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "OPENAI_BASE_URL": url,
            "OPENAI_API_KEY": "sk-x",
            "ANTHROPIC_API_KEY": "sk-y",
            "ANTHROPIC_BASE_URL": url,
        }
        if "PYTHONPATH" in os.environ:
            self.environ["PYTHONPATH"] = os.environ["PYTHONPATH"]

    def write(self, rows: list[Any]) -> None:
        (self.folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def __call__(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.command(self.folder, self.environ | environ, *arguments)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "p.results.jsonl").read_text().splitlines()]


@pytest.fixture
def here(tmp_path: Path, server: Recorder, command_here: Run) -> Here:
    return Here(tmp_path, server.url, command_here)


PROMPTS = [{"prompt": f"row {number}"} for number in range(20)]
RUN = ("run", "p.jsonl", "-m", "openai/m", "--progress", "plain")


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize("row", [{"prompt": "hi"}, {"messages": [{"role": "user", "content": "hi"}]}, {"input": "hi"}])
def test_flex_is_asked_for_and_told(here: Here, server: Recorder, row: dict[str, Any]) -> None:
    """Chat and responses have the parameter, and the line says what the provider billed."""
    here.write([row])
    done = here(*RUN, "--tier", "flex")

    assert done.returncode == 0, done.stderr
    assert [json.loads(body)["service_tier"] for body in server.bodies] == ["flex"]
    (line,) = here.lines()
    assert (line["tier"], line["model"], "route" in line) == ("flex", "openai/m", False)


@pytest.mark.slow  # starts processes
def test_lack_of_capacity_is_waited_out(here: Here, tiered: Tiered) -> None:
    """The rows that met it are asked again, for flex, and none fails; the summary and the status tell the tiers."""
    here.write(PROMPTS)
    tiered.refused = set(range(3, 9))
    done = here(*RUN, "--tier", "flex", "-c", "4", "--json")

    assert done.returncode == 0, done.stderr
    assert set(tiered.asked) == {"flex"}
    assert Counter(line["status"] for line in here.lines()) == {"success": 20}
    summary = json.loads(done.stdout)
    assert (summary["tiers"], summary["outages"], summary["failed"]) == ({"flex": 20}, 0, 0)
    assert summary["throttles"] >= 1
    assert "tiers         flex 20" in done.stderr
    assert json.loads(here("status", "p.jsonl", "--json").stdout)["tiers"] == {"flex": 20}
    assert "flex 20" in here("status", "p.jsonl").stdout


@pytest.mark.slow  # starts processes
def test_rows_without_flex_capacity_go_to_the_standard_tier(here: Here, tiered: Tiered) -> None:
    """At once, and they say so; a fresh look at the output counts as the run did."""
    here.write(PROMPTS)
    tiered.refused = set(range(3, 100))
    done = here(*RUN, "--tier", "flex,standard", "-c", "2", "--json")

    assert done.returncode == 0, done.stderr
    billed = Counter(line["tier"] for line in here.lines())
    assert (billed["flex"], billed["standard"]) == (2, 18)
    assert json.loads(done.stdout)["tiers"] == {"standard": 18, "flex": 2}
    assert {(line["model"], line["route"]) for line in here.lines()} == {
        ("openai/m", "openai/m"),
        ("openai/m", "openai/m (flex)"),
    }
    (here.folder / "p.results.jsonl.status.json").unlink(missing_ok=True)
    status = json.loads(here("status", "p.jsonl", "--json").stdout)
    assert status["tiers"] == {"standard": 18, "flex": 2}
    assert {route["route"]: route["rows"] for route in status["routes"]} == {"openai/m (flex)": 2, "openai/m": 18}


@pytest.mark.slow  # starts processes
def test_a_run_can_be_resumed_with_another_tier(here: Here, tiered: Tiered) -> None:
    """The tier does not change what is asked, so the output is not refused."""
    here.write(PROMPTS[:3])
    assert here(*RUN, "--tier", "flex").returncode == 0
    here.write(PROMPTS[:6])
    done = here(*RUN)

    assert done.returncode == 0, done.stderr
    assert tiered.asked == ["flex"] * 3 + [None] * 3
    assert [line.get("tier") for line in here.lines()] == ["flex"] * 3 + [None] * 3


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize("tier", ["flex", "flex,standard"])
def test_equal_rows_cost_one_answer_whatever_tier_gives_it(here: Here, tiered: Tiered, tier: str) -> None:
    """Those that waited for it were billed nothing, and so name no tier."""
    here.write([{"prompt": "the same"}] * 10)
    tiered.refused = {1, 2}
    done = here(*RUN, "--tier", tier, "--cache", "answers.db")

    assert done.returncode == 0, done.stderr
    told = Counter((line["status"], line.get("cached"), line.get("tier")) for line in here.lines())
    billed = "flex" if tier == "flex" else "standard"
    assert told == {("success", None, billed): 1, ("success", True, None): 9}


@pytest.mark.slow  # starts processes
def test_a_batch_row_is_sent_byte_for_byte(here: Here, server: Recorder) -> None:
    """The tier does not apply to it, which is told once; its own tier is told in its line."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    asks = body | {"service_tier": "flex"}
    here.write(
        [{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": one} for one in (body, asks)]
    )
    done = here(*RUN, "--tier", "flex")

    assert done.returncode == 0, done.stderr
    assert sorted(server.bodies, key=len) == [json.dumps(one).encode() for one in (body, asks)]
    assert done.stderr.count("--tier does not apply") == 1
    assert {line["row"]: line.get("tier") for line in here.lines()} == {1: None, 2: "flex"}


def test_a_rows_own_tier_wins(here: Here, tiered: Tiered) -> None:
    """A better one, too, is told in the line."""
    here.write([{"prompt": "a", "service_tier": "priority"}, {"prompt": "b"}])
    assert here(*RUN, "--tier", "flex", "-c", "1").returncode == 0

    assert tiered.asked == ["priority", "flex"]
    assert [line["tier"] for line in here.lines()] == ["priority", "flex"]


@pytest.mark.slow  # starts processes
def test_the_tier_comes_from_a_variable_or_a_file(here: Here, tiered: Tiered) -> None:
    """As any option."""
    here.write(PROMPTS[:1])
    assert here(*RUN, LLMBATCH_TIER="flex").returncode == 0
    (here.folder / "llmbatch.toml").write_text('tier = "flex,standard"\n')
    assert here(*RUN, "--overwrite").returncode == 0

    assert tiered.asked == ["flex", "flex"]


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("-m", "anthropic/claude-haiku-4-5", "--tier", "flex"), "Anthropic has no flex tier"),
        (("-m", "anthropic/claude-haiku-4-5", "--tier", "flex,standard"), "Anthropic has no flex tier"),
        (("-m", "openai/m", "--tier", "flex", "--fallback", "mistral/m"), "mistral/m: Mistral has no flex tier"),
        (("-m", "openai/m", "--tier", "flex", "-P", "service_tier=priority"), "contradict each other"),
        (("-m", "openai/m", "--tier", "cheap"), "must be one of standard or flex or flex,standard"),
        (("-m", "openai/m", "--tier", "flex", "--endpoint", "embeddings"), "no flex tier for embeddings"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_what_cannot_be_is_refused_before_anything_is_sent(
    here: Here, server: Recorder, command: str, arguments: tuple[str, ...], meant: str
) -> None:
    """Exit 2, and the message says who has one, or what to type."""
    here.write([{"input": "hi"}] if "embeddings" in arguments else PROMPTS[:2])
    done = here(command, "p.jsonl", *arguments, MISTRAL_API_KEY="mk")

    said = done.stderr + done.stdout
    assert (done.returncode, meant in said) == (2, True), said
    assert "Traceback" not in said
    assert server.arrivals == []
    assert not (here.folder / "p.results.jsonl").exists()
    if "has no flex tier\n" in said:
        assert "openai, azure, gemini, openrouter, groq and cerebras have one" in said


@pytest.mark.slow  # starts processes
def test_rows_of_a_provider_without_flex_fail_alone_or_go_to_its_standard_tier(here: Here, tiered: Tiered) -> None:
    """With flex alone nothing is sent at a price that nobody asked for."""
    here.write([{"prompt": "a"}, {"prompt": "b", "model": "anthropic/claude-haiku-4-5"}])
    done = here(*RUN, "--tier", "flex")

    assert done.returncode == 1
    failed = {line["row"]: line["error"]["code"] for line in here.lines() if line["status"] == "failed"}
    assert (failed, tiered.asked) == ({2: "input_no_flex_tier"}, ["flex"])
    done = here(*RUN, "--tier", "flex,standard", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert sorted(map(str, tiered.asked)) == ["None", "flex", "flex"]
    assert "Anthropic has no flex tier for messages: such rows go to the standard tier" in done.stderr


def test_flex_has_a_longer_time_limit_unless_one_is_set() -> None:
    """15 minutes, as the providers advise."""
    assert BatchRunner("sim/steady").options.timeout == 120
    assert BatchRunner("sim/steady", tier="flex").options.timeout == 900
    assert BatchRunner("sim/steady", tier="flex,standard").options.timeout == 900
    assert BatchRunner("sim/steady", tier="flex", timeout=120).options.timeout == 120


async def test_the_library_takes_a_tier(server: Recorder) -> None:
    """Results have it."""
    runner = BatchRunner("openai/m", tier="flex", environ={"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-x"})
    results = await runner.map(["a", "b"])

    assert [result.tier for result in results] == ["flex", "flex"]


def test_the_library_refuses_a_tier_of_a_function() -> None:
    """A function has none."""

    async def ask(row: object) -> str:
        return "ok"

    with pytest.raises(UsageError, match="tier is for models of providers"):
        BatchRunner(ask, tier="flex")


async def test_gemini_tells_the_tier_in_a_header(server: Recorder) -> None:
    """Its body has none on the compatible endpoint."""
    server.respond = answer
    server.headers = {"x-gemini-service-tier": "flex"}
    runner = BatchRunner("gemini/gemini-m", tier="flex", base_url=server.url, environ={"GEMINI_API_KEY": "k"})

    assert [result.tier for result in await runner.map(["a"])] == ["flex"]


async def test_an_answer_that_names_no_tier_has_none(server: Recorder) -> None:
    """What was asked for is not what was billed."""
    server.respond = answer
    runner = BatchRunner("openai/m", tier="flex", base_url=server.url, environ={"OPENAI_API_KEY": "k"})

    assert [result.tier for result in await runner.map(["a"])] == [None]
