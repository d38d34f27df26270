"""The walk-through of a night with an outage, as it stands on its page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "examples" / "outage"


@pytest.mark.slow  # real seconds of a real outage
def test_the_night_goes_as_its_page_says(tmp_path: Path) -> None:
    """Every block of shell in a row, in one shell that ends at the first command that fails."""
    shutil.copy(PAGE / "night.toml", tmp_path)
    blocks = re.findall(r"```sh\n(.*?)```", (PAGE / "README.md").read_text(), re.S)
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    script = "set -eu\ncode=0\ntrap 'kill ${provider:-} 2>/dev/null || true' EXIT\n" + "\n".join(blocks)

    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=280, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(blocks) == 6
    assert "good rows failed" in done.stdout
    assert '"status":"deferred","retry_after":' in done.stdout
