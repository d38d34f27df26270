"""The README keeps to the truth, as far as a machine can tell."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_first_command_sets_up_and_runs_the_example():
    """One line from a fresh clone: environment, installation, the example that is really there."""
    command = re.search(r"^python3 -m venv \.venv && .*llmbatch run (\S+) .*$", README, re.MULTILINE)

    assert command
    assert (ROOT / command[1]).is_file()


def test_ci_finds_the_test_command():
    """CI runs the line between the marker and the end of its block; it has to be one line that ends in pytest."""
    block = re.search(r"<!-- tests -->\n```sh\n(.*?)```", README, re.DOTALL)

    assert block
    assert block[1].strip().count("\n") == 0
    assert block[1].strip().endswith(".venv/bin/python -m pytest")


def test_extras_of_the_test_command_exist():
    """The extras that the README installs are declared."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.search(r"-e '\.\[(.*?)\]'", README)

    assert named
    assert set(named[1].split(",")) <= extras.keys()
