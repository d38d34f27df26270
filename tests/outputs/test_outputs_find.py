"""Which output a path means that people give to `status` and `failed`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from example_lines import input_line, result_line

from llmbatch.core.errors import OutputError
from llmbatch.outputs.find import find_output


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "p.jsonl"
    path.write_bytes(input_line(1) + b"\n")
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "p.results.jsonl"
    path.write_bytes(result_line(1))
    return path


def test_an_output_is_itself(results: Path) -> None:
    """By its first line, whatever its name."""
    assert find_output(results) == results


def test_an_input_is_its_default_output(prompts: Path, results: Path) -> None:
    """Also if it is empty, or gone."""
    assert find_output(prompts) == results
    prompts.write_bytes(b"")
    assert find_output(str(prompts)) == results
    prompts.unlink()
    assert find_output(prompts) == results


def test_a_saved_data_set_is_its_default_output(tmp_path: Path) -> None:
    """The folder that `datasets` has made is an input; any other folder is left to the reader."""
    (tmp_path / "data").mkdir()
    assert find_output(tmp_path / "data") == tmp_path / "data"

    (tmp_path / "data" / "state.json").write_text("{}")

    assert find_output(tmp_path / "data") == tmp_path / "data.results.jsonl"


def test_a_folder_is_named_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beside it can be named too; nothing lies beside the root."""
    monkeypatch.chdir(tmp_path)
    assert find_output(".") == tmp_path.resolve()

    with pytest.raises(OutputError, match="is not an output"):
        find_output("/")


def test_an_input_without_an_output_is_refused_with_what_to_type(prompts: Path) -> None:
    """The hint has the command that makes one."""
    with pytest.raises(OutputError, match=r"there is no p\.results\.jsonl") as caught:
        find_output(prompts)

    assert f"llmbatch run {prompts}" in caught.value.hint


def test_what_is_no_input_is_left_to_the_reader(tmp_path: Path) -> None:
    """A folder, standard output, a device, a missing file, and the first bytes of a line that was torn."""
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(b'{"ro')

    for path in (tmp_path, Path("-"), Path("/dev/null"), tmp_path / "missing.jsonl", torn):
        assert find_output(path) == path


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_pipe_was_waited_for(tmp_path: Path) -> None:
    """It is no output; as an input it has one."""
    pipe = tmp_path / "rows"
    os.mkfifo(pipe)
    assert find_output(pipe) == pipe

    default = tmp_path / "rows.results.jsonl"
    default.write_bytes(result_line(1))
    assert find_output(pipe) == default


def test_an_output_with_a_byte_order_mark_was_taken_for_a_foreign_file(results: Path) -> None:
    """Its reader says what to do about the mark."""
    results.write_bytes(b"\xef\xbb\xbf" + result_line(1))

    assert find_output(results) == results
