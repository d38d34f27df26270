"""An input that is corrected, appended to, or not the one that the output was made from."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmbatch import BatchRunner, InputError, OutputError
from llmbatch.core.events import Event, Notice, RunStarted
from llmbatch.storage.filesystem import Filesystem


class TooLongError(Exception):
    """What an SDK raises for a row that is certainly bad: nothing is tried again."""

    status_code = 400
    body = {"error": {"code": "context_length_exceeded", "message": "too long"}}  # noqa: RUF012


class Function:
    """Answers each row, but refuses those whose prompt is "bad"."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, row: object) -> str:
        prompt = row["prompt"]  # type: ignore[index]
        self.asked.append(prompt)
        if prompt == "bad":
            raise TooLongError("bad")
        return "fine"


class Notices:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def observe(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.texts.append(event.message)


def states(output: Path) -> dict[int, str]:
    """The status of each row; fails where a row has two lines."""
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert max(Counter(line["row"] for line in lines).values(), default=1) == 1
    return {line["row"]: line["status"] for line in lines}


def write(path: Path, *rows: object) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


A, B, C = {"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}


async def test_a_malformed_row_that_was_corrected_is_sent(tmp_path: Path) -> None:
    """Its line holds only an input_ error: it goes, the row is new, and nothing else is sent again."""
    path, output, function = tmp_path / "p.jsonl", tmp_path / "p.results.jsonl", Function()
    write(path, A, "{broken", B, {"question": "?"})
    await BatchRunner(function).run(path)
    assert states(output) == {1: "success", 2: "failed", 3: "success", 4: "failed"}

    write(path, A, C, B, {"question": "?"})
    summary = await BatchRunner(function).run(path)

    assert states(output) == {1: "success", 2: "success", 3: "success", 4: "failed"}
    assert function.asked == ["a", "b", "c"]
    assert (summary.exit_code, summary.success, summary.failed) == (1, 3, 1)


async def test_malformed_rows_that_are_gone_do_not_stop_the_file(tmp_path: Path) -> None:
    """Lines of rows beyond the new end of the file go too, if they hold only input_ errors."""
    path, output, function = tmp_path / "p.jsonl", tmp_path / "p.results.jsonl", Function()
    write(path, A, "[1,", "{broken", "]")
    await BatchRunner(function).run(path)

    write(path, A, B)
    await BatchRunner(function).run(path)

    assert states(output) == {1: "success", 2: "success"}


@pytest.mark.parametrize("words", ["restore the row", "--retry-failed"])
async def test_a_row_that_was_answered_may_still_not_change(tmp_path: Path, words: str) -> None:
    """An edited row is refused; --retry-failed is named only where its line is a failed one."""
    path, function = tmp_path / "p.jsonl", Function()
    write(path, A, {"prompt": "bad"}, "{broken")
    await BatchRunner(function).run(path)
    changed = (C, {"prompt": "bad"}) if words == "restore the row" else (A, C)

    write(path, *changed, "{broken")
    with pytest.raises(InputError, match="has changed since") as caught:
        await BatchRunner(function).run(path)

    assert words in caught.value.hint
    assert ("--retry-failed" in caught.value.hint) == (words == "--retry-failed")


async def test_a_row_whose_metadata_imitates_an_input_error_may_not_change(tmp_path: Path) -> None:
    """Only the line's own error counts."""
    path, function = tmp_path / "p.jsonl", Function()
    imitation = {"response": None, "error": {"code": "input_bad_json"}}
    write(path, {"prompt": "bad", "metadata": imitation}, A)
    await BatchRunner(function).run(path)

    write(path, B, A)
    with pytest.raises(InputError, match="has changed since"):
        await BatchRunner(function).run(path)


async def test_a_corrected_row_beyond_the_limit_keeps_its_line(tmp_path: Path) -> None:
    """What is not sent now is not dropped either."""
    path, output, function = tmp_path / "p.jsonl", tmp_path / "p.results.jsonl", Function()
    write(path, A, "{broken", "{broken")
    await BatchRunner(function).run(path)

    write(path, A, B, C)
    await BatchRunner(function).run(path, limit=2)
    assert states(output) == {1: "success", 2: "success", 3: "failed"}
    await BatchRunner(function).run(path)

    assert states(output) == {1: "success", 2: "success", 3: "success"}


@pytest.mark.parametrize("blank", [0, 3])
async def test_retry_failed_with_a_limit_drops_only_what_it_resends(tmp_path: Path, blank: int) -> None:
    """Twelve failed rows, two of them among the first 20: ten lines stay."""
    path, output, function = tmp_path / "p.jsonl", tmp_path / "p.results.jsonl", Function()
    rows: list[object] = [*[""] * blank, *[A] * 18, *[{"prompt": "bad"}] * 12, *[A] * 30]
    write(path, *rows)
    await BatchRunner(function).run(path)
    before = states(output)
    assert Counter(before.values()) == {"success": 48, "failed": 12}
    function.asked.clear()

    await BatchRunner(function).run(path, limit=20, retry_failed=True)

    assert set(function.asked) == {"bad"}
    assert states(output) == before
    moved = [json.loads(line)["row"] for line in output.read_text().splitlines()][-2:]
    assert sorted(moved) == [19 + blank, 20 + blank]


class Unsyncable(Filesystem):
    def sync(self, fd: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


async def test_finished_rows_beyond_the_limit_hid_that_rows_within_it_were_still_to_be_sent(
    tmp_path: Path,
) -> None:
    """They counted as rows within it, and the file system was not tested before calls."""
    path, function, totals = tmp_path / "p.jsonl", Function(), []
    write(path, {"prompt": "bad"}, A, A, A)
    await BatchRunner(function).run(path)
    function.asked.clear()

    with pytest.raises(OutputError, match="cannot sync"):
        await BatchRunner(function, filesystem=Unsyncable()).run(path, limit=2, retry_failed=True)
    assert function.asked == []

    observer = SimpleNamespace(
        observe=lambda event: totals.append(event.total_rows) if isinstance(event, RunStarted) else None
    )
    await BatchRunner(function, observers=[observer]).run(path, limit=2, retry_failed=True)
    assert (totals, function.asked) == ([4], ["bad"])


@pytest.mark.parametrize("torn", ['{"prompt": "b', '{"prompt": "b"', '{"prompt": "\N{EURO SIGN}'])
async def test_a_last_line_that_is_still_being_written_gets_no_line_yet(tmp_path: Path, torn: str) -> None:
    """No line end and not to be parsed: told, exit code 75, and sent once it is whole."""
    path, output, function, notices = tmp_path / "p.jsonl", tmp_path / "p.results.jsonl", Function(), Notices()
    write(path, A)
    with path.open("ab") as file:
        file.write(torn.encode()[: -1 if torn.endswith("\N{EURO SIGN}") else None])

    summary = await BatchRunner(function, observers=[notices]).run(path)
    assert (states(output), summary.exit_code) == ({1: "success"}, 75)
    assert any("p.jsonl:2: the last line is cut off" in text for text in notices.texts)
    write(path, A, B)
    again = await BatchRunner(function).run(path)

    assert (states(output), again.exit_code) == ({1: "success", 2: "success"}, 0)
    assert function.asked == ["a", "b"]


async def test_a_last_line_that_is_whole_but_for_its_line_end_is_a_row(tmp_path: Path) -> None:
    """Many editors write no last line end."""
    path, output = tmp_path / "p.jsonl", tmp_path / "p.results.jsonl"
    path.write_text('{"prompt":"a"}\n{"prompt":"b"}')

    summary = await BatchRunner(Function()).run(path)

    assert (states(output), summary.exit_code) == ({1: "success", 2: "success"}, 0)


async def test_another_input_with_the_same_default_output_is_named(tmp_path: Path) -> None:
    """p.txt and p.jsonl both go to p.results.jsonl: the error says so, by name."""
    write(tmp_path / "p.jsonl", A, B)
    write(tmp_path / "p.json", C, B)
    await BatchRunner(Function()).run(tmp_path / "p.json")

    with pytest.raises(InputError) as caught:
        await BatchRunner(Function()).run(tmp_path / "p.jsonl")

    assert "p.json" in caught.value.message.partition("its results may be those of ")[2]
    assert caught.value.hint.startswith("p.results.jsonl is also the default output of p.json")


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.zst", "x.jsonl.bz2"])
async def test_a_compressed_output_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    """It would hold plain text."""
    write(tmp_path / "p.jsonl", A)

    with pytest.raises(OutputError, match="uncompressed") as caught:
        await BatchRunner(Function()).run(tmp_path / "p.jsonl", tmp_path / name)

    assert "cannot be appended to and resumed" in caught.value.hint
    assert str(tmp_path / name).rpartition(".")[0] in caught.value.hint
    assert not (tmp_path / name).exists()


class WithoutLocks(Filesystem):
    """A mount without flock."""

    def lock(self, fd: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


class WithoutAppend(Filesystem):
    """A mount of an object store, which opens no file to append."""

    def __init__(self, code: int) -> None:
        self._code = code

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        if flags & os.O_APPEND:
            raise OSError(self._code, os.strerror(self._code))
        return super().open(path, flags, mode)


async def test_a_mount_without_locks_is_told_with_its_way_round(tmp_path: Path) -> None:
    """--lock off is named with its risk, and works, a rewrite and the deferred file included."""
    path, output = tmp_path / "p.jsonl", tmp_path / "p.results.jsonl"
    write(path, A, {"prompt": "bad"})
    runner = BatchRunner(Function(), filesystem=WithoutLocks())

    with pytest.raises(OutputError, match="cannot be locked") as caught:
        await runner.run(path)
    assert "--lock off" in caught.value.hint
    assert "twice" in caught.value.hint
    await runner.run(path, lock="off")
    await runner.run(path, lock="off", retry_failed=True)

    assert states(output) == {1: "success", 2: "failed"}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EPERM, errno.ENOTSUP])
async def test_a_mount_without_append_is_told_with_its_way_round(tmp_path: Path, code: int) -> None:
    """Append is needed, and a local disk has it."""
    write(tmp_path / "p.jsonl", A)

    with pytest.raises(OutputError, match="cannot append") as caught:
        await BatchRunner(Function(), filesystem=WithoutAppend(code)).run(tmp_path / "p.jsonl")

    assert "local disk" in caught.value.hint


@pytest.mark.parametrize("text", ["", "\n\n  \n"])
async def test_an_empty_input_says_so(tmp_path: Path, text: str) -> None:
    """Exit code 0, and one notice."""
    path, notices = tmp_path / "p.jsonl", Notices()
    path.write_text(text)

    summary = await BatchRunner(Function(), observers=[notices]).run(path)

    assert summary.exit_code == 0
    assert notices.texts == [f"no rows in {path}"]


@pytest.mark.parametrize(
    ("members", "hint"),
    [
        ({"columns": ["prompt"], "to_dict": print}, 'rows.to_dict("records")'),
        ({"columns": ["prompt"], "to_dicts": print, "to_dict": print}, "rows.to_dicts()"),
        ({"columns": ["prompt"], "to_pylist": print}, "rows.to_pylist()"),
        ({"keys": print}, "each a dict"),
    ],
)
async def test_a_table_that_iterates_over_its_columns_is_refused(members: dict[str, Any], hint: str) -> None:
    """The names of columns would be sent, and paid for; the hint has what to write."""

    class Table(SimpleNamespace):
        def __iter__(self) -> Iterator[str]:
            return iter(["prompt", "label"])

    function = Function()

    with pytest.raises(InputError, match="not its rows") as caught:
        async for _ in BatchRunner(function).stream(Table(**members)):
            pass

    assert hint in caught.value.hint
    assert function.asked == []


@pytest.mark.parametrize(("key", "is_told"), [("metadata.tennant", True), ("metadata.tenant", False)])
async def test_a_circuit_key_that_no_row_has_is_told_once(tmp_path: Path, key: str, is_told: bool) -> None:
    """A misspelt key would leave all tenants in one circuit."""
    path, notices = tmp_path / "p.jsonl", Notices()
    write(path, *[{"prompt": "a", "metadata": {"tenant": "t"}}] * 5)

    await BatchRunner(Function(), observers=[notices], circuit_key=key).run(path)

    assert len(notices.texts) == is_told
    assert not is_told or key in notices.texts[0]


def test_corrected_rows_of_standard_input_are_sent_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe cannot be compared beforehand: lines that hold only input_ errors are made anew."""
    output, function = tmp_path / "o.jsonl", Function()

    def run(*rows: object) -> None:
        read, write_end = os.pipe()
        os.write(write_end, "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows).encode())
        os.close(write_end)
        saved = os.dup(0)
        os.dup2(read, 0)
        os.close(read)
        try:
            asyncio.run(BatchRunner(function).run("-", output))
        finally:
            os.dup2(saved, 0)
            os.close(saved)

    run(A, "{broken", "{broken too")
    run(A, B, "{broken too")

    assert states(output) == {1: "success", 2: "success", 3: "failed"}
    assert function.asked == ["a", "b"]
