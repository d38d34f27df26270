"""docs/batch.md: its first command, run as a reader would, and what the page promises to name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmbatch.providers.batches.families import FAMILIES
from llmbatch.runner.batch_options import BatchOptions
from llmbatch.runner.option import options_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "batch.md"


@pytest.mark.slow  # a shell, two processes, and a batch of the simulated provider in real time
@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_the_first_command_collects_a_batch(tmp_path: Path) -> None:
    """Nothing but the block, in an empty folder."""
    block = re.search(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert block is not None
    command = block[1].replace("llmbatch run", f"{sys.executable} -m llmbatch run")

    done = subprocess.run(
        ["sh", "-ec", command], cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in (tmp_path / "prompts.results.jsonl").read_text().splitlines()]
    assert {(line["row"], line["via"]) for line in lines} == {(1, "batch"), (2, "batch"), (3, "batch")}
    assert "saved" in done.stderr


def test_the_page_names_every_option_and_provider() -> None:
    """All flags of the batch options, and all providers with a batch API."""
    text = PAGE.read_text(encoding="utf-8")

    for option in options_of(BatchOptions).values():
        assert option.flag in text
    for family in FAMILIES:
        if family.name not in ("", "sim"):
            assert family.title.removesuffix(" Token Factory") in text
