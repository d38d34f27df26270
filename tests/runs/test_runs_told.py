"""Settings that have no effect, and columns that are not sent: told once, with counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmbatch import BatchRunner
from llmbatch.core.events import Event, Notice


class Notices:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def observe(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.texts.append(event.message)


@pytest.mark.slow
@pytest.mark.parametrize("own", [2, 3])
async def test_a_model_that_no_row_uses_was_silently_ignored(tmp_path: Path, own: int) -> None:
    """``-m`` while every row names its own: told once, with counts. Slow: simulated answers take 0.2 s."""
    path, notices = tmp_path / "p.jsonl", Notices()
    rows = [{"prompt": "a"} | ({"model": "sim/steady"} if number < own else {}) for number in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    summary = await BatchRunner("sim/flash", observers=[notices]).run(path)

    assert summary.success == 3
    assert notices.texts == (["3 rows name their own model; sim/flash (-m) is used for 0"] if own == 3 else [])


@pytest.mark.slow
async def test_columns_come_back_in_the_result_and_are_told_once(tmp_path: Path) -> None:
    """Not sent, echoed. Slow: simulated answers take 0.2 s."""
    path, notices = tmp_path / "p.jsonl", Notices()
    path.write_text('{"prompt":"a","label":"x"}\n{"prompt":"b","label":"y","metadata":{"t":1}}\n')

    await BatchRunner("sim/steady", observers=[notices]).run(path)

    lines = [json.loads(line) for line in (tmp_path / "p.results.jsonl").read_text().splitlines()]
    assert {line["row"]: line["metadata"] for line in lines} == {1: {"label": "x"}, 2: {"label": "y", "t": 1}}
    assert len(notices.texts) == 1
    assert "label" in notices.texts[0]


@pytest.mark.slow
async def test_a_stream_did_not_tell_of_a_model_that_no_row_uses() -> None:
    """As :meth:`BatchRunner.run` does, and columns that are not sent. Slow: simulated answers take 0.2 s."""
    notices = Notices()
    rows = [{"prompt": "a", "label": "x", "model": "sim/steady"}] * 2

    results = [result async for result in BatchRunner("sim/flash", observers=[notices]).stream(rows)]

    assert [result.metadata_json for result in results] == ['{"label":"x"}'] * 2
    assert len(notices.texts) == 2
    assert "label" in notices.texts[0]
    assert notices.texts[1] == "2 rows name their own model; sim/flash (-m) is used for 0"
