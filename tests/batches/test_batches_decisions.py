"""The pure decisions of runs over batch APIs, by examples and by random stories."""

from __future__ import annotations

import string
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbatch.core.calls import Outcome
from llmbatch.providers.batches.port import BatchError, RemoteBatch
from llmbatch.runs.batches.board import AMBIGUOUS_SECONDS, LOST_SECONDS, Board, Chunk
from llmbatch.runs.batches.chunks import ChunkBuilder, ChunkLimits
from llmbatch.runs.batches.control_plane import ControlPlane
from llmbatch.runs.batches.meaning import meaning_of, whole_batch_refused
from llmbatch.runs.batches.names import Label, custom_id, is_sibling, job_name, read_custom_id, read_label, route_name
from llmbatch.runs.batches.queue import Queue, stated_limit
from llmbatch.runs.batches.timing import Deadline, poll_interval
from llmbatch.runs.batches.validation import blames_rows

JOB = "0123456789"


def chunk(first: int, last: int, gen: int = 1, *, at: float = 0.0, file: str = "") -> Chunk:
    """A chunk that is about to be created."""
    label = Label(JOB, first, last, gen, rows=last - first + 1, digest=f"{first:08x}", route="aaaaaaaa")
    return Chunk(label, "account", "sending", at, at, file_id=file)


def remote(of: Chunk, batch_id: str, *, status: str = "in_progress", at: float = 0.0) -> RemoteBatch:
    """The batch of a chunk, as a listing shows it."""
    is_ended = status in ("completed", "expired")
    return RemoteBatch(
        batch_id, status, is_ended, at, metadata=of.label.metadata, input_file=of.file_id, rows=of.label.rows
    )


# Names.


@given(st.integers(1, 10**10), st.text("0123456789abcdef", min_size=16, max_size=16))
def test_a_custom_id_says_job_row_and_hash_in_what_every_provider_takes(number: int, digest: str) -> None:
    """At most 36 characters of ``[a-z0-9-]``, and read back as it was."""
    name = custom_id(JOB, number, digest)

    assert len(name) <= 36
    assert set(name) <= set(string.ascii_lowercase + string.digits + "-")
    read = read_custom_id(name)
    assert read is not None
    assert (read.job, read.number, read.hash) == (JOB, number, digest[:8])


@pytest.mark.parametrize("text", ["", "r1", "lb-0123456789-1", "lb-0123456789-x-01234567", "lb-0123456789-1-0123456Z"])
def test_other_ids_are_not_taken_for_ours(text: str) -> None:
    """Users' own, and mangled ones."""
    assert read_custom_id(text) is None


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(1, 99999), st.integers(0, 10**9))
def test_a_label_survives_metadata_and_file_names(first: int, more: int, gen: int, rows: int) -> None:
    """Metadata holds it whole, a file's name without the number of rows, the digest and the route."""
    label = Label(JOB, first, first + more, gen, rows=rows, digest="01234567", route="89abcdef")

    assert read_label(label.metadata, "") == label
    by_name = read_label({}, "some/folder/" + label.file_name)
    assert by_name == Label(JOB, first, first + more, gen)
    assert by_name.is_like(label)
    assert all(len(key) <= 64 and len(value) <= 512 for key, value in label.metadata.items())


def test_metadata_of_others_is_no_label() -> None:
    """Whatever a user's own batches carry."""
    assert read_label({"llmbatch": "x", "first": "1", "last": "2", "gen": "1"}, "") is None
    assert read_label({"llmbatch": JOB, "first": "2", "last": "1", "gen": "1"}, "") is None
    assert read_label({"project": "mine"}, "prompts.jsonl") is None


def test_the_job_follows_from_what_is_sent_and_the_outputs_name() -> None:
    """Two outputs of one input do not meet, and neither do other settings."""
    given_ = {"base_url": "https://a/v1", "endpoint": "chat", "settings": "0", "first_hash": "1", "output": "o.jsonl"}
    job = job_name(**given_)

    assert job == job_name(**given_)
    assert is_sibling(job, job_name(**given_, folder="elsewhere"))
    assert not is_sibling(job, job_name(**{**given_, "output": "other"}))
    assert len({job, *(job_name(**{**given_, name: "other"}) for name in given_)}) == 1 + len(given_)
    assert route_name("chat", "a") != route_name("responses", "a")


# Chunks.


@given(st.lists(st.integers(1, 5000), max_size=300), st.integers(1, 50), st.integers(5000, 60_000))
def test_chunks_keep_their_limits_and_lose_no_row(sizes: list[int], rows: int, size_bytes: int) -> None:
    """Cut greedily, every row is in exactly one chunk, in order."""
    limits = ChunkLimits(rows=rows, size_bytes=size_bytes, row_bytes=size_bytes)
    chunks = [ChunkBuilder(limits)]
    for number, size in enumerate(sizes, 1):
        if not chunks[-1].takes(size, 1):
            chunks.append(ChunkBuilder(limits))
        chunks[-1].add(number, f"row {number}", size, 1)

    assert sum(one.rows for one in chunks) == len(sizes)
    assert all(one.rows <= rows and one.size_bytes <= size_bytes for one in chunks)
    assert all(later.first == earlier.last + 1 for earlier, later in pairwise(chunks))


def test_limits_leave_a_margin_and_take_the_users() -> None:
    """95 % of the provider's; the user's own where they are lower."""
    limits = ChunkLimits.within(max_rows=50_000, max_bytes=200_000_000, max_row_bytes=64_000_000, own_bytes=10_000_000)

    assert (limits.rows, limits.size_bytes, limits.row_bytes) == (47_500, 10_000_000, 10_000_000)
    assert limits.scaled(0.5, 1000).rows == 23_750
    assert limits.scaled(0.5, 1000).tokens == 950


# The board.


def test_a_lost_create_is_found_by_its_file_or_its_label() -> None:
    """The batch is adopted by the chunk that waits for it, not as a second one."""
    for file in ("", "file-1"):
        board, waiting = Board(JOB), chunk(1, 10, file=file)
        waiting.move("ambiguous", 5.0)
        board.chunks.append(waiting)

        board.see([remote(waiting, "batch_1", at=1.0)], "account", 10.0)

        assert len(board.chunks) == 1
        assert (waiting.state, waiting.batch_id) == ("running", "batch_1")


def test_an_ambiguous_create_is_given_up_after_ten_minutes_and_may_be_found_later() -> None:
    """Then its rows are free; a listing that shows it late makes it a known batch again."""
    board, waiting = Board(JOB), chunk(1, 10)
    board.chunks.append(waiting)

    assert board.give_up_ambiguous(AMBIGUOUS_SECONDS - 1) == []
    assert board.give_up_ambiguous(AMBIGUOUS_SECONDS) == [waiting]
    assert not board.open
    board.see([remote(waiting, "batch_1")], "account", AMBIGUOUS_SECONDS + 1)

    assert waiting.state == "running"
    assert board.perhaps_twice == []


def test_a_batch_that_is_not_listed_is_asked_for_after_fifteen_minutes() -> None:
    """A gap in the listing means nothing before; once it is seen, the count begins anew."""
    board, known = Board(JOB), chunk(1, 10)
    board.chunks.append(known)
    board.see([remote(known, "batch_1")], "account", 0.0)

    assert board.see([], "account", 10.0).missing == []
    assert board.see([remote(known, "batch_1")], "account", 20.0).missing == []
    assert board.see([], "account", 30.0).missing == []
    assert board.see([], "account", 30.0 + LOST_SECONDS).missing == [known]
    assert board.see([], "other account", 1e9).missing == []


def test_batches_of_other_jobs_and_without_labels_are_left_alone() -> None:
    """Only what has this job's label is adopted."""
    board = Board(JOB)
    other = Label("abcdefabcd", 1, 2, 1)

    seen = board.see(
        [
            RemoteBatch("a", "in_progress", is_ended=False, metadata=other.metadata),
            RemoteBatch("b", "x", is_ended=False),
        ],
        "account",
        0.0,
    )

    assert seen.adopted == []
    assert board.chunks == []


@pytest.mark.parametrize("block", range(5))
def test_in_no_story_are_the_rows_of_a_batch_free_while_it_may_run(block: int) -> None:
    """Random creates, lost answers, listings with gaps, repeats and delays of up to eight minutes, and restarts."""
    for seed in range(block * 60, block * 60 + 60):
        rng = Random(seed)
        board, now, next_row = Board(JOB), 0.0, 1
        real: list[tuple[RemoteBatch, float, float]] = []  # the batch, when it is listed from, when it ends
        for _ in range(60):
            now += rng.choice([1.0, 15.0, 120.0])
            act = rng.random()
            if act < 0.3:
                new = chunk(
                    next_row, next_row + 9, board.next_gen(next_row, next_row + 9), at=now, file=f"file-{next_row}"
                )
                next_row += 10
                board.chunks.append(new)
                made = remote(new, f"batch_{len(real)}", at=now)
                fate = rng.choice(["answered", "lost", "refused"])
                if fate != "refused":
                    real.append((made, now + rng.choice([0.0, 30.0, 480.0]), now + rng.uniform(10, 4000)))
                if fate == "answered":
                    board.update(new, made, now)
                elif fate == "lost":
                    new.move("ambiguous", now)
                else:
                    new.move("void", now)
            elif act < 0.8:
                listed = []
                for made, visible, ends in rng.sample(real, len(real)):
                    if now >= visible and rng.random() > 0.1:
                        status = "completed" if now >= ends else "in_progress"
                        one = replace(made, status=status, is_ended=now >= ends)
                        listed += [one] * rng.choice([1, 1, 2])
                seen = board.see(listed, "account", now)
                assert all(one.missing_since is not None for one in seen.missing)
                if not listed or rng.random() < 0.5:
                    continue
                board.give_up_ambiguous(now)
            else:
                for done in board.in_state("ended"):
                    done.move("collected", now)
            held = {number for one in board.open for number in range(one.label.first, one.label.last + 1)}
            for made, visible, _ends in real:
                known = board.by_id(made.id)
                first = int(made.metadata["first"])
                is_settled = known is not None and known.state == "collected"
                is_late = known is None and now - (made.created_at or 0.0) >= AMBIGUOUS_SECONDS
                assert is_settled or is_late or first in held, (seed, made.id, visible)
            ids = [one.batch_id for one in board.chunks if one.batch_id]
            assert len(ids) == len(set(ids))


# Queue, control plane, time.


def test_a_full_queue_is_asked_less_and_less_often_and_teaches_its_limit() -> None:
    """30 s, then twice as long up to 10 minutes; the limit in the words bounds what is queued."""
    queue, waits = Queue(), []
    now = 0.0
    for _ in range(7):
        queue.was_full(now, "Limit: 2,000,000 enqueued tokens.", has_own=True, chunk_tokens=100)
        waits.append(queue.not_before - now)
        now = queue.not_before

    assert waits == [30, 60, 120, 240, 480, 600, 600]
    assert queue.tokens == 2_000_000
    assert queue.share == 1.0
    assert queue.room(now, 1_500_000) == 500_000
    queue.has_moved(now - 100)
    assert queue.may_submit(now - 100, 0)


def test_what_fitted_when_the_queue_was_full_is_not_exceeded_for_an_hour() -> None:
    """No chunk is uploaded in vain whenever one ends; nor a tiny one, while others of the job are queued."""
    queue = Queue()
    queue.sent(1000)
    queue.was_full(0.0, "full", has_own=True, chunk_tokens=1000, taken_tokens=3000)

    assert [queue.may_submit(100.0, queued) for queued in (3000, 2700, 2500, 0)] == [False, False, True, True]
    assert queue.room(100.0, 2000) == 1000
    assert queue.room(3601.0, 3000) is None
    assert queue.may_submit(3601.0, 3000)


def test_chunks_are_halved_where_nothing_of_the_job_is_queued() -> None:
    """But not where the refusal states a limit that already says how large they may be."""
    queue = Queue()
    queue.was_full(0.0, "try later", has_own=False, chunk_tokens=100)
    queue.was_full(0.0, "try later", has_own=False, chunk_tokens=100)
    assert queue.share == 0.25

    stated = Queue()
    stated.was_full(0.0, "Limit: 5000 enqueued tokens", has_own=False, chunk_tokens=9000)
    assert (stated.share, stated.tokens) == (1.0, 5000)


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ("Enqueued token limit reached for gpt-4o in organization o. Limit: 90,000 enqueued tokens.", 90_000),
        ("limit 1000000 tokens", 1_000_000),
        ("Too many requests", None),
        ("Limit: 3 batches", None),
    ],
)
def test_a_stated_limit_is_read(words: str, limit: int | None) -> None:
    """Of tokens only."""
    assert stated_limit(words) == limit


def test_three_hours_of_failures_are_probed_at_most_sixty_times() -> None:
    """5, 10, 20 … seconds, then every 5 minutes; one answer ends it."""
    plane, now, probes = ControlPlane(), 0.0, 0
    while now < 3 * 3600:
        plane.failed(now, "down")
        now = plane.next_probe
        probes += 1

    assert probes <= 60
    assert plane.is_open
    assert plane.succeeded()
    assert plane.is_well
    assert not plane.succeeded()


def test_a_listing_that_is_answered_hid_that_uploads_fail() -> None:
    """It lets them be tried again, but only an upload that is answered ends their outage."""
    plane = ControlPlane()

    for now in (0.0, 100.0, 200.0):
        assert not plane.is_open
        plane.failed(now, "no upload", call="upload")
        assert not plane.is_well
        assert plane.next_probe == now + 5.0
        assert not plane.succeeded()
        assert plane.is_well

    assert plane.is_open
    assert (plane.since, plane.reason) == (0.0, "no upload")
    assert plane.succeeded("upload")
    assert not plane.is_open


def test_a_named_wait_is_obeyed() -> None:
    """Longer than llmbatch's own."""
    plane = ControlPlane()

    plane.failed(0.0, "slow down", retry_after=900.0)

    assert plane.next_probe == 900.0


@given(st.floats(0, 1e6), st.floats(0, 1))
def test_polls_are_a_tenth_of_the_age_apart(age: float, chance: float) -> None:
    """From 15 s to 5 minutes, a tenth more or less."""
    seconds = poll_interval(age, chance)

    assert 13.5 <= seconds <= 330
    assert abs(seconds - min(300, max(15, age / 10))) <= 30.001


@pytest.mark.parametrize(("seconds", "lead"), [(21_600, 900), (1800, 900), (1200, 600), (60, 30)])
def test_cancelling_begins_before_the_deadline(seconds: float, lead: float) -> None:
    """15 minutes, or half of a short one."""
    deadline = Deadline(1000.0, seconds)

    assert deadline.cancel_at == 1000.0 + seconds - lead
    assert not deadline.has_come(deadline.cancel_at - 1)
    assert deadline.has_come(deadline.cancel_at)


# What lines mean.


@pytest.mark.parametrize(
    ("outcome", "meaning"),
    [
        (Outcome("success"), "success"),
        (Outcome("success", row_is_bad=True, code="schema_mismatch"), "failed"),
        (Outcome("rejected", row_is_bad=True, code="context_length_exceeded"), "failed"),
        (Outcome("rejected", code="invalid_request_error"), "refused"),
        (Outcome("account_refused", code="insufficient_quota"), "stop"),
        (Outcome("account_refused", code="http_402", certain=False), "refused"),
        (Outcome("throttled", code="rate_limit_error"), "again"),
        (Outcome("failure", code="overloaded_error"), "again"),
        (Outcome("local", code="no_network"), "again"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.code or value.verdict,
)
def test_a_line_means_what_a_live_answer_would(outcome: Outcome, meaning: str) -> None:
    """Success, failure, a refusal that others may confirm, another attempt, or an operator's matter."""
    assert meaning_of(outcome, truncated_fails=False) == meaning


def test_a_cut_answer_fails_where_that_is_asked_for() -> None:
    """As with ``--require-finish``."""
    cut = Outcome("success", finish_reason="length")

    assert meaning_of(cut, truncated_fails=False) == "success"
    assert meaning_of(cut, truncated_fails=True) == "failed"


def test_refusals_of_a_whole_batch_stop_the_run_and_few_go_live() -> None:
    """Only where others succeeded are the rows at fault."""
    assert whole_batch_refused(100, has_success=True, threshold=5) == "fail"
    assert whole_batch_refused(100, has_success=False, threshold=5) == "stop"
    assert whole_batch_refused(4, has_success=False, threshold=5) == "live"


def test_a_failed_batch_blames_rows_only_if_it_names_some_of_them() -> None:
    """All of them, or a list that looks cut, is no matter of rows; nor are errors without lines."""
    bad = BatchError("invalid_request", "no", 7)

    assert blames_rows([bad], 100)
    assert not blames_rows([BatchError("token_limit_exceeded", "no")], 100)
    assert not blames_rows([BatchError("x", "no", line) for line in range(1, 51)], 100)
    assert not blames_rows([BatchError("x", "no", line) for line in range(1, 4)], 3)
