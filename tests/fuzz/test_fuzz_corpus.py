"""Files that people have, or that hate them: every row that is not blank ends as one valid line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmbatch import BatchRunner, InputError

REFUSED = frozenset(
    {
        "csv",
        "half_json",
        "not_json_numbers",
        "nul_bytes",
        "one_json_array",
        "own_output",
        "pretty_printed",
        "python_dicts",
    }
)
"""Of these no row can be sent, or the first shows that they are no JSON Lines."""

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.jsonl"))


def rows_in(text: bytes) -> list[int]:
    r"""The numbers of the lines that are not blank, by the plainest of means."""
    text = text.removeprefix(b"\xef\xbb\xbf")
    return [number for number, line in enumerate(text.split(b"\n"), 1) if line.strip(b" \t\r\n\x0b\x0c")]


def lines_of(path: Path) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    found = {line["row"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def behind_a_good_row(path: Path, folder: Path) -> Path:
    """A copy that is not refused as a whole."""
    copy = folder / "behind.jsonl"
    copy.write_bytes(b'"good"\n' + path.read_bytes())
    return copy


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
async def test_every_ugly_row_ends_as_one_line(path: Path, tmp_path: Path) -> None:
    """Good ones are answered, bad ones say what is wrong with them; again, and nothing is sent any more."""
    output = tmp_path / "o.jsonl"
    calls = 0

    async def call(row: object) -> str:
        nonlocal calls
        calls += 1
        return "fine"

    if path.stem in REFUSED:
        with pytest.raises(InputError):
            await BatchRunner(call).run(path, output)
        assert not output.exists()
        path = behind_a_good_row(path, tmp_path)
    summary = await BatchRunner(call).run(path, output)
    first = calls
    again = await BatchRunner(call).run(path, output)

    lines = lines_of(output)
    assert sorted(lines) == rows_in(path.read_bytes())
    failed = [line for line in lines.values() if line["status"] == "failed"]
    assert summary.exit_code == again.exit_code == (1 if failed else 0)
    assert first == calls == len(lines) - len(failed)
    for line in failed:
        assert line["error"]["code"].startswith("input_")
        assert line["error"]["message"]


@pytest.mark.slow  # a process
@pytest.mark.parametrize("name", ["deep", "bad_utf8", "half_json"])
def test_the_command_says_what_is_wrong_without_a_traceback(name: str, tmp_path: Path) -> None:
    """Against a simulated model: exit 1, and one line a row."""
    path = behind_a_good_row(Path(__file__).parent / "corpus" / f"{name}.jsonl", tmp_path)

    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "llmbatch",
            "run",
            str(path),
            "-o",
            "o.jsonl",
            "-m",
            "sim/steady",
            "--progress",
            "plain",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "\x1b" not in ended.stderr
    assert sorted(lines_of(tmp_path / "o.jsonl")) == rows_in(path.read_bytes())
