"""Going on with an output that another run has begun: with the same model, or on purpose with another."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest

from llmbatch import BatchRunner, OutputError, UsageError
from llmbatch.storage.filesystem import Filesystem


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def models_of(path: Path) -> list[str]:
    lines = map(json.loads, path.read_text().splitlines())
    return [line["model"] for line in sorted(lines, key=lambda line: line["row"])]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write(tmp_path / "p.jsonl", "a", "b", "c", "d")


async def test_an_output_of_another_model_is_refused(prompts: Path) -> None:
    """Both models and the row are named, and the file stays as it was."""
    first = await BatchRunner("sim/steady").run(prompts, limit=2)
    before = Path(first.output).read_bytes()

    with pytest.raises(OutputError) as caught:
        await BatchRunner("sim/small").run(prompts)

    assert f"{first.output}: row " in caught.value.message
    assert "answered by sim/steady" in caught.value.message
    assert "to sim/small" in caught.value.message
    assert "--force" in caught.value.hint
    assert Path(first.output).read_bytes() == before


async def test_an_output_of_another_model_is_refused_though_nothing_is_left_to_do(prompts: Path) -> None:
    """Who names another model and reads `exit 0` would take the old answers for the new model's."""
    await BatchRunner("sim/steady").run(prompts)

    with pytest.raises(OutputError, match="answered by sim/steady"):
        await BatchRunner("sim/small").run(prompts)


async def test_force_mixes_two_models(prompts: Path) -> None:
    """For those who mean it."""
    await BatchRunner("sim/steady").run(prompts, limit=2)

    summary = await BatchRunner("sim/small").run(prompts, force=True)

    assert summary.exit_code == 0
    assert models_of(Path(summary.output)) == ["sim/steady", "sim/steady", "sim/small", "sim/small"]


@pytest.mark.parametrize("blank", ["", "\n\n"])
async def test_rows_that_name_their_own_models_may_mix_them(tmp_path: Path, blank: str) -> None:
    """A default that changes for the rows without one is seen all the same, where such a row was answered."""
    rows = write(
        tmp_path / "p.jsonl", *({"prompt": "x", "model": f"sim/{name}"} for name in ("small", "large", "claude"))
    )
    rows.write_text(blank + rows.read_text() + '"last"\n')
    await BatchRunner("sim/flash").run(rows, limit=2)

    summary = await BatchRunner("sim/steady").run(rows)

    assert models_of(Path(summary.output)) == ["sim/small", "sim/large", "sim/claude", "sim/steady"]


SETTINGS = [
    ({"system": "Be brief."}, {"system": "Be long."}),
    ({"system": "Be brief."}, {}),
    ({}, {"params": {"temperature": 0.5}}),
    ({"params": {"temperature": 0.5}}, {"params": {"temperature": 1}}),
    ({}, {"endpoint": "responses"}),
]


@pytest.mark.slow  # whole runs
@pytest.mark.parametrize(("before", "now"), SETTINGS)
async def test_the_same_output_with_another_system_prompt_or_parameters_was_silently_mixed(
    prompts: Path, before: dict[str, Any], now: dict[str, Any]
) -> None:
    """Refused like another model, also where the rows of the first run are all that there are; --force mixes."""
    first = await BatchRunner("sim/steady", **before).run(prompts, limit=2)
    lines = Path(first.output).read_bytes()

    with pytest.raises(OutputError, match=r"row \d was answered with another system prompt") as caught:
        await BatchRunner("sim/steady", **now).run(prompts)
    assert "--force" in caught.value.hint
    assert Path(first.output).read_bytes() == lines

    again = await BatchRunner("sim/steady", **before).run(prompts, limit=3)
    mixed = await BatchRunner("sim/steady", **now).run(prompts, force=True)
    assert (again.already_done, again.exit_code, mixed.already_done, mixed.exit_code) == (2, 0, 3, 0)


async def test_an_output_whose_lines_tell_no_settings_could_not_be_resumed_with_those_it_was_made_with(
    prompts: Path,
) -> None:
    """Lines of before `settings` was written say nothing of them: that is no difference."""
    first = await BatchRunner("sim/steady", system="Be brief.").run(prompts, limit=2)
    output = Path(first.output)
    old = re.sub(rb',"settings":"[0-9a-f]+"', b"", output.read_bytes())
    assert old != output.read_bytes()
    output.write_bytes(old)

    summary = await BatchRunner("sim/steady", system="Be brief.").run(prompts)

    assert (summary.already_done, summary.exit_code) == (2, 0)


@pytest.mark.slow  # whole runs
async def test_a_rows_own_system_prompt_and_parameters_are_no_settings_of_the_run(tmp_path: Path) -> None:
    """They belong to the row, whose hash tells if they change."""
    rows = [{"prompt": "x", "system": name, "temperature": number} for number, name in enumerate("abc")]
    path = write(tmp_path / "p.jsonl", *rows)
    await BatchRunner("sim/steady").run(path, limit=1)

    summary = await BatchRunner("sim/steady").run(path)

    assert (summary.already_done, summary.exit_code) == (1, 0)
    assert {parsed["settings"] for parsed in map(json.loads, Path(summary.output).read_bytes().splitlines())} == {"0"}


@pytest.mark.slow  # whole runs
async def test_parameters_in_another_order_are_the_same_and_change_no_batch_row(tmp_path: Path) -> None:
    """A batch row is sent as it is, whatever -s and -P say."""
    row = {"prompt": "x"}
    batch = {"custom_id": "a", "body": {"model": "sim/steady", "messages": [{"role": "user", "content": "x"}]}}
    for name, first in (("rows", row), ("batch", batch)):
        rows = write(tmp_path / f"{name}.jsonl", first, first)
        params = {"temperature": 0.5, "top_p": 1}
        await BatchRunner("sim/steady", params=params).run(rows, limit=1)
        changed = {"seed": 1} if name == "batch" else {}

        summary = await BatchRunner("sim/steady", params={"top_p": 1, "temperature": 0.5, **changed}).run(rows)

        assert (summary.already_done, summary.exit_code) == (1, 0)


@pytest.mark.slow  # whole runs
async def test_an_endpoint_that_rows_have_anyway_was_refused_as_another_one(prompts: Path) -> None:
    """Prompts go to chat, whether ``--endpoint chat`` says so or not."""
    await BatchRunner("sim/steady").run(prompts, limit=1)
    await BatchRunner("sim/steady", endpoint="chat").run(prompts, limit=2)

    summary = await BatchRunner("sim/steady").run(prompts)

    assert (summary.already_done, summary.exit_code) == (2, 0)


async def test_starting_afresh_asks_for_no_model(prompts: Path) -> None:
    """Nor do failed lines, which name none that answered."""
    await BatchRunner("sim/steady").run(prompts)

    summary = await BatchRunner("sim/small").run(prompts, overwrite=True)

    assert models_of(Path(summary.output)) == ["sim/small"] * 4


class Counting(Filesystem):
    def __init__(self) -> None:
        self.syncs = 0

    def sync(self, fd: int) -> None:
        self.syncs += 1
        super().sync(fd)


@pytest.mark.parametrize("fsync", ["group", "off"])
async def test_fsync_off_syncs_no_line(prompts: Path, fsync: Literal["group", "off"]) -> None:
    """It is the system that decides then; nothing else changes."""
    disk = Counting()

    summary = await BatchRunner("sim/steady", filesystem=disk).run(prompts, fsync=fsync)

    assert summary.success == 4
    assert (disk.syncs > 0) == (fsync == "group")


async def test_fsync_takes_two_words(prompts: Path) -> None:
    """Told before the output is there."""
    with pytest.raises(UsageError, match="fsync is 'always', must be one of group, off"):
        await BatchRunner("sim/steady").run(prompts, fsync="always")  # type: ignore[arg-type]

    assert not prompts.with_name("p.results.jsonl").exists()
