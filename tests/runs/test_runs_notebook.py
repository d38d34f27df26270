"""Runs in a real Jupyter kernel: the display that is updated in place, and how results show themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llmbatch import BatchRunner
from llmbatch.runs.notebook import is_in_notebook

nbclient = pytest.importorskip("nbclient", reason="nbclient and ipykernel are not installed")
pytest.importorskip("ipykernel", reason="nbclient and ipykernel are not installed")

pytestmark = pytest.mark.slow  # a kernel takes a second to start

FIRST = """
import asyncio
from pathlib import Path
from llmbatch import BatchRunner
Path("p.jsonl").write_text('{"prompt":"one"}\\n{"prompt":"two"}\\n{"prompt":""}\\n')
"""


def outputs(folder: Path, *cells: str) -> list[list[Any]]:
    """What stands below each cell after all have been run, in a kernel of their own."""
    import nbformat

    sources = [nbformat.v4.new_code_cell(cell) for cell in (FIRST, *cells)]
    book = nbformat.v4.new_notebook(cells=sources)
    client = nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(folder)}})
    client.execute()
    assert not [output for output in book.cells[0].outputs if output.output_type != "execute_result"]
    return [cell.outputs for cell in book.cells[1:]]


def page(output: Any) -> str:
    """The HTML of an output."""
    return str(output.data["text/html"])


def test_a_run_shows_itself_below_its_cell(tmp_path: Path) -> None:
    """One output, which at the end says that it is done; with ``await``, and with ``run_sync`` in the running loop."""
    awaited, sync = outputs(
        tmp_path,
        'summary = await BatchRunner("sim/steady").run("p.jsonl", "a.jsonl")',
        'summary = BatchRunner("sim/steady").run_sync("p.jsonl", "b.jsonl")',
    )

    for shown in (awaited, sync):
        (output,) = shown
        assert output.output_type == "display_data"
        assert "<b>done</b>" in page(output)
        assert "3 of 3 rows" in page(output)
        assert "1 failed" in page(output)


def test_it_is_updated_while_the_run_goes_on(tmp_path: Path) -> None:
    """In place: what a slow row's cell shows in between is another state of the same display."""
    (shown,) = outputs(
        tmp_path,
        """
import IPython.display
pages = []
class Handle(IPython.display.DisplayHandle):
    def update(self, page):
        pages.append(page.data)
        gate.set()
        super().update(page)
IPython.core.display_functions.DisplayHandle = Handle
gate = asyncio.Event()
async def ask(row):
    await gate.wait()
await BatchRunner(ask).map([1, 2])
print(["<b>running</b>" in page for page in pages], "2 in flight" in pages[0])
""",
    )

    display, printed = shown
    assert display.output_type == "display_data"
    assert printed.text == "[True, False] True\n"


def test_streams_and_maps_show_themselves_too(tmp_path: Path) -> None:
    """Functions are shown as models are."""
    (shown,) = outputs(
        tmp_path,
        """
async def ask(row):
    return row
async for result in BatchRunner(ask).stream([1, 2, 3]):
    pass
""",
    )

    (output,) = shown
    assert "3 of 3 rows" in page(output)


def test_the_display_can_be_left_out(tmp_path: Path) -> None:
    (shown,) = outputs(tmp_path, 'summary = await BatchRunner("sim/steady", display=False).run("p.jsonl", "a.jsonl")')

    assert shown == []


def test_summaries_and_results_are_tables(tmp_path: Path) -> None:
    """As the last value of a cell."""
    first, second = outputs(
        tmp_path,
        'runner = BatchRunner("sim/steady", display=False)\nawait runner.run("p.jsonl", "a.jsonl")',
        '(await runner.map(["one"]))[0]',
    )

    assert "<b>3 rows: 2 success</b>" in page(first[0])
    assert "<span>success</span>" in page(second[0])


def test_a_run_that_is_interrupted_leaves_its_last_state(tmp_path: Path) -> None:
    """Canceled by the program, as by the stop button."""
    (shown,) = outputs(
        tmp_path,
        """
async def ask(row):
    await asyncio.Event().wait()
task = asyncio.ensure_future(BatchRunner(ask).map([1, 2]))
await asyncio.sleep(0.1)
task.cancel()
try:
    await task
except asyncio.CancelledError:
    print("canceled")
""",
    )

    assert "<b>stopped</b>" in page(shown[0])
    assert shown[1].text == "canceled\n"


def test_the_cells_of_the_documentation_run(tmp_path: Path) -> None:
    """In their order; what each of them shows is what the text says."""
    text = (Path(__file__).parents[2] / "docs" / "notebook.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "prompts.jsonl").write_text('{"prompt":"one"}\n{"prompt":"two"}\n')

    run, summary, results, quiet = outputs(tmp_path, *cells)

    assert [output.output_type for output in run] == ["display_data"]
    assert "2 of 2 rows" in page(run[0])
    assert "<b>2 rows: 2 success</b>" in page(summary[0])
    assert [output.output_type for output in results] == ["display_data", "execute_result"]
    assert "<span>success</span>" in page(results[1])
    assert [output.output_type for output in quiet] == ["execute_result"]


async def test_outside_a_notebook_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where IPython is loaded, as here it may be."""
    import IPython  # noqa: F401

    assert not is_in_notebook()
    await BatchRunner("sim/steady").map(["one"])
    assert capsys.readouterr().out == ""
