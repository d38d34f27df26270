"""Fallbacks and pools over real sockets, through the command: outages, refusals, kills, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_recorder import Answer, Arrival, Recorder, answer, error

ROWS = 60
Here = Callable[..., subprocess.CompletedProcess[str]]
DOWN = error(503, "overloaded_error", "down")
REFUSALS = {
    "key": error(401, "invalid_api_key", "Incorrect API key provided"),
    "money": error(402, "billing_hard_limit_reached", "Payment required"),
    "quota": error(429, "insufficient_quota", "You exceeded your current quota"),
    "model": error(404, "model_not_found", "The model does not exist"),
}


class Servers:
    """Two providers, and the command in a folder: ``openai/first`` at one, ``anthropic/second`` at the other."""

    def __init__(self, folder: Path, here: Here) -> None:
        self.folder = folder
        self.here = here
        self.first, self.second = Recorder(), Recorder()
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "OPENAI_BASE_URL": self.first.url,
            "OPENAI_API_KEY": "sk-first",
            "ANTHROPIC_BASE_URL": self.second.url,
            "ANTHROPIC_API_KEY": "second-key",
            "MISTRAL_API_KEY": "third-key",
        }
        if "PYTHONPATH" in os.environ:
            self.environ["PYTHONPATH"] = os.environ["PYTHONPATH"]

    def close(self) -> None:
        self.first.close()
        self.second.close()

    def write(self, rows: list[Any]) -> None:
        (self.folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def config(self, text: str) -> None:
        (self.folder / "c.toml").write_text(text)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "llmbatch", *arguments]

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.here(self.folder, self.environ | environ, "run", "p.jsonl", "--progress", "plain", *arguments)

    def check(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.here(self.folder, self.environ | environ, "check", "p.jsonl", *arguments)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "p.results.jsonl").read_text().splitlines()]

    def check_lines(self, rows: int) -> Counter[tuple[str, str | None]]:
        """Check that each row has one line, a success; return how many were answered by which model and route."""
        lines = self.lines()
        assert sorted(line["row"] for line in lines) == list(range(1, rows + 1))
        assert {line["status"] for line in lines} == {"success"}
        return Counter((line["model"], line.get("route")) for line in lines)


@pytest.fixture
def servers(tmp_path: Path, command_here: Here) -> Iterator[Servers]:
    both = Servers(tmp_path, command_here)
    both.write([{"prompt": f"row {number}"} for number in range(1, ROWS + 1)])
    yield both
    both.close()


def after(calls: int, then: Answer, until: Callable[[], bool] = lambda: False) -> Callable[[Arrival], Answer]:
    """Answer well *calls* times, then with *then* until *until* says that it is over."""
    count = 0

    def respond(arrival: Arrival) -> Answer:
        nonlocal count
        count += 1
        return answer(arrival) if count <= calls or until() else then

    return respond


FALLBACK = ("-m", "openai/first", "--fallback", "anthropic/second")


@pytest.mark.slow  # starts processes
def test_rows_go_on_at_the_fallback_and_return(servers: Servers) -> None:
    """The first route fails its first two probes; each line and the summary say who answered."""
    probes: list[None] = []

    def is_over() -> bool:
        if servers.second.count > 100:
            probes.append(None)
        return len(probes) > 2

    servers.write([{"prompt": f"row {number}"} for number in range(1, 1201)])
    servers.first.respond = after(100, DOWN, until=is_over)
    servers.second.delay = 0.02
    done = servers.run(*FALLBACK, "-c", "4", "--recovery-timeout", "1")

    assert done.returncode == 0, done.stderr
    answered = servers.check_lines(1200)
    assert answered.keys() == {("openai/first", None), ("anthropic/second", "anthropic/second")}
    assert answered["openai/first", None] > 150
    assert {arrival.headers["authorization"] for arrival in servers.first.arrivals} == {"Bearer sk-first"}
    assert {arrival.headers["x-api-key"] for arrival in servers.second.arrivals} == {"second-key"}
    assert {json.loads(body)["model"] for body in servers.second.bodies} == {"second"}
    assert f"anthropic/second {answered['anthropic/second', 'anthropic/second']:,}" in done.stderr
    status = subprocess.run(
        servers.command("status", "p.jsonl", "--json"), cwd=servers.folder, env=servers.environ,
        capture_output=True, check=True,
    )  # fmt: skip
    told = {route["route"]: route["rows"] for route in json.loads(status.stdout)["routes"]}
    assert told == {model: count for (model, _), count in answered.items()}


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize("begins", [0, 20])
@pytest.mark.parametrize("what", REFUSALS)
def test_a_route_that_is_refused_is_left_for_the_fallback(servers: Servers, what: str, begins: int) -> None:
    """No row fails, it is told once with what to do, and the exit code is that of a finished run."""
    servers.first.respond = after(begins, REFUSALS[what])
    is_told = what in ("money", "quota") or not begins  # the others may pass
    servers.second.delay = 0.15 if is_told and begins else 0.01  # the run must outlast the first probe, after 1 s
    done = servers.run(*FALLBACK, "-c", "4")

    assert done.returncode == 0, done.stderr
    answered = servers.check_lines(ROWS)
    assert answered["anthropic/second", "anthropic/second"] == ROWS - begins
    told = done.stderr.count("its rows go to anthropic/second")
    assert told == 1 if is_told else told <= 1
    assert servers.first.count < begins + 40


def test_a_route_without_an_address_is_left_for_the_fallback(servers: Servers) -> None:
    """Its host does not exist, which would end a run that has no other route."""
    done = servers.run(*FALLBACK, "-c", "4", OPENAI_BASE_URL="http://nowhere.invalid/v1")

    assert done.returncode == 0, done.stderr
    assert servers.check_lines(ROWS) == {("anthropic/second", "anthropic/second"): ROWS}
    assert "its rows go to anthropic/second" in done.stderr


@pytest.mark.slow  # starts processes
def test_rows_wait_only_while_all_routes_are_down(servers: Servers) -> None:
    """Both fail for a while; then they are done, whichever is back first."""
    back = time.monotonic() + 3.0
    servers.first.respond = after(10, DOWN, until=lambda: time.monotonic() > back)
    servers.second.respond = after(10, DOWN, until=lambda: time.monotonic() > back)
    done = servers.run(*FALLBACK, "-c", "4", "--recovery-timeout", "1")

    assert done.returncode == 0, done.stderr
    servers.check_lines(ROWS)


@pytest.mark.slow  # starts processes
def test_a_run_whose_routes_are_all_refused_stops(servers: Servers) -> None:
    """Exit 3, and no row has failed: the same command goes on once one of the accounts is in order."""
    servers.first.respond = after(10, REFUSALS["money"])
    servers.second.respond = after(10, REFUSALS["quota"])
    done = servers.run(*FALLBACK, "-c", "2")
    assert done.returncode == 3, done.stderr
    assert {line["status"] for line in servers.lines()} == {"success"}

    servers.second.respond = answer
    done = servers.run(*FALLBACK, "-c", "2")
    assert done.returncode == 0, done.stderr
    servers.check_lines(ROWS)


@pytest.mark.slow  # starts processes
def test_a_killed_run_goes_on_with_its_fallback(servers: Servers) -> None:
    """Killed while the rows are at the fallback, then resumed: one line a row, and lines of both are accepted."""
    servers.write([{"prompt": f"row {number}"} for number in range(1, 401)])
    servers.first.respond = after(40, DOWN)
    servers.second.delay = 0.02
    command = servers.command("run", "p.jsonl", *FALLBACK, "-c", "4", "--progress", "plain")
    for calls in (20, 60, 100):
        process = subprocess.Popen(command, cwd=servers.folder, env=servers.environ, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while servers.second.count < calls and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL

    done = servers.run(*FALLBACK, "-c", "4")
    assert done.returncode == 0, done.stderr
    assert servers.check_lines(400)["anthropic/second", "anthropic/second"] > 300
    assert servers.second.count <= 400 + 3 * 4


@pytest.mark.slow  # starts processes
def test_a_batch_row_changes_its_model_alone(servers: Servers) -> None:
    """All other members of the body go to the fallback as they are written."""
    body = '{"messages":[{"role": "user", "content": "h\\u00e9"}],"model":"first","x":1.50}'
    row = '{"custom_id": "a%d", "method": "POST", "url": "/v1/chat/completions", "body": %s}\n'
    (servers.folder / "p.jsonl").write_text("".join(row % (number, body) for number in range(20)))
    servers.first.respond = after(0, REFUSALS["money"])
    servers.config(POOL % f'{{model = "second", base_url = "{servers.second.url}"}}')
    done = servers.run("-m", "openai/first", "--fallback", "pool/cheap", "--config", "c.toml")

    assert done.returncode == 0, done.stderr
    ((model, route),) = servers.check_lines(20)
    assert (model, route) == ("second", f"second ({servers.second.origin[7:]})")
    assert set(servers.second.bodies) == {body.replace('"first"', '"second"').encode()}


@pytest.mark.slow  # starts processes
def test_a_pool_leaves_out_the_key_without_money(servers: Servers) -> None:
    """No row fails, the others carry the load by weight within 5 %, and no key is shown."""
    servers.write([{"prompt": f"row {number}"} for number in range(1, 901)])

    def respond(arrival: Arrival) -> Answer:
        return REFUSALS["quota"] if arrival.headers["authorization"] == "Bearer key-c" else answer(arrival)

    servers.first.respond = respond
    servers.first.delay = 0.005
    servers.config(
        "[pools.cheap]\nroutes = [\n"
        '{model = "openai/m", api_key_env = "KEY_A", weight = 2},\n'
        '{model = "openai/m", api_key_env = "KEY_B"},\n'
        '{model = "openai/m", api_key_env = "KEY_C"}]\n'
    )
    done = servers.run(
        *("-m", "pool/cheap", "--config", "c.toml", "-c", "30"), KEY_A="key-a", KEY_B="key-b", KEY_C="key-c"
    )

    assert done.returncode == 0, done.stderr
    answered = servers.check_lines(900)
    assert answered.keys() == {("openai/m", "openai/m (KEY_A)"), ("openai/m", "openai/m (KEY_B)")}
    assert abs(answered["openai/m", "openai/m (KEY_A)"] / 900 - 2 / 3) < 0.05
    everything = done.stdout + done.stderr + (servers.folder / "p.results.jsonl").read_text()
    assert not any(key in everything for key in ("key-a", "key-b", "key-c"))


POOL = "[pools.cheap]\nroutes = [%s]\n"


@pytest.mark.parametrize(
    ("config", "arguments", "told"),
    [
        ("", ("-m", "pool/cheap"), "there is no such pool"),
        ("", ("-m", "openai/m", "--fallback", "pool/x"), "there is no such pool"),
        ("", ("-m", "openai/m", "--fallback", "openai/m"), "is the model itself"),
        ("", ("-m", "openai/m", "--fallback", "nobody/m"), "names no known provider"),
        ("", ("-m", "openai/m", "--fallback", "groq/m"), "GROQ_API_KEY"),
        ("", ("-m", "openai/m", "--fallback", "mistral/m", "--fallback", "mistral/m"), "given twice"),
        (POOL % "", ("-m", "pool/cheap"), "has no routes"),
        (POOL % '{model = "openai/m", wieght = 2}', ("-m", "pool/cheap"), "did you mean weight?"),
        (POOL % '{model = "openai/m", weight = 0}', ("-m", "pool/cheap"), "weight is 0, must be a number above 0"),
        (POOL % '{model = "openai/m", weight = nan}', ("-m", "pool/cheap"), "must be a number above 0"),
        (POOL % '{model = "openai/m", rpm = -5}', ("-m", "pool/cheap"), "rpm is -5, must be a number above 0"),
        (POOL % '{model = "openai/m", api_key_env = "NO_SUCH"}', ("-m", "pool/cheap"), "NO_SUCH is not set"),
        (POOL % '{model = "nobody/m"}', ("-m", "pool/cheap"), "names no known provider"),
        (POOL % '{model = "pool/cheap"}', ("-m", "pool/cheap"), "a pool has no pools in it"),
        (POOL % '{model = "m", base_url = "ftp://x"}', ("-m", "pool/cheap"), "pools.cheap.routes[0].base_url"),
        (POOL % "{weight = 2}", ("-m", "pool/cheap"), "names no model"),
        (POOL % '{model = "openai/m"}', ("-m", "pool/cheap", "--base-url", "http://x"), "contradict each other"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "check"])
def test_bad_routes_are_refused_before_anything_is_sent(
    servers: Servers, command: str, config: str, arguments: tuple[str, ...], told: str
) -> None:
    """Exit 2 with what is wrong and what to type, from ``check`` too; no output is begun."""
    servers.config(config)
    done = servers.here(servers.folder, servers.environ, command, "p.jsonl", "--config", "c.toml", *arguments)

    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert "hint: " in done.stderr
    assert (servers.first.count, servers.second.count) == (0, 0)
    assert not (servers.folder / "p.results.jsonl").exists()


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize("key", ["sk-abcdef0123456789", "abcdef0123456789abcdef", "0123456789ABCDEF0123456789ABCDEF"])
def test_a_key_in_place_of_its_variable_is_not_shown(servers: Servers, key: str) -> None:
    """Whether the pool is used or not."""
    servers.config(POOL % f'{{model = "openai/m", api_key_env = "{key}"}}')
    for model in ("pool/cheap", "openai/m"):
        done = servers.run("-m", model, "--config", "c.toml")

        assert done.returncode == 2
        assert "never the key itself" in done.stderr
        assert key not in done.stdout + done.stderr
    assert servers.first.count == 0


@pytest.mark.slow  # starts processes
def test_a_fallback_that_can_carry_no_row_is_refused(servers: Servers) -> None:
    """All rows are in Anthropic's batch format; with one prompt among them it can carry that one."""
    params = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    rows: list[dict[str, Any]] = [{"custom_id": f"a{number}", "params": params} for number in range(5)]
    keys = {"ANTHROPIC_API_KEY": "sk-ant", "ANTHROPIC_BASE_URL": servers.first.url}
    servers.write(rows)
    arguments = ("-m", "anthropic/m", "--fallback", "mistral/second")
    refused = (
        servers.run(*arguments, **keys),
        servers.run(*arguments, "--cache", "answers.db", **keys),  # which hid the fallbacks
        servers.check(*arguments, **keys),  # which said nothing of them
    )

    for done in refused:
        assert done.returncode == 2, done.stderr
        assert "--fallback mistral/second can carry no row of p.jsonl" in done.stderr
    assert servers.first.count == 0

    servers.write([*rows, {"prompt": "hi"}])
    assert servers.check(*arguments, **keys).returncode == 0
    assert servers.run(*arguments, **keys).returncode == 0


@pytest.mark.slow  # starts processes
def test_rows_that_name_the_model_of_a_fallback_are_sent_to_the_base_url(servers: Servers) -> None:
    """They went to the fallback's address: rows meant for a server of one's own were sent to OpenAI."""
    servers.write([{"prompt": "hi", "model": model} for model in ("openai/mine", "openai/live") * 20])
    done = servers.run("--base-url", servers.second.url, "-m", "openai/mine", "--fallback", "openai/live")

    assert done.returncode == 0, done.stderr
    assert (servers.first.count, servers.second.count) == (0, 40)
    assert servers.check_lines(40) == {("openai/mine", None): 20, ("openai/live", None): 20}


@pytest.mark.slow  # starts processes
def test_a_fallback_may_be_the_same_model_at_its_own_address(servers: Servers) -> None:
    """The gateway of ``--base-url`` is down, so its rows go to the provider itself; resuming accepts both."""
    servers.second.respond = lambda arrival: DOWN
    arguments = ("--base-url", servers.second.url, "-m", "openai/m", "--fallback", "openai/m")
    done = servers.run(*arguments)

    assert done.returncode == 0, done.stderr
    assert servers.check_lines(ROWS) == {("openai/m", "openai/m"): ROWS}
    again = servers.run(*arguments)
    assert again.returncode == 0, again.stderr
    assert "60 rows done before" in again.stderr


@pytest.mark.slow  # starts processes
def test_pools_on_two_hosts_with_one_key_are_two_routes(servers: Servers) -> None:
    """The second one was taken for the first, and left out."""
    servers.first.respond = lambda arrival: DOWN
    servers.config(
        f'[pools.east]\nroutes = [{{model = "m", base_url = "{servers.first.url}", api_key_env = "KEY"}}]\n'
        f'[pools.west]\nroutes = [{{model = "m", base_url = "{servers.second.url}", api_key_env = "KEY"}}]\n'
    )
    done = servers.run("-m", "pool/east", "--fallback", "pool/west", "--config", "c.toml", KEY="key")

    assert done.returncode == 0, done.stderr
    assert servers.check_lines(ROWS) == {("m", "m (KEY) #2"): ROWS}
