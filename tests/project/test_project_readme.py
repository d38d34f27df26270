"""The README keeps to the truth, as far as a machine can tell."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


RUNS_AND_TESTS = r"<!-- (run|tests) -->\n```sh\n(.*?)```"


def test_first_command_sets_up_and_runs_an_example_that_exists() -> None:
    """One line from a fresh clone: environment, installation, run."""
    command = re.search(r"^python3 -m venv \.venv && .*llmbatch run (\S+) .*$", README, re.MULTILINE)

    assert command
    assert (ROOT / command[1]).is_file()


def test_first_command_writes_its_results_outside_the_tree() -> None:
    """Otherwise the tests, which are the second command, see a file in examples/ that nobody committed."""
    command = re.search(r"^python3 -m venv \.venv && .*llmbatch run .* -o (.*)$", README, re.MULTILINE)

    assert command
    assert command[1].startswith('"$(mktemp -d)/')


def test_ci_finds_both_commands() -> None:
    """CI runs the line between each marker and the end of its block; the second one has to end in pytest."""
    blocks = dict(re.findall(RUNS_AND_TESTS, README, re.DOTALL))

    assert list(blocks) == ["run", "tests"]
    assert all(block.strip().count("\n") == 0 for block in blocks.values())
    assert blocks["tests"].strip().endswith(".venv/bin/python -m pytest")


def test_extras_of_the_test_command_exist() -> None:
    """The extras that the README installs are declared."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.search(r"-e '\.\[(.*?)\]'", README)

    assert named
    assert set(named[1].split(",")) <= extras.keys()
