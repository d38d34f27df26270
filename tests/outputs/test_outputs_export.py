"""An export as the library writes it: what is told of its progress, tables with tabs, lines that are not as written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from example_lines import result_line

from llmbatch.core.errors import OutputError
from llmbatch.outputs.export import plan_export, write_export
from llmbatch.outputs.export_target import ExportFormat


def export(path: Path, format: ExportFormat, target: Path) -> list[tuple[int, int]]:  # noqa: A002
    """Write the ids of the output *path* to *target*; return what was told of the progress."""
    told: list[tuple[int, int]] = []
    fd = os.open(path, os.O_RDONLY)
    try:
        plan = plan_export(fd, path.stat().st_size, path.name, format=format, fields=["row", "id"])
        write_export(plan, str(target), on_progress=lambda rows, total: told.append((rows, total)))
    finally:
        os.close(fd)
    return told


@pytest.mark.parametrize(
    ("format", "told"), [("tsv", [(1000, 2500), (2000, 2500)]), ("parquet", [(n * 1000, 5000) for n in range(1, 6)])]
)
def test_progress_is_told_every_thousand_lines(
    tmp_path: Path,
    format: ExportFormat,  # noqa: A002
    told: list[tuple[int, int]],
) -> None:
    """Of as many as will be read: each is read twice where the types of columns are found first."""
    path = tmp_path / "o.jsonl"
    path.write_bytes(b"".join(result_line(number) for number in range(2500, 0, -1)))

    assert export(path, format, tmp_path / "x") == told


def test_tabs_separate_the_cells_of_a_tsv_file(tmp_path: Path) -> None:
    """With a header, in the order of the rows; it is longer than what is written at once."""
    path = tmp_path / "o.jsonl"
    path.write_bytes(b"".join(result_line(number) for number in range(10_000, 0, -1)))

    export(path, "tsv", tmp_path / "x.tsv")

    lines = (tmp_path / "x.tsv").read_text().splitlines()
    assert lines == ["row\tid", *(f"{number}\tr{number}" for number in range(1, 10_001))]


def test_a_line_that_is_none_when_the_rows_are_indexed_is_refused(tmp_path: Path) -> None:
    """The output was scanned before, so another program has changed it since."""
    path = tmp_path / "o.jsonl"
    path.write_bytes(result_line(1) + b'{"not":"a line of a run"}\n')

    with pytest.raises(OutputError, match=r"o\.jsonl: has changed while it was read"):
        export(path, "tsv", tmp_path / "x.tsv")

    assert not (tmp_path / "x.tsv").exists()
