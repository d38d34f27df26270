"""What an outage does (docs/evidence.md), through the real command, against a server of the tests' own."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import e2e_hostile
import pytest
from e2e_hostile import GOOD, Answer, Behavior, Call, HostileServer, Outage, error

from llmbatch import BatchRunner

PLACES = 20
PROBE_SECONDS = 0.5


@dataclass
class Ended:
    """A run of the command that is over, with what it left behind."""

    code: int
    err: str
    summary: dict[str, Any]
    lines: list[dict[str, Any]]
    deferred: list[dict[str, Any]]

    @property
    def statuses(self) -> Counter[str]:
        return Counter(line["status"] for line in self.lines)

    @property
    def failed(self) -> dict[int, dict[str, Any]]:
        return {line["row"]: line for line in self.lines if line["status"] == "failed"}


Run = Callable[..., Awaitable[Ended]]


@pytest.fixture
def prompts(tmp_path: Path) -> Callable[[int], None]:
    """``prompts(n)`` writes rows 1 to n, each of which says its number."""

    def write(count: int) -> None:
        rows = [{"prompt": f"row {number}"} for number in range(1, count + 1)]
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command on ``prompts.jsonl``, given a URL and flags, to its end or 30 s."""

    async def start(url: str, *flags: str) -> Ended:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llmbatch", "run", "prompts.jsonl", "--base-url", url, "-m", "test-model"),
            *("-c", str(PLACES), "--recovery-timeout", str(PROBE_SECONDS), "--json", "--progress", "plain", *flags),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}
            | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},  # which llmbatch is meant
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), 240)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        lines = _lines(tmp_path / "prompts.results.jsonl")
        assert len({line["row"] for line in lines}) == len(lines), "a row has two lines"
        return Ended(
            process.returncode,
            err.decode(),
            json.loads(out),
            lines,
            _lines(tmp_path / "prompts.results.deferred.jsonl"),
        )

    return start


def _count_lines(path: Path) -> int:
    """Whole lines of a file that is being written."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


OUTAGES: dict[str, Behavior] = {
    "503": error(503),
    "reset": "reset",
    "hang": "hang",
    "200 without a body": Answer(200, b""),
    "key refused": error(401),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OUTAGES)
async def test_outage_costs_no_row_and_few_calls(prompts: Callable[[int], None], run: Run, kind: str) -> None:
    """However an outage looks, every row succeeds, calls stay within the bound, and the first good probe ends it.

    A kept connection that ends before an answer costs one request more than the run counts, over a new connection.

    Slow: a real outage of 3 s. (Of 1.5 s the few probes do not confirm it, and it is not counted.)
    """
    prompts(160)
    outage = Outage(OUTAGES[kind], seconds=3.0)
    async with HostileServer(outage) as server:
        ended = await run(server.url, "--timeout", "0.4", "--max-attempts", "1")

    assert ended.code == 0, ended.err
    assert ended.statuses == {"success": 160}
    again = len(server.calls) - ended.summary["calls"]
    # Where reused connections are lost at once, one request goes over a new one to see whether they were stale.
    assert 0 <= again <= (kind == "reset")
    while_down = [call for call in server.calls if not call.is_good]
    assert len(while_down) - again <= PLACES + 5 + 3.0 / PROBE_SECONDS + 2
    first_good = min(call.at for call in server.calls if call.is_good and call.at > outage.ended)
    assert first_good - outage.ended <= PROBE_SECONDS + 0.4 + 0.2
    assert ended.summary["outages"] == 1


@pytest.mark.slow
async def test_traffic_ramps_when_the_outage_is_over(prompts: Callable[[int], None], run: Run) -> None:
    """After the probe that succeeds the requests in flight start at two. Slow: a real outage of 3 s, as above."""
    prompts(160)
    outage = Outage(error(500), seconds=3.0)
    async with HostileServer(outage, latency=0.1) as server:
        ended = await run(server.url)

    assert ended.code == 0
    after = [call for call in server.calls if call.at > outage.ended]
    assert [call.flying <= most for call, most in zip(after, [1, 2, 2, 4, 4, 4], strict=False)] == [True] * 6


@pytest.mark.slow
async def test_killed_server_that_comes_back_costs_no_row(
    prompts: Callable[[int], None], run: Run, tmp_path: Path
) -> None:
    """The server's process is killed in mid-run and started again: refused connections, no row lost.

    Slow: two processes and 2 s without a server.
    """
    prompts(400)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    servers = [await _serve(port)]

    async def kill_and_restart() -> None:
        while _count_lines(tmp_path / "prompts.results.jsonl") < 40:
            await asyncio.sleep(0.02)
        servers[0].kill()
        await servers[0].wait()
        await asyncio.sleep(2.0)
        servers.append(await _serve(port))

    try:
        ended, _ = await asyncio.gather(run(f"http://127.0.0.1:{port}/v1"), kill_and_restart())
    finally:
        if servers[-1].returncode is None:
            servers[-1].kill()
            await servers[-1].wait()

    assert ended.code == 0, ended.err
    assert ended.statuses == {"success": 400}
    assert ended.summary["outages"] == 1


async def _serve(port: int) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(sys.executable, e2e_hostile.__file__, str(port))
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return process
    raise AssertionError("the server does not come up")


@pytest.mark.slow
async def test_run_never_sleeps_through_its_own_timer(prompts: Callable[[int], None], run: Run) -> None:
    """With a probe every 50 ms for 2 s the run still finds the recovery at once.

    Slow: the race that it guards against needs many timers.
    """
    prompts(160)
    outage = Outage(error(500), seconds=2.0)
    async with HostileServer(outage, latency=0.02) as server:
        ended = await run(server.url, "--recovery-timeout", "0.05")

    assert ended.code == 0, ended.err
    assert min(call.at for call in server.calls if call.is_good and call.at > outage.ended) - outage.ended < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("answer", [error(429, retry_after="2"), error(500, retry_after_ms="2000")])
async def test_named_wait_longer_than_the_recovery_timeout_is_kept(
    prompts: Callable[[int], None], run: Run, answer: Answer
) -> None:
    """Nothing is sent for the 2 s that the provider names, though probes would go after 0.5 s. Slow: it waits.

    The first probe passes: neither is an outage, be there an opening or not.
    """
    prompts(120)
    outage = Outage(answer, seconds=0.3)
    async with HostileServer(outage) as server:
        ended = await run(server.url)

    assert ended.code == 0, ended.err
    last = max(call.ended for call in server.calls if not call.is_good)
    assert [call.at for call in server.calls if last + 0.1 < call.at < last + 1.95] == []
    assert ended.statuses == {"success": 120}
    assert ended.summary["outages"] == 0


@pytest.mark.slow
async def test_wait_named_with_a_refused_key_is_kept(prompts: Callable[[int], None], run: Run) -> None:
    """A hint holds on any answer, also on a 401 that is an outage in disguise. Slow: it waits 2 s."""
    prompts(120)
    async with HostileServer(Outage(error(401, retry_after="2"), seconds=0.3)) as server:
        ended = await run(server.url)

    assert ended.code == 0, ended.err
    refused = [call.ended for call in server.calls if not call.is_good]
    assert [call.at for call in server.calls if max(refused) + 0.1 < call.at < min(refused) + 1.95] == []


@pytest.mark.slow
async def test_storm_of_429_opens_no_circuit_and_fails_no_row(prompts: Callable[[int], None], run: Run) -> None:
    """A provider that takes 30 requests a second and refuses the rest is slowed down for, row by row, to the end.

    Slow: 80 rows take over 2 s at that pace.
    """
    prompts(80)
    taken: list[float] = []

    def thirty_a_second(call: Call) -> Behavior:
        if len([at for at in taken if at > call.at - 1.0]) >= 30:
            return error(429, "rate_limit_exceeded", retry_after="1")
        taken.append(call.at)
        return GOOD

    async with HostileServer(thirty_a_second) as server:
        ended = await run(server.url, "--max-attempts", "1")

    assert ended.code == 0, ended.err
    assert ended.statuses == {"success": 80}
    assert ended.summary["outages"] == 0
    assert ended.summary["calls"] == len(server.calls) <= 160


@pytest.mark.slow
async def test_spent_quota_stops_at_once_and_the_run_resumes(prompts: Callable[[int], None], run: Run) -> None:
    """No money: exit 3, nothing failed, parked rows in the deferred file; the same command then sends the rest alone.

    Slow: two processes.
    """
    prompts(200)
    async with HostileServer(Outage(error(429, "insufficient_quota"), seconds=60)) as server:
        stopped = await run(server.url)
        refused = sum(not call.is_good for call in server.calls)
    async with HostileServer(lambda _: GOOD) as server:
        resumed = await run(server.url)

    assert stopped.code == 3
    assert not stopped.failed
    # Three rows, or one and a check, have to be refused before the account is given up.
    assert refused <= PLACES + 3
    # The rest of the file was read, as it might have named another account's model.
    assert len(stopped.deferred) + len(stopped.lines) == 200
    assert resumed.code == 0
    assert len(resumed.lines) == 200
    assert len(server.calls) == 200 - len(stopped.lines)
    assert resumed.deferred == []


@pytest.mark.slow
@pytest.mark.parametrize("status", [301, 401, 404])
async def test_route_that_refuses_from_the_start_stops_the_run(
    prompts: Callable[[int], None], run: Run, status: int
) -> None:
    """A wrong address, key or model: exit 3 with a word on what to do, one call a place. Slow: a process."""
    prompts(200)
    async with HostileServer(lambda _: error(status, location="http://127.0.0.1:1/")) as server:
        ended = await run(server.url)

    assert ended.code == 3
    assert ended.lines == []
    assert len(server.calls) <= PLACES
    assert ("no key was sent" if status == 401 else "check the") in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["reset", error(400, "strange")])
async def test_row_alone_in_its_file_is_judged_by_canaries(
    prompts: Callable[[int], None], run: Run, answer: Behavior
) -> None:
    """One bad row and nothing else: each failed attempt is proven by the smallest request, and no circuit opens.

    Where nothing else is known of the route it takes more than three attempts to rule out chance. Slow: backoffs.
    """
    prompts(1)
    async with HostileServer(lambda call: answer if call.row else GOOD) as server:
        ended = await run(server.url)

    assert ended.code == 1
    attempts = ended.failed[1]["attempts"]
    assert 3 <= attempts <= 9
    assert ended.summary["outages"] == 0
    canary = {"model": "test-model", "messages": [{"role": "user", "content": "ping"}]}
    assert [call.body for call in server.calls if not call.row] == [canary] * attempts


@pytest.mark.slow
async def test_bad_rows_among_good_ones_cost_three_calls_each_and_few_canaries(
    prompts: Callable[[int], None], run: Run
) -> None:
    """Refused rows are judged by the good ones that were sent after them, and their last attempts by canaries.

    Those are the smallest request, or a finished row's. (It was one call each, and no canary, while a refusal was final
    after one attempt.) Slow: two backoffs.
    """
    prompts(200)
    bad = {1, 2, 90, 91, 120}
    async with HostileServer(lambda call: error(400, "strange") if call.row in bad else GOOD) as server:
        ended = await run(server.url)

    assert ended.code == 1
    assert set(ended.failed) == bad
    assert {line["attempts"] for line in ended.lines if line["row"] not in bad} == {1}
    assert {line["attempts"] for line in ended.failed.values()} == {3}
    sent = Counter(call.row for call in server.calls)
    assert [sent[row] for row in sorted(bad)] == [3] * len(bad)
    assert not any(call.row == 0 for call in server.calls[:200])
    assert len(server.calls) - 200 - 2 * len(bad) <= 2 * len(bad)
    assert ended.summary["outages"] == 0


@pytest.mark.slow
async def test_outage_of_409_fails_no_row(prompts: Callable[[int], None], run: Run) -> None:
    """A 409 is worth another try and is nobody's fault: no row ends by it before a later call has succeeded.

    Slow: it lasts until after the third canary.
    """
    prompts(80)
    async with HostileServer(Outage(error(409), after=70, seconds=7.0)) as server:
        ended = await run(server.url)

    assert not ended.failed


@pytest.mark.slow
async def test_deferred_rows_go_when_the_command_runs_again(prompts: Callable[[int], None], run: Run) -> None:
    """With ``--on-outage defer``: exit 75, the parked rows in their file, then the rest and nothing twice.

    Up to four probes confirm the outage before the run gives way to it. Slow: two processes.
    """
    prompts(160)
    async with HostileServer(Outage(error(503), seconds=60)) as server:
        stopped = await run(server.url, "--on-outage", "defer")
        down = sum(not call.is_good for call in server.calls)
    async with HostileServer(lambda _: GOOD) as server:
        resumed = await run(server.url, "--on-outage", "defer")

    assert stopped.code == 75
    assert down <= PLACES + 5 + 4
    assert stopped.deferred
    assert all(row["status"] == "deferred" and row["retry_after"] > 0 for row in stopped.deferred)
    assert resumed.code == 0
    assert len(server.calls) == 160 - len(stopped.lines)
    assert resumed.deferred == []


@pytest.mark.slow
async def test_requests_a_minute_are_kept(prompts: Callable[[int], None], run: Run) -> None:
    """600 a minute: no second sees more than its ten and one burst of ten. Slow: 40 rows take 3 s."""
    prompts(40)
    async with HostileServer(lambda _: GOOD) as server:
        ended = await run(server.url, "--rpm", "600")

    assert ended.code == 0
    times = [call.at for call in server.calls]
    assert max(sum(at <= other < at + 1.0 for other in times) for at in times) <= 21
    assert times[-1] - times[0] >= 2.5


@pytest.mark.slow
async def test_model_that_is_down_leaves_its_neighbour_alone(tmp_path: Path) -> None:
    """Two models at one address, one down for 4 s: the other's rows end at once, and no row is lost.

    Slow: a real outage.
    """
    rows = [{"prompt": f"row {n}", "model": "sick" if n % 2 else "well"} for n in range(1, 121)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def behave(call: Call) -> Behavior:
        return error(503) if call.body["model"] == "sick" and call.at < 4.0 else GOOD

    async with HostileServer(behave) as server:
        runner = BatchRunner("test-model", base_url=server.url, concurrency=PLACES, recovery_timeout=PROBE_SECONDS)
        summary = await runner.run(tmp_path / "p.jsonl")

    assert (summary.exit_code, summary.success, summary.outages) == (0, 120, 1)
    assert summary.calls == len(server.calls)
    assert max(call.at for call in server.calls if call.body["model"] == "well") < 4.0


@pytest.mark.slow
async def test_auto_finds_how_many_a_server_works_on_at_a_time(prompts: Callable[[int], None], run: Run) -> None:
    """A server with 24 workers: ``-c auto`` goes beyond 8 and does not pile requests up. Slow: 1,500 real answers."""
    prompts(1500)
    async with HostileServer(lambda _: GOOD, latency=0.1, workers=24) as server:
        ended = await run(server.url, "-c", "auto")

    assert ended.code == 0, ended.err
    assert ended.statuses == {"success": 1500}
    assert max(call.flying for call in server.calls[:8]) <= 8
    settled = sorted(call.flying for call in server.calls[700:-40])
    assert 16 <= settled[len(settled) // 2] <= 48
    assert "of auto" in ended.err


@pytest.mark.slow
async def test_auto_ends_an_outage_as_a_number_does(prompts: Callable[[int], None], run: Run) -> None:
    """No row is lost, and few calls meet it. Slow: a real outage of 3 s."""
    prompts(400)
    outage = Outage(error(503), seconds=3.0)
    async with HostileServer(outage, latency=0.1) as server:
        ended = await run(server.url, "-c", "auto:100")

    assert ended.code == 0, ended.err
    assert ended.statuses == {"success": 400}
    assert ended.summary["outages"] == 1
    assert max(call.flying for call in server.calls) <= 100
