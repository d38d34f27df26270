"""docs/structured.md: its first command, run as a reader would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "structured.md"


@pytest.mark.slow  # a shell and a process
@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_the_first_command_gives_a_parsed_answer(tmp_path: Path) -> None:
    """Nothing but the block, in an empty folder."""
    block = re.search(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert block is not None
    command = block[1].replace("llmbatch run", f"{sys.executable} -m llmbatch run")

    done = subprocess.run(
        ["sh", "-ec", command], cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    (line,) = (json.loads(text) for text in (tmp_path / "reviews.results.jsonl").read_text().splitlines())
    assert set(line["parsed"]) == {"label", "stars"}
    assert line["parsed"] == json.loads(line["text"])


def test_the_page_names_every_option_and_code() -> None:
    """And every provider that is asked in another way."""
    from llmbatch.providers.catalog import PROVIDERS

    text = PAGE.read_text(encoding="utf-8")

    for name in ("--schema ", "--schema-lenient", "--repair N", "schema_mismatch", "truncated", "content_filter"):
        assert f"`{name}" in text
    assert {row.title for row in PROVIDERS.values() if row.structured != "schema"} <= set(re.findall(r"[A-Z]\w+", text))
