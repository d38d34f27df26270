"""The prompts of the rows that a dashboard shows: read once, forward, and only of inputs that can be read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmbatch.dashboard.prompts import Prompts
from llmbatch.inputs.input import open_input
from llmbatch.report.html.data import LatestRow


def rows(*numbers: int) -> list[LatestRow]:
    return [LatestRow(number=n, id=n, failed=False, code="", latency_s=None, model="m") for n in numbers]


def shown(prompts: Prompts, *numbers: int) -> list[str | None]:
    """What is known after as many looks as it takes."""
    for _ in range(1000):
        found = [row.prompt for row in prompts.added_to(rows(*numbers))]
        if all(found):
            break
    return found


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ('{"prompt":"Say \\"it\\" <b>"}', 'Say "it" <b>'),
        ('"bare"', "bare"),
        ('{"messages":[{"role":"user","content":"hi"}]}', '[{"role":"user","content":"hi"}]'),
        ('{"a":1,"b":"two"}', 'a: 1, b: "two"'),
        ('{"prompt":"' + "x" * 9000 + '"}', "x" * 2000),
    ],
)
def test_the_prompt_of_each_kind_of_row(tmp_path: Path, row: str, prompt: str) -> None:
    """As text; cut where it is long."""
    path = tmp_path / "in.jsonl"
    path.write_text(row + "\n")

    assert shown(Prompts(open_input(path, output="o")), 1) == [prompt]


def test_rows_far_into_the_input_are_found_and_those_long_past_are_not(tmp_path: Path) -> None:
    """Memory is bounded: of the last 5,000 rows that were read."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"p{n}"}) + "\n" for n in range(1, 20_001)))
    prompts = Prompts(open_input(path, output="o"))

    assert shown(prompts, 3, 5) == ["p3", "p5"]
    assert shown(prompts, 19_999, 20_000) == ["p19999", "p20000"]
    assert [row.prompt for row in prompts.added_to(rows(3, 20_000, 20_001))] == ["", "p20000", ""]


def test_a_pipe_and_a_broken_input_have_none(tmp_path: Path) -> None:
    """A pipe is the run's to read."""
    path = tmp_path / "in.json"
    path.write_text("[1,")

    assert [row.prompt for row in Prompts(open_input("-", output="o")).added_to(rows(1))] == [""]
    assert [row.prompt for row in Prompts(open_input(path, output="o")).added_to(rows(1))] == [""]
    assert [row.prompt for row in Prompts(open_input(tmp_path / "no", output="o")).added_to(rows(1))] == [""]
