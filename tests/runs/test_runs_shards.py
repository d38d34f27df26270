"""Runs of shards: a folder of parts as output, in which the finished rows of all parts count."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from llmbatch import BatchRunner, InputError, OutputError, Summary, UsageError
from llmbatch.core.shards import Shard
from llmbatch.outputs.lock import open_locked
from llmbatch.outputs.parts import list_parts, part_name


class Provider:
    """A function as the provider, which notes the rows that it was asked; rows with "bad" in them fail."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def __call__(self, row: dict[str, object]) -> str:
        self.asked.append(int(str(row["prompt"]).split()[1]))
        if "bad" in str(row["prompt"]):
            raise ValueError("invalid_request")
        return "yes"


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write(tmp_path / "p.jsonl", range(1, 41))


def write(path: Path, numbers: Iterable[int], *, bad: Iterable[int] = ()) -> Path:
    rows = (f"row {number}{' bad' if number in set(bad) else ''}" for number in numbers)
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in rows))
    return path


async def run(provider: Provider, rows: Path, folder: Path, shard: tuple[int, int], **options: object) -> Summary:
    runner = BatchRunner(provider, max_attempts=1)
    return await runner.run(rows, folder, shard=shard, **options)  # type: ignore[arg-type]


def rows_of(folder: Path) -> list[int]:
    return [json.loads(line)["row"] for part in list_parts(folder) for line in part.path.read_text().splitlines()]


async def test_each_shard_sends_its_rows_to_a_part_of_its_own(
    tmp_path: Path, prompts: Path, provider: Provider
) -> None:
    """Row r goes with shard ((r - 1) mod N) + 1; totals are the shard's."""
    folder = tmp_path / "results"

    summaries = [await run(provider, prompts, folder, (index, 3)) for index in (1, 2, 3)]

    assert sorted(rows_of(folder)) == list(range(1, 41))
    assert [summary.total_rows for summary in summaries] == [14, 13, 13]
    for index in (1, 2, 3):
        part = folder / f"part-0000{index}-of-00003.jsonl"
        assert {json.loads(line)["row"] % 3 for line in part.read_text().splitlines()} == {index % 3}


@pytest.mark.parametrize("counts", [(3, 2), (2, 5), (4, 1), (1, 6), (2, 4)])
async def test_another_number_of_shards_sends_no_row_twice(
    tmp_path: Path, prompts: Path, provider: Provider, counts: tuple[int, int]
) -> None:
    """What any part has is finished, whatever it was a part of."""
    folder = tmp_path / "results"
    first, second = counts
    for index in range(1, first + 1):
        await run(provider, prompts, folder, (index, first), limit=25)

    for index in range(1, second + 1):
        await run(provider, prompts, folder, (index, second))

    assert Counter(provider.asked) == Counter(range(1, 41))
    assert sorted(rows_of(folder)) == list(range(1, 41))


async def test_one_process_finishes_what_shards_began(tmp_path: Path, prompts: Path, provider: Provider) -> None:
    """A folder with parts, and no shard named: all rows that are left."""
    folder = tmp_path / "results"
    await run(provider, prompts, folder, (2, 3))

    summary = await BatchRunner(provider).run(prompts, folder)

    assert summary.rows == summary.total_rows == 40
    assert summary.already_done == 13
    assert Counter(provider.asked) == Counter(range(1, 41))


async def test_appended_rows_are_simply_new(tmp_path: Path, prompts: Path, provider: Provider) -> None:
    """They change no other row's shard."""
    folder = tmp_path / "results"
    for index in (1, 2):
        await run(provider, prompts, folder, (index, 2))
    write(prompts, range(1, 61))

    for index in (1, 2):
        await run(provider, prompts, folder, (index, 2))

    assert Counter(provider.asked) == Counter(range(1, 61))


async def test_an_ordinary_file_takes_a_shard_too(tmp_path: Path, prompts: Path, provider: Provider) -> None:
    """Its own lines count, also those of another number of shards."""
    target = tmp_path / "o.jsonl"
    await run(provider, prompts, target, (1, 4))

    await run(provider, prompts, target, (1, 2))

    assert sorted(json.loads(line)["row"] for line in target.read_text().splitlines()) == list(range(1, 41, 2))
    assert Counter(provider.asked) == Counter(range(1, 41, 2))


async def test_the_default_output_of_a_shard_is_a_folder(prompts: Path, provider: Provider) -> None:
    """Beside the input."""
    summary = await BatchRunner(provider).run(prompts, shard=(2, 64))

    assert Path(summary.output) == prompts.parent / "p.results" / "part-00002-of-00064.jsonl"


async def test_failed_rows_are_sent_again_whichever_part_they_are_in(
    tmp_path: Path, prompts: Path, provider: Provider
) -> None:
    """Their old lines go, also from parts of another number of shards; those of other shards stay."""
    folder = tmp_path / "results"
    write(prompts, range(1, 41), bad=(5, 6, 7, 8))
    for index in (1, 2):
        await run(provider, prompts, folder, (index, 2))
    provider.asked.clear()

    summary = await run(provider, prompts, folder, (1, 4), retry_failed=True)

    assert provider.asked == [5]
    assert summary.failed == 1
    assert sorted(rows_of(folder)) == list(range(1, 41))
    assert [json.loads(line)["row"] for line in (folder / part_name(Shard(1, 4))).read_text().splitlines()] == [5]


async def test_starting_afresh_drops_the_lines_of_the_shard_from_all_parts(
    tmp_path: Path, prompts: Path, provider: Provider
) -> None:
    """And no other line."""
    folder = tmp_path / "results"
    await run(provider, prompts, folder, (1, 1))
    provider.asked.clear()

    await run(provider, prompts, folder, (2, 4), overwrite=True)

    assert sorted(provider.asked) == list(range(2, 41, 4))
    assert sorted(rows_of(folder)) == list(range(1, 41))


async def test_a_corrected_row_is_sent_again_from_a_part_of_another_number(
    tmp_path: Path, prompts: Path, provider: Provider
) -> None:
    """A line that holds an ``input_`` error goes as soon as its row is another."""
    folder = tmp_path / "results"
    lines = prompts.read_text().splitlines()
    prompts.write_text("\n".join([*lines[:4], "{oops", *lines[5:]]) + "\n")
    await run(provider, prompts, folder, (1, 1))
    write(prompts, range(1, 41))
    provider.asked.clear()

    summary = await run(provider, prompts, folder, (1, 2))

    assert provider.asked == [5]
    assert summary.exit_code == 0
    assert sorted(rows_of(folder)) == list(range(1, 41))


# What is refused, before anything is sent.


async def test_parts_of_another_input_are_refused(tmp_path: Path, prompts: Path, provider: Provider) -> None:
    """With the row and the part."""
    folder = tmp_path / "results"
    await run(provider, prompts, folder, (1, 2))
    provider.asked.clear()
    write(prompts, range(101, 141))

    with pytest.raises(InputError, match=r"p.jsonl:1: this row has changed since its result was written") as caught:
        await run(provider, prompts, folder, (1, 3))

    assert str(folder / "part-00001-of-00002.jsonl") in caught.value.hint
    assert not provider.asked


async def test_parts_of_another_input_are_refused_also_by_a_shard_that_shares_no_row_with_them(
    tmp_path: Path, prompts: Path, provider: Provider
) -> None:
    """Else the shards of two inputs would fill one folder, and only a merge would tell, after all is paid."""
    folder = tmp_path / "results"
    await run(provider, prompts, folder, (1, 2))
    provider.asked.clear()
    write(prompts, range(101, 141))

    with pytest.raises(InputError, match=r"p.jsonl:1: this row has changed since its result was written") as caught:
        await run(provider, prompts, folder, (2, 2))

    assert str(folder / "part-00001-of-00002.jsonl") in caught.value.hint
    assert not provider.asked


async def test_a_part_with_more_rows_than_the_input_is_of_another_one(
    tmp_path: Path, prompts: Path, provider: Provider
) -> None:
    folder = tmp_path / "results"
    await run(provider, write(tmp_path / "longer.jsonl", [*range(201, 241), 7]), folder, (41, 99))
    provider.asked.clear()

    with pytest.raises(InputError, match=r"p.jsonl:41: this row"):
        await run(provider, prompts, folder, (2, 99))

    assert not provider.asked


async def test_shards_start_afresh_with_a_changed_input_one_after_another(
    tmp_path: Path, prompts: Path, provider: Provider
) -> None:
    folder = tmp_path / "results"
    for shard in ((1, 2), (2, 2)):
        await run(provider, prompts, folder, shard)
    write(prompts, range(101, 141))
    provider.asked.clear()

    for shard in ((1, 2), (2, 2)):
        await run(provider, prompts, folder, shard, overwrite=True)

    assert sorted(provider.asked) == list(range(101, 141))


async def test_a_row_in_two_parts_is_refused(tmp_path: Path, prompts: Path, provider: Provider) -> None:
    """Both files are named: which of two lines is right cannot be known."""
    folder = tmp_path / "results"
    await run(provider, prompts, folder, (1, 2))
    shutil.copy(folder / part_name(Shard(1, 2)), folder / part_name(Shard(3, 4)))
    provider.asked.clear()

    with pytest.raises(OutputError, match=r"row 3 has a line here and in .*part-0000") as caught:
        await run(provider, prompts, folder, (3, 8))

    assert "move the file" in caught.value.hint
    assert not provider.asked


async def test_a_part_that_stands_twice_is_refused(tmp_path: Path, prompts: Path, provider: Provider) -> None:
    """Under a name with other zeros, or as a copy."""
    folder = tmp_path / "results"
    await run(provider, prompts, folder, (1, 2))
    own = folder / part_name(Shard(1, 2))

    for name, words in (("part-1-of-2.jsonl", "stands here twice"), ("part-00001-of-00002 (1).jsonl", "and is none")):
        shutil.copy(own, folder / name)
        with pytest.raises(OutputError, match=words):
            await run(provider, prompts, folder, (2, 2))
        (folder / name).unlink()


@pytest.mark.slow  # waits in real time
async def test_another_number_of_shards_at_the_same_time_is_refused(
    tmp_path: Path, prompts: Path, provider: Provider
) -> None:
    """While a run writes rows that are this shard's too; parts without common rows do not matter."""
    folder = tmp_path / "results"
    await run(provider, prompts, folder, (1, 2))
    held = str(folder / part_name(Shard(1, 2)))
    fd = open_locked(held, held)
    try:
        with pytest.raises(OutputError, match="is being written by another run") as caught:
            await run(provider, prompts, folder, (1, 4))
        summary = await run(provider, prompts, folder, (2, 4))
    finally:
        os.close(fd)

    assert "--shard I/2" in caught.value.hint
    assert summary.exit_code == 0


async def test_a_part_of_another_model_is_refused(tmp_path: Path, prompts: Path) -> None:
    """Also where its rows are not this shard's."""
    folder = tmp_path / "results"
    await BatchRunner("sim/steady").run(prompts, folder, shard=(1, 2))

    with pytest.raises(OutputError, match="was answered by sim/steady"):
        await BatchRunner("sim/small").run(prompts, folder, shard=(2, 2))


async def test_a_torn_last_line_in_another_part_does_not_count(
    tmp_path: Path, prompts: Path, provider: Provider
) -> None:
    """Only whole lines do; that part is left as it is."""
    folder = tmp_path / "results"
    await run(provider, prompts, folder, (1, 2))
    part = folder / part_name(Shard(1, 2))
    torn = part.read_bytes()[:-10]
    part.write_bytes(torn)
    last = json.loads(part.read_bytes().splitlines()[-2])["row"] + 2
    provider.asked.clear()

    await run(provider, prompts, folder, (1, 1))

    assert sorted(provider.asked) == sorted([*range(2, 41, 2), last])
    assert part.read_bytes() == torn


@pytest.mark.parametrize("shard", [(0, 8), (9, 8), (1, 0), (1.0, 2), (True, 2), (1,), "any/8"])
async def test_what_is_no_shard_is_refused(prompts: Path, provider: Provider, shard: object) -> None:
    """With the range."""
    with pytest.raises(UsageError, match="shard is"):
        await BatchRunner(provider).run(prompts, shard=shard)  # type: ignore[arg-type]

    assert not (prompts.parent / "p.results").exists()


async def test_a_refused_run_leaves_no_folder(tmp_path: Path, prompts: Path, provider: Provider) -> None:
    """As it leaves no output."""
    prompts.write_text("{oops\n" * 3)

    with pytest.raises(InputError):
        await run(provider, prompts, tmp_path / "results", (1, 2))

    assert not (tmp_path / "results").exists()


async def test_a_shard_without_rows_is_done(tmp_path: Path, prompts: Path, provider: Provider) -> None:
    """More shards than rows: the notice names the shard."""
    summary = await run(provider, prompts, tmp_path / "results", (50, 64))

    assert (summary.exit_code, summary.rows, summary.total_rows) == (0, 0, 0)
    assert not provider.asked
