"""The file of cached answers: kept, shared between processes, and refused where it is none."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmbatch.core.errors import UsageError
from llmbatch.storage import answer_cache
from llmbatch.storage.answer_cache import AnswerCache

FILL = """
import sys
from llmbatch.storage.answer_cache import AnswerCache
cache = AnswerCache(sys.argv[1])
for number in range(2000):
    cache.put(b"%d" % number, b"answer %d" % number)
if sys.argv[2] == "close":
    cache.close()
else:
    print("put", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.db"


def test_answers_are_there_at_once_and_in_the_next_run(path: Path) -> None:
    """The first answer of a key stays."""
    cache = AnswerCache(path)
    assert cache.get(b"k") is None
    cache.put(b"k", b"first")
    cache.put(b"k", b"second")
    assert cache.get(b"k") == b"first"
    cache.close()

    again = AnswerCache(path)
    again.put(b"k", b"third")
    again.close()
    last = AnswerCache(path)
    assert (last.get(b"k"), last.get(b"other"), last.fault) == (b"first", None, "")
    last.close()


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_a_new_file_is_nobody_elses_to_read(path: Path) -> None:
    """Answers may be private."""
    AnswerCache(path).close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_text_file_is_refused_and_left_alone(path: Path) -> None:
    """Such as the input, named by mistake."""
    path.write_text('{"prompt": "hi"}\n' * 100)

    with pytest.raises(UsageError, match="the cache cannot be used") as caught:
        AnswerCache(path)

    assert "--cache" in caught.value.hint
    assert path.read_text() == '{"prompt": "hi"}\n' * 100


def test_the_database_of_another_program_is_refused(path: Path) -> None:
    """Nothing is added to it."""
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()

    with pytest.raises(UsageError, match="is a database of another program"):
        AnswerCache(path)


def test_a_cache_of_a_later_version_is_refused(path: Path) -> None:
    """It says so, and does not guess."""
    AnswerCache(path).close()
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version=99")
    later.close()

    with pytest.raises(UsageError, match="a later version of llmbatch"):
        AnswerCache(path)


@pytest.mark.parametrize("what", ["folder", "missing folder"])
def test_a_path_that_can_be_no_file_is_refused(tmp_path: Path, what: str) -> None:
    """Before anything is sent."""
    path = tmp_path if what == "folder" else tmp_path / "none" / "a.db"

    with pytest.raises(UsageError, match="the cache cannot be used"):
        AnswerCache(path)


def test_a_file_that_cannot_be_read_any_more_is_told_and_nothing_raises(path: Path) -> None:
    """The run goes on without it."""
    cache = AnswerCache(path)
    cache.put(b"k", b"v")
    cache.close()
    cache = AnswerCache(path)
    path.write_bytes(b"broken" * 10_000)

    assert cache.get(b"k") in (None, b"v")
    cache.put(b"n", b"v")
    cache.close()


@pytest.mark.slow  # waits for the time of a file
@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
@pytest.mark.parametrize("deed", ["delete before", "delete after", "replace"])
def test_a_file_that_was_deleted_kept_answers_for_nobody(path: Path, deed: str) -> None:
    """It is told, and no empty file takes its place."""
    cache = AnswerCache(path)
    if deed != "delete before":
        cache.put(b"k", b"v")
        while cache._unwritten:  # until its thread has committed it
            pass
    path.unlink()
    if deed == "replace":
        path.write_bytes(b"theirs")
    cache.put(b"n", b"v")
    cache.close()

    assert cache.fault == "the file was deleted or replaced during the run"
    assert not path.exists() if deed != "replace" else path.read_bytes() == b"theirs"


def test_a_file_that_another_process_keeps_locked_held_up_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For up to a minute; now for a moment, and it is told."""
    monkeypatch.setattr(answer_cache, "CLOSE_SECONDS", 0.01)
    cache = AnswerCache(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    cache.put(b"k", b"v")

    cache.close()

    assert cache.fault == "another process keeps the file locked"
    other.execute("ROLLBACK")
    other.close()


@pytest.mark.slow  # three processes
def test_processes_share_one_file_at_the_same_time(path: Path) -> None:
    """All of their answers are in it."""
    writers = [subprocess.Popen([sys.executable, "-c", FILL, str(path), "close"]) for _ in range(3)]

    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    cache = AnswerCache(path)
    assert [cache.get(b"%d" % number) for number in (0, 1999)] == [b"answer 0", b"answer 1999"]
    cache.close()


@pytest.mark.slow  # a process
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_kill_leaves_a_whole_file(path: Path) -> None:
    """With what was committed until then."""
    writer = subprocess.Popen(
        [sys.executable, "-c", FILL, str(path), "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    os.kill(writer.pid, 9)
    writer.communicate(timeout=60)

    cache = AnswerCache(path)
    assert cache.get(b"0") in (None, b"answer 0")
    cache.put(b"after", b"fine")
    cache.close()
    (integrity,) = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()
    assert integrity == "ok"


def test_answers_of_one_moment_are_committed_together(path: Path) -> None:
    AnswerCache(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON answers WHEN NEW.key = x'02' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    connection.close()
    cache = AnswerCache(path)
    cache.put(b"\x01", b"good")
    cache.put(b"\x02", b"refused")
    cache.close()
    assert cache.fault
    with sqlite3.connect(path) as kept:
        assert kept.execute("SELECT count(*) FROM answers").fetchone() == (0,)
    kept.close()
