"""The lock of an output: who holds it, and what opening says if it cannot be had."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from failing_disk import failing

from llmbatch.core.errors import OutputError
from llmbatch.outputs.lock import Unlocked, holds_lock, open_locked
from llmbatch.storage.filesystem import Filesystem


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "o.jsonl")


def test_a_file_that_may_not_be_written_says_who_may(path: str) -> None:
    """The hint shows the rights of the file and of its directory."""
    with pytest.raises(OutputError, match="no permission to write it") as caught:
        open_locked(path, "o.jsonl", failing(open=errno.EACCES))

    assert f"ls -ld {Path(path).parent} {path}" in caught.value.hint


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
def test_a_file_system_that_cannot_append_is_told_from_a_wrong_path(path: str, number: int) -> None:
    """Mounts of object stores refuse in either way."""
    with pytest.raises(OutputError, match="its file system cannot append to files") as caught:
        open_locked(path, "o.jsonl", failing(open=number))

    assert "write to a local disk (-o)" in caught.value.hint


def test_a_path_that_cannot_be_opened_for_another_reason_names_it(path: str) -> None:
    """In the system's words, or in Python's."""
    with pytest.raises(OutputError, match=r"cannot be opened \(Too many open files\)"):
        open_locked(path, "o.jsonl", failing(open=errno.EMFILE))
    with pytest.raises(OutputError, match=r"cannot be opened .*embedded null"):
        open_locked(f"{path}\0", "o.jsonl")


def test_a_file_system_without_locks_names_the_way_without(path: str) -> None:
    """With what it costs; without its lock a second run is not refused."""
    with pytest.raises(OutputError, match=r"cannot be locked \(No locks available\)") as caught:
        open_locked(path, "o.jsonl", failing(lock=errno.ENOLCK))

    assert "--lock off" in caught.value.hint
    disk = Unlocked(failing(lock=errno.ENOLCK))
    for fd in [open_locked(path, "o.jsonl", disk) for _ in range(2)]:
        os.close(fd)


def test_a_directory_that_cannot_even_be_opened_is_called_one(tmp_path: Path) -> None:
    """As Windows refuses it: for want of permission."""
    with pytest.raises(OutputError, match="is a directory"):
        open_locked(str(tmp_path), "o", failing(open=errno.EACCES))


def test_a_file_that_vanishes_between_opening_and_locking_is_opened_anew(path: str) -> None:
    """The lock would be on a file that nobody finds."""

    class Vanishing(Filesystem):
        locks = 0

        def lock(self, fd: int) -> None:
            self.locks += 1
            if self.locks == 1:
                self.unlink(path)
            super().lock(fd)

    disk = Vanishing()
    fd = open_locked(path, "o.jsonl", disk)

    assert disk.locks == 2
    assert os.path.samestat(os.fstat(fd), Path(path).stat())
    os.close(fd)


def test_the_holder_is_named_where_the_system_lists_locks(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not, the message does without."""
    fd = open_locked(path, "o.jsonl")
    assert holds_lock(os.getpid())
    with pytest.raises(OutputError, match=rf"in use by another run \(pid {os.getpid()}\)"):
        open_locked(path, "o.jsonl")

    without_list(monkeypatch)

    with pytest.raises(OutputError, match=r"in use by another run\n"):
        open_locked(path, "o.jsonl")
    os.close(fd)


def test_without_a_list_of_locks_a_process_that_lives_counts_as_a_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also another user's; on Windows nobody can rename the file of a run, and nothing is asked."""
    without_list(monkeypatch)
    assert holds_lock(os.getpid())
    assert not holds_lock(2**22 + 1)  # above the highest number of a process

    def forbidden(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "kill", forbidden)
    assert holds_lock(1)
    monkeypatch.setattr(sys, "platform", "win32")
    assert not holds_lock(1)


def without_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems without /proc/locks."""

    def missing(self: Path, **_: object) -> str:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(Path, "read_text", missing)
