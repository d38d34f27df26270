"""The cells of the mess table: everyday mess that is no outage, partial outages, and what each may cost.

The ideal is what the law needs: a good row's 1 / (1 - e) attempts on average where ``e`` of all calls fail by chance,
and ``k`` attempts of a bad row, each of full latency, at full concurrency. A cell's budget is named in its checks.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from mess_run import Answer, Attempt, Fate, Kind, Story, run

__all__ = ["Cell", "Check", "Finding", "Setup", "all_cells", "attempts_of_a_bad_row", "own_backoff"]

CHANCE = 1e-5
"""How likely a good row may end as failed."""

FLOOR = 0.01

LIMIT_SECONDS = 61.0
"""For how long a row is asked for again that is throttled while others pass: a limit may be one of a minute."""

MAX_ATTEMPTS = 3

SHARES = (1, 5, 10, 25, 50)
BLOCKS = (5, 20, 100, 500)
ERRORS = (0, 5, 25)
PARTIAL = (20, 30, 50, 60, 80)
KINDS: Sequence[Kind] = ("http", "function", "function-canary", "own-error", "own-error-canary")

ROWS = 2_000
LATENCY = 2.0
CONCURRENCY = 40


@dataclass(frozen=True, slots=True)
class Setup:
    """What the command line may change."""

    rows: int = 100_000
    """Good rows of the cells that count wrongly failed ones."""
    seed: int = 1
    beyond: float = 10.0
    """Budgets after which a run is cut off."""


@dataclass(frozen=True, slots=True)
class Check:
    """One bound: ``value`` must not be above ``most``, nor below ``least``."""

    name: str
    value: float
    most: float = math.inf
    least: float = -math.inf

    @property
    def holds(self) -> bool:
        """Whether the value is within its bounds; NaN is not."""
        return self.least <= self.value <= self.most

    def __str__(self) -> str:
        bound = f"≤ {self.most:,.4g}" if self.most < math.inf else f"≥ {self.least:,.4g}"
        return f"{self.name} {self.value:,.4g}, must be {bound}"


@dataclass(slots=True)
class Finding:
    """What a cell measured. Durations are virtual seconds, but for ``cpu``."""

    seconds: float
    ended: bool
    ideal: float
    calls: int
    ideal_calls: float
    wrong: int
    """Good rows that failed."""
    kept: int
    """Bad rows that did not fail."""
    outages: int
    openings: int
    exit_code: int | None
    checks: list[Check]
    cpu: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every bound is kept."""
        return all(check.holds for check in self.checks)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table."""

    name: str
    measure: Callable[[Setup], Finding] = field(repr=False)
    quick: bool = False


def attempts_of_a_bad_row(errors: float) -> int:
    """How often a row must have failed before a good one would have by chance less than once in 100,000."""
    return max(MAX_ATTEMPTS, math.ceil(math.log(CHANCE) / math.log(max(errors, FLOOR)) - 1e-9))


def own_backoff(attempts: int) -> float:
    """Seconds that a row waits between so many attempts: 1, 2, 4, … 30, 30."""
    return sum(min(30.0, 2.0**number) for number in range(attempts - 1))


def find(
    story: Story,
    bad: frozenset[int],
    *,
    ideal_calls: float,
    ideal: float,
    checks: Sequence[Check],
    note: str = "",
    cpu: float = 0.0,
) -> Finding:
    """A finding of *story* with *checks* after those that hold for every cell: no good row fails."""
    wrong = sum(row not in bad for row in story.failed)
    return Finding(
        seconds=story.seconds,
        ended=story.exit_code is not None,
        ideal=ideal,
        calls=story.calls,
        ideal_calls=ideal_calls,
        wrong=wrong,
        kept=sum(row not in story.failed for row in bad),
        outages=story.outages,
        openings=story.openings,
        exit_code=story.exit_code,
        checks=[Check("rows failed wrongly", wrong, 0), *checks],
        cpu=story.cpu + cpu,
        note=note or story.stuck,
    )


def time_check(story: Story, most: float) -> Check:
    return Check("time", story.seconds if story.exit_code is not None else math.inf, most)


# Bad rows.


def bad_rows(pattern: str, size: int, rows: int, seed: int) -> frozenset[int]:
    """Which of the rows 1 to *rows* are bad: *size* per cent ``scattered``, or a block of *size*."""
    match pattern:
        case "scattered":
            return frozenset(Random(f"{seed}:bad").sample(range(1, rows + 1), round(rows * size / 100)))
        case "first":
            return frozenset(range(1, size + 1))
        case "last":
            return frozenset(range(rows - size + 1, rows + 1))
        case _:
            start = (rows - size) // 2 + 1
            return frozenset(range(start, start + size))


def mixed(bad: frozenset[int], errors: float, latency: float = LATENCY, status: int = 500) -> Fate:
    """Bad rows always fail, and of all calls the share *errors* by chance."""
    good, failing = Answer(200, latency), Answer(status, latency)

    def fate(attempt: Attempt) -> Answer:
        return failing if attempt.row in bad or attempt.chance < errors else good

    return fate


def measure_bad_rows(setup: Setup, pattern: str, size: int, errors: float, over: Kind | str) -> Finding:
    """A cell of the grid: 2,000 rows of 2 s at c = 40."""
    if over == "tenants":  # odd rows are the healthy tenant's, even ones the other's
        bad = frozenset(2 * row for row in bad_rows(pattern, size, ROWS // 2, setup.seed))
    else:
        bad = bad_rows(pattern, size, ROWS, setup.seed)
    attempts = attempts_of_a_bad_row(errors)
    ideal_calls = (ROWS - len(bad)) / (1 - errors) + len(bad) * attempts
    ideal = ideal_calls * LATENCY / CONCURRENCY
    budget = 1.25 * ideal + 60.0 + own_backoff(attempts)
    fate, limit = mixed(bad, errors), setup.beyond * budget
    if over == "tenants":
        story = run(
            ROWS,
            fate,
            limit=limit,
            seed=setup.seed,
            tenant=lambda row: "good" if row % 2 else "mixed",
            circuit_key="metadata.tenant",
        )
    else:
        story = run(ROWS, fate, limit=limit, seed=setup.seed, kind=over)  # type: ignore[arg-type]
    checks = [
        time_check(story, budget),
        Check("bad rows not failed", sum(row not in story.failed for row in bad), 0),
        Check("outages reported", story.outages, 0),
        Check("calls", story.calls, 1.1 * ideal_calls),
    ]
    return find(story, bad, ideal_calls=ideal_calls, ideal=ideal, checks=checks)


def bad_row_cells() -> Iterator[Cell]:
    quick = {
        ("scattered", 10, 0, "http"),
        ("scattered", 25, 5, "http"),
        ("middle", 100, 0, "http"),
        ("last", 20, 5, "http"),
        ("first", 20, 0, "http"),
        ("scattered", 10, 5, "function"),
        ("middle", 20, 0, "function"),
        ("last", 20, 0, "function"),
        ("middle", 100, 0, "function-canary"),
        ("scattered", 10, 0, "own-error"),
        ("scattered", 10, 0, "tenants"),
        ("last", 20, 0, "tenants"),
    }
    patterns = [("scattered", share) for share in SHARES]
    patterns += [(place, size) for place in ("middle", "first", "last") for size in BLOCKS]
    for over in (*KINDS, "tenants"):
        for errors in ERRORS:
            for pattern, size in patterns:
                unit = "%" if pattern == "scattered" else ""
                yield Cell(
                    f"bad/{over}/{pattern} {size}{unit}/e={errors}%",
                    lambda setup, pattern=pattern, size=size, errors=errors, over=over: measure_bad_rows(  # type: ignore[misc]
                        setup, pattern, size, errors / 100, over
                    ),
                    quick=(pattern, size, errors, over) in quick,
                )


# A part of all calls fails, whatever the row.


def measure_partial(setup: Setup, errors: float, status: int, failing_takes: float = LATENCY) -> Finding:
    """3,000 good rows of 2 s at c = 40; calls that fail take *failing_takes* seconds."""
    rows = 3_000
    attempts = attempts_of_a_bad_row(errors)
    ideal_calls = rows / (1 - errors)
    ideal = (rows * LATENCY + (ideal_calls - rows) * failing_takes) / CONCURRENCY
    budget = 1.25 * ideal + own_backoff(attempts)
    good, failing = Answer(200, LATENCY), Answer(status, failing_takes)

    def fate(attempt: Attempt) -> Answer:
        return failing if attempt.chance < errors else good

    story = run(rows, fate, limit=setup.beyond * budget, seed=setup.seed)
    return find(story, frozenset(), ideal_calls=ideal_calls, ideal=ideal, checks=[time_check(story, budget)])


def measure_many_good(setup: Setup, errors: float) -> Finding:
    """Many good rows of 0.2 s: how many fail by chance, and how often the circuit opens."""
    latency = 0.2
    attempts = attempts_of_a_bad_row(errors)
    ideal_calls = setup.rows / (1 - errors)
    ideal = ideal_calls * latency / CONCURRENCY
    budget = 1.25 * ideal + own_backoff(attempts) + 60
    story = run(setup.rows, mixed(frozenset(), errors, latency), limit=setup.beyond * budget, seed=setup.seed)
    openings = 10_000 * story.openings / story.calls
    per_100k = 100_000 * len(story.failed) / setup.rows
    checks = [
        Check("failed", len(story.failed), max(1.0, setup.rows / 100_000)),
        time_check(story, setup.beyond * budget),
    ]
    if errors <= 0.1:
        checks.append(Check("openings per 10,000 calls", openings, 1))
    finding = find(story, frozenset(), ideal_calls=ideal_calls, ideal=ideal, checks=checks)
    finding.checks = checks  # the first of these stands for "no row fails wrongly"
    finding.note = f"{per_100k:.2g} failed per 100,000, {openings:.2g} openings per 10,000 calls. {finding.note}"
    return finding


def partial_cells() -> Iterator[Cell]:
    for status, takes in ((500, LATENCY), (503, LATENCY), (500, LATENCY / 5)):
        for errors in PARTIAL:
            at_once = ", quick" if takes < LATENCY else ""
            yield Cell(
                f"partial/{errors}% {status}{at_once}",
                lambda setup, errors=errors, status=status, takes=takes: measure_partial(  # type: ignore[misc]
                    setup, errors / 100, status, takes
                ),
                quick=(errors, status, takes) in {(20, 500, 0.4), (50, 500, 2.0), (30, 503, 2.0)},
            )
    for errors in SHARES:
        yield Cell(
            f"chance/e={errors}%",
            lambda setup, errors=errors: measure_many_good(setup, errors / 100),  # type: ignore[misc]
        )


# Outages with something in them.


def down_between(begin: float, end: float, latency: float, *, spares_ping: bool = False) -> Fate:
    good, failing = Answer(200, latency), Answer(503, latency, message="The service is unavailable.")

    def fate(attempt: Attempt) -> Answer:
        spared = spares_ping and not attempt.row
        return failing if begin <= attempt.at < end and not spared else good

    return fate


def measure_bad_row_first(setup: Setup, begin: float) -> Finding:
    """600 rows of 100 ms at c = 16; the first row that a 12 s outage meets is always refused with 500."""
    end = begin + 12.0
    outage, bad = down_between(begin, end, 0.1), set[int]()

    def fate(attempt: Attempt) -> Answer:
        if not bad and attempt.at >= begin and attempt.row:
            bad.add(attempt.row)
        answer = outage(attempt)
        return replace(answer, status=500) if attempt.row in bad and answer.status == 200 else answer

    story = run(600, fate, limit=end + 3_600, seed=setup.seed, concurrency=16)
    checks = [time_check(story, end + 30), Check("bad rows not failed", sum(row not in story.failed for row in bad), 0)]
    return find(story, frozenset(bad), ideal_calls=602, ideal=end + 600 * 0.1 / 16, checks=checks)


def measure_block_at_10(setup: Setup, kind: Kind) -> Finding:
    """600 rows of 1 s at c = 10, with and without 20 bad rows in the middle."""
    bad = bad_rows("middle", 20, 600, setup.seed)
    alone = run(600, mixed(frozenset(), 0, 1.0), limit=3_600, seed=setup.seed, kind=kind, concurrency=10)
    story = run(600, mixed(bad, 0, 1.0), limit=14_400, seed=setup.seed, kind=kind, concurrency=10)
    checks = [
        time_check(story, alone.seconds + 30),
        Check("bad rows not failed", sum(row not in story.failed for row in bad), 0),
        Check("outages reported", story.outages, 0),
    ]
    return find(story, bad, ideal_calls=640, ideal=64.0, checks=checks, note=f"without: {alone.seconds:.0f} s")


def measure_503(setup: Setup) -> Finding:
    """503 for 25 s in 600 rows of 100 ms at c = 16."""
    down = down_between(1.0, 26.0, 0.1)
    story = run(600, down, limit=600, seed=setup.seed, concurrency=16)
    ideal = 25.0 + 600 * 0.1 / 16
    called = bisect_left(story.started, 26.0) - bisect_left(story.started, 1.0)
    checks = [time_check(story, ideal + 4), Check("calls while down", called, 40)]
    return find(story, frozenset(), ideal_calls=600 + 16, ideal=ideal, checks=checks, note=f"{called} calls while down")


def measure_tail(setup: Setup, lasts: float) -> Finding:
    """From the 481st of 500 rows on, every row gets 503 for *lasts* seconds, while the smallest request passes."""
    since: list[float] = []

    def fate(attempt: Attempt) -> Answer:
        if attempt.row > 480 and not since:
            since.append(attempt.at)
        is_down = bool(since) and attempt.row > 0 and attempt.at < since[0] + lasts
        return Answer(503 if is_down else 200, 0.1)

    story = run(500, fate, limit=7_200, seed=setup.seed, concurrency=16)
    checks = [Check("rows without a good line", story.rows - story.succeeded, 0)]
    return find(story, frozenset(), ideal_calls=500, ideal=500 * 0.1 / 16 + lasts, checks=checks)


def measure_tenants_recover(setup: Setup, rows: int) -> Finding:
    """Four tenants get 503 from the start, until 20, 40, 60 and 80 s, while the smallest request passes."""
    latency = 0.1
    ends = {0: 20.0, 1: 40.0, 2: 60.0, 3: 80.0}

    def fate(attempt: Attempt) -> Answer:
        is_down = attempt.row > 0 and attempt.at < ends[attempt.row % 4]
        return Answer(503, latency, message="The service is unavailable.") if is_down else Answer(200, latency)

    story = run(
        rows,
        fate,
        limit=7_200,
        seed=setup.seed,
        concurrency=16,
        tenant=lambda row: f"t{row % 4}",
        circuit_key="metadata.tenant",
    )
    ideal = 80.0 + rows / 4 * latency / 16
    checks = [
        Check("rows without a good line", story.rows - story.succeeded, 0),
        time_check(story, 1.15 * ideal + 5.0),
    ]
    return find(story, frozenset(), ideal_calls=rows, ideal=ideal, checks=checks)


def measure_half_404(setup: Setup) -> Finding:
    """Half of the calls get 404 for 1.5 s, health checks too, in 1,000 rows of 0.1 s at c = 16, eight times over."""
    refused = Answer(404, 0.02, code="model_not_found", message="The model does not exist.")

    def fate(attempt: Attempt) -> Answer:
        return refused if 1 <= attempt.at < 2.5 and attempt.chance < 0.5 else Answer(200, 0.1)

    stories = [run(1_000, fate, limit=3_600, seed=8 * setup.seed + number, concurrency=16) for number in range(8)]
    story = max(stories, key=lambda story: (story.outages, story.seconds))
    checks = [
        Check("rows without a good line", max(story.rows - story.succeeded for story in stories), 0),
        Check("outages reported", sum(story.outages for story in stories), 0),
        time_check(story, 1_000 * 0.1 / 16 + 1.5 + 20),
    ]
    ideal = 1_000 * 0.1 / 16 + 0.75
    return find(story, frozenset(), ideal_calls=1_000, ideal=ideal, checks=checks, note="the worst of eight")


def measure_half_400(setup: Setup) -> Finding:
    """Half of the calls are refused with 400 from the first second to the ninth, in 600 rows of 0.2 s at c = 16."""
    refused = Answer(400, 0.2, code="invalid_request", message="The request could not be processed.")

    def fate(attempt: Attempt) -> Answer:
        return refused if 1 <= attempt.at < 9 and attempt.chance < 0.5 else Answer(200, 0.2)

    story = run(600, fate, limit=3_600, seed=setup.seed, concurrency=16)
    checks = [Check("rows without a good line", story.rows - story.succeeded, 0), time_check(story, 7.5 + 8 + 60)]
    return find(story, frozenset(), ideal_calls=700, ideal=7.5 + 4, checks=checks)


def outage_cells() -> Iterator[Cell]:
    yield Cell("outage/bad row first, mid-run", lambda setup: measure_bad_row_first(setup, 1.0), quick=True)
    yield Cell("outage/bad row first, at once", lambda setup: measure_bad_row_first(setup, 0.0), quick=True)
    yield Cell("outage/20 bad at c=10, http", lambda setup: measure_block_at_10(setup, "http"), quick=True)
    yield Cell("outage/20 bad at c=10, function", lambda setup: measure_block_at_10(setup, "function"), quick=True)
    yield Cell("outage/503 for 25 s", measure_503, quick=True)
    for lasts in (58, 300):
        yield Cell(
            f"outage/last 20 rows 503 for {lasts} s, ping passes",
            lambda setup, lasts=lasts: measure_tail(setup, lasts),  # type: ignore[misc]
            quick=True,
        )
    yield Cell("outage/half of calls 400 for 8 s", measure_half_400, quick=True)
    yield Cell("outage/half of calls 404 for 1.5 s", measure_half_404, quick=True)
    for rows in (8, 400):
        yield Cell(
            f"outage/four tenants recover one by one, {rows} rows",
            lambda setup, rows=rows: measure_tenants_recover(setup, rows),  # type: ignore[misc]
            quick=True,
        )


# Rows and models that are throttled, slow or dead beside those that are not.


def measure_throttled(
    setup: Setup,
    rows: int,
    latency: float,
    retry_after: float | None,
    refused_after: float | None = None,
    concurrency: int = CONCURRENCY,
) -> Finding:
    """1 % of the rows are always answered with 429; the others, against their speed alone.

    *refused_after*: seconds until such an answer. Default: *latency*.
    """
    bad = bad_rows("scattered", 1, rows, setup.seed)
    refused = Answer(
        429,
        latency if refused_after is None else refused_after,
        retry_after,
        "rate_limit_exceeded",
        "Rate limit reached for requests.",
    )
    good = Answer(200, latency)

    def fate(attempt: Attempt) -> Answer:
        return refused if attempt.row in bad else good

    options: dict[str, Any] = {"seed": setup.seed, "concurrency": concurrency}
    alone = run(rows, fate, limit=3_600, keep=lambda row: row not in bad, **options)
    reference = alone.last_good[""]
    most = reference / 0.8
    story = run(rows, fate, limit=setup.beyond * most + 3_600, **options)
    speed = reference / story.last_good[""] if story.succeeded == alone.succeeded else 0.0
    waits = own_backoff(MAX_ATTEMPTS) + MAX_ATTEMPTS * (retry_after or 0)
    checks = [
        Check("good rows' speed", speed, least=0.8),
        Check("bad rows not failed", sum(row not in story.failed for row in bad), 0),
        Check("outages reported", story.outages, 0),
        time_check(story, most + 60 + max(LIMIT_SECONDS, waits)),
    ]
    note = f"good rows at {speed:.2f} of {alone.succeeded / reference:,.0f} rows/s"
    ideal_calls = rows + (MAX_ATTEMPTS - 1) * len(bad)
    ideal = ideal_calls * latency / concurrency
    return find(story, bad, ideal_calls=ideal_calls, ideal=ideal, checks=checks, note=note, cpu=alone.cpu)


def measure_no_memory(setup: Setup, share: int, takes: float) -> Finding:
    """A function of 2 s; for *share* % of 2,000 rows this machine has too little memory, as is told after *takes* s."""
    bad = bad_rows("scattered", share, ROWS, setup.seed)

    def fate(attempt: Attempt) -> Answer:
        return Answer(0, takes, message="cannot allocate memory") if attempt.row in bad else Answer(200, LATENCY)

    alone = run(ROWS, fate, limit=3_600, seed=setup.seed, kind="function", keep=lambda row: row not in bad)
    story = run(ROWS, fate, limit=14_400, seed=setup.seed, kind="function", max_outage=300.0)
    reference, last = alone.last_good[""] + len(bad) * takes / CONCURRENCY, story.last_good.get("", math.inf)
    checks = [
        Check("good rows' last line ÷ ideal", last / reference, 1.25),
        Check("rows without a good line", story.rows - story.succeeded - len(bad), 0),
        Check("rows failed", len(story.failed), 0),
        Check("outages reported", story.outages, 0),
        Check("exit code", math.nan if story.exit_code is None else story.exit_code, 75, 75),
        time_check(story, reference + 400.0),
    ]
    note = f"good rows: {last:.0f} s, ideal {reference:.0f} s"
    return find(story, frozenset(), ideal_calls=ROWS, ideal=reference, checks=checks, note=note, cpu=alone.cpu)


def measure_dead_model(setup: Setup, status: int, on_outage: str) -> Finding:
    """5,000 rows of 0.5 s, every other one for a model that never answers."""
    latency = 0.5
    dead = Answer(status, latency / 5, code="server_error", message="The service is unavailable.")
    if status == 404:
        dead = replace(dead, code="model_not_found", message="The model does not exist.")

    def fate(attempt: Attempt) -> Answer:
        return dead if attempt.model == "dead" else Answer(200, latency)

    def model(row: int) -> str:
        return "healthy" if row % 2 else "dead"

    alone = run(5_000, fate, limit=3_600, seed=setup.seed, model=model, keep=lambda row: row % 2 == 1)
    reference = alone.last_good[""]
    story = run(5_000, fate, limit=10 * reference + 600, seed=setup.seed, group=model, model=model, on_outage=on_outage)
    last = story.last_good.get("healthy", math.inf) if story.succeeded == 2_500 else math.inf
    checks = [Check("healthy rows' last line ÷ alone", last / reference, 1.02)]
    if on_outage == "defer" or status == 404:
        checks.append(time_check(story, 1.02 * reference + 60))
    note = f"healthy: {last:.1f} s, alone {reference:.1f} s; exit {story.exit_code}"
    ideal = 2_500 * latency / CONCURRENCY
    return find(story, frozenset(), ideal_calls=2_500, ideal=ideal, checks=checks, note=note, cpu=alone.cpu)


def measure_dead_tenants(setup: Setup, *, first: bool) -> Finding:
    """60 tenants that are down, two rows each, beside a healthy one with 3,000 rows of 0.2 s; first, or in between."""
    latency, down, healthy = 0.2, 120, 3_000
    rows = down + healthy
    if first:
        of_down = {row: f"t{row % 60}" for row in range(1, down + 1)}
    else:
        of_down = {row: f"t{at % 60}" for at, row in enumerate(range(20, rows + 1, rows // down)) if at < down}

    def tenant(row: int) -> str:
        return of_down.get(row, "healthy")

    def fate(attempt: Attempt) -> Answer:
        return Answer(503, latency / 5) if attempt.row in of_down else Answer(200, latency)

    key: dict[str, Any] = {"tenant": tenant, "circuit_key": "metadata.tenant"}
    alone = run(rows, fate, limit=3_600, seed=setup.seed, keep=lambda row: row not in of_down, **key)
    reference = alone.last_good[""]
    story = run(rows, fate, limit=7_200, seed=setup.seed, group=tenant, max_outage=1_800, **key)
    last = story.last_good.get("healthy", math.inf) if story.succeeded == healthy else math.inf
    checks = [Check("the healthy tenant's last line", last, 1.02 * reference + 1.0)]
    note = f"healthy: {last:.1f} s, alone {reference:.1f} s; exit {story.exit_code}"
    ideal = (healthy + down * MAX_ATTEMPTS / 5) * latency / CONCURRENCY
    bad = frozenset(of_down)  # they may end as failed, or wait
    return find(story, bad, ideal_calls=healthy + down, ideal=ideal, checks=checks, note=note, cpu=alone.cpu)


def measure_all_slow(setup: Setup) -> Finding:
    """Every answer takes 8 s, the time-out is 5 s."""
    story = run(200, lambda _: Answer(200, 8.0), limit=600, seed=setup.seed, timeout=5.0)
    checks = [
        time_check(story, 30),
        Check("exit code", math.nan if story.exit_code is None else story.exit_code, 3, 3),
        Check("names --timeout", int("--timeout" in story.reason), least=1),
    ]
    return find(story, frozenset(), ideal_calls=40, ideal=5.0, checks=checks, note=story.reason)


def measure_third_slow(setup: Setup) -> Finding:
    """A third of 600 rows takes 8 s, the others 2 s; the time-out is 5 s."""
    slow = bad_rows("scattered", 33, 600, setup.seed)

    def fate(attempt: Attempt) -> Answer:
        return Answer(200, 8.0 if attempt.row in slow else 2.0)

    ideal = ((600 - len(slow)) * 2.0 + len(slow) * MAX_ATTEMPTS * 5.0) / CONCURRENCY
    budget = 1.25 * ideal + 60 + own_backoff(MAX_ATTEMPTS)
    story = run(600, fate, limit=setup.beyond * budget, seed=setup.seed, timeout=5.0)
    checks = [
        time_check(story, budget),
        Check("slow rows not failed as timeout", sum(story.failed.get(row) != "timeout" for row in slow), 0),
        Check("outages reported", story.outages, 0),
    ]
    ideal_calls = 600 + (MAX_ATTEMPTS - 1) * len(slow)
    return find(story, slow, ideal_calls=ideal_calls, ideal=ideal, checks=checks)


def measure_ramp(setup: Setup) -> Finding:
    """Four calls answered 529 with Retry-After: 3, in 400 rows of 0.2 s at c = 16; then, the first 50 ms."""
    last: list[float] = [0.0]

    def fate(attempt: Attempt) -> Answer:
        if 101 <= attempt.number <= 104:
            last[0] = max(last[0], attempt.at)
            return Answer(529, 0.05, 3.0, "overloaded_error", "Overloaded.")
        return Answer(200, 0.2)

    story = run(400, fate, limit=600, seed=setup.seed, concurrency=16)
    resumed = bisect_left(story.started, last[0] + 2.9)
    at_once = 0
    if resumed < len(story.started):
        at_once = bisect_left(story.started, story.started[resumed] + 0.05) - resumed
    checks = [Check("calls in the first 50 ms after the wait", at_once, 4), time_check(story, 5 + 3 + 10)]
    note = f"{at_once} calls in the first 50 ms after the wait"
    return find(story, frozenset(), ideal_calls=404, ideal=404 * 0.2 / 16 + 3, checks=checks, note=note)


def neighbor_cells() -> Iterator[Cell]:
    for rows, latency in ((1_500, 0.02), (2_000, 2.0)):
        for wait in (None, 2.0):
            hint = "Retry-After" if wait else "no hint"
            yield Cell(
                f"throttled/1% of {rows:,} rows of {latency:g} s, {hint}",
                lambda setup, rows=rows, latency=latency, wait=wait: measure_throttled(setup, rows, latency, wait),  # type: ignore[misc]
                quick=latency < 1,
            )
    yield Cell(
        "throttled/1% of 6,000 rows of 0.02 s, Retry-After, refused at once, c=4",
        lambda setup: measure_throttled(setup, 6_000, 0.02, 2.0, 0.001, concurrency=4),
        quick=True,
    )
    for status, on_outage in ((503, "wait"), (503, "defer"), (404, "wait"), (404, "defer")):
        yield Cell(
            f"dead/model {status}, {on_outage}",
            lambda setup, status=status, on_outage=on_outage: measure_dead_model(setup, status, on_outage),  # type: ignore[misc]
            quick=on_outage == "defer",
        )
    yield Cell("dead/60 tenants first", lambda setup: measure_dead_tenants(setup, first=True), quick=True)
    yield Cell("dead/60 tenants in between", lambda setup: measure_dead_tenants(setup, first=False))
    for share, takes in ((1, 0.0), (1, LATENCY), (10, LATENCY)):
        yield Cell(
            f"machine/no memory for {share}% of rows, after {takes:g} s",
            lambda setup, share=share, takes=takes: measure_no_memory(setup, share, takes),  # type: ignore[misc]
            quick=share == 1,
        )
    yield Cell("slow/every answer", measure_all_slow, quick=True)
    yield Cell("slow/a third of rows", measure_third_slow, quick=True)
    yield Cell("ramp/after Retry-After", measure_ramp, quick=True)


def all_cells() -> list[Cell]:
    """Every cell, in the table's order."""
    return [*bad_row_cells(), *partial_cells(), *outage_cells(), *neighbor_cells()]
