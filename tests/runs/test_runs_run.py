"""`BatchRunner.run` and `run_sync` as people call them: real files, the simulated provider, no keys."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest

import llmbatch
from llmbatch import BatchRunner, InputError, OutputError, Summary, UsageError
from llmbatch.core.events import CallSent, Event, Notice, RunEnded, RunStarted


def write_prompts(path: Path, count: int, model: str | None = None) -> Path:
    rows = [{"id": f"r{n}", "prompt": f"prompt {n}"} | ({"model": model} if model else {}) for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Watcher:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event) -> None:
        self.events.append(event)

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)


async def upper(row: dict[str, Any]) -> str:
    await asyncio.sleep(0.001)
    prompt: str = row["prompt"]
    return prompt.upper()


@pytest.mark.parametrize("name", llmbatch.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    """What `__all__` promises is there, under the name it has at its home."""
    thing = getattr(llmbatch, name)

    assert name in dir(llmbatch)
    assert thing is getattr(importlib.import_module("llmbatch"), name)


def test_a_misspelt_name_was_right_for_a_type_checker() -> None:
    """Python told it when the program ran; mypy, which tells it before, would call the comments unused."""
    with pytest.raises(ImportError):
        from llmbatch import BatchRuner  # type: ignore[attr-defined]  # noqa: F401
    with pytest.raises(ImportError):
        from llmbatch.breaker import CircuitBraker  # type: ignore[attr-defined]  # noqa: F401


def test_an_unknown_name_is_an_attribute_error() -> None:
    """`hasattr` and typos behave as with any module."""
    assert not hasattr(llmbatch, "BatchRuner")


@pytest.mark.slow
async def test_run_writes_one_line_a_row_and_sums_up(tmp_path: Path) -> None:
    """The example of the contract, with a model that needs no key.

    Slow: simulated answers take 0.2 s.
    """
    prompts = write_prompts(tmp_path / "prompts.jsonl", 25)

    summary = await BatchRunner("sim/steady", concurrency=40).run(prompts, tmp_path / "results.jsonl")

    assert isinstance(summary, Summary)
    assert (summary.exit_code, summary.ok, summary.rows, summary.success) == (0, True, 25, 25)
    lines = lines_of(tmp_path / "results.jsonl")
    assert sorted(line["row"] for line in lines) == list(range(1, 26))
    assert {line["status"] for line in lines} == {"success"}
    assert all(line["text"] and line["model"] == "sim/steady" for line in lines)


async def test_run_names_its_output_beside_the_input(tmp_path: Path) -> None:
    """Without an output, `prompts.jsonl` gives `prompts.results.jsonl`; strings will do for paths."""
    write_prompts(tmp_path / "prompts.jsonl", 2)

    summary = await BatchRunner(upper).run(str(tmp_path / "prompts.jsonl"))

    assert summary.output == str(tmp_path / "prompts.results.jsonl")
    assert len(lines_of(tmp_path / "prompts.results.jsonl")) == 2


@pytest.mark.slow
async def test_one_runner_runs_twice_and_resumes(tmp_path: Path) -> None:
    """The second run sends nothing for rows that have their line, and new rows are simply new.

    Slow: simulated answers take 0.2 s.
    """
    watcher = Watcher()
    prompts = write_prompts(tmp_path / "prompts.jsonl", 10)
    runner = BatchRunner("sim/steady", observers=[watcher])
    await runner.run(prompts)
    calls_before = watcher.count(CallSent)
    write_prompts(prompts, 13)

    summary = await runner.run(prompts)

    assert calls_before == 10
    assert watcher.count(CallSent) - calls_before == 3
    assert (summary.rows, summary.already_done, summary.this_run_success) == (13, 10, 3)


@pytest.mark.slow
async def test_two_runners_share_a_loop(tmp_path: Path) -> None:
    """Each has its own simulated provider, circuit and file.

    Slow: simulated answers take 0.2 s.
    """
    first = write_prompts(tmp_path / "a.jsonl", 30)
    second = write_prompts(tmp_path / "b.jsonl", 30)

    summaries = await asyncio.gather(BatchRunner("sim/steady").run(first), BatchRunner(upper).run(second))

    assert [summary.success for summary in summaries] == [30, 30]


async def test_the_same_runner_may_run_two_files_at_once(tmp_path: Path) -> None:
    """Runs share nothing but the settings."""
    runner = BatchRunner(upper)
    files = [write_prompts(tmp_path / f"{n}.jsonl", 20) for n in range(3)]

    summaries = await asyncio.gather(*map(runner.run, files))

    assert [summary.success for summary in summaries] == [20, 20, 20]


async def test_a_second_run_on_the_same_output_is_refused(tmp_path: Path) -> None:
    """While one run appends, another would mix its lines in: it is refused before it sends anything."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", 4)
    going = asyncio.Event()

    async def slow(row: object) -> object:
        going.set()
        await asyncio.sleep(0.1)
        return row

    first = asyncio.create_task(BatchRunner(slow).run(prompts))
    await going.wait()

    with pytest.raises(OutputError):
        await BatchRunner(upper).run(prompts)

    assert (await first).success == 4


async def test_stop_ends_the_run_under_way_and_not_the_next(tmp_path: Path) -> None:
    """A stopped runner can be used again: the second run finishes what the first left."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", 50)

    async def stopping(row: dict[str, Any]) -> str:
        if row["id"] == "r5":
            runner.stop()
        await asyncio.sleep(0.001)
        return "done"

    runner = BatchRunner(stopping, concurrency=2)

    stopped = await runner.run(prompts)
    finished = await runner.run(prompts)

    assert stopped.exit_code == 130
    assert 5 <= stopped.rows < 10
    assert (finished.exit_code, finished.rows) == (0, 50)


async def test_stop_before_a_run_stops_that_run(tmp_path: Path) -> None:
    """A signal that comes before the first row is not forgotten."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", 5)
    runner = BatchRunner(upper)
    runner.stop(signal=15)

    summary = await runner.run(prompts)

    assert (summary.exit_code, summary.rows) == (143, 0)
    assert (await runner.run(prompts)).rows == 5


@pytest.mark.slow
async def test_a_cancelled_run_leaves_nothing_behind_and_resumes(tmp_path: Path) -> None:
    """No task, no lock on the output, no socket; observers hear the end; the same call goes on from there.

    Slow: simulated answers take 0.2 s.
    """
    prompts = write_prompts(tmp_path / "prompts.jsonl", 200)
    watcher = Watcher()
    handles = len(list(Path("/proc/self/fd").iterdir()))
    task = asyncio.create_task(BatchRunner("sim/steady", concurrency=5, observers=[watcher]).run(prompts))
    while watcher.count(CallSent) < 20:
        await asyncio.sleep(0.005)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    gc.collect()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert len(list(Path("/proc/self/fd").iterdir())) <= handles + 1
    assert (watcher.count(RunStarted), watcher.count(RunEnded)) == (1, 1)
    ended = watcher.events[-1]
    assert isinstance(ended, RunEnded)
    assert ended.exit_code == 130
    done = len(lines_of(tmp_path / "prompts.results.jsonl"))
    assert 0 < done < 200
    summary = await BatchRunner(upper).run(prompts)
    assert (summary.already_done, summary.rows) == (done, 200)


@pytest.mark.slow
def test_run_sync_needs_no_loop(tmp_path: Path) -> None:
    """One call, for scripts.

    Slow: simulated answers take 0.2 s.
    """
    prompts = write_prompts(tmp_path / "prompts.jsonl", 5)

    summary = BatchRunner("sim/steady").run_sync(prompts, limit=3)

    assert summary.rows == 3


@pytest.mark.slow
async def test_run_sync_works_inside_a_running_loop(tmp_path: Path) -> None:
    """In a notebook a loop is running already: the run gets a thread and a loop of its own, and leaves neither.

    Slow: simulated answers take 0.2 s.
    """
    prompts = write_prompts(tmp_path / "prompts.jsonl", 5)
    before = set(threading.enumerate())  # another test may have left one that still ends

    summary = BatchRunner("sim/steady").run_sync(prompts)

    assert summary.success == 5
    assert set(threading.enumerate()) <= before


async def test_run_sync_inside_a_loop_raises_what_went_wrong(tmp_path: Path) -> None:
    """Errors cross the thread."""
    with pytest.raises(InputError):
        BatchRunner("sim/steady").run_sync(tmp_path / "missing.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        "runner.run_sync(sys.argv[1])",
        "asyncio.run(main())",  # turns the signal into a cancellation
        "asyncio.new_event_loop().run_until_complete(main())",  # as a notebook: KeyboardInterrupt
    ],
)
def test_ctrl_c_in_run_sync_cancels_the_run(tmp_path: Path, start: str) -> None:
    """Also inside a notebook, where the run has its own thread: it must not go on behind the user's back.

    Slow: a real process and a real signal.
    """
    prompts = write_prompts(tmp_path / "prompts.jsonl", 100_000)
    script = """
import asyncio, sys
from llmbatch import BatchRunner
async def call(row):
    if row["id"] == "r20":
        print("going", flush=True)
    await asyncio.sleep(0.01)
    return 1
runner = BatchRunner(call, concurrency=4)
async def main():
    runner.run_sync(sys.argv[1])
try:
    START
except KeyboardInterrupt:
    print("interrupted", flush=True)
""".replace("START", start)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", script, str(prompts)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "going\n"
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=120)
        finally:
            process.kill()

    assert (said, process.returncode) == ("interrupted\n", 0)
    rows = Counter(line["row"] for line in lines_of(tmp_path / "prompts.results.jsonl"))
    assert len(rows) >= 15
    assert set(rows.values()) == {1}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurency": 4}, "concurency"),
        ({"concurrency": 0}, "1 to 100,000"),
        ({"timeout": -1}, "timeout is -1"),
        ({"on_outage": "panic"}, "wait, defer, fail"),
        ({"recovery_timeout": float("nan")}, "recovery_timeout is nan"),
        ({"max_attempts": 1.5}, "max_attempts is 1.5"),
    ],
)
def test_a_wrong_option_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    """At the constructor, with the value and what would be right."""
    with pytest.raises(UsageError) as caught:
        BatchRunner("sim/steady", **options)

    assert said in f"{caught.value.message} {caught.value.hint}"


def test_an_unknown_option_is_told_the_known_ones() -> None:
    """The hint lists every option there is."""
    with pytest.raises(UsageError) as caught:
        BatchRunner("sim/steady", workers=4)  # type: ignore[call-overload]

    assert "'workers'" in caught.value.message
    assert "concurrency" in caught.value.hint


async def test_a_missing_key_is_told_before_anything_is_written(tmp_path: Path) -> None:
    """Nothing is sent and no output appears."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", 3)

    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        await BatchRunner("openai/gpt-5-mini", environ={}).run(prompts)

    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


async def test_strict_refuses_and_lenient_makes_a_failed_line(tmp_path: Path) -> None:
    """A malformed row ends as one failed line with an `input_` code, or stops everything with `strict`."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt":"one"}\n{"prompt":}\n\n"three"\n')

    with pytest.raises(InputError, match="line 2"):
        await BatchRunner(upper).run(prompts, strict=True)
    summary = await BatchRunner(upper).run(prompts)

    assert (summary.exit_code, summary.success, summary.failed) == (1, 2, 1)
    codes = {line["row"]: (line["error"] or {}).get("code") for line in lines_of(tmp_path / "prompts.results.jsonl")}
    assert codes == {1: None, 2: "input_bad_json", 4: None}


async def test_retry_failed_and_overwrite(tmp_path: Path) -> None:
    """Failed lines go and are made anew; `overwrite` starts afresh."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", 6)
    broken = True

    class TooLongError(Exception):
        """Which no repetition helps: the row fails at once."""

        status_code = 400
        body: ClassVar = {"error": {"code": "context_length_exceeded", "message": "the prompt is too long"}}

    async def call(row: dict[str, Any]) -> str:
        if broken and row["id"] == "r2":
            raise TooLongError
        return "fine"

    runner = BatchRunner(call)
    first = await runner.run(prompts)
    broken = False
    again = await runner.run(prompts, retry_failed=True)
    afresh = await runner.run(prompts, overwrite=True)

    assert (first.exit_code, first.failed) == (1, 1)
    assert (again.exit_code, again.rows, again.this_run_success) == (0, 6, 1)
    assert (afresh.rows, afresh.already_done) == (6, 0)
    assert len(lines_of(tmp_path / "prompts.results.jsonl")) == 6


@pytest.mark.slow  # attempts over some seconds, until the errors are an outage
async def test_an_outage_with_defer_ends_with_75_and_goes_on_later(tmp_path: Path) -> None:
    """Parked rows stand in the deferred file, without a line; the next run gives them theirs and the file goes."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", 30)
    down = True

    async def call(row: dict[str, Any]) -> str:
        await asyncio.sleep(0.001)
        if down and row["id"] != "r0":
            raise ConnectionError("down")
        return "fine"

    runner = BatchRunner(call, concurrency=4, on_outage="defer")
    first = await runner.run(prompts)
    waiting = lines_of(tmp_path / "prompts.results.deferred.jsonl")
    down = False
    second = await runner.run(prompts)

    assert (first.exit_code, first.rows, first.failed) == (75, 1, 0)
    assert len(waiting) == first.deferred > 0
    assert {line["status"] for line in waiting} == {"deferred"}
    assert all(line["retry_after"] > 0 for line in waiting)
    assert (second.exit_code, second.success) == (0, 30)
    assert not (tmp_path / "prompts.results.deferred.jsonl").exists()


async def test_an_observer_that_raises_changes_nothing(tmp_path: Path) -> None:
    """It is heard once, told to the others, and the run goes on."""

    class Clumsy:
        heard = 0

        def observe(self, event: Event) -> None:
            self.heard += 1
            raise RuntimeError("oops")

    clumsy, watcher = Clumsy(), Watcher()
    prompts = write_prompts(tmp_path / "prompts.jsonl", 10)

    summary = await BatchRunner(upper, observers=[clumsy, watcher]).run(prompts)

    assert (summary.exit_code, clumsy.heard) == (0, 1)
    notices = [event.message for event in watcher.events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "Clumsy" in notices[0]
    assert isinstance(watcher.events[-1], RunEnded)


@pytest.mark.slow
def test_importing_the_package_is_light() -> None:
    """`import llmbatch`, and even the breaker, load no HTTP client, no command line and no drawing.

    Slow: a process of its own.
    """
    script = (
        "import sys, llmbatch; llmbatch.CircuitBreaker; llmbatch.CircuitOpenError; "
        "print([name for name in ('aiohttp', 'httptools', 'typer', 'rich', 'anyio', 'asyncio') if name in sys.modules])"
    )
    started = os.times()

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240)

    assert said.stdout == "[]\n"
    ended = os.times()
    assert ended.children_user + ended.children_system - started.children_user - started.children_system < 1.0


@pytest.mark.slow
def test_a_run_on_uvloop_wakes_for_timers_that_are_due_at_once() -> None:
    """Two hundred rows that fail once and wait for their second attempts: most of those are due within a millisecond.

    uvloop hands out a handle without ``when`` for such a timer; the run never woke again. Slow: a second of backoff.
    """
    uvloop = pytest.importorskip("uvloop")
    seen: set[int] = set()
    broken: list[dict[str, Any]] = []

    async def call(row: int) -> int:
        if row % 2 and row not in seen:
            seen.add(row)
            raise ValueError("once")
        return row

    async def main() -> Counter[str]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
        async with asyncio.timeout(120):
            runner = BatchRunner(call, concurrency=50)
            return Counter([result.status async for result in runner.stream(range(400))])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        statuses = loop.run(main())

    assert statuses == {"success": 400}
    assert broken == []


async def test_a_row_whose_provider_has_no_key_fails_alone(tmp_path: Path) -> None:
    """It ended the run in mid-file: the input could not be read on."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": f"row {n}", "model": "groq/llama-3.3-70b" if n == 7 else "sim/steady"} for n in range(20)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    summary = await BatchRunner(environ={}).run(source, target)

    assert (summary.exit_code, summary.success, summary.failed) == (1, 19, 1)
    failed = [line for line in lines_of(target) if line["status"] == "failed"]
    assert [(line["row"], line["error"]["code"]) for line in failed] == [(8, "no_key")]
    assert "GROQ_API_KEY" in failed[0]["error"]["message"]


async def test_no_row_is_sent_where_none_has_its_key(tmp_path: Path) -> None:
    """Exit 2 before anything is written."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": "x", "model": "groq/llama-3.3-70b"}) + "\n" for _ in range(20)))

    with pytest.raises(UsageError, match="GROQ_API_KEY"):
        await BatchRunner(environ={}).run(source, target)

    assert not target.exists()
