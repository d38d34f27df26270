"""Where a live page's values come from: a run of this process, whose files and numbers agree, and bounded always."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmbatch import BatchRunner
from llmbatch.core.rows import Result, encode_line
from llmbatch.dashboard.painter import RunPainter
from llmbatch.dashboard.sources import FileSource, RunSource
from llmbatch.display.history_file import HistoryFile
from llmbatch.display.report_read import read_report
from llmbatch.display.status_file import StatusFile
from llmbatch.report.html.data import RunReport
from llmbatch.report.stats import RunStats


async def answer(row: dict[str, object]) -> str:
    """A provider that has a new error for each bad row and attempt."""
    number = int(str(row["id"]))
    if number % 5 == 0:
        raise ValueError(f"bad row {number}: " + f"{number * 7919}" * 40)
    return f"answer {number}"


async def run_of(folder: Path, rows: int) -> tuple[list[RunReport], RunSource]:
    """A whole run in this process, looked at at every event that a page might come with; and its source."""
    path, output = folder / "in.jsonl", folder / "o.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "prompt": f"p{n}"}) + "\n" for n in range(1, rows + 1)))
    stats = RunStats()
    history = HistoryFile(output, command="llmbatch run in.jsonl", stats=stats)
    status = StatusFile(output, command="llmbatch run in.jsonl", stats=stats)
    source = RunSource(output, stats=stats, history=history, command="llmbatch run in.jsonl", version="1")
    seen: list[RunReport] = []

    def look(event: object) -> None:
        if not seen or type(event).__name__ in ("RunStarted", "RowFinished"):
            seen.append(source.read())

    with history, status:
        runner = BatchRunner(answer, concurrency=4, observers=[stats, history, status, look])
        await runner.run(str(path), str(output))
    return seen, source


@pytest.mark.traced
@pytest.mark.slow  # seconds of real waits
async def test_the_page_of_a_run_agrees_with_its_files_at_the_end(tmp_path: Path) -> None:
    """While it goes on the counters only grow; then all is as ``llmbatch report`` has it."""
    seen, source = await run_of(tmp_path, 60)
    last, read = source.read(is_last=True), read_report(tmp_path / "o.jsonl", version="1")

    assert [report.rows for report in seen] == sorted(report.rows for report in seen)
    assert {report.state for report in seen} == {"running"}
    assert seen[-1].rows == 60
    for name in ("state", "success", "failed", "total_rows", "exit_code", "next", "command", "lines_read", "outages"):
        assert getattr(last, name) == getattr(read, name), name
    assert [(group.code, group.count) for group in last.failures] == [(g.code, g.count) for g in read.failures]
    assert [(route.label, route.rows, route.failed) for route in last.routes] == [("answer", 60, 12)]
    assert [row.id for row in source.latest()][:1]
    assert all(row.answer is None for row in source.latest())


async def test_thousands_of_different_errors_stay_bounded(tmp_path: Path) -> None:
    """In what pages are sent: codes and messages have their bounds, however many there are."""
    output = tmp_path / "o.jsonl"
    rows = (
        Result(n, f"{n:016x}", "failed", f'"r{n}"', error_code=f"code_{n}", error_message=f"{n} " + "<" * 400)
        for n in range(1, 10_001)
    )
    output.write_bytes(b"".join(map(encode_line, rows)))

    message = RunPainter(FileSource(output, version="1"), events="/events").message(1)

    assert len(message.whole()) < 400_000
    assert b"10,000 failed" in message.whole()


@pytest.mark.traced
@pytest.mark.slow  # seconds of real waits
async def test_a_message_that_says_nothing_new_is_small(tmp_path: Path) -> None:
    """It is sent every second to everybody."""
    _, source = await run_of(tmp_path, 40)
    painter = RunPainter(source, events="/events")

    first, second = painter.message(1), painter.message(2)

    assert len(first.news) > 5_000
    assert len(second.news) < 2_000
    assert json.loads(second.whole()[6:])["parts"].keys() > json.loads(second.news[6:])["parts"].keys()


@pytest.mark.parametrize("text", [b"", b'{"row":1,"hash":'])
def test_an_output_without_a_line_has_a_page(tmp_path: Path, text: bytes) -> None:
    """Of a run that has just begun."""
    (tmp_path / "o.jsonl").write_bytes(text)

    assert (
        "no row has been answered yet"
        in RunPainter(FileSource(tmp_path / "o.jsonl", version="1"), events="/events").page().lower()
    )


@pytest.mark.traced
@pytest.mark.slow  # seconds of real waits
async def test_lines_are_read_when_tables_are_made_of_them(tmp_path: Path) -> None:
    """And seldom else: a few at a time cost more for each."""
    _, source = await run_of(tmp_path, 40)
    source.read(is_last=True)
    with (tmp_path / "o.jsonl").open("ab") as file:
        file.write(encode_line(Result(41, f"{41:016x}", "success", '"r41"', model="answer", text="x")))

    seldom = sum(route.rows for route in source.read(for_tables=False).routes)
    often = sum(route.rows for route in source.read().routes)

    assert (seldom, often) == (40, 41)
